"""The house's quotes: where they stand, how inventory moves them, when they are left alone."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from exchange.domain import Side
from marketmaker.core.quoting import (
    PPB_PER_BPS,
    LiveQuote,
    Plan,
    Quote,
    Rules,
    Volatility,
    fair_value,
    half_spread,
    plan,
    wanted,
    without_own,
)

RULES = Rules(
    tick=1,
    lot=10,
    quantity_min=10,
    price_min=1,
    price_max=1_000_000,
    spread_ppb=20 * PPB_PER_BPS,
    skew_ppb=30 * PPB_PER_BPS,
    volatility_factor_ppb=1_000_000_000,
    levels=2,
    quote_quantity=50,
    inventory_max=200,
)
FAIR = 100_000


def prices(quotes: list[Quote], side: Side) -> list[int]:
    return [quote.price for quote in quotes if quote.side is side]


def test_flat_house_quotes_the_same_distance_on_both_sides() -> None:
    assert wanted(RULES, fair=FAIR, inventory=0, sigma_ppb=0) == [
        Quote(Side.BUY, 99_900, 50),
        Quote(Side.BUY, 99_800, 50),
        Quote(Side.SELL, 100_100, 50),
        Quote(Side.SELL, 100_200, 50),
    ]


def test_long_house_moves_both_quotes_down_and_short_house_moves_both_up() -> None:
    flat = wanted(RULES, fair=FAIR, inventory=0, sigma_ppb=0)
    long_ = wanted(RULES, fair=FAIR, inventory=100, sigma_ppb=0)
    short = wanted(RULES, fair=FAIR, inventory=-100, sigma_ppb=0)

    # half of inventory_max held, so half of the 30 bps of skew: 150 units
    assert prices(long_, Side.BUY) == [price - 150 for price in prices(flat, Side.BUY)]
    assert prices(long_, Side.SELL) == [price - 150 for price in prices(flat, Side.SELL)]
    assert prices(short, Side.BUY) == [price + 150 for price in prices(flat, Side.BUY)]
    assert prices(short, Side.SELL) == [price + 150 for price in prices(flat, Side.SELL)]


def test_a_side_without_room_is_not_quoted() -> None:
    full = wanted(RULES, fair=FAIR, inventory=200, sigma_ppb=0)
    assert prices(full, Side.BUY) == []
    assert len(prices(full, Side.SELL)) == 2

    beyond = wanted(RULES, fair=FAIR, inventory=-260, sigma_ppb=0)
    assert prices(beyond, Side.SELL) == []


def test_the_last_of_the_room_is_quoted_in_whole_lots() -> None:
    quotes = wanted(RULES, fair=FAIR, inventory=128, sigma_ppb=0)
    assert [quote.quantity for quote in quotes if quote.side is Side.BUY] == [50, 20]


def test_volatility_widens_the_spread_and_calm_narrows_it_again() -> None:
    volatility = Volatility()
    for price in (100_000, 101_000, 100_000, 101_000):
        volatility.observe(price)
    wild = volatility.sigma_ppb
    assert half_spread(RULES, FAIR, wild) > half_spread(RULES, FAIR, 0) == 100

    for _ in range(200):
        volatility.observe(101_000)
    assert volatility.sigma_ppb < wild // 100


def test_variance_follows_the_riskmetrics_recursion() -> None:
    volatility = Volatility()
    volatility.observe(1_000)
    volatility.observe(1_010)  # a return of 1 %: variance 6 % of (10^7 ppb)^2
    assert volatility.sigma_ppb == 2_449_489


def test_quotes_never_cross_what_others_quote() -> None:
    quotes = wanted(RULES, fair=FAIR, inventory=200, sigma_ppb=0, bids=[(99_950, 5)], asks=[(100_050, 5)])
    assert min(prices(quotes, Side.SELL)) > 99_950
    quotes = wanted(RULES, fair=FAIR, inventory=-200, sigma_ppb=0, bids=[(99_950, 5)], asks=[(100_050, 5)])
    assert max(prices(quotes, Side.BUY)) < 100_050


def test_own_quotes_do_not_count_as_the_market() -> None:
    live = [LiveQuote("a", Side.BUY, 99, 50), LiveQuote("b", Side.BUY, 98, 50)]
    assert without_own([(99, 50), (98, 60), (97, 1)], live, Side.BUY) == [(98, 10), (97, 1)]
    assert without_own([(99, 50)], live, Side.SELL) == [(99, 50)]


def test_fair_value_is_the_mid_of_others_or_the_anchor_within_what_they_quote() -> None:
    assert fair_value([(98, 1)], [(104, 1)], anchor=500) == 101
    assert fair_value([], [], anchor=500) == 500
    assert fair_value([(98, 1)], [], anchor=90) == 98
    assert fair_value([], [(104, 1)], anchor=500) == 104
    assert fair_value([], [(104, 1)], anchor=0) == 104


def test_nothing_is_quoted_without_an_opinion_of_the_price() -> None:
    assert wanted(RULES, fair=0, inventory=0, sigma_ppb=0) == []


def test_quotes_that_moved_little_stay_and_the_rest_is_replaced() -> None:
    near = LiveQuote("near", Side.BUY, 99_890, 50)
    far = LiveQuote("far", Side.BUY, 99_700, 50)
    eaten = LiveQuote("eaten", Side.SELL, 100_100, 20)
    quotes = wanted(RULES, fair=FAIR, inventory=0, sigma_ppb=0)

    assert plan([near, far, eaten], quotes, tolerance=25) == Plan(
        [far, eaten], [Quote(Side.BUY, 99_800, 50), Quote(Side.SELL, 100_100, 50), Quote(Side.SELL, 100_200, 50)]
    )


def test_two_live_quotes_do_not_serve_one_wanted_quote() -> None:
    twins = [LiveQuote("a", Side.BUY, 100, 50), LiveQuote("b", Side.BUY, 100, 50)]
    assert plan(twins, [Quote(Side.BUY, 100, 50)], tolerance=5) == Plan([twins[1]], [])


@given(
    fair=st.integers(1, 10**9),
    inventory=st.integers(-400, 400),
    sigma=st.integers(0, 10**9),
    tick=st.sampled_from([1, 5, 100]),
    levels=st.integers(1, 6),
)
def test_every_quote_obeys_the_market_and_the_house(
    fair: int, inventory: int, sigma: int, tick: int, levels: int
) -> None:
    rules = msgspec.structs.replace(RULES, tick=tick, levels=levels, price_max=2 * 10**9)
    quotes = wanted(rules, fair=fair, inventory=inventory, sigma_ppb=sigma)

    bids, asks = prices(quotes, Side.BUY), prices(quotes, Side.SELL)
    assert bids == sorted(set(bids), reverse=True)
    assert asks == sorted(set(asks))
    assert not (bids and asks) or bids[0] < asks[0]
    for quote in quotes:
        assert quote.price % tick == 0
        assert rules.price_min <= quote.price <= rules.price_max
        assert quote.quantity % rules.lot == 0
        assert rules.quantity_min <= quote.quantity <= rules.quote_quantity
    bought = sum(quote.quantity for quote in quotes if quote.side is Side.BUY)
    sold = sum(quote.quantity for quote in quotes if quote.side is Side.SELL)
    assert not bought or inventory + bought <= rules.inventory_max
    assert not sold or inventory - sold >= -rules.inventory_max
