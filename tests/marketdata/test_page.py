"""docs/FEEDS.md shows messages as they are sent: the same keys in the same order, checksums that are right."""

import re
from pathlib import Path
from typing import Any

from exchange import messages as m
from exchange.domain import Side, State
from marketdata import classic
from marketdata.core.depth import checksum
from tests.marketdata.test_feeds import Stage
from tests.marketdata.venue import START_NS, read, read_frames, units

PAGE = Path(__file__).parents[2] / "docs" / "FEEDS.md"


def examples() -> list[dict[str, Any]]:
    """Every message with a type that the page shows in a block of its own or in the text, without those cut by "…"."""
    text = re.sub(r"\n (?=\")", " ", PAGE.read_text())
    found = re.findall(r'\{"type": [^{}\n]*\}', text)
    return [read(one) for one in found if "…" not in one]


def sent() -> dict[str, list[str]]:
    """Keys of each type of message, from a daemon's life."""
    stage = Stage()
    client = stage.client("trades", "level2", "book", "ticker", "candles", "status")
    stage.venue.sell(15_030, 10)
    stage.venue.execute(*[stage.venue.order(Side.BUY, 15_030, 1) for _ in range(3)])
    stage.catch_up()
    stage.feeds.on_second(stage.venue.ts_ns)
    messages = stage.inbox(client)
    stage.venue.buy(15_030, 1)
    stage.image()
    stage.venue.buy(15_030, 1)
    stage.venue.execute(m.SetState(0, State.HALT, "operator"))
    stage.catch_up()
    messages += stage.inbox(client)
    stage.say(client, action="unsubscribe", symbol="AAPL")
    messages += stage.inbox(client)
    messages += read_frames(classic.error("x", "y") + classic.server_shutdown(START_NS))
    return {message["type"]: list(message) for message in messages}


def test_every_example_has_the_keys_of_the_message() -> None:
    keys = sent()
    shown = examples()
    assert [list(one) for one in shown] == [keys[one["type"]] for one in shown]


def test_every_type_of_message_is_on_the_page() -> None:
    page = PAGE.read_text()
    assert [type_ for type_ in sent() if f"`{type_}`" not in page and f'"type": "{type_}"' not in page] == []


def test_the_checksums_on_the_page_are_right() -> None:
    snapshot, update = (one for one in examples() if "checksum" in one)
    bids, asks = dict(units(snapshot["bids"])), dict(units(snapshot["asks"]))
    assert checksum(sorted(bids.items(), reverse=True), sorted(asks.items())) == snapshot["checksum"]
    bids.update(units(update["bids"]))
    asks.update(units(update["asks"]))
    assert checksum(sorted(bids.items(), reverse=True), sorted(asks.items())) == update["checksum"]
    assert update["prev_seq"] == snapshot["seq"]


def test_the_requests_on_the_page_are_understood() -> None:
    requests = re.findall(r'→ (\{"action".*\})', PAGE.read_text())
    assert [classic.parse(request).action for request in requests] == ["subscribe"]
