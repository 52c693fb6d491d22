"""A shard's node as a process: the real cores, driven as their documentation says, on simulated disk and network.

It can be killed between two steps of a turn and while a sync is under way; it can stand still; its machine can stop.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.errors import JournalError
from exchange.limits import NODE_BEAT_INTERVAL_NS, RING_BYTES_MAX, RING_FRAMES_MAX
from exchange.membership import Membership
from exchange.wire import decode_coordinator_outbound
from shard.core.engine import create_engine
from shard.core.following import Cut
from shard.core.journal import START, TailKind, advance, consume
from shard.core.node import Node, Ready, Role
from shard.core.outcome import event_frame
from shard.core.record import decode_head
from shard.core.replay import Applied, Replay
from shard.core.replica import Replica
from shard.core.ring import Ring
from shard.core.rules import Rules
from shard.core.snapshot import SnapshotHead, digest_of
from tests.sim.disk import Disk, DiskFault
from tests.sim.oracle import Oracle
from tests.sim.world import MS, US, WALL_NS, Network, World

COORDINATOR = "coordinator"
TICK_NS = NODE_BEAT_INTERVAL_NS
RESTART_NS = 20 * NS_PER_MS
"""A process that ended by itself is started again after this time."""
BACKGROUND_SYNCS_NS = (5 * NS_PER_MS, 50 * NS_PER_MS, 300 * NS_PER_MS)
"""How long the mode `replicated` may leave a record unsynced; a slow disk needs longer than it should."""
CEILINGS = m.EngineConfig(
    orders_max=2_000,
    accounts_max=50,
    ids_max=20_000,
    ids_per_account_max=5_000,
    ids_window_ns=10**15,
    open_orders_max=1_000,
)


class Died(Exception):
    """The process ends here, in the middle of what it did."""


class Step(Enum):
    """Where in a turn a process can be made to die."""

    PROMISED = 1
    LET_GO = 2
    WRITTEN = 3
    REPLICATED = 4
    EXECUTED = 5
    SYNCED = 6
    HALF_SAID = 7
    SAID = 8


class Shell:
    """One node. `life` grows with every process, so that what an old one had planned is not done by the next.

    `promise_last` breaks the order of its turn: a promise is durable when the turn ends, not before anything leaves.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        dice: Random,
        oracle: Oracle,
        *,
        name: str,
        peer: str,
        relaxed: bool,
        snapshots: bool,
        rules: Rules,
        instruments: list[m.Instrument],
        promise_last: bool,
    ) -> None:
        self.name = name
        self.disk = Disk(name, dice)
        self.up = False
        self.paused = False
        self.life = 0
        self.doom: Step | None = None
        self.doom_stops_machine = False
        self.down_ns = RESTART_NS
        self.wall_offset_ns = 0
        self.path_ns: int | None = None
        self.on_end: Callable[[str, int], None] = lambda name, incarnation: None
        self.node: Node | None = None
        self._world = world
        self._network = network
        self._dice = dice
        self._oracle = oracle
        self._peer = peer
        self._relaxed = relaxed
        self._snapshots = snapshots
        self._rules = rules
        self._instruments = instruments
        self._promise_last = promise_last
        self._mono_offset_ns = dice.randrange(10**15)
        self._inbox: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._turning = False
        self._syncing = False
        self._background = False
        self._background_ns = dice.choice(BACKGROUND_SYNCS_NS)
        self._ticks = 0
        self._membership = Membership(self._register(), self._stats, beat_interval_ns=NODE_BEAT_INTERVAL_NS)
        self._subscribers: dict[str, None] = {}
        network.join(name, self)

    # --- life and death ---------------------------------------------------------------------------------------------

    @property
    def serving(self) -> bool:
        return self.up and self.node is not None and self.node.serving

    def start(self) -> None:
        """A process begins: recovery, then the loop."""
        if self.up:
            return
        self.life += 1
        self.up = True
        self.paused = self._turning = self._syncing = self._background = False
        self.doom = None
        self.doom_stops_machine = False
        self.path_ns = None
        self._inbox.clear()
        self._subscribers.clear()
        self._ticks = 0
        self.node = self._recover()
        self._membership = Membership(self._register(), self._stats, beat_interval_ns=2 * NODE_BEAT_INTERVAL_NS)
        self._world.tell(f"{self.name} starts with seq {self.node.replica.position.seq}")
        self._world.after(self._dice.randrange(5 * MS), self._tick, self.life)

    def die(self, why: str) -> None:
        """The process ends at once."""
        if self.up and self.node is not None:
            self.up = False
            self.life += 1
            self._oracle.ended(self.name)
            self._world.tell(f"{self.name} dies: {why}")
            self._world.after(self.down_ns, self.start)
            self.down_ns = RESTART_NS
            if self._dice.random() < 0.7:
                self._world.after(self._dice.randrange(20 * MS), self.on_end, self.name, self.node.incarnation)

    def stop_machine(self) -> None:
        """What was not synced may be gone."""
        self.disk.stop_machine()
        self._lose_tail()

    def _lose_tail(self) -> None:
        if self._relaxed:
            self._oracle.damaged(self.name)

    def pause(self) -> None:
        self.paused = True
        self._world.tell(f"{self.name} stands still")

    def resume(self) -> None:
        """Goes on where it stood, with all that has come meanwhile."""
        if self.up and self.paused:
            self.paused = False
            self._world.tell(f"{self.name} goes on")
            self._world.after(0, self._tick, self.life)

    def hear(self, source: str, message: tuple[Any, ...]) -> None:
        if self.up and len(self._inbox) < 5_000:
            self._inbox.append((source, message))
            self._wake()

    def subscribe(self, consumer: str) -> None:
        """A consumer's socket is connected to this process."""
        self._subscribers[consumer] = None

    def _recover(self) -> Node:
        disk = self.disk
        replica = self._replay()
        terms: list[m.Term] = []
        for position in disk.positions:
            if position.epoch:
                term = m.Term(position.epoch, position.seq, position.chain)
                terms[-1:] = [term] if terms and terms[-1].epoch == position.epoch else [*terms[-1:], term]
        node = Node(
            replica,
            shard="s0",
            node=self.name,
            promised=disk.promised,
            terms=terms,
            oldest_seq=disk.oldest_seq,
            relaxed=self._relaxed,
            rules=self._rules,
        )
        node.on_instruments(self._instruments)
        return node

    def _replay(self) -> Replica:
        disk = self.disk
        ring = Ring(after_seq=0, bytes_max=RING_BYTES_MAX, frames_max=RING_FRAMES_MAX)
        segments = disk.segments()
        if not segments and disk.snapshot is None:
            if disk.note_seq or disk.suspect_seq > 0:
                self._world.tell(f"{self.name} has lost its journal, begins an empty one")
                disk.wipe()
            engine = create_engine(CEILINGS)
            return Replica(shard="s0", node=self.name, engine=engine, position=START, ring=ring)
        snapshot = None
        if disk.snapshot is not None:
            position, body = disk.snapshot
            snapshot = SnapshotHead(position, digest_of(body), len(body)), body
        if not segments:
            assert disk.snapshot is not None
            engine = create_engine(CEILINGS)
            engine.restore(disk.snapshot[1])
            ring = Ring(after_seq=disk.snapshot[0].seq, bytes_max=RING_BYTES_MAX, frames_max=RING_FRAMES_MAX)
            return Replica(shard="s0", node=self.name, engine=engine, position=disk.snapshot[0], ring=ring)
        try:
            replay = Replay(segments, snapshot, reference=False)
            ring = Ring(after_seq=replay.position.seq, bytes_max=RING_BYTES_MAX, frames_max=RING_FRAMES_MAX)

            def on_applied(applied: Applied) -> None:
                entry = applied.entry
                ring.add(entry.head.first_seq, entry.position.seq, event_frame(applied.outcome))

            tail = consume(replay.run(disk.suspect_seq if disk.suspect_seq >= 0 else None), on_applied)
            if tail.kind is TailKind.CORRUPT or replay.scanned_seq < disk.note_seq:
                raise JournalError(f"corrupt behind seq {replay.scanned_seq}: {tail.detail}")
        except JournalError as fault:
            self._world.tell(f"{self.name} rebuilds from its peer: {fault}")
            disk.wipe()
            return self._replay()
        disk.accept(tail.segment, tail.offset, replay.position)
        return Replica(shard="s0", node=self.name, engine=replay.engine, position=replay.position, ring=ring)

    # --- one turn -----------------------------------------------------------------------------------------------------

    def _wake(self, delay_ns: int = 20 * US) -> None:
        if self.up and not self.paused and not self._turning and not self._syncing:
            self._turning = True
            self._world.after(delay_ns, self._turn, self.life)

    def _turn(self, life: int) -> None:
        if life != self.life:
            return
        self._turning = False
        if not self.paused and not self._syncing:
            self._perform_guarded(self._work)

    def _perform_guarded(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except Died as death:
            self.die(str(death))

    def _work(self) -> None:
        node = self.node
        assert node is not None
        node.on_uptime(self._mono_ns())
        while self._inbox:
            source, message = self._inbox.popleft()
            self._take(node, source, message)
        if node.promise > node.promised:
            if not self._promise_last:
                self.disk.promised = node.promise
            node.on_promised()
        self._step(Step.PROMISED)
        self._let_go(node, node.ready())
        self._step(Step.LET_GO)
        records = node.form()
        if records:
            self._write(node, records)
        if node.must_sync:
            self._syncing = True
            self._world.after(self.disk.sync_ns(), self._synced, self.life, node.replica.position.seq)
        else:
            self._finish(node)

    def _write(self, node: Node, records: list[bytes]) -> None:
        before = node.replica.position
        for record in records:
            after = advance(before, decode_head(record), record)
            self.disk.append(record, before, after, node.incarnation, CEILINGS)
            self._oracle.stamped(self, after.ts_ns, own=node.role is Role.PRIMARY)
            before = after
        self._step(Step.WRITTEN)
        for parcel in node.replicate():
            self._to_standby(parcel)
        self._step(Step.REPLICATED)
        node.on_written()
        self._step(Step.EXECUTED)

    def _synced(self, life: int, seq: int) -> None:
        if life == self.life:
            self._syncing = False
            self._perform_guarded(self._sync_done, seq)

    def _sync_done(self, seq: int) -> None:
        node = self.node
        assert node is not None
        self._sync(node, seq)
        self._step(Step.SYNCED)
        if self.paused:
            self._turning = False
            return
        self._finish(node)

    def _sync(self, node: Node, seq: int) -> None:
        try:
            self.disk.sync(seq)
        except DiskFault as fault:
            self.disk.suspect_seq = node.synced_seq
            self._lose_tail()
            raise Died(f"{fault} fails, durable is {node.synced_seq}") from fault
        node.on_synced(seq)

    def _finish(self, node: Node) -> None:
        self._let_go(node, node.ready())
        self.disk.promised = node.promised
        self._step(Step.SAID)
        if self._relaxed and not self._background and node.synced_seq < node.replica.position.seq:
            self._background = True
            self._world.after(self._background_ns, self._sync_behind, self.life, node.replica.position.seq)
        if self._inbox or node.busy:
            self._wake()

    def _sync_behind(self, life: int, seq: int) -> None:
        if life == self.life and self.node is not None:
            self._background = False
            if not self._syncing:
                self._perform_guarded(self._sync, self.node, seq)
                self._wake()

    def _step(self, step: Step) -> None:
        if self.doom is step:
            if self.doom_stops_machine:
                self.stop_machine()
            raise Died(f"at step {step.name.lower()}{', with its machine' if self.doom_stops_machine else ''}")

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _take(self, node: Node, source: str, message: tuple[Any, ...]) -> None:
        match message:
            case ("order", header, payload):
                node.on_order(header, payload, source.encode(), self._wall_ns())
            case ("link", header, payload, peer):
                node.on_link(header, payload, peer, self._mono_ns())
            case ("control", payload):
                self._take_control(node, payload)

    def _take_control(self, node: Node, payload: bytes) -> None:
        message = decode_coordinator_outbound(payload)
        membership = self._membership
        for answer in membership.on_message(message, self._mono_ns()):
            self._network.datagram(self.name, COORDINATOR, answer)
        if membership.over:
            raise Died("its session is over")
        if membership.registered and node.incarnation != membership.incarnation:
            self.disk.lossy = False
            self.disk.suspect_seq = -1
            node.on_registered(membership.epoch, membership.incarnation)
            self._oracle.began(self.name, membership.incarnation)
        match message:
            case m.ShardView():
                node.on_view(message)
            case m.IsrAnswer():
                node.on_answer(message)
            case m.StepDown():
                node.on_step_down(message)
            case m.Ended():
                node.on_ended(message)

    def _tick(self, life: int) -> None:
        if life != self.life or self.paused:
            return
        self._world.after(TICK_NS, self._tick, life)
        if self._syncing:
            return
        node = self.node
        assert node is not None
        self._ticks += 1
        self._perform_guarded(self._on_tick, node)
        self._wake(0)

    def _on_tick(self, node: Node) -> None:
        while self._inbox:
            self._take(node, *self._inbox.popleft())
        node.on_tick(self._wall_ns(), self._mono_ns(), log_tick=self._ticks % 2 == 0)
        self._membership.update(self._register())
        for message in self._membership.on_tick(self._mono_ns()):
            self._network.datagram(self.name, COORDINATOR, message)

    def _register(self) -> m.Register:
        endpoints = {what: f"ipc:///run/{what}.{self.name}" for what in ("orders", "events", "replica")}
        disk = self.disk
        position = self.node.replica.position if self.node is not None else START
        view = self.node.view if self.node is not None else None
        return m.Register(
            "shard", self.name, self.life, disk.uuid, position.seq, disk.promised, endpoints, shard="s0",
            session=f"{self.name}-{self.life}", last_epoch=position.epoch, lossy=disk.lossy or disk.suspect_seq >= 0,
            view_ver=view.ver if view is not None else 0,
        )  # fmt: skip

    def _stats(self) -> tuple[bool, dict[str, Any]]:
        node = self.node
        assert node is not None
        position = node.replica.position
        hears_ms = (self._mono_ns() - node.heard_ns) // NS_PER_MS if node.role is Role.STANDBY else -1
        return node.serving, {
            "role": node.role.value,
            "view": node.view.ver if node.view is not None else 0,
            "epoch": node.view.epoch if node.view is not None else 0,
            "last_epoch": position.epoch,
            "last_seq": position.seq,
            "hears_primary_ms": hears_ms,
        }

    def _mono_ns(self) -> int:
        return self._world.now_ns + self._mono_offset_ns

    def _wall_ns(self) -> int:
        return WALL_NS + self._world.now_ns + self.wall_offset_ns

    # --- what leaves --------------------------------------------------------------------------------------------------

    def _let_go(self, node: Node, ready: Ready) -> None:
        oracle, network = self._oracle, self._network
        for note in ready.notes:
            self._world.tell(f"{self.name}: {note}")
        if node.role is Role.PRIMARY:
            oracle.released(self, node.replica.committed_seq)
        for header, frame in ready.publish:
            oracle.published(self, header, frame)
        half = len(ready.send) // 2
        for number, (peer, header, payload) in enumerate(ready.send):
            if number == half:
                self._step(Step.HALF_SAID)
            oracle.answered(self, header, payload)
            network.stream(self.name, peer.decode(), "order", header, payload)
        for header, frame in ready.publish:
            for consumer in self._subscribers:
                network.stream(self.name, consumer, "event", header, frame)
        for parcel in ready.to_standby:
            self._to_standby(parcel)
        for header, payload in ready.to_primary:
            oracle.linked(self, header)
            peer = f"{self.name}:{node.incarnation}".encode()
            network.datagram(self.name, self._peer, "link", header, payload, peer)
        for question in ready.control:
            network.datagram(self.name, COORDINATOR, question)
        if ready.fetch is not None:
            records, last_seq = self.disk.records_after(*ready.fetch)
            if not records:
                node.on_unreadable(node.replica.position.seq)
            node.on_fetched(records, last_seq)
            self._wake()
        if ready.cut is not None:
            self._cut(ready.cut)
        durable = node.synced_seq == node.replica.position.seq
        if self._snapshots and durable and node.role is not Role.WAITING and self._dice.random() < 0.002:
            position = node.replica.position
            self.disk.take_snapshot(position, node.replica.engine.snapshot(), node.replica.committed_seq)
            node.oldest_seq = self.disk.oldest_seq

    def _to_standby(self, parcel: tuple[bytes, bytes, bytes]) -> None:
        peer, header, payload = parcel
        self._oracle.linked(self, header)
        self._network.datagram(self.name, peer.partition(b":")[0].decode(), "link", header, payload, b"")

    def _cut(self, cut: Cut) -> None:
        if not cut.snapshot and self.disk.can_cut(cut.seq):
            self._world.tell(f"{self.name} cuts its journal behind seq {cut.seq}")
            self.disk.cut(cut.seq)
        else:
            snapshot = self._oracle.snapshot_of(self._peer)
            self._world.tell(f"{self.name} begins anew, {'with a snapshot' if snapshot else 'empty'}")
            self.disk.wipe(snapshot)
        raise Died("its journal was changed")
