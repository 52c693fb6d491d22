"""The coordinator's decisions: who gets which incarnation and epoch, what the shard map says. Pure.

Laws
    Nothing is told before it is durable: the shell performs all writes of a Ready, in order, before its first send. A
    write that the store refuses means that somebody else decides: the process must end.
    An epoch is granted to one process. A process makes it durable (promised_epoch) before it acts in it, so a grant
    that was never promised may be given again: repeated registrations are harmless.
    A shard's journal is known by its uuid and by the terms it served. A journal that is another one or older than what
    was served, and a store that is older than what a journal promised, are refused with a sentence: no silent loss.
    The map's version grows with every change. Epochs do not change because a heartbeat is late: serving does.
"""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from coordinator.core import records
from coordinator.core.health import Health, Place
from coordinator.core.records import DaemonRecord, Replica, ShardRecord, Write
from exchange import messages as m
from exchange.errors import ConfigError, WireError
from exchange.wire import encode

ROLES = ("gateway", "marketdata", "marketmaker", "riskd")
DAEMONS_MAX = 256
ENDPOINTS_MAX = 8
EPOCH_MAX = 2**32 - 1
_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")
_UUID = re.compile(r"[0-9a-zA-Z-]{1,64}")
_ENDPOINT = re.compile(r"(ipc|tcp|http|ws)://[^\x00-\x1f\x7f]{1,200}")
_SOCKET = re.compile(r"ipc:///[^\x00-\x1f\x7f]{1,99}|tcp://[0-9A-Za-z.-]{1,100}:[0-9]{1,5}")
"""Everybody connects to a shard: an address that their sockets refuse must not get into the map."""
_NOBODY = ShardRecord(0, "", 0, {})


class Send(Struct, frozen=True):
    """One message to one peer."""

    peer: bytes
    payload: bytes


class Ready(Struct, frozen=True):
    """What to do: all writes, in order, each durable; then all sends."""

    writes: list[Write]
    sends: list[Send]


Entries = Mapping[str, tuple[bytes, int]]
"""Everything in the store: value and version by key."""


class Cluster:
    """Starts from what the store says and what the configuration wants; ConfigError when the two contradict."""

    def __init__(
        self, entries: Entries, *, shards: list[str], instruments: list[m.Instrument], health: Health, now_ns: int
    ) -> None:
        self._shards = shards
        self._health = health
        self._vers = {key: ver for key, (_, ver) in entries.items()}
        self._peers: dict[bytes, None] = {}
        self._writes: list[Write] = []
        self._sends: list[Send] = []
        self._incarnation = 0
        self._records = dict.fromkeys(shards, _NOBODY)
        self._daemons: dict[Place, DaemonRecord] = {}
        stored = m.ShardMap(0, [], [])
        for key, (value, _) in sorted(entries.items()):
            if key == records.MAP_KEY:
                stored = records.decode(key, value, m.ShardMap)
            elif key == records.INCARNATION_KEY:
                self._incarnation = records.decode(key, value, int)
            elif key.startswith(records.SHARD_PREFIX):
                self._records[key.removeprefix(records.SHARD_PREFIX)] = records.decode(key, value, ShardRecord)
            elif key.startswith(records.DAEMON_PREFIX):
                role, _, name = key.removeprefix(records.DAEMON_PREFIX).partition("/")
                self._daemons[role, name] = records.decode(key, value, DaemonRecord)
        _check_instruments(stored.instruments, instruments)
        self.map = stored
        served = [entry.shard for entry in stored.shards if entry.serving]
        self._change_map(instruments=instruments, shards=[self._entry(shard, shard in served) for shard in shards])
        for shard in shards:
            if (replica := self._primary(shard)) is not None:
                self._start(("shard", shard), replica.pid, replica.incarnation, now_ns)
        for place, daemon in self._daemons.items():
            self._start(place, daemon.pid, daemon.incarnation, now_ns)

    def ready(self) -> Ready:
        """Take the work that has come together."""
        ready = Ready(self._writes, self._sends)
        self._writes, self._sends = [], []
        return ready

    def on_message(self, peer: bytes, message: m.Register | m.Beat | m.AskMap, now_ns: int) -> None:
        """Take one message. WireError when the peer may not say it; nothing has changed then."""
        match message:
            case m.AskMap():
                self._sends.append(Send(peer, encode(self.map)))
            case m.Register():
                _check_peer(peer, message.role, message.name)
                self._on_register(peer, message, now_ns)
            case m.Beat():
                _check_peer(peer, message.role, message.name)
                self._on_beat(peer, message, now_ns)

    def on_tick(self, now_ns: int) -> None:
        """A shard that has gone silent no longer serves."""
        self._health.on_tick(now_ns)
        self._change_map(
            shards=[
                msgspec.structs.replace(entry, serving=False)
                if entry.serving and self._health.silent(("shard", entry.shard), now_ns)
                else entry
                for entry in self.map.shards
            ]
        )

    @property
    def epochs(self) -> dict[str, int]:
        """Current term of each shard."""
        return {shard: self._records[shard].epoch for shard in self._shards}

    def _on_register(self, peer: bytes, message: m.Register, now_ns: int) -> None:
        place = message.role, message.name
        refusal = self._refusal(message)
        if refusal:
            self._health.refused(place, refusal, now_ns)
            self._sends.append(Send(peer, encode(m.Registered(0, 0, refusal))))
            return
        grant = self._grant_epoch if message.role == "shard" else self._grant_incarnation
        granted = grant(message)
        self._start(place, message.pid, granted.incarnation, now_ns)
        self._sends += [Send(peer, encode(granted)), Send(peer, encode(self.map))]
        self._peers[peer] = None

    def _refusal(self, message: m.Register) -> str:
        """Why this process may not take part; empty when it may."""
        role, name = message.role, message.name
        subject = f"{role} {name!r}"
        if role == "shard":
            if name not in self._shards:
                return f"{subject} is not in the configuration; shards are {', '.join(self._shards)}"
        elif role not in ROLES:
            return f"role {role!r} is not one of shard, {', '.join(ROLES)}"
        elif (role, name) not in self._daemons and len(self._daemons) >= DAEMONS_MAX:
            return f"{subject}: {DAEMONS_MAX} daemons are registered, there is no room for more"
        if not _UUID.fullmatch(message.uuid):
            return f"{subject}: uuid must match {_UUID.pattern}, it is {message.uuid[:80]!r}"
        if len(message.endpoints) > ENDPOINTS_MAX:
            return f"{subject}: {len(message.endpoints)} endpoints, at most {ENDPOINTS_MAX}"
        for what, endpoint in message.endpoints.items():
            if not (_NAME.fullmatch(what) and _ENDPOINT.fullmatch(endpoint)):
                return f"{subject}: endpoint {what[:20]!r} must match {_ENDPOINT.pattern}, it is {endpoint[:80]!r}"
        return self._shard_refusal(message) if role == "shard" else ""

    def _shard_refusal(self, message: m.Register) -> str:
        record = self._records[message.name]
        subject = f"shard {message.name!r}"
        for what in ("orders", "events"):
            endpoint = message.endpoints.get(what, "")
            if not _SOCKET.fullmatch(endpoint):
                return f"{subject}: endpoint {what!r} must match {_SOCKET.pattern}, it is {endpoint[:80]!r}"
        known = record.replicas.get(message.name)
        if known is not None and known.journal_uuid != message.uuid:
            return (
                f"{subject}: its journal has uuid {message.uuid}, the shard's journal is {known.journal_uuid}: "
                "the data directory was swapped; put the right one back"
            )
        if not 0 <= message.promised_epoch <= EPOCH_MAX:
            return f"{subject}: promised_epoch must be 0 to {EPOCH_MAX}, it is {message.promised_epoch}"
        if message.promised_epoch > record.epoch:
            return (
                f"METADATA_BEHIND: {subject} has promised epoch {message.promised_epoch}, the control store knows only "
                f"{record.epoch}: the store went back in time; restore its newest copy"
            )
        if message.promised_epoch < record.served_epoch:
            return (
                f"JOURNAL_BEHIND: {subject} has served epoch {record.served_epoch}, its journal knows only "
                f"{message.promised_epoch}: the data directory went back in time; restore its newest copy"
            )
        return ""

    def _grant_epoch(self, message: m.Register) -> m.Registered:
        shard = message.name
        record = self._records[shard]
        known = record.replicas.get(shard)
        if known is not None and message.promised_epoch < record.epoch:
            epoch, incarnation = record.epoch, known.incarnation
        else:
            epoch, incarnation = record.epoch + 1, self._next_incarnation()
        replica = Replica(incarnation, message.uuid, message.pid, dict(message.endpoints))
        self._keep_record(
            shard, ShardRecord(epoch, shard, record.served_epoch, {**record.replicas, message.name: replica})
        )
        self._change_entry(shard, serving=False)
        return m.Registered(incarnation, epoch)

    def _grant_incarnation(self, message: m.Register) -> m.Registered:
        place = message.role, message.name
        known = self._daemons.get(place)
        if known is not None and known.uuid == message.uuid:
            return m.Registered(known.incarnation, 0)
        daemon = DaemonRecord(self._next_incarnation(), message.uuid, message.pid)
        self._daemons[place] = daemon
        self._write(f"{records.DAEMON_PREFIX}{place[0]}/{place[1]}", daemon)
        return m.Registered(daemon.incarnation, 0)

    def _on_beat(self, peer: bytes, message: m.Beat, now_ns: int) -> None:
        place = message.role, message.name
        if message.incarnation != self._incarnation_of(place) or not message.incarnation:
            self._sends.append(Send(peer, encode(m.BeatSeen(self.map.version, False))))
            return
        self._peers[peer] = None
        self._health.heard(place, ready=message.ready, stats=message.stats, now_ns=now_ns)
        if message.role == "shard":
            record = self._records[message.name]
            if message.ready and record.served_epoch != record.epoch:
                self._keep_record(message.name, msgspec.structs.replace(record, served_epoch=record.epoch))
            self._change_entry(message.name, serving=message.ready)
        self._sends.append(Send(peer, encode(m.BeatSeen(self.map.version, True))))

    def _incarnation_of(self, place: Place) -> int:
        if place[0] == "shard":
            replica = self._primary(place[1])
            return replica.incarnation if replica else 0
        daemon = self._daemons.get(place)
        return daemon.incarnation if daemon else 0

    def _primary(self, shard: str) -> Replica | None:
        record = self._records.get(shard, _NOBODY)
        return record.replicas.get(record.primary)

    def _start(self, place: Place, pid: int, incarnation: int, now_ns: int) -> None:
        self._health.started(place, pid=pid, incarnation=incarnation, now_ns=now_ns)

    def _next_incarnation(self) -> int:
        self._incarnation += 1
        self._write(records.INCARNATION_KEY, self._incarnation)
        return self._incarnation

    def _keep_record(self, shard: str, record: ShardRecord) -> None:
        if record != self._records[shard]:
            self._records[shard] = record
            self._write(records.SHARD_PREFIX + shard, record)

    def _entry(self, shard: str, serving: bool) -> m.ShardEntry:
        record, replica = self._records[shard], self._primary(shard)
        if replica is None:
            return m.ShardEntry(shard, 0, "", 0, "", "", False)
        orders, events = replica.endpoints.get("orders", ""), replica.endpoints.get("events", "")
        return m.ShardEntry(shard, record.epoch, record.primary, replica.incarnation, orders, events, serving)

    def _change_entry(self, shard: str, *, serving: bool) -> None:
        changed = self._entry(shard, serving)
        self._change_map(shards=[changed if entry.shard == shard else entry for entry in self.map.shards])

    def _change_map(self, *, shards: list[m.ShardEntry], instruments: list[m.Instrument] | None = None) -> None:
        instruments = self.map.instruments if instruments is None else instruments
        if self.map.version and (shards, instruments) == (self.map.shards, self.map.instruments):
            return
        self.map = m.ShardMap(self.map.version + 1, shards, instruments)
        payload = self._write(records.MAP_KEY, self.map)
        self._sends += [Send(peer, payload) for peer in sorted(self._peers)]

    def _write(self, key: str, value: object) -> bytes:
        payload = records.encode(value)
        ver = self._vers.get(key, 0)
        self._vers[key] = ver + 1
        self._writes.append(Write(key, ver, payload))
        return payload


def _check_peer(peer: bytes, role: str, name: str) -> None:
    if not (_NAME.fullmatch(role) and _NAME.fullmatch(name)):
        raise WireError(f"role and name must match {_NAME.pattern}, they are {role[:20]!r} and {name[:20]!r}")
    if peer != f"{role}:{name}".encode():
        raise WireError(f"peer {peer[:80]!r} speaks for {role} {name}")


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
