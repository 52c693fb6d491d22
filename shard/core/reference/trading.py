"""Submit, Cancel, Replace, Reduce in the reference engine: rules 1 to 17 of PROTOCOL 1.1 in their order."""

from collections.abc import Callable
from typing import TypeVar

from exchange import messages as m
from exchange.domain import (
    Kind,
    OrderEvent,
    QuantityBasis,
    Reject,
    TimeInForce,
    compose_id,
)
from shard.core.reference.answers import Answers
from shard.core.reference.book import POST_ONLY, RESTING, Instrument, Order
from shard.core.reference.market import Account, Market
from shard.core.reference.matching import Matching
from shard.core.reference.rules import (
    Refusal,
    accounts_full,
    check_book_room,
    check_collar,
    check_combination,
    check_deadline,
    check_expiry,
    check_lot,
    check_open_orders,
    check_open_quantity,
    check_position,
    check_post_only,
    check_price,
    check_quantity_min,
    check_size,
    check_state,
    check_total,
    unknown_instrument,
    window_full,
)
from shard.core.reference.window import REDUCE, REPLACE, SUBMIT, TOMBSTONE, Entry, payload_hash

Answer = m.Executed | m.Rejected
P = TypeVar("P", m.Submit, m.Replace, m.Reduce)

_OPS: dict[type, int] = {m.Submit: SUBMIT, m.Replace: REPLACE, m.Reduce: REDUCE}


class Trading:
    """Commands on one order."""

    def __init__(self, market: Market, answers: Answers, matching: Matching) -> None:
        self._market = market
        self._answers = answers
        self._matching = matching

    def submit(self, command: m.Submit) -> Answer:
        if command.instrument not in self._market.instruments:
            return self._answers.reject(command, unknown_instrument(command.instrument))
        account = self._market.account(command.account)
        if account is None:
            return self._answers.reject(command, accounts_full(self._market))
        return self._once(account, command, self._enter)

    def cancel(self, command: m.Cancel) -> Answer:
        found: Order | Refusal | None = check_deadline(self._market, command.deadline_ns)
        if found is None and command.instrument not in self._market.instruments:
            found = unknown_instrument(command.instrument)
        if found is None:
            found = self._find_open(self._market.accounts_by_name.get(command.account), command)
        if isinstance(found, Refusal):
            return self._answers.reject(command, found)
        return self._cancel_order(found)

    def amend(self, command: m.Replace | m.Reduce) -> Answer:
        if command.instrument not in self._market.instruments:
            return self._answers.reject(command, unknown_instrument(command.instrument))
        account = self._market.accounts_by_name.get(command.account)
        if account is None:
            return self._answers.reject(command, Refusal(Reject.UNKNOWN_ORDER, command.order_id))
        if isinstance(command, m.Replace):
            return self._once(account, command, self._replace)
        return self._once(account, command, self._reduce)

    def _once(self, account: Account, command: P, decide: Callable[[Account, P], Answer]) -> Answer:
        """Rules 3 to 5, then `decide`, whose answer is recorded under the command's client order id."""
        if not command.client_order_id:
            return decide(account, command)
        market = self._market
        window = account.window
        hash_ = payload_hash(command)
        known = window.entries.get((command.instrument, command.client_order_id))
        if known is not None:
            if known.op != TOMBSTONE and known.hash != hash_:
                return self._answers.reject(command, Refusal(Reject.ID_REUSED, known.answer.seq))
            return known.again()
        if command.client_ns and command.client_ns <= window.bound_ns:
            return self._answers.reject(command, Refusal(Reject.TOO_OLD, command.client_ns, window.bound_ns))
        if not market.make_room(account):
            return self._answers.reject(command, window_full(market))
        answer = decide(account, command)
        op = _OPS[type(command)]
        accepted = op == SUBMIT and isinstance(answer, m.Executed)
        order = market.orders[answer.order_id] if accepted else None
        id_ = command.client_order_id
        market.remember(account, Entry(op, command.instrument, id_, hash_, command.client_ns, answer, order))
        return answer

    # --- Submit -------------------------------------------------------------------------------------------------------

    def _enter(self, account: Account, command: m.Submit) -> Answer:
        instrument = self._market.instruments[command.instrument]
        refusal = self._check_submit(account, instrument, command)
        if refusal is not None:
            return self._answers.reject(command, refusal)
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
        self._answers.row(OrderEvent.ACCEPTED, order, order.quantity, order.leaves)
        bound = instrument.price_bound(order)
        if order.time_in_force == TimeInForce.FOK and not self._matching.fillable(order, instrument, bound):
            return self._matching.expire(order, [], Reject.FOK_UNFILLABLE)
        return self._matching.execute(order, instrument, bound)

    def _check_submit(self, account: Account, instrument: Instrument, command: m.Submit) -> Refusal | None:
        """Rules 6 to 16; a Refusal is never false, so the first that speaks decides."""
        market = self._market
        rules = instrument.rules
        side, price, quantity = command.side, command.price, command.quantity
        limit = command.kind == Kind.LIMIT
        rests = limit and command.time_in_force in RESTING
        dated = command.time_in_force == TimeInForce.GTD
        return (
            check_deadline(market, command.deadline_ns)
            or check_combination(command)
            or check_state(instrument)
            or check_quantity_min(quantity, rules.quantity_min)
            or check_size(quantity, rules)
            or (check_price(price, rules) if limit else None)
            or (check_expiry(market, command.expire_ns) if dated else None)
            or (check_collar(instrument, side, price) if limit else None)
            or (check_post_only(instrument, side, price) if command.flags & POST_ONLY else None)
            or check_position(market, account, command.instrument, side, quantity)
            or check_open_orders(market, account)
            or (check_book_room(market) if rests else None)
            or (check_open_quantity(instrument, side, quantity) if rests else None)
        )

    # --- commands on an open order ------------------------------------------------------------------------------------

    def _find_open(self, account: Account | None, command: m.Cancel | m.Replace | m.Reduce) -> Order | Refusal:
        order = self._market.find_order(account, command.instrument, command.order_id, command.target_id)
        if order is None or not order.is_open:
            return Refusal(Reject.UNKNOWN_ORDER, command.order_id)
        return order

    def _cancel_order(self, order: Order) -> m.Executed:
        left = self._matching.take_off(order, OrderEvent.CANCELLED, Reject.USER)
        return self._answers.executed(order, [], remaining=left)

    def _replace(self, account: Account, command: m.Replace) -> Answer:
        instrument = self._market.instruments[command.instrument]
        rules = instrument.rules
        early = check_deadline(self._market, command.deadline_ns) or check_state(instrument)
        order = early or self._find_open(account, command)
        if isinstance(order, Refusal):
            return self._answers.reject(command, order)
        by_leaves = command.basis == QuantityBasis.LEAVES
        total = order.filled + command.quantity if by_leaves else command.quantity
        leaves = total - order.filled
        refusal = (
            check_quantity_min(command.quantity, rules.lot) or check_size(command.quantity, rules) or check_total(total)
        )
        if refusal is not None:
            return self._answers.reject(command, refusal)
        if leaves <= 0:
            return self._cancel_order(order)
        in_place = command.price == order.price and leaves <= order.leaves
        refusal = check_price(command.price, rules)
        if not in_place:
            refusal = refusal or self._check_requeue(account, instrument, order, command.price, leaves - order.leaves)
        if refusal is not None:
            return self._answers.reject(command, refusal)
        if in_place:
            self._market.lower(order, order.leaves - leaves)
            order.quantity = total
            self._answers.row(OrderEvent.REPLACED, order, total, leaves)
            return self._answers.executed(order, [], remaining=leaves)
        self._market.lower(order, order.leaves)
        order.price, order.quantity, order.leaves = command.price, total, leaves
        self._answers.row(OrderEvent.REPLACED, order, total, leaves)
        return self._matching.execute(order, instrument, order.price)

    def _check_requeue(
        self, account: Account, instrument: Instrument, order: Order, price: int, growth: int
    ) -> Refusal | None:
        """Rules 12, 13, 14 and the side rule of 16 for an order that gives up its place."""
        moves, grows = price != order.price, growth > 0
        return (
            (check_collar(instrument, order.side, price) if moves else None)
            or (check_post_only(instrument, order.side, price) if order.flags & POST_ONLY else None)
            or (check_position(self._market, account, order.instrument, order.side, growth) if grows else None)
            or (check_open_quantity(instrument, order.side, growth) if grows else None)
        )

    def _reduce(self, account: Account, command: m.Reduce) -> Answer:
        order = check_deadline(self._market, command.deadline_ns) or self._find_open(account, command)
        if isinstance(order, Refusal):
            return self._answers.reject(command, order)
        lot = self._market.instruments[command.instrument].rules.lot
        refusal = check_quantity_min(command.quantity, 1) or check_lot(command.quantity, lot)
        if refusal is not None:
            return self._answers.reject(command, refusal)
        if command.quantity >= order.leaves:
            return self._cancel_order(order)
        self._market.lower(order, command.quantity)
        order.quantity -= command.quantity
        self._answers.row(OrderEvent.REDUCED, order, command.quantity, order.leaves, Reject.USER)
        return self._answers.executed(order, [], remaining=order.leaves)
