"""Whether the primary of one shard is to be replaced: because it is gone, or because its disk is slow. Pure.

A detector, never a safety input. Silence is ambiguous: while a living standby says that it hears the primary, it is the
way to the coordinator that is cut, and nothing is done for HOLD_NS.
"""

from collections.abc import Mapping
from typing import Any

from coordinator.core.group import NOBODY, Group, Session
from coordinator.core.health import Health, node_place
from exchange.domain import NS_PER_MS, NS_PER_S

HOLD_NS = 2 * NS_PER_S
HEARS_NS = 200 * NS_PER_MS
"""A standby that heard its primary within this time hears it."""
SLOW_SYNC_US = 50_000
SLOW_FOR_NS = 2 * NS_PER_S
"""A primary whose disk needs more than SLOW_SYNC_US (99th percentile) for so long hands over to one that is faster."""


class Suspicion:
    """Ask at every tick; `forget` when another term begins."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._silent_ns: int | None = None
        self._slow_ns: int | None = None

    def forget(self) -> None:
        """Another node leads: nothing is held against it."""
        self._silent_ns = self._slow_ns = None

    def stood_still(self, ns: int) -> None:
        """For so long nothing was heard because this process did not listen."""
        self._silent_ns = None if self._silent_ns is None else self._silent_ns + ns
        self._slow_ns = None if self._slow_ns is None else self._slow_ns + ns

    def is_lost(self, group: Group, now_ns: int) -> bool:
        """The primary's process has ended, or it is silent and was given its time."""
        if group.primary == NOBODY or not self._health.silent(node_place(group.primary[0]), now_ns):
            self._silent_ns = None
            return False
        if self._silent_ns is None:
            self._silent_ns = now_ns
        held = now_ns - self._silent_ns < HOLD_NS and self._is_heard_by_standby(group, now_ns)
        return self.has_ended(group) or not held

    def has_ended(self, group: Group) -> bool:
        """The primary's process is known to have ended."""
        return self._health.has_ended(node_place(group.primary[0]))

    def heirs(self, group: Group, now_ns: int) -> list[Session]:
        """Living members of the in-sync set besides the primary."""
        others = [session for session in group.isr if session != group.primary]
        return [session for session in others if self._health.alive(node_place(session[0]), session[1], now_ns)]

    def faster_disk(self, group: Group, now_ns: int) -> Session | None:
        """Who should lead instead of a primary whose disk has long been slow; None when nobody is better."""
        if self._sync_us(group.primary) <= SLOW_SYNC_US:
            self._slow_ns = None
            return None
        if self._slow_ns is None:
            self._slow_ns = now_ns
        better = [session for session in self.heirs(group, now_ns) if 0 <= self._sync_us(session) <= SLOW_SYNC_US]
        return better[0] if better and now_ns - self._slow_ns >= SLOW_FOR_NS else None

    def _is_heard_by_standby(self, group: Group, now_ns: int) -> bool:
        for heir in self.heirs(group, now_ns):
            heard_ms = number(self._health.stats(node_place(heir[0])), "hears_primary_ms")
            heard_ns = heard_ms * NS_PER_MS + self._health.age_ns(node_place(heir[0]), now_ns)
            if heard_ms >= 0 and heard_ns < HEARS_NS:
                return True
        return False

    def _sync_us(self, session: Session) -> int:
        return number(self._health.stats(node_place(session[0])), "fsync_p99_us")


def number(stats: Mapping[str, Any], key: str) -> int:
    """A figure of a heartbeat; -1 when there is none."""
    value = stats.get(key)
    return value if isinstance(value, int) else -1
