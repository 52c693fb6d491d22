"""Syncs the journal beside the loop, for the mode in which answers do not wait for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS
from shard.journal_file import JournalFile

BEGIN_NS = 4 * NS_PER_MS
"""A written record waits so long at most until its sync begins."""


class Finished(NamedTuple):
    """Everything up to `seq` is durable."""

    seq: int
    took_ns: int


class BackgroundSync:
    """One sync at a time, at most one each BEGIN_NS."""

    def __init__(self, journal: JournalFile) -> None:
        self._journal = journal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._running: Future[int] | None = None
        self._seq = 0
        self._begun_ns = 0

    def wait_ms(self, now_ns: int) -> int:
        """In how many milliseconds `begin` would do something."""
        return max(0, self._begun_ns + BEGIN_NS - now_ns) // NS_PER_MS + 1

    def begin(self, seq: int, now_ns: int) -> None:
        """Make everything up to `seq`, which is written, durable; does nothing when it is too early."""
        if self._running is None and now_ns - self._begun_ns >= BEGIN_NS:
            self._begun_ns, self._seq = now_ns, seq
            self._running = self._executor.submit(_timed, self._journal.syncer())

    def finished(self) -> Finished | None:
        """The sync that has ended since the last call, if one has. OSError when it failed."""
        if self._running is None or not self._running.done():
            return None
        running, self._running = self._running, None
        return Finished(self._seq, running.result())

    def close(self) -> None:
        """Wait for the one that runs."""
        self._executor.shutdown()


def _timed(sync: Callable[[], None]) -> int:
    began_ns = monotonic_ns()
    sync()
    return monotonic_ns() - began_ns
