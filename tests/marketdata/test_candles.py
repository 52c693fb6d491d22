"""Candles against a brute-force sum over all trades."""

from hypothesis import given
from hypothesis import strategies as st

from marketdata.core.candles import DAY_MINUTES, MINUTE_NS, Candle, Minutes

START_NS = 29_000_000 * MINUTE_NS
Trade = tuple[int, int, int]
"""(ts_ns, price, quantity)"""

STEPS = st.tuples(st.integers(0, 40 * MINUTE_NS), st.integers(1, 50), st.integers(1, 9))


@st.composite
def histories(draw: st.DrawFn) -> list[Trade]:
    """Trades in the order of their time, with pauses of up to 40 minutes."""
    ts_ns, trades = START_NS, []
    for pause_ns, price, quantity in draw(st.lists(STEPS, max_size=40)):
        ts_ns += pause_ns
        trades.append((ts_ns, price, quantity))
    return trades


@given(histories(), st.sampled_from([1, 5, 60]), st.integers(1, 10))
def test_candles_equal_a_brute_force_over_all_trades(trades: list[Trade], interval: int, limit: int) -> None:
    minutes = filled(trades)
    starts = sorted({ts // MINUTE_NS // interval * interval for ts, _, _ in trades})
    expected = [brute(start, trades, start, start + interval) for start in starts]
    assert minutes.newest(interval, limit) == expected[-limit:]


@given(histories(), st.integers(0, 2 * DAY_MINUTES))
def test_the_rolling_day_equals_a_brute_force_at_any_later_time(trades: list[Trade], later: int) -> None:
    minutes = Minutes()
    for number, (ts, price, quantity) in enumerate(trades):
        minutes.add(price, quantity, ts)
        check_day(minutes, trades[: number + 1], ts)
    if trades:
        check_day(minutes, trades, trades[-1][0] + later * MINUTE_NS)


def check_day(minutes: Minutes, trades: list[Trade], now_ns: int) -> None:
    minute = now_ns // MINUTE_NS
    start = minute - DAY_MINUTES + 1
    within = [trade for trade in trades if trade[0] // MINUTE_NS >= start]
    assert minutes.day(now_ns) == (brute(start, within, start, minute + 1) if within else None)


def test_without_trades_there_is_nothing() -> None:
    minutes = Minutes()
    assert (minutes.newest(1, 5), minutes.day(START_NS)) == ([], None)
    minutes.add(100, 1, START_NS)
    minutes.clear()
    assert (minutes.newest(1, 5), minutes.day(START_NS)) == ([], None)


def test_only_a_day_of_minutes_is_kept() -> None:
    minutes = filled([(START_NS + minute * MINUTE_NS, 100, 1) for minute in range(DAY_MINUTES + 60)])
    kept = minutes.newest(1, 10 * DAY_MINUTES)
    assert len(kept) == DAY_MINUTES
    assert kept[0].minute == START_NS // MINUTE_NS + 60


def filled(trades: list[Trade]) -> Minutes:
    minutes = Minutes()
    for ts, price, quantity in trades:
        minutes.add(price, quantity, ts)
    return minutes


def brute(minute: int, trades: list[Trade], start: int, end: int) -> Candle:
    within = [(price, quantity) for ts, price, quantity in trades if start <= ts // MINUTE_NS < end]
    prices = [price for price, _ in within]
    volume = sum(quantity for _, quantity in within)
    return Candle(minute, prices[0], max(prices), min(prices), prices[-1], volume, len(within))
