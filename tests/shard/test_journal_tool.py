"""What `shardex journal` says about journals: whole, torn, damaged, and being written right now."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from exchange.errors import JournalError
from shard.core.engine import native_available
from shard.journal_file import segment_paths
from shard.node_state import NodeLock
from shard.snapshot_file import snapshot_paths, write_snapshot
from shardex.journal import State, describe, dump, journal_directories, replay, verify
from tests.shard.stage import order
from tests.shard.test_recovery import Disk, damage, records_end

ENGINES = [True, pytest.param(False, marks=pytest.mark.skipif(not native_available(), reason="native not built"))]


def silent(_done: int, _total: int) -> None:
    return


def written(directory: Path, *, trades: int = 20, snapshot_after: int = -1) -> Disk:
    disk = Disk(directory, segment_bytes=2_000)
    for number in range(trades):
        disk.trade(number)
        if number == snapshot_after:
            write_snapshot(directory, disk.engine, disk.replica.position)
    return disk


def test_a_whole_journal_is_ok(tmp_path: Path) -> None:
    disk = written(tmp_path, snapshot_after=9)
    verdict = verify(tmp_path, silent)
    assert (verdict.state, verdict.exit_code, verdict.detail) == (State.OK, 0, "")
    assert (verdict.first_seq, verdict.last_seq, verdict.commands) == (1, 42, 42)
    assert (verdict.records, verdict.epoch, verdict.segments) == (21, 1, len(segment_paths(tmp_path)))
    assert verdict.ts_ns == disk.replica.position.ts_ns
    assert [(snapshot.seq, snapshot.detail) for snapshot in verdict.snapshots] == [(22, "")]
    assert msgspec.json.decode(msgspec.json.encode(verdict))["state"] == "ok"


def test_verify_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    path = segment_paths(tmp_path)[-1]
    damage(path, records_end(path), b"garbage")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert verify(tmp_path, silent).state is State.TORN
    assert verify(tmp_path, silent).exit_code == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_running_shard_is_writing_is_in_progress(tmp_path: Path) -> None:
    written(tmp_path)
    path = segment_paths(tmp_path)[-1]
    damage(path, records_end(path), b"XS\x01\x00")
    lock = NodeLock(tmp_path)
    assert (verify(tmp_path, silent).state, verify(tmp_path, silent).exit_code) == (State.IN_PROGRESS, 0)
    lock.close()


def test_damage_is_corrupt_with_its_place(tmp_path: Path) -> None:
    written(tmp_path)
    first = segment_paths(tmp_path)[0]
    damage(first, 700, b"\xff")
    verdict = verify(tmp_path, silent)
    assert (verdict.state, verdict.exit_code) == (State.CORRUPT, 2)
    assert first.name in verdict.detail


def test_an_acknowledged_record_that_is_gone_is_corrupt(tmp_path: Path) -> None:
    written(tmp_path)
    path = segment_paths(tmp_path)[-1]
    damage(path, records_end(path) - 16, b"\xff")
    verdict = verify(tmp_path, silent)
    assert verdict.state is State.CORRUPT
    assert "but seq 42 was acknowledged" in verdict.detail


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_missing_segment_is_corrupt(tmp_path: Path, number: int) -> None:
    written(tmp_path)
    segment_paths(tmp_path)[number].unlink()
    assert verify(tmp_path, silent).state is State.CORRUPT


def test_a_snapshot_that_is_damaged_or_of_another_history_is_corrupt(tmp_path: Path) -> None:
    disk = written(tmp_path, snapshot_after=9)
    write_snapshot(tmp_path, disk.engine, disk.replica.position._replace(chain=1))
    damage(snapshot_paths(tmp_path)[1], 100, b"\xff")
    verdict = verify(tmp_path, silent)
    assert verdict.state is State.CORRUPT
    assert [snapshot.seq for snapshot in verdict.snapshots if snapshot.detail] == [22, 42]


def test_dump_tells_every_command(tmp_path: Path) -> None:
    written(tmp_path, trades=2)
    records = list(dump(tmp_path))
    commands = [command for record in records for command in record["commands"]]
    assert [command["seq"] for command in commands] == [1, 2, 3, 4, 5, 6]
    names = ["EpochStart", "DefineInstrument", "Submit", "Submit", "Submit", "Submit"]
    assert [command["command"] for command in commands] == names
    assert commands[2]["client_order_id"] == order(0).client_order_id
    msgspec.json.encode(records)
    line = next(describe(records[1]))
    assert "Submit account=ann client_order_id=id-0" in line


def test_dump_ends_with_how_the_journal_ends(tmp_path: Path) -> None:
    written(tmp_path)
    path = segment_paths(tmp_path)[-1]
    damage(path, records_end(path), b"garbage")
    ended: list[tuple[State, str]] = []

    def drained() -> Iterator[object]:
        ended.append((yield from dump(tmp_path)))

    assert len(list(drained())) == 21
    ((state, detail),) = ended
    assert state is State.TORN
    assert path.name in detail


@pytest.mark.parametrize("reference", ENGINES)
def test_replay_gives_the_state_of_the_shard(tmp_path: Path, reference: bool) -> None:
    disk = written(tmp_path, snapshot_after=9)
    result = replay(tmp_path, reference=reference, progress=silent)
    assert (result.state, result.exit_code, result.from_seq) == (State.OK, 0, 0)
    assert (result.seq, result.orders) == (42, disk.engine.orders())
    assert (result.digest, result.trail) == (f"{disk.engine.digest():016x}", disk.engine.trail())
    assert [(comparison.seq, comparison.equal) for comparison in result.comparisons] == [(22, True)]


def test_replay_starts_at_the_oldest_snapshot_when_the_journal_before_it_is_gone(tmp_path: Path) -> None:
    disk = written(tmp_path, snapshot_after=15)
    segment_paths(tmp_path)[0].unlink()
    result = replay(tmp_path, reference=True, progress=silent)
    assert (result.from_seq, result.seq) == (34, 42)
    assert result.digest == f"{disk.engine.digest():016x}"


def test_replay_notices_a_snapshot_with_another_state(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    write_snapshot(ours, written(theirs, trades=3).engine, written(ours).replica.position)
    result = replay(ours, reference=True, progress=silent)
    assert [comparison.equal for comparison in result.comparisons] == [False]
    assert result.exit_code == 2


def test_journals_are_found_in_a_data_directory(tmp_path: Path) -> None:
    for name in ("s1", "s0"):
        (tmp_path / "shards" / name).mkdir(parents=True)
        written(tmp_path / "shards" / name, trades=1)
    found = journal_directories(tmp_path)
    assert [directory.name for directory in found] == ["s0", "s1"]
    assert journal_directories(found[0]) == [found[0]]
    with pytest.raises(JournalError, match="holds no journal"):
        journal_directories(tmp_path / "shards")


@pytest.mark.parametrize("content", [b"", b"\x00" * 600, b"SXSEG001" + b"\xff" * 900])
def test_junk_under_the_name_of_a_segment_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{0:020d}.segment").write_bytes(content)
    verdict = verify(tmp_path, silent)
    assert verdict.state is State.CORRUPT
    assert f"{0:020d}.segment" in verdict.detail


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    written(tmp_path)
    told: list[tuple[int, int]] = []
    verify(tmp_path, lambda done, total: told.append((done, total)))
    assert told
    assert told[-1][0] == told[-1][1] > 0
