"""The file around an engine's snapshot: where in the journal it was taken, and two checks that it is whole. Pure."""

from hashlib import sha256
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from exchange.errors import JournalError
from shard.core.journal import Position

_MAGIC = b"SXSNAP01"
_HEAD = Struct("<8sQqQQQII")
_CRC = Struct("<II")
HEAD_BYTES = _HEAD.size + _CRC.size


class SnapshotHead(NamedTuple):
    """`digest` = what `Engine.digest()` says of this state; `body_bytes` = length of the engine's snapshot."""

    position: Position
    digest: int
    body_bytes: int


def digest_of(body: bytes) -> int:
    """`Engine.digest()` of the state that `body` is the snapshot of."""
    return int.from_bytes(sha256(body).digest()[:8], "little")


def encode_head(position: Position, body: bytes) -> bytes:
    """What stands before `body` in the file."""
    head = _HEAD.pack(
        _MAGIC, position.seq, position.ts_ns, position.chain, digest_of(body), len(body), position.epoch, 0
    )
    return head + _CRC.pack(crc32(body, crc32(head)), 0)


def decode(file: bytes, name: str) -> tuple[SnapshotHead, bytes]:
    """Check a whole file and return head and engine snapshot. JournalError names the file and the rule."""
    if len(file) < HEAD_BYTES:
        raise JournalError(f"snapshot {name}: {len(file)} bytes are shorter than a head of {HEAD_BYTES}")
    magic, seq, ts_ns, chain, digest, size, epoch, reserved = _HEAD.unpack_from(file)
    crc, padding = _CRC.unpack_from(file, _HEAD.size)
    if magic != _MAGIC:
        raise JournalError(f"snapshot {name}: it starts with {magic!r}, not with {_MAGIC!r}")
    if len(file) != HEAD_BYTES + size or reserved or padding:
        raise JournalError(f"snapshot {name}: {len(file)} bytes are not the {HEAD_BYTES + size} of its head")
    body = file[HEAD_BYTES:]
    found = crc32(body, crc32(file[: _HEAD.size]))
    if found != crc:
        raise JournalError(f"snapshot {name}: crc 0x{crc:08x} is not 0x{found:08x}")
    if digest_of(body) != digest:
        raise JournalError(f"snapshot {name}: digest 0x{digest:016x} is not 0x{digest_of(body):016x}")
    return SnapshotHead(Position(seq, epoch, ts_ns, chain), digest, size), body
