"""One node's disk: bytes that were written, bytes that would survive the machine, and how both go wrong."""

from bisect import bisect_left
from functools import partial
from random import Random

from shard.core.journal import SEGMENT_HEAD_BYTES, START, Position, Segment, SegmentHead, encode_segment_head
from shard.core.record import decode_record
from tests.sim.world import US

SEGMENT_BYTES = 12 * 1024


class DiskFault(OSError):
    """A sync has failed: what was not durable before is in nobody's hands."""


class _File:
    """A segment. What is above `synced` bytes may be gone when the machine stops."""

    def __init__(self, head: SegmentHead) -> None:
        self.head = head
        self.content = bytearray(encode_segment_head(head))
        self.synced = len(self.content)


_Entry = tuple[int, int, int, _File, Position]
"""A record: its last seq, where it starts, its size, in which segment, and where the journal stands behind it."""


class Disk:
    """Segments, `node.state`, the `synced` note, snapshots. `ends` = chain behind every record, by its last seq."""

    def __init__(self, node: str, dice: Random) -> None:
        self.node = node
        self.promised = 0
        self.suspect_seq = -1
        self.lossy = False
        self.broken_syncs = 0
        self.generation = 0
        self.archived: list[bytes] = []
        self.snapshot: tuple[Position, bytes] | None = None
        self.ends: dict[int, int] = {0: 0}
        self.durable_seq = 0
        self.note_seq = 0
        self.written_seq = 0
        self._dice = dice
        self._files: list[_File] = []
        self._index: list[_Entry] = []
        self._boot = 0

    @property
    def positions(self) -> list[Position]:
        """Where each record ends, and before them where the journal begins."""
        return [self._first, *(entry[4] for entry in self._index)]

    @property
    def uuid(self) -> str:
        """Name of the journal; another one after each `wipe`."""
        return f"{self.node}-{self.generation}"

    @property
    def oldest_seq(self) -> int:
        """The records behind it are there."""
        return self._files[0].head.base_seq if self._files else self.written_seq

    # --- what a process does ----------------------------------------------------------------------------------------

    def append(self, record: bytes, before: Position, after: Position, incarnation: int, ceilings: object) -> None:
        """Write one record; a full segment is closed, which makes it durable."""
        last = self._files[-1] if self._files else None
        if last is None or len(last.content) + len(record) > SEGMENT_BYTES or before.epoch != after.epoch:
            if last is not None:
                last.synced = len(last.content)
                self.durable_seq = before.seq
            head = SegmentHead(
                "s0", self.uuid, self.node, incarnation, str(self._boot), before.seq, before.epoch, before.ts_ns,
                before.chain, ceilings,  # type: ignore[arg-type]
            )  # fmt: skip
            last = _File(head)
            self._files.append(last)
        self._index.append((after.seq, len(last.content), len(record), last, after))
        last.content += record
        self.ends[after.seq] = after.chain
        self.written_seq = after.seq

    def sync(self, seq: int) -> None:
        """Everything up to `seq` is durable. DiskFault instead, when that is what fate wants."""
        if self.broken_syncs:
            self.broken_syncs -= 1
            raise DiskFault(f"sync of {self.node}")
        self.durable_seq = self.note_seq = max(self.durable_seq, seq)
        for last_seq, at, size, file, _ in reversed(self._index):
            if at + size <= file.synced:
                break
            if last_seq <= seq:
                file.synced = max(file.synced, at + size)

    def sync_ns(self) -> int:
        """How long a sync takes."""
        return self._dice.choice((100, 150, 200, 400, 3_000)) * US

    def records_after(self, seq: int, bytes_max: int) -> tuple[bytes, int]:
        """Whole records behind `seq`, and where they end."""
        found = bytearray()
        last_seq = seq
        for last, at, size, file, _ in self._index[bisect_left(self._index, seq + 1, key=lambda entry: entry[0]) :]:
            if found and len(found) + size > bytes_max:
                break
            record = file.content[at : at + size]
            try:
                decode_record(record)
            except ValueError:
                break
            found += record
            last_seq = last
        return bytes(found), last_seq

    def ends_between(self, after_seq: int, seq: int) -> list[int]:
        """Where records end behind `after_seq` and up to `seq`."""
        first = bisect_left(self._index, after_seq + 1, key=lambda entry: entry[0])
        last = bisect_left(self._index, seq + 1, key=lambda entry: entry[0])
        return [entry[0] for entry in self._index[first:last]]

    def record_at(self, last_seq: int) -> bytes:
        """The record that ends at `last_seq`."""
        number = bisect_left(self._index, last_seq, key=lambda entry: entry[0])
        _, at, size, file, _ = self._index[number]
        return bytes(file.content[at : at + size])

    def take_snapshot(self, position: Position, body: bytes, committed_seq: int) -> None:
        """Keep it and remove the segments that it makes superfluous."""
        self.snapshot = position, body
        while len(self._files) > 1 and self._files[1].head.base_seq <= min(position.seq, committed_seq):
            removed = self._files.pop(0)
            self._index = [entry for entry in self._index if entry[3] is not removed]

    # --- what recovery does -----------------------------------------------------------------------------------------

    def segments(self) -> list[Segment]:
        return [
            Segment(f"{file.head.base_seq:020d}.segment", file.head, partial(_read, file.content))
            for file in self._files
        ]

    def accept(self, segment: int, offset: int, position: Position) -> None:
        """The journal ends here: cut what is behind, and the cut is durable."""
        del self._files[segment + 1 :]
        if self._files:
            del self._files[segment].content[offset:]
        for file in self._files:
            file.synced = len(file.content)
        self._index = [
            entry for entry in self._index if entry[0] <= position.seq and entry[1] + entry[2] <= len(entry[3].content)
        ]
        self._restate()
        assert self.written_seq == position.seq, "recovery and the disk agree about what is there"
        self.durable_seq = self.note_seq = position.seq

    def cut(self, seq: int) -> None:
        """R9: archive and remove what is behind `seq`."""
        number, offset, position = 0, SEGMENT_HEAD_BYTES, self._first
        for last_seq, at, size, file, after in self._index:
            if last_seq <= seq:
                number, offset, position = self._files.index(file), at + size, after
            else:
                self.archived.append(bytes(file.content[at : at + size]))
        assert position.seq == seq, f"{self.node} cuts at {seq}, the last record before it ends at {position.seq}"
        if self.snapshot is not None and self.snapshot[0].seq > seq:
            self.snapshot = None
        self.accept(number, offset, position)

    def can_cut(self, seq: int) -> bool:
        """The state at `seq` can be made from what is kept."""
        snapshot_seq = self.snapshot[0].seq if self.snapshot is not None else 0
        return seq in self.ends and (self.oldest_seq == 0 or self.oldest_seq <= snapshot_seq <= seq)

    def wipe(self, snapshot: tuple[Position, bytes] | None = None) -> None:
        """Another journal: empty, or one that begins with a snapshot. Promises stay."""
        self.archived += [bytes(file.content[at : at + size]) for _, at, size, file, _ in self._index]
        self._files.clear()
        self.generation += 1
        self.snapshot = snapshot
        self.suspect_seq = -1
        self.lossy = False
        self._index.clear()
        self._restate()
        self.durable_seq = self.note_seq = self.written_seq

    # --- what fate does -----------------------------------------------------------------------------------------------

    def stop_machine(self) -> None:
        """The machine stops: of what was not synced any beginning survives, the last of it torn."""
        self._boot += 1
        self.lossy = True
        gone = False
        for file in self._files:
            keep = file.synced if gone else self._dice.randint(file.synced, len(file.content))
            if keep < len(file.content):
                gone = True
                torn = min(len(file.content) - keep, self._dice.choice((0, 0, 8, 64)))
                written = bytes(file.content)
                file.content[keep:] = bytes(self._dice.randrange(256) for _ in range(torn))
                self._index = [entry for entry in self._index if entry[3] is not file or _is_whole(entry, written)]
        self.note_seq = self._dice.choice((self.note_seq, self.note_seq, 0))
        self._restate()
        self.durable_seq = min(self.durable_seq, self.written_seq)

    def rot(self) -> bool:
        """A bit of a closed segment's records flips; False when there is none."""
        closed = [file for file in self._files[:-1] if len(file.content) > SEGMENT_HEAD_BYTES]
        if not closed:
            return False
        file = self._dice.choice(closed)
        at = self._dice.randrange(SEGMENT_HEAD_BYTES, len(file.content))
        file.content[at] ^= 1 << self._dice.randrange(8)
        return True

    @property
    def _first(self) -> Position:
        if self._files:
            return self._files[0].head.base
        return self.snapshot[0] if self.snapshot is not None else START

    def _restate(self) -> None:
        """What is known about the records follows from which of them are there."""
        self.ends = {position.seq: position.chain for position in self.positions}
        self.written_seq = max(self.ends)


def _is_whole(entry: _Entry, written: bytes) -> bool:
    """Torn bytes may be just what was there: then nobody can tell that a record was torn."""
    _, at, size, file, _ = entry
    return file.content[at : at + size] == written[at : at + size]


def _read(content: bytearray, offset: int, size: int) -> bytes:
    return bytes(content[offset : offset + size])
