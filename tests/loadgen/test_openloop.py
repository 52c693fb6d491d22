"""The generator against real sockets: keeps its times, counts waiting, loses nothing in silence."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import pytest
from aiohttp import web

from exchange.domain import NS_PER_MS
from exchange.errors import Unavailable
from loadgen.client import connect_http, connect_ws, frame, split_frame, split_http_answer
from loadgen.openloop import Drive, Lane
from loadgen.pacer import pace
from loadgen.report import Tally
from loadgen.workload import Command, Flow, Market, flow

HOST = "127.0.0.1"
BODY = b"~000000~" + bytes(120)
MARKET = Market(
    symbol="AAPLUSD",
    index=0,
    shard="s0",
    price_decimals=2,
    quantity_decimals=0,
    tick=1,
    lot=1,
    quantity_min=1,
    mid=15_025,
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server whose only page is the handler; returns its port."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> int:
        application = web.Application()
        application.router.add_route("*", "/", handler)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, HOST, 0).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


def request(commands: Sequence[Command]) -> bytes:
    del commands
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n~000000~"


def message(commands: Sequence[Command]) -> bytes:
    del commands
    return BODY


def source(encode: Callable[[Sequence[Command]], bytes], batch: int = 1) -> Flow:
    return flow([MARKET], batch=batch, run="t", seed=1, encode=encode)


def read(status: int, body: bytes) -> Mapping[str, int]:
    del body
    return Counter(new=1) if status in (0, 200) else Counter(unavailable=1)


async def http_lane(port: int, capacity: int = 1) -> Lane:
    return Lane(await connect_http(HOST, port, read), source(request), capacity)


class SteadyTime:
    """Time that passes only while nothing is under way, so that a machine that stands still costs a run no frame."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.now_ns = 0
        self._lanes = lanes

    def read(self) -> int:
        return self.now_ns

    def pace(self, interval_ns: int, wake: Callable[[], None]) -> Callable[[], None]:
        async def beat() -> None:
            while True:
                await asyncio.sleep(0)
                if any(lane.waiting for lane in self._lanes):
                    continue
                self.now_ns += interval_ns
                wake()

        return asyncio.get_running_loop().create_task(beat()).cancel


async def test_open_loop_sends_at_its_rate_and_counts_every_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="{}")

    port, tally = await serve(answer), Tally()
    lanes = [await http_lane(port) for _ in range(4)]
    steady = SteadyTime(lanes)
    monkeypatch.setattr("loadgen.openloop.monotonic_ns", steady.read)
    monkeypatch.setattr("loadgen.openloop.pace", steady.pace)
    await Drive(lanes, frames_per_s=200, duration_s=0.5, tally=tally).run()

    assert tally.sent == tally.answered == tally.outcomes["new"] == 100
    assert tally.by_shard == {"s0": tally.sent}
    assert 0 < tally.latency().p50_us <= tally.latency().max_us


async def test_the_pace_is_kept_and_never_ahead() -> None:
    loop, wakes = asyncio.get_running_loop(), asyncio.Semaphore(0)
    begun_s = loop.time()
    stop = pace(5 * NS_PER_MS, wakes.release)
    async with asyncio.timeout(30):
        for _ in range(20):
            await wakes.acquire()
    stop()
    assert loop.time() - begun_s >= 0.095


async def test_a_stall_is_charged_to_every_order_that_should_have_been_sent_meanwhile(serve: Serve) -> None:
    seen = 0

    async def stall_once(request: web.Request) -> web.Response:
        nonlocal seen
        await request.read()
        seen += 1
        if seen == 10:
            await asyncio.sleep(0.4)
        return web.Response(text="{}")

    port, tally = await serve(stall_once), Tally()
    await Drive([await http_lane(port)], frames_per_s=100, duration_s=1.0, tally=tally).run()

    # one connection, 100 a second: about 40 orders were due during the stall, half of them waited over 150 ms
    assert tally.latency().p95_us > 150_000


async def test_what_a_dead_connection_owes_is_lost_and_said_so(serve: Serve) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    port, tally = await serve(hang_up), Tally()
    await Drive([await http_lane(port)], frames_per_s=None, duration_s=5.0, tally=tally).run()

    assert (tally.sent, tally.answered, tally.outcomes) == (1, 0, {"lost": 1})


async def test_websocket_keeps_its_window_full_and_finds_the_request_of_each_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bytes] = []

    async def answer_four_in_reverse(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while len(held) < 4:  # comes only if four frames are sent before the first answer
            held.append(await socket.receive_bytes())
        for body in reversed(held):
            await socket.send_bytes(body[:8])
        async for received in socket:
            await socket.send_bytes(received.data[:8])
        return socket

    port, tally = await serve(answer_four_in_reverse), Tally()
    wire = await connect_ws(HOST, port, "/", read, lambda body: int(body, 16), binary=True)
    # A millisecond passes at every look: the run is over after so many answers, however long they take.
    monkeypatch.setattr("loadgen.openloop.monotonic_ns", itertools.count(step=NS_PER_MS).__next__)
    await Drive([Lane(wire, source(message), 4)], frames_per_s=None, duration_s=0.3, tally=tally).run()

    assert [int(body[:8], 16) for body in held] == [0, 1, 2, 3]
    assert tally.sent == tally.answered > 4
    wire.close()


async def test_a_websocket_that_is_refused_or_absent_is_unavailable(serve: Serve) -> None:
    async def refuse(request: web.Request) -> web.Response:
        raise web.HTTPForbidden

    port = await serve(refuse)
    with pytest.raises(Unavailable, match=r"no WebSocket: HTTP/1\.1 403 Forbidden"):
        await connect_ws(HOST, port, "/", read, int, binary=True)
    with pytest.raises(Unavailable, match=r"nobody answers at 127\.0\.0\.1:1"):
        await connect_http(HOST, 1, read)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
async def test_websocket_frames_of_every_length_form_arrive_whole(serve: Serve, size: int) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=1 << 20)
        await socket.prepare(request)
        async for received in socket:
            await socket.send_bytes(received.data)
        return socket

    bodies: asyncio.Queue[bytes] = asyncio.Queue()

    def keep(status: int, body: bytes) -> Mapping[str, int]:
        bodies.put_nowait(body)
        return Counter(new=1)

    wire = await connect_ws(HOST, await serve(echo), "/", keep, lambda _: 0, binary=True)
    wire.send(0, b"x" * size)
    assert await asyncio.wait_for(bodies.get(), 30) == b"x" * size
    wire.close()


def test_answers_that_arrive_in_pieces_are_not_taken_early() -> None:
    whole = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nX: y\r\n\r\n{}"
    for end in range(len(whole)):
        assert split_http_answer(bytearray(whole[:end])) is None
    assert split_http_answer(bytearray(whole + b"HTTP/1.1 2")) == (503, b"{}", len(whole))

    for size in (3, 300, 70_000):
        sent = bytearray(frame(2, b"z" * size))
        del sent[-size - 4 : -size]  # a server's frame has no mask
        sent[1] &= 0x7F
        for end in (0, 1, 2, len(sent) - size - 1, len(sent) - 1):
            assert split_frame(sent[:end]) is None
        assert split_frame(sent + b"more") == (2, b"z" * size, len(sent))
