"""Snapshots on disk: written by a forked child so that the shard never pauses, loaded at start, removed when old."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from exchange.errors import JournalError
from exchange.failpoints import Point, reach
from exchange.process import Log
from shard.core.engine import Engine
from shard.core.journal import Position
from shard.core.snapshot import SnapshotHead, decode, encode_head
from shard.files import replace_durably, sync_directory
from shard.journal_file import remove_segments_below

SNAPSHOT_SUFFIX = ".snapshot"
SNAPSHOTS_KEPT = 2
"""The newest may turn out unreadable; the one before it and the journal behind that are then enough."""

_STDERR = 2
_PR_SET_PDEATHSIG = 1


def snapshot_paths(directory: Path) -> list[Path]:
    """All snapshots, newest first."""
    return sorted(directory.glob("[0-9]" * 20 + SNAPSHOT_SUFFIX), reverse=True)


def snapshot_seq(path: Path) -> int:
    """The seq that a snapshot's name promises."""
    return int(path.name.removesuffix(SNAPSHOT_SUFFIX))


def load_snapshot(path: Path) -> tuple[SnapshotHead, bytes]:
    """Head and engine snapshot of one file. JournalError when it is damaged or named wrongly."""
    head, body = decode(path.read_bytes(), path.name)
    if head.position.seq != snapshot_seq(path):
        raise JournalError(f"snapshot {path.name}: its head says seq {head.position.seq}")
    return head, body


def write_snapshot(directory: Path, engine: Engine, position: Position) -> None:
    """Write the engine's state, which is that of `position`; durable when it returns."""
    body = engine.snapshot()
    path = directory / f"{position.seq:020d}{SNAPSHOT_SUFFIX}"
    reach(Point.SNAPSHOT_BEFORE_WRITE)
    replace_durably(path, encode_head(position, body) + body)
    reach(Point.SNAPSHOT_RENAMED)


def remove_old(directory: Path, needed_seq: int) -> None:
    """Keep SNAPSHOTS_KEPT snapshots, the journal behind the older of them, and that behind `needed_seq`."""
    paths = snapshot_paths(directory)
    if len(paths) < SNAPSHOTS_KEPT:
        return
    for path in paths[SNAPSHOTS_KEPT:]:
        path.unlink()
    sync_directory(directory)
    remove_segments_below(directory, min(needed_seq, snapshot_seq(paths[SNAPSHOTS_KEPT - 1])))


def remove_temporaries(directory: Path) -> None:
    """Remove what a process that died left half-written."""
    for path in directory.glob("*.tmp"):
        path.unlink()


class SnapshotWriter:
    """At most one child at a time. A failure is logged; the next snapshot comes when it is due.

    `needed_seq` says behind which seq somebody still needs the journal.
    """

    def __init__(self, directory: Path, log: Log, needed_seq: Callable[[], int]) -> None:
        self._directory = directory
        self._log = log
        self._needed_seq = needed_seq
        self._child = 0
        self._child_seq = 0
        self.seq = max((snapshot_seq(path) for path in snapshot_paths(directory)), default=0)

    @property
    def busy(self) -> bool:
        """A child is at work."""
        return self._child != 0

    def start(self, engine: Engine, position: Position) -> None:
        """Fork a child that writes the state as it is now. The parent pays for the fork only."""
        assert not self.busy, "one snapshot at a time"
        parent = os.getpid()
        try:
            child = os.fork()
        except OSError as fault:
            self._log.error("snapshot failed", seq=position.seq, error=str(fault))
            return
        if child == 0:
            _child_main(self._directory, engine, position, self._log, parent)
        self._child, self._child_seq = child, position.seq

    def reap(self, *, wait: bool = False) -> bool:
        """Notice that the child has ended and remove what is no longer needed; whether there is a new snapshot."""
        if not self.busy:
            return False
        child, status = os.waitpid(self._child, 0 if wait else os.WNOHANG)
        if child == 0:
            return False
        self._child = 0
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            self._log.error("snapshot failed", seq=self._child_seq, exit_code=code)
            return False
        self._written(self._child_seq)
        return True

    def abandon(self) -> None:
        """End the child: what it writes is no longer wanted."""
        if self.busy:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0

    def write_now(self, engine: Engine, position: Position) -> None:
        """Write in this process; for the end of its life."""
        self.reap(wait=True)
        if self.seq == position.seq:
            return
        try:
            write_snapshot(self._directory, engine, position)
        except OSError as fault:
            self._log.error("snapshot failed", seq=position.seq, error=str(fault))
        else:
            self._written(position.seq)

    def _written(self, seq: int) -> None:
        self.seq = seq
        self._log.info("snapshot", seq=seq)
        try:
            remove_old(self._directory, self._needed_seq())
        except OSError as fault:
            self._log.error("old journal not removed", error=str(fault))


def _child_main(directory: Path, engine: Engine, position: Position, log: Log, parent: int) -> NoReturn:
    """The child: give back the parent's sockets and lock, write, end without running anything of the parent's.

    It dies with the parent: the next process may cut the journal behind which this snapshot would then stand.
    """
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(code)
        # Descriptors that lived on here would keep a dead parent's connections and lock alive.
        for descriptor in sorted(int(name) for name in os.listdir("/proc/self/fd")):
            if descriptor > _STDERR:
                _close(descriptor)
        os.nice(10)
        write_snapshot(directory, engine, position)
        code = 0
    except BaseException as fault:  # whatever it was, the parent's stack must not unwind in this process
        log.error("snapshot failed", seq=position.seq, error=repr(fault))
    finally:
        os._exit(code)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return  # the descriptor of the listing itself
