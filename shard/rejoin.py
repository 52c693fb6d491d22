"""A journal made to agree with the primary's: cut behind a record, or replaced by a snapshot (rule R9).

What is taken away is evidence: it goes to `divergent/<after_seq>-<time>.records`, each file a segment like any other,
and is never replayed. Every function may be killed at any step: the next start finds a journal that is whole, or the
mark `rebuilding` in node.state, and goes on from there. The process ends after each; recovery is the only start.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from exchange.errors import JournalError
from exchange.failpoints import Point, reach
from shard.core.journal import SEGMENT_HEAD_BYTES, Position, Segment, encode_segment_head, scan
from shard.files import replace_durably, sync_directory
from shard.journal_file import cut, open_segments, segment_paths, segment_seq
from shard.node_state import NodeState, SyncedNote, new_journal, save_state
from shard.snapshot_file import snapshot_paths, snapshot_seq

DIVERGENT = "divergent"
DIVERGENT_BYTES_MAX = 1024 * 1024 * 1024
"""Beyond that the oldest evidence goes."""


def divergent_paths(directory: Path) -> list[Path]:
    """What was archived, oldest first; `journal_file.open_segment` reads each."""
    return sorted((directory / DIVERGENT).glob("*.records"), key=_archived_when)


def can_cut(directory: Path, seq: int) -> bool:
    """State at `seq` can be rebuilt: the journal reaches back to its beginning or to a snapshot that is not newer."""
    paths = segment_paths(directory)
    if not paths:
        return False
    first_seq = segment_seq(paths[0])
    kept = [snapshot_seq(path) for path in snapshot_paths(directory) if snapshot_seq(path) <= seq]
    return first_seq == 0 or any(first_seq <= snapshot <= seq for snapshot in kept)


def cut_behind(directory: Path, seq: int, note: SyncedNote, now_ns: int) -> None:
    """Archive and remove every record behind `seq`, which must be a record's end. `now_ns` is wall-clock time."""
    reach(Point.CUT_BEFORE_ARCHIVE)
    segments = open_segments(directory)
    number, position, offset = _find(segments, seq)
    surplus = _records_behind(segments[number], offset)
    if surplus:
        (directory / DIVERGENT).mkdir(mode=0o700, exist_ok=True)
        head = encode_segment_head(segments[number].head.behind(position))
        replace_durably(_archived(directory, seq, now_ns), head + surplus)
    reach(Point.CUT_ARCHIVED)
    note.lower(seq)
    for path in snapshot_paths(directory):
        if snapshot_seq(path) > seq:
            path.unlink()
    sync_directory(directory)
    reach(Point.CUT_SNAPSHOTS_REMOVED)
    _archive_segments(directory, [directory / segment.name for segment in segments[number + 1 :]], now_ns)
    cut(directory / segments[number].name, offset)
    reach(Point.CUT_TRUNCATED)
    _bound(directory)


def rebuild(
    directory: Path, state: NodeState, note: SyncedNote, now_ns: int, received: Path | None = None
) -> NodeState:
    """Archive the whole journal and begin another one: with `received`, a snapshot whose name will be kept, or empty.

    What was promised stays. The new journal has a new uuid, so nobody takes it for the one that was acknowledged.
    """
    state = msgspec.structs.replace(state, rebuilding=True)
    save_state(directory, state)
    reach(Point.REBUILD_MARKED)
    note.lower(0)
    _archive_segments(directory, segment_paths(directory), now_ns)
    for path in snapshot_paths(directory):
        path.unlink()
    sync_directory(directory)
    reach(Point.REBUILD_WIPED)
    if received is not None:
        received.rename(received.with_suffix(""))
        sync_directory(directory)
    reach(Point.REBUILD_PLACED)
    state = new_journal(state)
    save_state(directory, state)
    _bound(directory)
    return state


def _find(segments: Sequence[Segment], seq: int) -> tuple[int, Position, int]:
    """Segment, position and offset of the end of the record whose last seq is `seq`."""
    number = max((number for number, segment in enumerate(segments) if segment.head.base_seq <= seq), default=-1)
    if number < 0:
        raise JournalError(f"the journal does not reach back to seq {seq}")
    position, offset = segments[number].head.base, SEGMENT_HEAD_BYTES
    for entry in scan(segments[number : number + 1]):
        if entry.position.seq > seq:
            break
        position, offset = entry.position, entry.offset + len(entry.record)
    if position.seq != seq:
        raise JournalError(f"the journal has no record that ends at seq {seq}, one ends at {position.seq}")
    return number, position, offset


def _records_behind(segment: Segment, offset: int) -> bytes:
    """The segment's records from `offset` on, without what was written ahead or torn."""
    return b"".join(entry.record for entry in scan([segment]) if entry.offset >= offset)


def _archive_segments(directory: Path, paths: list[Path], now_ns: int) -> None:
    """Newest first: what is left is a journal at any moment."""
    archive = directory / DIVERGENT
    archive.mkdir(mode=0o700, exist_ok=True)
    for path in reversed(paths):
        path.rename(_archived(directory, segment_seq(path), now_ns))
        sync_directory(directory)
    sync_directory(archive)


def _archived(directory: Path, after_seq: int, now_ns: int) -> Path:
    return directory / DIVERGENT / f"{after_seq:020d}-{now_ns}.records"


def _archived_when(path: Path) -> tuple[int, int]:
    after_seq, _, ns = path.stem.partition("-")
    return int(ns), int(after_seq)


def _bound(directory: Path) -> None:
    """Oldest evidence goes first."""
    kept = 0
    for path in reversed(divergent_paths(directory)):
        kept += path.stat().st_size
        if kept > DIVERGENT_BYTES_MAX:
            path.unlink()
