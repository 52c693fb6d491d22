"""The whole path: WebSocket frames in, durable answers out, and one order at a time."""

from bench.cluster import CpuSplit
from bench.results import Row, row
from loadgen.report import Report
from loadgen.session import Load, LoadError, Options
from shardex.launcher import Running

RUNS = 5
RUN_S = 3.0
BATCH = 64
CONNECTIONS, IN_FLIGHT = 2, 16
TARGET_ORDERS_PER_S = 150_000
TARGET_P50_US, TARGET_P99_US = 700.0, 3_000.0
EXPECTED = ("new", "filled", "cancelled", "expired")
"""What a healthy run consists of; takers of parallel connections may find their maker gone and expire."""


async def throughput(running: Running) -> list[Row]:
    """Orders a second through gateway and two shards, window always full, every answer behind an fdatasync."""
    options = Options(url=running.rest_url, batch=BATCH, connections=CONNECTIONS, in_flight=IN_FLIGHT)
    reports, split = await _repeat(running, options)
    latency = sorted(report.latency.p99_us for report in reports)[RUNS // 2]
    detail = f"{CONNECTIONS} connections × {IN_FLIGHT} frames of {BATCH}, p99 {latency:,.0f} µs; {split}"
    rates = [report.achieved_per_s for report in reports]
    return [row("path: WebSocket, 64 orders a frame", rates, "orders/s", target=TARGET_ORDERS_PER_S, detail=detail)]


async def latency(running: Running) -> list[Row]:
    """One order in flight: what a single trader feels."""
    options = Options(url=running.rest_url, batch=1, connections=1, in_flight=1)
    reports, split = await _repeat(running, options)
    p50 = [report.latency.p50_us for report in reports]
    p99 = [report.latency.p99_us for report in reports]
    name = "path: WebSocket, one order in flight"
    return [
        row(f"{name}, p50", p50, "µs", target=TARGET_P50_US, better="lower", detail=split),
        row(f"{name}, p99", p99, "µs", target=TARGET_P99_US, better="lower"),
    ]


async def _repeat(running: Running, options: Options) -> tuple[list[Report], str]:
    """The reports of all runs behind a first one that is not counted, and where the processors' time went."""
    async with Load(options) as load:
        await load.drive(rate=None, duration_s=1.0)
        with CpuSplit(running) as split:
            reports = [await load.drive(rate=None, duration_s=RUN_S) for _ in range(RUNS)]
    for report in reports:
        check(report)
    return reports, split.per_order(sum(report.answered for report in reports))


def check(report: Report) -> None:
    """A rate of refusals is no rate: LoadError when anything was not taken as it should be."""
    unexpected = {name: count for name, count in report.outcomes.items() if name not in EXPECTED}
    if unexpected:
        raise LoadError(f"the load was not taken as it should be: {unexpected}")
