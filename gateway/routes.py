"""The table of endpoints of the classic API, and the few lines between each and what answers it."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from exchange.domain import instrument_of
from exchange.limits import BATCH_BODY_BYTES_MAX
from gateway import classic
from gateway.classic import Answer
from gateway.core import requests as q
from gateway.core.admission import ORDER_PREFIX, Market
from gateway.core.problems import Problem
from gateway.core.throttle import Throttle
from gateway.http import Body, Call, Route, decoder
from gateway.orders import Orders, Page
from gateway.shards import Shards
from gateway.views import DEPTH_DEFAULT, DEPTH_MAX, TRADES_DEFAULT, TRADES_MAX, Views

OPEN_ORDERS_MAX = 1_000


class Endpoints:
    """One method for each endpoint. `draining` says whether the gateway is on its way out."""

    def __init__(
        self, *, shards: Shards, orders: Orders, views: Views, throttle: Throttle, draining: Callable[[], bool]
    ) -> None:
        self._shards = shards
        self._orders = orders
        self._views = views
        self._throttle = throttle
        self._draining = draining

    def routes(self, websocket: Callable[[Call], Awaitable[Answer | Problem | Body]]) -> list[Route]:
        """Everything that the gateway serves."""
        table = [
            Route("POST", "/api/submit", self._submit, "trade", "orders", _SUBMIT, orders=True),
            Route("DELETE", "/api/cancel/{}", self._cancel, "trade", "cancels", query=("symbol",), orders=True),
            Route(
                "POST", "/api/orders", self._batch, "trade", None, _BATCH, body_max=BATCH_BODY_BYTES_MAX, orders=True
            ),
            Route("GET", "/api/orders", self._open_orders, "read", query=("symbol", "after", "limit")),
            Route("DELETE", "/api/orders", self._cancel_all, "trade", "cancels", query=("symbol",), orders=True),
            Route("GET", "/api/orders/{}", self._status, "read", query=("symbol",)),
            Route("PATCH", "/api/orders/{}", self._amend, "trade", "orders", _AMEND, query=("symbol",), orders=True),
            Route("POST", "/api/orders/{}/resolve", self._resolve, "trade", "cancels", _RESOLVE, orders=True),
            Route("POST", "/api/deadman", self._dead_man, "trade", "cancels", _DEAD_MAN, orders=True),
            Route("GET", "/api/user/{}/positions", self._positions, "read", owner=True),
            Route("GET", "/api/book/{}", self._book, query=("depth",)),
            Route("GET", "/api/trades/{}", self._trades, query=("limit",)),
            Route("GET", "/api/performance/system", self._performance, "ops"),
            Route("GET", "/api/instruments", self._instruments),
            Route("GET", "/api/time", self._time),
            Route("GET", "/api/status", self._status_all, lane=None),
            Route("GET", "/health", self._health, lane=None, query=("strict",)),
            Route("GET", "/livez", self._live, lane=None),
            Route("GET", "/readyz", self._ready, lane=None),
            Route("GET", "/metrics", self._metrics, lane=None),
            Route("GET", "/ws/orders", websocket, "trade", query=("cancelOnDisconnect",)),
        ]
        index = {"service": "shardex gateway", "endpoints": [f"{r.method} {r.path}" for r in table]}

        async def list_endpoints(_: Call) -> Answer:
            return Answer(index)

        return [*table, Route("GET", "/", list_endpoints)]

    # --- orders -------------------------------------------------------------------------------------------------

    async def _submit(self, call: Call) -> Answer | Problem:
        fields: q.OrderFields = call.fields
        alias = call.request.headers.get("Idempotency-Key")
        if alias is not None and not fields.client_order_id:
            problem = _client_id(alias)
            if problem is not None:
                return problem
            fields = msgspec.structs.replace(fields, client_order_id=alias)
        return self._starting() or await self._orders.submit(call.who, fields, call.started_ns)

    async def _batch(self, call: Call) -> Answer | Problem:
        fields: q.BatchFields = call.fields
        others = [place for place, order in enumerate(fields.orders) if order.user_id not in ("", call.who.account)]
        if others:
            detail = f"orders[{others[0]}].user_id must be the account of the request"
            return Problem("FORBIDDEN", detail)
        quotas = self._throttle.profile.orders
        problem = self._starting() or self._throttle.take(call.who.account, quotas, len(fields.orders), call.started_ns)
        if problem is not None:
            return problem
        answers = await self._orders.batch(call.who, fields.orders, call.started_ns)
        return Answer({"success": True, "results": [classic.result(answer) for answer in answers]})

    async def _cancel(self, call: Call) -> Answer | Problem:
        symbol = call.query.get("symbol", "")
        return (
            self._starting()
            or _any_id(call.parameter)
            or await self._orders.cancel(call.who, call.parameter, symbol, call.started_ns)
        )

    async def _amend(self, call: Call) -> Answer | Problem:
        fields: q.AmendFields = call.fields
        if "symbol" in call.query:
            fields = msgspec.structs.replace(fields, symbol=call.query["symbol"])
        return (
            self._starting()
            or _any_id(call.parameter)
            or await self._orders.amend(call.who, call.parameter, fields, call.started_ns)
        )

    async def _resolve(self, call: Call) -> Answer | Problem:
        fields: q.ResolveFields = call.fields
        return (
            self._starting()
            or _client_id(call.parameter)
            or await self._orders.resolve(call.who, call.parameter, fields.symbol, call.started_ns)
        )

    async def _status(self, call: Call) -> Answer | Problem:
        symbol = call.query.get("symbol", "")
        return (
            self._starting()
            or _any_id(call.parameter)
            or await self._orders.status(call.who, call.parameter, symbol, call.started_ns)
        )

    async def _open_orders(self, call: Call) -> Answer | Problem:
        limit = _integer(call, "limit", OPEN_ORDERS_MAX, OPEN_ORDERS_MAX)
        after = call.query.get("after", f"{ORDER_PREFIX}0").removeprefix(ORDER_PREFIX)
        if isinstance(limit, Problem):
            return limit
        if not (after.isascii() and after.isdigit() and len(after) <= 16 and instrument_of(int(after)) < 1 << 13):
            return Problem("MALFORMED", f"after must be an order id such as {ORDER_PREFIX}17, not {after[:40]!r}")
        page = Page(call.query.get("symbol", ""), int(after), limit)
        return self._starting() or await self._orders.open_orders(call.who, page, call.started_ns)

    async def _cancel_all(self, call: Call) -> Answer | Problem:
        symbol = call.query.get("symbol", "")
        return self._starting() or await self._orders.cancel_all(call.who, symbol, call.started_ns)

    async def _dead_man(self, call: Call) -> Answer | Problem:
        fields: q.DeadManFields = call.fields
        return self._starting() or await self._orders.arm_dead_man(
            call.who, fields.timeout_ms, fields.symbol, call.started_ns
        )

    # --- views --------------------------------------------------------------------------------------------------

    async def _positions(self, call: Call) -> Answer | Problem:
        return self._starting() or await self._views.positions(call.who.account)

    async def _book(self, call: Call) -> Answer | Problem:
        market, depth = self._market(call), _integer(call, "depth", DEPTH_DEFAULT, DEPTH_MAX)
        if isinstance(market, Problem):
            return market
        return depth if isinstance(depth, Problem) else await self._views.book(market, depth)

    async def _trades(self, call: Call) -> Answer | Problem:
        market, limit = self._market(call), _integer(call, "limit", TRADES_DEFAULT, TRADES_MAX)
        if isinstance(market, Problem):
            return market
        return limit if isinstance(limit, Problem) else await self._views.trades(market, limit)

    async def _performance(self, _: Call) -> Answer:
        return await self._views.performance()

    async def _instruments(self, _: Call) -> Answer | Problem:
        return self._starting() or self._views.instruments()

    async def _time(self, _: Call) -> Answer:
        return self._views.time()

    async def _status_all(self, _: Call) -> Answer:
        return await self._views.status()

    async def _health(self, call: Call) -> Answer | Problem:
        strict = call.query.get("strict", "0")
        if strict not in ("0", "1"):
            return Problem("MALFORMED", f"strict must be 0 or 1, not {strict[:40]!r}")
        return await self._views.health(strict=strict == "1")

    async def _live(self, _: Call) -> Answer:
        return Answer({"alive": True})

    async def _ready(self, _: Call) -> Answer:
        return self._views.ready(draining=self._draining())

    async def _metrics(self, _: Call) -> web.Response:
        text = await self._views.metrics()
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    # --- helpers ------------------------------------------------------------------------------------------------

    def _starting(self) -> Problem | None:
        """Without a shard map nothing can be said about any symbol."""
        return None if self._shards.known else Problem("SHARD_DOWN", "the gateway has no shard map yet", 1)

    def _market(self, call: Call) -> Market | Problem:
        """Of a path: what is not there is not found."""
        starting = self._starting()
        if starting is not None:
            return starting
        market = self._shards.admission.market(call.parameter)
        return Problem("NOT_FOUND", market.detail) if isinstance(market, Problem) else market


def _any_id(id_: str) -> Problem | None:
    return _check_id(id_, q.AnyId, "an order id or client order id")


def _client_id(id_: str) -> Problem | None:
    return _check_id(id_, q.ClientId, "a client order id")


def _check_id(id_: str, type_: type[str], what: str) -> Problem | None:
    try:
        msgspec.convert(id_, type_)
    except msgspec.ValidationError:
        return Problem("MALFORMED", f"{id_[:40]!r} is not {what}")
    return None


def _integer(call: Call, name: str, default: int, most: int) -> int | Problem:
    text = call.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        return Problem("MALFORMED", f"{name} must be 1 to {most}, not {text[:40]!r}")
    return int(text)


_SUBMIT = decoder(q.OrderFields)
_BATCH = decoder(q.BatchFields)
_AMEND = decoder(q.AmendFields)
_RESOLVE = decoder(q.ResolveFields)
_DEAD_MAN = decoder(q.DeadManFields)
