"""`check`: everything of one data directory, and what clients and subscribers saw, against every invariant."""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from drills.checker import invariants
from drills.checker.history import Calls, Captures, read_captures
from drills.checker.journals import Line, NodeLog, read_logs
from drills.checker.market import Market
from drills.checker.metadata import Metadata
from drills.checker.observers import Answers, Events, Once, Snapshots
from drills.checker.report import Report
from drills.checker.traces import Note, read_trace
from drills.checker.walk import Create, Observer, Walk
from shard.core.engine import create_engine

Progress = Callable[[str, int, int], None]
"""(what is being done, bytes done, bytes in all)."""
PROGRESS_RECORDS = 1_024


class Inputs(Struct, frozen=True, kw_only=True):
    """What to check. `synced` = the durability mode is `both`; `gap_max_ms` None = availability is only reported."""

    data: Path
    histories: Sequence[Path] = ()
    captures: Sequence[Path] = ()
    synced: bool = True
    gap_max_ms: int | None = None


def check(inputs: Inputs, *, progress: Progress, create: Create = create_engine) -> Report:
    """Check everything; also beside a running cluster. About half a minute for a million orders, in streams.

    What clients saw is read first, then the store, then traces, then journals, of standbys before primaries, then
    promises, then who the store says to have led: what is read later may only be more. Of traces no release is judged
    that came after the first was read.
    JournalError, StoreError or HistoryError when an input cannot be read at all.
    """
    check_ = _Check(inputs, progress, create)
    check_.read()
    for shard in check_.shards:
        check_.judge(shard)
    return check_.report


class _Shard(Struct):
    """What belongs to one shard."""

    logs: list[NodeLog]
    line: Line
    instruments: list[int]
    notes: dict[str, list[Note]]


class _Check:
    def __init__(self, inputs: Inputs, progress: Progress, create: Create) -> None:
        self.report = Report()
        self.shards: dict[str, _Shard] = {}
        self._inputs = inputs
        self._progress = progress
        self._create = create
        self._calls = Calls()
        self._captures: dict[str, Captures] = {}
        self._metadata: Metadata
        self._once = Once(self._calls)

    def read(self) -> None:
        """Read all inputs and find the committed log of each shard."""
        report, coverage = self.report, self.report.coverage
        self._captures = read_captures(self._inputs.captures)
        sizes = [path.stat().st_size if path.exists() else 0 for path in self._inputs.histories]
        for number, path in enumerate(self._inputs.histories):
            self._progress("reading histories", sum(sizes[:number]), sum(sizes))
            self._calls.read(path)
        self._calls.settle()
        self._metadata = Metadata(self._inputs.data)
        logs: dict[str, list[NodeLog]] = {}
        for log in read_logs(self._inputs.data):
            logs.setdefault(log.shard, []).append(log)
        for shard, of_shard in sorted(logs.items()):
            if shard and any(log.fragments for log in of_shard):
                self._read_shard(shard, of_shard)
            else:
                report.notes.append(f"{', '.join(log.node for log in of_shard)}: no journal yet")
        coverage.calls = self._calls.count
        coverage.captured = sum(map(len, self._captures.values()))
        for shard in sorted(set(self._captures) - set(self.shards)):
            report.notes.append(f"captures of shard {shard!r}, which has no journal here, were not checked")

    def judge(self, shard: str) -> None:
        """All invariants of one shard."""
        of, report, metadata = self.shards[shard], self.report, self._metadata
        versions = metadata.versions.get(shard, [])
        report.add(invariants.i1_agreement(shard, of.logs, of.line, metadata.newest(shard)))
        report.add(invariants.i8_promotion(shard, versions))
        report.add(invariants.i8_releases(shard, of.notes, of.line))
        report.add(invariants.i10_view(of.notes, versions, synced=self._inputs.synced))
        for log in of.logs:
            report.add(invariants.i3_synced(log))
            report.add(invariants.i9_fence(log, of.notes[log.node]))
        report.add(invariants.i6_real_time(shard, self._calls, self._calls.order(of.instruments)))
        gap, findings = invariants.i16_availability(shard, self._calls, of.instruments, self._inputs.gap_max_ms)
        report.add(findings)
        if self._inputs.histories:
            report.gaps.append(gap)
        self._walk(shard, of)

    def _read_shard(self, shard: str, logs: list[NodeLog]) -> None:
        coverage = self.report.coverage
        group = self._metadata.newest(shard)
        leader = group.primary[0] if group is not None else ""
        logs.sort(key=lambda log: log.node == leader)
        instruments: dict[int, None] = {}
        notes = {}
        for log in logs:
            self._progress(f"reading the trace of {log.node}", 0, 1)
            notes[log.node] = read_trace(log.directory, log.traced_bytes)
        orders = [invariants.Order(log) for log in logs]
        for log, order in zip(logs, orders, strict=True):
            self._progress(f"reading {log.node}", 0, 1)
            self.report.add(order.scan())
            log.read_state_again()
            instruments.update(order.instruments)
            coverage.traced += len(notes[log.node])
            coverage.records += order.records
        metadata = Metadata(self._inputs.data)
        for order in orders:
            self.report.add(order.strangers(metadata.leaders(shard)))
        last = logs[-1]
        if last.node != leader or not last.fragments:
            last = max(logs, key=lambda log: (log.last_epoch, log.end_seq))
            why = "the control store says nothing about it" if group is None else "nobody is recorded as its primary"
            self.report.notes.append(f"shard {shard}: {why}; the greatest log is taken as the committed one")
        line = Line(last, [log for log in logs if log is not last])
        self.shards[shard] = _Shard(logs, line, sorted(instruments), notes)
        coverage.nodes += len(logs)
        coverage.terms[shard] = line.epoch

    def _walk(self, shard: str, of: _Shard) -> None:
        """Apply the committed log once, with every observer."""
        report, coverage, line = self.report, self.report.coverage, of.line
        group = self._metadata.newest(shard)
        skip = [skipped.seq for skipped in group.skip] if group is not None else []
        walk = Walk(line, of.logs, self._create, skip)
        answers = Answers(shard, self._calls, of.instruments, walk.start_seq)
        snapshots = Snapshots(shard, line, of.logs, self._create)
        self._once.on_shard(shard)
        observers: list[Observer] = [answers, self._once, snapshots, Market(shard, walk.body())]
        if shard in self._captures:
            observers.append(Events(shard, self._captures[shard], walk.start_seq))
        done, total = 0, max(line.bytes, 1)
        for number, step in enumerate(walk.steps()):
            for observer in observers:
                observer.on_step(step)
            done += len(step.record.record)
            if number % PROGRESS_RECORDS == 0:
                self._progress(f"replaying {shard}", done, max(done, total))
        if walk.stopped and "I2" in report.counts:
            report.notes.append(f"shard {shard}: {walk.stopped}")
            walk.stopped = ""
        for observer in observers:
            report.add(observer.findings(walk))
        coverage.commands += walk.end_seq - walk.start_seq
        if skip:
            report.notes.append(f"shard {shard}: operators had seq {', '.join(map(str, skip))} left out")
        coverage.answers += answers.checked
        coverage.unchecked_answers += answers.unchecked
        coverage.snapshots += snapshots.compared
        if walk.start_seq:
            report.notes.append(f"shard {shard}: nothing is left of seq 1 to {walk.start_seq}, which were not checked")
        if answers.unchecked:
            report.notes.append(f"shard {shard}: {answers.unchecked} answers lie before what can be replayed")
