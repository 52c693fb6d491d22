"""Open, high, low, close and volume by the minute, and what follows from minutes. Pure.

Only minute candles are kept. Longer intervals and the rolling day are sums over them, built when somebody looks; a
trade costs one comparison of minutes. Time is log time: the stamp of the journal record that traded.
"""

from collections import deque

from msgspec import Struct

from exchange.domain import NS_PER_S

MINUTE_NS = 60 * NS_PER_S
DAY_MINUTES = 24 * 60


class Candle(Struct):
    """One interval in which at least one trade happened. `minute` = its start in minutes since the Unix epoch."""

    minute: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    trades: int


class Minutes:
    """The last DAY_MINUTES minutes with trades of one instrument."""

    __slots__ = ("_candles", "_closed", "_closed_minute")

    def __init__(self) -> None:
        self._candles: deque[Candle] = deque(maxlen=DAY_MINUTES)
        self._closed: Candle | None = None
        self._closed_minute = -1

    def clear(self) -> None:
        """Forget all: the trades came from a history that no longer holds."""
        self._candles.clear()
        self._closed_minute = -1

    def add(self, price: int, quantity: int, ts_ns: int) -> None:
        """Count a trade. Trades come in the order of their stamps; an earlier stamp counts in the newest minute."""
        minute = ts_ns // MINUTE_NS
        if not self._candles or self._candles[-1].minute < minute:
            self._candles.append(Candle(minute, price, price, price, price, quantity, 1))
            self._closed_minute = -1
            return
        candle = self._candles[-1]
        if price > candle.high:
            candle.high = price
        elif price < candle.low:
            candle.low = price
        candle.close = price
        candle.volume += quantity
        candle.trades += 1

    def newest(self, interval: int, limit: int = 1) -> list[Candle]:
        """The newest `limit` candles of `interval` minutes, oldest first; intervals without a trade have none.

        O(limit x interval).
        """
        groups: list[list[Candle]] = []
        for candle in reversed(self._candles):
            start = _floor(candle.minute, interval)
            if groups and _floor(groups[-1][0].minute, interval) == start:
                groups[-1].insert(0, candle)
            elif len(groups) < limit:
                groups.append([candle])
            else:
                break
        return [_sum(_floor(group[0].minute, interval), group) for group in reversed(groups)]

    def day(self, now_ns: int) -> Candle | None:
        """The rolling day that ends with the minute of `now_ns`: DAY_MINUTES whole minutes, the running one included.

        O(DAY_MINUTES) once a minute, O(1) otherwise: only the running minute changes.
        """
        if not self._candles:
            return None
        minute = now_ns // MINUTE_NS
        running = self._candles[-1]
        start = minute - DAY_MINUTES + 1
        if self._closed_minute != minute:
            self._closed_minute = minute
            parts = [c for c in self._candles if c.minute >= start and c is not running]
            self._closed = _sum(start, parts) if parts else None
        if running.minute < start:
            return None
        return _sum(start, [running] if self._closed is None else [self._closed, running])


def _floor(minute: int, interval: int) -> int:
    return minute - minute % interval


def _sum(minute: int, parts: list[Candle]) -> Candle:
    """One candle that starts at `minute` over candles in the order of their time."""
    return Candle(
        minute,
        parts[0].open,
        max(part.high for part in parts),
        min(part.low for part in parts),
        parts[-1].close,
        sum(part.volume for part in parts),
        sum(part.trades for part in parts),
    )
