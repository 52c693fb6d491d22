"""A journal made to agree with another: cut behind a record, or replaced; what goes is kept as evidence."""

import shutil
from pathlib import Path

import pytest

from exchange.errors import JournalError
from shard import rejoin
from shard.core.journal import consume, scan
from shard.handover import PART_BYTES, Part, Sink, Source
from shard.journal_file import open_segment, open_segments, segment_paths
from shard.node_state import load_state, read_note
from shard.rejoin import can_cut, cut_behind, divergent_paths, rebuild
from shard.snapshot_file import SnapshotWriter, snapshot_paths, write_snapshot
from tests.shard.disk import LOG, Disk, nobody_waits, recovered


def records(paths: list[Path]) -> list[bytes]:
    found: list[bytes] = []
    for path in paths:
        consume(scan([open_segment(path)]), lambda entry: found.append(entry.record))
    return found


def ends(directory: Path) -> list[int]:
    """Last seq of every record."""
    found: list[int] = []
    consume(scan(open_segments(directory)), lambda entry: found.append(entry.position.seq))
    return found


def test_a_cut_leaves_the_prefix_and_archives_the_rest(tmp_path: Path) -> None:
    for index in range(0, 13, 3):
        directory = tmp_path / str(index)
        directory.mkdir()
        disk = Disk(directory, segment_bytes=900)
        for number in range(12):
            disk.trade(number)
        before = records(segment_paths(directory))
        assert len(segment_paths(directory)) > 3
        disk.file.close()
        seq = ends(directory)[index] if index else 0
        kept = before[: index + 1] if index else []
        assert can_cut(directory, seq)
        cut_behind(directory, seq, disk.note, now_ns=7)
        assert records(segment_paths(directory)) == kept
        assert records(divergent_paths(directory)) == before[len(kept) :]
        assert read_note(directory) == seq
        life = recovered(directory)
        assert life.position.seq == seq
        assert [term.last_seq for term in life.terms] == [seq] * bool(seq)


def test_a_cut_takes_the_snapshots_that_stand_behind_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for number in range(6):
        disk.trade(number)
        if number in (1, 4):
            write_snapshot(tmp_path, disk.engine, disk.replica.position)
    seq = ends(tmp_path)[4]
    cut_behind(tmp_path, seq, disk.note, now_ns=7)
    assert [int(path.stem) for path in snapshot_paths(tmp_path)] == [ends(tmp_path)[2]]
    assert recovered(tmp_path).position.seq == seq


def test_a_cut_inside_a_record_or_before_the_journal_is_refused(tmp_path: Path) -> None:
    disk = Disk(tmp_path, segment_bytes=900)
    snapshots = SnapshotWriter(tmp_path, LOG, nobody_waits)
    for number in range(30):
        disk.trade(number)
        if number % 10 == 9:
            snapshots.write_now(disk.engine, disk.replica.position)
    with pytest.raises(JournalError, match=r"no record that ends at seq \d+, one ends at"):
        cut_behind(tmp_path, disk.replica.position.seq - 1, disk.note, now_ns=7)
    oldest = int(segment_paths(tmp_path)[0].stem)
    assert oldest > 0
    assert not can_cut(tmp_path, oldest - 1)
    assert not can_cut(tmp_path, oldest)
    assert can_cut(tmp_path, disk.replica.position.seq)
    with pytest.raises(JournalError, match=r"does not reach back to seq 1"):
        cut_behind(tmp_path, 1, disk.note, now_ns=7)
    assert not divergent_paths(tmp_path)


def test_a_directory_of_a_snapshot_alone_can_be_started_and_not_be_cut(tmp_path: Path) -> None:
    primary, standby = tmp_path / "a", tmp_path / "b"
    for directory in (primary, standby):
        directory.mkdir()
    disk, old = Disk(primary), Disk(standby)
    for number in range(5):
        disk.trade(number)
    old.trade(99)
    evidence = records(segment_paths(standby))
    write_snapshot(primary, disk.engine, disk.replica.position)
    name = snapshot_paths(primary)[0].name
    received = standby / f"{name}.tmp"
    shutil.copy(primary / name, received)
    state = rebuild(standby, old.state, old.note, 7, received)
    assert state == load_state(standby)
    assert state.journal_uuid != old.state.journal_uuid
    assert not state.rebuilding
    assert records(divergent_paths(standby)) == evidence
    life = recovered(standby, state)
    assert life.position == disk.replica.position
    assert life.engine.digest() == disk.engine.digest()
    assert life.oldest_seq == life.terms[-1].last_seq == disk.replica.position.seq
    assert not can_cut(standby, 0)
    assert not can_cut(standby, life.position.seq)


def test_a_snapshot_alone_does_not_stand_in_for_what_was_acknowledged_behind_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    write_snapshot(tmp_path, disk.engine, disk.replica.position)
    disk.trade(2)
    for path in segment_paths(tmp_path):
        path.unlink()
    with pytest.raises(JournalError, match="has no journal, but seq"):
        recovered(tmp_path)


def test_the_oldest_evidence_goes_when_there_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejoin, "DIVERGENT_BYTES_MAX", 5_000)
    disk = Disk(tmp_path)
    state = disk.state
    for life in range(8):
        again = Disk(tmp_path)
        again.trade(life)
        again.file.close()
        state = rebuild(tmp_path, again.state, again.note, now_ns=10 + life)
    kept = [int(path.stem.partition("-")[2]) for path in divergent_paths(tmp_path)]
    assert 0 < len(kept) < 8
    assert kept[-1] == 17
    assert load_state(tmp_path) == state


def test_a_snapshot_goes_over_in_parts_and_comes_out_whole(tmp_path: Path) -> None:
    primary, standby = tmp_path / "a", tmp_path / "b"
    standby.mkdir()
    primary.mkdir()
    content = Disk(primary)
    content.trade(1)
    write_snapshot(primary, content.engine, content.replica.position)
    source, sink = Source(primary), Sink(standby)
    assert source.part(0, 0, content.replica.position.seq + 1) is None
    received = None
    while received is None:
        part = source.part(*sink.wanted, 0)
        assert part is not None
        for size in (len(part.payload) // 2, len(part.payload)):
            short = part._replace(payload=part.payload[:size])
            received = sink.take(short) if sink.wanted == (part.seq, part.offset) or not part.offset else None
    assert received.read_bytes() == snapshot_paths(primary)[0].read_bytes()
    assert received.with_suffix("").name == snapshot_paths(primary)[0].name
    source.close()


def test_parts_of_another_snapshot_begin_it_anew_and_a_damaged_whole_is_refused(tmp_path: Path) -> None:
    primary, standby = tmp_path / "a", tmp_path / "b"
    standby.mkdir()
    primary.mkdir()
    disk = Disk(primary)
    disk.trade(1)
    write_snapshot(primary, disk.engine, disk.replica.position)
    path = snapshot_paths(primary)[0]
    content = path.read_bytes()
    seq, half = int(path.stem), len(content) // 2
    sink = Sink(standby)
    assert sink.take(Part(seq - 1, 0, 10, b"older")) is None
    assert sink.take(Part(seq, half, len(content), content[half:])) is None
    assert sink.wanted == (seq - 1, 5)
    assert sink.take(Part(seq, 0, len(content), content[:half])) is None
    assert sink.wanted == (seq, half)
    assert sink.take(Part(seq, 0, len(content), content[:half])) is None
    with pytest.raises(JournalError, match="crc"):
        sink.take(Part(seq, half, len(content), content[half:-1] + bytes([content[-1] ^ 1])))
    assert sink.wanted == (0, 0)
    assert len(content) <= PART_BYTES
