"""Order-flow files through a gateway into a live cluster: the trades are those of the file, whoever looks."""

import asyncio
import csv
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from shardex.client import Login, Rest
from shardex.engine import Session
from shardex.launcher import Running
from shardex.orderflow import FlowError
from shardex.replay import ReplayError, Summary, Trade, replay

BITSTAMP = Path(__file__).resolve().parents[3] / "shared" / "data" / "bitstamp_btcusd"
SYMBOL = "BTCUSD"
SATOSHI = Decimal("0.00000001")
Line = dict[str, Any]


class ServedTrade(msgspec.Struct):
    price: Decimal
    quantity: Decimal


class Served(msgspec.Struct):
    """GET /api/trades, newest first."""

    trades: list[ServedTrade]


class Tape:
    """The trades feed of one symbol, from its confirmed subscription on: (price, quantity) in units."""

    def __init__(self, url: str) -> None:
        self.trades: list[tuple[int, int]] = []
        self._url = url
        self._session = aiohttp.ClientSession()

    async def __aenter__(self) -> "Tape":
        self._socket = await self._session.ws_connect(self._url, max_msg_size=0)
        await self._socket.send_json({"action": "subscribe", "symbol": SYMBOL, "feed_types": ["trades"]})
        assert (await self._socket.receive_json(timeout=10))["type"] == "subscribed"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        await self._session.close()

    async def wait_for(self, count: int) -> list[tuple[int, int]]:
        """Read until so many trades were seen."""
        async with asyncio.timeout(20):
            while len(self.trades) < count:
                message = json.loads(await self._socket.receive_str(), parse_float=Decimal, parse_int=Decimal)
                if message["type"] == "trade":
                    self.trades.append((int(message["price"]), int(message["quantity"] / SATOSHI)))
        return self.trades


async def run(cluster: Running, path: Path, *, account: str = "replay") -> tuple[Summary, list[Trade]]:
    return await replay(
        cluster.config, path, symbol=SYMBOL, account=account, progress=lambda done, total: None, makers=True
    )


async def forget(cluster: Running, *accounts: str) -> None:
    """Leave nothing of these accounts in the books."""
    for account in accounts:
        async with Rest(cluster.rest_url, Login(account)) as rest:
            await rest.cancel_all()


def as_reference(lines: list[Line]) -> list[Trade]:
    """What the engine alone makes of the same file."""
    out = Session(reference=True).feed("".join(f"{json.dumps(line)}\n" for line in lines).encode())
    events = [json.loads(line) for line in out.splitlines()]
    return [Trade(e["taker"], e["maker"], e["px"], e["qty"]) for e in events if e["event"] == "trade"]


@pytest.fixture
def flow_file(tmp_path: Path) -> Callable[[list[Line]], Path]:
    def write(lines: list[Line]) -> Path:
        path = tmp_path / "flow.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return path

    return write


@pytest.mark.skipif(not BITSTAMP.is_dir(), reason=f"REAL ORDER FLOW NOT TESTED: {BITSTAMP} does not exist")
async def test_half_an_hour_of_a_real_venue_gives_its_284_trades_to_everybody(cluster: Running) -> None:
    with (BITSTAMP / "ref_trades.csv").open(newline="") as rows:
        expected = [
            Trade(int(row["taker_id"]), int(row["maker_id"]), int(row["px"]), int(row["qty"]))
            for row in csv.DictReader(rows)
        ]

    async with Tape(cluster.feed_url) as tape:
        summary, trades = await run(cluster, BITSTAMP / "commands.jsonl.xz")
        seen = await tape.wait_for(len(expected))
    async with Rest(cluster.rest_url, Login("replay")) as rest:
        answer = await rest.call("GET", f"/api/trades/{SYMBOL}", Served, query={"limit": 1000})

    assert trades == expected
    assert seen == [(trade.px, trade.qty) for trade in expected]
    served = [(trade.price, trade.quantity / SATOSHI) for trade in reversed(answer.trades)]
    assert served == [(trade.px, trade.qty) for trade in expected]
    assert (summary.commands, summary.accepted, summary.rejected) == (112_434, 112_434, 0)
    assert (summary.trades, summary.book_was_empty) == (284, True)
    await forget(cluster, "replay")


async def test_every_kind_of_command_does_what_the_engine_alone_does(
    cluster: Running, flow_file: Callable[[list[Line]], Path]
) -> None:
    random_ = random.Random(7)
    lines: list[Line] = []
    for id_ in range(1, 1_500):
        order = {
            "id": id_,
            "side": random_.choice("BS"),
            "px": random_.randint(990, 1_010),
            "qty": random_.randint(1, 50),
        }
        target = random_.randint(1, id_)
        lines.append(
            random_.choice(
                [
                    {"op": "new", **order},
                    {"op": "new", **order, "account": random_.choice(["alice", "bob"])},
                    {"op": random_.choice(["ioc", "fok", "post_only"]), **order},
                    {"op": "market", "id": id_, "side": order["side"], "qty": order["qty"]},
                    {"op": "cancel", "id": target},
                    {"op": "reduce", "id": target, "qty": random_.randint(1, 20)},
                    {"op": "replace", "id": target, "px": order["px"], "qty": order["qty"]},
                ]
            )
        )
    lines[700:700] = [{"op": "halt"}]
    lines[720:720] = [{"op": "resume"}]

    summary, trades = await run(cluster, flow_file(lines))

    assert trades == as_reference(lines)
    assert len(trades) > 300
    assert summary.commands == len(lines)
    assert summary.reasons["HALT"] > 0
    await forget(cluster, "replay", "alice", "bob")


async def test_a_second_replay_begins_with_the_book_that_the_first_found(
    cluster: Running, flow_file: Callable[[list[Line]], Path]
) -> None:
    path = flow_file(
        [
            {"op": "new", "id": 1, "side": "S", "px": 500, "qty": 10},
            {"op": "new", "id": 2, "side": "S", "px": 500, "qty": 10},
            {"op": "ioc", "id": 3, "side": "B", "px": 500, "qty": 15},
        ]
    )
    for _ in range(2):
        summary, trades = await run(cluster, path)
        assert summary.book_was_empty
        assert trades == [Trade(3, 1, 500, 10), Trade(3, 2, 500, 5)]
    await forget(cluster, "replay")


async def test_a_book_with_orders_of_others_is_told_and_trading_with_them_is_an_error(
    cluster: Running, flow_file: Callable[[list[Line]], Path]
) -> None:
    await run(cluster, flow_file([{"op": "new", "id": 1, "side": "S", "px": 500, "qty": 10}]), account="other")

    summary, _ = await run(cluster, flow_file([{"op": "cancel", "id": 9}]))
    assert not summary.book_was_empty
    assert summary.reasons == {"UNKNOWN_ORDER": 1}
    with pytest.raises(ReplayError, match="1 trades, the first with id 2, met orders of others"):
        await run(cluster, flow_file([{"op": "ioc", "id": 2, "side": "B", "px": 500, "qty": 1}]))
    await forget(cluster, "replay", "other")


async def test_a_fault_in_the_last_line_sends_nothing(cluster: Running, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"op":"new","id":1,"side":"S","px":500,"qty":10}\n{"op":"new","id":2,"side":"X","px":1,"qty":1}\n')
    with pytest.raises(FlowError, match=r"bad\.jsonl line 2: .*side"):
        await run(cluster, path)
    async with Rest(cluster.rest_url, Login("replay")) as rest:
        assert await rest.open_orders() == []


async def test_a_symbol_that_the_cluster_does_not_have_sends_nothing(
    cluster: Running, flow_file: Callable[[list[Line]], Path]
) -> None:
    lines = [
        {"op": "new", "id": 1, "side": "S", "px": 500, "qty": 10},
        {"op": "new", "id": 2, "side": "S", "px": 500, "qty": 10, "symbol": "NOPE"},
    ]
    with pytest.raises(FlowError, match=r"command 2: symbol 'NOPE' is not one of AAPL, "):
        await run(cluster, flow_file(lines))
    async with Rest(cluster.rest_url, Login("replay")) as rest:
        assert await rest.open_orders() == []
