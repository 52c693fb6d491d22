"""How long nobody was served: from the times of successes and of faults."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from msgspec import Struct

from exchange.domain import NS_PER_MS


class Spread(Struct, frozen=True):
    """Milliseconds; of `count` values."""

    count: int
    p50: float
    p99: float
    longest: float


def spread(values_ns: Iterable[int]) -> Spread:
    """Median, 99th percentile (nearest rank) and maximum."""
    ordered = sorted(values_ns)
    if not ordered:
        return Spread(0, 0.0, 0.0, 0.0)
    return Spread(len(ordered), *[_ms(ordered, share) for share in (0.5, 0.99, 1.0)])


def percentile_ms(values_ns: Iterable[int], percentile: int) -> float:
    """By nearest rank; 0 without values."""
    ordered = sorted(values_ns)
    return _ms(ordered, percentile / 100) if ordered else 0.0


def outage(successes: Sequence[int], at_ns: int, until_ns: int) -> tuple[int, int]:
    """(begin, end) of the longest time without a success that is under way at `at_ns` or begins before `until_ns`; it
    does not begin before `at_ns`.
    """
    first = max(0, bisect_right(successes, at_ns) - 1)
    last = min(len(successes) - 1, bisect_left(successes, until_ns))
    pauses = [(max(at_ns, successes[place]), successes[place + 1]) for place in range(first, last)]
    return max(pauses, key=lambda pause: pause[1] - pause[0], default=(at_ns, until_ns))


def longest_pause_ns(successes: Sequence[int], from_ns: int, until_ns: int) -> int:
    """Longest time between two successes that overlaps the stretch; `successes` ascend."""
    first = max(0, bisect_right(successes, from_ns) - 1)
    last = min(len(successes) - 1, bisect_left(successes, until_ns))
    pauses = [successes[place + 1] - successes[place] for place in range(first, last)]
    return max(pauses, default=until_ns - from_ns)


def _ms(ordered: Sequence[int], share: float) -> float:
    rank = min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))
    return round(ordered[rank] / NS_PER_MS, 1)
