"""Looking into journals without changing them: verify, dump, replay. Also on the directory of a running shard.

What a running shard is just writing at the end of its journal is *in progress*, not an error.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from exchange.errors import JournalError, WireError
from exchange.wire import array_header, decode_commands
from shard.core.engine import engine_kind
from shard.core.journal import START, Entry, Position, Segment, Tail, TailKind, consume, scan
from shard.core.poison import Poisoned
from shard.core.record import decode_record
from shard.core.replay import Applied, Replay
from shard.core.snapshot import SnapshotHead
from shard.journal_file import open_segments, segment_paths
from shard.node_state import is_locked, load_state, read_note
from shard.snapshot_file import load_snapshot, snapshot_paths, snapshot_seq

ATTEMPTS_MAX = 3
"""A running shard removes old segments and goes on writing: what looked wrong is read again this often."""

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""
PROGRESS_BYTES = 1024 * 1024


class State(Enum):
    """What a journal is. TORN ends in a write that was cut short by a crash, which the next start will cut."""

    OK = "ok"
    IN_PROGRESS = "in progress"
    TORN = "torn"
    CORRUPT = "corrupt"


EXIT_CODES = {State.OK: 0, State.IN_PROGRESS: 0, State.TORN: 1, State.CORRUPT: 2}


class SnapshotVerdict(Struct, frozen=True):
    """One snapshot: `detail` says what is wrong with it, empty when it is good."""

    seq: int
    digest: str
    detail: str


class Verdict(Struct, frozen=True):
    """What `verify` found in one directory. Records count from `first_seq` to `last_seq`."""

    directory: str
    shard: str
    state: State
    detail: str
    first_seq: int
    last_seq: int
    epoch: int
    ts_ns: int
    segments: int
    records: int
    commands: int
    bytes: int
    snapshots: list[SnapshotVerdict]

    @property
    def exit_code(self) -> int:
        """0 fine, 1 torn, 2 corrupt."""
        return EXIT_CODES[self.state]


class Comparison(Struct, frozen=True):
    """The digest that a stored snapshot promises and the one that replay gave at the same seq."""

    seq: int
    stored: str
    replayed: str

    @property
    def equal(self) -> bool:
        return self.stored == self.replayed


class Replayed(Struct, frozen=True):
    """Where a journal leads. `detail` says why replay ended before the journal did; empty when it did not."""

    directory: str
    shard: str
    engine: str
    state: State
    detail: str
    from_seq: int
    seq: int
    epoch: int
    records: int
    digest: str
    trail: int
    orders: int
    comparisons: list[Comparison]

    @property
    def exit_code(self) -> int:
        """0 fine, 1 torn, 2 corrupt, poisoned or a digest that differs."""
        if not all(comparison.equal for comparison in self.comparisons):
            return EXIT_CODES[State.CORRUPT]
        return EXIT_CODES[self.state]


def journal_directories(path: Path) -> list[Path]:
    """The shard directories that `path` names: itself, or those under its `shards`. JournalError when there is none."""
    candidates = [path, *sorted((path / "shards").glob("*"))]
    found = [directory for directory in candidates if segment_paths(directory) or snapshot_paths(directory)]
    if not found:
        raise JournalError(f"{path} holds no journal: neither segments nor shards/*/ with segments")
    return found


def has_journal(directory: Path) -> bool:
    """There is something that a node could start from."""
    return bool(segment_paths(directory))


def verify(directory: Path, progress: Progress) -> Verdict:
    """Read every byte of one shard's journal and snapshots and judge them. Raises nothing for what it reads."""
    for _ in range(ATTEMPTS_MAX):
        live = is_locked(directory)
        try:
            verdict = _verify(directory, progress, live=live)
        except FileNotFoundError as fault:
            verdict = _unreadable(directory, f"{fault.filename} was removed while it was read")
        except (JournalError, OSError) as fault:
            verdict = _unreadable(directory, str(fault))
        if verdict.state is not State.CORRUPT or not live:
            break
    return verdict


def dump(directory: Path) -> Generator[dict[str, Any], None, tuple[State, str]]:
    """Every record with its decoded commands, oldest first, as JSON-able objects; returns how the journal ended.

    A command that operators had left out says `skipped`.
    """
    segments = _segments(directory)
    records = scan(segments)
    skip = _left_out(directory)
    while True:
        try:
            entry = next(records)
        except StopIteration as end:
            tail: Tail = end.value
            return _state(tail, live=is_locked(directory)), tail.detail
        yield {
            "segment": segments[entry.segment].name,
            "offset": entry.offset,
            "epoch": entry.head.epoch,
            "first_seq": entry.head.first_seq,
            "ts_ns": entry.head.ts_ns,
            "chain": f"{entry.position.chain:016x}",
            "commands": list(_commands(entry, skip)),
        }


def replay(directory: Path, *, reference: bool, progress: Progress) -> Replayed:
    """Apply the journal to a fresh engine, from its first record or else from the oldest snapshot that it reaches.

    Compares digests with every stored snapshot on the way. JournalError when there is nothing to start from.
    """
    live = is_locked(directory)
    segments = _segments(directory)
    stored = {head.position.seq: head.digest for head, _ in _good_snapshots(directory)}
    start = _starting_snapshot(directory, segments[0].head.base)
    run = Replay(segments, start, reference=reference, skip=_left_out(directory))
    from_seq = run.position.seq
    comparisons: list[Comparison] = []
    counter = _Counter(directory, progress)

    def on_applied(applied: Applied) -> None:
        counter.on_entry(applied.entry)
        seq = applied.entry.position.seq
        if seq in stored:
            comparisons.append(Comparison(seq, _hexadecimal(stored[seq]), _hexadecimal(run.engine.digest())))

    try:
        tail = consume(run.run(), on_applied)
        state, detail = _state(tail, live=live), tail.detail
    except Poisoned as fault:
        state, detail = State.CORRUPT, str(fault)
    counter.finish()
    return Replayed(
        directory=str(directory),
        shard=segments[0].head.shard,
        engine=engine_kind(run.engine),
        state=state,
        detail=detail,
        from_seq=from_seq,
        seq=run.engine.seq(),
        epoch=run.engine.epoch(),
        records=counter.records,
        digest=_hexadecimal(run.engine.digest()),
        trail=run.engine.trail(),
        orders=run.engine.orders(),
        comparisons=comparisons,
    )


def describe(record: dict[str, Any]) -> Iterator[str]:
    """One line a command of what `dump` yields, for people."""
    for command in record["commands"]:
        fields = " ".join(f"{name}={value}" for name, value in command.items() if name not in ("seq", "command"))
        yield f"{command['seq']:>10}  term {record['epoch']}  {record['ts_ns']}  {command['command']} {fields}".rstrip()


def _verify(directory: Path, progress: Progress, *, live: bool) -> Verdict:
    state = load_state(directory)
    durable_seq = max([read_note(directory), state.clean_seq if state else 0])
    paths = sorted(snapshot_paths(directory))
    segments = _segments(directory)
    wanted = {snapshot_seq(path) for path in paths}
    positions: dict[int, Position] = {segments[0].head.base.seq: segments[0].head.base}
    counter = _Counter(directory, progress)
    last = segments[0].head.base

    def on_entry(entry: Entry) -> None:
        nonlocal last
        counter.on_entry(entry)
        last = entry.position
        if last.seq in wanted:
            positions[last.seq] = last

    tail = consume(scan(segments), on_entry)
    counter.finish()
    snapshots = [_judge_snapshot(path, positions) for path in paths]
    found, detail = _state(tail, live=live), tail.detail
    good = [snapshot.seq for snapshot in snapshots if not snapshot.detail]
    first_seq = segments[0].head.base_seq + 1
    if found is not State.CORRUPT:
        problems = [f"snapshot of seq {snapshot.seq}: {snapshot.detail}" for snapshot in snapshots if snapshot.detail]
        if last.seq < durable_seq:
            problems.append(f"it ends at seq {last.seq}, but seq {durable_seq} was acknowledged")
        if first_seq > 1 and not any(seq >= first_seq - 1 for seq in good):
            problems.append(f"it starts at seq {first_seq}, and no good snapshot reaches that")
        if problems:
            found, detail = State.CORRUPT, "; ".join(problems + [detail] * bool(detail))
    return Verdict(
        directory=str(directory),
        shard=segments[0].head.shard,
        state=found,
        detail=detail,
        first_seq=first_seq,
        last_seq=last.seq,
        epoch=last.epoch,
        ts_ns=last.ts_ns,
        segments=len(segments),
        records=counter.records,
        commands=last.seq - segments[0].head.base_seq,
        bytes=counter.bytes,
        snapshots=snapshots,
    )


def _unreadable(directory: Path, detail: str) -> Verdict:
    return Verdict(str(directory), directory.name, State.CORRUPT, detail, 0, 0, 0, 0, 0, 0, 0, 0, [])


def _judge_snapshot(path: Path, positions: dict[int, Position]) -> SnapshotVerdict:
    seq = snapshot_seq(path)
    try:
        head, _ = load_snapshot(path)
    except JournalError as error:
        return SnapshotVerdict(seq, "", str(error))
    digest = _hexadecimal(head.digest)
    if seq not in positions:
        return SnapshotVerdict(seq, digest, "the journal has no record that ends there")
    if positions[seq] != head.position:
        return SnapshotVerdict(seq, digest, f"chain {head.position.chain:016x} is of another history than the journal")
    return SnapshotVerdict(seq, digest, "")


def _good_snapshots(directory: Path) -> Iterator[tuple[SnapshotHead, bytes]]:
    for path in snapshot_paths(directory):
        try:
            yield load_snapshot(path)
        except JournalError:
            continue  # `verify` is what judges snapshots


def _starting_snapshot(directory: Path, base: Position) -> tuple[SnapshotHead, bytes] | None:
    """None when the journal is there from its first record, else the oldest snapshot that it reaches."""
    if base == START:
        return None
    reached = [(head, body) for head, body in _good_snapshots(directory) if head.position.seq >= base.seq]
    return min(reached, key=lambda snapshot: snapshot[0].position.seq, default=None)


def _segments(directory: Path) -> Sequence[Segment]:
    segments = open_segments(directory)
    if not segments:
        raise JournalError(f"directory {directory} has no segment")
    return segments


def _state(tail: Tail, *, live: bool) -> State:
    match tail.kind:
        case TailKind.END:
            return State.OK
        case TailKind.TORN:
            return State.IN_PROGRESS if live else State.TORN
        case TailKind.CORRUPT:
            return State.CORRUPT


def _left_out(directory: Path) -> Sequence[int]:
    """Commands that operators had left out, as this node was told."""
    state = load_state(directory)
    return state.skip if state is not None else ()


def _commands(entry: Entry, skip: Sequence[int]) -> Iterator[dict[str, Any]]:
    _, payload = decode_record(entry.record)
    try:
        commands = decode_commands(array_header(entry.head.count) + payload)
    except WireError as error:
        yield {"seq": entry.head.first_seq, "command": "undecodable", "detail": str(error)}
        return
    for seq, command in enumerate(commands, entry.head.first_seq):
        left_out = {"skipped": True} if seq in skip else {}
        yield {"seq": seq, "command": type(command).__name__, **msgspec.structs.asdict(command), **left_out}


def _hexadecimal(digest: int) -> str:
    return f"{digest:016x}"


class _Counter:
    """Counts records and tells the progress once a megabyte."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        self._progress = progress
        self._total = sum(path.stat().st_size for path in segment_paths(directory))
        self._next = PROGRESS_BYTES
        self.records = 0
        self.bytes = 0

    def on_entry(self, entry: Entry) -> None:
        self.records += 1
        self.bytes += len(entry.record)
        if self.bytes >= self._next:
            self._next = self.bytes + PROGRESS_BYTES
            self._progress(self.bytes, max(self.bytes, self._total))

    def finish(self) -> None:
        """All that was to be read has been read."""
        self._progress(self.bytes, self.bytes)
