"""The re-send ring: whatever it says it covers it can deliver whole, in order, within its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from exchange import messages as m
from exchange.domain import compose_id
from exchange.limits import IMAGE_TRADES_MAX
from exchange.wire import decode_frame, decode_frames, encode
from shard.core.ring import CHUNK_BYTES_MAX, Ring


def frame(first_seq: int, last_seq: int, *, trades: list[m.TradeRow] | None = None) -> bytes:
    return encode(m.EventFrame(1, first_seq, last_seq, last_seq, trades or [], [], [], [], []))


def trade(seq: int, instrument: int) -> m.TradeRow:
    return m.TradeRow(seq, 0, compose_id(instrument, seq), 100, 1, 0, 1, 2, "a", "b", "x", "y", 0, 0)


def filled(lengths: list[int], **bounds: int) -> tuple[Ring, list[bytes]]:
    ring = Ring(after_seq=0, **bounds)
    frames = []
    seq = 0
    for length in lengths:
        frames.append(frame(seq + 1, seq + length))
        ring.add(seq + 1, seq + length, frames[-1])
        seq += length
    return ring, frames


@given(st.lists(st.integers(1, 5), max_size=40), st.integers(1, 400), st.integers(1, 20))
def test_what_the_ring_covers_it_delivers(lengths: list[int], bytes_max: int, frames_max: int) -> None:
    ring, frames = filled(lengths, bytes_max=bytes_max, frames_max=frames_max)
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    assert ring.last_seq == sum(lengths)
    assert len(ring) <= frames_max
    assert sum(map(len, frames[len(frames) - len(ring) :])) <= bytes_max
    for after_seq in range(-1, sum(lengths) + 2):
        dropped = len(frames) - len(ring)
        oldest = ends[dropped - 1] if dropped else 0
        assert ring.covers(after_seq) == (oldest <= after_seq <= sum(lengths))
        if ring.covers(after_seq):
            chunk = ring.chunk(after_seq)
            missed = [kept for kept, end in zip(frames, ends, strict=True) if end > after_seq]
            assert [bytes(kept) for kept in decode_frames(chunk.payload)] == missed
            assert (chunk.first_seq, chunk.last_seq, chunk.more) == (after_seq + 1, sum(lengths), False)


def test_long_absences_are_made_up_in_chunks() -> None:
    ring = Ring(after_seq=0, bytes_max=1 << 30, frames_max=1 << 20)
    big = bytes(CHUNK_BYTES_MAX // 3)
    for seq in range(1, 8):
        ring.add(seq, seq, big)
    ring.add(8, 8, bytes(2 * CHUNK_BYTES_MAX))
    cursor, chunks = 0, []
    while True:
        chunk = ring.chunk(cursor)
        chunks.append((chunk.first_seq, chunk.last_seq, chunk.more))
        cursor = chunk.last_seq
        if not chunk.more:
            break
    assert chunks == [(1, 3, True), (4, 6, True), (7, 7, True), (8, 8, False)]


def test_a_frame_larger_than_the_ring_leaves_it_empty_and_honest() -> None:
    ring, _ = filled([1, 1], bytes_max=100, frames_max=10)
    ring.add(3, 3, bytes(101))
    assert (len(ring), ring.last_seq, ring.covers(2), ring.covers(3)) == (0, 3, False, True)
    ring.add(4, 4, b"x")
    assert ring.chunk(3).payload == b"\x91x"


def test_an_image_carries_the_newest_trades_of_each_instrument_in_order() -> None:
    ring = Ring(after_seq=0, bytes_max=1 << 30, frames_max=1 << 20)
    total = IMAGE_TRADES_MAX + 50
    for seq in range(1, total + 1):
        ring.add(seq, seq, frame(seq, seq, trades=[trade(seq, 3 if seq == 7 else 0)]))
    states = [m.StateRow(total, 0, instrument, 0, "") for instrument in (0, 3)]
    bare = encode(m.EventFrame(1, total, total, total, [], [], [], [], states))
    image = decode_frame(ring.with_recent_trades(bare))
    assert image.states == states
    assert [row.seq for row in image.trades] == [7, *range(51, total + 1)]
    assert image.last_seq == total
