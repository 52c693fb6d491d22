"""A journal applied to an engine: the heart of recovery and of `shardex journal replay`. Pure."""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from exchange import messages as m
from exchange.errors import JournalError
from shard.core.engine import Engine, create_engine
from shard.core.journal import START, Entry, Position, Segment, Tail, TailKind, scan
from shard.core.poison import DEATHS_MAX, Poison, Poisoned, apply, culprit
from shard.core.snapshot import SnapshotHead

Create = Callable[..., Engine]
"""`create_engine`, or what stands for it."""


class Held(Exception):
    """Replay stands at `position`, before a record that ended a process once and cannot be run: `seq` is to blame."""

    def __init__(self, position: Position, seq: int, poison: Poison) -> None:
        super().__init__(f"held at seq {position.seq}: the engine cannot run seq {seq}")
        self.position = position
        self.seq = seq
        self.poison = poison


class Applied(NamedTuple):
    """A record and what the engine said."""

    entry: Entry
    outcome: bytes


class Replay:
    """Starts from a snapshot or from nothing; `engine` and `position` move with each record that `run` yields.

    Each segment names the ceilings under which it was written, so replaying needs nothing but the journal, and `skip`:
    the commands that operators had left out.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        snapshot: tuple[SnapshotHead, bytes] | None,
        *,
        reference: bool,
        skip: Sequence[int] = (),
        poison: Poison | None = None,
        create: Create = create_engine,
    ) -> None:
        """JournalError when the segments do not reach back to the snapshot, or the engine refuses it.

        `poison` = a record that ended a process: it is tried on another engine first.
        """
        self._segments = segments
        self._reference = reference
        self._skip = skip
        self._poison = poison
        self._create = create
        self.position = snapshot[0].position if snapshot else START
        self.scanned_seq = 0
        older = [number for number, segment in enumerate(segments) if segment.head.base_seq <= self.position.seq]
        if not older:
            first = f"starts behind seq {segments[0].head.base_seq}" if segments else "has no segment"
            raise JournalError(f"the journal {first}, and no readable snapshot reaches it")
        self._first = older[-1]
        self._ceilings = segments[self._first].head.ceilings
        self.engine = create(self._ceilings, reference=reference)
        if snapshot:
            try:
                self.engine.restore(snapshot[1])
            except ValueError as fault:
                raise JournalError(f"snapshot of seq {self.position.seq}: {fault}") from fault

    def run(self, until_seq: int | None = None) -> Generator[Applied, None, Tail]:
        """Apply every record behind the start, at most up to `until_seq`; returns how the journal ended.

        JournalError when the snapshot is of another history. Poisoned when the engine fails, Held before it would.
        """
        start = self.position
        base = self._segments[self._first].head.base
        if base.seq == start.seq:
            self._compare(start, base)
        self.scanned_seq = base.seq
        records = scan(self._segments, self._first)
        while True:
            try:
                entry = next(records)
            except StopIteration as end:
                tail: Tail = end.value
                return tail
            if until_seq is not None and entry.position.seq > until_seq:
                detail = f"seq {entry.head.first_seq} and on were written but never known to be durable"
                return Tail(TailKind.TORN, entry.segment, entry.offset, detail)
            self.scanned_seq = entry.position.seq
            if entry.head.first_seq <= start.seq:
                if entry.position.seq >= start.seq:
                    self._compare(start, entry.position)
                continue
            self.adopt(self._segments[entry.segment].head.ceilings)
            self._try(entry)
            outcome = apply(self.engine, entry.record, self._skip)
            self.position = entry.position
            yield Applied(entry, outcome)

    def adopt(self, ceilings: m.EngineConfig) -> None:
        """Go on under other ceilings. ValueError when what is there does not fit them."""
        if ceilings == self._ceilings:
            return
        engine = self._create(ceilings, reference=self._reference)
        engine.restore(self.engine.snapshot())
        self.engine, self._ceilings = engine, ceilings

    def _try(self, entry: Entry) -> None:
        """A record that ended a process runs on a throw-away engine before it runs on this one."""
        poison = self._poison
        if poison is None or (poison.epoch, poison.last_seq) != (entry.head.epoch, entry.position.seq):
            return
        body = self.engine.snapshot()

        def runs(record: bytes) -> bool:
            engine = self._create(self._ceilings, reference=self._reference)
            engine.restore(body)
            try:
                apply(engine, record, self._skip)
            except Poisoned:
                return False
            return True

        seq = culprit(entry.record, runs)
        if not seq and poison.deaths >= DEATHS_MAX:
            seq = poison.last_seq
        if seq:
            raise Held(self.position, seq, poison)

    def _compare(self, snapshot: Position, journal: Position) -> None:
        if snapshot != journal:
            raise JournalError(
                f"snapshot of seq {snapshot.seq}, chain 0x{snapshot.chain:016x} is of another history than the "
                f"journal, which is at seq {journal.seq}, chain 0x{journal.chain:016x}"
            )
