"""Control store in memory: for tests and simulation. Durable as long as the object lives."""

from coordinator.store.base import LEASE_KEY, Conflict, Entry, Ok, Result, term_of


class MemoryStore:
    """The reference for what every back end does."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Entry, int]] = {}
        self._revision = 0

    def read(self, key: str) -> Entry | None:
        """Newest value of a key."""
        found = self._entries.get(key)
        return found[0] if found else None

    def cas(self, key: str, expect_ver: int, value: bytes, fence: int) -> Result:
        """Write `value` if the key is at `expect_ver` and the lease at term `fence`."""
        entry = self.read(key)
        lease = self.read(LEASE_KEY)
        ver = entry.ver if entry else 0
        term = term_of(lease.value) if lease else 0
        if ver != expect_ver or (key != LEASE_KEY and term != fence):
            return Conflict(entry.value if entry else b"", ver, term)
        self._revision += 1
        self._entries[key] = Entry(value, ver + 1), self._revision
        return Ok(ver + 1)

    def changes(self, prefix: str, after: int) -> tuple[int, list[tuple[str, Entry]]]:
        """Keys under `prefix` written after revision `after`, sorted, and the revision to go on from."""
        found = [
            (key, entry)
            for key, (entry, revision) in sorted(self._entries.items())
            if key.startswith(prefix) and revision > after
        ]
        return self._revision, found

    def close(self) -> None:
        """Nothing to release."""
