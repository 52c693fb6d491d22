"""Log time: what a primary stamps on its records (rule R15). Pure.

It is the wall clock's, but for two bounds. It never goes back: a clock that was set back makes it creep until the clock
is there again. It never runs ahead of its own path by more than AHEAD_MAX_NS at once: a clock that jumps an hour ahead
must not end an hour's worth of orders. Then it goes on at the bound, as fast as the machine's uptime, until the clock
is back, or an operator says that the clock is right (`believe`).

The path is uptime plus what log time was ahead of it. A standby learns it from its primary's records, so a failover to
a machine whose clock is wrong is bounded too. A process that has seen no record since its start knows no path: its
first record takes the clock's word, if that is not behind the log.
"""

from exchange.domain import NS_PER_S

AHEAD_MAX_NS = 5 * NS_PER_S


class LogClock:
    """`uptime_ns` = how long the machine has run, as the shell told last; None = nobody told, nothing is bounded."""

    def __init__(self) -> None:
        self.uptime_ns: int | None = None
        self._path_ns: int | None = None

    def stamp(self, wall_ns: int, before_ns: int) -> int:
        """For the next record, now that the last one bears `before_ns`."""
        if self.uptime_ns is None:
            return max(before_ns + 1, wall_ns)
        ahead_ns = wall_ns - self.uptime_ns
        if self._path_ns is not None and ahead_ns > self._path_ns + AHEAD_MAX_NS:
            return max(before_ns + 1, self.uptime_ns + self._path_ns + AHEAD_MAX_NS)
        if wall_ns > before_ns:
            self._path_ns = ahead_ns
            return wall_ns
        if self._path_ns is None:
            self._path_ns = before_ns + 1 - self.uptime_ns
        return before_ns + 1  # the path stays: a clock that returns to it is believed

    def learn(self, ts_ns: int) -> None:
        """Another node stamped a record that has just come."""
        if self.uptime_ns is not None:
            ahead_ns = ts_ns - self.uptime_ns
            self._path_ns = ahead_ns if self._path_ns is None else max(self._path_ns, ahead_ns)

    def believe(self) -> None:
        """An operator says that the wall clock is right."""
        self._path_ns = None

    def off_ns(self, wall_ns: int, last_ns: int) -> int:
        """How far the wall clock is ahead of where log time may follow, or (negative) behind the last record's
        `last_ns`; 0 = within AHEAD_MAX_NS."""
        if self.uptime_ns is not None and self._path_ns is not None:
            ahead_ns = wall_ns - self.uptime_ns - self._path_ns
            if ahead_ns > AHEAD_MAX_NS:
                return ahead_ns
        return wall_ns - last_ns if last_ns - wall_ns > AHEAD_MAX_NS else 0
