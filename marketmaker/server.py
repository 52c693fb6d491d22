"""The market maker daemon: a normal client of gateway and feed that quotes every instrument. Shell.

Its quotes die with it: a dead-man timer in the shards cancels them when this process stops renewing it, and whatever
ends a session (no feed, no gateway, no positions, SIGTERM) cancels them at once where that is still possible.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS, NS_PER_S, NS_PER_US, Flag, Kind, SelfTrade, Side, TimeInForce
from exchange.errors import ConfigError, Unavailable
from exchange.limits import BATCH_ORDERS_MAX
from exchange.money import decimal_units
from exchange.process import ControlLink, Daemon, run_async
from marketmaker.core.maker import Maker, rules_of
from marketmaker.core.quoting import LiveQuote, Quote
from marketmaker.watch import Watch
from shardex.client import OpenOrder, Refusal, Rest, login_from_environment
from shardex.ordersession import CancelRow, OrderSession, Row, SubmitRow

DEAD_MAN_RENEW_NS = 1 * NS_PER_S
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.25, 5.0


def serve(daemon: Daemon) -> None:
    """Run until SIGTERM or SIGINT."""
    if not daemon.config.marketmaker.enabled:
        daemon.log.info("disabled", key="marketmaker.enabled")
        return
    run_async(MarketMaker(daemon).run)


class MarketMaker:
    """Keeps a session with the exchange, and starts a new one, with backoff, when it breaks."""

    def __init__(self, daemon: Daemon) -> None:
        self._log = daemon.log
        self._daemon = daemon
        self._house = daemon.config.marketmaker
        gateway, feed = daemon.config.gateway, daemon.config.marketdata
        self._url = f"http://{gateway.host}:{gateway.port}"
        self._feed_url = f"ws://{feed.host}:{feed.port}"
        self._login = login_from_environment(self._house.account)
        self._makers = _makers(daemon)
        self._run_id = f"mm{wall_ns() // NS_PER_US:x}"
        self._placed = 0
        self._open = 0
        self._quoting = False
        self._link: ControlLink

    async def run(self, stop: asyncio.Event) -> None:
        """Quote until `stop`."""
        self._link = ControlLink(self._daemon, endpoints={}, stats=self._stats, on_map=lambda _: None)
        backoff_s = BACKOFF_MIN_S
        while not stop.is_set():
            try:
                await self._session(stop)
            except (Unavailable, Refusal) as fault:
                self._log.warning("session ended", reason=str(fault), again_in_s=backoff_s)
                backoff_s = BACKOFF_MIN_S if self._quoting else min(2 * backoff_s, BACKOFF_MAX_S)
                self._show(quoting=False)
                await _first_of(stop.wait(), asyncio.sleep(backoff_s))
        await self._link.close()

    async def _session(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until something that quoting needs is gone (Unavailable, Refusal)."""
        watch = Watch(self._feed_url, self._makers)
        async with Rest(self._url, self._login) as rest, OrderSession(self._url, self._login) as orders:
            try:
                await _first_of(stop.wait(), watch.run(), self._quote(rest, orders, watch))
            finally:
                try:
                    await rest.cancel_all()
                except (Unavailable, Refusal) as fault:
                    self._log.warning("quotes are left to the dead-man timer", reason=str(fault))

    async def _quote(self, rest: Rest, orders: OrderSession, watch: Watch) -> None:
        """Turn after turn; the timer is armed before the first quote and renewed well before it can strike."""
        renew_ns = min(DEAD_MAN_RENEW_NS, self._house.dead_man_ms * NS_PER_MS // 3)
        armed_ns = monotonic_ns() - renew_ns
        while True:
            now = monotonic_ns()
            if now - armed_ns >= renew_ns:
                await rest.arm_dead_man(self._house.dead_man_ms)
                armed_ns = now
            await self._turn(rest, orders, watch)
            await asyncio.sleep(self._house.interval_ms * NS_PER_MS / NS_PER_S)

    async def _turn(self, rest: Rest, orders: OrderSession, watch: Watch) -> None:
        """Look at positions and open quotes, then move what has to move, cancels first."""
        positions, open_orders = await asyncio.gather(rest.positions(), rest.open_orders())
        rows: list[Row] = []
        for symbol, maker in self._makers.items():
            if symbol in watch.seen:
                instrument = maker.instrument
                live = [_live(order, maker) for order in open_orders if order.symbol == symbol]
                held = positions.get(symbol)
                inventory = 0 if held is None else decimal_units(held, instrument.quantity_decimals)
                plan = maker.turn(live, inventory)
                rows += [CancelRow(instrument.index, 0, quote.client_order_id) for quote in plan.cancels]
                rows += [self._submit(instrument, quote) for quote in plan.submits]
        for start in range(0, len(rows), BATCH_ORDERS_MAX):
            await orders.send(rows[start : start + BATCH_ORDERS_MAX])
        self._open = len(open_orders)
        self._show(quoting=len(watch.seen) == len(self._makers))

    def _submit(self, instrument: m.Instrument, quote: Quote) -> SubmitRow:
        self._placed += 1
        return SubmitRow(
            instrument.index,
            quote.side,
            Kind.LIMIT,
            TimeInForce.GTC,
            Flag.POST_ONLY,
            SelfTrade.NEWEST,
            quote.price,
            quote.quantity,
            f"{self._run_id}.{self._placed:x}",
        )

    def _show(self, *, quoting: bool) -> None:
        if quoting is not self._quoting:
            self._quoting = quoting
            self._log.info("quoting" if quoting else "not quoting", instruments=len(self._makers))
            self._link.beat_now()

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        return self._quoting, {"quotes_open": self._open, "quotes_placed": self._placed}


def _makers(daemon: Daemon) -> dict[str, Maker]:
    """One maker for each instrument of the configuration, by its classic symbol."""
    house, faults = daemon.config.marketmaker, []
    makers: dict[str, Maker] = {}
    for instrument in daemon.config.instrument_list():
        try:
            makers[instrument.base] = Maker(instrument, rules_of(instrument, house))
        except ValueError as fault:
            faults.append(f"[marketmaker] quantities do not fit {instrument.symbol}: {fault}")
    if faults:
        raise ConfigError(faults)
    return makers


def _live(order: OpenOrder, maker: Maker) -> LiveQuote:
    instrument = maker.instrument
    return LiveQuote(
        order.client_order_id,
        Side[order.side],
        decimal_units(order.price, instrument.price_decimals),
        decimal_units(order.remaining_quantity, instrument.quantity_decimals),
    )


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Run them side by side until one ends; the others are cancelled, its exception is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
