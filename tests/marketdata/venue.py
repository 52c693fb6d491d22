"""One shard's engine, driven by hand: commands in, its committed event frames out. And readers of classic messages."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from exchange import messages as m
from exchange.domain import Kind, SelfTrade, Side, TimeInForce
from exchange.wire import decode_frame_head, encode
from shard.core.engine import create_engine
from shard.core.outcome import decode_outcome
from shard.core.record import chain_after, encode_record

CEILINGS = m.EngineConfig(10_000, 100, 50_000, 20_000, 10**15, 10_000)
START_NS = 1_740_000_000 * 1_000_000_000
"""A whole minute and a whole hour."""
RECORD_NS = 1_000_000


def instrument(
    index: int, base: str, *, quote: str = "USD", shard: str = "s0", quantity_decimals: int = 0
) -> m.Instrument:
    """A market with a tick of 0.01 and no collar."""
    return m.Instrument(
        index, base + quote, base, quote, 2, quantity_decimals, 1, 1, 1, 10**9, 1, 10**9, 0, 0, -1, shard
    )


AAPL = instrument(0, "AAPL")


class Venue:
    """A real engine. Every `execute` is one record; `frames` are all that was committed, oldest first."""

    def __init__(self, *instruments: m.Instrument, shard: str = "s0") -> None:
        self.shard = shard
        self.engine = create_engine(CEILINGS)
        self.frames: list[bytes] = []
        self.headers: list[m.Published] = []
        self.ts_ns = START_NS
        self.instruments = instruments
        self._chain = 0
        self._orders = 0
        self.start_epoch(1)
        self.execute(*[define(one) for one in instruments])

    @property
    def seq(self) -> int:
        return self.engine.seq()

    def start_epoch(self, epoch: int) -> None:
        """A new term: what a restarted or promoted primary does first."""
        self.execute(m.EpochStart(epoch, "node", epoch), epoch=epoch)

    def execute(self, *commands: m.Command, epoch: int | None = None, after_ns: int = RECORD_NS) -> m.FrameHead:
        """Commit one record of `commands`, `after_ns` later than the last."""
        self.ts_ns += after_ns
        before = self.seq
        record = encode_record(
            epoch=self.engine.epoch() if epoch is None else epoch,
            first_seq=before + 1,
            ts_ns=self.ts_ns,
            prev_chain=self._chain,
            commands=[encode(command) for command in commands],
        )
        self._chain = chain_after(record)
        _, frame = decode_outcome(self.engine.apply(record))
        self.frames.append(frame)
        self.headers.append(m.Published(self.shard, self.engine.epoch(), before, self.seq))
        return decode_frame_head(frame)

    def order(self, side: Side, price: int, quantity: int, *, account: str = "alice", index: int = 0) -> m.Submit:
        """A limit order of its own client order id."""
        self._orders += 1
        return m.Submit(
            account, f"o{self._orders}", index, side, Kind.LIMIT, TimeInForce.GTC, 0, SelfTrade.NONE, price, quantity
        )

    def buy(self, price: int, quantity: int, *, account: str = "alice", index: int = 0) -> m.FrameHead:
        return self.execute(self.order(Side.BUY, price, quantity, account=account, index=index))

    def sell(self, price: int, quantity: int, *, account: str = "bob", index: int = 0) -> m.FrameHead:
        return self.execute(self.order(Side.SELL, price, quantity, account=account, index=index))

    def levels(self, index: int = 0) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Bids and asks from the engine's own book."""
        bids, asks = msgspec.msgpack.decode(self.engine.book(index))
        summed = [[(price, sum(order[1] for order in orders)) for price, orders in side] for side in (bids, asks)]
        return summed[0], summed[1]


def define(one: m.Instrument) -> m.DefineInstrument:
    return m.DefineInstrument(
        one.index,
        one.symbol,
        one.tick,
        one.lot,
        one.quantity_min,
        one.quantity_max,
        one.price_min,
        one.price_max,
        one.collar_bps,
        one.reference_price,
        one.position_limit,
    )


def map_of(*venues: Venue, endpoints: dict[str, tuple[str, str]] | None = None, version: int = 1) -> m.ShardMap:
    """The shard map of these venues; `endpoints` = shard: (orders, events)."""
    places = endpoints or {}
    entries = [m.ShardEntry(v.shard, v.engine.epoch(), "n", 1, *places.get(v.shard, ("", "")), True) for v in venues]
    return m.ShardMap(version, entries, [one for venue in venues for one in venue.instruments])


TEXT, CLOSE, PING = 0x81, 0x88, 0x89
"""First byte of a WebSocket frame that is whole."""


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """(first byte, payload) of the unmasked frames at the start of `data`, and what is left of it."""
    found = []
    while len(data) >= 2:
        extra = {126: 2, 127: 8}.get(data[1], 0)
        size = int.from_bytes(data[2 : 2 + extra], "big") if extra else data[1]
        end = 2 + extra + size
        if len(data) < max(2 + extra, end):
            break
        found.append((data[0], data[2 + extra : end]))
        data = data[end:]
    return found, data


def read_frames(data: bytes) -> list[dict[str, Any]]:
    """The JSON messages of text frames in a row."""
    found, rest = split_frames(data)
    assert not rest
    assert all(kind == TEXT for kind, _ in found)
    return [read(payload) for _, payload in found]


def read(text: str | bytes) -> dict[str, Any]:
    """One JSON message; prices exact, as Decimal where they have a point."""
    message: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return message


def units(levels: list[list[Any]]) -> list[tuple[int, int]]:
    """Levels of a message of AAPL in integer units."""
    return [(int(Decimal(price) * 100), int(quantity)) for price, quantity in levels]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail after thirty seconds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
