"""Who is alive and well, from heartbeats. Pure; all times are monotonic nanoseconds.

A detector, never a safety input: that two processes do not lead one shard is the work of epochs.
"""

from collections.abc import Mapping
from typing import Any

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.limits import BEAT_SUSPECT_NS

STATS_MAX = 64
STAT_TEXT_MAX = 256
NEVER_MS = -1
"""`age_ms` of a daemon that was never heard."""

Place = tuple[str, str]
"""Role and name of a daemon."""


class _Pulse:
    """What is known of one daemon."""

    def __init__(self) -> None:
        self.pid = 0
        self.incarnation = 0
        self.heard_ns: int | None = None
        self.ready = False
        self.stats: dict[str, Any] = {}


class Health:
    """Heartbeats of all daemons. `expected` are those the configuration wants: one that never came is down."""

    def __init__(self, expected: list[Place]) -> None:
        self._expected = expected
        self._pulses: dict[Place, _Pulse] = {place: _Pulse() for place in expected}
        self._tick_ns: int | None = None

    def started(self, place: Place, *, pid: int, incarnation: int, now_ns: int) -> None:
        """A process registered, or is known from before and gets the benefit of the doubt for one bound."""
        pulse = self._pulses.setdefault(place, _Pulse())
        pulse.pid, pulse.incarnation = pid, incarnation
        pulse.heard_ns, pulse.ready, pulse.stats = now_ns, False, {}

    def refused(self, place: Place, sentence: str, now_ns: int) -> None:
        """A process that was not let in: its place shows why, unless another one is alive there."""
        if place in self._pulses and self.silent(place, now_ns):
            self._pulses[place].stats = {"refused": sentence[:STAT_TEXT_MAX]}

    def heard(self, place: Place, *, ready: bool, stats: Mapping[str, Any], now_ns: int) -> None:
        """A heartbeat came. Of `stats` only flat numbers and short texts are kept, at most STATS_MAX."""
        pulse = self._pulses[place]
        pulse.heard_ns, pulse.ready = now_ns, ready
        pulse.stats = {key: value for key, value in list(stats.items())[:STATS_MAX] if _flat(key, value)}

    def on_tick(self, now_ns: int) -> None:
        """Time passes. A gap between ticks means that this process stood still: nobody else is blamed for it."""
        if self._tick_ns is not None and now_ns - self._tick_ns >= BEAT_SUSPECT_NS // 2:
            for pulse in self._pulses.values():
                if pulse.heard_ns is not None:
                    pulse.heard_ns += now_ns - self._tick_ns
        self._tick_ns = now_ns

    def silent(self, place: Place, now_ns: int) -> bool:
        """Nothing was heard for longer than BEAT_SUSPECT_NS."""
        pulse = self._pulses.get(place)
        return pulse is None or pulse.heard_ns is None or now_ns - pulse.heard_ns > BEAT_SUSPECT_NS

    def state(self, place: Place, now_ns: int) -> str:
        """healthy, degraded (alive, not ready) or down."""
        if self.silent(place, now_ns):
            return "down"
        return "healthy" if self._pulses[place].ready else "degraded"

    def verdict(self, *, shards_serving: int, now_ns: int) -> str:
        """Of the cluster: unhealthy when no shard serves, degraded when any expected daemon is not healthy."""
        if not shards_serving:
            return "unhealthy"
        well = all(self.state(place, now_ns) == "healthy" for place in self._expected)
        return "healthy" if well else "degraded"

    def statuses(self, epochs: Mapping[str, int], now_ns: int) -> list[m.DaemonStatus]:
        """Every daemon, expected ones first, then the others by name. `epochs` by shard."""
        others = sorted(place for place in self._pulses if place not in self._expected)
        return [self._status(place, epochs, now_ns) for place in (*self._expected, *others)]

    def _status(self, place: Place, epochs: Mapping[str, int], now_ns: int) -> m.DaemonStatus:
        role, name = place
        pulse = self._pulses[place]
        return m.DaemonStatus(
            role=role,
            name=name,
            pid=pulse.pid,
            incarnation=pulse.incarnation,
            epoch=epochs.get(name, 0) if role == "shard" else 0,
            health=self.state(place, now_ns),
            age_ms=NEVER_MS if pulse.heard_ns is None else max(0, now_ns - pulse.heard_ns) // NS_PER_MS,
            stats=pulse.stats,
        )


def _flat(key: str, value: object) -> bool:
    if isinstance(value, str):
        return len(key) <= STAT_TEXT_MAX and len(value) <= STAT_TEXT_MAX
    return len(key) <= STAT_TEXT_MAX and isinstance(value, int | float)
