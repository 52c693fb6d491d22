"""When a standby that was dropped for its silence may be required again. Pure.

A line that fails now and then would otherwise stall the shard again and again, each time until its silence is noticed.
Only for how long it serves alone depends on this, never what is safe.
"""

from exchange.domain import NS_PER_S
from shard.core.insync import Session

HOLD_MIN_NS = 2 * NS_PER_S
HOLD_MAX_NS = 8 * NS_PER_S
"""A dropped standby must be heard for so long without interruption: the first time, then twice as long, and at most."""
FORGIVEN_NS = 60 * NS_PER_S
"""After so long without interruption earlier drops count no more."""


class Probation:
    """The standby of one term. A new session of a node begins with a clean record."""

    def __init__(self) -> None:
        self._who: Session = ("", 0)
        self._drops = 0
        self._steady_ns = 0

    def dropped(self, who: Session, now_ns: int) -> None:
        """The set is to go on without `who`, which is silent."""
        if who != self._who or now_ns - self._steady_ns > FORGIVEN_NS:
            self._drops = 0
        self._who, self._steady_ns = who, now_ns
        self._drops += 1

    def interrupted(self, now_ns: int) -> None:
        """It is silent now, for so long that it would be dropped."""
        self._steady_ns = now_ns

    def passed(self, who: Session, now_ns: int) -> bool:
        """Whether it may be required."""
        hold_ns = min(HOLD_MIN_NS << (self._drops - 1), HOLD_MAX_NS) if self._drops else 0
        return who != self._who or now_ns - self._steady_ns >= hold_ns
