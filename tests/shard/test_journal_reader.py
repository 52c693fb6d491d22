"""Records for a standby that is behind: all of them, in order, from any place, in pieces and in short steps."""

from pathlib import Path

import pytest

from exchange.errors import JournalError
from shard.core.journal import consume, scan
from shard.journal_file import open_segments, segment_paths
from shard.journal_reader import PLACES_BYTES, JournalReader
from tests.shard.disk import Disk


def records(directory: Path) -> dict[int, bytes]:
    """Every record by the seq before it."""
    found: dict[int, bytes] = {}
    consume(scan(open_segments(directory)), lambda entry: found.__setitem__(entry.head.first_seq - 1, entry.record))
    return found


def behind(reader: JournalReader, after_seq: int, bytes_max: int = 1 << 20) -> tuple[bytes, int]:
    """What one request gives, and how many steps it took."""
    reader.ask(after_seq, bytes_max)
    steps = 1
    while (found := reader.step()) is None:
        assert reader.busy
        steps += 1
    assert not reader.busy
    return found, steps


def everything(reader: JournalReader, after_seq: int, bytes_max: int) -> bytes:
    """One request after the other, as a standby that catches up."""
    taken = b""
    while found := behind(reader, after_seq, bytes_max)[0]:
        taken += found
        after_seq = reader.last_seq
    return taken


@pytest.mark.parametrize("bytes_max", [1, 700, 5_000, 1 << 20])
def test_from_every_record_on_everything_follows_over_all_segments(tmp_path: Path, bytes_max: int) -> None:
    disk = Disk(tmp_path, segment_bytes=1_000)
    for number in range(40):
        disk.trade(number)
    written = records(tmp_path)
    assert len(segment_paths(tmp_path)) > 5
    for after_seq in list(written)[::7]:
        expected = b"".join(record for seq, record in written.items() if seq >= after_seq)
        assert everything(JournalReader(tmp_path), after_seq, bytes_max) == expected


def test_what_is_written_meanwhile_is_read_too(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    reader = JournalReader(tmp_path)
    end_seq = disk.replica.position.seq
    assert behind(reader, end_seq) == (b"", 1)
    for number in range(3):
        disk.trade(number)
        found, _ = behind(reader, end_seq)
        assert found == records(tmp_path)[end_seq]
        end_seq = reader.last_seq
    assert end_seq == disk.replica.position.seq


def test_a_search_takes_short_steps_and_is_remembered(tmp_path: Path) -> None:
    disk = Disk(tmp_path, segment_bytes=64 << 20)
    while disk.file.bytes_written < 3 * PLACES_BYTES:
        disk.batch(*[command for number in range(200) for command in disk.pair(number)])
        disk.turn()
    reader = JournalReader(tmp_path)
    last = max(records(tmp_path))
    found, steps = behind(reader, last)
    assert found == records(tmp_path)[last]
    assert steps == 4
    assert behind(JournalReader(tmp_path), last)[1] == 4
    assert behind(reader, last)[1] == 1
    told = JournalReader(tmp_path)
    for place in disk.places:
        told.note(place)
    assert behind(told, last)[1] <= 2


def test_what_the_journal_does_not_have_is_an_error_and_the_end_of_the_request(tmp_path: Path) -> None:
    disk = Disk(tmp_path, segment_bytes=1_000)
    for number in range(20):
        disk.trade(number)
    reader = JournalReader(tmp_path)
    inside = next(seq for seq, record in records(tmp_path).items() if seq + 1 not in records(tmp_path)) + 1
    second, third = segment_paths(tmp_path)[1:3]
    for after_seq in (inside, disk.replica.position.seq + 1):
        with pytest.raises(JournalError, match=f"no record that ends at seq {after_seq}"):
            behind(reader, after_seq)
        assert not reader.busy
    segment_paths(tmp_path)[0].unlink()
    with pytest.raises(JournalError, match="was removed"):
        behind(reader, 0)
    reader.forget_below(int(second.stem))
    with pytest.raises(JournalError, match="no longer holds what follows seq 0"):
        behind(reader, 0)
    assert behind(reader, int(third.stem))[0]
