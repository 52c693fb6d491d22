"""Encoding between daemons: one encoder, a typed decoder for each direction, MessagePack array headers by hand."""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec

from exchange import messages as m
from exchange.errors import WireError

PROTOCOL_VERSION = 1
T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""Any struct of exchange.messages, or a list of them, to MessagePack."""


class Decoder(Generic[T]):
    """Typed decoder that turns every malformed input into WireError with the place and the rule broken."""

    def __init__(self, subject: str, type_: Any) -> None:
        self._subject = subject
        self._decode = msgspec.msgpack.Decoder(type_).decode

    def __call__(self, data: bytes | memoryview) -> T:
        try:
            decoded: T = self._decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
            raise WireError(f"{self._subject}: {fault}") from fault
        return decoded


decode_shard_inbound: Decoder[m.ShardInbound] = Decoder("message to a shard", m.ShardInbound)
decode_shard_outbound: Decoder[m.ShardOutbound] = Decoder("message from a shard", m.ShardOutbound)
decode_published: Decoder[m.Published] = Decoder("header of an event frame", m.Published)
decode_coordinator_inbound: Decoder[m.CoordinatorInbound] = Decoder("message to the coordinator", m.CoordinatorInbound)
decode_coordinator_outbound: Decoder[m.CoordinatorOutbound] = Decoder(
    "message from the coordinator", m.CoordinatorOutbound
)
decode_replica: Decoder[m.ReplicaMessage] = Decoder("message between nodes", m.ReplicaMessage)
decode_risk_inbound: Decoder[m.RiskInbound] = Decoder("message to riskd", m.RiskInbound)
decode_risk_outbound: Decoder[m.RiskOutbound] = Decoder("message from riskd", m.RiskOutbound)
decode_market_inbound: Decoder[m.MarketInbound] = Decoder("message to marketdata", m.MarketInbound)
decode_market_outbound: Decoder[m.MarketOutbound] = Decoder("message from marketdata", m.MarketOutbound)

decode_commands: Decoder[list[m.Command]] = Decoder("commands", list[m.Command])
decode_replies: Decoder[list[m.Reply]] = Decoder("replies", list[m.Reply])
decode_replies_raw: Decoder[list[msgspec.Raw]] = Decoder("replies", list[msgspec.Raw])
decode_reply: Decoder[m.Reply] = Decoder("reply", m.Reply)
decode_frame: Decoder[m.EventFrame] = Decoder("event frame", m.EventFrame)
decode_frame_head: Decoder[m.FrameHead] = Decoder("event frame", m.FrameHead)
decode_frames: Decoder[list[msgspec.Raw]] = Decoder("event frames", list[msgspec.Raw])
decode_trades: Decoder[list[m.TradeRow]] = Decoder("trades", list[m.TradeRow])
decode_levels: Decoder[list[m.LevelRow]] = Decoder("levels", list[m.LevelRow])
decode_positions: Decoder[list[m.PositionRow]] = Decoder("positions", list[m.PositionRow])
decode_orders: Decoder[list[m.OrderRow]] = Decoder("order events", list[m.OrderRow])
decode_states: Decoder[list[m.StateRow]] = Decoder("states", list[m.StateRow])


def array_header(count: int) -> bytes:
    """MessagePack header of an array of `count` elements, shortest form."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def array_body_offset(payload: bytes) -> int:
    """Where the first element of a MessagePack array starts. WireError when the payload is no array."""
    first = payload[0] if payload else 0
    if 0x90 <= first <= 0x9F:
        return 1
    if first == 0xDC:
        return 3
    if first == 0xDD:
        return 5
    raise WireError(f"payload starts with byte 0x{first:02x}, not with a MessagePack array")


def join_array(elements: Iterable[bytes], count: int) -> bytes:
    """MessagePack array of `count` elements that are already encoded (an element may hold several in a row)."""
    return array_header(count) + b"".join(elements)
