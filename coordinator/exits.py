"""The end of processes on this machine, noticed at once instead of by silence. A hint that may be missing."""

import asyncio
import os
from collections.abc import Callable

import psutil

OnExit = Callable[[str, int], None]
"""Called with node and incarnation."""


class Exits:
    """Watches one process a node. Construct inside a running loop.

    A process id means something only where it was given: one that does not bear the title of its node, or belongs to
    another user, is another machine's or another process's by now and is not watched.
    """

    def __init__(self, title_of: Callable[[str], str], on_exit: OnExit) -> None:
        self._title_of = title_of
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._watched: dict[str, tuple[int, int]] = {}

    def watch(self, node: str, incarnation: int, pid: int) -> None:
        """Report the end of this process once; what was watched for the node before is forgotten."""
        known = self._watched.get(node)
        if known is not None and known[0] == incarnation:
            return
        self._forget(node)
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            return  # no such process here, or no such call in this kernel: silence will tell
        # Looked at after it was opened: the descriptor is of this process or of one that has ended already.
        if not _bears(pid, self._title_of(node)):
            os.close(descriptor)
            return
        self._watched[node] = incarnation, descriptor
        self._loop.add_reader(descriptor, self._ended, node)

    def close(self) -> None:
        """Watch nobody any more."""
        for node in list(self._watched):
            self._forget(node)

    def _ended(self, node: str) -> None:
        incarnation, _ = self._watched[node]
        self._forget(node)
        self._on_exit(node, incarnation)

    def _forget(self, node: str) -> None:
        known = self._watched.pop(node, None)
        if known is not None:
            self._loop.remove_reader(known[1])
            os.close(known[1])


def _bears(pid: int, title: str) -> bool:
    try:
        process = psutil.Process(pid)
        return process.uids().real == os.getuid() and " ".join(process.cmdline()).strip() == title
    except psutil.Error:
        return False
