"""The outcome of one record (PROTOCOL 1.4): the replies and the event frame in one piece of bytes."""

from collections.abc import Sequence
from struct import pack, unpack_from

_HEAD_BYTES = 8
_END_BYTES = 4
_INTEGER_BYTES = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
"""Length of an unsigned MessagePack integer by its first byte; a small one is that byte."""
_ARRAY16 = 0xDC


def encode_outcome(replies: Sequence[bytes], frame: bytes) -> bytes:
    """One encoded reply for each command, and the encoded event frame."""
    ends = []
    end = 0
    for reply in replies:
        end += len(reply)
        ends.append(end)
    return pack(f"<II{len(ends)}I", len(ends), len(frame), *ends) + b"".join(replies) + frame


def decode_outcome(outcome: bytes) -> tuple[list[bytes], bytes]:
    """The encoded replies, one for each command, and the encoded event frame of an engine's own outcome."""
    count, frame_bytes = unpack_from("<II", outcome)
    ends = unpack_from(f"<{count}I", outcome, _HEAD_BYTES)
    first = _HEAD_BYTES + _END_BYTES * count
    starts = (0, *ends[:-1])
    replies = [outcome[first + start : first + end] for start, end in zip(starts, ends, strict=True)]
    return replies, outcome[len(outcome) - frame_bytes :]


def reply_range(outcome: bytes, first: int, count: int) -> bytes:
    """The encoded replies number `first` to `first + count - 1`, counted from 0, one after the other. O(1) slices."""
    base = _HEAD_BYTES + _END_BYTES * int(unpack_from("<I", outcome)[0])
    start = unpack_from("<I", outcome, _HEAD_BYTES + _END_BYTES * (first - 1))[0] if first else 0
    end = unpack_from("<I", outcome, _HEAD_BYTES + _END_BYTES * (first + count - 1))[0]
    return outcome[base + start : base + end]


def trade_count(frame: bytes) -> int:
    """How many trades an engine's own event frame holds. O(1): the section's length stands after five integers."""
    offset = 2
    for _ in range(4):
        offset += _INTEGER_BYTES.get(frame[offset], 1)
    first = frame[offset]
    if first < _ARRAY16:
        return first & 0x0F
    size = 2 if first == _ARRAY16 else 4
    return int.from_bytes(frame[offset + 1 : offset + 1 + size], "big")


def event_frame(outcome: bytes) -> bytes:
    """The encoded event frame alone. O(1)."""
    return outcome[len(outcome) - int(unpack_from("<I", outcome, _END_BYTES)[0]) :]
