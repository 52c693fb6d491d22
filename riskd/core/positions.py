"""Positions, cost, volume and exposure of every account, from the committed streams of all shards. Pure.

Laws
    Positions and open quantities are the shard's own absolute rows. They are also computed from the trades, and the two
    must agree; the positions of all accounts in one instrument sum to zero. `conservation` says whether that holds.
    cost - realised = the sum of price x signed quantity of every trade, exactly: money is never rounded away, it only
    moves between the two.
    An image has no history. After one, every row of its shard is inexact: a position that is still what it was keeps
    its cost, any other is valued at the last price; trades in between are missing from volume and realised.
    A frame is applied as a whole or, when a section of it is malformed (WireError), not at all.

Average cost. A trade that opens or adds moves cost by price x quantity. One that closes k of |P| takes
cost x k / |P| out, rounded toward zero, and realises the difference to what it traded for; the rest of a trade that
crosses zero opens at its own price.
"""

from collections.abc import Iterable

from exchange import messages as m
from exchange.domain import Side, instrument_of
from exchange.follower import START, Cursor
from exchange.money import format_units
from exchange.wire import decode_positions, decode_trades

_BUY = Side.BUY.value
"""A plain integer: comparing with a member of an enumeration costs as much as all else of a look-up."""


class Row:
    """One account in one instrument; integers in units of the instrument."""

    __slots__ = ("cost", "exact", "open_buy", "open_sell", "position", "realised", "volume")

    def __init__(self) -> None:
        self.position = 0
        self.open_buy = 0
        self.open_sell = 0
        self.cost = 0
        self.realised = 0
        self.volume = 0
        self.exact = True

    def trade(self, price: int, quantity: int) -> None:
        """Take one fill; `quantity` is signed, above zero for a buy."""
        before = self.position
        self.position = before + quantity
        self.volume += quantity if quantity > 0 else -quantity
        if before == 0 or (before > 0) == (quantity > 0):
            self.cost += price * quantity
            return
        held = abs(before)
        closed = min(abs(quantity), held)
        removed = abs(self.cost) * closed // held if closed < held else abs(self.cost)
        if self.cost < 0:
            removed = -removed
        signed = closed if quantity > 0 else -closed
        self.realised -= price * signed + removed
        self.cost += price * (quantity - signed) - removed

    @property
    def worst(self) -> int:
        """Largest size that the position can take when open orders of one side fill."""
        return max(abs(self.position + self.open_buy), abs(self.position - self.open_sell))


class ShardLedger:
    """What one shard's stream said, up to `cursor`."""

    def __init__(self) -> None:
        self.cursor: Cursor = START
        self.accounts: dict[str, dict[int, Row]] = {}
        self.last_prices: dict[int, int] = {}
        self.faults: dict[int, str] = {}
        """Instruments whose positions contradict their trades or do not sum to zero, and how."""

    def on_frame(self, head: m.FrameHead) -> None:
        """Apply the frame that follows the cursor. WireError when it is malformed; nothing has changed then."""
        assert head.first_seq == self.cursor.seq + 1, "the follower delivers frames in order"
        trades = decode_trades(head.trades)
        positions = decode_positions(head.positions)
        accounts, last_prices = self.accounts, self.last_prices
        for trade in trades:
            instrument, price = instrument_of(trade.trade_id), trade.price
            bought = trade.quantity if trade.taker_side == _BUY else -trade.quantity
            for account, signed in ((trade.taker_account, bought), (trade.maker_account, -bought)):
                try:
                    row = accounts[account][instrument]
                except KeyError:
                    row = self.row(account, instrument)
                row.trade(price, signed)
            last_prices[instrument] = price
        for known in positions:
            try:
                row = accounts[known.account][known.instrument]
            except KeyError:
                row = self.row(known.account, known.instrument)
            if row.position != known.position:
                self.faults[known.instrument] = (
                    f"{known.account} is at {known.position}, its trades give {row.position}, seq {head.last_seq}"
                )
                row.position = known.position
            row.open_buy = known.open_buy
            row.open_sell = known.open_sell
        self.cursor = Cursor(head.epoch, head.last_seq)

    def on_image(self, head: m.FrameHead) -> None:
        """Replace all positions; history is lost from here (see the laws). WireError as on_frame."""
        trades = decode_trades(head.trades)
        positions = decode_positions(head.positions)
        for trade in trades:
            self.last_prices[instrument_of(trade.trade_id)] = trade.price
        imaged = {(known.account, known.instrument): known for known in positions}
        for known in positions:
            self.row(known.account, known.instrument)
        sums: dict[int, int] = {}
        for account, rows in self.accounts.items():
            for instrument, row in rows.items():
                known = imaged.get((account, instrument)) or m.PositionRow(account, instrument, 0, 0, 0)
                if row.position != known.position:
                    row.cost = known.position * self.last_prices.get(instrument, 0)
                row.position, row.open_buy, row.open_sell = known.position, known.open_buy, known.open_sell
                row.exact = False
                sums[instrument] = sums.get(instrument, 0) + row.position
        self.faults = {
            instrument: f"positions of all accounts sum to {total}, seq {head.last_seq}"
            for instrument, total in sums.items()
            if total
        }
        self.cursor = Cursor(head.epoch, head.last_seq)

    def row(self, account: str, instrument: int) -> Row:
        """The row of an account, made when it is new."""
        rows = self.accounts.get(account)
        if rows is None:
            rows = self.accounts[account] = {}
        row = rows.get(instrument)
        if row is None:
            row = rows[instrument] = Row()
        return row


class Positions:
    """All shards together. An instrument lives on one shard, so their rows never overlap."""

    def __init__(self) -> None:
        self.ledgers: dict[str, ShardLedger] = {}
        self._instruments: dict[int, m.Instrument] = {}
        self._scales: dict[str, int] = {}

    def on_map(self, instruments: Iterable[m.Instrument]) -> None:
        """Reference data: quote currencies, decimals, and prices before the first trade."""
        self._instruments = {instrument.index: instrument for instrument in instruments}
        self._scales = {}
        for instrument in self._instruments.values():
            scale = instrument.price_decimals + instrument.quantity_decimals
            self._scales[instrument.quote] = max(scale, self._scales.get(instrument.quote, 0))

    def on_frame(self, shard: str, head: m.FrameHead) -> None:
        """The next frame of a shard; WireError as ShardLedger.on_frame."""
        self.ledger(shard).on_frame(head)

    def on_image(self, shard: str, head: m.FrameHead) -> None:
        """An image of a shard; WireError as ShardLedger.on_image."""
        self.ledger(shard).on_image(head)

    def ledger(self, shard: str) -> ShardLedger:
        """The ledger of a shard, made when it is new."""
        ledger = self.ledgers.get(shard)
        if ledger is None:
            ledger = self.ledgers[shard] = ShardLedger()
        return ledger

    def accounts(self) -> int:
        """How many accounts are known; one that trades on two shards counts once. O(accounts)."""
        known: dict[str, None] = {}
        for ledger in self.ledgers.values():
            known.update(dict.fromkeys(ledger.accounts))
        return len(known)

    def holdings(self, account: str) -> list[m.Holding]:
        """Every instrument that the account has had to do with, ascending."""
        return [
            m.Holding(
                instrument=instrument,
                position=row.position,
                open_buy=row.open_buy,
                open_sell=row.open_sell,
                cost=str(row.cost),
                volume=row.volume,
                realised=str(row.realised),
                exact=row.exact,
            )
            for instrument, row, _ in self._rows(account)
        ]

    def exposure(self, account: str) -> dict[str, str]:
        """Per quote currency: the sum over instruments of max(|P + open_buy|, |P - open_sell|) x last price.

        Before an instrument's first trade its reference price counts. Exact decimal text.
        """
        totals: dict[str, int] = {}
        for index, row, ledger in self._rows(account):
            instrument = self._instruments.get(index)
            if instrument is None:
                continue
            price = ledger.last_prices.get(index, instrument.reference_price)
            scale = self._scales[instrument.quote] - instrument.price_decimals - instrument.quantity_decimals
            totals[instrument.quote] = totals.get(instrument.quote, 0) + row.worst * price * 10**scale
        return {quote: format_units(total, self._scales[quote]) for quote, total in sorted(totals.items())}

    def conservation(self) -> str:
        """ "ok", or the first instrument whose books do not balance and how."""
        faults = {index: text for ledger in self.ledgers.values() for index, text in ledger.faults.items()}
        if not faults:
            return "ok"
        index = min(faults)
        known = self._instruments.get(index)
        return f"broken instrument {known.symbol if known else index}: {faults[index]}"

    def _rows(self, account: str) -> list[tuple[int, Row, ShardLedger]]:
        found = [
            (instrument, row, ledger)
            for ledger in self.ledgers.values()
            for instrument, row in ledger.accounts.get(account, {}).items()
        ]
        return sorted(found, key=lambda entry: entry[0])
