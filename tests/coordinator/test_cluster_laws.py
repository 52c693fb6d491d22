"""Laws of the coordinator under any mixture of crashes, lost and repeated messages, silences and restarts."""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.core.cluster import Cluster
from coordinator.core.health import Health
from coordinator.store.base import Ok, take_lease
from coordinator.store.memory import MemoryStore
from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.wire import decode_coordinator_outbound

SHARDS = ["s0", "s1"]
NAMES = st.sampled_from(SHARDS)


class Process:
    """A shard's process: asks, promises durably what it is granted, then acts in that term."""

    def __init__(self, name: str, promised: int) -> None:
        self.register = m.Register(
            "shard", name, 1, f"journal-{name}", 0, promised, {"orders": "ipc:///o", "events": "ipc:///e"}
        )
        self.granted: m.Registered | None = None


class Laws(RuleBasedStateMachine):
    """Two shards, one coordinator that may die after any of its writes, a line that loses and repeats."""

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore()
        self.now = 0
        self.promised = dict.fromkeys(SHARDS, 0)
        self.acted: dict[tuple[str, int], Process] = {}
        self.maps_told: dict[int, m.ShardMap] = {}
        self.processes = {name: Process(name, 0) for name in SHARDS}
        self.start_coordinator()

    def start_coordinator(self) -> None:
        self.term = take_lease(self.store, "c0")
        entries = {key: (entry.value, entry.ver) for key, entry in self.store.changes("", 0)[1]}
        health = Health([("shard", name) for name in SHARDS])
        self.cluster = Cluster(entries, shards=SHARDS, instruments=[], health=health, now_ns=self.now)
        self.deliver()

    def deliver(self, *, writes: int | None = None, arrives: Callable[[], bool] = lambda: True) -> None:
        """Perform a Ready; with `writes` the coordinator dies after so many of them and tells nothing."""
        ready = self.cluster.ready()
        for write in ready.writes[:writes]:
            done = self.store.cas(write.key, write.expect_ver, write.value, self.term)
            assert done == Ok(write.expect_ver + 1)
        if writes is not None:
            self.start_coordinator()
            return
        for send in ready.sends:
            message = decode_coordinator_outbound(send.payload)
            if isinstance(message, m.ShardMap):
                assert self.maps_told.setdefault(message.version, message) == message, "one version, two maps"
            if arrives():
                self.arrive(self.processes[send.peer.decode().partition(":")[2]], message)

    def arrive(self, process: Process, message: m.CoordinatorOutbound) -> None:
        if not isinstance(message, m.Registered):
            return
        assert not message.refused, message.refused
        name = process.register.name
        process.granted = message
        self.promised[name] = max(self.promised[name], message.epoch)
        assert self.acted.setdefault((name, message.epoch), process) is process, "two processes act in one term"

    @rule(name=NAMES, copies=st.integers(1, 3), lost=st.booleans())
    def register(self, name: str, copies: int, lost: bool) -> None:
        process = self.processes[name]
        if process.granted is None:
            for _ in range(copies):
                self.cluster.on_message(f"shard:{name}".encode(), process.register, self.now)
                self.deliver(arrives=lambda: not lost)

    @rule(name=NAMES, writes=st.integers(0, 4))
    def register_and_crash(self, name: str, writes: int) -> None:
        process = self.processes[name]
        if process.granted is None:
            self.cluster.on_message(f"shard:{name}".encode(), process.register, self.now)
            self.deliver(writes=writes)

    @rule(name=NAMES, ready=st.booleans(), writes=st.none() | st.integers(0, 3))
    def beat(self, name: str, ready: bool, writes: int | None) -> None:
        granted = self.processes[name].granted
        if granted is not None:
            beat = m.Beat("shard", name, granted.incarnation, self.now, ready, {})
            self.cluster.on_message(f"shard:{name}".encode(), beat, self.now)
            self.deliver(writes=writes)

    @rule(ns=st.integers(1, 1_500), writes=st.none() | st.integers(0, 2))
    def pass_time(self, ns: int, writes: int | None) -> None:
        for _ in range(ns // 100 + 1):
            self.now += 100 * NS_PER_MS
            self.cluster.on_tick(self.now)
        self.deliver(writes=writes)

    @rule(name=NAMES)
    def restart_shard(self, name: str) -> None:
        self.processes[name] = Process(name, self.promised[name])

    @rule()
    def restart_coordinator(self) -> None:
        self.cluster.ready()
        self.start_coordinator()

    @precondition(lambda self: all(process.granted for process in self.processes.values()))
    @rule()
    def everybody_beats(self) -> None:
        """A process that has the newest grant is known and serves, whatever happened before."""
        for name, process in self.processes.items():
            assert process.granted is not None
            beat = m.Beat("shard", name, process.granted.incarnation, self.now, True, {})
            self.cluster.on_message(f"shard:{name}".encode(), beat, self.now)
            self.deliver()
            [entry] = [entry for entry in self.cluster.map.shards if entry.shard == name]
            assert (entry.epoch, entry.serving) == (process.granted.epoch, True)

    @invariant()
    def the_map_only_grows(self) -> None:
        stored = self.cluster.map.version
        assert stored >= max(self.maps_told, default=0)


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
