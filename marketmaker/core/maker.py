"""One instrument of the market maker: what it has seen, what it would do. Pure; prices and quantities in units."""

from collections.abc import Sequence
from decimal import Decimal

from exchange.config import MarketMaker
from exchange.domain import Side
from exchange.messages import Instrument
from exchange.money import parse_units
from marketmaker.core.quoting import (
    PPB,
    PPB_PER_BPS,
    Level,
    LiveQuote,
    Plan,
    Rules,
    Volatility,
    fair_value,
    half_spread,
    plan,
    wanted,
    without_own,
)

TOLERANCE_DIVISOR = 4
"""A quote is moved when it is off by more than this part of the half spread."""


def rules_of(instrument: Instrument, house: MarketMaker) -> Rules:
    """The house's limits in the instrument's units; ValueError when a quantity has more decimals than it allows."""
    lot = instrument.lot
    quote_quantity = parse_units(house.quote_quantity, instrument.quantity_decimals)
    return Rules(
        tick=instrument.tick,
        lot=lot,
        quantity_min=instrument.quantity_min,
        price_min=instrument.price_min,
        price_max=instrument.price_max,
        spread_ppb=house.spread_bps * PPB_PER_BPS,
        skew_ppb=house.skew_bps * PPB_PER_BPS,
        volatility_factor_ppb=int(house.volatility_factor * Decimal(PPB)),
        levels=house.levels,
        quote_quantity=min(quote_quantity, instrument.quantity_max) // lot * lot,
        inventory_max=max(1, parse_units(house.inventory_max, instrument.quantity_decimals)),
    )


class Maker:
    """Feed it the book and the last price; ask `turn` what to do."""

    def __init__(self, instrument: Instrument, rules: Rules) -> None:
        self.instrument = instrument
        self._rules = rules
        self._anchor = instrument.reference_price
        self._bids: list[Level] = []
        self._asks: list[Level] = []
        self._volatility = Volatility()

    def on_book(self, bids: Sequence[Level], asks: Sequence[Level]) -> None:
        """The top of the book, best first, our own orders included."""
        self._bids, self._asks = list(bids), list(asks)

    def on_trade(self, price: int) -> None:
        """The newest trade's price."""
        self._anchor = price

    def turn(self, live: Sequence[LiveQuote], inventory: int) -> Plan:
        """What to cancel and enter, given our open orders and our position."""
        bids = without_own(self._bids, live, Side.BUY)
        asks = without_own(self._asks, live, Side.SELL)
        fair = fair_value(bids, asks, self._anchor)
        if fair <= 0:
            return Plan(list(live), [])
        self._volatility.observe(fair)
        sigma_ppb = self._volatility.sigma_ppb
        quotes = wanted(self._rules, fair=fair, inventory=inventory, sigma_ppb=sigma_ppb, bids=bids, asks=asks)
        return plan(live, quotes, half_spread(self._rules, fair, sigma_ppb) // TOLERANCE_DIVISOR)
