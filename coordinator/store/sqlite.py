"""Control store in one SQLite file: the default, for one machine and one coordinator at a time.

`<directory>/control.db` in WAL mode with synchronous=FULL: a commit is on the disk when it returns. A lock on
`control.lock` refuses a second coordinator; the lock dies with its process, so a kill -9 leaves nothing to clean up.
Of the keys that say who decides, every version ever written stays in `history`: evidence for the checker.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from coordinator.store.base import LEASE_KEY, RECORDED, Conflict, Entry, Ok, Result, term_of
from exchange.clock import wall_ns
from exchange.errors import ConfigError, StoreError
from exchange.sockets import open_private_directory

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, ver INTEGER NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, ver INTEGER NOT NULL, value BLOB NOT NULL, at_ns INTEGER NOT NULL
) STRICT
"""
_NEWEST = "SELECT coalesce(max(revision), 0) FROM entries"


class SqliteStore:
    """Opens or creates the store. ConfigError when another coordinator holds it, StoreError when it is damaged."""

    def __init__(self, directory: Path) -> None:
        open_private_directory(directory)
        self._path = directory / "control.db"
        self._lock = _lock(directory / "control.lock")
        with self._guard():
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            self._path.chmod(0o600)
            mode = self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise StoreError(f"control store {self._path}: needs journal_mode wal, the file system gives {mode}")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)

    def read(self, key: str) -> Entry | None:
        """Newest value of a key."""
        with self._guard():
            row = self._db.execute("SELECT value, ver FROM entries WHERE key = ?", (key,)).fetchone()
        return Entry(row[0], row[1]) if row else None

    def cas(self, key: str, expect_ver: int, value: bytes, fence: int) -> Result:
        """Write `value` if the key is at `expect_ver` and the lease at term `fence`. One fsync."""
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = self._cas(key, expect_ver, value, fence)
                self._db.execute("COMMIT" if isinstance(result, Ok) else "ROLLBACK")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        return result

    def changes(self, prefix: str, after: int) -> tuple[int, list[tuple[str, Entry]]]:
        """Keys under `prefix` written after revision `after`, sorted, and the revision to go on from."""
        with self._guard():
            newest = self._db.execute(_NEWEST).fetchone()[0]
            rows = self._db.execute(
                "SELECT key, value, ver FROM entries WHERE substr(key, 1, ?) = ? AND revision > ? ORDER BY key",
                (len(prefix), prefix, after),
            ).fetchall()
        return newest, [(key, Entry(value, ver)) for key, value, ver in rows]

    def begin(self, entries: Mapping[str, Entry]) -> None:
        """Give an empty store its first entries, all or none."""
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for key, entry in sorted(entries.items()):
                    self._put(key, entry.value, entry.ver)
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Release the file and its lock."""
        self._db.close()
        os.close(self._lock)

    def _cas(self, key: str, expect_ver: int, value: bytes, fence: int) -> Result:
        entry = self.read(key)
        lease = self.read(LEASE_KEY)
        ver = entry.ver if entry else 0
        term = term_of(lease.value) if lease else 0
        if ver != expect_ver or (key != LEASE_KEY and term != fence):
            return Conflict(entry.value if entry else b"", ver, term)
        self._put(key, value, ver + 1)
        return Ok(ver + 1)

    def _put(self, key: str, value: bytes, ver: int) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ({_NEWEST}) + 1)",  # noqa: S608 - a constant
            (key, ver, value),
        )
        if key.startswith(RECORDED):
            self._db.execute(
                f"INSERT INTO history VALUES (({_NEWEST}), ?, ?, ?, ?)",  # noqa: S608 - a constant
                (key, ver, value, wall_ns()),
            )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as fault:
            raise StoreError(f"control store {self._path}: {fault}") from fault


def begin_store(directory: Path, entries: Mapping[str, Entry]) -> None:
    """Make a new store that stands at these versions, in one transaction. ConfigError when there is one already."""
    if (directory / "control.db").exists():
        raise ConfigError([f"{directory} has a control store: move it away first"])
    store = SqliteStore(directory)
    try:
        store.begin(entries)
    finally:
        store.close()


class Recorded(NamedTuple):
    """One version of a key as it was written once; `at_ns` is wall-clock time."""

    key: str
    ver: int
    value: bytes
    at_ns: int


def read_history(directory: Path) -> list[Recorded]:
    """Every recorded version, in the order of the writes; also of a store that is in use. Empty where there is none.

    StoreError when it cannot be read.
    """
    path = directory / "control.db"
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT key, ver, value, at_ns FROM history ORDER BY revision").fetchall()
    except sqlite3.Error as fault:
        raise StoreError(f"control store {path}: {fault}") from fault
    return [Recorded(*row) for row in rows]


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ConfigError(
            [f"control store {path.parent} is in use by another coordinator (pid {owner or 'unknown'})"]
        ) from fault
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
