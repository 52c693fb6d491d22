"""The peers of a running marketdata daemon, with real sockets: a coordinator, shards with real engines, gateways."""

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from exchange import config as c
from exchange import messages as m
from exchange.process import Daemon
from exchange.sockets import Dealer, Publisher, Router, attach
from exchange.wire import decode_coordinator_inbound, decode_market_outbound, decode_shard_inbound, encode, join_array
from marketdata.server import MarketData
from tests.marketdata.venue import Venue, map_of, read, split_frames, until

PATIENCE_S = 30


class Shard:
    """A venue on the wire. Who misses more than the newest `ring` frames gets an image (without trades)."""

    def __init__(self, venue: Venue, config: c.Config, *, ring: int = 10**9) -> None:
        self.venue = venue
        self.orders, self.events = config.endpoint(f"orders.{venue.shard}"), config.endpoint(f"events.{venue.shard}")
        self.ring = ring
        self._published = 0
        self.open()

    def open(self) -> None:
        self._events, self._router = Publisher(), Router()
        self._events.bind(self.events)
        self._router.bind(self.orders)
        self._detach = attach(self._router, self._answer)

    def close(self) -> None:
        self._detach()
        self._events.close()
        self._router.close()

    def publish(self, *, lose: bool = False) -> None:
        """Send what was committed since the last time, or let it be lost on the way."""
        for at in range(self._published, len(self.venue.frames)):
            if not lose:
                self._events.send(encode(self.venue.headers[at]), self.venue.frames[at])
        self._published = len(self.venue.frames)

    def say(self, header: bytes, payload: bytes) -> None:
        """Send anything at all on the event socket."""
        self._events.send(header, payload)

    def _answer(self) -> bool:
        while (received := self._router.receive()) is not None:
            peer, header, _ = received
            follow = decode_shard_inbound(header)
            assert isinstance(follow, m.Follow)
            venue = self.venue
            wanted = [
                frame
                for header_, frame in zip(venue.headers, venue.frames, strict=True)
                if header_.last_seq > follow.after_seq
            ]
            if len(wanted) > self.ring:
                image = m.Image(venue.shard, follow.after_seq, venue.seq)
                self._router.send(peer, encode(image), venue.engine.image())
            else:
                answer = encode(m.Frames(venue.shard, follow.after_seq, venue.seq, False))
                self._router.send(peer, answer, join_array(wanted, len(wanted)))
        return False


class Coordinator:
    """Registers whoever asks, hands out the map, remembers the newest heartbeat."""

    def __init__(self, config: c.Config, map_: m.ShardMap) -> None:
        self.endpoints: dict[str, str] = {}
        self.stats: dict[str, Any] = {}
        self.ready = False
        self._map = map_
        self._router = Router()
        self._router.bind(config.endpoint("control"))
        self._detach = attach(self._router, self._answer)

    def close(self) -> None:
        self._detach()
        self._router.close()

    def _answer(self) -> bool:
        while (received := self._router.receive()) is not None:
            peer, header, _ = received
            match decode_coordinator_inbound(header):
                case m.Register(endpoints=endpoints):
                    self.endpoints = endpoints
                    self._router.send(peer, encode(m.Registered(1, 1)))
                    self._router.send(peer, encode(self._map))
                case m.Beat(stats=stats, ready=ready):
                    self.stats, self.ready = stats, ready
                    self._router.send(peer, encode(m.BeatSeen(self._map.version, True)))
        return False


class Gateway:
    """Asks for books and trades."""

    def __init__(self, config: c.Config) -> None:
        self._socket = Dealer("gateway:g0")
        self._socket.connect(config.endpoint("market"))
        self._answers: asyncio.Queue[m.MarketOutbound] = asyncio.Queue()
        self._detach = attach(self._socket, self._drain)

    async def ask(self, question: bytes) -> m.MarketOutbound:
        self._socket.send(question)
        return await asyncio.wait_for(self._answers.get(), PATIENCE_S)

    async def book(self, request: int, *, live: bool) -> m.Book:
        """The book of instrument 0, as soon as its stream is live or no longer is."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                book = await self.ask(encode(m.AskBook(request, 0, 10)))
                assert isinstance(book, m.Book)
                if book.live is live:
                    return book
                await asyncio.sleep(0.01)

    def close(self) -> None:
        self._detach()
        self._socket.close()

    def _drain(self) -> bool:
        while (received := self._socket.receive()) is not None:
            self._answers.put_nowait(decode_market_outbound(received[0]))
        return False


class World:
    """A marketdata daemon with its peers."""

    def __init__(self, config: c.Config, coordinator: Coordinator, shards: dict[str, Shard], port: int) -> None:
        self.config = config
        self.coordinator = coordinator
        self.shards = shards
        self.port = port
        self.stop = asyncio.Event()
        self.url = f"http://127.0.0.1:{port}"

    @property
    def shard(self) -> Shard:
        """The first one."""
        return next(iter(self.shards.values()))

    @property
    def venue(self) -> Venue:
        return self.shard.venue

    async def reaches(self, seq: int, shard: str = "s0") -> None:
        """Wait until the daemon says that it has seen everything up to `seq`."""
        await until(lambda: self.coordinator.stats.get(f"seq_{shard}", 0) >= seq)


@asynccontextmanager
async def running(
    directory: Path, *venues: Venue, ring: int = 10**9, connections_max: int = 100, port: int = 0
) -> AsyncIterator[World]:
    """A daemon that has seen all that the venues had committed, in the loop of the test."""
    config = c.Config(
        cluster=c.Cluster(data=str(directory)),
        marketdata=c.MarketData(port=port, connections_max=connections_max),
        shards=[c.Shard(name=venue.shard) for venue in venues],
    )
    config.run.mkdir()
    shards = {venue.shard: Shard(venue, config, ring=ring) for venue in venues}
    places = {shard.venue.shard: (shard.orders, shard.events) for shard in shards.values()}
    coordinator = Coordinator(config, map_of(*venues, endpoints=places))
    stop = asyncio.Event()
    daemon = Daemon("marketdata", "m0", config, structlog.stdlib.get_logger())
    task = asyncio.get_running_loop().create_task(MarketData(daemon).run(stop))
    try:
        await until(lambda: task.done() or bool(coordinator.endpoints))
        world = World(config, coordinator, shards, int(coordinator.endpoints["feed"].rpartition(":")[2]))
        world.stop = stop
        for shard in shards.values():
            shard.publish()
        await until(lambda: coordinator.stats.get("live_shards") == len(venues))
        yield world
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)
        coordinator.close()
        for shard in shards.values():
            shard.close()


class Listener:
    """A well-behaved client."""

    def __init__(self, socket_: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket_

    async def say(self, **message: Any) -> None:
        await self.socket.send_json(message)

    async def next(self, *types: str) -> dict[str, Any]:
        """The next message of one of these types."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                received = await self.socket.receive()
                assert received.type is aiohttp.WSMsgType.TEXT, received
                message = read(received.data)
                if message["type"] in types:
                    return message

    async def closed(self) -> tuple[int | None, str]:
        """Read on to the end; code and reason."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                received = await self.socket.receive()
                if received.type is aiohttp.WSMsgType.CLOSE:
                    return received.data, received.extra or ""
                assert received.type is aiohttp.WSMsgType.TEXT, received


@asynccontextmanager
async def listening(world: World, *feeds: str, symbol: str = "AAPL", path: str = "/") -> AsyncIterator[Listener]:
    """A client that is connected and, if it names feeds, subscribed."""
    async with aiohttp.ClientSession() as session, session.ws_connect(world.url + path) as websocket:
        listener = Listener(websocket)
        if feeds:
            await listener.say(action="subscribe", symbol=symbol, feed_types=list(feeds))
            await listener.next("subscribed")
        yield listener


class RawReader:
    """A client without a WebSocket library: it reads only when told to, and may send anything."""

    def __init__(self, socket_: socket.socket) -> None:
        self._socket = socket_
        self._rest = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def frames(self) -> list[tuple[int, bytes]]:
        """Read until there is at least one whole frame; all that there are then."""
        found: list[tuple[int, bytes]] = []
        async with asyncio.timeout(PATIENCE_S):
            while not found:
                chunk = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
                assert chunk, "the server hung up"
                found, self._rest = split_frames(self._rest + chunk)
        return found

    def reset(self) -> None:
        """Vanish without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


async def raw_reader(port: int, request: bytes) -> RawReader:
    """A client with a small receive buffer that has sent `request` and read nothing but the handshake."""
    loop = asyncio.get_running_loop()
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    await loop.sock_connect(raw, ("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await loop.sock_sendall(raw, handshake.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await loop.sock_recv(raw, 1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    reader = RawReader(raw)
    await reader.send(b"\x81" + bytes((0x80 | len(request),)) + bytes(4) + request)
    return reader
