"""Shows log files of daemons, and goes on as they grow; a rotated file is followed to its successor."""

import os
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

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
    """One log file, kept open, and what of it was printed."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._file: BinaryIO | None = None

    def print_last(self, lines: int) -> None:
        self._file = self._open()
        if self._file is not None:
            self._print(list(deque(self._file, maxlen=lines)))

    def print_new(self) -> None:
        """What was written since; a file that was rotated away is read to its end before its successor."""
        if self._file is not None:
            successor = self._successor(self._file)
            self._print_whole_lines(self._file)
            if successor is None:
                return
            self._file.close()
            self._file = successor
        else:
            self._file = self._open()
        if self._file is not None:
            self._print_whole_lines(self._file)

    def _open(self) -> BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None  # not written yet, or between a rotation and what comes after it

    def _successor(self, file: BinaryIO) -> BinaryIO | None:
        """The file that has the name now, when it is another one: nobody writes to this one any more."""
        newest, known = self._open(), os.fstat(file.fileno())
        if newest is None:
            return None
        if os.fstat(newest.fileno()).st_ino != known.st_ino:
            return newest
        newest.close()
        if known.st_size < file.tell():
            file.seek(0)  # emptied in its place
        return None

    def _print_whole_lines(self, file: BinaryIO) -> None:
        new = []
        while (line := file.readline()).endswith(b"\n"):
            new.append(line)
        file.seek(-len(line), os.SEEK_CUR)  # half a line is read again when the rest of it is there
        self._print(new)

    def _print(self, lines: list[bytes]) -> None:
        for line in lines:
            print(f"{self._name} | {line.decode(errors='replace').rstrip()}", flush=True)
