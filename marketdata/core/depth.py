"""Price levels of one instrument, from absolute level rows. Pure.

Most books are looked at by nobody most of the time. A row therefore costs one dict access, and prices are sorted only
when somebody looks for the first time; from then on a sorted list is kept in step by bisection, so that the next look
costs O(depth). All prices and quantities are integer units.
"""

import zlib
from bisect import bisect_left, insort
from collections.abc import Sequence

Level = tuple[int, int]
"""(price, quantity)"""

CHECKSUM_LEVELS = 10


class Ladder:
    """One side of one book. `set` costs O(1) until the first `top`, O(log n) and a memmove after it."""

    __slots__ = ("_best_is_highest", "_changed", "_prices", "_quantities")

    def __init__(self, *, best_is_highest: bool) -> None:
        self._best_is_highest = best_is_highest
        self._quantities: dict[int, int] = {}
        self._prices: list[int] | None = None
        self._changed: dict[int, None] | None = None

    def __len__(self) -> int:
        return len(self._quantities)

    def set(self, price: int, quantity: int) -> None:
        """The level at `price` now holds `quantity`; 0 removes it, also when it was not there."""
        quantities = self._quantities
        if quantity:
            if self._prices is not None and price not in quantities:
                insort(self._prices, price)
            quantities[price] = quantity
        elif quantities.pop(price, 0) and self._prices is not None:
            del self._prices[bisect_left(self._prices, price)]
        if self._changed is not None:
            self._changed[price] = None

    def clear(self) -> None:
        """No level is left; changes noted so far are forgotten."""
        self._quantities.clear()
        self._prices = None
        if self._changed is not None:
            self._changed.clear()

    def top(self, depth: int) -> list[Level]:
        """The best `depth` levels, best first."""
        if self._prices is None:
            self._prices = sorted(self._quantities)
        prices = self._prices
        best = prices[: -depth - 1 : -1] if self._best_is_highest else prices[:depth]
        quantities = self._quantities
        return [(price, quantities[price]) for price in best]

    def track(self, *, on: bool) -> None:
        """Start or stop to note which prices change; starting anew forgets what was noted."""
        self._changed = {} if on else None

    def take_changes(self) -> list[Level]:
        """Levels that changed since the last call, ascending by price, as they stand now (0 = gone)."""
        if not self._changed:
            return []
        quantities = self._quantities
        changes = [(price, quantities.get(price, 0)) for price in sorted(self._changed)]
        self._changed.clear()
        return changes


class Book:
    """Both sides of one instrument; `sides` is indexed by exchange.domain.Side."""

    __slots__ = ("asks", "bids", "sides")

    def __init__(self) -> None:
        self.bids = Ladder(best_is_highest=True)
        self.asks = Ladder(best_is_highest=False)
        self.sides = (self.bids, self.asks)

    def clear(self) -> None:
        """Empty both sides."""
        self.bids.clear()
        self.asks.clear()

    def track(self, *, on: bool) -> None:
        """Start or stop to note changes on both sides."""
        self.bids.track(on=on)
        self.asks.track(on=on)

    def checksum(self) -> int:
        """Checksum of the best 10 levels a side, as `checksum` below."""
        return checksum(self.bids.top(CHECKSUM_LEVELS), self.asks.top(CHECKSUM_LEVELS))


def checksum(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """CRC-32 that a client computes over its own top 10 (Kraken's rule, docs.kraken.com "book checksum").

    Asks low to high, then bids high to low; of each level the price, then the quantity, written with all decimals of
    the instrument, point removed, leading zeros stripped: which is the integer unit itself, and nothing for zero.
    """
    digits = "".join([f"{price or ''}{quantity or ''}" for price, quantity in (*asks, *bids)])
    return zlib.crc32(digits.encode())
