"""The newest trades of one instrument. Pure.

Trade ids of an instrument have no holes, so a missing trade shows by itself: what cannot be proven complete is said to
be incomplete.
"""

from collections import deque

from exchange.domain import compose_id, instrument_of
from exchange.limits import IMAGE_TRADES_MAX
from exchange.messages import PublicTrade


class Tape:
    """The newest IMAGE_TRADES_MAX trades in the order in which they happened, without a hole between them."""

    __slots__ = ("_since_seq", "_trades")

    def __init__(self) -> None:
        self._trades: deque[PublicTrade] = deque(maxlen=IMAGE_TRADES_MAX)
        self._since_seq = 0

    @property
    def last(self) -> PublicTrade | None:
        """The newest trade."""
        return self._trades[-1] if self._trades else None

    def add(self, trade: PublicTrade) -> int:
        """Keep the next trade. Returns how many trades before it are missing; then only it is kept.

        A trade that is not newer than the last one is a repetition: it is dropped and -1 returned.
        """
        trades = self._trades
        missing = 0
        if trades:
            missing = trade.trade_id - trades[-1].trade_id - 1
            if missing < 0:
                return -1
            if missing:
                trades.clear()
            elif len(trades) == IMAGE_TRADES_MAX:
                self._since_seq = trades[0].seq
        if not trades:
            first = compose_id(instrument_of(trade.trade_id), 1)
            self._since_seq = 0 if trade.trade_id == first else trade.seq
        trades.append(trade)
        return missing

    def restart(self, seq: int) -> None:
        """Forget all; whatever happened up to `seq` is unknown."""
        self._trades.clear()
        self._since_seq = seq

    def newest(self, limit: int) -> list[PublicTrade]:
        """At most `limit` trades, newest first."""
        trades = self._trades
        return [trades[-back] for back in range(1, min(limit, len(trades)) + 1)]

    def after(self, seq: int) -> tuple[list[PublicTrade], bool]:
        """Trades above `seq`, oldest first, and whether these are certainly all."""
        return [trade for trade in self._trades if trade.seq > seq], seq >= self._since_seq
