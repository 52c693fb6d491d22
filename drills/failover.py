"""`python -m drills.failover`: how long does nobody get through when a shard changes hands? Measured, fault by fault.

Each shard has an open-loop load of its own: orders leave at their times whatever the answers do, and their latency
counts from those times. A time without a success is the longest gap between two answers of the shard itself. After
each change both nodes of every shard must be in sync again before the next. Other shards are watched too, and the disk.

Partitions have a cluster of their own, whose coordinator and nodes live in network namespaces (root, ip, iptables);
where those cannot be made they are left out, and the report says so. Prints a table with targets and writes
build/failover.json. Exit code 1 when it could not be measured; a miss is no failure.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct
from rich.console import Console

from bench.cluster import BUILD
from bench.machine import Machine, describe
from bench.results import Row, table
from drills.cluster import Cluster, Mode, aside
from drills.disk import DiskProbe
from drills.network import missing
from drills.outages import longest_pause_ns, percentile_ms
from drills.timeline import Timeline
from exchange.clock import monotonic_ns
from exchange.config import COORDINATOR_NAME
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ShardexError, Unavailable
from loadgen.session import Load, Options
from shardex.client import Login, Refusal, Rest

SHARDS = 2
ORDERS_PER_S = 1_000
"""Over all shards; one every 2 ms and shard, so a gap is known to some milliseconds."""
CONNECTIONS, IN_FLIGHT = 4, 256
"""Of one shard's load: room for everything that is due while the shard is silent."""
DRIVE_S = 3_600.0
"""Longer than any run: the load ends when the drill does."""
WARM_UP_S = 3.0
CALM_S = 0.3
WATCH_S = 2.0
STOPPED_S = 1.0
WHOLE_S = 60.0
CUT_S = 1.5
"""A partition heals when its primary has long been replaced."""
PARTITION = "partition"
KINDS = ("kill", "stop", "switch", PARTITION)
TITLES = {
    "kill": "kill -9 of the primary",
    "stop": "SIGSTOP of the primary",
    "switch": "planned switch",
    PARTITION: "primary cut off from standby and coordinator",
}
TARGETS_MS: dict[tuple[str, int], float] = {
    ("kill", 50): 300,
    ("kill", 99): 1_000,
    ("stop", 99): 1_500,
    ("switch", 99): 100,
    (PARTITION, 99): 1_500,
}
ERRORS_TARGETS = {"switch": 0}
OTHERS_TARGET = 2.0
"""Times the 99th percentile of before."""


class Change(Struct, frozen=True):
    """One change of hands. `without_success_ns` = longest gap between answers of the shard, `waited_ns` = longest time
    from the intended sending of an order to its answer, `whole_ns` = until both nodes of all shards were in sync again,
    `disk_ns` = longest fdatasync of a file beside it that nobody else uses: so long nobody could be answered anyway.
    """

    kind: str
    shard: str
    victim: str
    without_success_ns: int
    waited_ns: int
    whole_ns: int
    disk_ns: int


class Result(Struct, frozen=True):
    """Content of build/failover.json. `trouble` = why it ended early or what was left out, empty when nothing was."""

    machine: Machine
    mode: str
    orders_per_s: int
    rows: list[Row]
    changes: list[Change]
    errors: dict[str, dict[str, int]]
    trouble: str


class Failover:
    """One cluster under load, many changes of hands. `errors` = orders that ended without a decision, by kind."""

    def __init__(self, cluster: Cluster, disk: DiskProbe) -> None:
        self.changes: list[Change] = []
        self.errors: dict[str, Counter[str]] = {}
        self.before_ns: dict[str, list[int]] = {}
        self.during_ns: dict[str, list[int]] = {}
        self._cluster = cluster
        self._disk = disk
        self._times = {shard: Timeline() for shard in cluster.shards}
        self._drives: list[asyncio.Task[object]] = []

    async def run(self, counts: dict[str, int]) -> None:
        """So many changes of each kind, the shards in turn. Unavailable when the cluster does not come back."""
        await aside(self._cluster.wait_whole)
        async with AsyncExitStack() as stack:
            for shard, symbols in (await self._symbols()).items():
                options = Options(
                    url=self._cluster.url, batch=1, connections=CONNECTIONS, in_flight=IN_FLIGHT, symbols=symbols
                )
                load = await stack.enter_async_context(Load(options))
                drive = load.drive(rate=ORDERS_PER_S / SHARDS, duration_s=DRIVE_S, tally=self._times[shard])
                self._drives.append(asyncio.create_task(drive))
            try:
                await asyncio.sleep(WARM_UP_S)
                for kind, count in counts.items():
                    await self._series(kind, count)
            finally:
                for drive_ in self._drives:
                    drive_.cancel()
                await asyncio.gather(*self._drives, return_exceptions=True)

    async def _symbols(self) -> dict[str, tuple[str, ...]]:
        """Markets by shard, as soon as the gateway has prices of all: it may be up before its other peers are."""
        give_up_ns = monotonic_ns() + int(WHOLE_S * NS_PER_S)
        async with Rest(self._cluster.url, Login("drill")) as rest:
            while True:
                try:
                    instruments = await rest.instruments()
                    for one in instruments:
                        await rest.last_price(one.symbol)
                    break
                except Refusal:
                    if monotonic_ns() > give_up_ns:
                        raise
                    await asyncio.sleep(CALM_S)
        return {shard: tuple(one.market for one in instruments if one.shard == shard) for shard in self._cluster.shards}

    async def _series(self, kind: str, count: int) -> None:
        self.before_ns[kind], self.during_ns[kind] = [], []
        errors = self._errors()
        for number, shard in zip(range(count), cycle(self._cluster.shards), strict=False):
            change = await self._change(kind, shard)
            self.changes.append(change)
            said = f"{change.without_success_ns / NS_PER_MS:,.0f} ms without a success"
            whole = f"disk {change.disk_ns / NS_PER_MS:,.0f} ms, whole after {change.whole_ns / NS_PER_S:.1f} s"
            print(f"{number + 1}/{count} {kind} {change.victim}: {said}, {whole}", file=sys.stderr, flush=True)
        self.errors[kind] = self._errors() - errors

    async def _change(self, kind: str, shard: str) -> Change:
        victim = await aside(self._cluster.primary, shard)
        pid = await aside(self._cluster.running.pid, victim)
        await asyncio.sleep(CALM_S)
        at_ns = monotonic_ns()
        if kind == "switch":
            await aside(self._cluster.switch, shard)
        elif kind == "kill":
            os.kill(pid, signal.SIGKILL)
        elif kind == "stop":
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(STOPPED_S)
            os.kill(pid, signal.SIGCONT)
        else:
            await self._cut_off(victim, shard)
        until_ns = at_ns + int(WATCH_S * NS_PER_S)
        await asyncio.sleep(max(0.0, (until_ns - monotonic_ns()) / NS_PER_S))
        await aside(self._cluster.wait_whole, WHOLE_S)
        if any(drive.done() for drive in self._drives):
            raise Unavailable("the load has ended: the gateway closed its connections")
        whole_ns = monotonic_ns()
        times = self._times[shard]
        for other, its in self._times.items():
            if other != shard:
                self.before_ns[kind] += its.latencies_ns(at_ns - int(CALM_S * NS_PER_S), at_ns)
                self.during_ns[kind] += its.latencies_ns(at_ns, until_ns)
        return Change(
            kind,
            shard,
            victim,
            longest_pause_ns(times.decided_ns, at_ns, whole_ns),
            max(times.latencies_ns(at_ns, whole_ns), default=whole_ns - at_ns),
            whole_ns - at_ns,
            self._disk.longest_ns(at_ns, until_ns),
        )

    async def _cut_off(self, victim: str, shard: str) -> None:
        """Gateways and clients reach it all the time; its standby and the coordinator do not."""
        network = self._cluster.network
        assert network is not None, "partitions need namespaces"
        for other in (COORDINATOR_NAME, *(node for node, of in self._cluster.nodes.items() if of == shard)):
            if other != victim:
                await aside(network.cut, other, victim)
        await asyncio.sleep(CUT_S)
        await aside(network.heal)

    def _errors(self) -> Counter[str]:
        return sum((times.undecided for times in self._times.values()), Counter())


def rows_of(failover: Failover, kinds: Sequence[str]) -> Iterator[Row]:
    """The table, kind by kind."""
    for kind in kinds:
        changes = [change for change in failover.changes if change.kind == kind]
        if not changes:
            continue
        errors = ", ".join(f"{count} × {what}" for what, count in sorted(failover.errors[kind].items()))
        gaps = [change.without_success_ns for change in changes]
        for percentile in (50, 99):
            name = f"{TITLES[kind]}: time without a success, p{percentile}"
            yield _row(name, gaps, percentile, TARGETS_MS.get((kind, percentile)))
        count, target = failover.errors[kind].total(), ERRORS_TARGETS.get(kind)
        yield _figure(f"{TITLES[kind]}: orders without a decision", count, "orders", len(changes), target, errors)
        waits = [change.waited_ns for change in changes]
        yield _row(f"{TITLES[kind]}: longest wait of an order from its intended time, p99", waits, 99)
        yield _row(f"{TITLES[kind]}: longest fdatasync of an idle file beside, p99", [c.disk_ns for c in changes], 99)
        name = f"{TITLES[kind]}: until all nodes are in sync again, looked at from {WATCH_S:g} s on, p99"
        yield _row(name, [change.whole_ns for change in changes], 99)
        before, during = (percentile_ms(values[kind], 99) for values in (failover.before_ns, failover.during_ns))
        yield _figure(
            f"{TITLES[kind]}: other shards' p99 within {WATCH_S:g} s / before",
            during / before if before else 0.0,
            "times",
            len(changes),
            OTHERS_TARGET,
            f"{before:,.1f} ms before, {during:,.1f} ms after",
        )


def _row(name: str, values_ns: Sequence[int], percentile: int, target: float | None = None) -> Row:
    value = percentile_ms(values_ns, percentile)
    return Row(
        name=name,
        value=value,
        unit="ms",
        min=min(values_ns) / NS_PER_MS,
        max=max(values_ns) / NS_PER_MS,
        runs=len(values_ns),
        target=target,
        met=None if target is None else value <= target,
    )


def _figure(name: str, value: float, unit: str, runs: int, target: float | None, detail: str) -> Row:
    return Row(
        name=name,
        value=value,
        unit=unit,
        min=value,
        max=value,
        runs=runs,
        target=target,
        met=None if target is None else value <= target,
        detail=detail,
    )


async def _measure(data: Path, mode: Mode, counts: dict[str, int], *, apart: bool) -> tuple[Failover, str]:
    cluster = await aside(lambda: Cluster(data, shards=SHARDS, mode=mode, apart=apart, traced=False))
    with DiskProbe(data) as disk:
        failover = Failover(cluster, disk)
        try:
            await failover.run(counts)
        except ShardexError as trouble:
            return failover, str(trouble)
        finally:
            await aside(cluster.stop)
    return failover, ""


def main() -> int:
    """Run, print, remove what was written unless something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m drills.failover", description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="changes of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--mode", choices=("both", "replicated"), default="both")
    parser.add_argument("--json", action="store_true", help="print what is in build/failover.json instead of a table")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    if set(kinds) - set(KINDS) or arguments.count < 1:
        parser.error(f"kinds are {', '.join(KINDS)}; count is at least 1")
    BUILD.mkdir(exist_ok=True)
    machine = describe(BUILD)
    data = Path(tempfile.mkdtemp(prefix="failover-", dir=BUILD))
    left_out = PARTITION in kinds and missing()
    if left_out:
        kinds.remove(PARTITION)
    rows: list[Row] = []
    changes: list[Change] = []
    errors: dict[str, dict[str, int]] = {}
    trouble = ""
    for apart in (False, True):
        counts = {kind: arguments.count for kind in kinds if (kind == PARTITION) == apart}
        if not counts or trouble:
            continue
        failover, trouble = uvloop.run(_measure(data / f"cluster-{apart:d}", arguments.mode, counts, apart=apart))
        rows += rows_of(failover, [kind for kind in kinds if kind in failover.errors])
        changes += failover.changes
        errors |= {kind: dict(counted) for kind, counted in failover.errors.items()}
    said = trouble or (f"{PARTITION} was left out: {', '.join(left_out)} missing on this machine" if left_out else "")
    result = Result(machine, arguments.mode, ORDERS_PER_S, rows, changes, errors, said)
    content = msgspec.json.encode(result)
    (BUILD / "failover.json").write_bytes(msgspec.json.format(content))
    if arguments.json:
        print(content.decode())
    else:
        title = (
            f"durability `{arguments.mode}`, {ORDERS_PER_S:,} orders/s over {SHARDS} shards, commit {machine.commit}"
        )
        Console(width=None if sys.stdout.isatty() else 160).print(table(rows, title, figure="figure"))
    if trouble:
        print(f"ended early: {trouble}; everything is kept in {data}", file=sys.stderr)
        return 1
    if left_out:
        print(said, file=sys.stderr)
    shutil.rmtree(data, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
