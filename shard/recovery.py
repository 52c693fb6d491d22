"""The only way a shard starts: newest good snapshot, then the journal behind it, record by record through `apply`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S
from exchange.errors import ConfigError, JournalError
from exchange.limits import RING_FRAMES_MAX
from exchange.process import Log
from shard.brittle import create
from shard.core.engine import Engine
from shard.core.journal import START, Position, Segment, Tail, TailKind, consume, scan
from shard.core.outcome import event_frame
from shard.core.replay import Applied, Held, Replay
from shard.core.ring import Ring
from shard.core.snapshot import SnapshotHead
from shard.journal_file import cut, open_segments, terms
from shard.node_state import NodeState, read_note
from shard.snapshot_file import load_snapshot, snapshot_paths, snapshot_seq

PROGRESS_NS = 1 * NS_PER_S


class Recovered(NamedTuple):
    """A shard as its journal tells it; everything up to `position` is durable.

    `terms` = where each term ends, oldest first; the records behind `oldest_seq` are there.
    """

    engine: Engine
    position: Position
    ring: Ring
    replayed_bytes: int
    terms: list[m.Term]
    oldest_seq: int


def recover(
    directory: Path, state: NodeState, *, ceilings: m.EngineConfig, reference: bool, ring_bytes: int, log: Log
) -> Recovered:
    """Read everything back and cut a torn tail.

    JournalError when something that was acknowledged is missing or damaged: nothing is cut then. ConfigError when what
    is there does not fit `ceilings`. Poisoned when the engine fails on a record, Held when it did so before and would
    again. Cost: reading the snapshot, then applying what came after it.
    """
    durable_seq = max([read_note(directory), state.clean_seq, *map(snapshot_seq, snapshot_paths(directory))], default=0)
    segments = open_segments(directory)
    if not segments:
        engine, position = _without_journal(directory, durable_seq, ceilings, reference=reference, log=log)
        ring = Ring(after_seq=position.seq, bytes_max=ring_bytes, frames_max=RING_FRAMES_MAX)
        return Recovered(engine, position, ring, 0, terms([], position), position.seq)
    head = segments[0].head
    if (head.shard, head.journal_uuid) != (state.shard, state.journal_uuid):
        raise JournalError(
            f"directory {directory} has journal {head.journal_uuid} of shard {head.shard}, "
            f"its node.state is that of {state.journal_uuid} of shard {state.shard}"
        )
    replay = Replay(
        segments,
        _newest_snapshot(directory, log),
        reference=reference,
        skip=state.skip,
        poison=state.poison,
        create=create,
    )
    ring = Ring(after_seq=replay.position.seq, bytes_max=ring_bytes, frames_max=RING_FRAMES_MAX)
    progress = _Progress(log, replay.position.seq)
    records = replay.run(state.suspect_seq if state.suspect_seq >= 0 else None)

    def on_applied(applied: Applied) -> None:
        ring.add(applied.entry.head.first_seq, applied.entry.position.seq, event_frame(applied.outcome))
        progress.on_applied(applied)

    tail = consume(records, on_applied)
    _accept_tail(directory, segments, tail, scanned_seq=replay.scanned_seq, durable_seq=durable_seq, log=log)
    try:
        replay.adopt(ceilings)
    except ValueError as fault:
        raise ConfigError([f"[ceilings] are too low for what shard {state.shard} holds: {fault}"]) from fault
    log.info("recovered", seq=replay.position.seq, epoch=replay.position.epoch, records=progress.records)
    position = replay.position
    return Recovered(
        replay.engine, position, ring, progress.bytes, terms(segments, position), segments[0].head.base_seq
    )


def journal_end(directory: Path, state: NodeState, held: Held) -> Position:
    """Where a journal ends of which replay went only as far as `held`."""
    segments = open_segments(directory)
    position = held.position
    number = max(number for number, segment in enumerate(segments) if segment.head.base_seq <= position.seq)
    for entry in scan(segments, number):
        if 0 <= state.suspect_seq < entry.position.seq:
            break
        position = max(position, entry.position)
    return position


def _without_journal(
    directory: Path, durable_seq: int, ceilings: m.EngineConfig, *, reference: bool, log: Log
) -> tuple[Engine, Position]:
    """A fresh shard, or one that took its primary's snapshot and has written nothing since."""
    engine = create(ceilings, reference=reference)
    found = _newest_snapshot(directory, log)
    position = found[0].position if found else START
    if position.seq < durable_seq:
        raise JournalError(f"directory {directory} has no journal, but seq {durable_seq} was acknowledged")
    if found:
        try:
            engine.restore(found[1])
        except ValueError as fault:
            raise ConfigError([f"[ceilings] are too low for the snapshot of seq {position.seq}: {fault}"]) from fault
        log.info("starts from a snapshot alone", seq=position.seq, epoch=position.epoch)
    return engine, position


def _newest_snapshot(directory: Path, log: Log) -> tuple[SnapshotHead, bytes] | None:
    for path in snapshot_paths(directory):
        try:
            return load_snapshot(path)
        except JournalError as error:
            log.error("snapshot unusable, taking an older one", error=str(error))
    return None


def _accept_tail(
    directory: Path, segments: Sequence[Segment], tail: Tail, *, scanned_seq: int, durable_seq: int, log: Log
) -> None:
    """Cut a torn end. JournalError when the end is not that of a write that was under way."""
    if tail.kind is TailKind.CORRUPT:
        raise JournalError(f"the journal is corrupt behind seq {scanned_seq}, nothing was cut: {tail.detail}")
    if scanned_seq < durable_seq:
        detail = tail.detail or "nothing follows"
        raise JournalError(
            f"the journal can be read up to seq {scanned_seq}, but seq {durable_seq} was acknowledged, "
            f"nothing was cut: {detail}"
        )
    if tail.segment + 1 < len(segments):
        raise JournalError(f"the journal goes on in {segments[-1].name}, nothing was cut: {tail.detail}")
    path = directory / segments[tail.segment].name
    surplus = path.stat().st_size - tail.offset
    if tail.kind is TailKind.TORN:
        log.warning("torn tail cut", seq=scanned_seq, bytes=surplus, segment=path.name, detail=tail.detail)
    cut(path, tail.offset)


class _Progress:
    """A log line a second while records are applied."""

    def __init__(self, log: Log, start_seq: int) -> None:
        self._log = log
        self._start_seq = start_seq
        self._next_ns = monotonic_ns() + PROGRESS_NS
        self.records = 0
        self.bytes = 0

    def on_applied(self, applied: Applied) -> None:
        self.records += 1
        self.bytes += len(applied.entry.record)
        now_ns = monotonic_ns()
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + PROGRESS_NS
            seq = applied.entry.position.seq
            self._log.info("replaying", seq=seq, commands=seq - self._start_seq, megabytes=self.bytes >> 20)
