"""One instrument over time: an empty book, a market that comes and goes, and the own quotes in between."""

import pytest

from exchange.config import MarketMaker
from exchange.domain import Side
from exchange.messages import Instrument
from marketmaker.core.maker import Maker, rules_of
from marketmaker.core.quoting import LiveQuote, Plan

AAPL = Instrument(0, "AAPLUSD", "AAPL", "USD", 2, 0, 1, 1, 1, 10**6, 1, 10**8, 1_000, 15_000, -1, "s0")
HOUSE = MarketMaker(spread_bps=20, skew_bps=30, levels=1, quote_quantity="50", inventory_max="100")


def maker() -> Maker:
    return Maker(AAPL, rules_of(AAPL, HOUSE))


def placed(plan: Plan) -> list[LiveQuote]:
    """The plan's new quotes as they stand once the exchange has taken them."""
    return [
        LiveQuote(f"q{number}", quote.side, quote.price, quote.quantity) for number, quote in enumerate(plan.submits)
    ]


def show(house: Maker, live: list[LiveQuote]) -> None:
    """A book that holds nothing but these orders."""
    house.on_book(
        [(quote.price, quote.leaves) for quote in live if quote.side is Side.BUY],
        [(quote.price, quote.leaves) for quote in live if quote.side is Side.SELL],
    )


def test_an_empty_book_is_quoted_around_the_reference_price() -> None:
    plan = maker().turn([], 0)
    assert [(quote.side, quote.price) for quote in plan.submits] == [(Side.BUY, 14_985), (Side.SELL, 15_015)]
    assert plan.cancels == []


def test_a_house_that_is_alone_and_long_does_not_chase_its_own_quotes() -> None:
    house = maker()
    live: list[LiveQuote] = []
    seen = []
    for _ in range(20):
        plan = house.turn(live, 50)
        live = [quote for quote in live if quote not in plan.cancels] + placed(plan)
        show(house, live)
        seen.append([quote.price for quote in live])
    assert seen == [seen[0]] * 20
    assert seen[0] == [14_963, 14_993]


def test_quotes_follow_the_last_trade_when_nobody_else_quotes() -> None:
    house = maker()
    house.on_trade(16_000)
    assert [quote.price for quote in house.turn([], 0).submits] == [15_984, 16_016]


def test_a_full_house_stops_buying_and_goes_on_selling() -> None:
    house = maker()
    live = placed(house.turn([], 0))
    plan = house.turn(live, 100)
    assert [quote.side for quote in plan.cancels] == [Side.BUY, Side.SELL]
    assert [quote.side for quote in plan.submits] == [Side.SELL]


def test_without_any_price_nothing_is_quoted_and_old_quotes_go() -> None:
    blind = Instrument(0, "NEWUSD", "NEW", "USD", 2, 0, 1, 1, 1, 10**6, 1, 10**8, 0, 0, -1, "s0")
    house = Maker(blind, rules_of(blind, HOUSE))
    left = [LiveQuote("old", Side.BUY, 100, 5)]
    assert house.turn(left, 0) == Plan(left, [])


def test_a_quantity_that_the_instrument_cannot_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.5 has more than 0 decimals"):
        rules_of(AAPL, MarketMaker(quote_quantity="0.5"))
