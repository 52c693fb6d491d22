"""A snapshot on its way from the primary to a standby that is too far behind for records, one part at a time.

The standby asks, the primary answers from a file that it keeps open, so that nothing is remembered between two parts
but that file. Parts are of one snapshot: when the primary has another one by now, the standby begins again.
"""

import os
from pathlib import Path
from typing import NamedTuple

from shard.core import snapshot
from shard.snapshot_file import SNAPSHOT_SUFFIX, snapshot_paths, snapshot_seq

PART_BYTES = 1024 * 1024


class Part(NamedTuple):
    """`payload` of the snapshot of `seq`, from `offset` on; `total` bytes in all."""

    seq: int
    offset: int
    total: int
    payload: bytes


class Source:
    """The primary's end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1
        self._seq = -1
        self._total = 0

    def part(self, seq: int, offset: int, oldest_seq: int) -> Part | None:
        """What was asked for, or the first part of the newest snapshot when that is another one.

        None when there is no snapshot of `oldest_seq` or newer. OSError when the file cannot be read.
        """
        if seq != self._seq or not 0 <= offset < self._total:
            offset = 0
            if not self._open(oldest_seq):
                return None
        return Part(self._seq, offset, self._total, os.pread(self._descriptor, PART_BYTES, offset))

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._seq = -1

    def _open(self, oldest_seq: int) -> bool:
        self.close()
        path = next(iter(snapshot_paths(self._directory)), None)
        if path is None or snapshot_seq(path) < oldest_seq:
            return False
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._seq = snapshot_seq(path)
        self._total = os.fstat(self._descriptor).st_size
        return True


class Sink:
    """The standby's end: `wanted` says what to ask for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1
        self._seq = 0
        self._offset = 0

    @property
    def wanted(self) -> tuple[int, int]:
        """(seq, offset) of the next part; seq 0 = the beginning of any."""
        return self._seq, self._offset

    def take(self, part: Part) -> Path | None:
        """Keep a part; when it was the last, the whole snapshot, durable, in a file named `<its name>.tmp`.

        JournalError when the whole is damaged: it begins again then. OSError when the disk fails.
        """
        if part.seq != self._seq and part.offset == 0:
            self._begin(part.seq)
        if (part.seq, part.offset) != (self._seq, self._offset) or not part.payload:
            return None
        os.pwrite(self._descriptor, part.payload, part.offset)
        self._offset += len(part.payload)
        if self._offset < part.total:
            return None
        os.fsync(self._descriptor)
        path = self._path(self._seq)
        self._seq = self._offset = 0
        snapshot.decode(path.read_bytes(), path.name)
        return path

    def _begin(self, seq: int) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._seq, self._offset = seq, 0
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(self._path(seq), flags, 0o600)

    def _path(self, seq: int) -> Path:
        return self._directory / f"{seq:020d}{SNAPSHOT_SUFFIX}.tmp"
