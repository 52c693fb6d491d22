"""Feeds without sockets: a real engine's frames in, the classic messages of each client out."""

from decimal import Decimal
from random import Random
from typing import Any

import msgspec
import pytest

from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, Side, State, compose_id
from exchange.errors import WireError
from exchange.limits import FEED_SUBSCRIPTIONS_MAX
from exchange.wire import decode_frame_head, encode
from marketdata.core.candles import MINUTE_NS
from marketdata.core.depth import checksum
from marketdata.core.fanout import Client
from marketdata.feeds import Feeds
from tests.marketdata.venue import AAPL, START_NS, Venue, instrument, map_of, read_frames, units

BTC = instrument(1, "BTC", quantity_decimals=8)


class Stage:
    """Feeds of one venue, and clients whose inbox is emptied at will."""

    def __init__(self, venue: Venue | None = None) -> None:
        self.venue = venue or Venue(AAPL, BTC)
        self.feeds = Feeds()
        self.feeds.on_map(map_of(self.venue))
        self.shown = 0
        self.catch_up()
        self.feeds.on_liveness("s0", True, START_NS)

    def catch_up(self) -> None:
        """Hand over every frame committed since the last time."""
        for frame in self.venue.frames[self.shown :]:
            self.feeds.on_frame("s0", decode_frame_head(frame))
        self.shown = len(self.venue.frames)

    def image(self, *trades: m.TradeRow) -> None:
        """Everything anew, as the shard sends it to somebody who is too late for its ring."""
        image = msgspec.structs.replace(
            decode_frame_head(self.venue.engine.image()), trades=msgspec.Raw(encode(list(trades)))
        )
        self.feeds.on_image("s0", image)
        self.shown = len(self.venue.frames)

    def client(self, *feeds: str, symbol: str = "AAPL", **more: Any) -> Client:
        """A client that has subscribed; its first messages are still waiting."""
        client = self.feeds.fanout.join()
        self.say(client, action="subscribe", symbol=symbol, feed_types=list(feeds), **more)
        return client

    def say(self, client: Client, **message: Any) -> None:
        self.feeds.on_request(client, msgspec.json.encode(message).decode(), self.venue.ts_ns)

    def inbox(self, client: Client) -> list[dict[str, Any]]:
        """One round; what this client got."""
        self.feeds.render(self.venue.ts_ns)
        self.feeds.fanout.spread()
        return read_frames(self.feeds.fanout.take(client)) if client in self.feeds.fanout.waiting() else []

    def types(self, client: Client) -> list[str]:
        return [message["type"] for message in self.inbox(client)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_trade_and_the_book_after_it_as_documented(stage: Stage) -> None:
    client = stage.client("trades", "level2")
    stage.inbox(client)
    stage.venue.sell(15_026, 200)
    stage.venue.buy(15_020, 300)
    stage.venue.buy(15_026, 50)
    stage.catch_up()
    at = stage.venue.ts_ns
    assert stage.inbox(client) == [
        {
            "type": "trade",
            "symbol": "AAPL",
            "price": Decimal("150.26"),
            "quantity": 50,
            "timestamp": at,
            "side": "BUY",
            "trade_id": f"TRD-{compose_id(0, 1)}",
            "epoch": 1,
            "seq": stage.venue.seq,
        },
        {
            "type": "level2_update",
            "symbol": "AAPL",
            "bids": [[Decimal("150.2"), 300]],
            "asks": [[Decimal("150.26"), 150]],
            "timestamp": at,
            "epoch": 1,
            "seq": stage.venue.seq,
        },
    ]


def test_the_answer_to_subscribe_is_followed_at_once_by_the_full_state_of_each_feed(stage: Stage) -> None:
    stage.venue.buy(15_020, 300)
    stage.catch_up()
    client = stage.client("trades", "status", "candles", "ticker", "book", "level2")
    answer, level2, book, ticker, status, candles = stage.inbox(client)
    assert answer["type"] == "subscribed"
    assert answer["feed_types"] == ["trades", "status", "candles", "ticker", "book", "level2"]
    assert (answer["price_decimals"], answer["quantity_decimals"]) == (2, 0)
    assert (level2["type"], level2["bids"]) == ("level2_update", [[Decimal("150.2"), 300]])
    assert (book["type"], book["bids"], book["seq"]) == ("book_snapshot", [[Decimal("150.2"), 300]], stage.venue.seq)
    assert (ticker["bid"], ticker["bid_quantity"], ticker["ask"], ticker["last"]) == (Decimal("150.2"), 300, None, None)
    assert (status["state"], status["reason"]) == ("OPEN", "")
    assert (candles["interval"], candles["candles"]) == ("1m", [])


def test_level2_is_the_top_ten_and_silent_below(stage: Stage) -> None:
    client = stage.client("level2")
    stage.inbox(client)
    for step in range(12):
        stage.venue.buy(15_000 - step, 10 + step)
    stage.catch_up()
    (update,) = stage.inbox(client)
    assert units(update["bids"]) == [(15_000 - step, 10 + step) for step in range(10)]
    stage.venue.buy(14_000, 5)
    stage.catch_up()
    assert stage.inbox(client) == []


def test_both_names_of_an_instrument_are_understood_and_the_classic_one_answers(stage: Stage) -> None:
    client = stage.client("level2", symbol="AAPLUSD")
    assert {message["symbol"] for message in stage.inbox(client)} == {"AAPL"}


def test_a_second_quote_currency_keeps_its_full_name() -> None:
    euro = instrument(2, "AAPL", quote="EUR")
    stage = Stage(Venue(AAPL, euro))
    client = stage.client("level2", symbol="AAPLEUR")
    assert {message["symbol"] for message in stage.inbox(client)} == {"AAPLEUR"}


def test_small_quantities_are_exact(stage: Stage) -> None:
    client = stage.client("level2", symbol="BTC")
    stage.inbox(client)
    stage.venue.buy(6_500_001, 1, index=1)
    stage.catch_up()
    (update,) = stage.inbox(client)
    assert update["bids"] == [[Decimal("65000.01"), Decimal("0.00000001")]]


def test_a_client_rebuilds_the_book_from_snapshot_and_updates_over_a_random_flow(stage: Stage) -> None:
    dice = Random(7)
    clients = [stage.client("book")]
    books = {clients[0].number: Replica(stage.inbox(clients[0])[1])}
    for step in range(300):
        side = dice.choice([Side.BUY, Side.SELL])
        price = 10_000 + dice.randrange(-15, 15)
        stage.venue.execute(*[stage.venue.order(side, price, dice.randint(1, 9)) for _ in range(dice.randint(1, 3))])
        if dice.random() < 0.2:
            stage.venue.execute(m.MassCancel("alice", 0))
        stage.catch_up()
        if step == 100:
            clients.append(stage.client("book"))
            books[clients[1].number] = Replica(stage.inbox(clients[1])[1])
        if step == 200:
            stage.say(clients[0], action="snapshot", symbol="AAPL")
        if dice.random() < 0.4:
            for client in clients:
                for message in stage.inbox(client):
                    books[client.number].take(message)
                assert books[client.number].levels() == stage.venue.levels()


class Replica:
    """What docs/FEEDS.md tells a client to do."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        assert snapshot["type"] == "book_snapshot"
        self.seq = -1
        self.take(snapshot)

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "book_snapshot":
            self.bids, self.asks = dict(units(message["bids"])), dict(units(message["asks"]))
        else:
            assert message["type"] == "book_update"
            assert message["prev_seq"] == self.seq
            self.bids.update(units(message["bids"]))
            self.asks.update(units(message["asks"]))
        self.seq = message["seq"]
        bids, asks = self.levels()
        assert message["checksum"] == checksum(bids[:10], asks[:10])

    def levels(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        bids = sorted([level for level in self.bids.items() if level[1]], reverse=True)
        return bids, sorted(level for level in self.asks.items() if level[1])


def test_an_image_replaces_the_book_and_hands_on_the_trades_that_were_missed(stage: Stage) -> None:
    stage.venue.sell(15_030, 100)
    stage.venue.buy(15_030, 1)
    stage.catch_up()
    client = stage.client("book", "trades", "level2")
    stage.inbox(client)
    heads = [stage.venue.buy(15_030, 2), stage.venue.buy(15_030, 3)]
    stage.venue.buy(15_000, 7)
    rows = [row for head in heads for row in msgspec.msgpack.decode(head.trades, type=list[m.TradeRow])]
    stage.image(*rows)
    first, second, snapshot, level2 = stage.inbox(client)
    assert [(first["quantity"], second["quantity"])] == [(2, 3)]
    assert snapshot["type"] == "book_snapshot"
    assert units(snapshot["bids"]) == units(level2["bids"]) == [(15_000, 7)]
    assert units(snapshot["asks"]) == units(level2["asks"]) == [(15_030, 94)]
    stage.venue.buy(15_001, 1)
    stage.catch_up()
    update = stage.inbox(client)[0]
    assert (update["type"], update["prev_seq"]) == ("book_update", snapshot["seq"])


def test_trades_that_even_the_image_lacks_are_told_as_a_gap(stage: Stage) -> None:
    stage.venue.sell(15_030, 100)
    stage.venue.buy(15_030, 1)
    stage.catch_up()
    client = stage.client("trades")
    stage.inbox(client)
    stage.venue.buy(15_030, 2)
    stage.venue.buy(15_030, 3)
    stage.image()
    assert stage.inbox(client) == []
    stage.venue.buy(15_030, 4)
    stage.catch_up()
    notice, trade = stage.inbox(client)
    assert (notice["type"], notice["mode"], notice["missing"]) == ("notice", "gap", 2)
    assert trade["quantity"] == 4


def test_a_shorter_history_restarts_trades_and_candles(stage: Stage) -> None:
    stage.venue.sell(15_030, 100)
    for _ in range(5):
        stage.venue.buy(15_030, 1)
    stage.catch_up()
    stage.venue = Venue(AAPL, BTC)
    stage.image()
    client = stage.client("trades", "candles", after_seq=0)
    answer, candles = stage.inbox(client)
    assert not answer["trades_complete"]
    assert candles["candles"] == []


def test_trades_after_a_sequence_are_replayed_before_new_ones(stage: Stage) -> None:
    stage.venue.sell(15_030, 100)
    seqs = [stage.venue.buy(15_030, quantity).last_seq for quantity in (1, 2, 3)]
    stage.catch_up()
    client = stage.client("trades", after_seq=seqs[0])
    stage.venue.buy(15_030, 4)
    stage.catch_up()
    answer, *trades = stage.inbox(client)
    assert answer["trades_complete"]
    assert [trade["quantity"] for trade in trades] == [2, 3, 4]


def test_ticker_shows_the_day(stage: Stage) -> None:
    client = stage.client("ticker")
    stage.inbox(client)
    stage.venue.sell(15_030, 100)
    stage.venue.sell(15_040, 100)
    stage.venue.buy(15_040, 150)
    stage.venue.buy(15_010, 5)
    stage.venue.sell(15_010, 2)
    stage.catch_up()
    (ticker,) = stage.inbox(client)
    assert {key: ticker[key] for key in ("last", "open", "high", "low")} == {
        "last": Decimal("150.1"),
        "open": Decimal("150.3"),
        "high": Decimal("150.4"),
        "low": Decimal("150.1"),
    }
    assert (ticker["volume"], ticker["trades"], ticker["bid_quantity"], ticker["ask"]) == (152, 3, 3, Decimal("150.4"))


def test_a_candle_is_shown_while_it_runs_and_once_when_it_is_over(stage: Stage) -> None:
    client = stage.client("candles", "candles_5m")
    stage.inbox(client)
    stage.venue.sell(15_030, 100)
    stage.venue.buy(15_030, 4)
    stage.catch_up()
    stage.feeds.on_second(stage.venue.ts_ns)
    running = candles_of(stage.inbox(client))
    stage.feeds.on_second(stage.venue.ts_ns)
    assert candles_of(stage.inbox(client)) == []
    stage.venue.execute(stage.venue.order(Side.BUY, 15_030, 6), after_ns=MINUTE_NS)
    stage.catch_up()
    stage.feeds.on_second(stage.venue.ts_ns)
    late = candles_of(stage.inbox(client))
    stage.feeds.on_second(stage.venue.ts_ns + 5 * MINUTE_NS)
    ended = candles_of(stage.inbox(client))
    stage.feeds.on_second(stage.venue.ts_ns + 6 * MINUTE_NS)
    assert candles_of(stage.inbox(client)) == []
    assert running == [("1m", 0, 4, False), ("5m", 0, 4, False)]
    assert late == [("1m", 0, 4, True), ("1m", 1, 6, False), ("5m", 0, 10, False)]
    assert ended == [("1m", 1, 6, True), ("5m", 0, 10, True)]


def candles_of(messages: list[dict[str, Any]]) -> list[tuple[str, int, int, bool]]:
    """(interval, start in minutes since the test began, volume, closed) of the candle messages."""
    return [
        (one["interval"], (one["start"] - START_NS) // MINUTE_NS, one["volume"], one["closed"])
        for one in messages
        if one["type"] == "candle"
    ]


def test_status_follows_trading_states_and_the_liveness_of_the_stream(stage: Stage) -> None:
    client = stage.client("status")
    assert stage.inbox(client)[1]["state"] == "OPEN"
    stage.venue.execute(m.SetState(ALL_INSTRUMENTS, State.HALT, "operator"))
    stage.catch_up()
    stage.feeds.on_liveness("s0", False, START_NS)
    stage.feeds.on_liveness("s0", False, START_NS)
    stage.feeds.on_liveness("s0", True, START_NS)
    states = [(one["state"], one["reason"]) for one in stage.inbox(client)]
    assert states == [
        ("HALT", "operator"),
        ("STALE", "event stream of shard s0 is not live"),
        ("HALT", "operator"),
    ]


def test_unsubscribed_feeds_are_silent_and_leave_nothing_behind(stage: Stage) -> None:
    client = stage.client("trades", "level2", "book", "ticker", "candles", "status")
    stage.inbox(client)
    stage.say(client, action="unsubscribe", symbol="AAPL", feed_types=["trades", "level2", "candles"])
    assert stage.inbox(client)[0]["feed_types"] == ["trades", "level2", "candles"]
    stage.venue.sell(15_030, 10)
    stage.catch_up()
    assert sorted(stage.types(client)) == ["book_update", "ticker"]
    stage.say(client, action="unsubscribe", symbol="AAPL")
    assert sorted(stage.inbox(client)[0]["feed_types"]) == ["book", "status", "ticker"]
    stage.venue.sell(15_030, 10)
    stage.catch_up()
    assert stage.inbox(client) == []
    assert stage.feeds.fanout.channels == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "BAD_REQUEST"),
        ("[]", "BAD_REQUEST"),
        ("{" * 4_000, "BAD_REQUEST"),
        ("[" * 4_000, "BAD_REQUEST"),
        ('{"action":"subscribe"}', "BAD_REQUEST"),
        ('{"action":"buy","symbol":"AAPL"}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"AAPL","feed_types":["level3"]}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"AAPL","feed_types":[]}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"AAPL","feed_types":"trades"}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"AAPL","feed_types":["trades"],"depth":5}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"AAPL","feed_types":["trades"],"after_seq":-1}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"AAPL","feed_types":["trades"],"after_seq":1e400}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"AAPL","feed_types":["level2"],"after_seq":1}', "BAD_REQUEST"),
        ('{"action":"subscribe","symbol":"\\u0000\\ud83d\\ude00","feed_types":["trades"]}', "UNKNOWN_SYMBOL"),
        ('{"action":"subscribe","symbol":"MSFT","feed_types":["trades"]}', "UNKNOWN_SYMBOL"),
        ('{"action":"snapshot","symbol":"AAPL"}', "NOT_SUBSCRIBED"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason_and_has_no_effect(stage: Stage, text: str, reason: str) -> None:
    client = stage.feeds.fanout.join()
    stage.feeds.on_request(client, text, START_NS)
    (answer,) = stage.inbox(client)
    assert (answer["type"], answer["reason"]) == ("error", reason)
    assert len(answer["error"]) <= 200
    assert client.channels == {}


def test_one_client_may_hold_so_many_subscriptions_and_no_more() -> None:
    venue = Venue(*[instrument(index, f"S{index}") for index in range(20)])
    stage = Stage(venue)
    client = stage.feeds.fanout.join()
    feeds = ["trades", "level2", "ticker"]
    for index in range(FEED_SUBSCRIPTIONS_MAX // len(feeds) + 1):
        stage.say(client, action="subscribe", symbol=f"S{index}", feed_types=feeds)
    refused = [one for one in stage.inbox(client) if one["type"] == "error"]
    assert [one["reason"] for one in refused] == ["TOO_MANY_SUBSCRIPTIONS"]
    assert len(client.channels) == FEED_SUBSCRIPTIONS_MAX // len(feeds) * len(feeds)


@pytest.mark.parametrize(
    ("section", "rows"),
    [
        ("levels", [[0, 2, 100, 5, 1]]),
        ("levels", [[-1, 0, 100, 5, 1]]),
        ("levels", [[0, 0, 100, -5, 1]]),
        ("levels", [[0, 0, "100", 5, 1]]),
        ("trades", [[1, 0, -1, 100, 5, 0]]),
        ("trades", "no list"),
        ("states", [[1, 0, 0, 9, "x"]]),
    ],
)
def test_a_malformed_frame_is_refused_as_a_whole(stage: Stage, section: str, rows: Any) -> None:
    stage.venue.buy(15_000, 5)
    head = decode_frame_head(stage.venue.frames[-1])
    broken = msgspec.structs.replace(head, **{section: msgspec.Raw(msgspec.msgpack.encode(rows))})
    before = stage.feeds.answer(m.AskBook(1, 0, 10), START_NS)
    with pytest.raises(WireError):
        stage.feeds.on_frame("s0", broken)
    with pytest.raises(WireError):
        stage.feeds.on_image("s0", broken)
    assert stage.feeds.answer(m.AskBook(1, 0, 10), START_NS) == before


def test_gateways_get_depth_and_trades_with_their_position(stage: Stage) -> None:
    stage.venue.sell(15_030, 10)
    stage.venue.buy(15_030, 4)
    stage.venue.buy(15_000, 9)
    traded = stage.venue.sell(15_000, 1)
    stage.catch_up()
    later = START_NS + 2_000_000_000
    book = stage.feeds.answer(m.AskBook(7, 0, 5), later)
    at = stage.venue.ts_ns
    assert book == m.Book(7, 0, [(15_000, 8)], [(15_030, 6)], 1, stage.venue.seq, at, 2_000, True)
    trades = stage.feeds.answer(m.AskTrades(8, 0, 1), later)
    only = m.PublicTrade(compose_id(0, 2), 15_000, 1, Side.SELL, at, 1, traded.last_seq)
    assert trades == m.Trades(8, 0, [only], True)
    stage.feeds.on_liveness("s0", False, later)
    stale = stage.feeds.answer(m.AskBook(9, 0, 5), later)
    assert isinstance(stale, m.Book)
    assert not stale.live


@pytest.mark.parametrize(
    "question", [m.AskBook(3, 55, 5), m.AskTrades(3, 55, 5), m.AskBook(3, 0, 0), m.AskTrades(3, 0, -1)]
)
def test_what_a_gateway_cannot_get_is_answered_with_the_rule(stage: Stage, question: m.MarketInbound) -> None:
    answer = stage.feeds.answer(question, START_NS)
    assert isinstance(answer, m.NotServed)
    assert answer.request == 3
