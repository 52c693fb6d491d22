"""The two protocols of a load test: what a frame of the flow looks like, and what an answer says. docs/API.md has both.

WebSocket: compact MessagePack frames, `[id, rows]`. The id is a 64-bit integer whose eight bytes are the frame's
placeholder, so filling in the number needs no encoder.
REST: whole HTTP requests; one order is POST /api/submit, several are POST /api/orders.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from exchange import messages as m
from exchange.domain import Flag, Kind, Reject, SelfTrade, Status, TimeInForce
from exchange.money import format_units
from exchange.wire import array_header, encode
from loadgen.workload import CURRENT, CancelOrder, Command, NewOrder

_UINT64 = b"\xcf"
_SUBMIT, _CANCEL = 1, 2

_BY_STATUS = {
    Status.NEW: "new",
    Status.PARTIALLY_FILLED: "filled",
    Status.FILLED: "filled",
    Status.CANCELED: "cancelled",
    Status.EXPIRED: "expired",
    Status.REJECTED: "rejected",
    Status.VOIDED: "rejected",
}
_BY_HTTP = {429: "throttled", 503: "unavailable", 504: "unknown"}


def encode_compact(commands: Sequence[Command]) -> bytes:
    """One binary frame of /ws/orders."""
    return array_header(2) + _UINT64 + CURRENT + encode([_row(command) for command in commands])


def _row(command: Command) -> list[Any]:
    match command:
        case NewOrder(market, side, price, quantity, take, identity):
            time_in_force = TimeInForce.IOC if take else TimeInForce.GTC
            how = [side, Kind.LIMIT, time_in_force, Flag(0), SelfTrade.NONE]
            return [_SUBMIT, market.index, *how, price, quantity, identity]
        case CancelOrder(market, identity):
            return [_CANCEL, market.index, 0, identity]
