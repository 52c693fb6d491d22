"""Lines that a peer can cause: so many a second, and how many more there were."""

from exchange.domain import NS_PER_S
from exchange.process import Log

LINES_PER_S = 10


class BoundedLog:
    """Notes about what others sent."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._window_ns = 0
        self._left = LINES_PER_S
        self._dropped = 0

    def note(self, line: str, now_ns: int) -> None:
        """Log it, or count it."""
        if now_ns - self._window_ns >= NS_PER_S:
            if self._dropped:
                self._log.warning("more of that", lines_dropped=self._dropped)
            self._window_ns, self._left, self._dropped = now_ns, LINES_PER_S, 0
        if self._left:
            self._left -= 1
            self._log.warning("noted", detail=line)
        else:
            self._dropped += 1
