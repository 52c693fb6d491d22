"""What one record did, on its way into the event frame (PROTOCOL 1.5)."""

from exchange.messages import OrderRow, StateRow, TradeRow


class Frame:
    """Rows in the order in which they happened, and what levels and holdings were before the record."""

    __slots__ = ("holdings_before", "levels_before", "orders", "seq", "states", "sub", "trades")

    def __init__(self) -> None:
        self.trades: list[TradeRow] = []
        self.orders: list[OrderRow] = []
        self.states: list[StateRow] = []
        self.levels_before: dict[tuple[int, int, int], tuple[int, int]] = {}
        """(instrument, side, price) → (quantity, orders)."""
        self.holdings_before: dict[tuple[int, int], tuple[int, int, int]] = {}
        """(account index, instrument) → (position, open_buy, open_sell)."""
        self.seq = 0
        self.sub = 0

    def begin(self, seq: int) -> None:
        """The rows that follow belong to the command `seq`."""
        self.seq = seq
        self.sub = 0

    def next_sub(self) -> int:
        self.sub += 1
        return self.sub - 1
