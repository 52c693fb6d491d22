"""Partition drills: `python -m drills.partition [--only D07,D08] [--json]`. Linux, root, ip and iptables.

Each drill has a cluster of its own, of two nodes and a coordinator in network namespaces, under load; it cuts, heals,
waits until both nodes are in sync, stops the load, and then lets the checker judge journals, control store and every
answer that a client was given. Exit codes: 0 all as it should be, 1 a rule was broken, 2 only slower than the target.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct, field, to_builtins

from drills.checker.check import Inputs, check
from drills.checker.history import Call
from drills.checker.metadata import Metadata
from drills.network import NetworkError
from drills.proxy import WELL, Proxy, Toxics
from drills.stage import COORDINATOR, SHARD, SUSPECT_MS, Late, Stage, open_cluster, shard_of, trails
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ShardexError

WARM_UP_S = 2.0
CUT_S = 4.0
LOSS_S = 10.0
AFTER_S = 1.5
"""Load goes on for so long after everything is well again."""
EQUAL_S = 10.0
ALONE_NS = 100 * NS_PER_MS
"""After a shrink was recorded the primary knows it and answers what has waited."""
RECOVER_NS = 2 * NS_PER_S
"""After a line is well again latency must be so, too."""

EXIT_BROKEN = 1
EXIT_SLOW = 2
FAIL, SLOW, PASS = "FAIL", "slow", "pass"


class Measure(Struct, frozen=True):
    """One figure; `within` is the target, -1 = none."""

    what: str
    value: float
    unit: str = "ms"
    within: float = -1

    @property
    def missed(self) -> bool:
        """It is above its target."""
        return 0 <= self.within < self.value


class Outcome(Struct):
    """What came of one drill. `broken` = sentences about what must never be; `calls` = how clients' calls ended."""

    drill: str
    title: str
    measures: list[Measure] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    checked: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """FAIL = a rule is broken, SLOW = a target is missed, PASS."""
        if self.broken:
            return FAIL
        return SLOW if any(measure.missed for measure in self.measures) else PASS

    def expect(self, condition: bool, sentence: str) -> None:
        """A rule; the sentence says how it was broken."""
        if not condition:
            self.broken.append(sentence)

    def time(self, what: str, took_ns: int, within_ms: float = -1) -> None:
        """A duration and its target."""
        self.measures.append(Measure(what, round(took_ns / NS_PER_MS, 1), "ms", within_ms))

    def count(self, what: str, value: int, within: int = -1) -> None:
        """A number and its target."""
        self.measures.append(Measure(what, value, "", within))


async def d07(stage: Stage, outcome: Outcome) -> None:
    """P-S cut: the primary asks for a smaller set, goes on alone, and takes the standby back."""
    await _link_fault(stage, outcome, partial(stage.network.cut, stage.shard.primary, stage.standby), "cut")


async def d08(stage: Stage, outcome: Outcome) -> None:
    """P cut from S and from the coordinator, gateways reach it: it falls silent, the standby leads."""
    await _isolate(stage, outcome, restart=False)


async def d08r(stage: Stage, outcome: Outcome) -> None:
    """As D08; the old primary is killed while it is cut off, and the process after it registers after the cut."""
    await _isolate(stage, outcome, restart=True)


async def d09(stage: Stage, outcome: Outcome) -> None:
    """P cut from the coordinator only: held while the standby hears it, then at most one failover."""
    primary, epoch, begun_ns = stage.shard.primary, stage.shard.epoch, monotonic_ns()
    stage.network.cut(primary, COORDINATOR)
    await asyncio.sleep(CUT_S)
    healed_ns = await _heal(stage, outcome, within_ms=5_000)
    held = [shard for shard in stage.seen(begun_ns) if shard.epoch == epoch]
    outcome.expect(bool(held), "the term changed at once though the standby heard the primary")
    outcome.count("failovers", stage.shard.epoch - epoch, 1)
    outcome.time("without a success", stage.longest_gap_ns(begun_ns, healed_ns), 1_500)


async def d10(stage: Stage, outcome: Outcome) -> None:
    """One direction of P-S at a time."""
    primary, standby = stage.shard.primary, stage.standby
    for source, target, what in ((standby, primary, "S to P lost"), (primary, standby, "P to S lost")):
        await _link_fault(stage, outcome, partial(stage.network.cut, source, target, one_way=True), what)


async def d11(stage: Stage, outcome: Outcome) -> None:
    """A fifth of all packets between P and S is lost for ten seconds: slow, no flapping."""
    primary, standby, epoch, begun_ns = stage.shard.primary, stage.standby, stage.shard.epoch, monotonic_ns()
    since_ns = wall_ns()
    stage.network.lose(primary, standby, share=0.2)
    stage.network.lose(standby, primary, share=0.2)
    await asyncio.sleep(LOSS_S)
    ended_ns = monotonic_ns()
    outcome.count("changes of the in-sync set during the loss", _set_changes(stage.running.config.data, since_ns), 2)
    await _heal(stage, outcome, within_ms=5_000)
    outcome.expect(stage.shard.epoch == epoch, f"the term went from {epoch} to {stage.shard.epoch}")
    outcome.time("without a success", stage.longest_gap_ns(begun_ns, ended_ns))
    outcome.time("p50 during", stage.latency_ns(begun_ns, ended_ns, 0.5))
    outcome.time("p99 during", stage.latency_ns(begun_ns, ended_ns, 0.99))


async def d12(stage: Stage, outcome: Outcome) -> None:
    """The replication link gets 100 ms slower, give or take 50, each way; later it is torn once."""
    epoch = stage.shard.epoch
    proxy = await _link_through_proxy(stage)
    before_ns = monotonic_ns()
    await asyncio.sleep(WARM_UP_S)
    outcome.expect(proxy.connections > 0, "the replication link does not lead through the proxy")
    begun_ns = monotonic_ns()
    proxy.poison(Toxics(latency_ms=100, jitter_ms=50))
    await asyncio.sleep(CUT_S)
    proxy.poison(WELL)
    ended_ns = monotonic_ns()
    settled_ns = ended_ns + RECOVER_NS
    await asyncio.sleep(2 * RECOVER_NS / NS_PER_S)
    torn_ns = monotonic_ns()
    proxy.reset_peer()
    await _heal(stage, outcome, within_ms=5_000, what="torn: ")
    outcome.expect(stage.shard.epoch == epoch, f"the term went from {epoch} to {stage.shard.epoch}")
    for name, from_ns, to_ns in (("before", before_ns, begun_ns), ("during", begun_ns, ended_ns)):
        outcome.time(f"{name}: p50", stage.latency_ns(from_ns, to_ns, 0.5))
        outcome.time(f"{name}: p99", stage.latency_ns(from_ns, to_ns, 0.99))
    usual_ms = 2 * stage.latency_ns(before_ns, begun_ns, 0.99) / NS_PER_MS
    outcome.time("from 2 s after on: p99", stage.latency_ns(settled_ns, torn_ns, 0.99), max(100.0, round(usual_ms)))
    outcome.time("torn: without a success", stage.longest_gap_ns(torn_ns, monotonic_ns()), 600)


async def _link_through_proxy(stage: Stage) -> Proxy:
    """Have the standby reach its primary through a proxy, which lives until the stage ends."""
    primary, standby = stage.shard.primary, stage.standby
    host, _, port = stage.running.config.endpoint(f"replica.{primary}").removeprefix("tcp://").rpartition(":")
    proxy = Proxy(host, int(port), random.Random(12))  # noqa: S311 - repeatable, not secret
    stage.at_end(proxy.close)
    door = await proxy.start(stage.network.outside)
    stage.network.divert(standby, primary, int(port), door)
    # The connection that there is goes on; so it is cut, until there is another one.
    stage.network.cut(standby, primary, one_way=True)
    await stage.until(lambda _: proxy.connections > 0, "the standby's connection through the proxy")
    stage.network.heal()
    await stage.until_well()
    return proxy


Play = Callable[[Stage, Outcome], Awaitable[None]]

DRILLS: dict[str, tuple[str, Play]] = {
    "D07": ("primary and standby cut off from each other", d07),
    "D08": ("primary cut off from standby and coordinator, not from gateways", d08),
    "D08R": ("as D08, and the primary is killed while it is cut off", d08r),
    "D09": ("primary cut off from the coordinator only", d09),
    "D10": ("one direction between primary and standby lost, then the other", d10),
    "D11": ("a fifth of all packets between primary and standby lost", d11),
    "D12": ("replication link 100 ms late, give or take 50, each way; then torn once", d12),
}


async def _link_fault(stage: Stage, outcome: Outcome, fault: Callable[[], None], what: str) -> None:
    """Something between the two nodes, whichever way: solo after a recorded shrink, in sync again when it is over."""
    primary, epoch, begun_ns = stage.shard.primary, stage.shard.epoch, monotonic_ns()
    fault()
    shrunk_ns = await stage.until(lambda status: shard_of(status).isr == [primary], f"{what}: the primary alone", 10.0)
    outcome.time(f"{what}: shrink recorded", shrunk_ns - begun_ns)
    await asyncio.sleep(CUT_S)
    healed_ns = await _heal(stage, outcome, within_ms=5_000, what=f"{what}: ")
    outcome.expect(stage.shard.epoch == epoch, f"{what}: the term went from {epoch} to {stage.shard.epoch}")
    outcome.time(f"{what}: without a success", stage.longest_gap_ns(begun_ns, healed_ns), 600)
    outcome.time(f"{what}: once more, while alone", stage.longest_gap_ns(shrunk_ns + ALONE_NS, healed_ns), 300)


async def _isolate(stage: Stage, outcome: Outcome, *, restart: bool) -> None:
    old, new, epoch, begun_ns = stage.shard.primary, stage.standby, stage.shard.epoch, monotonic_ns()
    stage.network.cut(old, COORDINATOR)
    stage.network.cut(old, new)
    led_ns = await stage.until(lambda status: shard_of(status).primary == new, f"{new} leads", 10.0)
    outcome.time("promoted", led_ns - begun_ns)
    if restart:
        stage.running.kill(old, signal.SIGKILL)
    await asyncio.sleep(CUT_S)
    healed_ns = await _heal(stage, outcome, within_ms=5_000)
    outcome.time("without a success", stage.longest_gap_ns(begun_ns, healed_ns), 1_500)
    outcome.expect(stage.shard.epoch == epoch + 1, f"the term went from {epoch} to {stage.shard.epoch}, not one on")
    outcome.expect(stage.shard.primary == new, f"{stage.shard.primary} leads, not {new}")
    await stage.settle()
    late = _answers_of(stage.history, epoch, led_ns)
    outcome.expect(not late, f"{old} answered {len(late)} orders in term {epoch} after {new} led: {late[:3]}")


async def _heal(stage: Stage, outcome: Outcome, *, within_ms: float, what: str = "") -> int:
    """Undo all faults and wait until everything is well; returns when they were undone."""
    stage.network.heal()
    healed_ns = monotonic_ns()
    well_ns = await stage.until_well()
    outcome.time(f"{what}in sync after the end", well_ns - healed_ns, within_ms)
    await asyncio.sleep(AFTER_S)
    outcome.time(f"{what}without a success after the end", stage.longest_gap_ns(healed_ns, monotonic_ns()))
    return healed_ns


def _answers_of(history: Path, epoch: int, since_ns: int) -> list[str]:
    """First final answers of a term that reached a client after this time."""
    calls = (msgspec.json.decode(line, type=Call) for line in history.read_bytes().splitlines())
    return [
        f"{call.id} at seq {call.outcome.seq}, {(call.return_ns - since_ns) / NS_PER_MS:.0f} ms after"
        for call in calls
        if call.outcome.seq and call.outcome.epoch == epoch and not call.outcome.duplicate and call.return_ns > since_ns
    ]


def _set_changes(data: Path, since_ns: int) -> int:
    """How often the recorded in-sync set changed since this wall-clock time."""
    versions = Metadata(data).versions[SHARD]
    return sum(before.group.isr != after.group.isr for before, after in pairwise(versions) if after.at_ns >= since_ns)


def play(name: str, directory: Path, *, suspect_ms: int = SUSPECT_MS) -> Outcome:
    """One drill from an empty directory to the checker's verdict; what it leaves there is the evidence.

    `suspect_ms` = silence after which a primary is replaced.
    NetworkError where namespaces cannot be made; every other trouble is in the outcome.
    """
    title, drill = DRILLS[name]
    outcome = Outcome(name, title)
    data, history = directory / "cluster", directory / "history.ndjson"
    try:
        with open_cluster(data, suspect_ms=suspect_ms) as (network, running):
            asyncio.run(_perform(Stage(network, running, history), drill, outcome))
        report = check(Inputs(data=data, histories=[history]), progress=lambda what, done, total: None)
    except NetworkError:
        raise
    except (ShardexError, Late, TimeoutError, ExceptionGroup) as fault:
        outcome.broken.append(f"{type(fault).__name__}: {fault}")
    else:
        outcome.checked = report.lines()
        outcome.broken += [f"{found.invariant} {found.subject}: {found.sentence}" for found in report.findings]
    return outcome


async def _perform(stage: Stage, drill: Play, outcome: Outcome) -> None:
    try:
        await stage.begin()
        await stage.until_well()
        steady_ns = monotonic_ns()
        await asyncio.sleep(WARM_UP_S)
        outcome.time("before: longest without a success", stage.longest_gap_ns(steady_ns, monotonic_ns()))
        await drill(stage, outcome)
        unknown = await stage.settle()
        outcome.expect(not unknown, f"{unknown} outcomes stay unknown")
        await stage.until(lambda status: len(dict.fromkeys(trails(status))) == 1, "both nodes at the same", EQUAL_S)
        outcome.calls = stage.outcomes
    finally:
        await stage.end()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play drills one after the other and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m drills.partition", description=__doc__)
    parser.add_argument("--only", default="", help=f"comma-separated, of {','.join(DRILLS)}")
    parser.add_argument("--json", action="store_true", help="one JSON list on stdout")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(DRILLS)
    unknown = [name for name in names if name not in DRILLS]
    if unknown:
        parser.error(f"--only {', '.join(unknown)}: drills are {', '.join(DRILLS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    outcomes = []
    for name in names:
        directory = Path(tempfile.mkdtemp(prefix=f"shardex-{name.lower()}-"))
        try:
            outcome = play(name, directory)
        except NetworkError as fault:
            print(f"drills.partition: {fault}", file=sys.stderr)
            return EXIT_BROKEN
        outcomes.append(outcome)
        print("\n".join(_lines(outcome)), file=sys.stderr if options.json else sys.stdout, flush=True)
        if outcome.broken:
            print(f"  evidence: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
    if options.json:
        print(
            msgspec.json.encode([{**to_builtins(outcome), "verdict": outcome.verdict} for outcome in outcomes]).decode()
        )
    verdicts = [outcome.verdict for outcome in outcomes]
    return EXIT_BROKEN if FAIL in verdicts else EXIT_SLOW if SLOW in verdicts else 0


def _lines(outcome: Outcome) -> list[str]:
    """For people."""
    said = [f"{outcome.drill:5}{outcome.verdict:5} {outcome.title}"]
    for measure in outcome.measures:
        target = f"  at most {measure.within:g}" if measure.within >= 0 else ""
        said.append(f"  {measure.what:55}{measure.value:10,g} {measure.unit:2}{target}{' MISSED' * measure.missed}")
    said.append(f"  calls: {', '.join(f'{kind} {count}' for kind, count in outcome.calls.items())}")
    said += [f"  check: {line}" for line in outcome.checked]
    said += [f"  BROKEN {sentence}" for sentence in outcome.broken]
    return said


if __name__ == "__main__":
    sys.exit(main())
