"""One suite for every back end of the control store, and what is special about the SQLite file."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import records
from coordinator.core.group import Group, Node
from coordinator.store.base import (
    LEASE_KEY,
    Conflict,
    ControlStore,
    Entry,
    Lease,
    Ok,
    Result,
    Unknown,
    settle,
    take_lease,
)
from coordinator.store.memory import MemoryStore
from coordinator.store.sqlite import SqliteStore, read_history
from exchange.errors import ConfigError, StoreError

NAMED = ((1, "s0-a"), (2, "s0-b"))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ControlStore]:
    store: ControlStore = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "control")
    yield store
    store.close()


@pytest.fixture
def term(store: ControlStore) -> int:
    return take_lease(store, "c0")


def test_a_key_is_created_and_changed_version_by_version(store: ControlStore, term: int) -> None:
    assert store.read("map") is None
    assert store.cas("map", 0, b"one", term) == Ok(1)
    assert store.cas("map", 1, b"two", term) == Ok(2)
    assert store.read("map") == Entry(b"two", 2)


def test_of_two_writers_that_saw_the_same_version_one_wins(store: ControlStore, term: int) -> None:
    assert store.cas("map", 0, b"mine", term) == Ok(1)
    assert store.cas("map", 0, b"yours", term) == Conflict(b"mine", 1, term)
    assert store.cas("map", 2, b"yours", term) == Conflict(b"mine", 1, term)
    assert store.read("map") == Entry(b"mine", 1)


def test_a_shard_s_record_comes_back_as_it_was(store: ControlStore, term: int) -> None:
    nodes = {
        name: Node(place, f"journal-{name}", f"session-{name}", 7, {"orders": "ipc:///µ"}) for place, name in NAMED
    }
    group = Group(2**32 - 1, ("s0-a", 1), (("s0-a", 1), ("s0-b", 2)), 3, True, nodes, False, (5, 2**62), True)
    assert store.cas("shard/s0", 0, records.encode(group), term) == Ok(1)
    [(key, entry)] = store.changes(records.SHARD_PREFIX, 0)[1]
    assert records.decode(key, entry.value, Group) == group
    assert records.decode(key, records.encode(Group()), Group) == Group()
    with pytest.raises(StoreError, match="key shard/s0 is damaged"):
        records.decode(key, entry.value[:-1], Group)


def test_a_deposed_coordinator_writes_nothing(store: ControlStore, term: int) -> None:
    assert store.cas("map", 0, b"old", term) == Ok(1)
    newer = take_lease(store, "c1")
    assert newer == term + 1
    assert store.cas("map", 1, b"late", term) == Conflict(b"old", 1, newer)
    assert store.cas("map", 1, b"new", newer) == Ok(2)
    assert store.cas("other", 0, b"from the future", newer + 1) == Conflict(b"", 0, newer)


def test_nothing_is_written_before_there_is_a_lease(store: ControlStore) -> None:
    assert store.cas("map", 0, b"one", 1) == Conflict(b"", 0, 0)
    assert store.read("map") is None


def test_values_are_bytes_of_any_kind(store: ControlStore, term: int) -> None:
    value = bytes(range(256)) * 300
    assert store.cas("map", 0, value, term) == Ok(1)
    assert store.cas("empty", 0, b"", term) == Ok(1)
    assert store.read("map") == Entry(value, 1)
    assert store.read("empty") == Entry(b"", 1)


def test_changes_tell_what_is_new_under_a_prefix(store: ControlStore, term: int) -> None:
    start, _ = store.changes("", 0)
    for key in ("shard/s1", "shard/s0", "shard", "daemon/g0", "Shard/s9", "shard_s2"):
        assert store.cas(key, 0, b"1", term) == Ok(1)
    seen, found = store.changes("shard/", start)
    assert [key for key, _ in found] == ["shard/s0", "shard/s1"]
    assert store.changes("shard/", seen) == (seen, [])
    store.cas("shard/s1", 1, b"2", term)
    store.cas("shard/s1", 2, b"3", term)
    later, found = store.changes("shard/", seen)
    assert found == [("shard/s1", Entry(b"3", 3))]
    assert later > seen


def test_a_damaged_lease_stops_everything(store: ControlStore, term: int) -> None:
    assert store.cas(LEASE_KEY, 1, b"\xc1", term) == Ok(2)
    with pytest.raises(StoreError, match="lease/coordinator is damaged"):
        store.cas("map", 0, b"one", term)
    with pytest.raises(StoreError, match="lease/coordinator is damaged"):
        take_lease(store, "c1")


KEYS = st.sampled_from(["a", "b", LEASE_KEY])


@given(st.lists(st.tuples(KEYS, st.integers(0, 3), st.binary(max_size=4), st.integers(0, 3)), max_size=30))
def test_both_back_ends_answer_alike(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, bytes, int]]
) -> None:
    memory, sqlite = MemoryStore(), SqliteStore(tmp_path_factory.mktemp("store"))
    try:
        for key, ver, value, fence in steps:
            stored = msgspec.msgpack.encode(Lease("c", fence)) if key == LEASE_KEY else value
            assert memory.cas(key, ver, stored, fence) == sqlite.cas(key, ver, stored, fence)
            assert memory.changes("", 0) == sqlite.changes("", 0)
    finally:
        sqlite.close()


class LosingAnswers:
    """A store behind a bad line: answers to writes get lost, before or after the write."""

    def __init__(self, store: ControlStore, *, written: bool) -> None:
        self._store = store
        self._written = written
        self.read, self.changes, self.close = store.read, store.changes, store.close

    def cas(self, key: str, expect_ver: int, value: bytes, fence: int) -> Result:
        if self._written:
            self._store.cas(key, expect_ver, value, fence)
        return Unknown()


def test_a_lost_answer_is_read_back(store: ControlStore, term: int) -> None:
    assert settle(LosingAnswers(store, written=True), "map", 0, b"one", term) == Ok(1)
    assert settle(LosingAnswers(store, written=False), "map", 1, b"two", term) == Conflict(b"one", 1, term)
    assert settle(LosingAnswers(store, written=False), "new", 0, b"two", term) == Conflict(b"", 0, term)
    assert settle(store, "map", 1, b"two", term) == Ok(2)


def test_a_restart_finds_everything_and_a_new_term(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "control")
    term = take_lease(first, "c0")
    first.cas("map", 0, b"one", term)
    first.close()
    second = SqliteStore(tmp_path / "control")
    assert take_lease(second, "c0") == term + 1
    assert second.read("map") == Entry(b"one", 1)
    second.close()


def test_a_second_coordinator_is_refused_with_a_sentence(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "control")
    with pytest.raises(ConfigError, match=rf"in use by another coordinator \(pid {os.getpid()}\)"):
        SqliteStore(tmp_path / "control")
    first.close()
    SqliteStore(tmp_path / "control").close()


def test_a_directory_that_others_can_open_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control").chmod(0o755)
    with pytest.raises(ConfigError, match="mode 0700"):
        SqliteStore(tmp_path / "control")


def test_files_are_private_and_commits_are_synchronous(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "control")
    take_lease(store, "c0")
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "control").iterdir()}
    assert modes.pop("control.db") == 0o600
    assert set(modes.values()) == {0o600}
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_a_damaged_file_is_a_store_error(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "control")
    store.close()
    (tmp_path / "control" / "control.db").write_bytes(b"not a database" * 1_000)
    with pytest.raises(StoreError, match=r"control\.db"):
        SqliteStore(tmp_path / "control")


def test_a_table_of_another_shape_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir(mode=0o700)
    database = sqlite3.connect(tmp_path / "control" / "control.db")
    database.execute("CREATE TABLE entries (something TEXT)")
    database.commit()
    database.close()
    store = SqliteStore(tmp_path / "control")
    with pytest.raises(StoreError, match="no such column"):
        store.read("map")
    store.close()


def test_who_decided_and_who_led_stays_for_ever_also_for_readers_beside_and_after(tmp_path: Path) -> None:
    assert read_history(tmp_path / "control") == []
    store = SqliteStore(tmp_path / "control")
    term = take_lease(store, "c0")
    for ver in range(3):
        assert isinstance(store.cas("shard/s0", ver, f"v{ver}".encode(), term), Ok)
        assert isinstance(store.cas("map", ver, b"large", term), Ok)
    assert isinstance(store.cas("shard/s0", 1, b"stale", term), Conflict)
    beside = read_history(tmp_path / "control")
    store.close()
    found = [(recorded.key, recorded.ver, recorded.value) for recorded in beside]
    assert found[1:] == [("shard/s0", ver + 1, f"v{ver}".encode()) for ver in range(3)]
    assert found[0][:2] == (LEASE_KEY, 1)
    assert read_history(tmp_path / "control") == beside


WRITER = """
import sys
from pathlib import Path
from coordinator.store.base import Ok, take_lease
from coordinator.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
term = take_lease(store, "c0")
entry = store.read("counter")
ver = entry.ver if entry else 0
while True:
    assert store.cas("counter", ver, str(ver + 1).encode(), term) == Ok(ver + 1)
    ver += 1
    print(ver, flush=True)
"""


def test_what_was_answered_ok_survives_kill_9(tmp_path: Path) -> None:
    answered = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "control")], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        goal = answered + 20
        while answered < goal:
            answered = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:
            answered = int(line)
        writer.wait()
        writer.stdout.close()
        store = SqliteStore(tmp_path / "control")
        entry = store.read("counter")
        assert entry is not None
        assert answered <= entry.ver <= answered + 1
        assert entry.value == str(entry.ver).encode()
        answered = entry.ver
        store.close()
