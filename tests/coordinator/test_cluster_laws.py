"""Laws of the coordinator under any mixture of crashes, lost and repeated messages, silences and restarts.

Nodes here are as honest as real ones: a process acts in a term only after the store has it, and a primary asks for sets
of sessions that it has heard of. What is checked is what the store holds after each step, and what is told.
"""

from collections.abc import Callable
from random import Random

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.core import group as groups
from coordinator.core.cluster import Cluster, Inbound
from coordinator.core.group import Group, Session
from coordinator.core.health import STANDSTILL_NS, Health
from coordinator.core.leadership import Policy
from coordinator.core.suspicion import HOLD_NS
from coordinator.store.base import Ok, take_lease
from coordinator.store.memory import MemoryStore
from exchange import messages as m
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.limits import BEAT_SUSPECT_NS
from exchange.wire import decode_coordinator_outbound
from tests.coordinator.world import TICK_NS, registration

NODES = [("s0", "s0-a"), ("s0", "s0-b"), ("s1", "s1-a")]
NAMES = st.sampled_from([node for _, node in NODES])
CRASHES = st.sampled_from([None, None, None, None, 0, 1, 2, 3])
"""None = all goes well; else the coordinator dies after so many writes and tells nothing."""
LOST = st.sampled_from([False, False, False, True])
HEALED_NS = HOLD_NS + 2 * BEAT_SUSPECT_NS
POLICY = Policy(failovers_max=5, failovers_window_ns=20 * NS_PER_S)


class Process:
    """One process over a node's journal: what it says, what it was granted, what it has been told of its shard."""

    def __init__(self, node: str, number: int, promised: int, view_ver: int) -> None:
        peer = f"shard:{node}".encode()
        self.register = registration(peer, session=f"{node}-{number}", promised_epoch=promised, view_ver=view_ver)
        self.granted: m.Registered | None = None
        self.view: m.ShardView | None = None
        self.lives = True

    @property
    def session(self) -> Session:
        assert self.granted is not None
        return self.register.name, self.granted.incarnation

    @property
    def leads(self) -> bool:
        """As far as it knows."""
        if self.granted is None or self.view is None:
            return False
        return (self.view.primary.node, self.view.primary.incarnation) == self.session


class Laws(RuleBasedStateMachine):
    """The store is the truth: `seen` = every record that a shard ever had, in order."""

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore()
        self.now = 0
        self.number = 0
        self.promised = dict.fromkeys((node for _, node in NODES), 0)
        self.told_ver = dict.fromkeys((node for _, node in NODES), 0)
        self.maps_told: dict[int, m.ShardMap] = {}
        self.views_told: dict[tuple[str, int], m.ShardView] = {}
        self.leaders: dict[tuple[str, int], Session] = {}
        self.elected: list[tuple[str, int]] = []
        self.saying: Inbound | None = None
        self.asked: list[tuple[Process, m.AskIsr]] = []
        self.seen: dict[str, list[Group]] = {"s0": [Group()], "s1": [Group()]}
        self.processes = {node: self.new_process(node) for _, node in NODES}
        self.start_coordinator()
        self.heal()

    def new_process(self, node: str) -> Process:
        self.number += 1
        return Process(node, self.number, self.promised[node], self.told_ver[node])

    def start_coordinator(self) -> None:
        self.term = take_lease(self.store, "c0")
        entries = {key: (entry.value, entry.ver) for key, entry in self.store.changes("", 0)[1]}
        health = Health([("shard", node) for _, node in NODES])
        self.cluster = Cluster(entries, nodes=NODES, instruments=[], health=health, now_ns=self.now, policy=POLICY)
        self.deliver()

    def deliver(self, crash: int | None = None, arrives: Callable[[], bool] = lambda: True) -> None:
        """Perform a Ready."""
        ready = self.cluster.ready()
        for write in ready.writes[:crash]:
            assert self.store.cas(write.key, write.expect_ver, write.value, self.term) == Ok(write.expect_ver + 1)
            if write.key.startswith("shard/"):
                group = msgspec.msgpack.decode(write.value, type=Group)
                self.on_record(write.key.removeprefix("shard/"), group, write.expect_ver)
        if crash is not None:
            self.start_coordinator()
            return
        for send in ready.sends:
            message = decode_coordinator_outbound(send.payload)
            if isinstance(message, m.ShardMap):
                assert self.maps_told.setdefault(message.version, message) == message, "one version, two maps"
            if isinstance(message, m.ShardView):
                known = self.views_told.setdefault((message.shard, message.ver), message)
                assert known == message, "one version, two views"
            if send.peer.startswith(b"shard:") and arrives():
                self.arrive(self.processes[send.peer.decode().partition(":")[2]], message)

    def on_record(self, shard: str, group: Group, expect_ver: int) -> None:
        """Every record, as it is written."""
        before = self.seen[shard][-1]
        groups.check(group)
        assert group.epoch in (before.epoch, before.epoch + 1), "terms grow one by one"
        assert group.served_epoch >= before.served_epoch
        assert group.unclean >= before.unclean
        if group.epoch == before.epoch:
            assert group.primary == before.primary, "one term, two leaders"
            stay = tuple(session for session in before.isr if group.current(session[0]) == session)
            if group.isr != stay:
                asked = self.saying
                assert isinstance(asked, m.AskIsr), "another set without its primary's word"
                assert asked.ver == expect_ver, "granted, though the record has changed since it was asked"
        else:
            assert self.leaders.setdefault((shard, group.epoch), group.primary) == group.primary
            node = group.primary[0]
            own = before.current(node) in before.isr
            assert not before.isr or own or (shard, group.epoch) in self.elected, "led by one who was not in sync"
            assert group.current(node) == group.primary, "led by a session that is over"
            assert group.isr == (group.primary,)
        for node, known in before.nodes.items():
            assert group.nodes[node].incarnation >= known.incarnation, "incarnations grow"
        self.seen[shard].append(group)

    def arrive(self, process: Process, message: m.CoordinatorOutbound) -> None:
        node = process.register.name
        if not process.lives:
            return
        if isinstance(message, m.Registered):
            assert not message.refused or "is over" in message.refused, message.refused
            if not message.refused:
                process.granted = message
                self.promised[node] = max(self.promised[node], message.epoch)
        elif isinstance(message, m.ShardView) and process.granted is not None:
            known_ver = process.view.ver if process.view is not None else 0
            if message.ver > known_ver:
                process.view = message
                self.told_ver[node] = max(self.told_ver[node], message.ver)
                self.promised[node] = max(self.promised[node], message.epoch)

    def say(self, process: Process, message: Inbound, crash: int | None = None, *, lost: bool = False) -> None:
        self.saying = message
        self.cluster.on_message(f"shard:{process.register.name}".encode(), message, self.now)
        self.deliver(crash, lambda: not lost)
        self.saying = None

    # --- what happens ----------------------------------------------------------------------------------------------

    @rule(node=NAMES, copies=st.integers(1, 3), lost=LOST, crash=CRASHES)
    def register(self, node: str, copies: int, lost: bool, crash: int | None) -> None:
        process = self.processes[node]
        if process.granted is None and process.lives:
            for _ in range(copies):
                self.say(process, process.register, crash, lost=lost)

    @rule(node=NAMES, ready=st.booleans(), hears=st.booleans(), lost=LOST, crash=CRASHES)
    def beat(self, node: str, ready: bool, hears: bool, lost: bool, crash: int | None) -> None:
        process = self.processes[node]
        if process.granted is not None and process.lives:
            self.say(process, self.beat_of(process, ready, hears=hears), crash, lost=lost)

    def beat_of(self, process: Process, ready: bool, *, hears: bool = False) -> m.Beat:
        assert process.granted is not None
        view = process.view
        stats = {
            "role": "primary" if process.leads else "standby",
            "epoch": view.epoch if view else 0,
            "view": view.ver if view else 0,
            "hears_primary_ms": 20 if hears else 900,
        }
        return m.Beat("shard", process.register.name, process.granted.incarnation, self.now, ready, stats)

    @rule(node=NAMES, alone=LOST, lost=LOST, crash=CRASHES)
    def ask(self, node: str, alone: bool, lost: bool, crash: int | None) -> None:
        """Whoever believes to lead asks for another set."""
        process = self.processes[node]
        if process.lives and process.leads and process.view is not None:
            view = process.view
            isr = [one for one in view.members if one == view.primary or (not alone and self.has_joined(one, view))]
            asked = m.AskIsr(view.shard, 1, view.ver, view.epoch, view.primary.node, view.primary.incarnation, isr)
            self.asked.append((process, asked))
            self.say(process, asked, crash, lost=lost)

    def has_joined(self, member: m.Member, view: m.ShardView) -> bool:
        """This very session knows of the term, and has promised it; whether it still lives is another matter."""
        process = self.processes[member.node]
        if process.view is None or process.view.epoch != view.epoch:
            return False
        return process.session == (member.node, member.incarnation)

    @precondition(lambda self: self.asked)
    @rule(dice=st.randoms(use_true_random=False))
    def late_copy(self, dice: Random) -> None:
        """What was asked long ago arrives once more."""
        process, asked = dice.choice(self.asked)
        self.say(process, asked, lost=True)

    @rule(node=NAMES, crash=CRASHES)
    def drained(self, node: str, crash: int | None) -> None:
        """A primary says that it has handed over, asked or not."""
        process = self.processes[node]
        if process.lives and process.leads and process.view is not None:
            view = process.view
            for to in view.isr:
                self.say(process, m.Drained(view.shard, view.epoch, node, view.primary.incarnation, to, 0), crash)

    @rule(shard=st.sampled_from(["s0", "s1"]))
    def switch(self, shard: str) -> None:
        self.cluster.on_message(b"cli:1", m.Switch("me", shard), self.now)
        self.deliver()

    @rule(node=NAMES)
    def elect(self, node: str) -> None:
        shard = node.rpartition("-")[0]
        self.elected.append((shard, self.seen[shard][-1].epoch + 1))
        self.cluster.on_message(b"cli:1", m.Elect("me", shard, node, True), self.now)
        self.deliver()

    @rule(ms=st.integers(20, 1_500), silent=st.sets(NAMES), crash=CRASHES)
    def pass_time(self, ms: int, silent: set[str], crash: int | None) -> None:
        """Who lives and is not silent is heard."""
        for _ in range(ms * NS_PER_MS // TICK_NS):
            self.now += TICK_NS
            for node in sorted(set(self.processes) - silent):
                process = self.processes[node]
                if process.granted is not None and process.lives:
                    self.say(process, self.beat_of(process, True))
            self.cluster.on_tick(self.now)
            self.deliver()
        self.deliver(crash)

    @rule(ms=st.integers(1, 3_000))
    def stand_still(self, ms: int) -> None:
        """The coordinator is paused; nothing that it has not read is held against anybody."""
        self.cluster.on_tick(self.now)
        self.deliver()
        before = {shard: seen[-1] for shard, seen in self.seen.items()}
        self.now += ms * NS_PER_MS
        self.cluster.on_tick(self.now)
        self.deliver()
        if ms * NS_PER_MS > STANDSTILL_NS:
            assert before == {shard: seen[-1] for shard, seen in self.seen.items()}

    @rule(node=NAMES, noticed=st.booleans(), crash=CRASHES)
    def kill(self, node: str, noticed: bool, crash: int | None) -> None:
        process = self.processes[node]
        process.lives = False
        if noticed and process.granted is not None:
            self.cluster.on_gone(node, process.granted.incarnation, self.now)
            self.deliver(crash)

    @rule(node=NAMES)
    def start_node(self, node: str) -> None:
        """Also a restart that nobody noticed."""
        self.processes[node].lives = False
        self.processes[node] = self.new_process(node)

    @rule()
    def restart_coordinator(self) -> None:
        self.cluster.ready()
        self.start_coordinator()

    @rule()
    def heal(self) -> None:
        """Everything runs and is heard: every shard has one leader that serves, whatever happened before, and all
        copies."""
        for node, process in list(self.processes.items()):
            if not process.lives:
                self.processes[node] = self.new_process(node)
        for _ in range(HEALED_NS // TICK_NS):
            self.now += TICK_NS
            for node, process in self.processes.items():
                if process.granted is None:
                    self.say(process, process.register)
                else:
                    self.say(process, self.beat_of(process, True))
                    if process.view is not None and len(process.view.isr) < len(process.view.members):
                        self.ask(node, False, False, None)
            self.cluster.on_tick(self.now)
            self.deliver()
        for entry in self.cluster.map.shards:
            group = self.seen[entry.shard][-1]
            assert entry.serving or group.flapping, entry
            assert group.flapping or len(group.isr) == sum(shard == entry.shard for shard, _ in NODES)

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def the_map_only_grows(self) -> None:
        assert self.cluster.map.version >= max(self.maps_told, default=0)

    @invariant()
    def who_serves_leads_the_present_term(self) -> None:
        for entry in self.cluster.map.shards:
            group = self.seen[entry.shard][-1]
            if entry.serving:
                assert (entry.epoch, (entry.node, entry.incarnation)) == (group.epoch, group.primary)

    @invariant()
    def at_most_one_living_process_leads_a_term(self) -> None:
        for shard in self.seen:
            leading = [
                process.view.epoch
                for process in self.processes.values()
                if process.lives and process.leads and process.view is not None and process.view.shard == shard
            ]
            assert len(leading) == len(set(leading))


TestLaws = Laws.TestCase
TestLaws.settings = settings(stateful_step_count=30)
