"""What a gateway measures of itself: latency and counts over a sliding window, by shard, and totals since start."""

from collections import deque
from collections.abc import Iterable

from hdrh.histogram import HdrHistogram
from msgspec import Struct

from exchange.domain import NS_PER_S, NS_PER_US

WINDOW_S = 60
SLICE_NS = 5 * NS_PER_S
SLICES = WINDOW_S * NS_PER_S // SLICE_NS
LATENCY_MAX_US = 60_000_000
DIGITS = 3
PERCENTILES = {"p50_us": 50.0, "p95_us": 95.0, "p99_us": 99.0, "p99_9_us": 99.9}


class _Slice:
    """Five seconds of one shard."""

    __slots__ = ("begin_ns", "commands", "latency")

    def __init__(self, begin_ns: int) -> None:
        self.begin_ns = begin_ns
        self.commands = 0
        self.latency = HdrHistogram(1, LATENCY_MAX_US, DIGITS)


class ShardStats:
    """Commands answered by one shard. `record` costs about a microsecond; call it once for each run of commands."""

    def __init__(self) -> None:
        self.commands = 0
        self.unknown = 0
        self.not_executed = 0
        self._slices: deque[_Slice] = deque(maxlen=SLICES)

    def record(self, count: int, latency_ns: int, now_ns: int) -> None:
        """`count` commands of one run were answered after `latency_ns`."""
        if not self._slices or now_ns - self._slices[-1].begin_ns >= SLICE_NS:
            self._slices.append(_Slice(now_ns))
        current = self._slices[-1]
        current.commands += count
        self.commands += count
        current.latency.record_value(min(max(1, latency_ns // NS_PER_US), LATENCY_MAX_US), count)

    def recent(self, now_ns: int) -> list[_Slice]:
        """The slices of the window."""
        return [s for s in self._slices if now_ns - s.begin_ns < WINDOW_S * NS_PER_S]


class Summary(Struct, frozen=True):
    """Commands a second over the window, and latency percentiles in microseconds (0 without any)."""

    per_second: float
    latency: dict[str, int]


def summarize(shards: Iterable[ShardStats], now_ns: int, started_ns: int) -> Summary:
    """Over several shards together."""
    merged = HdrHistogram(1, LATENCY_MAX_US, DIGITS)
    commands = 0
    for shard in shards:
        for part in shard.recent(now_ns):
            commands += part.commands
            merged.add(part.latency)
    span_ns = min(WINDOW_S * NS_PER_S, max(NS_PER_S, now_ns - started_ns))
    latency = {
        name: int(merged.get_value_at_percentile(percentile)) if commands else 0
        for name, percentile in PERCENTILES.items()
    }
    return Summary(round(commands * NS_PER_S / span_ns, 1), latency)
