"""I12 conservation and I15 ownership: a ledger kept from the event rows alone, with sums that must come out.

It knows nothing of matching. Orders enter by ACCEPTED, shrink by trades and REDUCED, leave by CANCELLED and EXPIRED;
from that follow positions, open quantities and levels, which must be those of the frames. Cost: microseconds a row.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

import msgspec

from drills.checker.report import Finding
from drills.checker.walk import Step, Walk
from exchange import messages as m
from exchange.domain import OrderEvent, SelfTrade, Side, State, instrument_of

COLLAR_UNITS = 10_000


class _Order(msgspec.Struct, gc=False):
    account: str
    instrument: int
    side: int
    price: int
    leaves: int
    filled: int
    self_trade: int


class _Rules(msgspec.Struct):
    collar_bps: int
    reference_price: int
    state: int
    last_price: int = 0


class Market:
    """One shard."""

    def __init__(self, shard: str, body: bytes) -> None:
        """`body` = engine snapshot from which the walk begins, b"" for the very beginning."""
        self._shard = shard
        self._orders: dict[int, _Order] = {}
        self._rules: dict[int, _Rules] = {}
        self._positions: dict[tuple[str, int], list[int]] = {}
        self._reported: dict[tuple[str, int], tuple[int, int, int]] = {}
        self._sums: dict[int, int] = {}
        self._levels: dict[tuple[int, int, int], list[int]] = {}
        self._reported_levels: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._best: dict[tuple[int, int], list[int]] = {}
        self._touched: dict[tuple[str, int], None] = {}
        self._touched_levels: dict[tuple[int, int, int], None] = {}
        self._references: dict[int, int] = {}
        self._at: dict[str, Any] = {}
        self._found: list[Finding] = []
        if body:
            self._restore(body)

    def on_step(self, step: Step) -> None:
        frame = step.frame
        self._at = {"segment": str(step.fragment.path), "byte": step.record.offset, "epoch": step.record.head.epoch}
        for command in step.commands:
            if isinstance(command, m.DefineInstrument):
                self._define(command)
        rows: list[m.TradeRow | m.OrderRow | m.StateRow] = [*frame.orders, *frame.trades, *frame.states]
        if frame.trades or frame.states:
            rows.sort(key=_place)
        seq = 0
        for row in rows:
            command = step.commands[row.seq - frame.first_seq]
            if row.seq != seq:
                seq = row.seq
                self._references.clear()
            if isinstance(row, m.OrderRow):
                self._on_order(row, command)
            elif isinstance(row, m.TradeRow):
                self._on_trade(row, command)
            else:
                self._on_state(row)
        self._compare_positions(frame)
        self._compare_levels(frame)

    def findings(self, walk: Walk) -> Iterator[Finding]:
        """What was found on the way."""
        del walk
        yield from self._found

    # --- rows -------------------------------------------------------------------------------------------------------

    def _on_order(self, row: m.OrderRow, command: m.Command) -> None:
        if row.kind == OrderEvent.REJECTED:
            return
        if row.kind == OrderEvent.ACCEPTED:
            if not isinstance(command, m.Submit) or row.order_id in self._orders:
                self._say(row.seq, f"order {row.order_id} is accepted, but nobody entered it or it is there already")
                return
            self._orders[row.order_id] = _Order(
                row.account, command.instrument, row.side, row.price, 0, 0, command.self_trade
            )
            self._change(self._orders[row.order_id], row.leaves)
            if row.account != command.account or row.leaves != command.quantity:
                self._say(row.seq, f"order {row.order_id} is accepted otherwise than it was entered")
            return
        order = self._orders.get(row.order_id)
        if order is None:
            self._say(row.seq, f"order {row.order_id} has an event, but is not open")
            return
        actor = getattr(command, "account", "")
        if actor and actor != order.account:
            sentence = f"{actor} touched order {row.order_id} of {order.account} at seq {row.seq}"
            evidence = {**self._at, "seq": row.seq, "order_id": row.order_id}
            self._found.append(Finding("I15", self._shard, sentence, evidence))
        match row.kind:
            case OrderEvent.REDUCED:
                if order.leaves - row.quantity != row.leaves:
                    self._say(row.seq, f"order {row.order_id}: {order.leaves} less {row.quantity} is not {row.leaves}")
                self._change(order, row.leaves)
            case OrderEvent.REPLACED:
                if row.quantity != order.filled + row.leaves:
                    self._say(
                        row.seq, f"order {row.order_id}: {row.quantity} is not filled {order.filled} + {row.leaves}"
                    )
                self._change(order, 0)
                order.price = row.price
                self._change(order, row.leaves)
            case _:
                if order.leaves != row.quantity:
                    self._say(row.seq, f"order {row.order_id} ends with {row.quantity} open, it had {order.leaves}")
                self._change(order, 0)
                del self._orders[row.order_id]

    def _on_trade(self, row: m.TradeRow, command: m.Command) -> None:
        taker, maker = self._orders.get(row.taker_order_id), self._orders.get(row.maker_order_id)
        if taker is None or maker is None:
            which = row.taker_order_id if taker is None else row.maker_order_id
            self._say(row.seq, f"trade {row.trade_id} fills order {which}, which is not open")
            return
        names = (taker.account, maker.account, taker.side, maker.side)
        said = (row.taker_account, row.maker_account, row.taker_side, 1 - row.taker_side)
        if names != said or row.price != maker.price or taker.instrument != maker.instrument:
            self._say(row.seq, f"trade {row.trade_id} is not between the orders that it names, at the maker's price")
        if taker.account == maker.account and taker.self_trade != SelfTrade.NONE:
            self._say(row.seq, f"trade {row.trade_id}: {taker.account} trades with itself against its wish")
        rules = self._rules.get(taker.instrument)
        if rules is not None:
            self._judge(row, rules, taker.instrument)
        actor = getattr(command, "account", "")
        if actor and actor != taker.account:
            self._say(row.seq, f"trade {row.trade_id}: {actor} asked, {taker.account} trades")
        for order, leaves, order_id in (
            (taker, row.taker_leaves, row.taker_order_id),
            (maker, row.maker_leaves, row.maker_order_id),
        ):
            if order.leaves - row.quantity != leaves or leaves < 0:
                self._say(row.seq, f"order {order_id}: {order.leaves} less a fill of {row.quantity} is not {leaves}")
            order.filled += row.quantity
            self._change(order, leaves)
            signed = row.quantity if order.side == Side.BUY else -row.quantity
            self._position(order)[0] += signed
            if leaves <= 0:
                del self._orders[order_id]

    def _judge(self, row: m.TradeRow, rules: _Rules, instrument: int) -> None:
        if rules.state != State.OPEN:
            self._say(row.seq, f"trade {row.trade_id} in state {State(rules.state).name}")
        reference = self._references.setdefault(instrument, rules.last_price or rules.reference_price)
        if rules.collar_bps and reference:
            width = reference * rules.collar_bps // COLLAR_UNITS
            buying = row.taker_side == Side.BUY
            if row.price > reference + width if buying else row.price < reference - width:
                self._say(row.seq, f"trade {row.trade_id} at {row.price} is beyond {width} from {reference}")
        rules.last_price = row.price

    def _on_state(self, row: m.StateRow) -> None:
        rules = self._rules.get(row.instrument)
        if rules is not None:
            rules.state = row.state

    def _define(self, command: m.DefineInstrument) -> None:
        known = self._rules.get(command.index)
        if known is None:
            self._rules[command.index] = _Rules(command.collar_bps, command.reference_price, State.OPEN)
        else:
            known.collar_bps, known.reference_price = command.collar_bps, command.reference_price

    # --- sums -------------------------------------------------------------------------------------------------------

    def _change(self, order: _Order, leaves: int) -> None:
        """The open quantity of an order becomes `leaves`: its level and its account's open quantity follow."""
        key = (order.instrument, order.side, order.price)
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = [0, 0]
            if order.price:
                sign = -1 if order.side == Side.BUY else 1
                heappush(self._best.setdefault((order.instrument, order.side), []), sign * order.price)
        level[0] += leaves - order.leaves
        level[1] += (leaves > 0) - (order.leaves > 0)
        self._touched_levels[key] = None
        self._position(order)[1 + order.side] += leaves - order.leaves
        order.leaves = leaves

    def _position(self, order: _Order) -> list[int]:
        key = (order.account, order.instrument)
        self._touched[key] = None
        return self._positions.setdefault(key, [0, 0, 0])

    def _compare_positions(self, frame: m.EventFrame) -> None:
        for row in frame.positions:
            key = (row.account, row.instrument)
            before = self._reported.get(key, (0, 0, 0))
            self._sums[row.instrument] = self._sums.get(row.instrument, 0) + row.position - before[0]
            self._reported[key] = (row.position, row.open_buy, row.open_sell)
            self._touched[key] = None
        for row in frame.positions:
            if self._sums[row.instrument]:
                total = self._sums[row.instrument]
                self._say(frame.last_seq, f"positions in instrument {row.instrument} add up to {total}, not to 0")
                break
        for key in self._touched:
            own = tuple(self._positions.get(key, (0, 0, 0)))
            if own != self._reported.get(key, (0, 0, 0)):
                sentence = (
                    f"{key[0]} in instrument {key[1]} has {own} by its orders, {self._reported.get(key)} was told"
                )
                self._say(frame.last_seq, sentence)
                self._positions[key] = list(self._reported.get(key, (0, 0, 0)))
        self._touched.clear()

    def _compare_levels(self, frame: m.EventFrame) -> None:
        for row in frame.levels:
            key = (row.instrument, row.side, row.price)
            self._touched_levels[key] = None
            self._reported_levels[key] = (row.quantity, row.orders)
            if not row.quantity:
                del self._reported_levels[key]
        markets: dict[int, None] = {}
        for key in self._touched_levels:
            markets[key[0]] = None
            own = self._levels.get(key, [0, 0])
            if tuple(own) != self._reported_levels.get(key, (0, 0)):
                sentence = f"level {key} holds {own} by its orders, {self._reported_levels.get(key)} was told"
                self._say(frame.last_seq, sentence)
            if not own[1]:
                self._levels.pop(key, None)
        self._touched_levels.clear()
        for instrument in markets:
            bid, ask = self._top(instrument, Side.BUY), self._top(instrument, Side.SELL)
            if bid and ask and bid >= ask:
                self._say(
                    frame.last_seq, f"the book of instrument {instrument} is crossed: {bid} is bid, {ask} is asked"
                )

    def _top(self, instrument: int, side: Side) -> int:
        """Best price of a side, 0 when it is empty."""
        heap = self._best.get((instrument, side), [])
        while heap and (instrument, side, abs(heap[0])) not in self._levels:
            heappop(heap)
        return abs(heap[0]) if heap else 0

    def _say(self, seq: int, sentence: str) -> None:
        self._found.append(Finding("I12", self._shard, f"seq {seq}: {sentence}", {**self._at, "seq": seq}))

    def _restore(self, body: bytes) -> None:
        """Begin with what an engine's snapshot holds (PROTOCOL 1.6)."""
        _, _, _, _, _, instruments, accounts, holdings, orders, *_ = msgspec.msgpack.decode(body)
        for row in instruments:
            self._rules[row[0]] = _Rules(row[8], row[9], row[11], row[12])
        for index, instrument, position, _ in holdings:
            key = (accounts[index][0], instrument)
            self._positions[key] = [position, 0, 0]
        for row in orders:
            account, side, price, quantity, leaves = accounts[row[1]][0], row[3], row[7], row[8], row[9]
            order = _Order(account, instrument_of(row[0]), side, price, 0, quantity - leaves, row[6])
            self._orders[row[0]] = order
            self._change(order, leaves)
        for key, (position, buying, selling) in self._positions.items():
            self._reported[key] = (position, buying, selling)
            self._sums[key[1]] = self._sums.get(key[1], 0) + position
        for level, (quantity, count) in self._levels.items():
            self._reported_levels[level] = (quantity, count)
        self._touched.clear()
        self._touched_levels.clear()


def _place(row: m.TradeRow | m.OrderRow | m.StateRow) -> tuple[int, int]:
    return row.seq, row.sub
