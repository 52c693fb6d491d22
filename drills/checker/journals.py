"""Everything that nodes left on their disks, read without the help of the code that wrote it, save the record's codec.

Words
    fragment  one file of records: a live segment, or one that was archived in divergent/
    log       the live segments of one node
    line      the committed log of a shard (J*): fragments that follow each other, back from the log of its last primary
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from drills.checker.traces import traced_bytes
from exchange.errors import JournalError
from shard.core.journal import SEGMENT_HEAD_BYTES, SegmentHead, decode_segment_head
from shard.core.record import ALIGNMENT, FORMAT, HEAD_BYTES, MAGIC, RecordHead, chain_after, decode_head, decode_record
from shard.core.snapshot import SnapshotHead, decode
from shard.journal_file import segment_paths
from shard.node_state import NodeState, load_state, read_note
from shard.snapshot_file import load_snapshot, snapshot_paths

ARCHIVES = "divergent/*.records"
_MAGIC = MAGIC.to_bytes(2, "little") + bytes((FORMAT, 0))


class Record(NamedTuple):
    """One whole record, where it starts in its file, and the chain behind it."""

    offset: int
    head: RecordHead
    record: bytes
    chain: int


class Fragment:
    """An index of one file: of each record where it starts, its last seq, its term, the chain behind it."""

    def __init__(self, path: Path, node: str, *, archived: bool) -> None:
        """JournalError when the head cannot be read."""
        self.path = path
        self.node = node
        self.archived = archived
        with path.open("rb") as file:
            self.head: SegmentHead = decode_segment_head(file.read(SEGMENT_HEAD_BYTES), path.name)
        self.offsets = array("Q")
        self.ends = array("Q")
        self.epochs = array("Q")
        self.chains = array("Q")
        self.stop_offset = SEGMENT_HEAD_BYTES
        self.fault = ""
        self.damaged = False

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def end(self) -> tuple[int, int]:
        """Last seq and the chain behind it."""
        return (self.ends[-1], self.chains[-1]) if len(self) else (self.head.base_seq, self.head.base_chain)

    def scan(self) -> Iterator[Record]:
        """Read all whole records and fill the index. Then `fault` says why it ended early ("" = it did not), and
        `damaged` whether whole records stand behind the bad bytes, so that it was no write under way."""
        content = self.path.read_bytes()
        offset = SEGMENT_HEAD_BYTES
        while offset < len(content):
            try:
                head = decode_head(content[offset : offset + HEAD_BYTES])
                record = content[offset : offset + head.record_bytes]
                decode_record(record)
            except ValueError as fault:
                rest = content[offset:]
                if rest.strip(b"\0"):
                    self.fault = str(fault)
                    self.damaged = _holds_record(rest)
                break
            found = Record(offset, head, record, chain_after(record))
            self.offsets.append(offset)
            self.ends.append(head.last_seq)
            self.epochs.append(head.epoch)
            self.chains.append(found.chain)
            offset += len(record)
            yield found
        self.stop_offset = offset

    def place_behind(self, seq: int, chain: int) -> int:
        """Number of records up to the one that ends at `seq` with `chain` behind it; -1 when there is none."""
        if (seq, chain) == (self.head.base_seq, self.head.base_chain):
            return 0
        place = bisect_left(self.ends, seq)
        return place + 1 if place < len(self) and (self.ends[place], self.chains[place]) == (seq, chain) else -1

    def records(self, count: int) -> Iterator[Record]:
        """The first `count` records, read again. Needs a finished scan."""
        content = self.path.read_bytes()
        for place in range(count):
            offset = self.offsets[place]
            head = decode_head(content[offset : offset + HEAD_BYTES])
            yield Record(offset, head, content[offset : offset + head.record_bytes], self.chains[place])


class Snapshot:
    """A good snapshot. It stays readable when a running node removes it meanwhile."""

    def __init__(self, path: Path) -> None:
        """JournalError when it is damaged or named wrongly, FileNotFoundError when it has just been removed."""
        self.path = path
        self._file = path.open("rb")
        self.head: SnapshotHead = load_snapshot(path)[0]

    def body(self) -> bytes:
        """The engine's snapshot, read again."""
        self._file.seek(0)
        return decode(self._file.read(), self.path.name)[1]


class NodeLog:
    """What one node has on its disk."""

    def __init__(self, directory: Path) -> None:
        """JournalError when a head or node.state is damaged. The note is read first: the journal grows beyond it."""
        self.node = directory.name
        self.directory = directory
        self.synced_seq = read_note(directory)
        self.traced_bytes = traced_bytes(directory)
        self.state: NodeState | None = load_state(directory)
        self.fragments = [Fragment(path, self.node, archived=False) for path in segment_paths(directory)]
        self.archives = [Fragment(path, self.node, archived=True) for path in sorted(directory.glob(ARCHIVES))]
        self.snapshots: list[Snapshot] = []
        self.broken_snapshots: list[str] = []
        for path in reversed(snapshot_paths(directory)):
            try:
                self.snapshots.append(Snapshot(path))
            except FileNotFoundError:
                pass  # there is a newer one by now
            except JournalError as fault:
                self.broken_snapshots.append(str(fault))

    def read_state_again(self) -> None:
        """After the journal was scanned: a node promises a term before it writes records of it."""
        self.state = load_state(self.directory)

    @property
    def shard(self) -> str:
        """Of which shard it is; "" when it has neither journal nor state."""
        if self.fragments:
            return self.fragments[0].head.shard
        return self.state.shard if self.state is not None else ""

    @property
    def end_seq(self) -> int:
        """Last seq of the live journal, 0 without one."""
        return self.fragments[-1].end[0] if self.fragments else 0

    @property
    def last_epoch(self) -> int:
        """Term of the last record of the live journal."""
        epochs = [fragment.epochs[-1] for fragment in self.fragments if len(fragment)]
        return epochs[-1] if epochs else (self.fragments[0].head.base_epoch if self.fragments else 0)


class Piece(NamedTuple):
    """The first `size` records of a fragment."""

    fragment: Fragment
    size: int


class Line:
    """The committed log of one shard, oldest piece first."""

    def __init__(self, log: NodeLog, others: Sequence[NodeLog]) -> None:
        """`log` = of the last primary. Where it does not reach back to the beginning, any file that has what is missing
        will do: chains prove that it is the same history."""
        self.node = log.node
        known = [*log.fragments, *log.archives]
        known += [fragment for other in others for fragment in (*other.fragments, *other.archives)]
        pieces = [Piece(log.fragments[-1], len(log.fragments[-1]))] if log.fragments else []
        while pieces and pieces[-1].fragment.head.base_seq:
            head = pieces[-1].fragment.head
            before = _piece_to(known, head.base_seq, head.base_chain)
            if before is None:
                break
            pieces.append(before)
        self.pieces = [piece for piece in reversed(pieces) if piece.size]
        first = pieces[-1].fragment.head if pieces else None
        self.base_seq = first.base_seq if first else 0
        self.base_chain = first.base_chain if first else 0
        self._starts = [piece.fragment.head.base_seq for piece in self.pieces]

    @property
    def end_seq(self) -> int:
        """Last committed seq."""
        piece = self.pieces[-1] if self.pieces else None
        return piece.fragment.ends[piece.size - 1] if piece else self.base_seq

    @property
    def epoch(self) -> int:
        """Term of the last record."""
        piece = self.pieces[-1] if self.pieces else None
        return piece.fragment.epochs[piece.size - 1] if piece else 0

    @property
    def bytes(self) -> int:
        """Of all records."""
        return sum(piece.fragment.offsets[piece.size - 1] - SEGMENT_HEAD_BYTES for piece in self.pieces if piece.size)

    def chain_at(self, seq: int) -> int | None:
        """Chain behind the record that ends at `seq`; None where no record ends."""
        if seq == self.base_seq:
            return self.base_chain
        number = bisect_right(self._starts, seq - 1) - 1
        if number < 0:
            return None
        fragment, size = self.pieces[number]
        place = bisect_left(fragment.ends, seq, 0, size)
        return fragment.chains[place] if place < size and fragment.ends[place] == seq else None

    def records(self) -> Iterator[tuple[Fragment, Record]]:
        """All records from the beginning."""
        for fragment, size in self.pieces:
            for record in fragment.records(size):
                yield fragment, record

    def term_ends(self) -> dict[int, int]:
        """Last seq of each term; a term that comes again later is not the same one."""
        ends: dict[int, int] = {}
        newest = 0
        for fragment, size in self.pieces:
            for place in range(size):
                newest = max(newest, fragment.epochs[place])
                if fragment.epochs[place] == newest:
                    ends[newest] = fragment.ends[place]
        return ends


def read_logs(data: Path) -> list[NodeLog]:
    """All nodes of a data directory, by name. JournalError when there is none or one cannot be read at all."""
    directories = sorted(path for path in (data / "shards").glob("*") if path.is_dir())
    if not directories:
        raise JournalError(f"{data} holds no journal: there is nothing in its directory shards")
    return [NodeLog(directory) for directory in directories]


def _piece_to(known: Sequence[Fragment], seq: int, chain: int) -> Piece | None:
    for fragment in known:
        count = fragment.place_behind(seq, chain)
        if count > 0:
            return Piece(fragment, count)
    return None


def _holds_record(rest: bytes) -> bool:
    """A whole record stands somewhere in `rest` behind its first byte."""
    found = rest.find(_MAGIC, ALIGNMENT)
    while found >= 0:
        if found % ALIGNMENT == 0:
            try:
                head = decode_head(rest[found : found + HEAD_BYTES])
                decode_record(rest[found : found + head.record_bytes])
            except ValueError:
                pass
            else:
                return True
        found = rest.find(_MAGIC, found + 1)
    return False
