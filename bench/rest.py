"""REST, one order a request, against an aiohttp handler that only parses and answers: A B A B in the same run."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.cluster import HOST, CpuSplit
from bench.path import check
from bench.results import Row, row
from exchange.errors import Unavailable
from loadgen.client import connect_http
from loadgen.dialects import encode_rest, read_rest
from loadgen.openloop import Drive, Lane
from loadgen.report import Tally
from loadgen.session import Load, Options
from loadgen.workload import Command, Market, flow
from shardex import ports
from shardex.launcher import Running

RUNS = 4
RUN_S = 2.0
CONNECTIONS = 64
TARGET_RATIO = 0.4
CONNECT_TRIES, CONNECT_WAIT_S = 100, 0.1
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


async def ratio(running: Running) -> list[Row]:
    """Requests a second of both, and the median of the ratios of neighbouring runs."""
    options = Options(url=running.rest_url, protocol="rest", batch=1, connections=CONNECTIONS)
    ours: list[float] = []
    bare: list[float] = []
    answered = 0
    with _bare_server() as port:
        lanes = await _bare_lanes(port)
        async with Load(options) as load:
            await load.drive(rate=None, duration_s=RUN_S)
            await Drive(lanes, frames_per_s=None, duration_s=RUN_S, tally=Tally()).run()
            split = CpuSplit(running)
            for _ in range(RUNS):
                with split:
                    report = await load.drive(rate=None, duration_s=RUN_S)
                check(report)
                answered += report.answered
                ours.append(report.achieved_per_s)
                bare.append(await Drive(lanes, frames_per_s=None, duration_s=RUN_S, tally=Tally()).run())
    ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
    detail = f"{CONNECTIONS} connections, keep-alive"
    return [
        row("REST: one order a request", ours, "requests/s", detail=f"{detail}; {split.per_order(answered)}"),
        row("REST: bare aiohttp handler, same requests", bare, "requests/s", detail=detail),
        row("REST: gateway / bare handler", ratios, "times", target=TARGET_RATIO),
    ]


@contextmanager
def _bare_server() -> Iterator[int]:
    port = ports.choose(HOST)
    process = subprocess.Popen([sys.executable, "-m", "bench.bare", "--port", str(port)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


async def _bare_lanes(port: int) -> list[Lane]:
    """Connections to the bare server, as soon as it listens."""

    def encode(commands: Sequence[Command]) -> bytes:
        return encode_rest(commands, host=HOST, port=port, account="load-0")

    source = flow([MARKET], batch=1, run="bare.", seed=1, encode=encode, cancels=False)
    for _ in range(CONNECT_TRIES):
        try:
            return [Lane(await connect_http(HOST, port, read_rest), source, 1, n) for n in range(CONNECTIONS)]
        except Unavailable:
            await asyncio.sleep(CONNECT_WAIT_S)
    raise Unavailable(f"the bare server does not listen on port {port}")
