"""What clients may send: the JSON requests of the classic dialect and the compact MessagePack rows of /ws/orders.

JSON prices and quantities stay undecoded text (`Raw`) until an instrument says how many decimals they may have; in
compact rows they are integer units. Unknown fields are refused; of a repeated JSON key the last one wins.
"""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from exchange.domain import (
    CLIENT_ORDER_ID_MAX,
    NS_PER_MS,
    OPEN_QUANTITY_MAX,
    PRICE_MAX,
    QUANTITY_MAX,
    Kind,
    QuantityBasis,
    SelfTrade,
    Side,
    TimeInForce,
)
from exchange.limits import BATCH_ORDERS_MAX, ORDER_DEADLINE_NS

ABSENT = Raw(b"")
DEADLINE_MS = ORDER_DEADLINE_NS // NS_PER_MS
DEADLINE_MS_MAX = 30_000
DEAD_MAN_MS_MAX = 24 * 60 * 60 * 1_000

_ALPHABET = r"[.A-Za-z0-9:/_-]"
ClientId = Annotated[str, Meta(pattern=rf"^(?!ORD-){_ALPHABET}{{0,{CLIENT_ORDER_ID_MAX}}}\Z")]
"""Client order id, or "" = generate one. "ORD-" is kept for order ids."""
AnyId = Annotated[str, Meta(pattern=rf"^{_ALPHABET}{{1,{CLIENT_ORDER_ID_MAX}}}\Z")]
"""Order id ("ORD-17") or client order id."""
DeadlineMs = Annotated[int, Meta(ge=1, le=DEADLINE_MS_MAX)]
Instant = Annotated[int, Meta(ge=0, le=OPEN_QUANTITY_MAX)]
InstantMs = Annotated[int, Meta(ge=0, le=OPEN_QUANTITY_MAX // NS_PER_MS)]


class OrderFields(Struct, forbid_unknown_fields=True):
    """POST /api/submit, one element of a batch, and {"op": "submit"} of /ws/orders."""

    symbol: str
    side: str
    quantity: Raw
    order_type: str = "LIMIT"
    price: Raw = ABSENT
    user_id: str = ""
    client_order_id: ClientId = ""
    time_in_force: str = ""
    post_only: bool = False
    stp: str = "NEWEST"
    expire_at_ms: InstantMs = 0
    deadline_ms: DeadlineMs = DEADLINE_MS


class BatchFields(Struct, forbid_unknown_fields=True):
    """POST /api/orders and {"op": "batch"}."""

    orders: Annotated[list[OrderFields], Meta(min_length=1, max_length=BATCH_ORDERS_MAX)]
    user_id: str = ""


class AmendFields(Struct, forbid_unknown_fields=True):
    """PATCH /api/orders/{id} and {"op": "amend"}: what is absent stays as it is."""

    price: Raw = ABSENT
    quantity: Raw = ABSENT
    remaining_quantity: Raw = ABSENT
    reduce_by: Raw = ABSENT
    symbol: str = ""
    client_order_id: ClientId = ""
    user_id: str = ""
    deadline_ms: DeadlineMs = DEADLINE_MS


class ResolveFields(Struct, forbid_unknown_fields=True):
    """POST /api/orders/{client_order_id}/resolve."""

    symbol: str
    user_id: str = ""


class DeadManFields(Struct, forbid_unknown_fields=True):
    """POST /api/deadman: cancel my orders unless this is repeated within `timeout_ms`; 0 = off."""

    timeout_ms: Annotated[int, Meta(ge=0, le=DEAD_MAN_MS_MAX)]
    symbol: str = ""
    user_id: str = ""


# --- JSON frames of /ws/orders: the same fields, with "op" and an "id" that the answer echoes ---------------------

FrameId = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=64)] | None


class SubmitFrame(OrderFields, tag_field="op", tag="submit"):
    id: FrameId = None


class BatchFrame(BatchFields, tag_field="op", tag="batch"):
    id: FrameId = None


class AmendFrame(AmendFields, tag_field="op", tag="amend", kw_only=True):
    order_id: AnyId
    id: FrameId = None


class CancelFrame(Struct, forbid_unknown_fields=True, tag_field="op", tag="cancel"):
    order_id: AnyId
    symbol: str = ""
    id: FrameId = None


class CancelAllFrame(Struct, forbid_unknown_fields=True, tag_field="op", tag="cancel_all"):
    symbol: str = ""
    id: FrameId = None


class SubscribeFrame(Struct, forbid_unknown_fields=True, tag_field="op", tag="subscribe"):
    channel: str
    id: FrameId = None


class UnsubscribeFrame(Struct, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"):
    channel: str
    id: FrameId = None


class PingFrame(Struct, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    id: FrameId = None


JsonFrame = (
    SubmitFrame | BatchFrame | AmendFrame | CancelFrame | CancelAllFrame | SubscribeFrame | UnsubscribeFrame | PingFrame
)


# --- compact frames of /ws/orders ---------------------------------------------------------------------------------

Market = str | int
"""Symbol ("AAPL", "AAPLUSD") or index of the instrument."""
Price = Annotated[int, Meta(ge=0, le=PRICE_MAX)]
Quantity = Annotated[int, Meta(ge=0, le=QUANTITY_MAX)]
OrderNumber = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Row(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """One command of a compact frame. Tags are those of the engine's commands; trailing defaults may be left out."""


class SubmitRow(Row, tag=1):
    market: Market
    side: Annotated[int, Meta(ge=0, le=int(max(Side)))]
    kind: Annotated[int, Meta(ge=0, le=int(max(Kind)))]
    time_in_force: Annotated[int, Meta(ge=0, le=int(max(TimeInForce)))]
    flags: Annotated[int, Meta(ge=0, le=1)]
    self_trade: Annotated[int, Meta(ge=0, le=int(max(SelfTrade)))]
    price: Price
    quantity: Quantity
    client_order_id: ClientId = ""
    expire_ns: Instant = 0


class CancelRow(Row, tag=2):
    market: Market
    order_id: OrderNumber
    target_id: ClientId = ""


class ReplaceRow(Row, tag=3):
    market: Market
    order_id: OrderNumber
    target_id: ClientId
    price: Price
    quantity: Quantity
    basis: Annotated[int, Meta(ge=0, le=int(max(QuantityBasis)))]
    client_order_id: ClientId = ""


class ReduceRow(Row, tag=4):
    market: Market
    order_id: OrderNumber
    target_id: ClientId
    quantity: Quantity
    client_order_id: ClientId = ""


CommandRow = SubmitRow | CancelRow | ReplaceRow | ReduceRow


class CompactFrame(Row):
    """`[id, rows]` or `[id, rows, deadline_ms]`."""

    id: int
    rows: Annotated[list[CommandRow], Meta(min_length=1, max_length=BATCH_ORDERS_MAX)]
    deadline_ms: DeadlineMs = DEADLINE_MS
