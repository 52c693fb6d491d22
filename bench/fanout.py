"""Feed fan-out: one update to many subscribers, over real sockets. Floats here are never money.

    python bench/fanout.py [--json]

A receiver process holds SUBSCRIBERS WebSocket connections over loopback and counts what arrives. In this process the
daemon's own door and feeds get event frames of BURST trades each (about 200 bytes a message) and send them, the next
frame as soon as the last one has left. Beside it, in the same run, the usual way: `await websocket.send_str` in a loop
over all clients. A delivery is one message at one client; the clock runs until the receiver has counted all of them.
"""

import asyncio
import json
import resource
import selectors
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter_ns, process_time_ns
from typing import Any, NamedTuple

import msgspec
import structlog
import uvloop
from aiohttp import web
from rich.console import Console

from bench.results import Row, row, table
from exchange import messages as m
from exchange.clock import wall_ns
from exchange.domain import NS_PER_S, NS_PER_US, Side, compose_id
from exchange.wire import decode_frame_head, encode
from marketdata.feeds import Feeds
from marketdata.websocket import Door

SUBSCRIBERS = 1_000
BURST = 16
"""Trades that leave together: what a symbol with 2,000 trades/s gathers in 8 ms."""
ROUNDS = 50
NAIVE_MESSAGES = 100
RUNS = 5
TARGET_DELIVERIES_PER_S = 300_000
LISTED_RECORDS = 2_000
FIRST_SEQ = 123_456_789_000
COMMANDS, RECORDS_PER_S = 64, 2_500
INSTRUMENT = m.Instrument(8_000, "BENCHCOINUSD", "BENCHCOIN", "USD", 2, 8, 1, 1, 1, 10**15, 1, 10**15, 0, 0, -1, "s0")
MAP = m.ShardMap(1, [m.ShardEntry("s0", 1, "n", 1, "", "", True)], [INSTRUMENT])
_REQUEST = b'{"action":"subscribe","symbol":"BENCHCOIN","feed_types":["trades"]}'
_TEXT_FRAME = 0x81
"""First byte of a text frame. JSON here is ASCII, and no message is so long that its length holds this byte."""


def run() -> list[dict[str, Any]]:
    """Every row, as a plain dict in the shape of bench.results.Row."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * SUBSCRIBERS)), hard))
    return [msgspec.to_builtins(one) for one in uvloop.run(_measure())]


class _Fanout(NamedTuple):
    """One run: deliveries per second, bytes of a message, processor time of the sender for one delivery."""

    rate: float
    size: int
    cpu_us: float


async def _measure() -> list[Row]:
    ours, theirs = [], []
    for _ in range(RUNS):
        ours.append(await _through_the_door())
        theirs.append(await _message_by_message(ours[-1].size))
    ratios = [own.rate / other.rate for own, other in zip(ours, theirs, strict=True)]
    listened = [_cost_of_listening() for _ in range(RUNS)]
    return [
        row(
            "feed: fan-out, coalesced",
            [one.rate for one in ours],
            "deliveries/s",
            target=TARGET_DELIVERIES_PER_S,
            detail=f"{ours[0].size} bytes to {SUBSCRIBERS:,} subscribers, {BURST} messages a write; sender "
            f"{median(one.cpu_us for one in ours):.2f} µs of processor a delivery, a third of its core kept free",
        ),
        row(
            "feed: fan-out, send_str in a loop",
            [one.rate for one in theirs],
            "deliveries/s",
            detail=f"aiohttp, the same messages and clients; sender "
            f"{median(one.cpu_us for one in theirs):.2f} µs of processor a delivery",
        ),
        row("feed: coalesced to send_str", ratios, "times"),
        row(
            "feed: frame of 64 commands that nobody subscribes to",
            [one / NS_PER_US for one in listened],
            "µs",
            detail=f"{RECORDS_PER_S:,} a second take {median(listened) * RECORDS_PER_S / NS_PER_S:.1%} of a core",
        ),
    ]


# --- the daemon's way -------------------------------------------------------------------------------------------------


async def _through_the_door() -> _Fanout:
    feeds = Feeds()
    feeds.on_map(MAP)
    feeds.on_liveness("s0", True, wall_ns())
    door = Door(feeds, connections_max=2 * SUBSCRIBERS, readiness=lambda: (True, {}), log=structlog.stdlib.get_logger())
    await door.open("127.0.0.1", 0)

    async def publish() -> None:
        for burst in range(ROUNDS):
            feeds.on_frame("s0", _burst(burst))
            door.wake()
            while feeds.fanout.due:
                await asyncio.sleep(0.001)

    try:
        return await _received(door.port, ROUNDS * BURST, publish)
    finally:
        await door.close()
        assert door.dropped == 0, "a receiver on the same machine was too slow"


def _burst(number: int) -> m.FrameHead:
    """An event frame with BURST trades, as long as those of a market that has run for months."""
    first = FIRST_SEQ + number * BURST
    trades = [
        m.TradeRow(
            first + at,
            0,
            compose_id(INSTRUMENT.index, first + at),
            112_512_345,
            11_234_567_891_234 + at,
            Side.BUY,
            1,
            2,
            "taker",
            "maker",
            "t",
            "m",
            0,
            1,
        )
        for at in range(BURST)
    ]
    return decode_frame_head(encode(m.EventFrame(123_456, first, first + BURST - 1, wall_ns(), trades, [], [], [], [])))


# --- the usual way ----------------------------------------------------------------------------------------------------


async def _message_by_message(size: int) -> _Fanout:
    clients: list[web.WebSocketResponse] = []

    async def subscribe(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False)
        await websocket.prepare(request)
        await websocket.receive()
        await websocket.send_str("{}")
        clients.append(websocket)
        await websocket.receive()
        return websocket

    async def publish() -> None:
        text = "x" * (size - 4)
        for _ in range(NAIVE_MESSAGES):
            for websocket in clients:
                await websocket.send_str(text)
            await asyncio.sleep(0)

    app = web.Application()
    app.router.add_get("/", subscribe)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        return await _received(runner.addresses[0][1], NAIVE_MESSAGES, publish)
    finally:
        await runner.cleanup()


# --- the receiver -----------------------------------------------------------------------------------------------------


async def _received(port: int, messages: int, publish: Callable[[], Awaitable[None]]) -> _Fanout:
    """What a process of its own counts while `publish` runs."""
    command = [sys.executable, __file__, "--receive", str(port), str(messages)]
    receiver = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert receiver.stdout is not None
    try:
        assert await asyncio.wait_for(receiver.stdout.readline(), 60) == b"ready\n"
        started, worked = perf_counter_ns(), process_time_ns()
        await publish()
        report = json.loads(await asyncio.wait_for(receiver.stdout.readline(), 120))
        seconds, cpu_ns = (perf_counter_ns() - started) / NS_PER_S, process_time_ns() - worked
        counted = report["messages"]
        assert counted == SUBSCRIBERS * messages, report
        return _Fanout(counted / seconds, round(report["bytes"] / counted), cpu_ns / NS_PER_US / counted)
    finally:
        if receiver.returncode is None:
            receiver.kill()
        await receiver.wait()


def _receive(port: int, messages: int) -> None:
    """Hold all connections and count until each has got `messages`; report on standard output."""
    selector = selectors.DefaultSelector()
    for _ in range(SUBSCRIBERS):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            b"\x81" + bytes((0x80 | len(_REQUEST),)) + bytes(4) + _REQUEST
        )
        selector.register(client, selectors.EVENT_READ)
    for key in selector.get_map().values():
        assert isinstance(key.fileobj, socket.socket)
        answer = key.fileobj.recv(4_096)
        while not answer.endswith(b"}"):
            answer += key.fileobj.recv(4_096)
        key.fileobj.setblocking(False)
    print("ready", flush=True)
    buffer = bytearray(1 << 20)
    counted = received = 0
    while counted < SUBSCRIBERS * messages:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            size = key.fileobj.recv_into(buffer)
            assert size, "the server hung up"
            received += size
            counted += buffer.count(_TEXT_FRAME, 0, size)
    print(json.dumps({"messages": counted, "bytes": received}), flush=True)
    sys.stdin.read()


# --- nobody listens ---------------------------------------------------------------------------------------------------


def _cost_of_listening() -> float:
    """CPU nanoseconds for one frame of 64 commands that change 48 levels and trade 16 times."""
    feeds = Feeds()
    feeds.on_map(MAP)
    frames = []
    for number in range(LISTED_RECORDS):
        head = _burst(number)
        levels = [
            m.LevelRow(
                INSTRUMENT.index,
                at & 1,
                112_512_345 + (number * 7 + at) % 500 * (1 if at & 1 else -1),
                number + at & 3,
                1,
            )
            for at in range(COMMANDS - BURST)
        ]
        frames.append(encode(msgspec.structs.replace(head, levels=msgspec.Raw(encode(levels)))))
    started = process_time_ns()
    for frame in frames:
        feeds.on_frame("s0", decode_frame_head(frame))
    return (process_time_ns() - started) / LISTED_RECORDS


def main() -> None:
    if "--receive" in sys.argv:
        _receive(int(sys.argv[2]), int(sys.argv[3]))
    elif "--json" in sys.argv:
        print(json.dumps(run(), indent=2))
    else:
        Console().print(table([msgspec.convert(one, Row) for one in run()], "feed"))


if __name__ == "__main__":
    main()
