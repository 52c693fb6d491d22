"""Who is alive and well, from heartbeats. Pure; all times are monotonic nanoseconds.

A detector, never a safety input: that two processes do not lead one shard is the work of epochs.
"""

from collections.abc import Mapping
from typing import Any

from exchange import messages as m
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.limits import BEAT_INTERVAL_NS, BEAT_SUSPECT_NS, NODE_BEAT_INTERVAL_NS

STATS_MAX = 64
STAT_TEXT_MAX = 256
NEVER_MS = -1
"""`age_ms` of a daemon that was never heard."""
NODE = "shard"
"""Role of a node of a shard."""
NODE_SUSPECT_NS = 400 * NS_PER_MS
NODE_SUSPECT_MAX_NS = 1 * NS_PER_S
_GAPS = 4
"""A node is suspect after so many of its longest recent gap between two heartbeats, within the two bounds above."""
STANDSTILL_NS = 3 * NODE_BEAT_INTERVAL_NS
"""A gap between ticks that is longer counts as a standstill of this process."""

Place = tuple[str, str]
"""Role and name of a daemon."""


def node_place(node: str) -> Place:
    """Of a node of a shard."""
    return NODE, node


class _Pulse:
    """What is known of one daemon.

    `restored` = known from before this coordinator started and not heard since; `gone` = its process has ended.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.incarnation = 0
        self.heard_ns: int | None = None
        self.gap_ns = 0
        self.restored = False
        self.gone = False
        self.ready = False
        self.stats: dict[str, Any] = {}


class Health:
    """Heartbeats of all daemons. `expected` are those the configuration wants: one that never came is down."""

    def __init__(self, expected: list[Place], *, node_suspect_ns: int = NODE_SUSPECT_NS) -> None:
        self._expected = expected
        self._node_suspect_ns = node_suspect_ns
        self._pulses: dict[Place, _Pulse] = {place: _Pulse() for place in expected}
        self._tick_ns: int | None = None

    def started(self, place: Place, *, pid: int, incarnation: int, now_ns: int) -> None:
        """A process registered. One that is known to have ended stays so, whatever of it still arrives."""
        pulse = self._pulses.get(place)
        if pulse is not None and pulse.gone and pulse.incarnation == incarnation:
            return
        pulse = self._pulses[place] = _Pulse()
        pulse.pid, pulse.incarnation, pulse.heard_ns = pid, incarnation, now_ns

    def restored(self, place: Place, *, pid: int, incarnation: int, now_ns: int) -> None:
        """A process is known from before: it gets the benefit of the doubt for BEAT_SUSPECT_NS."""
        self.started(place, pid=pid, incarnation=incarnation, now_ns=now_ns)
        self._pulses[place].restored = True

    def gone(self, place: Place, incarnation: int) -> bool:
        """The process of this incarnation has ended; False when that is nothing new."""
        pulse = self._pulses.get(place)
        if pulse is None or pulse.incarnation != incarnation or pulse.gone:
            return False
        pulse.gone, pulse.ready = True, False
        return True

    def refused(self, place: Place, sentence: str, now_ns: int) -> None:
        """A process that was not let in: its place shows why, unless another one is alive there."""
        if place in self._pulses and self.silent(place, now_ns):
            self._pulses[place].stats = {"refused": sentence[:STAT_TEXT_MAX]}

    def heard(self, place: Place, *, ready: bool, stats: Mapping[str, Any], now_ns: int) -> None:
        """A heartbeat came. Of `stats` only flat numbers and short texts are kept, at most STATS_MAX."""
        pulse = self._pulses[place]
        if pulse.gone:
            return
        if pulse.heard_ns is not None and not pulse.restored:
            pulse.gap_ns = max(now_ns - pulse.heard_ns, pulse.gap_ns * 7 // 8)
        pulse.heard_ns, pulse.ready, pulse.restored = now_ns, ready, False
        pulse.stats = {key: value for key, value in list(stats.items())[:STATS_MAX] if _flat(key, value)}

    def on_tick(self, now_ns: int) -> int:
        """Time passes. Returns for how long this process stood still since the last tick: nobody else is blamed for it,
        and deadlines of others move by as much."""
        stood_ns = 0
        if self._tick_ns is not None and now_ns - self._tick_ns > STANDSTILL_NS:
            stood_ns = now_ns - self._tick_ns
            for pulse in self._pulses.values():
                if pulse.heard_ns is not None:
                    pulse.heard_ns = min(now_ns, pulse.heard_ns + stood_ns)
        self._tick_ns = now_ns
        return stood_ns

    def silent(self, place: Place, now_ns: int) -> bool:
        """Its process has ended, or nothing was heard for too long."""
        pulse = self._pulses.get(place)
        if pulse is None or pulse.heard_ns is None or pulse.gone:
            return True
        return now_ns - pulse.heard_ns > self._bound_ns(place, pulse)

    def alive(self, place: Place, incarnation: int, now_ns: int) -> bool:
        """This very session registered with or was heard by this coordinator, lately."""
        pulse = self._pulses.get(place)
        return (
            pulse is not None
            and pulse.incarnation == incarnation
            and not pulse.restored
            and not self.silent(place, now_ns)
        )

    def undecided(self, place: Place, incarnation: int, now_ns: int) -> bool:
        """This session is known from before; whether it lives will be known within BEAT_SUSPECT_NS."""
        pulse = self._pulses.get(place)
        return (
            pulse is not None and pulse.incarnation == incarnation and pulse.restored and not self.silent(place, now_ns)
        )

    def has_ended(self, place: Place) -> bool:
        """Its last process is known to have ended."""
        pulse = self._pulses.get(place)
        return pulse is not None and pulse.gone

    def stats(self, place: Place) -> Mapping[str, Any]:
        """What it said of itself last."""
        pulse = self._pulses.get(place)
        return pulse.stats if pulse is not None else {}

    def age_ns(self, place: Place, now_ns: int) -> int:
        """How old that is."""
        pulse = self._pulses.get(place)
        return max(0, now_ns - pulse.heard_ns) if pulse is not None and pulse.heard_ns is not None else now_ns

    def state(self, place: Place, now_ns: int) -> str:
        """healthy, degraded (alive, not ready) or down."""
        if self.silent(place, now_ns):
            return "down"
        return "healthy" if self._pulses[place].ready else "degraded"

    def verdict(self, *, shards_serving: int, shards_well: bool, now_ns: int) -> str:
        """Of the cluster: unhealthy when no shard serves, degraded when a shard or a daemon is not as it should be."""
        if not shards_serving:
            return "unhealthy"
        well = shards_well and all(self.state(place, now_ns) == "healthy" for place in self._expected)
        return "healthy" if well else "degraded"

    def statuses(self, shards: Mapping[str, tuple[str, int]], now_ns: int) -> list[m.DaemonStatus]:
        """Every daemon, expected ones first, then the others by name. `shards` = shard and epoch by node."""
        others = sorted(place for place in self._pulses if place not in self._expected)
        return [self._status(place, shards, now_ns) for place in (*self._expected, *others)]

    def _bound_ns(self, place: Place, pulse: _Pulse) -> int:
        if place[0] != NODE or pulse.restored:
            return BEAT_SUSPECT_NS
        adapted = min(_GAPS * pulse.gap_ns, NODE_SUSPECT_MAX_NS)
        return max(self._node_suspect_ns, adapted)

    def _status(self, place: Place, shards: Mapping[str, tuple[str, int]], now_ns: int) -> m.DaemonStatus:
        role, name = place
        pulse = self._pulses[place]
        shard, epoch = shards.get(name, ("", 0)) if role == NODE else ("", 0)
        return m.DaemonStatus(
            role=role,
            name=name,
            pid=pulse.pid,
            incarnation=pulse.incarnation,
            epoch=epoch,
            health=self.state(place, now_ns),
            age_ms=NEVER_MS if pulse.heard_ns is None else max(0, now_ns - pulse.heard_ns) // NS_PER_MS,
            stats=pulse.stats,
            shard=shard,
        )


def _flat(key: str, value: object) -> bool:
    if isinstance(value, str):
        return len(key) <= STAT_TEXT_MAX and len(value) <= STAT_TEXT_MAX
    return len(key) <= STAT_TEXT_MAX and isinstance(value, int | float)


assert STANDSTILL_NS < NODE_SUSPECT_NS <= NODE_SUSPECT_MAX_NS <= BEAT_SUSPECT_NS
assert BEAT_SUSPECT_NS >= 3 * BEAT_INTERVAL_NS
