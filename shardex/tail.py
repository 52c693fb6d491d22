"""Shows log files of daemons, and goes on as they grow; a rotated file is followed to its successor."""

import os
import time
from collections import deque
from pathlib import Path

from shardex.launcher import LaunchError, read_config
from shardex.supervision import LOGS, programs

_POLL_S = 0.2


def show(data: Path, name: str | None, *, lines: int, follow: bool) -> None:
    """Print the last `lines` lines of one log or of all, oldest log name first; with `follow` until interrupted."""
    config = read_config(data)
    names = ["supervisor", *(program.name for program in programs(config))]
    if name is not None and name not in names:
        raise LaunchError(f"there is no daemon {name}; there are {', '.join(names)}")
    logs = [_Log(data / LOGS / f"{each}.log", each) for each in names if name in (None, each)]
    for log in logs:
        log.print_last(lines)
    try:
        while follow:
            for log in logs:
                log.print_new()
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return


class _Log:
    """One log file and how far it was printed."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._inode = 0
        self._offset = 0

    def print_last(self, lines: int) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            last = deque(file, maxlen=lines)
            self._offset = file.tell()
            self._inode = os.fstat(file.fileno()).st_ino
        self._print(list(last))

    def print_new(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            new = [line for line in file if line.endswith(b"\n")]
        self._offset += sum(map(len, new))
        self._print(new)

    def _print(self, lines: list[bytes]) -> None:
        for line in lines:
            print(f"{self._name} | {line.decode(errors='replace').rstrip()}", flush=True)
