"""The book of the reference engine: orders, price levels in time order, the two sides of an instrument.

Plain structures without rules. A level keeps its orders in an OrderedDict (first in, first out, removal from anywhere);
a side keeps its levels in a sorted list of *keys* whose greatest is the best price: the price itself for bids, its
negative for asks. So "at least as good" is `>=` on both sides.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from exchange.domain import Flag, Kind, Reject, Side, State, Status, TimeInForce
from exchange.messages import DefineInstrument, OrderInfo

POST_ONLY = int(Flag.POST_ONLY)
"""As a plain int: arithmetic on IntFlag costs as much as a whole rule."""
RESTING = (TimeInForce.GTC, TimeInForce.DAY, TimeInForce.GTD)
"""Times in force of orders that may rest in the book."""


@dataclass(slots=True, eq=False)
class Order:
    """One order and, after its end, the memory of it.

    `quantity` = `filled` + `leaves` while the order is open, `filled` + what was given up after that.
    """

    order_id: int
    account_index: int
    client_order_id: str
    instrument: int
    side: int
    kind: int
    time_in_force: int
    flags: int
    self_trade: int
    price: int
    quantity: int
    filled: int
    leaves: int
    created_ns: int
    expire_ns: int
    status: int = Status.NEW
    reason: int = Reject.NONE

    @property
    def is_open(self) -> bool:
        return self.status <= Status.PARTIALLY_FILLED

    def fill(self, quantity: int) -> None:
        """Count an execution; `leaves` is kept by whoever holds the order."""
        self.filled += quantity
        self.status = Status.PARTIALLY_FILLED if self.filled < self.quantity else Status.FILLED

    def end(self, status: Status, reason: Reject) -> None:
        """Give up what is left."""
        self.leaves = 0
        self.status = status
        self.reason = reason

    def info(self) -> OrderInfo:
        return OrderInfo(
            self.order_id,
            self.client_order_id,
            self.instrument,
            self.side,
            self.kind,
            self.time_in_force,
            self.flags,
            self.self_trade,
            self.price,
            self.quantity,
            self.filled,
            self.leaves,
            self.status,
            self.reason,
            self.created_ns,
            self.expire_ns,
        )


@dataclass(slots=True, eq=False)
class Level:
    """All orders at one price, oldest first, and the sum of their leaves."""

    price: int
    quantity: int = 0
    orders: OrderedDict[int, Order] = field(default_factory=OrderedDict)


class BookSide:
    """Levels of one side. `quantity` is the sum of all leaves."""

    __slots__ = ("_keys", "_levels", "_sign", "quantity")

    def __init__(self, side: int) -> None:
        self._sign = 1 if side == Side.BUY else -1
        self._keys: list[int] = []
        self._levels: dict[int, Level] = {}
        self.quantity = 0

    def best(self) -> Level | None:
        return self._levels[self._keys[-1]] if self._keys else None

    def best_first(self) -> Iterator[Level]:
        return (self._levels[key] for key in reversed(self._keys))

    def reaches(self, level: Level, bound: int | None) -> bool:
        """Whether a level is at least as good, for a taker of the other side, as its price bound (None = any is)."""
        return bound is None or self._sign * level.price >= self._sign * bound

    def depth_at(self, price: int) -> tuple[int, int]:
        """Quantity and count of orders at one price."""
        level = self._levels.get(self._sign * price)
        return (level.quantity, len(level.orders)) if level is not None else (0, 0)

    def add(self, order: Order) -> None:
        """Rest an order at the end of its level."""
        key = self._sign * order.price
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = Level(order.price)
            insort(self._keys, key)
        level.orders[order.order_id] = order
        level.quantity += order.leaves
        self.quantity += order.leaves

    def lower(self, order: Order, by: int) -> None:
        """Take `by` from a resting order's leaves; at zero it leaves the book, and an empty level goes with it."""
        key = self._sign * order.price
        level = self._levels[key]
        order.leaves -= by
        level.quantity -= by
        self.quantity -= by
        if order.leaves == 0:
            del level.orders[order.order_id]
            if not level.orders:
                del self._levels[key]
                del self._keys[bisect_left(self._keys, key)]


class Instrument:
    """Rules, state and book of one instrument."""

    __slots__ = ("last_price", "orders_counter", "rules", "sides", "state", "trades_counter")

    def __init__(self, rules: DefineInstrument) -> None:
        self.rules = rules
        self.state = int(State.OPEN)
        self.last_price = 0
        self.orders_counter = 0
        self.trades_counter = 0
        self.sides = (BookSide(Side.BUY), BookSide(Side.SELL))

    def collar_bound(self, side: int) -> int | None:
        """The worst price that an order of `side` may trade at or name now (rule 12); None = no collar."""
        reference = self.last_price if self.trades_counter else self.rules.reference_price
        if not self.rules.collar_bps or not reference:
            return None
        width = reference * self.rules.collar_bps // 10_000
        return reference + width if side == Side.BUY else reference - width

    def price_bound(self, order: Order) -> int | None:
        """How far an order may match: its limit, or for MARKET the collar."""
        return order.price if order.kind == Kind.LIMIT else self.collar_bound(order.side)

    def orders(self) -> Iterator[Order]:
        """All open orders: bids then asks, best level first, oldest first."""
        for side in self.sides:
            for level in side.best_first():
                yield from level.orders.values()
