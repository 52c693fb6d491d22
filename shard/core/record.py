"""The journal record of PROTOCOL section 2, as pure functions over bytes.

The same bytes go to the journal, to the standby and into the engine. Every defect is a ValueError whose text names the
field, the rule and the value; nothing here knows files or engines.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from zlib import crc32

import msgspec

from exchange.limits import RECORD_BYTES_MAX, RECORD_COMMANDS_MAX

MAGIC = 0x5358
FORMAT = 1
HEAD_BYTES = 48
TRAILER_BYTES = 4
ALIGNMENT = 8
TS_MAX_NS = 1 << 62

_HEAD = Struct("<HBBIIIQqQII")
_HEAD_CRC_OFFSET = 40
_U32 = Struct("<I")


class RecordHead(msgspec.Struct, frozen=True):
    """What the first 48 bytes say. `prev_chain` is the chain after the record before this one, 0 for the first."""

    epoch: int
    count: int
    first_seq: int
    ts_ns: int
    prev_chain: int
    payload_bytes: int

    @property
    def record_bytes(self) -> int:
        """Length of the whole record with CRC and padding."""
        return record_size(self.payload_bytes)

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.count - 1


def record_size(payload_bytes: int) -> int:
    """Bytes of a record, padding included, that carries `payload_bytes` of commands."""
    return -(-(HEAD_BYTES + payload_bytes + TRAILER_BYTES) // ALIGNMENT) * ALIGNMENT


def encode_record(*, epoch: int, first_seq: int, ts_ns: int, prev_chain: int, commands: Sequence[bytes]) -> bytes:
    """One record of `commands`, each an encoded MessagePack array. ValueError when a range is broken."""
    return encode_batch(
        epoch=epoch,
        first_seq=first_seq,
        ts_ns=ts_ns,
        prev_chain=prev_chain,
        count=len(commands),
        payload=b"".join(commands),
    )


def encode_batch(*, epoch: int, first_seq: int, ts_ns: int, prev_chain: int, count: int, payload: bytes) -> bytes:
    """One record around `count` commands that already stand one after the other in `payload`. ValueError as above."""
    if not 1 <= count <= RECORD_COMMANDS_MAX:
        raise ValueError(f"record: count {count} is not in 1..{RECORD_COMMANDS_MAX}")
    if len(payload) > RECORD_BYTES_MAX:
        raise ValueError(f"record: payload of {len(payload)} bytes exceeds {RECORD_BYTES_MAX}")
    if not 0 <= epoch < 1 << 32:
        raise ValueError(f"record: epoch {epoch} is not in 0..2^32-1")
    if not 1 <= first_seq < 1 << 63:
        raise ValueError(f"record: first_seq {first_seq} is not in 1..2^63-1")
    if not 0 <= ts_ns <= TS_MAX_NS:
        raise ValueError(f"record: ts_ns {ts_ns} is not in 0..2^62")
    head = bytearray(_HEAD.pack(MAGIC, FORMAT, 0, len(payload), epoch, count, first_seq, ts_ns, prev_chain, 0, 0))
    _U32.pack_into(head, _HEAD_CRC_OFFSET, crc32(head[:_HEAD_CRC_OFFSET]))
    body = bytes(head) + payload
    return (body + _U32.pack(crc32(body))).ljust(record_size(len(payload)), b"\0")


def decode_head(record: bytes | memoryview, offset: int = 0) -> RecordHead:
    """Check and read the head that starts at `offset`. ValueError on any defect; the payload is not looked at."""
    if len(record) - offset < HEAD_BYTES:
        raise ValueError(f"record: {len(record) - offset} bytes are shorter than the head of {HEAD_BYTES}")
    magic, fmt, flags, size, epoch, count, first_seq, ts_ns, prev_chain, head_crc, reserved = _HEAD.unpack_from(
        record, offset
    )
    if magic != MAGIC:
        raise ValueError(f"record: magic 0x{magic:04x} is not 0x{MAGIC:04x}")
    crc = crc32(record[offset : offset + _HEAD_CRC_OFFSET])
    if head_crc != crc:
        raise ValueError(f"record: head_crc 0x{head_crc:08x} is not 0x{crc:08x}")
    if fmt != FORMAT or flags or reserved:
        raise ValueError(f"record: fmt {fmt}, flags {flags}, reserved {reserved} are not {FORMAT}, 0, 0")
    if not 1 <= count <= RECORD_COMMANDS_MAX:
        raise ValueError(f"record: count {count} is not in 1..{RECORD_COMMANDS_MAX}")
    if size > RECORD_BYTES_MAX:
        raise ValueError(f"record: payload of {size} bytes exceeds {RECORD_BYTES_MAX}")
    if not 1 <= first_seq < 1 << 63:
        raise ValueError(f"record: first_seq {first_seq} is not in 1..2^63-1")
    if not 0 <= ts_ns <= TS_MAX_NS:
        raise ValueError(f"record: ts_ns {ts_ns} is not in 0..2^62")
    return RecordHead(epoch, count, first_seq, ts_ns, prev_chain, size)


def decode_record(record: bytes | memoryview) -> tuple[RecordHead, bytes]:
    """Check one whole record, to the last byte of its padding, and return head and payload. ValueError on any defect.

    The commands themselves are not decoded, `prev_chain` is compared with nothing.
    """
    head = decode_head(record)
    check_body(head, record)
    return head, bytes(record[HEAD_BYTES : HEAD_BYTES + head.payload_bytes])


def check_body(head: RecordHead, record: bytes | memoryview) -> None:
    """Check everything behind the head of one whole record, and copy nothing. ValueError on any defect."""
    if len(record) != head.record_bytes:
        raise ValueError(f"record: {len(record)} bytes are not the {head.record_bytes} that its head announces")
    end = HEAD_BYTES + head.payload_bytes
    (stored,) = _U32.unpack_from(record, end)
    crc = crc32(memoryview(record)[:end])
    if stored != crc:
        raise ValueError(f"record: crc 0x{stored:08x} is not 0x{crc:08x}")
    if any(record[end + TRAILER_BYTES :]):
        raise ValueError("record: padding is not zero")


def chain_after(record: bytes | memoryview) -> int:
    """The chain value that the record after this one must carry as `prev_chain`."""
    return int.from_bytes(blake2b(record, digest_size=8).digest(), "little")
