"""Static rules of commands (PROTOCOL section 1, "Texts"): what may stand in a record, whatever the state of the book.

Types and arity come from the structs of exchange.messages; ranges and alphabets stand in the table below.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import astuple

from exchange import messages as m
from exchange.domain import ACCOUNT_MAX, ALL_INSTRUMENTS, CLIENT_ORDER_ID_MAX, INSTRUMENTS_MAX, PRICE_MAX, QUANTITY_MAX
from exchange.wire import array_header

NS_MAX = 1 << 62
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1
OPERATOR_BIT = 1 << 6

Check = Callable[[Any], str | None]
"""Says what is wrong with a value of the right type, or None."""


def _between(low: int, high: int, shown: str = "") -> Check:
    said = f"is not in {shown}" if shown else f"is not one of {low}..{high}"
    return lambda value: None if low <= value <= high else said


def _text(alphabet: str, least: int, most: int) -> Check:
    matches = re.compile(f"[{alphabet}]{{{least},{most}}}").fullmatch
    said = f"is not {least} to {most} characters of {alphabet}"
    return lambda value: None if matches(value) else said


def _instrument_or_all(value: int) -> str | None:
    if 0 <= value < INSTRUMENTS_MAX or value == ALL_INSTRUMENTS:
        return None
    return f"is not one of 0..{INSTRUMENTS_MAX - 1} or {ALL_INSTRUMENTS}"


ACCOUNT_ALPHABET = "A-Za-z0-9._:@-"
CLIENT_ORDER_ID_ALPHABET = "A-Za-z0-9.:/_-"
_account = _text(ACCOUNT_ALPHABET, 1, ACCOUNT_MAX)
_account_or_empty = _text(ACCOUNT_ALPHABET, 0, ACCOUNT_MAX)
_client_order_id = _text(CLIENT_ORDER_ID_ALPHABET, 1, CLIENT_ORDER_ID_MAX)
_client_order_id_or_empty = _text(CLIENT_ORDER_ID_ALPHABET, 0, CLIENT_ORDER_ID_MAX)
_symbol = _text("A-Z0-9._-", 1, 20)
_actor = _text("!-~", 1, 64)
_instrument = _between(0, INSTRUMENTS_MAX - 1)
_i64 = _between(I64_MIN, I64_MAX, "i64")
_instant = _between(0, NS_MAX, "0..2^62")
_order_id = _between(0, (1 << 53) - 1, "0..2^53-1")
_price_rule = _between(0, PRICE_MAX, "0..10^15")
_quantity_rule = _between(1, QUANTITY_MAX, "1..10^15")
_limit = _between(-1, NS_MAX, "-1..2^62")

_TARGET: dict[str, Check] = {"order_id": _order_id, "target_id": _client_order_id_or_empty}
_IDENTITY: dict[str, Check] = {"account": _account, "instrument": _instrument}
_OPTIONAL_ID: dict[str, Check] = {"client_order_id": _client_order_id_or_empty}
_STAMPS: dict[str, Check] = {"deadline_ns": _instant, "client_ns": _instant}

CHECKS: dict[type[Any], dict[str, Check]] = {
    m.Submit: {
        **_IDENTITY,
        "client_order_id": _client_order_id,
        "side": _between(0, 1),
        "kind": _between(0, 1),
        "time_in_force": _between(0, 4),
        "flags": _between(0, 1),
        "self_trade": _between(0, 4),
        "price": _i64,
        "quantity": _i64,
        "expire_ns": _instant,
        **_STAMPS,
    },
    m.Cancel: {**_IDENTITY, **_TARGET, "deadline_ns": _instant},
    m.Replace: {
        **_IDENTITY,
        **_OPTIONAL_ID,
        **_TARGET,
        "price": _i64,
        "quantity": _i64,
        "basis": _between(0, 1),
        **_STAMPS,
    },
    m.Reduce: {**_IDENTITY, **_OPTIONAL_ID, **_TARGET, "quantity": _i64, **_STAMPS},
    m.MassCancel: {"account": _account_or_empty, "instrument": _instrument_or_all},
    m.SetState: {"instrument": _instrument_or_all, "state": _between(0, 3), "actor": _actor},
    m.DefineInstrument: {
        "index": _instrument,
        "symbol": _symbol,
        "tick": _quantity_rule,
        "lot": _quantity_rule,
        "quantity_min": _quantity_rule,
        "quantity_max": _quantity_rule,
        "price_min": _price_rule,
        "price_max": _price_rule,
        "collar_bps": _between(0, 10_000),
        "reference_price": _price_rule,
        "position_limit": _limit,
    },
    m.SetPositionLimit: {**_IDENTITY, "limit": _limit, "actor": _actor},
    m.Tick: {},
    m.EpochStart: {"epoch": _between(0, (1 << 32) - 1, "0..2^32-1"), "node": _actor, "incarnation": _i64},
    m.QueryOrder: {"account": _account, "instrument": _instrument_or_all, **_TARGET},
    m.QueryOpen: {
        "account": _account,
        "instrument": _instrument_or_all,
        "after_order_id": _order_id,
        "limit": _between(1, 1000),
    },
    m.Resolve: {**_IDENTITY, "client_order_id": _client_order_id},
    m.ArmDeadMan: {"account": _account, "instrument": _instrument_or_all, "timeout_ns": _instant},
}

_TAGS: dict[type[Any], int] = {struct: struct.__struct_config__.tag for struct in CHECKS}
_BY_FIELD: dict[type[Any], tuple[Check, ...]] = {
    struct: tuple(checks[name] for name in struct.__struct_fields__) for struct, checks in CHECKS.items()
}
_decode = msgspec.msgpack.Decoder(list[m.Command]).decode


def admit(payload: bytes, allowed: int) -> int:
    """Check a MessagePack array of commands whose tags are in the bit mask `allowed`; how many there are."""
    return len(_decode_checked(payload, allowed))


def decode_payload(payload: bytes, count: int) -> list[m.Command]:
    """The `count` commands that a record carries one after the other, checked as by `admit` with every tag allowed."""
    return _decode_checked(array_header(count) + payload, m.SHARD_COMMANDS)


def check_command(command: m.Command) -> str | None:
    """What breaks a static rule in a command whose fields have the right types, or None."""
    checks = _BY_FIELD[type(command)]
    for position, value in enumerate(astuple(command)):
        wrong = checks[position](value)
        if wrong is not None:
            return f"{command.__struct_fields__[position]} {value!r} {wrong}"
    if isinstance(command, m.DefineInstrument):
        if command.quantity_min > command.quantity_max:
            return f"quantity_min {command.quantity_min} exceeds quantity_max {command.quantity_max}"
        if command.price_min > command.price_max:
            return f"price_min {command.price_min} exceeds price_max {command.price_max}"
    return None


def _decode_checked(payload: bytes, allowed: int) -> list[m.Command]:
    """Commands of a MessagePack array. ValueError names the command, counted from 0, and the rule that it breaks."""
    try:
        commands = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise ValueError(f"commands: {fault}") from None
    for number, command in enumerate(commands):
        broken = _not_allowed(command, allowed) or check_command(command)
        if broken is not None:
            raise ValueError(f"command {number}: {broken}")
    return commands


def _not_allowed(command: m.Command, allowed: int) -> str | None:
    tag = _TAGS[type(command)]
    if not allowed >> tag & 1:
        return f"tag {tag} ({type(command).__name__}) is not allowed here"
    if isinstance(command, m.MassCancel) and not command.account and not allowed & OPERATOR_BIT:
        return "account '' (everybody) is for operators only"
    return None
