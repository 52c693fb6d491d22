"""Matching of the reference engine: rules 18 to 20 of PROTOCOL 1.1, and how an order ends."""

from exchange import messages as m
from exchange.domain import Kind, OrderEvent, Reject, SelfTrade, Side, Status, TimeInForce, compose_id
from shard.core.reference.answers import Answers
from shard.core.reference.book import Instrument, Order
from shard.core.reference.market import Market

_ENDS_FOK_WALK = (SelfTrade.NEWEST, SelfTrade.BOTH, SelfTrade.DECREMENT)


class Matching:
    """Lets takers meet makers. A taker is never in the book while it is matched."""

    def __init__(self, market: Market, answers: Answers) -> None:
        self._market = market
        self._answers = answers

    def fillable(self, taker: Order, instrument: Instrument, bound: int | None) -> bool:
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

    def execute(self, taker: Order, instrument: Instrument, bound: int | None) -> m.Executed:
        """Match a taker down to its price bound and settle what is left of it."""
        fills, prevented = self._match(taker, instrument, bound)
        return self._conclude(taker, instrument, fills, prevented)

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
                self._answers.row(OrderEvent.REDUCED, order, quantity, order.leaves, Reject.SELF_TRADE)
                if order.leaves == 0:
                    self._answers.row(OrderEvent.CANCELLED, order, 0, 0, Reject.SELF_TRADE)
                    order.end(Status.CANCELED, Reject.SELF_TRADE)
            return taker.leaves == 0
        if mode in (SelfTrade.OLDEST, SelfTrade.BOTH):
            self.take_off(maker, OrderEvent.CANCELLED, Reject.SELF_TRADE)
        return mode in (SelfTrade.NEWEST, SelfTrade.BOTH)

    def _conclude(self, order: Order, instrument: Instrument, fills: list[m.Fill], prevented: bool) -> m.Executed:
        """Rule 20: what becomes of a taker after its match."""
        left = order.leaves
        if prevented:
            if left:
                self._answers.row(OrderEvent.CANCELLED, order, left, 0, Reject.SELF_TRADE)
                order.end(Status.CANCELED, Reject.SELF_TRADE)
            return self._answers.executed(order, fills, remaining=left)
        if left == 0:
            return self._answers.executed(order, fills, remaining=0)
        if order.kind == Kind.MARKET:
            beyond = instrument.sides[1 - order.side].best() is not None
            return self.expire(order, fills, Reject.PRICE_COLLAR if beyond else Reject.NO_LIQUIDITY)
        if order.time_in_force == TimeInForce.IOC:
            return self.expire(order, fills, Reject.IOC_REMAINDER)
        self._market.rest(order)
        return self._answers.executed(order, fills, remaining=left)

    def expire(self, order: Order, fills: list[m.Fill], reason: Reject) -> m.Executed:
        """End a taker that may not rest."""
        left = order.leaves
        self._answers.row(OrderEvent.EXPIRED, order, left, 0, reason)
        order.end(Status.EXPIRED, reason)
        return self._answers.executed(order, fills, remaining=left)

    def take_off(self, order: Order, event: OrderEvent, reason: Reject) -> int:
        """End a resting order; how much of it was open."""
        left = order.leaves
        self._market.lower(order, left)
        self._answers.row(event, order, left, 0, reason)
        order.end(Status.EXPIRED if event == OrderEvent.EXPIRED else Status.CANCELED, reason)
        return left
