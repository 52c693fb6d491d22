"""The daemon with real peers and real clients: streams with gaps and restarts, slow readers, hostile input, the end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S, Side
from exchange.errors import ConfigError
from exchange.limits import FEED_FRAME_BYTES_MAX, HTTP_REQUEST_DEADLINE_NS
from exchange.wire import encode
from marketdata.feeds import Feeds
from marketdata.websocket import MESSAGES_BURST, ROUND_NS, Door, origin_allowed
from tests.marketdata.peers import PATIENCE_S, Gateway, listening, raw_reader, running
from tests.marketdata.venue import AAPL, CLOSE, PING, TEXT, Venue, instrument, read, units, until

pytestmark = pytest.mark.timeout(120, method="thread")
"""uvloop swallows what a signal handler raises, so the usual method could not end a test that hangs."""

SUBSCRIBE_TRADES = b'{"action":"subscribe","symbol":"AAPL","feed_types":["trades"]}'


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A door to feeds without any market."""
    log = structlog.stdlib.get_logger()
    door = Door(Feeds(), connections_max=100, readiness=lambda: (True, {}), log=log)
    await door.open("127.0.0.1", 0)
    yield door
    await door.close()


@pytest.fixture(autouse=True)
async def nothing_uncaught() -> AsyncIterator[None]:
    """Fails when a callback or task of the loop raised and nobody caught it."""
    uncaught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
    yield
    assert not uncaught, uncaught


async def test_a_subscriber_sees_trades_and_books_of_every_shard(tmp_path: Path) -> None:
    msft = instrument(1, "MSFT", shard="s1")
    async with running(tmp_path, Venue(AAPL), Venue(msft, shard="s1")) as world:
        async with (
            listening(world, "trades", "level2") as apple,
            listening(world, "trades", symbol="MSFT") as microsoft,
        ):
            for shard, index in (("s0", 0), ("s1", 1)):
                world.shards[shard].venue.sell(15_000, 10, index=index)
                world.shards[shard].venue.buy(15_000, 4, index=index)
                world.shards[shard].publish()
            trade = await apple.next("trade")
            assert (trade["symbol"], trade["price"], trade["quantity"], trade["side"]) == ("AAPL", 150, 4, "BUY")
            level2 = await apple.next("level2_update")
            while not level2["asks"]:
                level2 = await apple.next("level2_update")
            assert (await microsoft.next("trade"))["symbol"] == "MSFT"
        await until(lambda: world.coordinator.stats["clients"] == 0)
        assert world.coordinator.stats["symbols"] == 2


async def test_a_gap_in_the_stream_is_repaired_without_a_client_noticing(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades", "book") as client:
        snapshot = await client.next("book_snapshot")
        world.venue.sell(15_000, 100)
        world.shard.publish()
        for quantity in (1, 2):
            world.venue.buy(15_000, quantity)
        world.shard.publish(lose=True)
        world.venue.buy(15_000, 3)
        world.shard.publish()
        assert [(await client.next("trade"))["quantity"] for _ in range(3)] == [1, 2, 3]
        update = await client.next("book_update")
        assert update["prev_seq"] >= snapshot["seq"]
        while update["seq"] < world.venue.seq:
            before = update["seq"]
            update = await client.next("book_update")
            assert update["prev_seq"] == before
        assert units(update["asks"]) == [(15_000, 94)]


async def test_after_a_long_outage_an_image_brings_a_fresh_snapshot(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL), ring=3) as world, listening(world, "book", "level2", "status") as client:
        await client.next("book_snapshot")
        world.shard.close()
        while (await client.next("status"))["state"] != "STALE":
            pass
        for step in range(20):
            world.venue.buy(15_000 - step, 1 + step)
        world.shard.open()
        world.shard.publish(lose=True)
        # The book is shown in the next round, the state at the next look at the clock: either may be told first.
        told: dict[str, dict[str, Any]] = {}
        while "book_snapshot" not in told or told.get("status", {}).get("state") != "OPEN":
            message = await client.next("book_snapshot", "status")
            told[message["type"]] = message
        snapshot = told["book_snapshot"]
        assert snapshot["seq"] == world.venue.seq
        assert (units(snapshot["bids"]), units(snapshot["asks"])) == world.venue.levels()


async def test_a_shard_that_restarts_in_a_new_term_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades") as client:
        world.venue.sell(15_000, 100)
        world.venue.buy(15_000, 1)
        world.shard.publish()
        first = await client.next("trade")
        world.shard.close()
        world.venue.start_epoch(2)
        world.venue.buy(15_000, 2)
        world.shard.open()
        world.shard.publish()
        second = await client.next("trade")
        assert (first["epoch"], second["epoch"]) == (1, 2)
        assert second["seq"] == world.venue.seq > first["seq"]
        assert (first["quantity"], second["quantity"]) == (1, 2)


async def test_a_malformed_stream_does_not_stop_the_good_one(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades") as client:
        world.venue.sell(15_000, 100)
        world.venue.buy(15_000, 1)
        header = encode(world.shard.venue.headers[-2])
        for payload in (b"", b"\xc1", b"\x93\x01\x02", encode(["frame"]), b"\xdd\xff\xff\xff\xff"):
            world.shard.say(header, payload)
            world.shard.say(payload, payload)
        world.shard.publish()
        assert (await client.next("trade"))["quantity"] == 1


async def test_a_reader_that_stops_is_dropped_with_a_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketdata.websocket.CLOSE_S", float(PATIENCE_S))  # the reason waits until it is read here
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades") as client:
        stuck = await raw_reader(world.port, SUBSCRIBE_TRADES)
        await until(lambda: world.coordinator.stats["clients"] == 2)
        world.venue.sell(15_000, 10**8)
        seen = 0
        for _ in range(200):
            if world.coordinator.stats["dropped_clients"]:
                break
            world.venue.execute(*[world.venue.order(Side.BUY, 15_000, 1) for _ in range(200)])
            world.shard.publish()
            for _ in range(200):
                seen += 1
                assert number_of(await client.next("trade")) == seen
        frames = await stuck.frames()
        while frames[-1][0] != CLOSE:
            frames = await stuck.frames()
        assert frames[-1] == (CLOSE, aiohttp.WSCloseCode.TRY_AGAIN_LATER.to_bytes(2, "big") + b"slow consumer")
        stuck.close()
        world.venue.buy(15_000, 7)
        world.shard.publish()
        assert (await client.next("trade"))["quantity"] == 7
        assert world.coordinator.stats["dropped_clients"] == 1


async def test_a_reader_that_pauses_gets_every_trade_and_the_newest_book(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world:
        request = b'{"action":"subscribe","symbol":"AAPL","feed_types":["trades","level2"]}'
        paused = await raw_reader(world.port, request)
        await until(lambda: world.coordinator.stats["channels"] == 2)
        world.venue.sell(15_000, 10**8)
        trades = 0
        for _ in range(200):
            if world.coordinator.stats["conflated"]:
                break
            trades += 200
            world.venue.execute(*[world.venue.order(Side.BUY, 15_000, 1) for _ in range(200)])
            world.shard.publish()
            await world.reaches(world.venue.seq)
        assert world.coordinator.stats["dropped_clients"] == 0
        messages: list[dict[str, Any]] = []
        while not messages or messages[-1].get("seq") != world.venue.seq or messages[-1]["type"] != "level2_update":
            told = [read(payload) for kind, payload in await paused.frames() if kind == TEXT]
            messages += [one for one in told if one["type"] != "heartbeat"]
        paused.close()
        assert [number_of(one) for one in messages if one["type"] == "trade"] == list(range(1, trades + 1))
        updates = [one for one in messages if one["type"] == "level2_update"]
        assert (units(updates[-1]["bids"]), units(updates[-1]["asks"])) == world.venue.levels()


def number_of(trade: dict[str, Any]) -> int:
    """Place of a trade among those of its instrument 0, from 1."""
    return int(trade["trade_id"].removeprefix("TRD-"))


async def test_unsubscribe_and_two_subscriptions_of_one_client(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades", path="/ws") as client:
        await client.say(action="subscribe", symbol="AAPL", feed_types=["level2"])
        await client.next("level2_update")
        await client.say(action="unsubscribe", symbol="AAPL", feed_types=["trades"])
        assert (await client.next("unsubscribed"))["feed_types"] == ["trades"]
        world.venue.sell(15_000, 10)
        world.venue.buy(15_000, 4)
        world.shard.publish()
        message = await client.next("trade", "level2_update")
        assert message["type"] == "level2_update"


async def test_a_heartbeat_comes_even_without_a_subscription(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world) as client:
        first, second = await client.next("heartbeat"), await client.next("heartbeat")
        assert second["n"] == first["n"] + 1


async def test_hostile_frames_are_answered_or_closed_and_harm_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades") as good:
        async with listening(world) as hostile:
            for text in ("", "null", "{", "[" * 4_000, '{"action":"subscribe","symbol":5}'):
                await hostile.socket.send_str(text)
                assert (await hostile.next("error"))["reason"] == "BAD_REQUEST"
            await hostile.socket.send_bytes(b'{"action":"subscribe"}')
            assert "text frame" in (await hostile.next("error"))["error"]
            await hostile.socket.ping(b"still there?")
            await hostile.socket.send_str("x" * (FEED_FRAME_BYTES_MAX + 1))
            assert (await hostile.closed())[0] == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        async with listening(world) as flood:
            for _ in range(2 * MESSAGES_BURST):
                await flood.socket.send_str("{}")
            assert await flood.closed() == (aiohttp.WSCloseCode.POLICY_VIOLATION, "too many messages")
        world.venue.sell(15_000, 10)
        world.venue.buy(15_000, 4)
        world.shard.publish()
        assert (await good.next("trade"))["quantity"] == 4


@pytest.mark.parametrize(
    "raw",
    [
        b"\x81\x05hello",
        b"\xff\x80\0\0\0\0",
        b"\x81\xfe\xff\xff",
        b"\x83\x80\0\0\0\0",
        b"\x81\x82\0\0\0\0\xff\xfe",
        b"\x89\xfe\x00\xff\0\0\0\0",
        b"\x80\x80\0\0\0\0",
    ],
    ids=["unmasked", "reserved bits", "cut off", "reserved opcode", "no UTF-8", "long ping", "stray continuation"],
)
async def test_broken_websocket_framing_ends_only_that_connection(tmp_path: Path, raw: bytes) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades") as good:
        rude = await raw_reader(world.port, b"{}")
        await rude.send(raw)
        rude.close()
        world.venue.sell(15_000, 10)
        world.venue.buy(15_000, 4)
        world.shard.publish()
        assert (await good.next("trade"))["quantity"] == 4
        await until(lambda: world.coordinator.stats["clients"] == 1)


async def test_a_round_that_meets_vanished_clients_goes_on(door: Door) -> None:
    """Between the end of a connection and that of its handler lie a few turns of the loop: a round in each of them."""
    now_ns = monotonic_ns()
    good = await raw_reader(door.port, b"{}")
    assert (await good.frames())[0][0] == TEXT
    for turns in range(8):
        gone = [await raw_reader(door.port, b"{}") for _ in range(3)]
        for client in gone:
            assert (await client.frames())[0][0] == TEXT
        rested_ns = monotonic_ns() + 2 * ROUND_NS
        await until(lambda rested_ns=rested_ns: monotonic_ns() > rested_ns)  # type: ignore[misc]
        for client in gone:
            client.reset()
        for _ in range(turns):
            await asyncio.sleep(0)
        door.on_second(now_ns)  # always the same one: nobody is pinged
        assert (await good.frames())[0][0] == TEXT
        await until(lambda: door.clients == 1)
    good.close()


async def test_a_silent_client_is_pinged_and_then_dropped(door: Door) -> None:
    before_ns = monotonic_ns()
    client = await raw_reader(door.port, b"{}")
    assert (await client.frames())[0][0] == TEXT
    after_ns = monotonic_ns()
    for now_ns, kinds in (
        (before_ns + 19 * NS_PER_S, [TEXT]),
        (after_ns + 20 * NS_PER_S, [TEXT, PING]),
        (after_ns + 39 * NS_PER_S, [TEXT]),
        (after_ns + 40 * NS_PER_S, [TEXT, PING]),
        (before_ns + 59 * NS_PER_S, [TEXT]),
    ):
        door.on_second(now_ns)
        frames = await client.frames()
        while len(frames) < len(kinds):
            frames += await client.frames()
        assert sorted(kind for kind, _ in frames) == kinds
    door.on_second(after_ns + 60 * NS_PER_S)
    assert await client.frames() == [
        (CLOSE, aiohttp.WSCloseCode.POLICY_VIOLATION.to_bytes(2, "big") + b"no pong for 60 s")
    ]
    client.close()


async def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL), connections_max=2) as world, listening(world), listening(world):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with listening(world):
                pass
        assert refused.value.status == 503
        assert refused.value.headers is not None
        assert refused.value.headers["Retry-After"] == "1"


async def test_a_connection_that_never_completes_a_request_is_closed(door: Door) -> None:
    loop = asyncio.get_running_loop()
    idle = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(3)]
    for client, text in zip(idle, (b"", b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: webs", b"\x16\x03\x01"), strict=True):
        client.setblocking(False)
        await loop.sock_sendall(client, text)
    async with asyncio.timeout(HTTP_REQUEST_DEADLINE_NS / NS_PER_S + PATIENCE_S):
        for client in idle:
            while await loop.sock_recv(client, 4_096):
                pass
            client.close()


async def readiness(session: aiohttp.ClientSession, status: int) -> Any:
    """What /readyz says as soon as it says it with this status: a stream is not live after a second of silence."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get("/readyz") as response:
                if response.status == status:
                    return await response.json()
            await asyncio.sleep(0.01)


async def test_plain_http(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, aiohttp.ClientSession(world.url) as session:
        async with session.get("/livez") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        assert await readiness(session, 200) == {"ready": True, "shards": {"s0": True}}
        async with session.get("/") as response:
            assert (response.status, (await response.json())["reason"]) == (426, "UPGRADE_REQUIRED")
        async with session.get("/nothing") as response:
            assert (response.status, (await response.json())["reason"]) == (404, "NOT_FOUND")
        async with session.post("/livez") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
        async with session.get("/", headers={"Upgrade": "websocket"}) as response:
            assert response.status == 400
        world.shard.close()
        await until(lambda: not world.coordinator.ready)
        assert await readiness(session, 503) == {"ready": False, "shards": {"s0": False}}
        world.shard.open()


async def test_a_page_of_another_host_may_not_connect(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, aiohttp.ClientSession() as session:
        async with session.ws_connect(world.url, origin="http://localhost:8080"):
            pass
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(world.url, origin="https://evil.example")
        assert refused.value.status == 403


@pytest.mark.parametrize(
    ("origin", "host", "loopback_only", "allowed"),
    [
        (None, "127.0.0.1:8765", True, True),
        ("http://localhost:8080", "127.0.0.1:8765", True, True),
        ("http://[::1]:3000", "localhost:8765", False, True),
        ("https://trade.example", "trade.example:8765", False, True),
        ("https://trade.example", "other.example:8765", False, False),
        ("https://rebound.example", "rebound.example:8765", True, False),
        ("https://evil.example", "127.0.0.1:8765", True, False),
        ("null", "127.0.0.1:8765", True, False),
        ("", "", False, False),
        ("http://[broken", "127.0.0.1", False, False),
    ],
)
def test_origins(origin: str | None, host: str, loopback_only: bool, allowed: bool) -> None:
    assert origin_allowed(origin, host, loopback_only=loopback_only) is allowed


async def test_gateways_are_answered_whatever_they_send(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world:
        world.venue.sell(15_000, 10)
        world.venue.buy(15_000, 4)
        world.shard.publish()
        await world.reaches(world.venue.seq)
        gateway = Gateway(world.config)
        book = await gateway.book(1, live=True)
        assert (book.request, book.asks, book.seq) == (1, [(15_000, 6)], world.venue.seq)
        trades = await gateway.ask(encode(m.AskTrades(2, 0, 10)))
        assert isinstance(trades, m.Trades)
        assert [trade.quantity for trade in trades.trades] == [4]
        for question in (b"", b"\xc1", encode(m.AskPositions(3, "alice")), encode(m.AskBook(4, 8_000, 1))):
            assert isinstance(await gateway.ask(question), m.NotServed)
        world.shard.close()
        assert (await gateway.book(5, live=False)).asks == [(15_000, 6)]
        gateway.close()
        world.shard.open()


async def test_at_the_end_every_client_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, Venue(AAPL)) as world, listening(world, "trades") as client:
        world.stop.set()
        assert (await client.next("serverShutdown"))["timestamp"] > 0
        assert await client.closed() == (aiohttp.WSCloseCode.SERVICE_RESTART, "service restart")


async def test_a_port_that_is_taken_is_a_configuration_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="marketdata cannot listen"):
        async with running(tmp_path, Venue(AAPL), port=taken.getsockname()[1]):
            pass
