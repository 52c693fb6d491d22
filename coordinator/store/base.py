"""The control store: the few facts that only one party may decide, changed by compare-and-set under a fencing term.

Rules (one conformance suite runs against every back end)
    CS1 `cas` succeeds only if the key's version is the expected one *and* the lease stands at the writer's term, in one
        atomic step; the lease itself needs the version only. Versions start at 1; 0 = the key must not exist yet.
    CS2 `Ok` means durable. A lost answer is `Unknown`: read back, never assume (`settle` does).
    CS3 `read` and `changes` see every earlier `Ok`.
    CS6 an I/O error is a StoreError: the process that sees it decides nothing more and ends.
"""

from typing import Protocol

import msgspec
from msgspec import Struct

from exchange.errors import StoreError

LEASE_KEY = "lease/coordinator"
RECORDED = ("lease/", "shard/")
"""Beginnings of the keys that say who decides and who leads: small, and few versions."""


class Lease(Struct, frozen=True, array_like=True):
    """Value of LEASE_KEY: who decides, in which term."""

    holder: str
    term: int


class Entry(Struct, frozen=True):
    """A key's value and version."""

    value: bytes
    ver: int


class Ok(Struct, frozen=True):
    """Written and durable; the key is now at `ver`."""

    ver: int


class Conflict(Struct, frozen=True):
    """Not written. The key stands at `ver` (0 = it does not exist), the lease at `term`."""

    value: bytes
    ver: int
    term: int


class Unknown(Struct, frozen=True):
    """The answer was lost: the write may or may not have happened."""


Result = Ok | Conflict | Unknown


class ControlStore(Protocol):
    """Small, slow, durable. Every method may raise StoreError."""

    def read(self, key: str) -> Entry | None:
        """Newest value of a key."""
        ...

    def cas(self, key: str, expect_ver: int, value: bytes, fence: int) -> Result:
        """Write `value` if the key is at `expect_ver` and the lease at term `fence`."""
        ...

    def changes(self, prefix: str, after: int) -> tuple[int, list[tuple[str, Entry]]]:
        """Keys under `prefix` written after revision `after` (0 = all), sorted, and the revision to go on from.

        It may skip versions in between and never goes back.
        """
        ...

    def close(self) -> None:
        """Release the store."""
        ...


def settle(store: ControlStore, key: str, expect_ver: int, value: bytes, fence: int) -> Ok | Conflict:
    """`cas` whose lost answer is read back: the result is what the store says happened.

    Only one writer holds a term, so a key that stands one version on with our value was written by us.
    """
    result = store.cas(key, expect_ver, value, fence)
    if not isinstance(result, Unknown):
        return result
    entry = store.read(key)
    if entry is not None and entry.ver == expect_ver + 1 and entry.value == value:
        return Ok(entry.ver)
    lease = store.read(LEASE_KEY)
    term = term_of(lease.value) if lease is not None else 0
    return Conflict(entry.value if entry else b"", entry.ver if entry else 0, term)


def take_lease(store: ControlStore, holder: str) -> int:
    """Become the one that decides: raise the lease's term by one and return it. StoreError when another was faster."""
    entry = store.read(LEASE_KEY)
    term = (term_of(entry.value) if entry else 0) + 1
    value = msgspec.msgpack.encode(Lease(holder, term))
    result = settle(store, LEASE_KEY, entry.ver if entry else 0, value, term)
    if isinstance(result, Conflict):
        raise StoreError(f"control store: the lease went to another coordinator, term {result.term}")
    return term


def term_of(value: bytes) -> int:
    """Term in the value of LEASE_KEY; StoreError when it is not a lease."""
    try:
        return msgspec.msgpack.decode(value, type=Lease).term
    except msgspec.MsgspecError as fault:
        raise StoreError(f"control store: key {LEASE_KEY} is damaged: {fault}") from fault
