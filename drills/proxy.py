"""A TCP proxy that is a bad line: late, uneven, narrow, dumb or torn. It forwards bytes and knows nothing of them.

What is wrong is called as toxiproxy calls it; it can be changed while connections live, and holds for both directions.
"""

import asyncio
import random
import socket
import struct
from collections import deque
from contextlib import suppress

from msgspec import Struct

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS, NS_PER_S

CHUNK_BYTES = 64 * 1024
HELD_BYTES_MAX = 4 * 1024 * 1024
"""On their way in one direction of one connection; a sender that is ahead of that has to wait."""


class Toxics(Struct, frozen=True, kw_only=True):
    """What is wrong with the line. All zero = nothing.

    Every chunk arrives after `latency_ms`, give or take up to `jitter_ms`, never before the one that was sent earlier,
    at no more than `bandwidth_kb_s` (0 = as fast as it goes). `timeout` = nothing arrives while it is so.
    """

    latency_ms: int = 0
    jitter_ms: int = 0
    bandwidth_kb_s: int = 0
    timeout: bool = False


WELL = Toxics()


class Proxy:
    """Forwards connections to one address. Start and use inside a running loop; `dice` make the jitter repeatable."""

    def __init__(self, host: str, port: int, dice: random.Random) -> None:
        self._target = host, port
        self._dice = dice
        self._toxics = WELL
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._lines: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._lines)

    async def start(self, host: str) -> int:
        """Listen on a free port of `host`; returns the port."""
        self._server = await asyncio.start_server(self._accept, host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    def poison(self, toxics: Toxics) -> None:
        """From now on the line is like this, also for what is on its way."""
        self._toxics = toxics
        self._changed.set()
        self._changed = asyncio.Event()

    def reset_peer(self) -> None:
        """Tear every connection: both ends get a TCP reset."""
        for writers in self._lines.values():
            for writer in writers:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._lines):
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines[task] = (writer,)
        try:
            with suppress(OSError, asyncio.CancelledError):  # cancelled = closed
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                self._lines[task] = writer, far_writer
                await self._join(_Pipe(self, reader, far_writer), _Pipe(self, far_reader, writer))
        finally:
            for end in self._lines.pop(task):
                end.transport.abort()

    async def _join(self, *pipes: "_Pipe") -> None:
        """Until one direction ends; then neither is of use."""
        work = [asyncio.ensure_future(step) for pipe in pipes for step in (pipe.take(), pipe.give())]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    def due_ns(self, size: int, before_ns: int) -> int:
        """When a chunk that is sent now, behind one that arrives at `before_ns`, arrives."""
        toxics = self._toxics
        late_ns = (toxics.latency_ms + self._dice.randint(-toxics.jitter_ms, toxics.jitter_ms)) * NS_PER_MS
        due_ns = max(before_ns, monotonic_ns() + max(0, late_ns))
        return due_ns + (size * NS_PER_S // (toxics.bandwidth_kb_s * 1_000) if toxics.bandwidth_kb_s else 0)

    async def until(self, due_ns: int) -> None:
        """Wait for that time, and for as long as nothing arrives; a line that has become well waits for nothing."""
        while self._toxics != WELL and (self._toxics.timeout or monotonic_ns() < due_ns):
            left_s = None if self._toxics.timeout else max(0, due_ns - monotonic_ns()) / NS_PER_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)


class _Pipe:
    """One direction of one connection."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._held: deque[tuple[int, bytes]] = deque()
        self._held_bytes = 0
        self._moved = asyncio.Event()

    async def take(self) -> None:
        """Read until the end and give every chunk its time of arrival."""
        due_ns = 0
        while chunk := await self._reader.read(CHUNK_BYTES):
            due_ns = self._proxy.due_ns(len(chunk), due_ns)
            self._held.append((due_ns, chunk))
            self._held_bytes += len(chunk)
            self._moved.set()
            while self._held_bytes > HELD_BYTES_MAX:
                await self._wait()
        while self._held:
            await self._wait()

    async def give(self) -> None:
        """Let every chunk arrive at its time."""
        while True:
            while not self._held:
                await self._wait()
            due_ns, chunk = self._held[0]
            await self._proxy.until(due_ns)
            self._writer.write(chunk)
            await self._writer.drain()
            self._held.popleft()
            self._held_bytes -= len(chunk)
            self._moved.set()

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()
