"""What a primary's own log came to, to compare with what its standby says: rules J1 and R13. Pure."""

from collections import deque

from exchange import messages as m
from shard.core.journal import Position

TRAILS_MAX = 1_024
"""Kept as far back as acknowledgements are on their way."""


class Trails:
    """Chain and trail behind each of the newest records. The same log must have the same chain and outcomes."""

    def __init__(self) -> None:
        self._trails: deque[tuple[int, int, int]] = deque(maxlen=TRAILS_MAX)

    def note(self, after: Position, trail: int) -> None:
        """A record was executed."""
        self._trails.append((after.seq, after.chain, trail))

    def disagreement(self, message: m.Appended) -> str | None:
        """What differs; empty when nothing does, None when it is not known any more."""
        while self._trails and self._trails[0][0] < message.last_seq:
            self._trails.popleft()
        if not self._trails or self._trails[0][0] != message.last_seq:
            return None
        seq, chain, trail = self._trails[0]
        if (chain, trail) == (message.chain, message.trail):
            return ""
        return (
            f"at seq {seq} the standby has chain {message.chain:016x}, trail {message.trail:08x}; "
            f"here they are {chain:016x}, {trail:08x}"
        )
