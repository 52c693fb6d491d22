"""Everything durable of one node: its state and promises, the journal and how far it is synced, snapshots.

OSError from any method: the disk failed. No call is repeated: `mark_suspect`, then the process ends.
"""

from pathlib import Path
from typing import Any

import msgspec

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.config import Journal
from exchange.failpoints import Point, reach
from exchange.process import Log
from shard.background_sync import BackgroundSync
from shard.core.journal import Position, SegmentHead
from shard.core.node import Node, Role
from shard.core.poison import Poisoned
from shard.journal_file import JournalFile
from shard.node_state import NodeState, SyncedNote, boot_id, change_state, save_state
from shard.rejoin import cut_behind, rebuild
from shard.snapshot_file import SnapshotWriter
from shard.supply import Supply
from shard.trace import Trace
from shard.vitals import Vitals

PAIRED_SNAPSHOT_FACTOR = 4
"""A primary with a standby takes its snapshots so much more seldom: the standby's are the ones that a start needs."""


class Storage:
    """The disk's side of a Node. `ended` = nothing is written to the journal any more; the process is to end."""

    def __init__(
        self,
        node: Node,
        directory: Path,
        state: NodeState,
        note: SyncedNote,
        *,
        name: str,
        ceilings: m.EngineConfig,
        limits: Journal,
        replayed_bytes: int,
        vitals: Vitals,
        log: Log,
    ) -> None:
        """What was recovered is durable. `replayed_bytes` of journal stand behind the newest snapshot."""
        self.state = state
        self.directory = directory
        self.trace = Trace(directory)
        self.supply = Supply(node, directory, log)
        self.ended = False
        self._node = node
        self._note = note
        self._name = name
        self._ceilings = ceilings
        self._vitals = vitals
        self._log = log
        self._journal = JournalFile(directory, segment_bytes=limits.segment_bytes)
        self._background = BackgroundSync(self._journal)
        self._prune = limits.prune
        self._snapshots = SnapshotWriter(directory, log, self._needed_seq)
        self._snapshot_every_bytes = limits.snapshot_every_bytes
        self._snapshot_bytes = -replayed_bytes
        node.on_synced()
        self.trace.note("sync", seq=node.synced_seq)

    @property
    def bytes_written(self) -> int:
        """Of the journal, by this process."""
        return self._journal.bytes_written

    @property
    def snapshot_seq(self) -> int:
        """Of the newest snapshot."""
        return self._snapshots.seq

    def wait_ms(self, now_ns: int) -> int | None:
        """In how many milliseconds a sync must begin; None when nothing waits for one."""
        if self._node.synced_seq == self._node.replica.position.seq:
            return None
        return self._background.wait_ms(now_ns)

    # --- promises -----------------------------------------------------------------------------------------------

    def promise(self) -> None:
        """Rule R1: durable before anything of this turn leaves or is executed; so is what is to be left out (R14)."""
        node = self._node
        view = node.view
        ver = view.ver if view is not None else 0
        if node.promise > self.state.promised_epoch or ver > self.state.view_ver:
            reach(Point.PROMISE_BEFORE)
            promised = max(node.promise, self.state.promised_epoch)
            skip = self.state.skip if view is None else tuple(view.skip)
            changes = {"promised_epoch": promised, "view_ver": max(ver, self.state.view_ver), "skip": skip}
            self.state = msgspec.structs.replace(self.state, **changes)
            change_state(self.directory, self.state)  # saved by this process when its session began
            self.trace.note("promise", promised)
            reach(Point.PROMISE_AFTER)
            self._log.info("view", ver=ver, epoch=node.promise, mode=node.mode)
        if node.promise > node.promised:
            node.on_promised()

    def begin_session(self, epoch: int, incarnation: int) -> None:
        """The coordinator knows this process: promise the present term, open a segment of this session's own."""
        position = self._node.replica.position
        changes = {"promised_epoch": epoch, "incarnation": incarnation, "boot_id": boot_id()}
        self._save(**changes, clean_seq=-1, suspect_seq=-1)
        self.trace.note("promise", epoch)
        self._journal.open(position, self._segment_head)
        self._log.info("registered", epoch=epoch, incarnation=incarnation, seq=position.seq)

    # --- the journal ----------------------------------------------------------------------------------------------

    def append(self) -> None:
        """Write what the node has formed."""
        node = self._node
        before = node.replica.position
        for record, after in node.formed:
            self.supply.note(self._journal.append(record, before, after.epoch))
            before = after
        # A standby may be sent records of old terms: it writes them by the word of the present one.
        epoch = node.view.epoch if node.view is not None and node.role is Role.STANDBY else before.epoch
        self.trace.note("write", epoch, before.seq)

    def make_durable(self, now_ns: int) -> None:
        """Now where the node cannot go on without, beside the loop where it can."""
        node = self._node
        if node.must_sync:
            self._sync()
            reach(Point.W5_SYNCED if node.role is Role.PRIMARY else Point.W6_SYNCED)
            return
        finished = self._background.finished()
        if finished is not None:
            self._synced(finished.seq, finished.took_ns)
        if node.synced_seq < node.replica.position.seq:
            self._background.begin(node.replica.position.seq, now_ns)

    def _sync(self) -> None:
        began_ns = monotonic_ns()
        self._journal.sync()
        self._synced(None, monotonic_ns() - began_ns)

    def _synced(self, seq: int | None, took_ns: int) -> None:
        self._vitals.on_synced(took_ns)
        self._node.on_synced(seq)
        self._note.write(self._node.synced_seq)
        self.trace.note("sync", seq=self._node.synced_seq)

    # --- snapshots --------------------------------------------------------------------------------------------------

    def care_for_snapshots(self) -> None:
        """Take one when enough was written since the last."""
        grown = self._journal.bytes_written - self._snapshot_bytes
        if grown >= self._snapshot_every_bytes * (PAIRED_SNAPSHOT_FACTOR if self._node.mode == "paired" else 1):
            self.take_snapshot()

    def take_snapshot(self) -> None:
        """Begin one, unless one is under way."""
        if self._snapshots.busy or self.ended:
            return
        if self._node.synced_seq < self._node.replica.position.seq:
            self._sync()  # a snapshot must not outlive records that it stands on
        self._snapshot_bytes = self._journal.bytes_written
        self._snapshots.start(self._node.replica.engine, self._node.replica.position)

    def reap(self) -> None:
        """Notice that a snapshot is there."""
        if self._snapshots.reap():
            self.supply.on_removed()

    # --- the end ----------------------------------------------------------------------------------------------------

    def cut(self, seq: int) -> None:
        """Archive and remove what is behind `seq` (R9)."""
        self._end()
        cut_behind(self.directory, seq, self._note, wall_ns())

    def replace(self, received: Path) -> None:
        """Archive everything and begin with a snapshot that was received."""
        self._end()
        self.state = msgspec.structs.replace(self.state, rebuilding=True)
        rebuild(self.directory, self.state, self._note, wall_ns(), received)

    def finish(self) -> None:
        """Leave a snapshot and the mark of a clean end."""
        replica = self._node.replica
        self._end()
        self._snapshots.write_now(replica.engine, replica.position)
        if self._node.incarnation:
            self._save(clean_seq=replica.position.seq)
        self._log.info("clean end", seq=replica.position.seq)

    def mark_suspect(self, fault: OSError) -> None:
        """The disk failed: remember what is known to be durable, for the next start."""
        seq = self._node.synced_seq
        self._log.critical("disk failed, stopping", durable_seq=seq, error=str(fault))
        try:
            self._save(suspect_seq=seq)
        except OSError as again:
            self._log.critical("the mark could not be written either", error=str(again))

    def mark_poisoned(self, defect: Poisoned) -> None:
        """A record cannot be executed: the next start must not run into it again. OSError when the disk fails."""
        self._save(poison=defect.noted(self.state.poison))

    def close(self) -> None:
        """End helpers; the journal is left as it is."""
        self.supply.close()
        self._background.close()
        self._snapshots.abandon()
        self.trace.close()
        self._note.close()

    def _needed_seq(self) -> int:
        """Behind which seq the journal must stay."""
        return self.supply.needed_seq(monotonic_ns()) if self._prune else 0

    def _end(self) -> None:
        """Nobody but this thread touches the directory from now on."""
        self.ended = True
        self._snapshots.abandon()
        self._background.close()
        self._journal.close()

    def _segment_head(self, base: Position) -> SegmentHead:
        state = self.state
        return SegmentHead(
            shard=state.shard,
            journal_uuid=state.journal_uuid,
            node=self._name,
            incarnation=state.incarnation,
            boot_id=state.boot_id,
            base_seq=base.seq,
            base_epoch=base.epoch,
            base_ts_ns=base.ts_ns,
            base_chain=base.chain,
            ceilings=self._ceilings,
        )

    def _save(self, **changes: Any) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        save_state(self.directory, self.state)
