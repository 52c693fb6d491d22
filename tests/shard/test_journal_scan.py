"""Damaged journals: a torn end is found to the byte, anything else is called corrupt, nothing crashes."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import messages as m
from exchange.errors import JournalError
from exchange.wire import encode
from shard.core.journal import (
    SEGMENT_HEAD_BYTES,
    START,
    Entry,
    Position,
    Segment,
    SegmentHead,
    Tail,
    TailKind,
    advance,
    consume,
    decode_segment_head,
    encode_segment_head,
    scan,
)
from shard.core.record import decode_head, encode_record
from tests.shard.stage import CEILINGS

AHEAD = 4_096
END, TORN, CORRUPT = TailKind.END, TailKind.TORN, TailKind.CORRUPT


class Journal(NamedTuple):
    """Files of a journal, and for each segment the offsets at which its records end (the head's end first)."""

    files: list[bytes]
    ends: list[list[int]]

    def damaged(self, number: int, file: bytes) -> list[bytes]:
        return [*self.files[:number], file, *self.files[number + 1 :]]


def written(*, segments: int = 3, records: int = 4, account: str = "ann") -> Journal:
    """A journal as a shard leaves it when it dies: the last segment has zeros written ahead."""
    position = START
    files, ends = [], []
    for _ in range(segments):
        head = SegmentHead("s0", "uuid", "s0", 1, "boot", *position_fields(position), CEILINGS)
        file, offsets = encode_segment_head(head), [SEGMENT_HEAD_BYTES]
        for number in range(records):
            first: list[m.Command] = [m.EpochStart(1, "s0", 1)] if position == START else []
            commands = [*first, *(m.MassCancel(account) for _ in range(number))] or [m.Tick()]
            record = following(position, commands)
            position = advance(position, decode_head(record), record)
            file += record
            offsets.append(len(file))
        files.append(file)
        ends.append(offsets)
    files[-1] += bytes(AHEAD)
    return Journal(files, ends)


def position_fields(position: Position) -> tuple[int, int, int, int]:
    return position.seq, position.epoch, position.ts_ns, position.chain


def following(position: Position, commands: Sequence[m.Command], *, epoch: int = 1) -> bytes:
    return encode_record(
        epoch=epoch,
        first_seq=position.seq + 1,
        ts_ns=position.ts_ns + 5,
        prev_chain=position.chain,
        commands=[encode(command) for command in commands],
    )


def opened(files: Sequence[bytes]) -> list[Segment]:
    def segment(number: int, file: bytes) -> Segment:
        head = decode_segment_head(file[:SEGMENT_HEAD_BYTES], str(number))
        return Segment(str(number), head, lambda offset, size: file[offset : offset + size])

    return [segment(number, file) for number, file in enumerate(files)]


def scanned(files: Sequence[bytes]) -> tuple[list[Entry], Tail]:
    entries: list[Entry] = []
    return entries, consume(scan(opened(files)), entries.append)


JOURNAL = written()
WHOLE, _ = scanned(JOURNAL.files)
LAST = len(JOURNAL.files) - 1
LAST_END = JOURNAL.ends[LAST][-1]


def test_a_whole_journal_is_read_to_its_last_record() -> None:
    entries, tail = scanned(JOURNAL.files)
    assert [entry.head.record_bytes for entry in entries] == [len(entry.record) for entry in entries]
    assert len(entries) == 12
    assert tail == Tail(END, LAST, LAST_END, "")


@given(st.integers(SEGMENT_HEAD_BYTES, len(JOURNAL.files[LAST])))
def test_a_last_segment_cut_anywhere_is_torn_at_its_last_whole_record(size: int) -> None:
    entries, tail = scanned(JOURNAL.damaged(LAST, JOURNAL.files[LAST][:size]))
    end = max(end for end in JOURNAL.ends[LAST] if end <= size)
    assert entries == WHOLE[: 8 + JOURNAL.ends[LAST].index(end)]
    assert (tail.kind, tail.segment, tail.offset) == (END if size == end or size >= LAST_END else TORN, LAST, end)


@given(st.integers(0, LAST - 1), st.data())
def test_an_earlier_segment_cut_anywhere_is_corrupt(number: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(SEGMENT_HEAD_BYTES, len(JOURNAL.files[number]) - 1))
    _, tail = scanned(JOURNAL.damaged(number, JOURNAL.files[number][:size]))
    assert tail.kind is CORRUPT


@settings(max_examples=400)
@given(st.integers(0, LAST), st.data())
def test_a_flipped_bit_is_never_read_over(number: int, data: st.DataObject) -> None:
    file = bytearray(JOURNAL.files[number])
    offset = data.draw(st.integers(0, len(file) - 1))
    file[offset] ^= 1 << data.draw(st.integers(0, 7))
    files = JOURNAL.damaged(number, bytes(file))
    if offset < SEGMENT_HEAD_BYTES:
        with pytest.raises(JournalError, match=f"segment {number}"):
            scanned(files)
        return
    entries, tail = scanned(files)
    hit = max((end for end in JOURNAL.ends[number] if end <= offset), default=SEGMENT_HEAD_BYTES)
    assert entries == WHOLE[: 4 * number + JOURNAL.ends[number].index(hit)]
    assert tail.offset == hit
    assert tail.kind is (TORN if number == LAST and hit >= JOURNAL.ends[LAST][-2] else CORRUPT)


@given(st.binary(min_size=1, max_size=300), st.integers(0, AHEAD))
def test_garbage_behind_the_last_record_is_torn_there(garbage: bytes, gap: int) -> None:
    file = JOURNAL.files[LAST][: LAST_END + gap] + garbage
    entries, tail = scanned(JOURNAL.damaged(LAST, file))
    assert entries == WHOLE
    assert (tail.kind, tail.offset) == (TORN if garbage.strip(b"\0") else END, LAST_END)


@given(st.integers(1, 3))
def test_a_hole_before_good_records_is_corrupt_even_in_the_last_segment(records: int) -> None:
    start, end = JOURNAL.ends[LAST][0], JOURNAL.ends[LAST][records]
    file = JOURNAL.files[LAST][:start] + bytes(end - start) + JOURNAL.files[LAST][end:]
    entries, tail = scanned(JOURNAL.damaged(LAST, file))
    assert entries == WHOLE[:8]
    assert (tail.kind, tail.offset) == (CORRUPT, start)
    assert f"a whole record follows at byte {end}" in tail.detail


def test_a_segment_that_is_missing_or_there_twice_is_corrupt() -> None:
    for files in (
        [JOURNAL.files[0], JOURNAL.files[2]],
        [JOURNAL.files[0], JOURNAL.files[0], *JOURNAL.files[1:]],
        [JOURNAL.files[0], JOURNAL.files[2], JOURNAL.files[1]],
    ):
        _, tail = scanned(files)
        assert tail.kind is CORRUPT


def test_a_segment_of_another_history_is_corrupt() -> None:
    other = written(account="eve")
    _, tail = scanned([*JOURNAL.files[:2], other.files[2]])
    assert tail.kind is CORRUPT
    assert "another history" in tail.detail


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"seq": 1}, "first_seq"),
        ({"chain": 1}, "prev_chain"),
        ({"ts_ns": 0}, "ts_ns"),
    ],
)
def test_a_whole_record_that_does_not_follow_is_corrupt_not_torn(changed: dict[str, int], complaint: str) -> None:
    wrong = following(WHOLE[-1].position._replace(**changed), [m.Tick()])
    entries, tail = scanned(JOURNAL.damaged(LAST, JOURNAL.files[LAST][:LAST_END] + wrong))
    assert entries == WHOLE
    assert (tail.kind, tail.offset) == (CORRUPT, LAST_END)
    assert complaint in tail.detail


@pytest.mark.parametrize(("epoch", "complaint"), [(0, "epoch 0 is below 1"), (2, "does not start with EpochStart")])
def test_terms_only_grow_and_each_starts_with_epoch_start(epoch: int, complaint: str) -> None:
    wrong = following(WHOLE[-1].position, [m.Tick()], epoch=epoch)
    _, tail = scanned(JOURNAL.damaged(LAST, JOURNAL.files[LAST][:LAST_END] + wrong))
    assert tail.kind is CORRUPT
    assert complaint in tail.detail


@given(st.binary(max_size=600))
def test_any_bytes_as_a_head_are_refused_with_a_sentence(junk: bytes) -> None:
    with pytest.raises(JournalError, match="segment x"):
        decode_segment_head(junk, "x")


def test_a_journal_that_grows_while_it_is_read_is_read_on() -> None:
    whole = JOURNAL.files[LAST]
    shown = [JOURNAL.ends[LAST][1]]

    def read_at(offset: int, size: int) -> bytes:
        return (whole[: shown[0]] + bytes(len(whole) - shown[0]))[offset : offset + size]

    segments = [*opened(JOURNAL.files)[:LAST], opened(JOURNAL.files)[LAST]._replace(read_at=read_at)]
    records = scan(segments)
    before = [next(records) for _ in range(9)]
    shown[0] = LAST_END
    entries: list[Entry] = []
    tail = consume(records, entries.append)
    assert before + entries == WHOLE
    assert (tail.kind, tail.offset) == (END, LAST_END)
