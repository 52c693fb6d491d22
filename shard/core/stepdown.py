"""A planned switch as the primary sees it: no more records are made until the standby has all, or it goes on. Pure."""

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.wire import encode

STEP_DOWN_NS = 1_000 * NS_PER_MS
"""A switch that has not happened within this time is given up. Going on is safe whatever became of it."""
REPEAT_NS = 100 * NS_PER_MS


class StepDown:
    """From the request on until a view of the next term, or until `over`."""

    def __init__(self, request: m.StepDown, now_ns: int) -> None:
        self._request = request
        self._since_ns = now_ns
        self._said_ns: int | None = None

    def over(self, now_ns: int) -> bool:
        """Nothing came of it."""
        return now_ns - self._since_ns > STEP_DOWN_NS

    def drained(self, node: str, incarnation: int, seq: int, now_ns: int) -> bytes | None:
        """The standby has everything up to `seq`: what to tell the coordinator now."""
        if self._said_ns is not None and now_ns - self._said_ns < REPEAT_NS:
            return None
        self._said_ns = now_ns
        request = self._request
        return encode(m.Drained(request.shard, request.epoch, node, incarnation, request.to, seq))
