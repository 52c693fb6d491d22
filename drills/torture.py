"""`python -m drills.torture`: a cluster under load loses random parts, again and again; then the checker has the word.

Exit status: 0 = nothing lost, nothing run twice, no finding, everybody came back; 1 = not so; the data is kept then.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from drills.capture import Subscriber
from drills.checker.report import Report
from drills.clients import Client, Recorder, markets_of
from drills.cluster import Cluster, aside
from drills.faults import KINDS, LASTS_S, PAUSE_S, Fault, Faults
from drills.outages import Spread, outage, spread
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ShardexError, Unavailable
from exchange.process import EXIT_IO

SHARDS = 2
CLIENTS = 6
BATCH = 8
CHECK_EVERY = 50
SETTLE_S = 90.0
CHECK_S = 900.0
LONGEST = 10
EFFECT_NS = 5 * NS_PER_S
"""A pause that begins later than this after a fault is not its effect."""
NEXT_NS = 100 * NS_PER_MS
"""A pause that begins so shortly before the next fault is that one's effect: answers are some milliseconds apart."""
DOOR = "gateway"
"""While it is away, what clients see says nothing about shards."""


class Result(Struct):
    """What a torture came to. Times in milliseconds; `lost` = findings of I3, `duplicated` = of I4."""

    seed: int
    mode: str
    commit: str
    faults: dict[str, int] = field(default_factory=dict)
    seconds: int = 0
    orders: int = 0
    calls: int = 0
    acked: int = 0
    undecided: int = 0
    lost: int = 0
    duplicated: int = 0
    findings: dict[str, int] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    without_success_ms: dict[str, Spread] = field(default_factory=dict)
    longest: list[str] = field(default_factory=list)
    epochs: dict[str, int] = field(default_factory=dict)
    checks: int = 0
    images: int = 0
    disk_failures: int = 0
    troubles: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice, nothing found, everybody came back, everything was decided."""
        return not (self.findings or self.troubles or self.undecided) and self.checks > 0


class Torture:
    """One run. Use inside a running loop."""

    def __init__(self, arguments: argparse.Namespace, data: Path) -> None:
        self.result = Result(arguments.seed, arguments.mode, _commit())
        self._arguments = arguments
        self._data = data
        self._gate = asyncio.Event()
        self._clients: list[Client] = []
        self._struck: list[Fault] = []
        self._quiet_ns: list[int] = []
        self._cluster: Cluster
        self._recorder: Recorder
        self._subscriber: Subscriber

    async def run(self) -> Result:
        """Start, strike, check, stop. Troubles are told in the result."""
        arguments, began_ns = self._arguments, monotonic_ns()
        apart = "partition" in arguments.faults
        self._cluster = await aside(
            lambda: Cluster(self._data / "cluster", shards=SHARDS, mode=arguments.mode, apart=apart)
        )
        try:
            await aside(self._cluster.wait_whole)
            await self._play()
        except Unavailable as trouble:
            self.result.troubles.append(str(trouble))
        finally:
            await aside(self._cluster.stop)
        self.result.seconds = (monotonic_ns() - began_ns) // NS_PER_S
        return self.result

    async def _play(self) -> None:
        arguments = self._arguments
        markets = await markets_of(self._cluster.url)
        self._recorder = Recorder(self._data / "history.ndjson", {market.index: market.shard for market in markets})
        self._subscriber = Subscriber(self._cluster.config, "watcher", self._data / "captures.ndjson")
        lasts_s = fmean(LASTS_S[kind] for kind in arguments.faults)
        rate = arguments.orders / (arguments.kills * (lasts_s + fmean(PAUSE_S))) / CLIENTS
        for number in range(CLIENTS):
            name, seed = f"client-{number}", arguments.seed * CLIENTS + number
            client = Client(name, self._cluster.url, markets, self._recorder, seed=seed, rate=rate, batch=BATCH)
            self._clients.append(client)
        runs = [asyncio.create_task(client.run(self._gate)) for client in self._clients]
        self._gate.set()
        faults = Faults(self._cluster, arguments.faults, arguments.seed)
        try:
            await asyncio.sleep(2.0)
            for number in range(1, arguments.kills + 1):
                self._struck.append(await faults.strike())
                await asyncio.sleep(faults.pause_s())
                self._progress(number)
                if number % arguments.check_every == 0 or number == arguments.kills:
                    await self._check()
                if not self.result.good and self.result.checks:
                    break
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
            for client in self._clients:
                await client.close()
            await self._subscriber.close()
            self._recorder.close()
            self._sum_up()

    async def _check(self) -> None:
        """Stop the load, let everything be decided and everybody come back, look at all of it, go on."""
        self._gate.clear()
        self._quiet_ns.append(monotonic_ns())
        result = self.result
        try:
            async with asyncio.timeout(SETTLE_S):
                for client in self._clients:
                    await client.settled()
        except TimeoutError:
            result.troubles.append(f"outcomes undecided {SETTLE_S:g} s after the load had stopped")
        await aside(self._cluster.wait_whole, SETTLE_S)
        await asyncio.sleep(0.5)
        self._recorder.flush()
        self._subscriber.flush()
        words = [sys.executable, "-m", "shardex", "check", str(self._data / "cluster"), "--json"]
        words += ["--history", str(self._data / "history.ndjson"), "--captures", str(self._data / "captures.ndjson")]
        checker = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        said, complaint = await asyncio.wait_for(checker.communicate(), CHECK_S)
        try:
            report = msgspec.json.decode(said, type=Report)
        except msgspec.DecodeError:
            complained = complaint.decode(errors="replace")[-400:]
            result.troubles.append(f"the checker ended with {checker.returncode} and no report: {complained}")
            return
        result.checks += 1
        result.findings = report.counts
        result.sentences = [f"{one.invariant} {one.subject}: {one.sentence}" for one in report.findings]
        result.lost, result.duplicated = report.counts.get("I3", 0), report.counts.get("I4", 0)
        result.undecided = sum(client.undecided for client in self._clients)
        self._gate.set()

    def _sum_up(self) -> None:
        result, recorder = self.result, self._recorder
        result.faults = dict(Counter(fault.what for fault in self._struck))
        result.orders, result.calls, result.acked = recorder.orders, recorder.calls, recorder.acked
        for name, status in self._cluster.ended:
            if status == EXIT_IO and "disk" in self._arguments.faults:
                result.disk_failures += 1
            else:
                result.troubles.append(f"{name} ended by itself with exit status {status}")
        result.outcomes = dict(sorted(recorder.outcomes.items()))
        result.images = self._subscriber.images
        pauses = pauses_of(self._struck, recorder.successes, self._quiet_ns)
        by_kind: dict[str, list[int]] = {}
        for pause in pauses:
            by_kind.setdefault(pause.fault.what, []).append(pause.pause_ns)
        result.without_success_ms = {what: spread(values) for what, values in sorted(by_kind.items())}
        pauses.sort(key=lambda pause: -pause.pause_ns)
        result.longest = [str(pause) for pause in pauses[:LONGEST]]
        try:
            result.epochs = {shard.shard: shard.epoch for shard in self._cluster.status().shards}
        except Unavailable as trouble:
            result.troubles.append(str(trouble))

    def _progress(self, number: int) -> None:
        recorder = self._recorder
        fault = self._struck[-1]
        print(
            f"{number}/{self._arguments.kills} {fault}; {recorder.acked:,} orders "
            f"answered, {recorder.outcomes['503']} x 503, {recorder.outcomes['504']} x 504, "
            f"{recorder.outcomes['lost']} lost connections",
            file=sys.stderr,
            flush=True,
        )


class Pause(NamedTuple):
    """How long nobody got through to a shard after a fault."""

    fault: Fault
    number: int
    shard: str
    pause_ns: int

    def __str__(self) -> str:
        said = f"{self.pause_ns // NS_PER_MS:,} ms of {self.shard} after fault {self.number}"
        return f"{said}, {self.fault}"


def pauses_of(struck: Sequence[Fault], successes: Mapping[str, Sequence[int]], quiet_ns: Sequence[int]) -> list[Pause]:
    """The pauses of the victim's shard after each fault, or of every shard, where the victim was of none.

    `quiet_ns` = when the load was stopped for a check. A pause in which the gateway was away is left out.
    """
    # While it was checked nobody asked: that is no outage.
    times = {shard: sorted([*of_shard, *quiet_ns]) for shard, of_shard in successes.items()}
    anybody = sorted(at_ns for of_shard in times.values() for at_ns in of_shard)
    closed = [outage(anybody, fault.at_ns, fault.at_ns + EFFECT_NS) for fault in struck if fault.part == DOOR]
    pauses: list[Pause] = []
    for number, (fault, following) in enumerate(zip_longest(struck, struck[1:]), start=1):
        ends = [at_ns for at_ns in quiet_ns if at_ns > fault.at_ns]
        until_ns = min([fault.at_ns + EFFECT_NS, *([following.at_ns - NEXT_NS] if following else []), *ends])
        for shard in [fault.shard] if fault.shard else times:
            begin_ns, end_ns = outage(times[shard], fault.at_ns, until_ns)
            met = any(began < end_ns and begin_ns < ended for began, ended in closed)
            if fault.part == DOOR or not met:
                pauses.append(Pause(fault, number, shard, end_ns - begin_ns))
    return pauses


def lines(result: Result) -> list[str]:
    """For people: every claim with what it rests on."""
    r = result
    struck = ", ".join(f"{count} {what}" for what, count in sorted(r.faults.items()))
    said = [
        f"seed {r.seed}, mode {r.mode}, commit {r.commit}, {r.seconds} s, {r.checks} checks",
        f"{sum(r.faults.values())} faults: {struck}",
        f"{r.orders:,} orders, {r.calls:,} calls, {r.acked:,} answered from the log; "
        + ", ".join(f"{count} {kind}" for kind, count in r.outcomes.items()),
        f"{r.lost} lost, {r.duplicated} duplicated, {sum(r.findings.values())} findings, {r.undecided} undecided; "
        + ", ".join(f"{shard} in term {epoch}" for shard, epoch in r.epochs.items()),
    ]
    for what, s in r.without_success_ms.items():
        times = f"p50 {s.p50:,.0f} ms, p99 {s.p99:,.0f} ms, longest {s.longest:,.0f} ms"
        said.append(f"without a success after {what} ({s.count}): {times}")
    said += [f"longest without a success: {pause}" for pause in r.longest]
    return said + r.sentences + [f"trouble: {trouble}" for trouble in r.troubles]


def _commit() -> str:
    words = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Arguments; `faults` is a list of KINDS."""
    parser = argparse.ArgumentParser(prog="python -m drills.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many faults")
    parser.add_argument("--orders", type=int, default=0, help="about how many orders meanwhile; default: 500 a fault")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--mode", choices=("both", "replicated"), default="both")
    parser.add_argument("--faults", default="kill", help=f"comma-separated, of {', '.join(KINDS)}")
    parser.add_argument("--check-every", type=int, default=CHECK_EVERY)
    parser.add_argument("--data", type=Path, help="keep everything here; default: a directory that a good end removes")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(words)
    arguments.faults = arguments.faults.split(",")
    unknown = sorted(set(arguments.faults) - set(KINDS))
    if unknown or arguments.kills < 1:
        parser.error(f"faults are {', '.join(KINDS)}, not {', '.join(unknown)}; kills is at least 1")
    arguments.orders = arguments.orders or 500 * arguments.kills
    return arguments


def main() -> None:
    """Run, print, leave nothing behind when all was well."""
    arguments = parse()
    data = arguments.data or Path(tempfile.mkdtemp(prefix="sx-torture-"))
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        result: Any = asyncio.run(Torture(arguments, data).run())
    except ShardexError as error:
        print(f"torture: {error}; everything is in {data}", file=sys.stderr)
        sys.exit(1)
    print(msgspec.json.encode(result).decode() if arguments.json else "\n".join(lines(result)))
    if not result.good:
        print(f"everything is kept in {data}", file=sys.stderr)
        sys.exit(1)
    if arguments.data is None:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
