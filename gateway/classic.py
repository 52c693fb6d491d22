"""The classic dialect: committed outcomes and views as the JSON bodies of /api/*. No business rule lives here.

Prices and quantities are JSON numbers without a binary float on the way: their exact text is put into the body.
"""

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from exchange import messages as m
from exchange.domain import NS_PER_S, NS_PER_US, Flag, Kind, Reject, SelfTrade, Side, Status, TimeInForce
from exchange.money import units_decimal
from gateway.core.admission import ORDER_PREFIX, TRADE_PREFIX, Market
from gateway.core.problems import Problem, rejection

_SIDES = {int(side): side.name for side in Side}
_STATUSES = {int(status): status.name for status in Status}
_KINDS = {int(kind): kind.name for kind in Kind}
_TIMES = {int(time): time.name for time in TimeInForce}
_SELF_TRADES = {int(mode): mode.name for mode in SelfTrade}

AVERAGE_DECIMALS = 4

encode_json = msgspec.json.Encoder(decimal_format="number").encode


class Answer(Struct, frozen=True):
    """What a request leads to: HTTP status and body, and where it was decided (epoch 0: in no log)."""

    body: Any
    http: int = 200
    shard: str = ""
    epoch: int = 0
    seq: int = 0
    replay: bool = False
    wait_s: int = 0
    headers: dict[str, str] = {}


class TradeBody(Struct, frozen=True):
    trade_id: str
    price: Raw
    quantity: Raw
    timestamp: str


class OrderBody(Struct, frozen=True, omit_defaults=True):
    """Answer to submit, amend and a resolve that found an execution."""

    success: bool
    order_id: str
    status: str
    trades: list[TradeBody]
    remaining_quantity: Raw
    latency_us: int
    client_order_id: str
    epoch: int
    seq: int
    reason: str = ""
    duplicate: bool = False


class CancelBody(Struct, frozen=True):
    success: bool
    order_id: str
    status: str
    remaining_quantity: Raw
    latency_us: int
    epoch: int
    seq: int


class OrderStatusBody(Struct, frozen=True, omit_defaults=True):
    """One order as it stands."""

    order_id: str
    client_order_id: str
    symbol: str
    side: str
    order_type: str
    time_in_force: str
    post_only: bool
    stp: str
    price: Raw
    quantity: Raw
    filled_quantity: Raw
    remaining_quantity: Raw
    status: str
    created: str
    reason: str = ""
    expires: str = ""


class ErrorBody(Struct, frozen=True, omit_defaults=True):
    """Every 4xx and 5xx. `http` is set where there is no status line of its own (one result of many)."""

    success: bool
    error: str
    code: int
    reason: str
    detail: str
    retryable: bool
    doc: str
    http: int = 0
    client_order_id: str = ""
    epoch: int = 0
    seq: int = 0
    duplicate: bool = False
    server_time_ms: int = 0
    shards: list["ShardBody"] = []


class ShardBody(Struct, frozen=True):
    """One shard's part of a sweep. status: DONE, NOT_EXECUTED or UNKNOWN; epoch, seq: its place in that shard's log."""

    shard: str
    status: str
    canceled: int = 0
    epoch: int = 0
    seq: int = 0


@lru_cache(maxsize=65_536)
def number(units: int, decimals: int) -> Raw:
    """Exact JSON number of units of 10^-decimals, without trailing zeros."""
    return Raw(f"{units_decimal(units, decimals):f}".encode())


def instant(ts_ns: int) -> str:
    """RFC 3339, microseconds, UTC."""
    seconds, rest = divmod(ts_ns, NS_PER_S)
    return f"{_second(seconds)}.{rest // NS_PER_US:06d}Z"


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> str:
    """Many stamps share their second, and formatting a date costs ten times the rest."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def order_id(number_: int) -> str:
    return f"{ORDER_PREFIX}{number_}"


def trade_id(number_: int) -> str:
    return f"{TRADE_PREFIX}{number_}"


def price(units: int, market: Market) -> Raw:
    return number(units, market.instrument.price_decimals)


def quantity(units: int, market: Market) -> Raw:
    return number(units, market.instrument.quantity_decimals)


def reason_text(code: int) -> str:
    """Name of why an order ended; empty when there is nothing to say."""
    return Reject(code).name if code else ""


def outcome(reply: m.Reply, market: Market, client_order_id: str, latency_us: int) -> Answer:
    """Answer to Submit, Replace, Reduce or Resolve."""
    if isinstance(reply, m.Rejected):
        return rejected(reply, market, client_order_id)
    assert isinstance(reply, m.Executed)
    stamp = instant(reply.ts_ns)
    trades = [
        TradeBody(trade_id(fill.trade_id), price(fill.price, market), quantity(fill.quantity, market), stamp)
        for fill in reply.fills
    ]
    body = OrderBody(
        True,
        order_id(reply.order_id),
        _STATUSES[reply.status],
        trades,
        quantity(reply.remaining, market),
        latency_us,
        client_order_id,
        reply.epoch,
        reply.seq,
        reason_text(reply.reason),
        reply.duplicate,
    )
    return Answer(body, 200, market.shard, reply.epoch, reply.seq, reply.duplicate)


def canceled(reply: m.Reply, market: Market, latency_us: int) -> Answer:
    """Answer to Cancel."""
    if isinstance(reply, m.Rejected):
        return rejected(reply, market, "")
    assert isinstance(reply, m.Executed)
    body = CancelBody(
        True,
        order_id(reply.order_id),
        _STATUSES[reply.status],
        quantity(reply.remaining, market),
        latency_us,
        reply.epoch,
        reply.seq,
    )
    return Answer(body, 200, market.shard, reply.epoch, reply.seq)


def rejected(reply: m.Rejected, market: Market, client_order_id: str) -> Answer:
    """The engine's no, with its place in the log."""
    problem = rejection(reply, market.instrument)
    body = _error(problem, client_order_id=client_order_id, epoch=reply.epoch, seq=reply.seq, replay=reply.duplicate)
    return Answer(body, problem.rule.http, market.shard, reply.epoch, reply.seq, reply.duplicate, _wait_s(problem))


def denied(problem: Problem, client_order_id: str = "", *, server_time_ms: int = 0) -> Answer:
    """The gateway's own no, or what it does not know."""
    body = _error(problem, client_order_id=client_order_id, server_time_ms=server_time_ms)
    return Answer(body, problem.rule.http, wait_s=_wait_s(problem))


def swept(shards: list[ShardBody], extra: dict[str, Any]) -> Answer:
    """A sweep: 200 when all shards are done, 504 when any is unknown, 503 when none was reached, else 409."""
    states = [shard.status for shard in shards]
    if all(state == "DONE" for state in states):
        return Answer({"success": True, **extra, "shards": shards})
    if "UNKNOWN" in states:
        problem = Problem("UNKNOWN", "not every shard answered before the deadline")
    elif "DONE" in states:
        problem = Problem("PARTIAL", "not every shard was reached")
    else:
        problem = Problem("SHARD_DOWN", "no shard was reached", 1)
    body = _error(problem, client_order_id="")
    return Answer(msgspec.structs.replace(body, shards=shards), problem.rule.http, wait_s=_wait_s(problem))


def result(answer: Answer) -> Any:
    """The body as one result of many, which has no status line of its own."""
    if isinstance(answer.body, ErrorBody):
        return msgspec.structs.replace(answer.body, http=answer.http)
    return answer.body


def order_status(info: m.OrderInfo, market: Market) -> OrderStatusBody:
    """One order; `remaining_quantity` = open, or what was given up when it ended."""
    return OrderStatusBody(
        order_id(info.order_id),
        info.client_order_id,
        market.name,
        _SIDES[info.side],
        _KINDS[info.kind],
        _TIMES[info.time_in_force],
        bool(info.flags & Flag.POST_ONLY),
        _SELF_TRADES[info.self_trade],
        price(info.price, market),
        quantity(info.quantity, market),
        quantity(info.filled, market),
        quantity(info.quantity - info.filled, market),
        _STATUSES[info.status],
        instant(info.created_ns),
        reason_text(info.reason),
        instant(info.expire_ns) if info.expire_ns else "",
    )


def levels(rows: list[tuple[int, int]], market: Market) -> list[list[Raw]]:
    return [[price(level_price, market), quantity(level_quantity, market)] for level_price, level_quantity in rows]


def public_trade(trade: m.PublicTrade, market: Market) -> dict[str, Any]:
    return {
        "trade_id": trade_id(trade.trade_id),
        "price": price(trade.price, market),
        "quantity": quantity(trade.quantity, market),
        "side": _SIDES[trade.side],
        "timestamp": instant(trade.ts_ns),
    }


def position(holding: m.Holding, market: Market) -> dict[str, Any]:
    """`avg_price` = cost / position, to four decimals more than the price has; null when flat."""
    average = None
    if holding.position:
        decimals = market.instrument.price_decimals
        units = Decimal(holding.cost) / holding.position
        average = units.scaleb(-decimals).quantize(Decimal(1).scaleb(-decimals - AVERAGE_DECIMALS)).normalize()
    return {
        "quantity": quantity(holding.position, market),
        "open_buy": quantity(holding.open_buy, market),
        "open_sell": quantity(holding.open_sell, market),
        "avg_price": Raw(f"{average:f}".encode()) if average is not None else None,
        "volume": quantity(holding.volume, market),
    }


def instrument(market: Market, *, serving: bool) -> dict[str, Any]:
    """Reference data of one market: what an order must keep to, and what compact frames count in."""
    i = market.instrument
    return {
        "symbol": i.base,
        "market": i.symbol,
        "index": i.index,
        "base": i.base,
        "quote": i.quote,
        "shard": i.shard,
        "serving": serving,
        "price_decimals": i.price_decimals,
        "quantity_decimals": i.quantity_decimals,
        "tick_size": price(i.tick, market),
        "lot_size": quantity(i.lot, market),
        "quantity_min": quantity(i.quantity_min, market),
        "quantity_max": quantity(i.quantity_max, market),
        "price_min": price(i.price_min, market),
        "price_max": price(i.price_max, market),
        "collar_bps": i.collar_bps,
        "reference_price": price(i.reference_price, market),
        "position_limit": None if i.position_limit < 0 else quantity(i.position_limit, market),
    }


def _error(
    problem: Problem,
    *,
    client_order_id: str,
    epoch: int = 0,
    seq: int = 0,
    replay: bool = False,
    server_time_ms: int = 0,
) -> ErrorBody:
    rule = problem.rule
    doc = f"/docs/errors#{problem.reason}"
    return ErrorBody(
        False,
        rule.error,
        rule.code,
        problem.reason,
        problem.detail,
        rule.retryable,
        doc,
        client_order_id=client_order_id,
        epoch=epoch,
        seq=seq,
        duplicate=replay,
        server_time_ms=server_time_ms,
    )


def _wait_s(problem: Problem) -> int:
    return problem.retry_after_s if problem.rule.http in (429, 503) else 0
