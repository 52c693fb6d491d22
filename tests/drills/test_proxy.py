"""A bad line: late, uneven, narrow, dumb or torn; what arrives is always what was sent, in order."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from drills.proxy import WELL, Proxy, Toxics
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS

DEADLINE_S = 20
HOST = "127.0.0.1"


class Line:
    """A client's end of a connection through a proxy to an echo."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.reader = reader
        self.writer = writer

    async def echo(self, content: bytes) -> int:
        """Send, wait for all of it to come back; returns milliseconds."""
        begun_ns = monotonic_ns()
        self.writer.write(content)
        async with asyncio.timeout(DEADLINE_S):
            assert await self.reader.readexactly(len(content)) == content
        return (monotonic_ns() - begun_ns) // NS_PER_MS


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
    writer.close()


@asynccontextmanager
async def open_line() -> AsyncIterator[Line]:
    server = await asyncio.start_server(_echo, HOST, 0)
    proxy = Proxy(HOST, server.sockets[0].getsockname()[1], random.Random(1))
    reader, writer = await asyncio.open_connection(HOST, await proxy.start(HOST))
    try:
        yield Line(proxy, reader, writer)
    finally:
        writer.close()
        await proxy.close()
        server.close()


async def test_a_line_that_is_well_gives_back_what_it_is_given() -> None:
    async with open_line() as line:
        await line.echo(random.Random(2).randbytes(10_000_000))
        assert line.proxy.connections == 1


async def test_latency_counts_both_ways_and_ends_at_once_when_the_line_is_well_again() -> None:
    async with open_line() as line:
        line.proxy.poison(Toxics(latency_ms=100))
        assert await line.echo(b"late") >= 200
        line.proxy.poison(Toxics(latency_ms=3_600_000))
        echoed = asyncio.create_task(line.echo(b"in an hour"))
        await asyncio.sleep(0)
        line.proxy.poison(WELL)
        await echoed


async def test_jitter_does_not_change_the_order() -> None:
    async with open_line() as line:
        line.proxy.poison(Toxics(latency_ms=20, jitter_ms=20))
        sent = [bytes([number]) for number in range(200)]
        for chunk in sent:
            line.writer.write(chunk)
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_S):
            assert await line.reader.readexactly(len(sent)) == b"".join(sent)


async def test_bandwidth_is_a_ceiling() -> None:
    async with open_line() as line:
        line.proxy.poison(Toxics(bandwidth_kb_s=1_000))
        assert await line.echo(bytes(200_000)) >= 200


async def test_timeout_holds_everything_until_it_is_over() -> None:
    async with open_line() as line:
        line.proxy.poison(Toxics(timeout=True))
        line.writer.write(b"anybody there?")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.reader.read(1), 0.2)
        line.proxy.poison(WELL)
        async with asyncio.timeout(DEADLINE_S):
            assert await line.reader.readexactly(14) == b"anybody there?"


async def test_reset_peer_tears_the_line_and_a_new_one_can_be_had() -> None:
    async with open_line() as line:
        await line.echo(b"hello")
        line.proxy.reset_peer()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(line.reader.read(1), DEADLINE_S)
        host, port = line.writer.get_extra_info("peername")
        reader, writer = await asyncio.open_connection(host, port)
        await Line(line.proxy, reader, writer).echo(b"again")
        writer.close()
