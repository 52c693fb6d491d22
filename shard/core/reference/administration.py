"""Commands about many orders, instruments, limits and time in the reference engine (PROTOCOL 1.1)."""

from exchange import messages as m
from exchange.domain import OrderEvent, Reject, State, TimeInForce
from shard.core.commands import NS_MAX
from shard.core.reference.answers import Answers
from shard.core.reference.book import Instrument, Order
from shard.core.reference.market import Market, by_id
from shard.core.reference.matching import Matching
from shard.core.reference.rules import Refusal, accounts_full, unknown_instrument

AGEING_ENTRIES_MAX = 1_024
"""Window entries that one Tick may evict or move."""


class Administration:
    """What operators, timers and the passing of time do."""

    def __init__(self, market: Market, answers: Answers, matching: Matching) -> None:
        self._market = market
        self._answers = answers
        self._matching = matching

    def mass_cancel(self, command: m.MassCancel) -> m.Reply:
        market = self._market
        if not market.covers(command.instrument):
            return self._answers.reject(command, unknown_instrument(command.instrument))
        if command.account:
            account = market.accounts_by_name.get(command.account)
            orders = market.open_orders(account, command.instrument) if account is not None else []
        else:
            covered = market.covered(command.instrument)
            orders = by_id(order for index in covered for order in market.instruments[index].orders())
        self._sweep(orders, OrderEvent.CANCELLED, Reject.MASS_CANCEL)
        return m.Swept(market.epoch, market.seq, market.ts_ns, len(orders))

    def set_state(self, command: m.SetState) -> m.Reply:
        if not self._market.covers(command.instrument):
            return self._answers.reject(command, unknown_instrument(command.instrument))
        for index in self._market.covered(command.instrument):
            instrument = self._market.instruments[index]
            if instrument.state == command.state:
                continue
            instrument.state = command.state
            self._answers.row_state(index, command.state, command.actor)
            if command.state == State.CLOSED:
                day = by_id(order for order in instrument.orders() if order.time_in_force == TimeInForce.DAY)
                self._sweep(day, OrderEvent.EXPIRED, Reject.DAY_END)
        return self._answers.done()

    def define_instrument(self, command: m.DefineInstrument) -> m.Reply:
        known = self._market.instruments.get(command.index)
        if known is None:
            self._market.instruments[command.index] = Instrument(command)
            self._answers.row_state(command.index, State.OPEN, "")
        elif known.rules.symbol == command.symbol:
            known.rules = command
        else:
            return self._answers.reject(command, Refusal(Reject.INSTRUMENT_CONFLICT, command.index))
        return self._answers.done()

    def set_position_limit(self, command: m.SetPositionLimit) -> m.Reply:
        if command.instrument not in self._market.instruments:
            return self._answers.reject(command, unknown_instrument(command.instrument))
        account = self._market.account(command.account)
        if account is None:
            return self._answers.reject(command, accounts_full(self._market))
        account.holding(command.instrument).limit = command.limit
        return self._answers.done()

    def arm_dead_man(self, command: m.ArmDeadMan) -> m.Reply:
        market = self._market
        if not market.covers(command.instrument):
            return self._answers.reject(command, unknown_instrument(command.instrument))
        account = market.account(command.account)
        if account is None:
            return self._answers.reject(command, accounts_full(market))
        if command.timeout_ns:
            market.dead_men[account.index, command.instrument] = min(market.ts_ns + command.timeout_ns, NS_MAX)
        else:
            market.dead_men.pop((account.index, command.instrument), None)
        return self._answers.done()

    def tick(self) -> m.Done:
        market = self._market
        now_ns = market.ts_ns
        due = [order for order in market.orders_dated.values() if order.expire_ns <= now_ns]
        due.sort(key=lambda order: (order.expire_ns, order.order_id))
        self._sweep(due, OrderEvent.EXPIRED, Reject.GTD_REACHED)
        fired = sorted((deadline, *key) for key, deadline in market.dead_men.items() if deadline <= now_ns)
        for _, account_index, index in fired:
            del market.dead_men[account_index, index]
            orders = market.open_orders(market.accounts[account_index], index)
            self._sweep(orders, OrderEvent.CANCELLED, Reject.DEAD_MAN)
        self._age_windows()
        return self._answers.done()

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

    def _sweep(self, orders: list[Order], event: OrderEvent, reason: Reject) -> None:
        for order in orders:
            self._matching.take_off(order, event, reason)
