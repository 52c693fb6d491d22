"""A cluster core over a store that outlives it; its nodes say what they know, and everything told is collected."""

from typing import Any

import msgspec

from coordinator.core.cluster import Cluster, Inbound
from coordinator.core.group import Group
from coordinator.core.health import Health
from coordinator.core.leadership import DEFAULT, Policy
from coordinator.store.base import Ok, take_lease
from coordinator.store.memory import MemoryStore
from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.wire import decode_coordinator_outbound

TICK_NS = 20 * NS_PER_MS
Told = list[tuple[bytes, m.CoordinatorOutbound]]

A0, B0, A1, G0 = b"shard:s0-a", b"shard:s0-b", b"shard:s1-a", b"gateway:g0"
CLI = b"cli:1"
NODES = [("s0", "s0-a"), ("s0", "s0-b"), ("s1", "s1-a")]


def instrument(index: int, symbol: str, shard: str, **changes: Any) -> m.Instrument:
    plain = m.Instrument(index, symbol, symbol[:-3], "USD", 2, 0, 1, 1, 1, 10**6, 1, 10**8, 1_000, 0, -1, shard)
    return msgspec.structs.replace(plain, **changes)


INSTRUMENTS = [instrument(0, "AAPLUSD", "s0"), instrument(1, "MSFTUSD", "s1")]


def endpoints(node: str) -> dict[str, str]:
    return {what: f"ipc:///run/{what}.{node}" for what in ("orders", "events", "replica")}


def registration(peer: bytes, **changes: Any) -> m.Register:
    """What a fresh process says; its session is named after the peer unless another is given."""
    role, _, name = peer.decode().partition(":")
    plain = m.Register(role, name, 7, f"process-{name}", 0, 0, {})
    if role == "shard":
        shard = name.rpartition("-")[0]
        plain = m.Register(role, name, 7, f"journal-{name}", 0, 0, endpoints(name), shard, f"session-{name}")
    return msgspec.structs.replace(plain, **changes)


class World:
    """`told` = everything since the last look, by peer."""

    def __init__(self, policy: Policy = DEFAULT) -> None:
        self.store = MemoryStore()
        self.policy = policy
        self.now = 0
        self.notes: list[str] = []
        self.start()

    def start(self, nodes: list[tuple[str, str]] = NODES, instruments: list[m.Instrument] = INSTRUMENTS) -> None:
        """The coordinator starts, or starts again."""
        self.term = take_lease(self.store, "c0")
        entries = {key: (entry.value, entry.ver) for key, entry in self.store.changes("", 0)[1]}
        self.health = Health([*(("shard", node) for _, node in nodes), ("gateway", "g0")])
        self.cluster = Cluster(
            entries, nodes=nodes, instruments=instruments, health=self.health, now_ns=self.now, policy=self.policy
        )
        self.perform()

    def perform(self) -> Told:
        ready = self.cluster.ready()
        for write in ready.writes:
            done = self.store.cas(write.key, write.expect_ver, write.value, self.term)
            assert done == Ok(write.expect_ver + 1)
        self.notes += ready.notes
        return [(send.peer, decode_coordinator_outbound(send.payload)) for send in ready.sends]

    def say(self, peer: bytes, message: Inbound) -> Told:
        self.cluster.on_message(peer, message, self.now)
        return self.perform()

    def register(self, peer: bytes, **changes: Any) -> m.Registered:
        asked = registration(peer, **changes)
        answers = [answer for to, answer in self.say(peer, asked) if to == peer]
        [registered] = [answer for answer in answers if isinstance(answer, m.Registered)]
        if not registered.refused:
            assert self.cluster.map in answers
        assert registered.session == (asked.session or asked.uuid)
        return msgspec.structs.replace(registered, session="")

    def beat(self, peer: bytes, *, ready: bool = True, incarnation: int | None = None, **stats: Any) -> Told:
        """A heartbeat of the peer's present session; a node knows its shard's newest view unless told otherwise."""
        role, _, name = peer.decode().partition(":")
        if role == "shard":
            shard = name.rpartition("-")[0]
            group = self.group(shard)
            leads = group.primary == group.current(name)
            incarnation = group.current(name)[1] if incarnation is None else incarnation
            known = {"role": "primary" if leads else "standby", "epoch": group.epoch, "view": self.ver(shard)}
            stats = {**known, **stats}
        return self.say(peer, m.Beat(role, name, incarnation or 0, 0, ready, stats))

    def up(self, peer: bytes, **changes: Any) -> m.Registered:
        registered = self.register(peer, **changes)
        self.beat(peer)
        return registered

    def pair(self) -> None:
        """s0-a leads, s0-b is in sync."""
        self.up(A0)
        self.up(B0)
        assert self.ask("s0-a", ["s0-a", "s0-b"]).accepted
        self.beat(A0)
        self.beat(B0)

    def ask(self, node: str, nodes: list[str], **changes: Any) -> m.IsrAnswer:
        """The primary asks for another in-sync set."""
        shard = node.rpartition("-")[0]
        group = self.group(shard)
        members = [m.Member(*group.current(name), "") for name in nodes]
        plain = m.AskIsr(shard, 1, self.ver(shard), group.epoch, *group.current(node), members)
        told = self.say(f"shard:{node}".encode(), msgspec.structs.replace(plain, **changes))
        [answer] = [answer for _, answer in told if isinstance(answer, m.IsrAnswer)]
        return answer

    def gone(self, node: str) -> Told:
        """The process of a node ends."""
        shard = node.rpartition("-")[0]
        self.cluster.on_gone(node, self.group(shard).current(node)[1], self.now)
        return self.perform()

    def pass_time(self, ns: int, *beating: bytes, **stats: Any) -> Told:
        """Tick by tick; whoever is `beating` says at every second one that it is well."""
        told: Told = []
        for number in range(ns // TICK_NS):
            self.now += TICK_NS
            if number % 2:
                for peer in beating:
                    told += self.beat(peer, **stats)
            self.cluster.on_tick(self.now)
            told += self.perform()
        return told

    def group(self, shard: str) -> Group:
        """What the store holds."""
        entry = self.store.read(f"shard/{shard}")
        return msgspec.msgpack.decode(entry.value, type=Group) if entry else Group()

    def ver(self, shard: str) -> int:
        entry = self.store.read(f"shard/{shard}")
        return entry.ver if entry else 0

    def entry(self, shard: str) -> m.ShardEntry:
        [entry] = [entry for entry in self.cluster.map.shards if entry.shard == shard]
        return entry

    def status(self, shard: str) -> m.ShardStatus:
        [status] = [status for status in self.cluster.status(self.now).shards if status.shard == shard]
        return status


def said(told: Told, kind: type[Any], peer: bytes | None = None) -> list[Any]:
    """Messages of one kind, to one peer or to all."""
    return [message for to, message in told if isinstance(message, kind) and peer in (None, to)]
