"""The rules of PROTOCOL 1.1, each a function that says what is broken, or None.

They look and change nothing. The order in which they are asked is the callers' affair, and part of the protocol.
"""

import msgspec

from exchange.domain import OPEN_QUANTITY_MAX, Kind, Reject, Side, State, TimeInForce
from exchange.messages import DefineInstrument, Submit
from shard.core.reference.book import POST_ONLY, RESTING, Instrument
from shard.core.reference.market import Account, Market

_STATE_REJECTS = {State.CANCEL_ONLY: Reject.CANCEL_ONLY, State.HALT: Reject.HALT, State.CLOSED: Reject.CLOSED}


class Refusal(msgspec.Struct, frozen=True):
    """A rule that was broken: `value` against `bound`. Always true, so rules can be asked with `or`."""

    code: Reject
    value: int = 0
    bound: int = 0


def unknown_instrument(index: int) -> Refusal:
    """Rule 1."""
    return Refusal(Reject.UNKNOWN_INSTRUMENT, index)


def accounts_full(market: Market) -> Refusal:
    """Rule 2."""
    return Refusal(Reject.ACCOUNTS_FULL, bound=market.config.accounts_max)


def window_full(market: Market) -> Refusal:
    """Rule 5."""
    return Refusal(Reject.WINDOW_FULL, market.config.ids_per_account_max)


def check_deadline(market: Market, deadline_ns: int) -> Refusal | None:
    """Rule 6."""
    late = deadline_ns and market.ts_ns > deadline_ns
    return Refusal(Reject.EXPIRED, market.ts_ns, deadline_ns) if late else None


def check_combination(command: Submit) -> Refusal | None:
    """Rule 7."""
    immediate = command.time_in_force not in RESTING
    post_only = bool(command.flags & POST_ONLY)
    dated = command.time_in_force == TimeInForce.GTD
    market = command.kind == Kind.MARKET
    senseless = (
        (market and (command.price != 0 or not immediate or post_only))
        or (post_only and immediate)
        or dated != (command.expire_ns != 0)
    )
    return Refusal(Reject.INVALID_COMBINATION) if senseless else None


def check_state(instrument: Instrument) -> Refusal | None:
    """Rule 8."""
    return None if instrument.state == State.OPEN else Refusal(_STATE_REJECTS[State(instrument.state)])


def check_quantity_min(quantity: int, least: int) -> Refusal | None:
    """Rule 9, its first part."""
    return Refusal(Reject.QUANTITY_MIN, quantity, least) if quantity < least else None


def check_size(quantity: int, rules: DefineInstrument) -> Refusal | None:
    """Rule 9 without the minimum."""
    if quantity > rules.quantity_max:
        return Refusal(Reject.QUANTITY_MAX, quantity, rules.quantity_max)
    return check_lot(quantity, rules.lot)


def check_lot(quantity: int, lot: int) -> Refusal | None:
    """Rule 9, its last part."""
    return Refusal(Reject.LOT_SIZE, quantity, lot) if quantity % lot else None


def check_total(total: int) -> Refusal | None:
    """Replace: what an order has filled and leaves open stays inside i64 for ever."""
    return Refusal(Reject.QUANTITY_MAX, total, OPEN_QUANTITY_MAX) if total > OPEN_QUANTITY_MAX else None


def check_price(price: int, rules: DefineInstrument) -> Refusal | None:
    """Rule 10."""
    if price < rules.price_min:
        return Refusal(Reject.PRICE_MIN, price, rules.price_min)
    if price > rules.price_max:
        return Refusal(Reject.PRICE_MAX, price, rules.price_max)
    return Refusal(Reject.TICK_SIZE, price, rules.tick) if price % rules.tick else None


def check_expiry(market: Market, expire_ns: int) -> Refusal | None:
    """Rule 11."""
    return Refusal(Reject.EXPIRE_IN_PAST, expire_ns, market.ts_ns) if expire_ns <= market.ts_ns else None


def check_collar(instrument: Instrument, side: int, price: int) -> Refusal | None:
    """Rule 12."""
    bound = instrument.collar_bound(side)
    if bound is None or (price <= bound if side == Side.BUY else price >= bound):
        return None
    return Refusal(Reject.PRICE_COLLAR, price, bound)


def check_post_only(instrument: Instrument, side: int, price: int) -> Refusal | None:
    """Rule 13."""
    opposite = instrument.sides[1 - side]
    best = opposite.best()
    if best is None or not opposite.reaches(best, price):
        return None
    return Refusal(Reject.POST_ONLY_WOULD_CROSS, price, best.price)


def check_position(market: Market, account: Account, index: int, side: int, growth: int) -> Refusal | None:
    """Rule 14: as if all that is open on this side, and `growth` more, were filled."""
    holding = account.holding(index)
    position = holding.position if side == Side.BUY else -holding.position
    worst = position + holding.open[side] + growth
    limit = market.position_limit(account, index)
    return Refusal(Reject.POSITION_LIMIT, worst, limit) if worst > limit else None


def check_open_orders(market: Market, account: Account) -> Refusal | None:
    """Rule 15."""
    count, most = len(account.orders), market.config.open_orders_max
    return Refusal(Reject.OPEN_ORDERS_LIMIT, count, most) if count >= most else None


def check_book_room(market: Market) -> Refusal | None:
    """Rule 16, its first part."""
    count, most = market.orders_open, market.config.orders_max
    return Refusal(Reject.BOOK_FULL, count, most) if count >= most else None


def check_open_quantity(instrument: Instrument, side: int, growth: int) -> Refusal | None:
    """Rule 16, the side rule."""
    total = instrument.sides[side].quantity + growth
    return Refusal(Reject.BOOK_FULL, total, OPEN_QUANTITY_MAX) if total > OPEN_QUANTITY_MAX else None
