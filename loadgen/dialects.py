"""The two protocols of a load test: what a frame of the flow looks like, and what an answer says. docs/API.md has both.

WebSocket: compact MessagePack frames, `[id, rows]`. The id is a 64-bit integer whose eight bytes are the frame's
placeholder, so filling in the number needs no encoder.
REST: whole HTTP requests; one order is POST /api/submit, several are POST /api/orders, a cancel is DELETE /api/cancel.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from exchange.domain import Flag, Kind, SelfTrade, Side, Status, TimeInForce
from exchange.money import format_units
from exchange.wire import array_header, encode
from loadgen.openloop import Outcomes
from loadgen.workload import CURRENT, CancelOrder, Command, NewOrder
from shardex.ordersession import CancelRow, Row, SubmitRow

_UINT64 = b"\xcf"
_ID = slice(2, 10)
"""Where the id of a compact answer stands: behind the array header and the type byte."""
_RESULT = re.compile(rb'"status":"([A-Z_]+)"|"http":([0-9]+)')
_OUTCOMES = {
    "NEW": "new",
    "PARTIALLY_FILLED": "filled",
    "FILLED": "filled",
    "CANCELED": "cancelled",
    "EXPIRED": "expired",
    "REJECTED": "rejected",
    "VOIDED": "rejected",
}
_BY_STATUS = {int(status): _OUTCOMES[status.name] for status in Status}
_REFUSALS = {429: "throttled", 503: "unavailable", 504: "unknown"}
_encode_json = msgspec.json.Encoder().encode


def encode_compact(commands: Sequence[Command]) -> bytes:
    """One binary frame of /ws/orders."""
    return array_header(2) + _UINT64 + CURRENT + encode([_row(command) for command in commands])


def encode_rest(commands: Sequence[Command], *, host: str, port: int, account: str) -> bytes:
    """One HTTP request: a batch must hold new orders only."""
    first = commands[0]
    if len(commands) > 1:
        orders = [_fields(command) for command in commands if isinstance(command, NewOrder)]
        body = _encode_json({"user_id": account, "orders": orders})
        return _request("POST", "/api/orders", host, port, body)
    if isinstance(first, NewOrder):
        return _request("POST", "/api/submit", host, port, _encode_json({"user_id": account, **_fields(first)}))
    path = f"/api/cancel/{first.client_order_id}?symbol={first.market.symbol}&user_id={account}"
    return _request("DELETE", path, host, port, b"")


def number_of(body: bytes) -> int:
    """Which frame a compact answer belongs to."""
    return int(body[_ID], 16)


def read_compact(status: int, body: bytes) -> Outcomes:
    """Outcomes of a compact answer. About 0.4 microseconds an order."""
    del status
    answer = _decode_answer(body)
    if answer.problem is not None:
        return _refusal(answer.problem.http)
    outcomes: dict[str, int] = {}
    for result in answer.results:
        match result:
            case _Executed():
                outcome = _BY_STATUS[result.status]
            case _Rejected():
                outcome = "rejected"
            case _Problem():
                outcome = _refusal(result.http)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def read_rest(status: int, body: bytes) -> Outcomes:
    """Outcomes of an HTTP answer."""
    if status != 200:
        return _refusal(status)
    found = _RESULT.findall(body)
    if len(found) == 1:
        return _outcome(*found[0])
    return Counter([_outcome(word, http) for word, http in found])


class _Head(msgspec.Struct, array_like=True, gc=False):
    """The first fields of a result; what follows is skipped."""


class _Executed(_Head, tag=1, gc=False):
    epoch: int
    seq: int
    ts_ns: int
    duplicate: bool
    order_id: int
    status: int


class _Rejected(_Head, tag=2, gc=False):
    epoch: int


class _Problem(_Head, tag=0, gc=False):
    http: int


class _Answer(msgspec.Struct, array_like=True):
    id: int
    results: list[_Executed | _Rejected | _Problem]
    problem: _Problem | None = None


_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


def _outcome(word: bytes, http: bytes) -> str:
    return _OUTCOMES[word.decode()] if word else _refusal(int(http))


def _refusal(status: int) -> str:
    return _REFUSALS.get(status, "rejected")


def _row(command: Command) -> Row:
    match command:
        case NewOrder(market, side, price, quantity, take, identity):
            time_in_force = TimeInForce.IOC if take else TimeInForce.GTC
            how = (side, Kind.LIMIT, time_in_force, Flag(0), SelfTrade.NONE)
            return SubmitRow(market.index, *how, price, quantity, identity)
        case CancelOrder(market, identity):
            return CancelRow(market.index, 0, identity)


def _fields(order: NewOrder) -> dict[str, Any]:
    return {
        "symbol": order.market.symbol,
        "side": Side(order.side).name,
        "price": msgspec.Raw(format_units(order.price, order.market.price_decimals).encode()),
        "quantity": msgspec.Raw(format_units(order.quantity, order.market.quantity_decimals).encode()),
        "time_in_force": (TimeInForce.IOC if order.take else TimeInForce.GTC).name,
        "stp": SelfTrade.NONE.name,
        "client_order_id": order.client_order_id,
    }


def _request(method: str, target: str, host: str, port: int, body: bytes) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}:{port}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body
