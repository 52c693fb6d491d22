"""What a market maker should quote, and which of its quotes to move. Pure, integers only.

Sources
    Reservation price and inventory skew: M. Avellaneda, S. Stoikov, "High-frequency trading in a limit order book",
    Quantitative Finance 8(3), 2008: r = s - q * gamma * sigma^2 * (T - t). Taken here in its linear form with the
    largest shift as the parameter: reservation = fair * (1 - skew * inventory / inventory_max).
    Volatility: exponentially weighted variance of returns with lambda = 0.94, J. P. Morgan/Reuters, "RiskMetrics
    Technical Document", 1996. Return = (p1 - p0) / p0, which equals the log return up to its square.
    Half spread = fair * (spread / 2 + volatility_factor * sigma).

Laws
    A long inventory moves both quotes down, a short one up: the house leans towards being flat.
    Bids that are open plus inventory never exceed inventory_max, asks likewise: a side without room is not quoted.
    A fair value never follows the maker's own quotes, or a skewed maker would chase itself through the book.
    No quote crosses another trader's order: quotes are post-only, a crossing one would only be rejected.
"""

from collections.abc import Sequence
from math import isqrt

from msgspec import Struct

from exchange.domain import Side

PPB = 10**9
"""Returns, spreads and volatility are parts per billion of the fair value."""
PPB_PER_BPS = 10**5
DECAY_NUMERATOR, DECAY_DENOMINATOR = 94, 100

Level = tuple[int, int]
"""Price and quantity, in units."""


class Rules(Struct, frozen=True, kw_only=True):
    """What the instrument allows and the house wants. Prices and quantities in units, shares in parts per billion."""

    tick: int
    lot: int
    quantity_min: int
    price_min: int
    price_max: int
    spread_ppb: int
    skew_ppb: int
    volatility_factor_ppb: int
    levels: int
    quote_quantity: int
    inventory_max: int


class Quote(Struct, frozen=True, order=True):
    """One order that is wanted in the book."""

    side: Side
    price: int
    quantity: int


class LiveQuote(Struct, frozen=True):
    """One order of ours that is open in the book."""

    client_order_id: str
    side: Side
    price: int
    leaves: int


class Plan(Struct, frozen=True):
    """What to send, in this order: cancels make the room that the new quotes need."""

    cancels: list[LiveQuote]
    submits: list[Quote]


class Volatility:
    """Exponentially weighted volatility of a price, one observation for each look at the market."""

    def __init__(self) -> None:
        self._price = 0
        self._variance = 0

    @property
    def sigma_ppb(self) -> int:
        """Standard deviation of one return, in parts per billion."""
        return isqrt(self._variance)

    def observe(self, price: int) -> None:
        """Take the newest fair value (positive)."""
        if self._price:
            change = (price - self._price) * PPB // self._price
            decayed = DECAY_NUMERATOR * self._variance + (DECAY_DENOMINATOR - DECAY_NUMERATOR) * change * change
            self._variance = decayed // DECAY_DENOMINATOR
        self._price = price


def without_own(levels: Sequence[Level], live: Sequence[LiveQuote], side: Side) -> list[Level]:
    """A side of the book, best first, less our own open orders; levels that were ours alone vanish."""
    own: dict[int, int] = {}
    for quote in live:
        if quote.side is side:
            own[quote.price] = own.get(quote.price, 0) + quote.leaves
    rest = [(price, quantity - own.get(price, 0)) for price, quantity in levels]
    return [(price, quantity) for price, quantity in rest if quantity > 0]


def fair_value(bids: Sequence[Level], asks: Sequence[Level], anchor: int) -> int:
    """The mid of what others quote; `anchor` (last trade or reference price), bounded by them, while a side is empty.

    `bids` and `asks` are the sides without our own quotes. Rounded down to a unit; 0 = no opinion.
    """
    if bids and asks:
        return (bids[0][0] + asks[0][0]) // 2
    if bids:
        return max(anchor, bids[0][0])
    if asks:
        return min(anchor, asks[0][0]) if anchor else asks[0][0]
    return anchor


def half_spread(rules: Rules, fair: int, sigma_ppb: int) -> int:
    """Distance of the best quotes from the reservation price, at least one tick."""
    share = rules.spread_ppb // 2 + rules.volatility_factor_ppb * sigma_ppb // PPB
    return max(rules.tick, fair * share // PPB)


def reservation(rules: Rules, fair: int, inventory: int) -> int:
    """The price at which the house is indifferent: below fair when it is long, above when it is short."""
    held = max(-rules.inventory_max, min(inventory, rules.inventory_max))
    return fair - fair * rules.skew_ppb * held // (PPB * rules.inventory_max)


def wanted(
    rules: Rules,
    *,
    fair: int,
    inventory: int,
    sigma_ppb: int,
    bids: Sequence[Level] = (),
    asks: Sequence[Level] = (),
) -> list[Quote]:
    """The quotes the house wants, bids then asks, best first; `bids`, `asks` are what others quote."""
    if fair <= 0:
        return []
    centre = reservation(rules, fair, inventory)
    half = half_spread(rules, fair, sigma_ppb)
    highest = min(rules.price_max, asks[0][0] - 1 if asks else rules.price_max)
    lowest = max(rules.price_min, bids[0][0] + 1 if bids else rules.price_min, 1)
    return [
        *_side(rules, Side.BUY, [min(centre - half * step, highest) for step in _steps(rules)], inventory),
        *_side(rules, Side.SELL, [max(centre + half * step, lowest) for step in _steps(rules)], -inventory),
    ]


def plan(live: Sequence[LiveQuote], quotes: Sequence[Quote], tolerance: int) -> Plan:
    """Keep a live quote that is within `tolerance` of a wanted one and holds between half and all of its quantity.

    Each wanted quote keeps at most one live one, so what stays open is never more than what is wanted.
    """
    left = list(live)
    submits = []
    for quote in quotes:
        match = next((one for one in left if _serves(one, quote, tolerance)), None)
        if match is None:
            submits.append(quote)
        else:
            left.remove(match)
    return Plan(left, submits)


def _steps(rules: Rules) -> range:
    return range(1, rules.levels + 1)


def _side(rules: Rules, side: Side, prices: Sequence[int], inventory: int) -> list[Quote]:
    """Quotes of one side, best first, each on its own tick; `inventory` counts in the direction of the side."""
    room = rules.inventory_max - inventory
    quotes: list[Quote] = []
    for price in prices:
        quantity = min(rules.quote_quantity, room) // rules.lot * rules.lot
        if quantity < max(rules.quantity_min, 1):
            break
        aligned = _aligned(rules.tick, side, price)
        if quotes:
            aligned = _beyond(rules.tick, side, quotes[-1].price, aligned)
        if not max(rules.price_min, 1) <= aligned <= rules.price_max:
            break
        quotes.append(Quote(side, aligned, quantity))
        room -= quantity
    return quotes


def _aligned(tick: int, side: Side, price: int) -> int:
    """To the tick, away from the other side."""
    return price // tick * tick if side is Side.BUY else -(-price // tick) * tick


def _beyond(tick: int, side: Side, previous: int, price: int) -> int:
    """At least one tick behind the quote before it."""
    return min(price, previous - tick) if side is Side.BUY else max(price, previous + tick)


def _serves(live: LiveQuote, quote: Quote, tolerance: int) -> bool:
    return (
        live.side is quote.side
        and abs(live.price - quote.price) <= tolerance
        and quote.quantity <= 2 * live.leaves
        and live.leaves <= quote.quantity
    )
