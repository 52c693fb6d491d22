"""The newest committed event frames, kept for consumers that missed some, and the image for those that missed more."""

from bisect import bisect_left
from typing import NamedTuple

from msgspec import Raw, Struct
from msgspec.structs import replace

from exchange import messages as m
from exchange.domain import instrument_of
from exchange.limits import IMAGE_TRADES_MAX
from exchange.wire import array_header, decode_frame_head, decode_states, decode_trades, encode

CHUNK_BYTES_MAX = 1024 * 1024
"""Payload of one answer to a Follow; a single larger frame goes alone."""
IMAGE_SCAN_BYTES_MAX = 4 * 1024 * 1024
"""How much of the ring is searched for an image's recent trades: bounds the pause of the shard to some 30 ms."""

_NO_TRADES = b"\x90"


class Kept(Struct, frozen=True, gc=False):
    """One event frame and the commands it stands for. There are tens of thousands, and the garbage collector must not
    look at each again and again: that stopped the node for a tenth of a second."""

    first_seq: int
    last_seq: int
    frame: bytes


class Chunk(NamedTuple):
    """Frames in order, as a MessagePack array; `more` = the ring goes on behind `last_seq`."""

    first_seq: int
    last_seq: int
    payload: bytes
    more: bool


class Ring:
    """Bounded by bytes and by count; the oldest frame goes first. Adding is O(1), finding O(log n)."""

    def __init__(self, *, after_seq: int, bytes_max: int, frames_max: int) -> None:
        """Holds nothing yet of what comes after `after_seq`."""
        self._after_seq = after_seq
        self._bytes_max = bytes_max
        self._frames_max = frames_max
        self._bytes = 0
        self._kept: list[Kept] = []
        self._oldest = 0

    def __len__(self) -> int:
        return len(self._kept) - self._oldest

    @property
    def last_seq(self) -> int:
        """Everything up to here has happened."""
        return self._kept[-1].last_seq if len(self) else self._after_seq

    def add(self, first_seq: int, last_seq: int, frame: bytes) -> None:
        """Keep the frame that follows the newest one."""
        assert first_seq == self.last_seq + 1, "frames are dense"
        self._kept.append(Kept(first_seq, last_seq, frame))
        self._bytes += len(frame)
        while self._bytes > self._bytes_max or len(self) > self._frames_max:
            dropped = self._kept[self._oldest]
            self._after_seq = dropped.last_seq
            self._bytes -= len(dropped.frame)
            self._kept[self._oldest] = Kept(dropped.first_seq, dropped.last_seq, b"")
            self._oldest += 1
        if self._oldest > len(self):
            del self._kept[: self._oldest]
            self._oldest = 0

    def covers(self, after_seq: int) -> bool:
        """Everything after `after_seq` is here."""
        return self._after_seq <= after_seq <= self.last_seq

    def chunk(self, after_seq: int) -> Chunk:
        """The frames that follow `after_seq`, which the ring covers; about CHUNK_BYTES_MAX of them."""
        index = start = bisect_left(self._kept, after_seq + 1, lo=self._oldest, key=lambda kept: kept.last_seq)
        size = 0
        while index < len(self._kept) and (size == 0 or size + len(self._kept[index].frame) <= CHUNK_BYTES_MAX):
            size += len(self._kept[index].frame)
            index += 1
        frames = [kept.frame for kept in self._kept[start:index]]
        last_seq = self._kept[index - 1].last_seq if frames else after_seq
        payload = array_header(len(frames)) + b"".join(frames)
        return Chunk(after_seq + 1, last_seq, payload, index < len(self._kept))

    def with_recent_trades(self, image: bytes) -> bytes:
        """`image` of the engine with the newest trades of the ring, at most IMAGE_TRADES_MAX an instrument."""
        head = decode_frame_head(image)
        wanted = {row.instrument: IMAGE_TRADES_MAX for row in decode_states(head.states)}
        rows: list[m.TradeRow] = []
        searched = 0
        for index in range(len(self._kept) - 1, self._oldest - 1, -1):
            frame = self._kept[index].frame
            searched += len(frame)
            if searched > IMAGE_SCAN_BYTES_MAX or not wanted:
                break
            trades = decode_frame_head(frame).trades
            if bytes(trades) == _NO_TRADES:
                continue
            for row in reversed(decode_trades(trades)):
                instrument = instrument_of(row.trade_id)
                missing = wanted.get(instrument, 0)
                if missing > 1:
                    wanted[instrument] = missing - 1
                else:
                    wanted.pop(instrument, None)
                if missing:
                    rows.append(row)
        rows.reverse()
        return encode(replace(head, trades=Raw(encode(rows))))
