"""Everything that crosses a socket comes back equal; everything else is one clear error."""

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import messages as m
from exchange import wire
from exchange.errors import WireError

I64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=20)


def structs(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a message struct, from the types of its fields."""
    return st.builds(lambda values: kind(**values), st.fixed_dictionaries(
        {field.name: values(field.type) for field in msgspec.structs.fields(kind)}
    ))  # fmt: skip


def values(kind: Any) -> st.SearchStrategy[Any]:
    origin, arguments = getattr(kind, "__origin__", None), getattr(kind, "__args__", ())
    if kind is int:
        return I64
    if kind is str:
        return TEXT
    if kind is bool:
        return st.booleans()
    if kind is Any:
        return st.one_of(I64, TEXT, st.booleans())
    if kind is msgspec.Raw:
        return st.lists(I64, max_size=3).map(lambda element: msgspec.Raw(wire.encode(element)))
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    return structs(kind)


DIRECTIONS: list[tuple[Any, Any]] = [
    (wire.decode_shard_inbound, m.ShardInbound),
    (wire.decode_shard_outbound, m.ShardOutbound),
    (wire.decode_coordinator_inbound, m.CoordinatorInbound),
    (wire.decode_coordinator_outbound, m.CoordinatorOutbound),
    (wire.decode_risk_outbound, m.RiskOutbound),
    (wire.decode_market_inbound, m.MarketInbound),
    (wire.decode_market_outbound, m.MarketOutbound),
]
FAMILIES = [(decode, kind) for decode, union in DIRECTIONS for kind in union.__args__] + [
    (wire.decode_published, m.Published),
    (wire.decode_risk_inbound, m.RiskInbound),
    (wire.decode_frame, m.EventFrame),
    *[(wire.decode_commands, kind) for kind in m.Command.__args__],
    *[(wire.decode_replies, kind) for kind in m.Reply.__args__],
]


@pytest.mark.parametrize(("decode", "kind"), FAMILIES, ids=[kind.__name__ for _, kind in FAMILIES])
@settings(max_examples=20)
@given(data=st.data())
def test_every_message_comes_back_equal(decode: Any, kind: Any, data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    listed = decode in (wire.decode_commands, wire.decode_replies)
    encoded = wire.encode([message] if listed else message)
    assert wire.encode(decode(encoded)) == encoded
    if not any(field.type is msgspec.Raw for field in msgspec.structs.fields(kind)):
        assert decode(encoded) == ([message] if listed else message)


@pytest.mark.parametrize(("decode", "kind"), FAMILIES, ids=[kind.__name__ for _, kind in FAMILIES])
@settings(max_examples=20)
@given(data=st.data())
def test_a_message_that_is_cut_or_goes_on_is_refused(decode: Any, kind: Any, data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    encoded = wire.encode([message] if decode in (wire.decode_commands, wire.decode_replies) else message)
    for length in range(len(encoded)):
        with pytest.raises(WireError):
            decode(encoded[:length])
    with pytest.raises(WireError):
        decode(encoded + b"\xc0")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read_but_never_crash(garbage: bytes) -> None:
    for decode, _ in DIRECTIONS:
        try:
            message = decode(garbage)
        except WireError:
            continue
        assert isinstance(message, m.Wire)


NESTED = b"\x91" * 100_000


@pytest.mark.parametrize(
    ("encoded", "rule"),
    [
        (b"", "truncated"),
        (NESTED, "message to the coordinator"),
        (msgpack.packb([99]), "Invalid value 99"),
        (msgpack.packb([25, "extra"]), "at most length 0"),
        (msgpack.packb([23, "gateway", "g0", 1, 2, 1, {}]), "Expected `bool`, got `int`"),
        (msgpack.packb([23, "gateway", "g0", 1.5, 2, True, {}]), "Expected `int`, got `float`"),
        (msgpack.packb([23, b"gateway", "g0", 1, 2, True, {}]), "Expected `str`, got `bytes`"),
        (msgpack.packb({"role": "gateway"}), "Expected `array`, got `object`"),
        (b"\x97\x17\xa2\xff\xfe\xa2g0\x01\x02\xc3\x80", "message to the coordinator"),
        (b"\xdd\xff\xff\xff\xff", "message to the coordinator"),
    ],
    ids=[
        "nothing",
        "nested too deep",
        "unknown tag",
        "a field too many",
        "an integer for a boolean",
        "a float for an integer",
        "bytes for a text",
        "a map",
        "text that is not UTF-8",
        "a length that lies",
    ],
)
def test_the_error_names_the_door_and_the_rule(encoded: bytes, rule: str) -> None:
    with pytest.raises(WireError, match="message to the coordinator") as caught:
        wire.decode_coordinator_inbound(encoded)
    assert rule in str(caught.value)


def test_frame_heads_leave_sections_undecoded() -> None:
    level = m.LevelRow(1, 0, 100, 5, 1)
    frame = wire.encode(m.EventFrame(3, 5, 6, 7, [], [level], [], [], []))
    head = wire.decode_frame_head(frame)
    assert (head.epoch, head.first_seq, head.last_seq, head.ts_ns) == (3, 5, 6, 7)
    assert wire.decode_levels(head.levels) == [level]
    assert wire.decode_trades(head.trades) == []


@given(st.lists(st.integers(0, 127), max_size=20))
def test_arrays_are_joined_by_hand_as_the_library_would(elements: list[int]) -> None:
    assert wire.join_array([msgpack.packb(element) for element in elements], len(elements)) == msgpack.packb(elements)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 255, 65_535, 65_536, 100_000])
def test_array_headers_are_the_shortest_and_are_skipped_exactly(count: int) -> None:
    header = wire.array_header(count)
    assert header == msgpack.packb([None] * count)[: len(header)]
    assert wire.array_body_offset(header + b"\xc0") == len(header)


@pytest.mark.parametrize("payload", [b"", b"\xc0", b"\x80", b"\xa1x", b"\xde\x00\x01"])
def test_a_payload_that_is_no_array_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="not with a MessagePack array"):
        wire.array_body_offset(payload)
