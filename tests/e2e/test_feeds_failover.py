"""A shard changes hands while people listen: feeds and executions go on over the same sockets, whole and only forward.

Two accounts trade with each other without a pause and find out what came of every order. Listeners never ask anything
twice: they keep what docs/FEEDS.md and docs/API.md let them keep, and fail at the first message that does not fit.
"""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, NamedTuple

import aiohttp
import pytest

from exchange.errors import Unavailable
from shardex import status
from shardex.launcher import Running
from shardex.status import ShardRow
from tests.e2e.conftest import StartCluster

SYMBOL = "AAPL"
FEEDS = ["trades", "level2", "book", "ticker", "candles", "status"]
PATIENCE_MS = {"ann": 30_000, "bob": 50}
"""Deadline of an account's orders: ann sits out every change of hands, bob asks afterwards what came of his order."""
AT_ONCE = 4
"""Orders that an account has under way."""
RESTING_MAX = 20
"""Whoever has more orders in the book takes back the oldest."""
TRADES_A_TERM = 100
BOUND_S = 60
Message = dict[str, Any]
Levels = list[list[Decimal]]


class Deal(NamedTuple):
    """A trade as all must see it; `side` is the aggressor's."""

    number: int
    price: Decimal
    quantity: Decimal
    side: str
    epoch: int
    seq: int


def deal_of(trade: Message, side: str, place: Message) -> Deal:
    """A trade of any message; `place` has its epoch and seq."""
    number = int(trade["trade_id"].removeprefix("TRD-"))
    return Deal(number, trade["price"], trade["quantity"], side, place["epoch"], place["seq"])


def read(text: str) -> Message:
    """One JSON message, its numbers exact."""
    message: Message = json.loads(text, parse_float=Decimal)
    return message


@pytest.fixture
def cluster(start_cluster: StartCluster) -> Running:
    """One shard of two nodes; one that is stopped, or silent on a busy machine, is not left out for that."""
    return start_cluster(shards=1, replicas=2, overrides={"replication": {"suspect_ms": 30_000, "shrink_ms": 30_000}})


class Listener:
    """One socket and what it says."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def listen(self) -> None:
        """Take messages until cancelled: the other side must not close."""
        async for received in self.socket:
            assert received.type is aiohttp.WSMsgType.TEXT, received
            self.take(read(received.data))
        raise AssertionError(f"{type(self).__name__} was cut off: {self.socket.close_code} {self.socket.exception()}")

    def take(self, message: Message) -> None:
        raise NotImplementedError


class Spectator(Listener):
    """Follows all public feeds of a symbol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        super().__init__(socket)
        self.since_seq = -1
        """Where the feeds began; -1 = they have not yet."""
        self.newest: dict[str, Message] = {}
        """By feed."""
        self.epochs: dict[str, list[int]] = {}
        """By feed: the terms that it came from, in the order in which they were seen."""
        self.deals: list[Deal] = []
        self.snapshots = 0
        self.candles: dict[int, tuple[Decimal, int]] = {}
        """By start: volume and trades."""
        self._bids: dict[Decimal, Decimal] = {}
        self._asks: dict[Decimal, Decimal] = {}

    def take(self, message: Message) -> None:
        match message["type"]:
            case "subscribed":
                self.since_seq = message["seq"]
            case "trade":
                self._move_on("trades", message, several=True)
                self.deals.append(deal_of(message, message["side"], message))
                assert len(self.deals) == 1 or self.deals[-1].number == self.deals[-2].number + 1, self.deals[-2:]
            case "book_snapshot":
                self.snapshots += 1
                self._move_on("book", message, several=True)
                self._bids, self._asks = {}, {}
                self._set_levels(message)
            case "book_update":
                assert message["prev_seq"] == self.newest["book"]["seq"], (self.newest["book"], message)
                self._move_on("book", message)
                self._set_levels(message)
            case "level2_update":
                self._move_on("level2", message)
                if "book" in self.newest and self.newest["book"]["seq"] == message["seq"]:
                    assert (message["bids"], message["asks"]) == self.book(10), "two books at one place in the log"
            case "ticker":
                self._move_on("ticker", message)
            case "candles":
                self.candles = {row[0]: (row[5], row[6]) for row in message["candles"]}
            case "candle":
                candle = message["volume"], message["trades"]
                assert candle >= self.candles.get(message["start"], candle), message
                self.candles[message["start"]] = candle
            case "status":
                assert message["state"] in ("OPEN", "STALE"), message
                self.newest["status"] = message
            case other:
                assert other == "heartbeat", message

    def book(self, depth: int) -> tuple[Levels, Levels]:
        """Bids and asks, best first."""
        bids = [[price, self._bids[price]] for price in sorted(self._bids, reverse=True)]
        asks = [[price, self._asks[price]] for price in sorted(self._asks)]
        return bids[:depth], asks[:depth]

    def seen(self, epoch: int) -> int:
        """Trades of a term."""
        return sum(deal.epoch == epoch for deal in self.deals)

    def _move_on(self, feed: str, message: Message, *, several: bool = False) -> None:
        """Neither epoch nor seq goes back; `several` messages may tell of one place in the log."""
        before = self.newest.get(feed)
        if before is not None:
            assert message["epoch"] >= before["epoch"], (before, message)
            assert message["seq"] > before["seq"] or (several and message["seq"] == before["seq"]), (before, message)
        epochs = self.epochs.setdefault(feed, [])
        if message["epoch"] not in epochs:
            epochs.append(message["epoch"])
        self.newest[feed] = message

    def _set_levels(self, message: Message) -> None:
        for side, levels in ((self._bids, message["bids"]), (self._asks, message["asks"])):
            for price, quantity in levels:
                side[price] = quantity
                if not quantity:
                    del side[price]
        bids, asks = self.book(10)
        digits = "".join(f"{int(price * 100)}{quantity}" for price, quantity in (*asks, *bids))
        assert message["checksum"] == zlib.crc32(digits.encode()), message


class Trader(Listener):
    """One account on one order socket, which tells it its executions too."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, http: aiohttp.ClientSession, account: str, side: str
    ) -> None:
        super().__init__(socket)
        self.account = account
        self.side = side
        self.outcomes: dict[str, Message] = {}
        """By client order id: the body that says for good what came of the order."""
        self.unknown = 0
        """How often nobody could say in time what came of a request."""
        self.accepted: list[str] = []
        self.open: dict[str, Decimal] = {}
        self.deals: list[Deal] = []
        """These three from the executions channel alone; `open` = what is left of each order in the book."""
        self._http = http
        self._place = (0, 0, 0)
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._frames = itertools.count()
        self._orders = itertools.count()
        self._resting: deque[str] = deque()

    async def ask(self, **frame: Any) -> Message:
        """The answer to a frame."""
        name = f"frame-{next(self._frames)}"
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": name, **frame})
        async with asyncio.timeout(BOUND_S):
            answer: Message = await future
        self.unknown += answer["http"] == 504
        return answer

    async def trade(self, stop: asyncio.Event) -> None:
        """One order after the other around one price; returns when the outcome of the last one is known."""
        while not stop.is_set():
            count = next(self._orders)
            id_ = f"{self.account}-{count}"
            await self.submit(id_, Decimal(15_000 + count * 7 % 11 - 5) / 100, 1 + count % 5)
            self._resting.append(id_)
            if len(self.open) > RESTING_MAX:
                await self._take_back(self._resting.popleft())

    async def submit(self, id_: str, price: Decimal | int, quantity: int) -> None:
        """Enter an order, under the same id until it is known for good what came of it."""
        order = {"symbol": SYMBOL, "side": self.side, "price": str(price), "quantity": quantity, "client_order_id": id_}
        while (said := await self.ask(op="submit", deadline_ms=PATIENCE_MS[self.account], **order))["http"] == 503:
            await asyncio.sleep(0.02)
        body = await self._resolve(id_) if said["http"] == 504 else said.get("result") or said["error"]
        assert body.get("reason", "VOIDED") in ("VOIDED", "EXPIRED"), body
        self.outcomes[id_] = body

    def take(self, message: Message) -> None:
        if "channel" not in message:
            self._waiting.pop(message["id"]).set_result(message)
            return
        assert message["type"] != "gap", message
        seq, sub, epoch = place = message["seq"], message["sub"], message["epoch"]
        assert (seq, sub) > self._place[:2], (self._place, message)
        assert epoch >= self._place[2], (self._place, message)
        self._place = place
        id_ = message["client_order_id"]
        match message.get("event", "TRADE"):
            case "ACCEPTED":
                self.accepted.append(id_)
                self.open[id_] = message["quantity"]
            case "TRADE":
                assert message["side"] == self.side, message
                other = "SELL" if self.side == "BUY" else "BUY"
                self.deals.append(deal_of(message, other if message["maker"] else self.side, message))
                left = self.open.pop(id_) - message["quantity"]
                assert left == message["remaining_quantity"], message
                if left:
                    self.open[id_] = left
            case "CANCELLED":
                assert self.open.pop(id_) == message["quantity"], message
            case other:
                assert other == "REJECTED", message

    async def _resolve(self, id_: str) -> Message:
        while True:
            body = {"symbol": SYMBOL, "user_id": self.account}
            async with self._http.post(f"/api/orders/{id_}/resolve", json=body) as answer:
                told = read(await answer.text())
            if answer.status == 200:
                return told
            assert answer.status in (503, 504), told
            self.unknown += answer.status == 504
            await asyncio.sleep(0.02)

    async def _take_back(self, id_: str) -> None:
        """Cancel an order, if it is not done by now."""
        while (said := await self.ask(op="cancel", order_id=id_, symbol=SYMBOL))["http"] not in (200, 404):
            assert said["http"] in (503, 504), said
            await asyncio.sleep(0.02)


async def until(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    """The first true result of `look`."""
    try:
        async with asyncio.timeout(BOUND_S):
            while not (seen := await look()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {BOUND_S} s: {what}") from None
    return seen


async def until_true(condition: Callable[[], bool], what: str) -> None:
    async def look() -> bool:
        return condition()

    await until(look, what)


async def get(http: aiohttp.ClientSession, path: str) -> Message:
    """A view, asked for again while whoever has it is too busy."""

    async def look() -> Message | None:
        async with http.get(path) as answer:
            body = read(await answer.text())
        assert answer.status in (200, 503, 504), body
        return body if answer.status == 200 else None

    view: Message = await until(look, path)
    return view


async def until_settled(http: aiohttp.ClientSession) -> Message:
    """The book in which everything shows that has happened until now."""

    async def sweep() -> int | None:
        """The end of the log: the place of somebody's mass cancel who has no orders."""
        async with http.delete("/api/orders?user_id=looker") as answer:
            body = read(await answer.text())
        return body["shards"][0]["seq"] if answer.status == 200 else None

    end_seq = await until(sweep, "the end of the log")

    async def look() -> Message | None:
        book = await get(http, f"/api/book/{SYMBOL}?depth=100")
        return book if book["seq"] >= end_seq and not book["stale"] else None

    book: Message = await until(look, "a book of the end of the log")
    return book


def stand(cluster: Running) -> ShardRow | None:
    """How the shard stands, if all say at once that one node leads and the other one follows in sync."""
    try:
        report = status.collect(cluster)
    except Unavailable:
        return None
    parts = {row.name: (row.stats.get("role"), row.stats.get("mode")) for row in report.daemons if row.role == "shard"}
    for shard in report.shards:
        followers = [parts[node][0] for node in shard.nodes if node != shard.primary]
        whole = shard.serving and not shard.flags and sorted(shard.in_sync) == sorted(shard.nodes)
        if whole and parts[shard.primary] == ("primary", "paired") and followers == ["standby"]:
            return shard
    return None


async def until_whole(cluster: Running, *, not_under: str = "") -> ShardRow:
    """How the shard stands, as soon as it is whole, and under another node."""

    async def look() -> ShardRow | None:
        shard = await asyncio.to_thread(stand, cluster)
        return None if shard is None or shard.primary == not_under else shard

    found: ShardRow = await until(look, f"a whole shard that is not led by {not_under or 'nobody'}")
    return found


async def kill(cluster: Running, shard: ShardRow, trader: Trader) -> None:
    """A primary dies while its standby is up to date."""
    await asyncio.to_thread(cluster.kill, shard.primary)


async def kill_in_doubt(cluster: Running, shard: ShardRow, trader: Trader) -> None:
    """A primary dies that has executed what its standby has not: nobody may have heard of that."""
    [standby] = [node for node in shard.nodes if node != shard.primary]
    pid = await asyncio.to_thread(cluster.kill, standby, signal.SIGSTOP)
    unknown = trader.unknown
    try:
        await until_true(lambda: trader.unknown > unknown, "a request without an answer")
        await asyncio.to_thread(cluster.kill, shard.primary)
    finally:
        os.kill(pid, signal.SIGCONT)


async def switch(cluster: Running, shard: ShardRow, trader: Trader) -> None:
    """An operator has a primary hand over; the coordinator then forgets how often the shard had failed over."""
    command = [sys.executable, "-m", "shardex", "switch", shard.shard, "--data", str(cluster.config.data)]
    told = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=90, check=False)
    assert (told.returncode, told.stderr) == (0, "")


HAND_OVERS = (kill, kill_in_doubt, switch, kill_in_doubt, kill, switch)


async def sees_what_was_traded(spectator: Spectator, made: list[Deal], terms: list[int]) -> None:
    """All trades since it came, and the sums over all trades."""
    expected = [deal for deal in made if deal.seq > spectator.since_seq]
    await until_true(lambda: len(spectator.deals) >= len(expected), "every trade")
    assert spectator.deals == expected
    for feed in ("trades", "level2", "book", "ticker"):
        assert spectator.epochs[feed][-len(HAND_OVERS) :] == terms[1:], feed
    sums = sum(deal.quantity for deal in made), len(made)
    await until_true(lambda: spectator.newest["ticker"]["trades"] >= sums[1], "every trade in the ticker")
    ticker = spectator.newest["ticker"]
    assert (ticker["last"], ticker["volume"], ticker["trades"]) == (made[-1].price, *sums)

    def candles() -> tuple[Decimal, int]:
        volumes, trades = zip(*spectator.candles.values(), strict=True)
        return sum(volumes, Decimal()), sum(trades)

    await until_true(lambda: candles()[1] >= sums[1], "every trade in the candles")
    assert candles() == sums


async def sees_the_book(spectator: Spectator, served: Message) -> None:
    """The book as the gateway shows it; then a snapshot, which all that was due before it precedes, changes nothing."""
    book = served["bids"], served["asks"]
    assert all(book), "a book of which nothing is left proves little"
    await until_true(lambda: spectator.book(100) == book, "the book of the gateway")
    before = spectator.snapshots
    await spectator.socket.send_json({"action": "snapshot", "symbol": SYMBOL})
    await until_true(lambda: spectator.snapshots > before, "a snapshot")
    assert spectator.book(100) == book
    top = tuple(spectator.newest["level2"][side] for side in ("bids", "asks"))
    assert top == spectator.book(10)
    ticker = spectator.newest["ticker"]
    assert [[[ticker[side], ticker[f"{side}_quantity"]]] for side in ("bid", "ask")] == [side[:1] for side in book]
    await until_true(lambda: spectator.newest["status"]["state"] == "OPEN", "a live stream")


async def knows_its_orders(trader: Trader, made: list[Deal], http: aiohttp.ClientSession) -> None:
    """Every order was accepted once and every trade told once; what must be left in the book is left there."""
    entered = {id_ for id_, body in trader.outcomes.items() if "order_id" in body}
    await until_true(lambda: len(trader.accepted) >= len(entered), "every order accepted")
    await until_true(lambda: len(trader.deals) >= len(made), "every trade told")
    assert sorted(trader.accepted) == sorted(entered)
    assert trader.deals == made
    served = await get(http, f"/api/orders?user_id={trader.account}")
    assert not served["more"]
    left = {order["client_order_id"]: order["remaining_quantity"] for order in served["orders"]}
    await until_true(lambda: trader.open == left, "the open orders of the gateway")
    assert (await trader.ask(op="ping"))["http"] == 200


@pytest.mark.timeout(300)
async def test_feeds_and_executions_go_on_while_a_shard_changes_hands(cluster: Running) -> None:
    async with aiohttp.ClientSession(cluster.rest_url) as http, asyncio.TaskGroup() as group:
        listening: list[asyncio.Task[None]] = []

        async def watch() -> Spectator:
            spectator = Spectator(await http.ws_connect(cluster.feed_url))
            listening.append(group.create_task(spectator.listen()))
            await spectator.socket.send_json({"action": "subscribe", "symbol": SYMBOL, "feed_types": FEEDS})
            await until_true(lambda: spectator.since_seq >= 0, "a subscription")
            return spectator

        async def enter(account: str, side: str) -> Trader:
            trader = Trader(await http.ws_connect(f"{cluster.orders_url}?user_id={account}"), http, account, side)
            listening.append(group.create_task(trader.listen()))
            assert (await trader.ask(op="subscribe", channel="executions"))["http"] == 200
            return trader

        async def until_traded(epoch: int) -> None:
            await until_true(lambda: spectators[0].seen(epoch) >= TRADES_A_TERM, f"trades of term {epoch}")

        shard = await until_whole(cluster)
        spectators = [await watch()]
        ann, bob = traders = await enter("ann", "BUY"), await enter("bob", "SELL")
        await ann.submit("rests", 149, 7)
        await bob.submit("rests", 152, 7)
        stop = asyncio.Event()
        trading = [group.create_task(trader.trade(stop)) for trader in traders for _ in range(AT_ONCE)]
        terms = [shard.epoch]
        await until_traded(shard.epoch)
        for hand_over in HAND_OVERS:
            await hand_over(cluster, shard, bob)
            if len(spectators) == 1:
                spectators.append(await watch())  # one that comes in the middle of it
            shard = await until_whole(cluster, not_under=shard.primary)
            terms.append(shard.epoch)
            await until_traded(shard.epoch)
        stop.set()
        async with asyncio.timeout(BOUND_S):
            await asyncio.gather(*trading)

        assert terms == list(range(terms[0], terms[0] + len(HAND_OVERS) + 1))
        outcomes = [(trader.side, body) for trader in traders for body in trader.outcomes.values()]
        made = sorted(deal_of(trade, side, body) for side, body in outcomes for trade in body.get("trades", []))
        assert [deal.number for deal in made] == list(range(1, len(made) + 1)), "each trade has one aggressor"
        served = await until_settled(http)
        assert served["epoch"] == terms[-1]
        for spectator in spectators:
            await sees_what_was_traded(spectator, made, terms)
            await sees_the_book(spectator, served)
        for trader in traders:
            await knows_its_orders(trader, made, http)
        recent = (await get(http, f"/api/trades/{SYMBOL}?limit=1000"))["trades"]
        told = [(trade["trade_id"], trade["price"], trade["quantity"], trade["side"]) for trade in recent]
        newest = reversed(made[-1000:])
        assert told == [(f"TRD-{deal.number}", deal.price, deal.quantity, deal.side) for deal in newest]
        print(
            ann.unknown,
            bob.unknown,
            len(made),
            [
                sum(o.get("status") == x for t in traders for o in t.outcomes.values())
                for x in ("VOIDED", "REJECTED", None)
            ],
            sum("duplicate" in o for t in traders for o in t.outcomes.values()),
        )
        for task in listening:
            task.cancel()
