"""The coordinator as a process: the real Cluster over a store that outlives it, whose answers can be lost."""

from random import Random
from typing import Any

import msgspec

from coordinator.core import records
from coordinator.core.cluster import Cluster
from coordinator.core.group import Group
from coordinator.core.health import Health
from coordinator.core.leadership import Policy
from coordinator.core.outbox import Ready
from coordinator.core.rules import Rules
from coordinator.store.base import Conflict, Result, Unknown, settle, take_lease
from coordinator.store.memory import MemoryStore
from exchange import messages as m
from exchange.errors import StoreError
from exchange.wire import decode_coordinator_inbound
from tests.sim.oracle import Oracle
from tests.sim.world import MS, Network, World

NAME = "coordinator"
TICK_NS = 40 * MS
POLICY = Policy(failovers_max=1_000_000)
NODES = [("s0", "a"), ("s0", "b")]


class FickleStore(MemoryStore):
    """Loses the answers to the next `lost` writes: half of them had happened."""

    def __init__(self, dice: Random, oracle: Oracle) -> None:
        super().__init__()
        self.lost = 0
        self._dice = dice
        self._oracle = oracle

    def cas(self, key: str, expect_ver: int, value: bytes, fence: int) -> Result:
        lost = self.lost > 0
        self.lost -= lost
        if lost and self._dice.random() < 0.5:
            return Unknown()
        result = super().cas(key, expect_ver, value, fence)
        if not isinstance(result, Conflict) and key == records.SHARD_PREFIX + "s0":
            self._oracle.recorded(msgspec.msgpack.decode(value, type=Group))
        return Unknown() if lost else result


class Council:
    """Everything durable is in the store; a process that dies between two writes, or before it told, is no harm.

    `tell_first` breaks the order of its work: it tells, then writes.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        dice: Random,
        oracle: Oracle,
        *,
        instruments: list[m.Instrument],
        relaxed: bool,
        rules: Rules,
        tell_first: bool,
    ) -> None:
        self.store = FickleStore(dice, oracle)
        self.up = False
        self.doomed = False
        self._world = world
        self._network = network
        self._dice = dice
        self._instruments = instruments
        self._policy = msgspec.structs.replace(POLICY, relaxed=relaxed)
        self._rules = rules
        self._tell_first = tell_first
        self._life = 0
        self._term = 0
        self._cluster: Cluster | None = None
        network.join(NAME, self)

    def start(self) -> None:
        if self.up:
            return
        self.up = True
        self.doomed = False
        self._life += 1
        try:
            self._term = take_lease(self.store, f"c{self._life}")
        except StoreError as fault:
            self.die(str(fault))
            self._world.after(100 * MS, self.start)
            return
        _, entries = self.store.changes("", 0)
        self._cluster = Cluster(
            {key: (entry.value, entry.ver) for key, entry in entries},
            nodes=NODES,
            instruments=self._instruments,
            health=Health([("shard", node) for _, node in NODES]),
            now_ns=self._world.now_ns,
            policy=self._policy,
            rules=self._rules,
        )
        self._perform(self._cluster.ready())
        self._world.after(TICK_NS, self._tick, self._life)

    def die(self, why: str) -> None:
        if self.up:
            self.up = False
            self._life += 1
            self._world.tell(f"coordinator dies: {why}")

    def hear(self, source: str, message: tuple[Any, ...]) -> None:
        if not self.up or self._cluster is None:
            return
        role = "gateway" if source[0] == "g" else "shard"
        heard = decode_coordinator_inbound(message[0])
        assert not isinstance(heard, m.AskStatus | m.Administer)
        self._cluster.on_message(f"{role}:{source}".encode(), heard, self._world.now_ns)
        self._perform(self._cluster.ready())

    def process_ended(self, node: str, incarnation: int) -> None:
        """The operating system says so."""
        if self.up and self._cluster is not None and incarnation:
            self._cluster.on_gone(node, incarnation, self._world.now_ns)
            self._perform(self._cluster.ready())

    def operate(self, wish: m.Switch | m.Elect) -> None:
        """An operator wants another node to lead."""
        if self.up and self._cluster is not None:
            self._cluster.on_message(b"cli:ops", wish, self._world.now_ns)
            self._perform(self._cluster.ready())

    def _tick(self, life: int) -> None:
        if life == self._life and self._cluster is not None:
            self._world.after(TICK_NS, self._tick, life)
            self._cluster.on_tick(self._world.now_ns)
            self._perform(self._cluster.ready())

    def _perform(self, ready: Ready) -> None:
        """All writes, in order, then all sends."""
        if self._tell_first:
            self._tell(ready)
        for write in ready.writes:
            if self.doomed and self._dice.random() < 0.5:
                self.die("before a write")
                return
            done = settle(self.store, write.key, write.expect_ver, write.value, self._term)
            if isinstance(done, Conflict):
                self.die(f"the store refuses {write.key}")
                return
            if self.doomed:
                self.die("after a write, before it told anybody")
                return
        if not self._tell_first:
            self._tell(ready)

    def _tell(self, ready: Ready) -> None:
        for note in ready.notes:
            self._world.tell(f"coordinator: {note}")
        for send in ready.sends:
            self._network.datagram(NAME, send.peer.decode().partition(":")[2], "control", send.payload)
