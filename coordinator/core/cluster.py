"""The coordinator's core: who takes part under which incarnation, who leads which shard, what the shard map says. Pure.

Laws
    Nothing is told before it is durable: the shell performs all writes of a Ready, in order, before its first send. A
    write that the store refuses means that somebody else decides: the process must end.
    A session of a daemon has one incarnation: asking again is harmless, and a new session gets a new one.
    A journal is known by its uuid and by the terms it served. One that is another or older where it may be the only
    copy, and a store that is older than what a node has promised or seen, are refused with a sentence: no silent loss.
    The map's version grows with every change. Epochs do not change because a heartbeat is late: serving does.
"""

from collections.abc import Mapping
from typing import assert_never

from coordinator.core import records
from coordinator.core.group import Group
from coordinator.core.health import NODE, Health, Place, node_place
from coordinator.core.leadership import DEFAULT, Leadership, Policy
from coordinator.core.outbox import Outbox, Ready
from coordinator.core.records import DaemonRecord
from coordinator.core.registration import check_note, check_operator, check_peer, refusal
from coordinator.core.rules import ALL, Rules
from exchange import messages as m
from exchange.errors import ConfigError, WireError

DAEMONS_MAX = 256

Entries = Mapping[str, tuple[bytes, int]]
"""Everything in the store: value and version by key."""
Inbound = m.Register | m.Beat | m.AskMap | m.AskIsr | m.Drained | m.Switch | m.Elect | m.Skip | m.Clock


class Cluster:
    """Starts from what the store says and what the configuration wants; ConfigError when the two contradict.

    `nodes` = (shard, node) of all nodes, in the order of the file.
    """

    def __init__(
        self,
        entries: Entries,
        *,
        nodes: list[tuple[str, str]],
        instruments: list[m.Instrument],
        health: Health,
        now_ns: int,
        policy: Policy = DEFAULT,
        rules: Rules = ALL,
    ) -> None:
        self._health = health
        self._outbox = Outbox({key: ver for key, (_, ver) in entries.items()})
        self._incarnation = 0
        self._daemons: dict[Place, DaemonRecord] = {}
        self._nodes: dict[str, list[str]] = {}
        for shard, node in nodes:
            self._nodes.setdefault(shard, []).append(node)
        groups = dict.fromkeys(self._nodes, Group())
        stored = m.ShardMap(0, [], [])
        for key, (value, _) in sorted(entries.items()):
            if key == records.MAP_KEY:
                stored = records.decode(key, value, m.ShardMap)
            elif key == records.INCARNATION_KEY:
                self._incarnation = records.decode(key, value, int)
            elif key.startswith(records.SHARD_PREFIX):
                groups[key.removeprefix(records.SHARD_PREFIX)] = records.decode(key, value, Group)
            elif key.startswith(records.DAEMON_PREFIX):
                role, _, name = key.removeprefix(records.DAEMON_PREFIX).partition("/")
                self._daemons[role, name] = records.decode(key, value, DaemonRecord)
        _check_instruments(stored.instruments, instruments)
        _check_nodes(groups, self._nodes)
        self._leaderships = {
            shard: Leadership(
                shard, names, groups[shard], policy=policy, health=health, outbox=self._outbox, rules=rules
            )
            for shard, names in self._nodes.items()
        }
        self.map = stored
        for entry in stored.shards:
            leadership = self._leaderships.get(entry.shard)
            if leadership is not None:
                leadership.serving = entry.serving and leadership.leads(entry)
        self._publish(instruments)
        for leadership in self._leaderships.values():
            for name, known in sorted(leadership.group.nodes.items()):
                health.restored(node_place(name), pid=known.pid, incarnation=known.incarnation, now_ns=now_ns)
        for place, daemon in self._daemons.items():
            health.restored(place, pid=daemon.pid, incarnation=daemon.incarnation, now_ns=now_ns)

    @property
    def processes(self) -> list[tuple[str, int, int]]:
        """Node, incarnation and process id of every session that has not ended."""
        return [
            (name, known.incarnation, known.pid)
            for leadership in self._leaderships.values()
            for name, known in sorted(leadership.group.nodes.items())
            if not self._health.has_ended(node_place(name))
        ]

    def ready(self) -> Ready:
        """Take the work that has come together."""
        return self._outbox.take()

    def on_message(self, peer: bytes, message: Inbound, now_ns: int) -> None:
        """Take one message. WireError when the peer may not say it; nothing has changed then."""
        match message:
            case m.AskMap():
                self._outbox.send(peer, self.map)
            case m.Register():
                check_peer(peer, message.role, message.name)
                self._on_register(peer, message, now_ns)
            case m.Beat():
                check_peer(peer, message.role, message.name)
                self._on_beat(peer, message, now_ns)
            case m.AskIsr():
                self._leadership_of(peer, message).on_ask(peer, message)
            case m.Drained():
                self._leadership_of(peer, message).on_drained(peer, message, now_ns)
            case m.Switch() | m.Elect() | m.Skip() | m.Clock():
                check_operator(peer)
                self._on_operator(peer, message, now_ns)
            case _:
                assert_never(message)
        self._publish()

    def on_gone(self, node: str, incarnation: int, now_ns: int) -> None:
        """The process of a node's session has ended."""
        if self._health.gone(node_place(node), incarnation):
            self._outbox.note(f"{node}: its process has ended")
            for leadership in self._leaderships.values():
                if node in leadership.nodes:
                    leadership.on_gone(node, now_ns)
            self._publish()

    def on_tick(self, now_ns: int) -> None:
        """Time passes. Everything that has arrived must have been taken before: silence is judged here."""
        stood_ns = self._health.on_tick(now_ns)
        for leadership in self._leaderships.values():
            leadership.on_tick(now_ns, stood_ns)
        self._publish()

    def status(self, now_ns: int) -> m.ClusterStatus:
        """The health of everything."""
        leaderships = list(self._leaderships.values())
        verdict = self._health.verdict(
            shards_serving=sum(leadership.serving for leadership in leaderships),
            shards_well=all(leadership.well for leadership in leaderships),
            now_ns=now_ns,
        )
        terms = {node: (one.shard, one.group.epoch) for one in leaderships for node in one.nodes}
        daemons = self._health.statuses(terms, now_ns)
        return m.ClusterStatus(self.map.version, verdict, daemons, [one.status(now_ns) for one in leaderships])

    def _on_register(self, peer: bytes, message: m.Register, now_ns: int) -> None:
        place, session = (message.role, message.name), message.session or message.uuid
        why = refusal(message, self._nodes)
        if not why and message.role == NODE:
            why = self._leaderships[message.shard].refusal(message, now_ns)
        elif not why and place not in self._daemons and len(self._daemons) >= DAEMONS_MAX:
            why = f"{message.role} {message.name!r}: {DAEMONS_MAX} daemons are registered, there is no room for more"
        if why:
            self._health.refused(place, why, now_ns)
            over = message.role == NODE and any(one.is_over(message.session) for one in self._leaderships.values())
            self._outbox.send(peer, m.Registered(0, 0, why, session, over))
            return
        registered = self._register_node(message, now_ns) if message.role == NODE else self._register_daemon(message)
        if registered is None:
            return
        self._health.started(place, pid=message.pid, incarnation=registered.incarnation, now_ns=now_ns)
        self._outbox.send(peer, registered)
        self._publish()
        self._outbox.send(peer, self.map)
        if message.role == NODE:
            self._outbox.send(peer, self._leaderships[message.shard].view)
        self._outbox.peers[peer] = None

    def _register_node(self, message: m.Register, now_ns: int) -> m.Registered | None:
        """None = it has to ask again."""
        leadership = self._leaderships[message.shard]
        known = leadership.group.nodes.get(message.name)
        if known is None or known.session_uuid != message.session:
            if leadership.must_wait(message.name, now_ns):
                return None
            leadership.register(message, self._next_incarnation(), now_ns)
        incarnation = leadership.group.nodes[message.name].incarnation
        return m.Registered(incarnation, leadership.group.epoch, session=message.session)

    def _register_daemon(self, message: m.Register) -> m.Registered:
        place = message.role, message.name
        known = self._daemons.get(place)
        if known is not None and known.uuid == message.uuid:
            return m.Registered(known.incarnation, 0, session=message.uuid)
        daemon = DaemonRecord(self._next_incarnation(), message.uuid, message.pid)
        self._daemons[place] = daemon
        self._outbox.write(f"{records.DAEMON_PREFIX}{place[0]}/{place[1]}", daemon)
        return m.Registered(daemon.incarnation, 0, session=message.uuid)

    def _on_beat(self, peer: bytes, message: m.Beat, now_ns: int) -> None:
        place = message.role, message.name
        leadership = self._leadership_with(message.name) if message.role == NODE else None
        known = leadership.group.nodes.get(message.name) if leadership is not None else self._daemons.get(place)
        if known is None or message.incarnation != known.incarnation:
            self._outbox.send(peer, m.BeatSeen(self.map.version, False))
            return
        self._outbox.peers[peer] = None
        self._health.heard(place, ready=message.ready, stats=message.stats, now_ns=now_ns)
        if leadership is not None and not self._health.has_ended(place):
            leadership.on_beat(peer, message, now_ns)
            self._publish()
        self._outbox.send(peer, m.BeatSeen(self.map.version, True))

    def _on_operator(self, peer: bytes, message: m.Switch | m.Elect | m.Skip | m.Clock, now_ns: int) -> None:
        self._outbox.note(f"operator {message.actor}: {type(message).__name__} {message.shard}")
        leadership = self._leaderships.get(message.shard)
        if leadership is None:
            known = ", ".join(self._leaderships)
            self._outbox.send(peer, m.Operated(f"there is no shard {message.shard[:40]!r}; shards are {known}"))
        elif isinstance(message, m.Switch):
            leadership.on_switch(peer, now_ns)
        elif isinstance(message, m.Clock):
            leadership.on_clock(peer, now_ns)
        elif isinstance(message, m.Skip):
            check_note(message)
            leadership.on_skip(peer, message)
        else:
            leadership.on_elect(peer, message, now_ns)

    def _leadership_of(self, peer: bytes, message: m.AskIsr | m.Drained) -> Leadership:
        """Of the shard that a node speaks about; WireError when it is not one of its nodes."""
        check_peer(peer, NODE, message.node)
        if message.node not in self._nodes.get(message.shard, []):
            raise WireError(f"peer {peer[:80]!r} is no node of shard {message.shard[:40]!r}")
        return self._leaderships[message.shard]

    def _leadership_with(self, node: str) -> Leadership | None:
        return next((one for one in self._leaderships.values() if node in one.nodes), None)

    def _next_incarnation(self) -> int:
        self._incarnation += 1
        self._outbox.write(records.INCARNATION_KEY, self._incarnation)
        return self._incarnation

    def _publish(self, instruments: list[m.Instrument] | None = None) -> None:
        """Bring the map up to date; every peer is told of a new one."""
        instruments = self.map.instruments if instruments is None else instruments
        shards = [leadership.entry for leadership in self._leaderships.values()]
        if not self.map.version or (shards, instruments) != (self.map.shards, self.map.instruments):
            self.map = m.ShardMap(self.map.version + 1, shards, instruments)
            self._outbox.write(records.MAP_KEY, self.map)
            self._outbox.send_all(self.map)


def _check_instruments(stored: list[m.Instrument], wanted: list[m.Instrument]) -> None:
    """An index names its symbol, its scale and its shard for ever: orders, journals and money depend on them."""
    faults = []
    by_index = {instrument.index: instrument for instrument in wanted}
    for old in stored:
        new = by_index.get(old.index)
        place = f"[[instruments]] number {old.index + 1}"
        if new is None:
            faults.append(f"{place} was {old.symbol} and is gone; an instrument stays for ever")
            continue
        for key in ("symbol", "base", "quote", "price_decimals", "quantity_decimals", "shard"):
            was, is_ = getattr(old, key), getattr(new, key)
            if was != is_:
                faults.append(f"{place} ({old.symbol}): {key} was {was!r} and must not become {is_!r}")
    if faults:
        raise ConfigError(faults)


def _check_nodes(groups: Mapping[str, Group], wanted: Mapping[str, list[str]]) -> None:
    """A node may leave the file only while another one of the file is in sync."""
    faults = []
    for shard, group in sorted(groups.items()):
        in_sync = [node for node, _ in group.isr]
        names = wanted.get(shard, [])
        if in_sync and names and not any(node in names for node in in_sync):
            faults.append(f"[[shards]] {shard}: only {', '.join(in_sync)} is in sync and must not leave the file")
    if faults:
        raise ConfigError(faults)
