"""What a standby costs: the same load on shards of one node, of two in the mode `both`, of two in `replicated`.

One after the other on a fresh cluster each, A B C A B C, so that a machine whose speed changes is not mistaken for a
cost. Both nodes of every shard share the machine's processors with each other and with the generator.
"""

import sys
from typing import Literal, NamedTuple

import uvloop

from bench.cluster import CpuSplit, cluster
from bench.path import BATCH, CONNECTIONS, IN_FLIGHT, check
from bench.results import Row, row
from loadgen.session import Load, Options
from shardex.launcher import Running

ROUNDS = 5
WARM_UP_S, THROUGHPUT_S, LATENCY_S = 1.0, 3.0, 2.0
TARGET_RATIO = 0.5


class Variant(NamedTuple):
    """How the shards of one cluster are run."""

    name: str
    replicas: Literal[1, 2]
    durability: Literal["both", "replicated"]


class Figures(NamedTuple):
    """One variant in one round. `split` = where the processors' time of the throughput run went."""

    orders_per_s: float
    p50_us: float
    p99_us: float
    split: str


ALONE = Variant("one node a shard", 1, "both")
STANDBYS = (Variant("a standby in `both`", 2, "both"), Variant("a standby in `replicated`", 2, "replicated"))


def run() -> list[Row]:
    """Throughput and latency of each variant, and throughput with a standby over throughput without, round by round."""
    figures: dict[Variant, list[Figures]] = {variant: [] for variant in (ALONE, *STANDBYS)}
    for number in range(1, ROUNDS + 1):
        for variant, rounds in figures.items():
            with cluster(replicas=variant.replicas, durability=variant.durability) as running:
                rounds.append(uvloop.run(_measure(running)))
            said = f"{rounds[-1].orders_per_s:,.0f} orders/s, p50 {rounds[-1].p50_us:,.0f} µs"
            print(f"round {number} of {ROUNDS}, {variant.name}: {said}", file=sys.stderr, flush=True)
    rows = [one for variant, rounds in figures.items() for one in _rows(variant, rounds)]
    for variant in STANDBYS:
        pairs = zip(figures[variant], figures[ALONE], strict=True)
        ratios = [with_standby.orders_per_s / alone.orders_per_s for with_standby, alone in pairs]
        name = f"replication: throughput with {variant.name} / {ALONE.name}"
        rows.append(row(name, ratios, "times", target=TARGET_RATIO))
    return rows


async def _measure(running: Running) -> Figures:
    async with Load(Options(url=running.rest_url, batch=BATCH, connections=CONNECTIONS, in_flight=IN_FLIGHT)) as load:
        await load.drive(rate=None, duration_s=WARM_UP_S)
        with CpuSplit(running) as split:
            full = await load.drive(rate=None, duration_s=THROUGHPUT_S)
    async with Load(Options(url=running.rest_url, batch=1, connections=1, in_flight=1)) as load:
        single = await load.drive(rate=None, duration_s=LATENCY_S)
    check(full)
    check(single)
    per_order = split.per_order(full.answered)
    return Figures(full.achieved_per_s, single.latency.p50_us, single.latency.p99_us, per_order)


def _rows(variant: Variant, rounds: list[Figures]) -> list[Row]:
    middle = sorted(rounds)[len(rounds) // 2]
    name = f"replication: {variant.name}"
    rates, p50s, p99s = ([float(figures[place]) for figures in rounds] for place in range(3))
    return [
        row(f"{name}, {BATCH} orders a frame", rates, "orders/s", detail=middle.split),
        row(f"{name}, one order in flight, p50", p50s, "µs"),
        row(f"{name}, one order in flight, p99", p99s, "µs"),
    ]
