"""How long the disk itself makes everybody wait: 4 KiB of a file, written and synced all the time, beside a drill.

A machine whose disk stands still for a tenth of a second makes every durable answer late by as much, whoever leads.
"""

import os
import threading
from collections import deque
from pathlib import Path
from types import TracebackType

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S

EVERY_NS = NS_PER_S // 50
KEPT = 60 * 50
_BYTES = bytes(4096)


class DiskProbe:
    """Context: a thread that syncs a file of its own fifty times a second; the last minute is kept."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "probe", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._syncs: deque[tuple[int, int]] = deque(maxlen=KEPT)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk probe", daemon=True)

    def __enter__(self) -> "DiskProbe":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._descriptor)

    def longest_ns(self, since_ns: int, until_ns: int) -> int:
        """The longest sync that was under way in this time; 0 = none has ended."""
        ended = [took_ns for began_ns, took_ns in list(self._syncs) if since_ns - took_ns <= began_ns <= until_ns]
        return max(ended, default=0)

    def _run(self) -> None:
        while not self._end.wait(EVERY_NS / NS_PER_S):
            began_ns = monotonic_ns()
            os.pwrite(self._descriptor, _BYTES, 0)
            os.fdatasync(self._descriptor)
            self._syncs.append((began_ns, monotonic_ns() - began_ns))
