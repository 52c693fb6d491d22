"""All replicated state of the reference engine, and the few operations that keep its indexes in step.

Every change of a level or a holding goes through `rest`, `lower` or `move`, so the frame of the record knows what was
there before. What may happen is decided elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from exchange.domain import ALL_INSTRUMENTS, OPEN_QUANTITY_MAX, Side, TimeInForce
from exchange.messages import EngineConfig
from shard.core.reference.book import Instrument, Order
from shard.core.reference.frame import Frame
from shard.core.reference.window import Entry, Window


@dataclass(slots=True, eq=False)
class Holding:
    """One account in one instrument: position, open quantity by side, override of the position limit (-1 = none)."""

    position: int = 0
    open: list[int] = field(default_factory=lambda: [0, 0])
    limit: int = -1

    def state(self) -> tuple[int, int, int]:
        return self.position, self.open[Side.BUY], self.open[Side.SELL]


@dataclass(slots=True, eq=False)
class Account:
    """One account: its open orders by id, its holdings by instrument, its window of client order ids."""

    index: int
    name: str
    window: Window = field(default_factory=Window)
    orders: dict[int, Order] = field(default_factory=dict)
    holdings: dict[int, Holding] = field(default_factory=dict)

    def holding(self, instrument: int) -> Holding:
        holding = self.holdings.get(instrument)
        if holding is None:
            holding = self.holdings[instrument] = Holding()
        return holding


class Market:
    """The state that `snapshot` writes, plus indexes over it and the frame of the record in hand."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.epoch = 0
        self.seq = 0
        self.ts_ns = 0
        self.trail = 0
        self.instruments: dict[int, Instrument] = {}
        self.accounts: list[Account] = []
        self.accounts_by_name: dict[str, Account] = {}
        self.orders: dict[int, Order] = {}
        """Every order that some window entry holds, open or ended."""
        self.orders_open = 0
        self.orders_dated: dict[int, Order] = {}
        """Open orders with an expiry instant."""
        self.ids = 0
        """Window entries of all accounts."""
        self.dead_men: dict[tuple[int, int], int] = {}
        """(account index, instrument or all) → deadline."""
        self.cursor = 0
        self.frame = Frame()

    def account(self, name: str) -> Account | None:
        """The account of that name, interned if it is new; None when it is new and the shard is full."""
        account = self.accounts_by_name.get(name)
        if account is None and len(self.accounts) < self.config.accounts_max:
            account = Account(len(self.accounts), name)
            self.accounts.append(account)
            self.accounts_by_name[name] = account
        return account

    def make_room(self, account: Account) -> bool:
        """Make place for one more window entry of the account (PROTOCOL 1.3 a); whether there is any."""
        entries = account.window.entries
        if len(entries) < self.config.ids_per_account_max and self.ids < self.config.ids_max:
            return True
        evicted = account.window.evict_oldest()
        if evicted is None:
            return False
        self.forget(evicted)
        return True

    def remember(self, account: Account, entry: Entry) -> None:
        account.window.add(entry)
        self.ids += 1

    def forget(self, evicted: Entry) -> None:
        self.ids -= 1
        if evicted.order is not None:
            del self.orders[evicted.order.order_id]

    def rest(self, order: Order) -> None:
        """Put an order at the end of its level."""
        account = self._touch(order)
        self.instruments[order.instrument].sides[order.side].add(order)
        account.holding(order.instrument).open[order.side] += order.leaves
        account.orders[order.order_id] = order
        self.orders_open += 1
        if order.time_in_force == TimeInForce.GTD:
            self.orders_dated[order.order_id] = order

    def lower(self, order: Order, by: int) -> None:
        """Take `by` from a resting order's leaves; at zero it is off the book and out of every index of open orders."""
        account = self._touch(order)
        self.instruments[order.instrument].sides[order.side].lower(order, by)
        account.holding(order.instrument).open[order.side] -= by
        if order.leaves == 0:
            del account.orders[order.order_id]
            self.orders_open -= 1
            self.orders_dated.pop(order.order_id, None)

    def move(self, account_index: int, instrument: int, quantity: int) -> None:
        """Change a position."""
        self._touch_holding(account_index, instrument).position += quantity

    def position_limit(self, account: Account, instrument: int) -> int:
        limit = account.holding(instrument).limit
        if limit < 0:
            limit = self.instruments[instrument].rules.position_limit
        return limit if limit >= 0 else OPEN_QUANTITY_MAX

    def _touch(self, order: Order) -> Account:
        key = (order.instrument, order.side, order.price)
        if key not in self.frame.levels_before:
            depth = self.instruments[order.instrument].sides[order.side].depth_at(order.price)
            self.frame.levels_before[key] = depth
        self._touch_holding(order.account_index, order.instrument)
        return self.accounts[order.account_index]

    def _touch_holding(self, account_index: int, instrument: int) -> Holding:
        holding = self.accounts[account_index].holding(instrument)
        if (account_index, instrument) not in self.frame.holdings_before:
            self.frame.holdings_before[account_index, instrument] = holding.state()
        return holding

    def covers(self, index: int) -> bool:
        """Whether an index names an instrument that is defined, or all."""
        return index == ALL_INSTRUMENTS or index in self.instruments

    def covered(self, index: int) -> list[int]:
        """Defined instruments that an index names, ascending."""
        return sorted(self.instruments) if index == ALL_INSTRUMENTS else [index]

    def open_orders(self, account: Account, index: int) -> list[Order]:
        """Open orders of an account in one instrument or all, ascending by id."""
        covers = account.orders.values()
        return by_id(order for order in covers if index in (ALL_INSTRUMENTS, order.instrument))

    def find_order(self, account: Account | None, index: int, order_id: int, target_id: str) -> Order | None:
        """The account's order in one instrument, by its id or by the client order id of its Submit."""
        if account is None:
            return None
        if order_id:
            order = self.orders.get(order_id)
            ours = order is not None and order.account_index == account.index and order.instrument == index
            return order if ours else None
        entry = account.window.entries.get((index, target_id))
        return entry.order if entry is not None else None


def by_id(orders: Iterable[Order]) -> list[Order]:
    return sorted(orders, key=lambda order: order.order_id)
