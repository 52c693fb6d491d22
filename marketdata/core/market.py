"""The markets of one shard, rebuilt from its committed event frames. Pure.

Only the sections and fields that market data needs are decoded; the rest of a frame stays bytes. A frame is decoded as
a whole before anything changes, so a malformed one raises WireError and leaves no trace.
"""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from exchange.domain import INSTRUMENTS_MAX, OPEN_QUANTITY_MAX, PRICE_MAX, State, instrument_of
from exchange.messages import FrameHead, PublicTrade
from exchange.wire import Decoder
from marketdata.core.candles import Minutes
from marketdata.core.depth import Book
from marketdata.core.trades import Tape

_Index = Annotated[int, Meta(ge=0, lt=INSTRUMENTS_MAX)]
_Price = Annotated[int, Meta(ge=0, le=PRICE_MAX)]
_Quantity = Annotated[int, Meta(ge=0, le=OPEN_QUANTITY_MAX)]
_SideNumber = Annotated[int, Meta(ge=0, le=1)]


class _Level(Struct, frozen=True, array_like=True, gc=False):
    """The leading fields of a LevelRow; skipping what follows saves a third of the time, and two thirds for trades."""

    instrument: _Index
    side: _SideNumber
    price: _Price
    quantity: _Quantity


class _Trade(Struct, frozen=True, array_like=True, gc=False):
    """The leading fields of a TradeRow; the parties are none of the public's business."""

    seq: int
    sub: int
    trade_id: Annotated[int, Meta(ge=0, lt=1 << 53)]
    price: _Price
    quantity: _Quantity
    taker_side: _SideNumber


class _State(Struct, frozen=True, array_like=True, gc=False):
    """A StateRow."""

    seq: int
    sub: int
    instrument: _Index
    state: State
    actor: str


_decode_levels: Decoder[list[_Level]] = Decoder("levels", list[_Level])
_decode_trades: Decoder[list[_Trade]] = Decoder("trades", list[_Trade])
_decode_states: Decoder[list[_State]] = Decoder("states", list[_State])
_EMPTY = Raw(b"\x90")


class Market:
    """One instrument. `epoch`, `seq`, `ts_ns` are those of the last record that changed its book or traded."""

    __slots__ = ("actor", "book", "epoch", "index", "minutes", "seq", "state", "tape", "ts_ns")

    def __init__(self, index: int) -> None:
        self.index = index
        self.book = Book()
        self.tape = Tape()
        self.minutes = Minutes()
        self.state = State.OPEN
        self.actor = ""
        self.epoch = 0
        self.seq = 0
        self.ts_ns = 0

    def touch(self, head: FrameHead) -> None:
        """The market is now as this frame left it."""
        self.epoch, self.seq, self.ts_ns = head.epoch, head.last_seq, head.ts_ns


class Traded(Struct):
    """A trade that is new; `missing` trades of the instrument before it were never seen."""

    market: Market
    trade: PublicTrade
    missing: int


class Changes(Struct):
    """What a frame did beyond the books, which are in `Mirror.touched`. `states` = markets whose state it set."""

    trades: list[Traded]
    states: list[Market]


class Mirror:
    """All that one shard has published. `touched` = markets that changed; the owner clears it when it has looked."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.epoch = 0
        self.seq = 0
        self.ts_ns = 0
        self.markets: dict[int, Market] = {}
        self.touched: dict[int, Market] = {}

    def market(self, index: int) -> Market:
        """The market of an instrument; one that nothing was heard of yet is empty."""
        market = self.markets.get(index)
        if market is None:
            market = self.markets[index] = Market(index)
        return market

    def on_frame(self, head: FrameHead) -> Changes:
        """Apply the next frame of the stream."""
        levels, trades, states = _sections(head)
        self.epoch, self.seq, self.ts_ns = head.epoch, head.last_seq, head.ts_ns
        if levels:
            self._set_levels(head, levels)
        traded = self._add_trades(head, trades, counted=True) if trades else []
        return Changes(traded, self._set_states(states) if states else [])

    def on_image(self, head: FrameHead) -> Changes:
        """Replace everything by an image.

        Its trades carry no time of their own: they get the image's, which is not earlier, and are not counted in
        candles. An image that is older than what is known means that the shard's history was replaced: then trades and
        candles start anew.
        """
        levels, trades, states = _sections(head)
        replaced = head.last_seq < self.seq
        self.epoch, self.seq, self.ts_ns = head.epoch, head.last_seq, head.ts_ns
        for row in states:
            self.market(row.instrument)
        for market in self.markets.values():
            market.book.clear()
            market.touch(head)
            if replaced:
                market.minutes.clear()
            if replaced or market.tape.last is None:
                market.tape.restart(head.last_seq)
            self.touched[market.index] = market
        self._set_levels(head, levels)
        return Changes(self._add_trades(head, trades, counted=False), self._set_states(states))

    def _set_levels(self, head: FrameHead, levels: list[_Level]) -> None:
        market: Market | None = None
        for row in levels:
            if market is None or row.instrument != market.index:
                market = self.touched[row.instrument] = self.market(row.instrument)
                market.touch(head)
            market.book.sides[row.side].set(row.price, row.quantity)

    def _add_trades(self, head: FrameHead, rows: list[_Trade], *, counted: bool) -> list[Traded]:
        traded = []
        for row in rows:
            index = instrument_of(row.trade_id)
            market = self.touched[index] = self.market(index)
            market.touch(head)
            trade = PublicTrade(row.trade_id, row.price, row.quantity, row.taker_side, head.ts_ns, head.epoch, row.seq)
            missing = market.tape.add(trade)
            if missing >= 0:
                traded.append(Traded(market, trade, missing))
                if counted:
                    market.minutes.add(row.price, row.quantity, head.ts_ns)
        return traded

    def _set_states(self, rows: list[_State]) -> list[Market]:
        changed: dict[int, Market] = {}
        for row in rows:
            market = changed[row.instrument] = self.market(row.instrument)
            market.state, market.actor = row.state, row.actor
        return list(changed.values())


def _sections(head: FrameHead) -> tuple[list[_Level], list[_Trade], list[_State]]:
    """Decode what is not empty."""
    return (
        _decode_levels(head.levels) if head.levels != _EMPTY else [],
        _decode_trades(head.trades) if head.trades != _EMPTY else [],
        _decode_states(head.states) if head.states != _EMPTY else [],
    )
