"""How a journal lies on disk and how it is read back: segments, positions, and what a bad byte means. Pure.

A journal is a row of segments. A segment is a head of SEGMENT_HEAD_BYTES, then records (shard.core.record) one after
the other, then nothing or zeros (space that was written ahead).

Laws
    A record follows its predecessor: dense seq, larger ts, equal chain, and a new term starts with EpochStart.
    A segment starts exactly where the one before it ends.
    Bad bytes at the end of the last segment with no whole record behind them are *torn*: a write that was under way
    when the process or the machine died. Nothing of it was acknowledged, so it may be cut.
    Bad bytes anywhere else are *corrupt*: something that was acknowledged is damaged. It is never cut.
"""

from collections.abc import Callable, Generator, Sequence
from enum import Enum
from struct import Struct as Layout
from typing import NamedTuple, TypeVar
from zlib import crc32

import msgspec

from exchange import messages as m
from exchange.errors import JournalError
from exchange.wire import encode
from shard.core.record import ALIGNMENT, FORMAT, HEAD_BYTES, MAGIC, RecordHead, chain_after, check_body, decode_head

SEGMENT_HEAD_BYTES = 512
BLOCK_BYTES = 1024 * 1024
"""What a scan reads at once."""

_MAGIC = b"SXSEG001"
_FRAME = Layout("<8sII")
_RECORD_START = Layout("<HBB").pack(MAGIC, FORMAT, 0)
_EPOCH_START = b"\x94\x0a"
"""Every EpochStart begins like this: an array of four, the first its tag."""

T = TypeVar("T")
ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> that part of a segment, shorter where the segment ends."""


class Position(NamedTuple):
    """Where a journal stands after a record: the record's last seq, its term and stamp, and the chain behind it."""

    seq: int
    epoch: int
    ts_ns: int
    chain: int


START = Position(0, 0, 0, 0)


class SegmentHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who wrote a segment, on which boot of the machine, behind which position, with which ceilings of the engine."""

    shard: str
    journal_uuid: str
    node: str
    incarnation: int
    boot_id: str
    base_seq: int
    base_epoch: int
    base_ts_ns: int
    base_chain: int
    ceilings: m.EngineConfig

    @property
    def base(self) -> Position:
        """Position before the first record."""
        return Position(self.base_seq, self.base_epoch, self.base_ts_ns, self.base_chain)

    def behind(self, base: Position) -> "SegmentHead":
        """The same head of a segment that starts behind `base`."""
        return msgspec.structs.replace(
            self, base_seq=base.seq, base_epoch=base.epoch, base_ts_ns=base.ts_ns, base_chain=base.chain
        )


class Segment(NamedTuple):
    """One segment that can be read."""

    name: str
    head: SegmentHead
    read_at: ReadAt


class Entry(NamedTuple):
    """One good record: where it lies and the position after it."""

    segment: int
    offset: int
    head: RecordHead
    record: bytes
    position: Position


class TailKind(Enum):
    END = "end"
    TORN = "torn"
    CORRUPT = "corrupt"


class Tail(NamedTuple):
    """Why a scan stopped: number of the segment, offset behind the last good record, and what is wrong there."""

    kind: TailKind
    segment: int
    offset: int
    detail: str


_decode_head = msgspec.msgpack.Decoder(SegmentHead).decode


def encode_segment_head(head: SegmentHead) -> bytes:
    """Head of a segment, exactly SEGMENT_HEAD_BYTES."""
    body = encode(head)
    framed = _FRAME.pack(_MAGIC, len(body), crc32(body)) + body
    assert len(framed) <= SEGMENT_HEAD_BYTES, "names are bounded, so a head fits"
    return framed.ljust(SEGMENT_HEAD_BYTES, b"\0")


def decode_segment_head(head: bytes, name: str) -> SegmentHead:
    """Check and read a head. JournalError names the segment and the rule."""
    if len(head) != SEGMENT_HEAD_BYTES:
        raise JournalError(f"segment {name}: {len(head)} bytes are shorter than a head of {SEGMENT_HEAD_BYTES}")
    magic, size, crc = _FRAME.unpack_from(head)
    if magic != _MAGIC:
        raise JournalError(f"segment {name}: it starts with {magic!r}, not with {_MAGIC!r}")
    body = head[_FRAME.size : _FRAME.size + size]
    if crc32(body) != crc or head[_FRAME.size :].rstrip(b"\0") != body.rstrip(b"\0"):
        raise JournalError(f"segment {name}: crc 0x{crc:08x} of the head is not 0x{crc32(body):08x}")
    try:
        return _decode_head(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise JournalError(f"segment {name}: {fault}") from fault


def advance(position: Position, head: RecordHead, record: bytes) -> Position:
    """The position after `record`. ValueError when it does not follow `position`."""
    if head.first_seq != position.seq + 1:
        raise ValueError(f"record: first_seq {head.first_seq} does not follow {position.seq}")
    if head.prev_chain != position.chain:
        raise ValueError(f"record: prev_chain 0x{head.prev_chain:016x} is not 0x{position.chain:016x}")
    if head.ts_ns <= position.ts_ns:
        raise ValueError(f"record: ts_ns {head.ts_ns} is not above {position.ts_ns}")
    if head.epoch < position.epoch:
        raise ValueError(f"record: epoch {head.epoch} is below {position.epoch}")
    if head.epoch > position.epoch and not record.startswith(_EPOCH_START, HEAD_BYTES):
        raise ValueError(f"record: epoch {head.epoch} does not start with EpochStart")
    return Position(head.last_seq, head.epoch, head.ts_ns, chain_after(record))


def scan(segments: Sequence[Segment], first: int = 0) -> Generator[Entry, None, Tail]:
    """Read all records from segment number `first` on; returns how it ended. Memory: a few blocks."""
    tail = Tail(TailKind.END, first, SEGMENT_HEAD_BYTES, "")
    position = segments[first].head.base
    for number in range(first, len(segments)):
        segment = segments[number]
        if segment.head.base != position:
            detail = f"starts behind seq {segment.head.base_seq}, the journal before it ends at seq {position.seq}"
            if segment.head.base_seq == position.seq:
                detail = f"starts behind another history of seq {position.seq} than the journal before it"
            return Tail(TailKind.CORRUPT, number, 0, f"segment {segment.name}: {detail}")
        position, tail = yield from _scan_segment(number, segment, position)
        if tail.kind is TailKind.TORN and number + 1 < len(segments):
            return tail._replace(kind=TailKind.CORRUPT, detail=f"{tail.detail}; another segment follows")
        if tail.kind is not TailKind.END:
            return tail
    return tail


def consume(entries: Generator[T, None, Tail], on_entry: Callable[[T], None]) -> Tail:
    """Run a scan or a replay to its end; returns how it ended."""
    while True:
        try:
            entry = next(entries)
        except StopIteration as end:
            tail: Tail = end.value
            return tail
        on_entry(entry)


def _scan_segment(number: int, segment: Segment, position: Position) -> Generator[Entry, None, tuple[Position, Tail]]:
    window = _Window(segment.read_at)
    offset = SEGMENT_HEAD_BYTES
    while True:
        try:
            head = decode_head(window.take(offset, HEAD_BYTES))
            record = window.take(offset, head.record_bytes)
            check_body(head, record)
        except ValueError as fault:
            if window.refresh(offset):
                continue
            kind, detail = _classify(window, offset, str(fault))
            place = f"segment {segment.name}, byte {offset}: {detail}" if detail else ""
            return position, Tail(kind, number, offset, place)
        try:
            position = advance(position, head, record)
        except ValueError as fault:
            place = f"segment {segment.name}, byte {offset}: {fault}"
            return position, Tail(TailKind.CORRUPT, number, offset, place)
        yield Entry(number, offset, head, record, position)
        offset += len(record)


def _classify(window: "_Window", offset: int, fault: str) -> tuple[TailKind, str]:
    """What bad bytes at `offset` mean: written-ahead zeros, a torn write, or damage before a good record."""
    empty = True
    at = offset
    while block := window.take(at, BLOCK_BYTES):
        empty = empty and not block.strip(b"\0")
        found = block.find(_RECORD_START)
        while found >= 0:
            if (at + found) % ALIGNMENT == 0 and at + found > offset and _is_record(window, at + found):
                return TailKind.CORRUPT, f"{fault}; a whole record follows at byte {at + found}"
            found = block.find(_RECORD_START, found + 1)
        # Blocks are aligned like records are, so no record starts across two of them.
        at += len(block)
    return (TailKind.END, "") if empty else (TailKind.TORN, fault)


def _is_record(window: "_Window", offset: int) -> bool:
    try:
        head = decode_head(window.peek(offset, HEAD_BYTES))
        check_body(head, window.peek(offset, head.record_bytes))
    except ValueError:
        return False
    return True


class _Window:
    """Reads a segment in blocks, so that a record costs a slice and not a system call."""

    def __init__(self, read_at: ReadAt) -> None:
        self.peek = read_at
        self._base = 0
        self._block = b""

    def take(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer at the end. Keeps the block around them."""
        start = offset - self._base
        if start < 0 or start + size > len(self._block):
            self._base, start = offset, 0
            self._block = self.peek(offset, max(size, BLOCK_BYTES))
        return self._block[start : start + size]

    def refresh(self, offset: int) -> bool:
        """Forget a block that was read before its reader came to `offset`: a live journal has grown since then."""
        stale = self._base != offset
        self._base, self._block = offset, b""
        return stale
