"""A journal's files: segments that grow by one record at a time, and their removal. No failed call is ever repeated.

Space is written ahead as zeros: a sync then updates no file size and maps no block, which halves its cost. So segments
end in zeros. They are not cut when the next one begins: who begins a term has customers waiting.

A term begins with a segment, so the heads of the segments say where each term ends (`terms`).
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from exchange import messages as m
from exchange.errors import JournalError
from shard.core.journal import (
    SEGMENT_HEAD_BYTES,
    START,
    Position,
    Segment,
    SegmentHead,
    decode_segment_head,
    encode_segment_head,
)
from shard.files import replace_durably, sync_directory

SEGMENT_SUFFIX = ".segment"
AHEAD_BYTES_MIN, AHEAD_BYTES_MAX = 64 * 1024, 1024 * 1024
"""How far zeros are written ahead of the records: as far again as the segment is long, within these bounds."""


class Place(NamedTuple):
    """The record behind `after_seq` starts at `offset` of the segment that starts behind `segment_seq`."""

    after_seq: int
    segment_seq: int
    offset: int


class JournalFile:
    """The one writer of a journal. OSError from any method: the tail is unknown, the process must end."""

    def __init__(self, directory: Path, *, segment_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._head_of: Callable[[Position], SegmentHead] | None = None
        self._descriptor = -1
        self._segment_seq = 0
        self._end = 0
        self._zeroed = 0
        self._synced = True
        self.bytes_written = 0

    def open(self, base: Position, head_of: Callable[[Position], SegmentHead]) -> None:
        """Begin a new segment behind `base`; `head_of` gives the head of this and of every later one."""
        self._head_of = head_of
        self._roll(base)

    def append(self, record: bytes, before: Position, epoch: int) -> Place:
        """Write a record of term `epoch` that follows `before`; where it lies. Not durable before `sync`."""
        full = self._end + len(record) > self._segment_bytes
        if self._end > SEGMENT_HEAD_BYTES and (full or epoch != before.epoch):
            self._roll(before)
        place = Place(before.seq, self._segment_seq, self._end)
        end = self._end + len(record)
        if end > self._zeroed:
            ahead = end + min(max(end, AHEAD_BYTES_MIN), AHEAD_BYTES_MAX)
            ahead = max(end, min(ahead, self._segment_bytes))
            self._write(bytes(ahead - self._zeroed), self._zeroed)
            self._zeroed = ahead
        self._write(record, self._end)
        self._synced = False
        self._end = end
        self.bytes_written += len(record)
        return place

    def sync(self) -> None:
        """Everything appended is on the disk when this returns."""
        os.fdatasync(self._descriptor)
        self._synced = True

    def syncer(self) -> Callable[[], None]:
        """The sync of everything appended until now, for another thread; call it once."""
        return partial(_sync_and_close, os.dup(self._descriptor))

    def close(self) -> None:
        """End the segment with its last record, durably."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _roll(self, base: Position) -> None:
        assert self._head_of is not None, "open comes first"
        if self._descriptor >= 0:
            if not self._synced:
                self.sync()
            os.close(self._descriptor)
        path = self._directory / segment_name(base.seq)
        ahead = min(AHEAD_BYTES_MIN, self._segment_bytes)
        content = encode_segment_head(self._head_of(base)).ljust(ahead, b"\0")
        replace_durably(path, content)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._segment_seq = base.seq
        self._end, self._zeroed = SEGMENT_HEAD_BYTES, len(content)

    def _write(self, content: bytes, offset: int) -> None:
        written = os.pwrite(self._descriptor, content, offset)
        while written < len(content):
            written += os.pwrite(self._descriptor, content[written:], offset + written)


def segment_name(base_seq: int) -> str:
    """File of the segment whose first record has seq `base_seq` + 1."""
    return f"{base_seq:020d}{SEGMENT_SUFFIX}"


def segment_paths(directory: Path) -> list[Path]:
    """All segments, oldest first."""
    return sorted(directory.glob("[0-9]" * 20 + SEGMENT_SUFFIX))


def open_segment(path: Path) -> Segment:
    """One segment, wherever it lies and whatever it is called. JournalError when its head is damaged."""
    read_at = partial(_read_at, path)
    return Segment(path.name, decode_segment_head(read_at(0, SEGMENT_HEAD_BYTES), path.name), read_at)


def open_segments(directory: Path) -> list[Segment]:
    """All segments, oldest first. JournalError when a head is damaged, belies its name, or is of another journal."""
    segments: list[Segment] = []
    for path in segment_paths(directory):
        segment = open_segment(path)
        head = segment.head
        if path.name != segment_name(head.base_seq):
            raise JournalError(f"segment {path.name}: its head says that it starts behind seq {head.base_seq}")
        first = segments[0].head if segments else head
        if (head.shard, head.journal_uuid) != (first.shard, first.journal_uuid):
            raise JournalError(
                f"segment {path.name}: belongs to journal {head.journal_uuid} of shard {head.shard}, "
                f"not to {first.journal_uuid} of {first.shard}"
            )
        segments.append(segment)
    return segments


def terms(segments: Sequence[Segment], last: Position) -> list[m.Term]:
    """Where each term ends that ends in these segments or just before them, oldest first; `last` ends the newest."""
    ends = {base.epoch: base for base in [*(segment.head.base for segment in segments), last] if base != START}
    return [m.Term(epoch, end.seq, end.chain) for epoch, end in sorted(ends.items())]


def cut(path: Path, offset: int) -> None:
    """End a segment at `offset`; what stands before it is durable afterwards."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(descriptor, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_segments_below(directory: Path, seq: int) -> int:
    """Remove the segments that hold nothing above `seq`; the newest always stays. Returns how many."""
    paths = segment_paths(directory)
    removable = [path for path, after in pairwise(paths) if segment_seq(after) <= seq]
    for path in removable:
        path.unlink()
    if removable:
        sync_directory(directory)
    return len(removable)


def segment_seq(path: Path) -> int:
    """The seq behind which a segment starts, by its name."""
    return int(path.name.removesuffix(SEGMENT_SUFFIX))


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, offset)
