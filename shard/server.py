"""The shard daemon: one thread, one loop, one record a turn. Sockets and journal for a Replica."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ConfigError, JournalError, WireError
from exchange.limits import TICK_INTERVAL_NS
from exchange.membership import Membership
from exchange.process import EXIT_DEFECT, EXIT_IO, Daemon
from exchange.sockets import Dealer, Publisher, Router, Waiter, open_private_directory
from exchange.wire import decode_coordinator_outbound
from shard.core.engine import REFERENCE, engine_kind, native_available
from shard.core.journal import Position, SegmentHead
from shard.core.replay import Poisoned
from shard.core.replica import Phase, Replica
from shard.journal_file import JournalFile
from shard.node_state import NodeLock, NodeState, SyncedNote, boot_id, load_state, new_state, save_state
from shard.recovery import Recovered, recover
from shard.snapshot_file import SnapshotWriter, remove_temporaries
from shard.vitals import Vitals

MESSAGES_PER_TURN = 256
"""Messages read before the loop turns to the journal: more than a record of small batches clears, so that overload is
seen and refused, and little enough that answers of the record before do not wait milliseconds."""
WAITING_LOG_NS = 5 * NS_PER_S
NOTES_PER_S = 10
"""Lines that a hostile peer can cause in the log."""


def serve(daemon: Daemon) -> int:
    """Recover, join the cluster, serve until SIGTERM or SIGINT; returns the exit code."""
    names = [node for _, node in daemon.config.nodes()]
    if daemon.name not in names:
        raise ConfigError([f"--name {daemon.name!r} is not one of the configured nodes: {', '.join(names)}"])
    directory = daemon.config.node_directory(daemon.name)
    open_private_directory(directory)
    lock = NodeLock(directory)
    try:
        return _serve(daemon, directory)
    except Poisoned as defect:
        daemon.log.critical("the engine failed on a journalled record", error=str(defect))
        return EXIT_DEFECT
    except OSError as fault:
        daemon.log.critical("input or output failed", error=str(fault))
        return EXIT_IO
    finally:
        lock.close()


def _serve(daemon: Daemon, directory: Path) -> int:
    remove_temporaries(directory)
    state = load_state(directory)
    if state is None:
        if any(directory.glob("*.segment")):
            raise JournalError(f"directory {directory} has a journal but no node.state: its promises are lost")
        state = new_state(daemon.name)
        save_state(directory, state)
    if state.suspect_seq >= 0:
        daemon.log.warning("a write failed before; taking only what was durable then", seq=state.suspect_seq)
    reference = _wants_reference(daemon)
    recovered = recover(
        directory,
        state,
        ceilings=daemon.config.engine_config(),
        reference=reference,
        ring_bytes=daemon.config.journal.ring_bytes,
        log=daemon.log,
    )
    server = Server(daemon, directory, state, recovered)
    try:
        server.run()
    except OSError as fault:
        # The kernel may have dropped what it could not write and call the next sync a success: never try again.
        server.mark_suspect(fault)
        return EXIT_IO
    finally:
        server.close()
    return 0


class Server:
    """Shell around a Replica: performs what it says, in the order it says."""

    def __init__(self, daemon: Daemon, directory: Path, state: NodeState, recovered: Recovered) -> None:
        config = daemon.config
        self._log = daemon.log
        self._name = daemon.name
        self._directory = directory
        self._state = state
        self._ceilings = config.engine_config()
        self._endpoints = {
            "orders": config.endpoint(f"orders.{daemon.name}"),
            "events": config.endpoint(f"events.{daemon.name}"),
        }
        self._replica = Replica(
            shard=daemon.name,
            node=daemon.name,
            engine=recovered.engine,
            position=recovered.position,
            ring=recovered.ring,
        )
        self._journal = JournalFile(directory, segment_bytes=config.journal.segment_bytes)
        self._note = SyncedNote(directory)
        self._snapshots = SnapshotWriter(directory, daemon.log)
        self._snapshot_every_bytes = config.journal.snapshot_every_bytes
        self._snapshot_due_bytes = self._snapshot_every_bytes - recovered.replayed_bytes
        self._stopping = False
        now_ns = monotonic_ns()
        self._vitals = Vitals(now_ns)
        self._tick_ns = now_ns
        self._turn_ns = now_ns
        self._waiting_logged_ns = now_ns - WAITING_LOG_NS + NS_PER_S
        self._notes_left = NOTES_PER_S
        self._notes_ns = now_ns
        self._notes_dropped = 0
        self._given = (0, 0)
        self._map_version = 0
        self._membership = Membership(self._register(), self._stats)
        self._orders = Router()
        self._orders.bind(self._endpoints["orders"])
        self._events = Publisher()
        self._events.bind(self._endpoints["events"])
        self._control = Dealer(f"shard:{daemon.name}", hwm=1_000)
        self._control.connect(config.endpoint("control"))
        self._waiter = Waiter(self._orders, self._control)

    def run(self) -> None:
        """Serve until a signal; then finish what was taken. OSError when the disk fails."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while not self._stopping:
            until_tick_ms = max(0, self._tick_ns + TICK_INTERVAL_NS - monotonic_ns()) // NS_PER_MS + 1
            self._waiter.wait(0 if self._replica.busy else until_tick_ms)
            self._turn_ns = monotonic_ns()
            self._read_control()
            self._read_orders()
            if self._turn_ns - self._tick_ns >= TICK_INTERVAL_NS:
                self._tick()
            self._work()
        self._stop()

    def close(self) -> None:
        """Close sockets; the journal is left as it is."""
        for socket in (self._orders, self._events, self._control):
            socket.close()
        self._note.close()

    def mark_suspect(self, fault: OSError) -> None:
        """The disk failed: remember what is known to be durable, for the next start."""
        seq = self._replica.committed_seq
        self._log.critical("disk failed, stopping", durable_seq=seq, error=str(fault))
        try:
            self._save(suspect_seq=seq)
        except OSError as again:
            self._log.critical("the mark could not be written either", error=str(again))

    # --- one turn -----------------------------------------------------------------------------------------------

    def _read_orders(self) -> None:
        now_ns = wall_ns()
        for _ in range(MESSAGES_PER_TURN):
            received = self._orders.receive()
            if received is None:
                break
            peer, header, payload = received
            self._replica.on_message(header, payload, peer, now_ns)

    def _work(self) -> None:
        """At most one record, in the order that `Replica` demands; then let go what may leave."""
        record = self._replica.form()
        if record:
            self._commit(record)
        ready = self._replica.ready()
        for peer, header, payload in ready.send:
            # False = the peer is gone: it will ask again, or resolve what it does not know.
            self._orders.send(peer, header, payload)
        for header, payload in ready.publish:
            self._events.send(header, payload)
        for note in ready.notes:
            self._log_bounded(note)
        if self._journal.bytes_written >= self._snapshot_due_bytes and not self._snapshots.busy:
            self._snapshot_due_bytes = self._journal.bytes_written + self._snapshot_every_bytes
            self._snapshots.start(self._replica.engine, self._replica.position)

    def _commit(self, record: bytes) -> None:
        """Write, execute, make durable."""
        before = self._replica.position
        self._journal.append(record, before)
        self._replica.on_written()
        sync_ns = monotonic_ns()
        self._journal.sync()
        synced_ns = monotonic_ns()
        after = self._replica.position
        self._note.write(after.seq)
        self._replica.on_synced()
        self._vitals.on_record(
            commands=after.seq - before.seq,
            trades=self._replica.trades,
            sync_ns=synced_ns - sync_ns,
            commit_ns=synced_ns - self._turn_ns,
        )

    def _tick(self) -> None:
        self._tick_ns = self._turn_ns
        self._replica.on_tick(wall_ns())
        self._vitals.on_tick(self._turn_ns)
        self._snapshots.reap()
        self._membership.update(self._register())
        if not self._membership.registered and self._turn_ns - self._waiting_logged_ns >= WAITING_LOG_NS:
            self._waiting_logged_ns = self._turn_ns
            refused = self._membership.refused or "no answer yet"
            self._log.info("waiting for the coordinator", answer=refused)
        for message in self._membership.on_tick(self._turn_ns):
            self._control.send(message)

    # --- the coordinator ----------------------------------------------------------------------------------------

    def _read_control(self) -> None:
        while (received := self._control.receive()) is not None:
            try:
                message = decode_coordinator_outbound(received[0])
            except WireError as error:
                self._log_bounded(str(error))
                continue
            for answer in self._membership.on_message(message, self._turn_ns):
                self._control.send(answer)
        map_ = self._membership.map
        if map_ is None or not self._membership.registered:
            return
        if self._given != (self._membership.epoch, self._membership.incarnation):
            self._begin_term(map_)
        elif map_.version != self._map_version and self._replica.phase is Phase.SERVING:
            self._replica.define(self._owned(map_))
        self._map_version = map_.version

    def _begin_term(self, map_: m.ShardMap) -> None:
        """Promise the term durably, open a segment for it, let the replica begin it."""
        epoch, incarnation = self._membership.epoch, self._membership.incarnation
        self._given = (epoch, incarnation)
        if epoch < max(self._state.promised_epoch, self._replica.epoch):
            promised = max(self._state.promised_epoch, self._replica.epoch)
            self._log.error("the coordinator is behind: it offers an older term", epoch=epoch, promised=promised)
            return
        position = self._replica.position
        try:
            self._replica.begin_term(epoch, incarnation, self._owned(map_), wall_ns())
        except ValueError as fault:
            self._log.error("the coordinator's term cannot be used", error=str(fault))
            return
        self._save(promised_epoch=epoch, incarnation=incarnation, boot_id=boot_id(), clean_seq=-1, suspect_seq=-1)
        self._journal.open_term(position, self._segment_head)
        self._log.info("term begins", epoch=epoch, incarnation=incarnation, seq=position.seq)

    def _owned(self, map_: m.ShardMap) -> list[m.Instrument]:
        return [instrument for instrument in map_.instruments if instrument.shard == self._name]

    def _segment_head(self, base: Position) -> SegmentHead:
        state = self._state
        return SegmentHead(
            shard=self._name,
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

    def _register(self) -> m.Register:
        return m.Register(
            role="shard",
            name=self._name,
            pid=os.getpid(),
            uuid=self._state.journal_uuid,
            last_seq=self._replica.committed_seq,
            promised_epoch=self._state.promised_epoch,
            endpoints=self._endpoints,
        )

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        replica = self._replica
        orders = replica.engine.orders()
        stats: dict[str, Any] = {
            "epoch": replica.epoch,
            "seq": replica.committed_seq,
            "orders": orders,
            "orders_max": self._ceilings.orders_max,
            "pool_use_percent": 100 * orders // self._ceilings.orders_max,
            "inbox_batches": replica.inbox_batches,
            "ring_frames": len(replica.ring),
            "journal_bytes": self._journal.bytes_written,
            "snapshot_seq": self._snapshots.seq,
            "engine": engine_kind(replica.engine),
            "mode": "solo",
            "trail": replica.engine.trail(),
        }
        stats.update(self._vitals.shown())
        return replica.serving, stats

    # --- the end ------------------------------------------------------------------------------------------------

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _stop(self) -> None:
        """Answer what was taken, refuse what comes, leave a snapshot and the mark of a clean end."""
        began = self._replica.phase is not Phase.WAITING
        self._replica.drain()
        self._read_orders()
        self._work()
        while self._replica.busy:
            self._work()
        if self._membership.registered:
            self._control.send(self._membership.beat(self._turn_ns))
        self._journal.close()
        self._snapshots.write_now(self._replica.engine, self._replica.position)
        if began:
            self._save(clean_seq=self._replica.position.seq)
        self._log.info("clean end", seq=self._replica.position.seq)

    def _save(self, **changes: Any) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        save_state(self._directory, self._state)

    def _log_bounded(self, note: str) -> None:
        if self._turn_ns - self._notes_ns >= NS_PER_S:
            if self._notes_dropped:
                self._log.warning("more of that", lines_dropped=self._notes_dropped)
            self._notes_ns, self._notes_left, self._notes_dropped = self._turn_ns, NOTES_PER_S, 0
        if self._notes_left:
            self._notes_left -= 1
            self._log.warning("ignored", detail=note)
        else:
            self._notes_dropped += 1


def _wants_reference(daemon: Daemon) -> bool:
    """ConfigError when the native engine is asked for and not built; a loud line when the slow one runs."""
    wanted = daemon.config.cluster.engine
    if wanted == "native" and not native_available():
        raise ConfigError(['cluster.engine is "native", but the native engine is not built: run `make setup`'])
    reference = wanted == REFERENCE or not native_available()
    if reference:
        daemon.log.warning("the reference engine runs: correct, and far slower than the native one")
    return reference
