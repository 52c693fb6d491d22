"""The reference engine: PROTOCOL section 1 in plain Python, the executable specification of the native one.

It has the face of `shard.core.engine.Engine` and equals the native engine byte for byte. Read it with the protocol
page open: each method is one command, each check one numbered rule. It aims at being obviously right; it also runs the
exchange, more slowly, where no Rust toolchain exists.

Laws
    A record is checked whole before any of it is applied, so `apply` either raises ValueError and changes nothing or
    takes effect as a whole. A command is validated before it mutates. Nothing depends on hashes, clocks or floats.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TypeVar, assert_never
from zlib import crc32

import msgspec

from exchange import messages as m
from exchange.domain import (
    ALL_INSTRUMENTS,
    OPEN_QUANTITY_MAX,
    Flag,
    Kind,
    OrderEvent,
    QuantityBasis,
    Reject,
    SelfTrade,
    Side,
    State,
    Status,
    TimeInForce,
    compose_id,
    instrument_of,
)
from exchange.wire import encode
from shard.core.commands import NS_MAX, admit, decode_payload
from shard.core.outcome import encode_outcome
from shard.core.record import RecordHead, decode_record
from shard.core.reference_book import Instrument, Order
from shard.core.reference_frame import Frame
from shard.core.reference_market import Account, Market
from shard.core.reference_snapshot import read_snapshot, write_snapshot
from shard.core.reference_window import REDUCE, REPLACE, SUBMIT, TOMBSTONE, Entry, payload_hash

AGEING_ENTRIES_MAX = 1_024
"""Window entries that one Tick may evict or move."""

Target = m.Cancel | m.Replace | m.Reduce | m.QueryOrder
Protected = m.Submit | m.Replace | m.Reduce
Answer = m.Executed | m.Rejected
P = TypeVar("P", m.Submit, m.Replace, m.Reduce)

_OPS: dict[type, int] = {m.Submit: SUBMIT, m.Replace: REPLACE, m.Reduce: REDUCE}
_STATE_REJECTS = {State.CANCEL_ONLY: Reject.CANCEL_ONLY, State.HALT: Reject.HALT, State.CLOSED: Reject.CLOSED}
_ENDS_FOK_WALK = (SelfTrade.NEWEST, SelfTrade.BOTH, SelfTrade.DECREMENT)


class Refusal(msgspec.Struct, frozen=True):
    """A rule that was broken: `value` against `bound`."""

    code: Reject
    value: int = 0
    bound: int = 0


class ReferenceEngine:
    """One shard's matching state. Single-threaded; every method is deterministic."""

    def __init__(self, config: bytes) -> None:
        """`config` is a MessagePack EngineConfig; ValueError when it is malformed or a ceiling is out of range."""
        self._market = Market(_decode_config(config))

    # --- face ---------------------------------------------------------------------------------------------------

    def admit(self, payload: bytes, allowed: int) -> int:
        """Static check of a MessagePack array of commands; how many there are. ValueError names the fault."""
        return admit(payload, allowed)

    def apply(self, record: bytes) -> bytes:
        """Execute one journal record and return its outcome (PROTOCOL 1.4). ValueError changes nothing."""
        head, payload = decode_record(record)
        commands = decode_payload(payload, head.count)
        self._check_follows(head, commands)
        market = self._market
        market.epoch = head.epoch
        market.ts_ns = head.ts_ns
        market.frame = Frame()
        replies = []
        for command in commands:
            market.seq += 1
            market.frame.begin(market.seq)
            replies.append(encode(self._execute(command)))
        outcome = self._outcome(head, replies)
        market.trail = crc32(outcome, market.trail)
        return outcome

    def snapshot(self) -> bytes:
        """Canonical state (PROTOCOL 1.6). O(state)."""
        return write_snapshot(self._market)

    def restore(self, snapshot: bytes) -> None:
        """Replace all state by what `snapshot` wrote. ValueError on anything malformed, which changes nothing."""
        self._market = read_snapshot(snapshot, self._market.config)

    def digest(self) -> int:
        """First 8 bytes of the SHA-256 of the snapshot, little-endian. O(state)."""
        return int.from_bytes(sha256(self.snapshot()).digest()[:8], "little")

    def trail(self) -> int:
        """Rolling CRC-32 over every outcome since the first record. O(1)."""
        return self._market.trail

    def image(self) -> bytes:
        """An EventFrame of everything that is: levels, positions, states. O(state)."""
        market = self._market
        levels = [
            m.LevelRow(index, side, level.price, level.quantity, len(level.orders))
            for index, instrument in sorted(market.instruments.items())
            for side in Side
            for level in sorted(instrument.sides[side].best_first(), key=lambda level: level.price)
        ]
        positions = [
            m.PositionRow(account.name, index, *holding.state())
            for account in market.accounts
            for index, holding in sorted(account.holdings.items())
            if any(holding.state())
        ]
        states = [m.StateRow(market.seq, 0, index, of.state, "") for index, of in sorted(market.instruments.items())]
        frame = m.EventFrame(market.epoch, market.seq, market.seq, market.ts_ns, [], levels, positions, [], states)
        return encode(frame)

    def book(self, instrument: int) -> bytes:
        """MessagePack `[bids, asks]` of one instrument. ValueError when it is not defined."""
        of = self._market.instruments.get(instrument)
        if of is None:
            raise ValueError(f"instrument {instrument} is not defined")
        return encode(
            [
                [[level.price, [[o.order_id, o.leaves] for o in level.orders.values()]] for level in side.best_first()]
                for side in of.sides
            ]
        )

    def seq(self) -> int:
        return self._market.seq

    def epoch(self) -> int:
        return self._market.epoch

    def ts(self) -> int:
        return self._market.ts_ns

    def orders(self) -> int:
        return self._market.orders_open

    # --- record -------------------------------------------------------------------------------------------------

    def _check_follows(self, head: RecordHead, commands: list[m.Command]) -> None:
        market = self._market
        if head.first_seq != market.seq + 1:
            raise ValueError(f"record: first_seq {head.first_seq} does not follow {market.seq}")
        if head.ts_ns <= market.ts_ns:
            raise ValueError(f"record: ts_ns {head.ts_ns} is not above {market.ts_ns}")
        if head.epoch < market.epoch:
            raise ValueError(f"record: epoch {head.epoch} is below {market.epoch}")
        if head.epoch > market.epoch and not isinstance(commands[0], m.EpochStart):
            raise ValueError(f"record: epoch {head.epoch} does not begin with an EpochStart")
        for command in commands:
            if isinstance(command, m.EpochStart) and command.epoch != head.epoch:
                raise ValueError(f"record: EpochStart of {command.epoch} in a record of epoch {head.epoch}")

    def _execute(self, command: m.Command) -> m.Reply:
        match command:
            case m.Submit():
                return self._submit(command)
            case m.Cancel():
                return self._cancel(command)
            case m.Replace() | m.Reduce():
                return self._amend(command)
            case m.MassCancel():
                return self._mass_cancel(command)
            case m.SetState():
                return self._set_state(command)
            case m.DefineInstrument():
                return self._define_instrument(command)
            case m.SetPositionLimit():
                return self._set_position_limit(command)
            case m.Tick():
                return self._tick()
            case m.EpochStart():
                return self._done()
            case m.QueryOrder():
                return self._query_order(command)
            case m.QueryOpen():
                return self._query_open(command)
            case m.Resolve():
                return self._resolve(command)
            case m.ArmDeadMan():
                return self._arm_dead_man(command)
            case _:
                assert_never(command)

    def _outcome(self, head: RecordHead, replies: list[bytes]) -> bytes:
        market = self._market
        frame = market.frame
        levels = []
        for (index, side, price), before in sorted(frame.levels_before.items()):
            after = market.instruments[index].sides[side].depth_at(price)
            if after != before:
                levels.append(m.LevelRow(index, side, price, *after))
        positions = []
        for (account_index, index), held in sorted(frame.holdings_before.items()):
            account = market.accounts[account_index]
            holds = account.holding(index).state()
            if holds != held:
                positions.append(m.PositionRow(account.name, index, *holds))
        event_frame = encode(
            m.EventFrame(
                head.epoch,
                head.first_seq,
                head.last_seq,
                head.ts_ns,
                frame.trades,
                levels,
                positions,
                frame.orders,
                frame.states,
            )
        )
        return encode_outcome(replies, event_frame)

    # --- replies and rows -----------------------------------------------------------------------------------------

    def _done(self) -> m.Done:
        return m.Done(self._market.epoch, self._market.seq, self._market.ts_ns)

    def _executed(self, order: Order, fills: list[m.Fill], *, remaining: int) -> m.Executed:
        market = self._market
        return m.Executed(
            market.epoch,
            market.seq,
            market.ts_ns,
            False,
            order.order_id,
            order.status,
            order.reason,
            order.filled,
            remaining,
            fills,
        )

    def _reject(self, command: m.Command, refusal: Refusal) -> m.Rejected:
        """The reply to a command that had no effect, and its REJECTED row where the protocol wants one."""
        market = self._market
        order_id = command.order_id if isinstance(command, Target) else 0
        if refusal.code != Reject.UNKNOWN_INSTRUMENT:
            match command:
                case m.Submit(account=account, client_order_id=id_, side=side, price=price, quantity=quantity):
                    self._row_rejected(refusal.code, 0, account, id_, side, price, quantity)
                case m.Cancel(account=account, target_id=id_):
                    self._row_rejected(refusal.code, order_id, account, id_)
                case m.Replace(account=account, client_order_id=id_) | m.Reduce(account=account, client_order_id=id_):
                    self._row_rejected(refusal.code, order_id, account, id_)
                case _:
                    pass
        return m.Rejected(
            market.epoch, market.seq, market.ts_ns, False, refusal.code, refusal.value, refusal.bound, order_id
        )

    def _row_rejected(
        self, code: Reject, order_id: int, account: str, id_: str, side: int = 0, price: int = 0, quantity: int = 0
    ) -> None:
        frame = self._market.frame
        kind = OrderEvent.REJECTED
        frame.orders.append(
            m.OrderRow(frame.seq, frame.next_sub(), kind, order_id, account, id_, side, price, quantity, 0, code)
        )

    def _row(self, kind: OrderEvent, order: Order, quantity: int, leaves: int, reason: int = Reject.NONE) -> None:
        frame = self._market.frame
        frame.orders.append(
            m.OrderRow(
                frame.seq,
                frame.next_sub(),
                kind,
                order.order_id,
                self._market.accounts[order.account_index].name,
                order.client_order_id,
                order.side,
                order.price,
                quantity,
                leaves,
                reason,
            )
        )

    def _row_state(self, index: int, state: int, actor: str) -> None:
        frame = self._market.frame
        frame.states.append(m.StateRow(frame.seq, frame.next_sub(), index, state, actor))

    # --- the window: an id runs once ------------------------------------------------------------------------------

    def _once(self, account: Account, command: P, decide: Callable[[Account, P], Answer]) -> Answer:
        """Rules 3 to 5, then `decide`, whose answer is recorded under the command's client order id."""
        if not command.client_order_id:
            return decide(account, command)
        hash_ = payload_hash(command)
        known = account.window.entries.get((command.instrument, command.client_order_id))
        if known is not None:
            if known.op != TOMBSTONE and known.hash != hash_:
                return self._reject(command, Refusal(Reject.ID_REUSED, known.answer.seq))
            return known.again()
        if command.client_ns and command.client_ns <= account.window.bound_ns:
            return self._reject(command, Refusal(Reject.TOO_OLD, command.client_ns, account.window.bound_ns))
        if not self._market.make_room(account):
            return self._reject(command, Refusal(Reject.WINDOW_FULL, self._market.config.ids_per_account_max))
        answer = decide(account, command)
        op = _OPS[type(command)]
        entry = Entry(op, command.instrument, command.client_order_id, hash_, command.client_ns, answer)
        if op == SUBMIT and isinstance(answer, m.Executed):
            entry.order = self._market.orders[answer.order_id]
        self._market.remember(account, entry)
        return answer

    # --- Submit ---------------------------------------------------------------------------------------------------

    def _submit(self, command: m.Submit) -> Answer:
        if command.instrument not in self._market.instruments:
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        account = self._market.account(command.account)
        if account is None:
            return self._reject(command, self._accounts_full())
        return self._once(account, command, self._enter)

    def _accounts_full(self) -> Refusal:
        return Refusal(Reject.ACCOUNTS_FULL, bound=self._market.config.accounts_max)

    def _enter(self, account: Account, command: m.Submit) -> Answer:
        instrument = self._market.instruments[command.instrument]
        refusal = self._check_submit(account, instrument, command)
        if refusal is not None:
            return self._reject(command, refusal)
        instrument.orders_counter += 1
        order = Order(
            compose_id(command.instrument, instrument.orders_counter),
            account.index,
            command.client_order_id,
            command.instrument,
            command.side,
            command.kind,
            command.time_in_force,
            command.flags,
            command.self_trade,
            command.price,
            command.quantity,
            0,
            command.quantity,
            self._market.ts_ns,
            command.expire_ns,
        )
        self._market.orders[order.order_id] = order
        self._row(OrderEvent.ACCEPTED, order, order.quantity, order.leaves)
        bound = instrument.price_bound(order)
        if order.time_in_force == TimeInForce.FOK and not self._fillable(order, instrument, bound):
            return self._expire_rest(order, [], Reject.FOK_UNFILLABLE)
        fills, prevented = self._match(order, instrument, bound)
        return self._conclude(order, instrument, fills, prevented)

    def _check_submit(self, account: Account, instrument: Instrument, command: m.Submit) -> Refusal | None:
        """Rules 6 to 16."""
        market = self._market
        rules = instrument.rules
        limit = command.kind == Kind.LIMIT
        immediate = command.time_in_force in (TimeInForce.IOC, TimeInForce.FOK)
        dated = command.time_in_force == TimeInForce.GTD
        post_only = bool(command.flags & Flag.POST_ONLY)
        if command.deadline_ns and market.ts_ns > command.deadline_ns:
            return Refusal(Reject.EXPIRED, market.ts_ns, command.deadline_ns)
        if (
            (not limit and (command.price != 0 or not immediate or post_only))
            or (post_only and immediate)
            or (command.expire_ns != 0) != dated
        ):
            return Refusal(Reject.INVALID_COMBINATION)
        if instrument.state != State.OPEN:
            return Refusal(_STATE_REJECTS[State(instrument.state)])
        if command.quantity < rules.quantity_min:
            return Refusal(Reject.QUANTITY_MIN, command.quantity, rules.quantity_min)
        refusal = _check_size(command.quantity, rules)
        if refusal is None and limit:
            refusal = _check_price(command.price, rules)
        if refusal is not None:
            return refusal
        if dated and command.expire_ns <= market.ts_ns:
            return Refusal(Reject.EXPIRE_IN_PAST, command.expire_ns, market.ts_ns)
        if limit:
            refusal = _check_collar(instrument, command.side, command.price)
        if refusal is None and post_only:
            refusal = _check_post_only(instrument, command.side, command.price)
        if refusal is None:
            refusal = self._check_position(account, command.instrument, command.side, command.quantity)
        if refusal is not None:
            return refusal
        if len(account.orders) >= market.config.open_orders_max:
            return Refusal(Reject.OPEN_ORDERS_LIMIT, len(account.orders), market.config.open_orders_max)
        if limit and not immediate:
            if market.orders_open >= market.config.orders_max:
                return Refusal(Reject.BOOK_FULL, market.orders_open, market.config.orders_max)
            return _check_open_quantity(instrument, command.side, command.quantity)
        return None

    def _check_position(self, account: Account, index: int, side: int, growth: int) -> Refusal | None:
        """Rule 14: as if all that is open on this side, and `growth` more, were filled."""
        holding = account.holding(index)
        position = holding.position if side == Side.BUY else -holding.position
        worst = position + holding.open[side] + growth
        limit = self._market.position_limit(account, index)
        return Refusal(Reject.POSITION_LIMIT, worst, limit) if worst > limit else None

    # --- matching -------------------------------------------------------------------------------------------------

    def _fillable(self, taker: Order, instrument: Instrument, bound: int | None) -> bool:
        """Rule 18: whether the whole quantity would trade."""
        makers = instrument.sides[1 - taker.side]
        counted = 0
        for level in makers.best_first():
            if not makers.reaches(level, bound):
                break
            for maker in level.orders.values():
                if maker.account_index == taker.account_index:
                    if taker.self_trade in _ENDS_FOK_WALK:
                        return False
                    if taker.self_trade == SelfTrade.OLDEST:
                        continue
                counted += maker.leaves
                if counted >= taker.leaves:
                    return True
        return False

    def _match(self, taker: Order, instrument: Instrument, bound: int | None) -> tuple[list[m.Fill], bool]:
        """Rule 19. The fills, and whether self-trade prevention ended the taker."""
        makers = instrument.sides[1 - taker.side]
        fills: list[m.Fill] = []
        while taker.leaves:
            level = makers.best()
            if level is None or not makers.reaches(level, bound):
                break
            maker = next(iter(level.orders.values()))
            if maker.account_index != taker.account_index or taker.self_trade == SelfTrade.NONE:
                fills.append(self._trade(taker, maker, instrument))
            elif self._prevent(taker, maker):
                return fills, True
        return fills, False

    def _trade(self, taker: Order, maker: Order, instrument: Instrument) -> m.Fill:
        market = self._market
        quantity = min(taker.leaves, maker.leaves)
        instrument.trades_counter += 1
        instrument.last_price = maker.price
        trade_id = compose_id(taker.instrument, instrument.trades_counter)
        market.lower(maker, quantity)
        maker.fill(quantity)
        taker.leaves -= quantity
        taker.fill(quantity)
        bought = quantity if taker.side == Side.BUY else -quantity
        market.move(taker.account_index, taker.instrument, bought)
        market.move(maker.account_index, maker.instrument, -bought)
        market.frame.trades.append(
            m.TradeRow(
                market.frame.seq,
                market.frame.next_sub(),
                trade_id,
                maker.price,
                quantity,
                taker.side,
                taker.order_id,
                maker.order_id,
                market.accounts[taker.account_index].name,
                market.accounts[maker.account_index].name,
                taker.client_order_id,
                maker.client_order_id,
                taker.leaves,
                maker.leaves,
            )
        )
        return m.Fill(trade_id, maker.price, quantity)

    def _prevent(self, taker: Order, maker: Order) -> bool:
        """Two orders of one account met, and the taker's mode forbids the trade. Whether that ends the taker."""
        mode = SelfTrade(taker.self_trade)
        if mode == SelfTrade.DECREMENT:
            quantity = min(taker.leaves, maker.leaves)
            self._market.lower(maker, quantity)
            taker.leaves -= quantity
            for order in (maker, taker):
                order.quantity -= quantity
                self._row(OrderEvent.REDUCED, order, quantity, order.leaves, Reject.SELF_TRADE)
                if order.leaves == 0:
                    self._row(OrderEvent.CANCELLED, order, 0, 0, Reject.SELF_TRADE)
                    order.end(Status.CANCELED, Reject.SELF_TRADE)
            return taker.leaves == 0
        if mode in (SelfTrade.OLDEST, SelfTrade.BOTH):
            self._take_off(maker, OrderEvent.CANCELLED, Reject.SELF_TRADE)
        return mode in (SelfTrade.NEWEST, SelfTrade.BOTH)

    def _conclude(self, order: Order, instrument: Instrument, fills: list[m.Fill], prevented: bool) -> m.Executed:
        """Rule 20: what becomes of a taker after its match."""
        left = order.leaves
        if prevented:
            if left:
                self._row(OrderEvent.CANCELLED, order, left, 0, Reject.SELF_TRADE)
                order.end(Status.CANCELED, Reject.SELF_TRADE)
            return self._executed(order, fills, remaining=left)
        if left == 0:
            return self._executed(order, fills, remaining=0)
        if order.kind == Kind.MARKET:
            beyond = instrument.sides[1 - order.side].best() is not None
            return self._expire_rest(order, fills, Reject.PRICE_COLLAR if beyond else Reject.NO_LIQUIDITY)
        if order.time_in_force == TimeInForce.IOC:
            return self._expire_rest(order, fills, Reject.IOC_REMAINDER)
        self._market.rest(order)
        return self._executed(order, fills, remaining=left)

    def _expire_rest(self, order: Order, fills: list[m.Fill], reason: Reject) -> m.Executed:
        """End a taker that may not rest."""
        left = order.leaves
        self._row(OrderEvent.EXPIRED, order, left, 0, reason)
        order.end(Status.EXPIRED, reason)
        return self._executed(order, fills, remaining=left)

    def _take_off(self, order: Order, event: OrderEvent, reason: Reject) -> int:
        """End a resting order; how much of it was open."""
        left = order.leaves
        self._market.lower(order, left)
        self._row(event, order, left, 0, reason)
        order.end(Status.EXPIRED if event == OrderEvent.EXPIRED else Status.CANCELED, reason)
        return left

    # --- commands on an order -------------------------------------------------------------------------------------

    def _find_open(self, account: Account | None, command: m.Cancel | m.Replace | m.Reduce) -> Order | Refusal:
        order = self._find(account, command.instrument, command.order_id, command.target_id)
        if order is None or not order.is_open:
            return Refusal(Reject.UNKNOWN_ORDER, command.order_id)
        return order

    def _find(self, account: Account | None, index: int, order_id: int, target_id: str) -> Order | None:
        """The account's order in one instrument, by its id or by the client order id of its Submit."""
        if account is None:
            return None
        if order_id:
            order = self._market.orders.get(order_id)
            ours = order is not None and order.account_index == account.index and order.instrument == index
            return order if ours else None
        entry = account.window.entries.get((index, target_id))
        return entry.order if entry is not None else None

    def _late(self, deadline_ns: int) -> Refusal | None:
        """Rule 6."""
        now_ns = self._market.ts_ns
        return Refusal(Reject.EXPIRED, now_ns, deadline_ns) if deadline_ns and now_ns > deadline_ns else None

    def _cancel(self, command: m.Cancel) -> Answer:
        late = self._late(command.deadline_ns)
        if late is not None:
            return self._reject(command, late)
        if command.instrument not in self._market.instruments:
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        order = self._find_open(self._market.accounts_by_name.get(command.account), command)
        if isinstance(order, Refusal):
            return self._reject(command, order)
        return self._cancel_order(order)

    def _cancel_order(self, order: Order) -> m.Executed:
        return self._executed(order, [], remaining=self._take_off(order, OrderEvent.CANCELLED, Reject.USER))

    def _amend(self, command: m.Replace | m.Reduce) -> Answer:
        if command.instrument not in self._market.instruments:
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        account = self._market.accounts_by_name.get(command.account)
        if account is None:
            return self._reject(command, Refusal(Reject.UNKNOWN_ORDER, command.order_id))
        if isinstance(command, m.Replace):
            return self._once(account, command, self._replace)
        return self._once(account, command, self._reduce)

    def _replace(self, account: Account, command: m.Replace) -> Answer:
        instrument = self._market.instruments[command.instrument]
        late = self._late(command.deadline_ns)
        if late is not None:
            return self._reject(command, late)
        if instrument.state != State.OPEN:
            return self._reject(command, Refusal(_STATE_REJECTS[State(instrument.state)]))
        order = self._find_open(account, command)
        if isinstance(order, Refusal):
            return self._reject(command, order)
        rules = instrument.rules
        if command.quantity < rules.lot:
            return self._reject(command, Refusal(Reject.QUANTITY_MIN, command.quantity, rules.lot))
        refusal = _check_size(command.quantity, rules)
        if refusal is not None:
            return self._reject(command, refusal)
        by_leaves = command.basis == QuantityBasis.LEAVES
        total = order.filled + command.quantity if by_leaves else command.quantity
        leaves = total - order.filled
        if total > OPEN_QUANTITY_MAX:
            return self._reject(command, Refusal(Reject.QUANTITY_MAX, total, OPEN_QUANTITY_MAX))
        if leaves <= 0:
            return self._cancel_order(order)
        refusal = _check_price(command.price, rules)
        in_place = command.price == order.price and leaves <= order.leaves
        if refusal is None and not in_place:
            refusal = self._check_requeue(account, instrument, order, command.price, leaves - order.leaves)
        if refusal is not None:
            return self._reject(command, refusal)
        if in_place:
            self._market.lower(order, order.leaves - leaves)
            order.quantity = total
            self._row(OrderEvent.REPLACED, order, total, leaves)
            return self._executed(order, [], remaining=leaves)
        self._market.lower(order, order.leaves)
        order.price = command.price
        order.quantity = total
        order.leaves = leaves
        self._row(OrderEvent.REPLACED, order, total, leaves)
        fills, prevented = self._match(order, instrument, order.price)
        return self._conclude(order, instrument, fills, prevented)

    def _check_requeue(
        self, account: Account, instrument: Instrument, order: Order, price: int, growth: int
    ) -> Refusal | None:
        """Rules 12, 13, 14 and the side rule of 16 for an order that gives up its place."""
        refusal = None
        if price != order.price:
            refusal = _check_collar(instrument, order.side, price)
        if refusal is None and order.flags & Flag.POST_ONLY:
            refusal = _check_post_only(instrument, order.side, price)
        if refusal is None and growth > 0:
            refusal = self._check_position(account, order.instrument, order.side, growth)
        if refusal is None and growth > 0:
            refusal = _check_open_quantity(instrument, order.side, growth)
        return refusal

    def _reduce(self, account: Account, command: m.Reduce) -> Answer:
        late = self._late(command.deadline_ns)
        if late is not None:
            return self._reject(command, late)
        order = self._find_open(account, command)
        if isinstance(order, Refusal):
            return self._reject(command, order)
        lot = self._market.instruments[command.instrument].rules.lot
        if command.quantity < 1:
            return self._reject(command, Refusal(Reject.QUANTITY_MIN, command.quantity, 1))
        if command.quantity % lot:
            return self._reject(command, Refusal(Reject.LOT_SIZE, command.quantity, lot))
        if command.quantity >= order.leaves:
            return self._cancel_order(order)
        self._market.lower(order, command.quantity)
        order.quantity -= command.quantity
        self._row(OrderEvent.REDUCED, order, command.quantity, order.leaves, Reject.USER)
        return self._executed(order, [], remaining=order.leaves)

    # --- commands on many orders ----------------------------------------------------------------------------------

    def _known_or_all(self, index: int) -> bool:
        return index == ALL_INSTRUMENTS or index in self._market.instruments

    def _covered(self, index: int) -> list[int]:
        """Defined instruments that an index names, ascending."""
        return sorted(self._market.instruments) if index == ALL_INSTRUMENTS else [index]

    def _open_orders(self, account: Account, index: int) -> list[Order]:
        """Open orders of an account in one instrument or all, ascending by id."""
        covers = account.orders.values()
        return _by_id(order for order in covers if index in (ALL_INSTRUMENTS, order.instrument))

    def _sweep(self, orders: list[Order], event: OrderEvent, reason: Reject) -> None:
        for order in orders:
            self._take_off(order, event, reason)

    def _mass_cancel(self, command: m.MassCancel) -> m.Reply:
        market = self._market
        if not self._known_or_all(command.instrument):
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        if command.account:
            account = market.accounts_by_name.get(command.account)
            orders = self._open_orders(account, command.instrument) if account is not None else []
        else:
            covered = self._covered(command.instrument)
            orders = _by_id(order for index in covered for order in market.instruments[index].orders())
        self._sweep(orders, OrderEvent.CANCELLED, Reject.MASS_CANCEL)
        return m.Swept(market.epoch, market.seq, market.ts_ns, len(orders))

    def _set_state(self, command: m.SetState) -> m.Reply:
        if not self._known_or_all(command.instrument):
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        for index in self._covered(command.instrument):
            instrument = self._market.instruments[index]
            if instrument.state == command.state:
                continue
            instrument.state = command.state
            self._row_state(index, command.state, command.actor)
            if command.state == State.CLOSED:
                day = _by_id(order for order in instrument.orders() if order.time_in_force == TimeInForce.DAY)
                self._sweep(day, OrderEvent.EXPIRED, Reject.DAY_END)
        return self._done()

    def _tick(self) -> m.Done:
        market = self._market
        now_ns = market.ts_ns
        due = [order for order in market.orders_dated.values() if order.expire_ns <= now_ns]
        due.sort(key=lambda order: (order.expire_ns, order.order_id))
        self._sweep(due, OrderEvent.EXPIRED, Reject.GTD_REACHED)
        fired = sorted((deadline, *key) for key, deadline in market.dead_men.items() if deadline <= now_ns)
        for _, account_index, index in fired:
            del market.dead_men[account_index, index]
            orders = self._open_orders(market.accounts[account_index], index)
            self._sweep(orders, OrderEvent.CANCELLED, Reject.DEAD_MAN)
        self._age_windows()
        return self._done()

    def _age_windows(self) -> None:
        market = self._market
        before_ns = market.ts_ns - market.config.ids_window_ns
        budget = AGEING_ENTRIES_MAX
        for _ in range(len(market.accounts)):
            account = market.accounts[market.cursor]
            evicted, budget = account.window.age(before_ns, budget)
            for entry in evicted:
                market.forget(entry)
            market.cursor = (market.cursor + 1) % len(market.accounts)
            if budget == 0:
                break

    # --- reference data, queries, timers --------------------------------------------------------------------------

    def _define_instrument(self, command: m.DefineInstrument) -> m.Reply:
        known = self._market.instruments.get(command.index)
        if known is None:
            self._market.instruments[command.index] = Instrument(command)
            self._row_state(command.index, State.OPEN, "")
        elif known.rules.symbol == command.symbol:
            known.rules = command
        else:
            return self._reject(command, Refusal(Reject.INSTRUMENT_CONFLICT, command.index))
        return self._done()

    def _set_position_limit(self, command: m.SetPositionLimit) -> m.Reply:
        if command.instrument not in self._market.instruments:
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        account = self._market.account(command.account)
        if account is None:
            return self._reject(command, self._accounts_full())
        account.holding(command.instrument).limit = command.limit
        return self._done()

    def _query_order(self, command: m.QueryOrder) -> m.Reply:
        market = self._market
        if not self._known_or_all(command.instrument):
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        account = market.accounts_by_name.get(command.account)
        named = command.instrument == ALL_INSTRUMENTS and command.order_id
        covered = [instrument_of(command.order_id)] if named else self._covered(command.instrument)
        for index in covered:
            order = self._find(account, index, command.order_id, command.target_id)
            if order is not None:
                return m.Order(market.epoch, market.seq, market.ts_ns, order.info())
        return self._reject(command, Refusal(Reject.UNKNOWN_ORDER, command.order_id))

    def _query_open(self, command: m.QueryOpen) -> m.Reply:
        market = self._market
        if not self._known_or_all(command.instrument):
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        account = market.accounts_by_name.get(command.account)
        orders = self._open_orders(account, command.instrument) if account is not None else []
        after = [order for order in orders if order.order_id > command.after_order_id]
        infos = [order.info() for order in after[: command.limit]]
        return m.Orders(market.epoch, market.seq, market.ts_ns, infos, len(after) > command.limit)

    def _resolve(self, command: m.Resolve) -> m.Reply:
        market = self._market
        if command.instrument not in market.instruments:
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        account = market.account(command.account)
        if account is None:
            return self._reject(command, self._accounts_full())
        known = account.window.entries.get((command.instrument, command.client_order_id))
        if known is not None:
            return known.again()
        if not market.make_room(account):
            return self._reject(command, Refusal(Reject.WINDOW_FULL, market.config.ids_per_account_max))
        answer = self._reject(command, Refusal(Reject.VOIDED))
        market.remember(account, Entry(TOMBSTONE, command.instrument, command.client_order_id, 0, 0, answer))
        return answer

    def _arm_dead_man(self, command: m.ArmDeadMan) -> m.Reply:
        market = self._market
        if not self._known_or_all(command.instrument):
            return self._reject(command, Refusal(Reject.UNKNOWN_INSTRUMENT, command.instrument))
        account = market.account(command.account)
        if account is None:
            return self._reject(command, self._accounts_full())
        if command.timeout_ns:
            market.dead_men[account.index, command.instrument] = min(market.ts_ns + command.timeout_ns, NS_MAX)
        else:
            market.dead_men.pop((account.index, command.instrument), None)
        return self._done()


# --- rules that need no state of the engine ---------------------------------------------------------------------------


def _check_size(quantity: int, rules: m.DefineInstrument) -> Refusal | None:
    """Rule 9 without the minimum."""
    if quantity > rules.quantity_max:
        return Refusal(Reject.QUANTITY_MAX, quantity, rules.quantity_max)
    if quantity % rules.lot:
        return Refusal(Reject.LOT_SIZE, quantity, rules.lot)
    return None


def _check_price(price: int, rules: m.DefineInstrument) -> Refusal | None:
    """Rule 10."""
    if price < rules.price_min:
        return Refusal(Reject.PRICE_MIN, price, rules.price_min)
    if price > rules.price_max:
        return Refusal(Reject.PRICE_MAX, price, rules.price_max)
    if price % rules.tick:
        return Refusal(Reject.TICK_SIZE, price, rules.tick)
    return None


def _check_collar(instrument: Instrument, side: int, price: int) -> Refusal | None:
    """Rule 12."""
    bound = instrument.collar_bound(side)
    if bound is None or (price <= bound if side == Side.BUY else price >= bound):
        return None
    return Refusal(Reject.PRICE_COLLAR, price, bound)


def _check_post_only(instrument: Instrument, side: int, price: int) -> Refusal | None:
    """Rule 13."""
    opposite = instrument.sides[1 - side]
    best = opposite.best()
    if best is None or not opposite.reaches(best, price):
        return None
    return Refusal(Reject.POST_ONLY_WOULD_CROSS, price, best.price)


def _check_open_quantity(instrument: Instrument, side: int, growth: int) -> Refusal | None:
    """The side rule of 16."""
    total = instrument.sides[side].quantity + growth
    return Refusal(Reject.BOOK_FULL, total, OPEN_QUANTITY_MAX) if total > OPEN_QUANTITY_MAX else None


def _by_id(orders: Iterable[Order]) -> list[Order]:
    return sorted(orders, key=lambda order: order.order_id)


def _decode_config(config: bytes) -> m.EngineConfig:
    try:
        decoded = msgspec.msgpack.decode(config, type=m.EngineConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise ValueError(f"engine config: {fault}") from None
    for name in ("orders_max", "accounts_max", "ids_max", "ids_per_account_max", "open_orders_max"):
        if not 1 <= getattr(decoded, name) < 1 << 31:
            raise ValueError(f"engine config: {name} {getattr(decoded, name)} is not in 1..2^31-1")
    if not 0 <= decoded.ids_window_ns <= NS_MAX:
        raise ValueError(f"engine config: ids_window_ns {decoded.ids_window_ns} is not in 0..2^62")
    return decoded
