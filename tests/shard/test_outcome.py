"""What is read from an outcome without decoding it."""

import pytest

from exchange import messages as m
from exchange.wire import encode
from shard.core.outcome import trade_count

TRADE = m.TradeRow(1, 0, 1, 15_000, 3, 0, 2, 1, "taker", "maker", "t-1", "m-1", 0, 4)


@pytest.mark.parametrize("trades", [0, 1, 15, 16, 300, 70_000])
@pytest.mark.parametrize("number", [1, 127, 128, 255, 70_000, 2**32 - 1, 2**40, 2**62])
def test_trades_are_counted_whatever_the_width_of_the_numbers_before_them(trades: int, number: int) -> None:
    epoch = min(number, 2**32 - 1)
    frame = m.EventFrame(epoch, number, number, number, [TRADE] * trades, [], [], [], [])
    assert trade_count(encode(frame)) == trades
