"""Replies and rows of the reference engine: how an outcome is worded (PROTOCOL 1.4 and 1.5)."""

from exchange import messages as m
from exchange.domain import OrderEvent, Reject
from shard.core.reference.book import Order
from shard.core.reference.market import Market
from shard.core.reference.rules import Refusal

Target = m.Cancel | m.Replace | m.Reduce | m.QueryOrder
"""Commands that name an order: their refusals name it too."""


class Answers:
    """Words replies with the stamp of the command in hand and appends rows to the frame of its record."""

    def __init__(self, market: Market) -> None:
        self._market = market

    def done(self) -> m.Done:
        return m.Done(self._market.epoch, self._market.seq, self._market.ts_ns)

    def executed(self, order: Order, fills: list[m.Fill], *, remaining: int) -> m.Executed:
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

    def reject(self, command: m.Command, refusal: Refusal) -> m.Rejected:
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

    def row(self, kind: OrderEvent, order: Order, quantity: int, leaves: int, reason: int = Reject.NONE) -> None:
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

    def row_state(self, index: int, state: int, actor: str) -> None:
        frame = self._market.frame
        frame.states.append(m.StateRow(frame.seq, frame.next_sub(), index, state, actor))

    def _row_rejected(
        self, code: Reject, order_id: int, account: str, id_: str, side: int = 0, price: int = 0, quantity: int = 0
    ) -> None:
        frame = self._market.frame
        kind = OrderEvent.REJECTED
        frame.orders.append(
            m.OrderRow(frame.seq, frame.next_sub(), kind, order_id, account, id_, side, price, quantity, 0, code)
        )
