"""Recovery from real files: what was acknowledged comes back, a torn end is cut, anything else stops the start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from exchange import messages as m
from exchange.errors import ConfigError, JournalError
from shard.core.journal import SEGMENT_HEAD_BYTES
from shard.journal_file import segment_paths
from shard.node_state import (
    STATE_FILE,
    NodeLock,
    NodeState,
    SyncedNote,
    is_locked,
    load_state,
    read_note,
    save_state,
)
from shard.snapshot_file import SnapshotWriter, remove_temporaries, snapshot_paths, write_snapshot
from tests.shard.disk import LOG, Disk, nobody_waits, recovered
from tests.shard.stage import CEILINGS, order

Damage = Callable[[Path], None]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in segment_paths(directory)}


def records_end(path: Path) -> int:
    return len(path.read_bytes().rstrip(b"\0")) + 7 & ~7


def damage(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_every_life_continues_the_one_before(tmp_path: Path) -> None:
    digests = []
    for life in range(4):
        disk = Disk(tmp_path)
        for number in range(3):
            disk.trade(10 * life + number)
        digests.append(disk.engine.digest())
        again = recovered(tmp_path)
        assert again.engine.digest() == digests[-1]
        assert again.engine.trail() == disk.engine.trail()
        assert again.position == disk.replica.position
    assert len(set(digests)) == 4
    assert len(segment_paths(tmp_path)) == 4


def test_after_recovery_the_ring_holds_what_was_replayed(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    life = recovered(tmp_path)
    assert life.ring.covers(0)
    assert life.ring.chunk(0).payload == disk.replica.ring.chunk(0).payload


def test_segments_follow_each_other_when_they_are_full(tmp_path: Path) -> None:
    disk = Disk(tmp_path, segment_bytes=2_000)
    for number in range(40):
        disk.trade(number)
    paths = segment_paths(tmp_path)
    assert len(paths) == 3
    assert all(path.stat().st_size <= 2_000 for path in paths[:-1])
    assert recovered(tmp_path).engine.digest() == disk.engine.digest()


@pytest.mark.parametrize("garbage", [b"\xff", b"garbage!" * 9, b"XS\x01\x00" + bytes(60) + b"\x01"])
def test_garbage_behind_the_last_record_is_cut_exactly(tmp_path: Path, garbage: bytes) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    (path,) = segment_paths(tmp_path)
    end = records_end(path)
    damage(path, end, garbage)
    assert recovered(tmp_path).engine.digest() == disk.engine.digest()
    assert path.stat().st_size == end


def test_a_record_that_was_written_in_part_is_cut_whole(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    digest = disk.engine.digest()
    (path,) = segment_paths(tmp_path)
    end = records_end(path)
    size = disk.write_only(order(50), order(51))
    damage(path, end + size - 24, bytes(24))
    assert recovered(tmp_path).engine.digest() == digest
    assert path.stat().st_size == end


def test_a_whole_record_that_nobody_was_told_of_is_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write_only(order(50))
    assert recovered(tmp_path).position.seq == disk.replica.position.seq + 1


def test_an_acknowledged_record_that_is_damaged_stops_the_start(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    (path,) = segment_paths(tmp_path)
    damage(path, records_end(path) - 16, b"\xff")
    before = contents(tmp_path)
    with pytest.raises(JournalError, match="can be read up to seq 2, but seq 4 was acknowledged, nothing was cut"):
        recovered(tmp_path)
    assert contents(tmp_path) == before


def test_damage_in_the_middle_stops_the_start(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for number in range(3):
        disk.trade(number)
    (path,) = segment_paths(tmp_path)
    damage(path, SEGMENT_HEAD_BYTES + 60, b"\xff")
    before = contents(tmp_path)
    with pytest.raises(JournalError, match=r"corrupt behind seq 0, nothing was cut: .* a whole record follows"):
        recovered(tmp_path)
    assert contents(tmp_path) == before


def test_a_journal_that_vanished_stops_the_start(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    (path,) = segment_paths(tmp_path)
    path.unlink()
    with pytest.raises(JournalError, match="has no journal, but seq 4 was acknowledged"):
        recovered(tmp_path)


def test_a_clean_mark_is_a_promise_too(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    (tmp_path / "synced").unlink()
    with pytest.raises(JournalError, match="seq 5 was acknowledged"):
        recovered(tmp_path, NodeState("s0", disk.state.journal_uuid, clean_seq=5))


def test_a_journal_of_somebody_else_is_refused(tmp_path: Path) -> None:
    Disk(tmp_path)
    with pytest.raises(JournalError, match=r"its node\.state is that of other"):
        recovered(tmp_path, NodeState("s0", "other"))


def test_after_a_failed_disk_only_what_was_durable_counts(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    digest = disk.engine.digest()
    disk.write_only(order(50))
    suspect = NodeState("s0", disk.state.journal_uuid, suspect_seq=disk.replica.committed_seq)
    assert recovered(tmp_path, suspect).engine.digest() == digest
    assert recovered(tmp_path).position.seq == disk.replica.committed_seq


def test_a_snapshot_shortens_the_way_and_frees_the_journal_before_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path, segment_bytes=2_000)
    snapshots = SnapshotWriter(tmp_path, LOG, nobody_waits)
    seqs = []
    for number in range(90):
        disk.trade(number)
        if number % 30 == 29:
            snapshots.write_now(disk.engine, disk.replica.position)
            seqs.append(disk.replica.position.seq)
    disk.trade(1_000)
    assert [path.name for path in snapshot_paths(tmp_path)] == [f"{seq:020d}.snapshot" for seq in (seqs[2], seqs[1])]
    assert 0 < int(segment_paths(tmp_path)[0].stem) <= seqs[1] < int(segment_paths(tmp_path)[1].stem)
    life = recovered(tmp_path)
    assert life.engine.digest() == disk.engine.digest()
    assert not life.ring.covers(seqs[2] - 1)
    assert life.ring.covers(seqs[2])


def test_a_forked_child_writes_the_state_as_it_was_at_the_fork(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.trade(1)
    snapshots = SnapshotWriter(tmp_path, LOG, nobody_waits)
    at_fork = disk.replica.position.seq
    snapshots.start(disk.engine, disk.replica.position)
    disk.trade(2)
    snapshots.reap(wait=True)
    assert snapshots.seq == at_fork
    assert not snapshots.busy
    assert recovered(tmp_path).engine.digest() == disk.engine.digest()


def test_a_snapshot_that_cannot_be_written_is_not_fatal(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    nowhere = SnapshotWriter(tmp_path / "nowhere", LOG, nobody_waits)
    nowhere.start(disk.engine, disk.replica.position)
    nowhere.reap(wait=True)
    nowhere.write_now(disk.engine, disk.replica.position)
    assert nowhere.seq == 0
    disk.trade(1)


def damaged_snapshot(path: Path) -> None:
    damage(path, path.stat().st_size // 2, b"\xff\xfe\xfd")


def truncated_snapshot(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty_snapshot(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [damaged_snapshot, truncated_snapshot, empty_snapshot])
def test_the_older_snapshot_stands_in_for_a_damaged_newer_one(tmp_path: Path, spoil: Damage) -> None:
    disk = Disk(tmp_path)
    for number in range(3):
        disk.trade(number)
        write_snapshot(tmp_path, disk.engine, disk.replica.position)
    spoil(snapshot_paths(tmp_path)[0])
    assert recovered(tmp_path).engine.digest() == disk.engine.digest()


def test_without_a_snapshot_a_journal_must_start_at_the_beginning(tmp_path: Path) -> None:
    disk = Disk(tmp_path, segment_bytes=1_000)
    for number in range(20):
        disk.trade(number)
    segment_paths(tmp_path)[0].unlink()
    with pytest.raises(JournalError, match="no readable snapshot reaches it"):
        recovered(tmp_path)


def test_a_snapshot_of_another_history_is_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    disk, other = Disk(ours), Disk(theirs)
    disk.trade(1)
    other.trade(2)
    write_snapshot(theirs, other.engine, other.replica.position)
    (path,) = snapshot_paths(theirs)
    (ours / path.name).write_bytes(path.read_bytes())
    with pytest.raises(JournalError, match="of another history than the journal"):
        recovered(ours)


def test_ceilings_may_change_between_lives_and_replay_uses_those_of_each_segment(tmp_path: Path) -> None:
    tight = m.EngineConfig(3, 100, 20_000, 10_000, 10**15, 10_000)
    wide = CEILINGS
    disk = Disk(tmp_path, ceilings=tight)
    disk.batch(*(order(number) for number in range(5)))
    assert disk.turn()[0] == "ann: NEW NEW NEW BOOK_FULL BOOK_FULL"
    disk = Disk(tmp_path, ceilings=wide)
    disk.batch(*(order(number) for number in range(5, 8)))
    assert disk.turn()[0] == "ann: NEW NEW NEW"
    assert recovered(tmp_path, ceilings=wide).engine.digest() == disk.engine.digest()
    with pytest.raises(ConfigError, match="too low for what shard s0 holds"):
        recovered(tmp_path, ceilings=tight)


def test_half_written_files_of_a_dead_process_are_removed(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    (tmp_path / f"{7:020d}.snapshot.tmp").write_bytes(b"half")
    remove_temporaries(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert recovered(tmp_path).position == disk.replica.position


def test_node_state_is_read_back_or_refused(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    state = NodeState("s0", "uuid", promised_epoch=4, incarnation=9, boot_id="b", clean_seq=17)
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    path = tmp_path / STATE_FILE
    whole = path.read_bytes()
    for spoiled in (b"", whole[:50], whole.replace(b"4", b"5"), b"\x00" * 40, whole.replace(b"s0", b"s\xff")):
        path.write_bytes(spoiled)
        with pytest.raises(JournalError, match=r"node\.state"):
            load_state(tmp_path)


def test_the_note_survives_and_a_half_stored_one_is_no_note(tmp_path: Path) -> None:
    assert read_note(tmp_path) == 0
    note = SyncedNote(tmp_path)
    note.write(1 << 40)
    assert read_note(tmp_path) == 1 << 40
    damage(tmp_path / "synced", 2, b"\x01")
    assert read_note(tmp_path) == 0


def test_one_process_has_the_directory(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    lock = NodeLock(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(ConfigError, match="is in use by process"):
        NodeLock(tmp_path)
    lock.close()
    assert not is_locked(tmp_path)
