"""Questions that travel through the log, in the reference engine: their answers are as good as decisions."""

from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, Reject, instrument_of
from shard.core.reference.answers import Answers
from shard.core.reference.market import Market
from shard.core.reference.rules import Refusal, accounts_full, unknown_instrument, window_full
from shard.core.reference.window import TOMBSTONE, Entry


class Queries:
    """QueryOrder, QueryOpen and Resolve."""

    def __init__(self, market: Market, answers: Answers) -> None:
        self._market = market
        self._answers = answers

    def query_order(self, command: m.QueryOrder) -> m.Reply:
        market = self._market
        if not market.covers(command.instrument):
            return self._answers.reject(command, unknown_instrument(command.instrument))
        account = market.accounts_by_name.get(command.account)
        named = command.instrument == ALL_INSTRUMENTS and command.order_id
        covered = [instrument_of(command.order_id)] if named else market.covered(command.instrument)
        for index in covered:
            order = market.find_order(account, index, command.order_id, command.target_id)
            if order is not None:
                return m.Order(market.epoch, market.seq, market.ts_ns, order.info())
        return self._answers.reject(command, Refusal(Reject.UNKNOWN_ORDER, command.order_id))

    def query_open(self, command: m.QueryOpen) -> m.Reply:
        market = self._market
        if not market.covers(command.instrument):
            return self._answers.reject(command, unknown_instrument(command.instrument))
        account = market.accounts_by_name.get(command.account)
        orders = market.open_orders(account, command.instrument) if account is not None else []
        after = [order for order in orders if order.order_id > command.after_order_id]
        infos = [order.info() for order in after[: command.limit]]
        return m.Orders(market.epoch, market.seq, market.ts_ns, infos, len(after) > command.limit)

    def resolve(self, command: m.Resolve) -> m.Reply:
        market = self._market
        if command.instrument not in market.instruments:
            return self._answers.reject(command, unknown_instrument(command.instrument))
        account = market.account(command.account)
        if account is None:
            return self._answers.reject(command, accounts_full(market))
        known = account.window.entries.get((command.instrument, command.client_order_id))
        if known is not None:
            return known.again()
        if not market.make_room(account):
            return self._answers.reject(command, window_full(market))
        answer = self._answers.reject(command, Refusal(Reject.VOIDED))
        market.remember(account, Entry(TOMBSTONE, command.instrument, command.client_order_id, 0, 0, answer))
        return answer
