"""`python -m drills.failover`: how long does nobody get through when a shard changes hands? Measured, fault by fault.

One order at a time from several clients at a steady rate, so that a pause is seen to some milliseconds. After each
fault both nodes must be in sync again before the next. Other shards are watched too: their latency before and during.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from bisect import bisect_left, bisect_right
from pathlib import Path

import msgspec
from msgspec import Struct, field

from drills.clients import Client, Recorder, markets_of
from drills.cluster import Cluster, aside
from drills.outages import Spread, longest_pause_ns, spread
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ShardexError

SHARDS = 2
CLIENTS = 8
ORDERS_PER_S = 200
WARM_UP_S = 5.0
CALM_S = 2.0
WATCH_S = 3.0
STOPPED_S = 3.0
WHOLE_S = 60.0
KINDS = ("kill", "stop", "switch")


class Measured(Struct):
    """What one kind of change costs; milliseconds. `errors` = calls that ended with 503, 504 or no answer."""

    kind: str
    without_success: Spread
    others_p99_before: float
    others_p99_during: float
    errors: dict[str, int]


class Result(Struct):
    """All kinds, and the conditions."""

    mode: str
    count: int
    orders_per_s: int
    measured: list[Measured] = field(default_factory=list)
    trouble: str = ""


class Failover:
    """One cluster, one load, many changes of hands."""

    def __init__(self, arguments: argparse.Namespace, data: Path) -> None:
        self.result = Result(arguments.mode, arguments.count, ORDERS_PER_S)
        self._arguments = arguments
        self._data = data
        self._gate = asyncio.Event()
        self._cluster: Cluster
        self._recorder: Recorder

    async def run(self) -> Result:
        """Measure every kind that was asked for."""
        self._cluster = await aside(lambda: Cluster(self._data / "cluster", shards=SHARDS, mode=self._arguments.mode))
        try:
            await aside(self._cluster.wait_whole)
            await self._play()
        except ShardexError as trouble:
            self.result.trouble = str(trouble)
        finally:
            await aside(self._cluster.stop)
        return self.result

    async def _play(self) -> None:
        url = self._cluster.url
        markets = await markets_of(url)
        self._recorder = Recorder(self._data / "history.ndjson", {market.index: market.shard for market in markets})
        rate = ORDERS_PER_S / CLIENTS
        clients = [
            Client(f"client-{number}", url, markets, self._recorder, seed=number, rate=rate, batch=1)
            for number in range(CLIENTS)
        ]
        runs = [asyncio.create_task(client.run(self._gate)) for client in clients]
        self._gate.set()
        try:
            await asyncio.sleep(WARM_UP_S)
            for kind in self._arguments.kinds:
                self.result.measured.append(await self._measure(kind))
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
            for client in clients:
                await client.close()
            self._recorder.close()

    async def _measure(self, kind: str) -> Measured:
        recorder = self._recorder
        pauses, before, during = [], [], []
        outcomes = dict(recorder.outcomes)
        for number in range(self._arguments.count):
            shard = self._cluster.shards[number % SHARDS]
            victim = await aside(self._cluster.primary, shard)
            calm_ns = monotonic_ns()
            await asyncio.sleep(CALM_S)
            at_ns = monotonic_ns()
            await self._change(kind, shard, victim)
            await asyncio.sleep(max(0.0, WATCH_S - (monotonic_ns() - at_ns) / NS_PER_S))
            until_ns = at_ns + int(WATCH_S * NS_PER_S)
            pauses.append(longest_pause_ns(recorder.successes[shard], at_ns, until_ns))
            for other in self._cluster.shards:
                if other != shard:
                    before += self._latencies(other, calm_ns, at_ns)
                    during += self._latencies(other, at_ns, until_ns)
            await aside(self._cluster.wait_whole, WHOLE_S)
            done = f"{number + 1}/{self._arguments.count} {kind} {victim}: {pauses[-1] / NS_PER_MS:,.0f} ms"
            print(done, file=sys.stderr, flush=True)
        errors = {
            kind_: recorder.outcomes[kind_] - outcomes.get(kind_, 0)
            for kind_ in ("503", "504", "lost")
            if recorder.outcomes[kind_] > outcomes.get(kind_, 0)
        }
        return Measured(kind, spread(pauses), spread(before).p99, spread(during).p99, errors)

    async def _change(self, kind: str, shard: str, victim: str) -> None:
        if kind == "switch":
            await aside(self._cluster.switch, shard)
        elif kind == "kill":
            await aside(self._cluster.signal, victim, signal.SIGKILL)
        else:
            await aside(self._cluster.signal, victim, signal.SIGSTOP)
            await asyncio.sleep(STOPPED_S)
            await aside(self._cluster.signal, victim, signal.SIGCONT)

    def _latencies(self, shard: str, from_ns: int, until_ns: int) -> list[int]:
        """Of the calls of one shard that returned in a stretch; returns are noted in order."""
        times = self._recorder.successes[shard]
        first, last = bisect_left(times, from_ns), bisect_right(times, until_ns)
        return list(self._recorder.latencies[shard][first:last])


def lines(result: Result) -> list[str]:
    """For people."""
    said = [f"{result.count} of each kind, mode {result.mode}, {result.orders_per_s} orders/s over {SHARDS} shards"]
    for one in result.measured:
        s = one.without_success
        errors = ", ".join(f"{count} x {what}" for what, count in one.errors.items()) or "no error at any client"
        said.append(
            f"{one.kind}: without a success p50 {s.p50:,.0f} ms, p99 {s.p99:,.0f} ms, longest {s.longest:,.0f} ms; "
            f"other shards' p99 {one.others_p99_before:,.1f} -> {one.others_p99_during:,.1f} ms; {errors}"
        )
    return [*said, f"trouble: {result.trouble}"] if result.trouble else said


def main() -> None:
    """Run, print, remove what was written."""
    parser = argparse.ArgumentParser(prog="python -m drills.failover", description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="changes of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--mode", choices=("both", "replicated"), default="both")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.kinds = arguments.kinds.split(",")
    if set(arguments.kinds) - set(KINDS) or arguments.count < 1:
        parser.error(f"kinds are {', '.join(KINDS)}; count is at least 1")
    data = Path(tempfile.mkdtemp(prefix="sx-failover-"))
    result = asyncio.run(Failover(arguments, data).run())
    print(msgspec.json.encode(result).decode() if arguments.json else "\n".join(lines(result)))
    if result.trouble:
        print(f"everything is kept in {data}", file=sys.stderr)
        sys.exit(1)
    shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
