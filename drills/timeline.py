"""When the orders of a load were decided, and which of them were not."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from exchange.clock import monotonic_ns
from loadgen.report import Tally

DECIDED = ("new", "filled", "cancelled", "expired", "rejected")
"""The shard's log has the word; everything else is trouble of a client."""


class Timeline(Tally):
    """A tally that keeps the moment and the latency of each decided order; `decided_ns` ascends."""

    def __init__(self) -> None:
        super().__init__()
        self.decided_ns = array("q")
        self._latencies_ns = array("q")

    @property
    def undecided(self) -> Counter[str]:
        """Orders that ended otherwise, by class."""
        return Counter({name: count for name, count in self.outcomes.items() if name not in DECIDED})

    def add(self, outcomes: Mapping[str, int], latency_ns: int) -> None:
        """One frame of one order was answered, so long after it should have been sent."""
        super().add(outcomes, latency_ns)
        if all(name in DECIDED for name in outcomes):
            self.decided_ns.append(monotonic_ns())
            self._latencies_ns.append(latency_ns)

    def latencies_ns(self, from_ns: int, until_ns: int) -> list[int]:
        """Of what was decided in a stretch of time."""
        first, last = bisect_left(self.decided_ns, from_ns), bisect_left(self.decided_ns, until_ns)
        return list(self._latencies_ns[first:last])
