"""The shard daemon: one node of one shard. One thread, one loop, one write a turn. Sockets and journal for a Node."""

import os
import signal
from collections import deque
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from exchange import failpoints
from exchange import messages as m
from exchange.clock import monotonic_ns, uptime_ns, wall_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ConfigError, JournalError, WireError
from exchange.failpoints import Point, reach
from exchange.limits import NODE_BEAT_INTERVAL_NS, TICK_INTERVAL_NS
from exchange.membership import Membership
from exchange.process import EXIT_DEFECT, EXIT_IO, EXIT_POISON, EXIT_RESTART, Daemon, look_for_garbage_rarely
from exchange.sockets import Dealer, Publisher, Router, Socket, Waiter, open_private_directory
from exchange.wire import decode_coordinator_outbound
from shard.bounded_log import BoundedLog
from shard.core.engine import REFERENCE, engine_kind, native_available
from shard.core.node import Files, Node, Ready, Role
from shard.core.poison import Poisoned
from shard.core.replay import Held
from shard.core.replica import Replica
from shard.enrolment import Enrolment, doubt
from shard.held import HeldServer
from shard.link import Link
from shard.node_state import NodeLock, NodeState, SyncedNote, load_state, new_state, save_state
from shard.recovery import Recovered, journal_end, recover
from shard.refill import Refill
from shard.rejoin import rebuild
from shard.snapshot_file import remove_temporaries
from shard.storage import Storage
from shard.vitals import Vitals

MESSAGES_PER_TURN = 256
"""Messages read before the loop turns to the journal: more than a record of small batches clears, so that overload is
seen and refused, and little enough that answers of the record before do not wait milliseconds."""
WAITING_LOG_NS = 5 * NS_PER_S
LAST_WORDS_NS = 500 * NS_PER_MS
"""How long a primary that ends waits for its standby to acknowledge the last records."""
LAST_WORDS_STEP_MS = 5


def serve(daemon: Daemon) -> int:
    """Recover, join the cluster, serve until SIGTERM or SIGINT; returns the exit code."""
    shards = {node: shard for shard, node in daemon.config.nodes()}
    if daemon.name not in shards:
        raise ConfigError([f"--name {daemon.name!r} is not one of the configured nodes: {', '.join(shards)}"])
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    directory = daemon.config.node_directory(daemon.name)
    open_private_directory(directory)
    lock = NodeLock(directory)
    try:
        return _serve(daemon, shards[daemon.name], directory)
    except OSError as fault:
        daemon.log.critical("input or output failed", error=str(fault))
        return EXIT_IO
    finally:
        lock.close()


def _serve(daemon: Daemon, shard: str, directory: Path) -> int:
    remove_temporaries(directory)
    state = load_state(directory)
    if state is None:
        if any(directory.glob("*.segment")):
            raise JournalError(f"directory {directory} has a journal but no node.state: its promises are lost")
        state = new_state(shard)
        save_state(directory, state)
    note = SyncedNote(directory)
    if state.rebuilding:
        daemon.log.warning("the journal was being replaced; it starts empty")
        state = rebuild(directory, state, note, wall_ns())
    if state.suspect_seq >= 0:
        daemon.log.warning("a write failed before; taking only what was durable then", seq=state.suspect_seq)
    reference = _wants_reference(daemon)
    try:
        recovered = recover(
            directory,
            state,
            ceilings=daemon.config.engine_config(),
            reference=reference,
            ring_bytes=daemon.config.journal.ring_bytes,
            log=daemon.log,
        )
    except Held as held:
        return HeldServer(daemon, shard, directory, state, note, held, journal_end(directory, state, held)).run()
    except Poisoned as defect:
        daemon.log.critical("the engine failed on a journalled record at the start", error=str(defect))
        save_state(directory, replace(state, poison=defect.noted(state.poison)))
        return EXIT_POISON
    if state.poison is not None and recovered.position.seq >= state.poison.last_seq:
        state = replace(state, poison=None)
        save_state(directory, state)
    server = Server(daemon, shard, directory, state, note, recovered)
    try:
        return _run(server, daemon)
    except OSError as fault:
        # The kernel may have dropped what it could not write and call the next sync a success: never try again.
        server.storage.mark_suspect(fault)
        return EXIT_IO
    finally:
        server.close()


def _run(server: "Server", daemon: Daemon) -> int:
    try:
        return server.run()
    except Poisoned as defect:
        daemon.log.critical("the engine failed on a journalled record", error=str(defect))
        server.storage.mark_poisoned(defect)
        return EXIT_POISON


class Server:
    """Shell around a Node: performs what it says, in the order it says."""

    def __init__(
        self, daemon: Daemon, shard: str, directory: Path, state: NodeState, note: SyncedNote, recovered: Recovered
    ) -> None:
        config = daemon.config
        self._log = daemon.log
        self._shard = shard
        self._name = daemon.name
        self._enrolment = Enrolment(config, shard, daemon.name, state)
        endpoints = self._enrolment.endpoints
        self._ceilings = config.engine_config()
        self._durability = config.replication.durability
        replica = Replica(
            shard=shard, node=daemon.name, engine=recovered.engine, position=recovered.position, ring=recovered.ring
        )
        replica.skip = state.skip
        paired = next(entry.replicas for entry in config.shards if entry.name == shard) > 1
        self._node = Node(
            replica,
            shard=shard,
            node=daemon.name,
            promised=state.promised_epoch,
            terms=recovered.terms,
            oldest_seq=recovered.oldest_seq,
            relaxed=self._durability == "replicated",
            solo=not paired or config.replication.solo == "allow",
            shrink_ns=config.replication.shrink_ms * NS_PER_MS,
        )
        now_ns = monotonic_ns()
        self._vitals = Vitals(now_ns)
        self.storage = Storage(
            self._node,
            directory,
            state,
            note,
            name=daemon.name,
            ceilings=self._ceilings,
            limits=config.journal,
            replayed_bytes=recovered.replayed_bytes,
            vitals=self._vitals,
            log=daemon.log,
        )
        self._refill = Refill(self._node, self.storage, daemon.log)
        self._exit: int | None = None
        self._serving = False
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._turn_ns = now_ns
        self._tick_ns = now_ns
        self._log_tick_ns = now_ns
        self._waiting_logged_ns = now_ns - WAITING_LOG_NS + NS_PER_S
        self._notes = BoundedLog(daemon.log)
        self._map_version = 0
        self._to_control: list[bytes] = []
        self._membership = Membership(self._register(), self._stats, beat_interval_ns=NODE_BEAT_INTERVAL_NS)
        self._orders = Router()
        self._orders.bind(endpoints["orders"])
        self._events = Publisher()
        self._events.bind(endpoints["events"])
        self._link = Link(daemon.name, endpoints["replica"])
        self._control = Dealer(f"shard:{daemon.name}", hwm=1_000)
        self._control.connect(config.endpoint("control"))
        self._waiter = Waiter(self._orders, self._control, *self._link.sockets)
        if paired and self._durability == "replicated":
            self._log.warning("durability is `replicated`: answers do not wait for the disks")

    def run(self) -> int:
        """Serve until a signal; then finish what was taken. Returns the exit code. OSError when the disk fails."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        look_for_garbage_rarely()
        while self._exit is None:
            readable = self._waiter.wait(self._patience_ms())
            self._turn_ns = monotonic_ns()
            self._node.on_uptime(uptime_ns())
            if self._control in readable:
                self._read_control()
            self._read_link(readable)
            if self._orders in readable:
                self._read_orders()
            if self._turn_ns - self._tick_ns >= NODE_BEAT_INTERVAL_NS:
                self._tick()
            self.storage.supply.step()
            self._turn()
        if self._exit == 0:
            self._stop()
        return self._exit

    def close(self) -> None:
        """Close sockets and end helpers; the journal is left as it is."""
        for socket in (self._orders, self._events, self._control, self._link):
            socket.close()
        self.storage.close()

    # --- one turn -----------------------------------------------------------------------------------------------

    def _patience_ms(self) -> int:
        if self._node.busy or self.storage.supply.busy:
            return 0
        now_ns = monotonic_ns()
        until_tick_ms = max(0, self._tick_ns + NODE_BEAT_INTERVAL_NS - now_ns) // NS_PER_MS + 1
        until_sync_ms = self.storage.wait_ms(now_ns)
        return until_tick_ms if until_sync_ms is None else min(until_tick_ms, until_sync_ms)

    def _read_orders(self) -> None:
        now_ns = wall_ns()
        for _ in range(MESSAGES_PER_TURN):
            received = self._orders.receive()
            if received is None:
                break
            peer, header, payload = received
            self._node.on_order(header, payload, peer, now_ns)

    def _read_link(self, readable: Container[Socket]) -> None:
        for received in self._link.receive(readable, MESSAGES_PER_TURN):
            self._node.on_link(received.header, received.payload, received.peer, self._turn_ns)

    def _turn(self) -> None:
        """What the node has decided, in the order that it demands."""
        self.storage.promise()
        if self._link.follow(self._node.primary, self._node.incarnation):
            self._waiter = Waiter(self._orders, self._control, *self._link.sockets)
        for message in self._to_control:
            self._control.send(message)
        self._to_control.clear()
        self._perform(self._node.ready())
        if self.storage.ended:
            return
        if self._node.form():
            self._write()
        self.storage.make_durable(self._turn_ns)
        self._perform(self._node.ready())
        if self._node.serving != self._serving and self._membership.registered:
            # Customers wait for this word: it does not wait for the next heartbeat.
            self._serving = self._node.serving
            self._control.send(self._membership.beat(self._turn_ns))
        if self._node.diverged and self._node.role is Role.STANDBY:
            self._log.critical("the same log gave another outcome here, stopping", detail=self._node.diverged)
            self._exit = EXIT_DEFECT
        self.storage.care_for_snapshots()

    def _write(self) -> None:
        """Write, let the other node have it, execute."""
        node = self._node
        leads = node.role is Role.PRIMARY
        first_seq, last_seq = node.replica.position.seq, node.formed[-1][1].seq
        reach(Point.W4_BEFORE_WRITE if leads else Point.W6_BEFORE_WRITE)
        self.storage.append()
        reach(Point.W5_WRITTEN if leads else Point.W6_WRITTEN)
        for peer, header, payload in node.replicate():
            self._link.to_standby(peer, header, payload)
        if leads:
            reach(Point.W5_SENT)
            self._uncommitted.append((last_seq, self._turn_ns))
        node.on_written()
        self._vitals.on_written(commands=last_seq - first_seq)
        reach(Point.W5_APPLIED if leads else Point.W6_APPLIED)

    def _perform(self, ready: Ready) -> None:
        """Let go what may leave."""
        node = self._node
        if ready.send or ready.publish:
            if node.role is Role.PRIMARY and node.view is not None:
                released_seq = node.replica.committed_seq
                self.storage.trace.note("release", node.view.epoch, released_seq, node.required, node.view.ver)
            reach(Point.W8_BEFORE_RELEASE)
        for peer, header, payload in ready.send:
            # False = the peer is gone: it will ask again, or resolve what it does not know.
            self._orders.send(peer, header, payload)
        for header, payload in ready.publish:
            self._events.send(header, payload)
        if ready.send or ready.publish:
            reach(Point.W8_RELEASED)
        for peer, header, payload in ready.to_standby:
            self._link.to_standby(peer, header, payload)
        if ready.to_primary:
            reach(Point.W6_BEFORE_ACK)
        for header, payload in ready.to_primary:
            self.storage.trace.note_sent(header)
            self._link.to_primary(header, payload)
        if ready.control:
            reach(Point.ISR_BEFORE_ASK)
            for message in ready.control:
                self._control.send(message)
            reach(Point.ISR_ASKED)
        if ready.fetch is not None:
            self.storage.supply.fetch(ready.fetch)
        for files in ready.files:
            self._on_files(files)
        if ready.cut is not None:
            self._refill.on_cut(ready.cut)
            self._go_on_refilling()
        for note in ready.notes:
            self._notes.note(note, self._turn_ns)
        now_ns = monotonic_ns()
        while self._uncommitted and self._uncommitted[0][0] <= self._node.replica.committed_seq:
            took_ns = now_ns - self._uncommitted.popleft()[1]
            self._vitals.on_committed(trades=self._node.replica.trades, took_ns=took_ns)

    def _tick(self) -> None:
        self._tick_ns = self._turn_ns
        log_tick = self._turn_ns - self._log_tick_ns >= TICK_INTERVAL_NS
        if log_tick:
            self._log_tick_ns = self._turn_ns
        self._node.on_tick(wall_ns(), self._turn_ns, log_tick=log_tick)
        self._vitals.on_tick(self._turn_ns)
        self.storage.reap()
        self._go_on_refilling()
        self._membership.update(self._register())
        if not self._membership.registered and self._turn_ns - self._waiting_logged_ns >= WAITING_LOG_NS:
            self._waiting_logged_ns = self._turn_ns
            refused = self._membership.refused or "no answer yet"
            self._log.info("waiting for the coordinator", answer=refused)
        self._to_control += self._membership.on_tick(self._turn_ns)

    def _on_files(self, files: Files) -> None:
        if isinstance(files.message, m.SnapshotPart):
            self._refill.on_part(files)
            self._go_on_refilling()
            return
        part = self.storage.supply.part(files)
        if part is None:
            self.storage.take_snapshot()
        else:
            self._link.to_standby(*part)

    def _go_on_refilling(self) -> None:
        question = self._refill.question(self._turn_ns)
        if question is not None:
            self._link.to_primary(question)
        if self._refill.done and self._exit is None:
            self._exit = EXIT_RESTART

    # --- the coordinator ----------------------------------------------------------------------------------------

    def _read_control(self) -> None:
        while (received := self._control.receive()) is not None:
            try:
                message = decode_coordinator_outbound(received[0])
            except WireError as error:
                self._notes.note(str(error), self._turn_ns)
            else:
                self._on_control(message)

    def _on_control(self, message: m.CoordinatorOutbound) -> None:
        node = self._node
        match message:
            case m.Registered() if message.session == self._enrolment.session and not message.refused:
                if not self._accept(message):
                    return
            case m.ShardView() if message.shard == self._shard:
                node.on_view(message)
            case m.IsrAnswer() if message.view.shard == self._shard:
                node.on_answer(message)
            case m.StepDown() if message.shard == self._shard:
                node.on_step_down(message)
            case m.Ended() if message.shard == self._shard:
                node.on_ended(message)
            case m.TakeClock() if message.shard == self._shard:
                node.on_take_clock(message)
            case _:
                pass  # the membership's business, or another shard's
        self._to_control += self._membership.on_message(message, self._turn_ns)
        if self._membership.over:
            self._log.warning("this session is over", answer=self._membership.refused)
            self._exit = EXIT_RESTART
        map_ = self._membership.map
        if map_ is not None and map_.version != self._map_version:
            self._map_version = map_.version
            node.on_instruments([one for one in map_.instruments if one.shard == self._shard])

    def _accept(self, registered: m.Registered) -> bool:
        """The coordinator's word on this process, when it can be true."""
        why_not = doubt(registered, self.storage.state.promised_epoch)
        if why_not:
            self._notes.note(why_not, self._turn_ns)
            return False
        epoch, incarnation = registered.epoch, registered.incarnation
        if incarnation != self._node.incarnation:
            self.storage.begin_session(epoch, incarnation)
        self._node.on_registered(epoch, incarnation)
        return True

    def _register(self) -> m.Register:
        node = self._node
        return self._enrolment.message(
            self.storage.state, last_epoch=node.last_term, last_seq=node.replica.position.seq
        )

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        node, replica = self._node, self._node.replica
        orders = replica.engine.orders()
        stats: dict[str, Any] = {
            "shard": self._shard,
            "role": node.role.value,
            "mode": node.mode,
            "epoch": node.promised,
            "seq": replica.committed_seq,
            "last_epoch": node.last_term,
            "last_seq": replica.position.seq,
            "lag": node.lag,
            "view": node.view.ver if node.view is not None else 0,
            "hears_primary_ms": self._silence_ms(),
            "durability": self._durability,
            "diverged": node.diverged,
            "clock_off_ms": node.clock_off_ns(wall_ns()) // NS_PER_MS,
            "orders": orders,
            "orders_max": self._ceilings.orders_max,
            "pool_use_percent": 100 * orders // self._ceilings.orders_max,
            "inbox_batches": replica.inbox_batches,
            "ring_frames": len(replica.ring),
            "journal_bytes": self.storage.bytes_written,
            "snapshot_seq": self.storage.snapshot_seq,
            "engine": engine_kind(replica.engine),
            "trail": replica.engine.trail(),
        }
        stats.update(self._vitals.shown())
        return node.serving or node.following, stats

    def _silence_ms(self) -> int:
        """Since when this standby has not heard its primary; -1 when it has none."""
        if not self._node.following:
            return -1
        return (self._turn_ns - self._node.heard_ns) // NS_PER_MS

    # --- the end ------------------------------------------------------------------------------------------------

    def _on_signal(self, *_: object) -> None:
        self._exit = 0

    def _stop(self) -> None:
        """Answer what was taken, refuse what comes, leave a snapshot and the mark of a clean end."""
        node, replica = self._node, self._node.replica
        if node.role is not Role.STANDBY:
            replica.drain()
        self._read_orders()
        give_up_ns = self._turn_ns + LAST_WORDS_NS
        self._turn()
        while (replica.busy or replica.in_doubt) and node.role is Role.PRIMARY and self._turn_ns < give_up_ns:
            readable = self._waiter.wait(0 if node.busy else LAST_WORDS_STEP_MS)
            self._turn_ns = monotonic_ns()
            self._node.on_uptime(uptime_ns())
            self._read_link(readable)
            self._turn()
        if self._membership.registered:
            self._control.send(self._membership.beat(self._turn_ns))
        self.storage.finish()


def _wants_reference(daemon: Daemon) -> bool:
    """ConfigError when the native engine is asked for and not built; a loud line when the slow one runs."""
    wanted = daemon.config.cluster.engine
    if wanted == "native" and not native_available():
        raise ConfigError(['cluster.engine is "native", but the native engine is not built: run `make setup`'])
    reference = wanted == REFERENCE or not native_available()
    if reference:
        daemon.log.warning("the reference engine runs: correct, and far slower than the native one")
    return reference
