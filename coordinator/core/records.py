"""What the coordinator keeps in the control store: keys, values and their reading back; a shard's is its Group."""

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from exchange.errors import StoreError

T = TypeVar("T")

MAP_KEY = "map"
INCARNATION_KEY = "incarnation"
"""Counter of all incarnations ever given; one integer."""
STORE_KEY = "store_uuid"
SHARD_PREFIX = "shard/"
DAEMON_PREFIX = "daemon/"


class DaemonRecord(Struct, frozen=True, array_like=True):
    """A daemon that is no node of a shard; `uuid` is new with every process."""

    incarnation: int
    uuid: str
    pid: int


class Write(Struct, frozen=True):
    """Change one key of the store from version `expect_ver`."""

    key: str
    expect_ver: int
    value: bytes


def decode(key: str, value: bytes, kind: type[T]) -> T:
    """A stored value; StoreError when it is not what the key holds."""
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise StoreError(f"control store: key {key} is damaged: {fault}") from fault


def encode(value: Any) -> bytes:
    """A value as it is stored."""
    return msgspec.msgpack.encode(value)
