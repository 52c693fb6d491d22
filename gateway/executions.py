"""The `executions` channel: what happened to an account's own orders, from the committed streams of all shards.

The streams are followed only while somebody listens, and from the moment the first one began to.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_S, OrderEvent, Side, instrument_of
from exchange.feed import Feed
from exchange.follower import Cursor
from exchange.process import Log
from exchange.wire import decode_orders, decode_reply, decode_trades
from gateway import classic
from gateway.shards import Shards

ASK_NS = 1 * NS_PER_S
_PROBE = m.QueryOpen("executions", limit=1)

Push = Callable[[bytes], None]
"""Takes one encoded JSON message for one listener."""


class Executions:
    """Listeners by account, and the feed that serves them all."""

    def __init__(self, consumer: str, shards: Shards, log: Log) -> None:
        self._consumer = consumer
        self._shards = shards
        self._log = log
        self._listeners: dict[str, dict[int, Push]] = {}
        self._feed: Feed | None = None
        self._map: m.ShardMap | None = None
        self._since_ns = 0
        self._changing = asyncio.Lock()

    def on_map(self, map_: m.ShardMap) -> None:
        """Follow the shards of a newer map."""
        self._map = map_
        if self._feed is not None:
            self._feed.on_map(map_)

    async def listen(self, account: str, listener: int, push: Push) -> None:
        """From the return on, everything that is committed for `account` is pushed. Doing so twice does no harm."""
        async with self._changing:
            self._listeners.setdefault(account, {})[listener] = push
            if self._feed is None:
                self._since_ns = wall_ns()
                cursors = await self._newest()
                self._feed = Feed(
                    self._consumer, on_frame=self._on_frame, on_image=self._on_image, log=self._log, cursors=cursors
                )
                if self._map is not None:
                    self._feed.on_map(self._map)

    async def leave(self, account: str, listener: int) -> None:
        """A listener has enough, or is gone; without any the feed ends."""
        async with self._changing:
            listeners = self._listeners.get(account, {})
            listeners.pop(listener, None)
            if not listeners:
                self._listeners.pop(account, None)
            if not self._listeners and self._feed is not None:
                await self._feed.close()
                self._feed = None

    async def _newest(self) -> dict[str, Cursor]:
        """Where each shard's log stands now; one that is away is read from its start, old frames skipped."""
        asked = [link for link in self._shards.links.values() if link.lane.serving]
        deadline_ns = monotonic_ns() + ASK_NS
        answers = await asyncio.gather(*[link.ask([_PROBE], deadline_ns) for link in asked])
        cursors = {}
        for link, settled in zip(asked, answers, strict=True):
            if settled.problem is None:
                reply = decode_reply(settled.replies[0])
                cursors[link.lane.shard] = Cursor(reply.epoch, reply.seq)
        return cursors

    def _on_frame(self, shard: str, head: m.FrameHead) -> None:
        if head.ts_ns < self._since_ns:
            return
        events: list[tuple[int, int, str, dict[str, Any]]] = []
        for trade in decode_trades(head.trades):
            for maker, account in ((False, trade.taker_account), (True, trade.maker_account)):
                if account in self._listeners:
                    events.append((trade.seq, trade.sub, account, self._trade(trade, maker=maker)))
        rows = [row for row in decode_orders(head.orders) if row.account in self._listeners]
        events += [(row.seq, row.sub, row.account, self._order(row)) for row in rows]
        place = {"shard": shard, "epoch": head.epoch, "timestamp": classic.instant(head.ts_ns)}
        for seq, sub, account, event in sorted(events, key=lambda event: event[:2]):
            self._push(account, {**event, **place, "seq": seq, "sub": sub})

    def _on_image(self, shard: str, head: m.FrameHead) -> None:
        """The shard no longer has what was missed: say so, as the events themselves cannot be told."""
        for account in self._listeners:
            self._push(account, {"type": "gap", "shard": shard, "epoch": head.epoch, "seq": head.last_seq})

    def _push(self, account: str, event: dict[str, Any]) -> None:
        text: bytes = classic.encode_json({"channel": "executions", **event})
        for push in list(self._listeners.get(account, {}).values()):
            push(text)

    def _trade(self, trade: m.TradeRow, *, maker: bool) -> dict[str, Any]:
        market = self._shards.admission.markets[instrument_of(trade.trade_id)]
        side = Side(1 - trade.taker_side) if maker else Side(trade.taker_side)
        return {
            "type": "trade",
            "symbol": market.name,
            "trade_id": classic.trade_id(trade.trade_id),
            "order_id": classic.order_id(trade.maker_order_id if maker else trade.taker_order_id),
            "client_order_id": trade.maker_client_order_id if maker else trade.taker_client_order_id,
            "side": side.name,
            "price": classic.price(trade.price, market),
            "quantity": classic.quantity(trade.quantity, market),
            "remaining_quantity": classic.quantity(trade.maker_leaves if maker else trade.taker_leaves, market),
            "maker": maker,
        }

    def _order(self, row: m.OrderRow) -> dict[str, Any]:
        event: dict[str, Any] = {
            "type": "order",
            "event": OrderEvent(row.kind).name,
            "order_id": classic.order_id(row.order_id) if row.order_id else "",
            "client_order_id": row.client_order_id,
            "side": Side(row.side).name,
            "reason": classic.reason_text(row.reason),
        }
        market = self._shards.admission.markets.get(instrument_of(row.order_id))
        if row.order_id and market is not None:
            event["symbol"] = market.name
            event["price"] = classic.price(row.price, market)
            event["quantity"] = classic.quantity(row.quantity, market)
            event["remaining_quantity"] = classic.quantity(row.leaves, market)
        return event
