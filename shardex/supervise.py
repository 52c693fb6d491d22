"""Door of the embedded supervisord: `python -m shardex.supervise --data DIR --conf FILE --lock FD …`.

It holds the lock of the data directory for as long as it lives. With `--parent` it stops everything as soon as that
process is gone, however it went; what `--remove` names is removed when everything has stopped. Over its socket it
answers supervisord's own calls and `shardex.processes()`.
"""

import argparse
import ctypes
import os
import resource
import shutil
import signal
import sys
from typing import Any

import setproctitle
from supervisor import events, rpcinterface, supervisord

_PR_SET_PDEATHSIG = 1
_DESCRIPTORS = 65_536


class Processes:
    """RPC interface: supervisord's word on all programs together with how often each was started, of one moment."""

    def __init__(self, supervisor: supervisord.Supervisor) -> None:
        self._own = rpcinterface.SupervisorNamespaceRPCInterface(supervisor)
        self._starts: dict[str, int] = {}
        events.subscribe(events.ProcessStateStartingEvent, self._count)

    def processes(self) -> list[dict[str, Any]]:
        """The rows of `supervisor.getAllProcessInfo`, each with `starts`: 1 = never restarted, 0 = never started."""
        return [{**row, "starts": self._starts.get(row["name"], 0)} for row in self._own.getAllProcessInfo()]

    def _count(self, event: Any) -> None:
        name = event.process.config.name
        self._starts[name] = self._starts.get(name, 0) + 1


def make_interface(supervisor: supervisord.Supervisor) -> Processes:
    """Factory named in the generated supervisord.conf."""
    return Processes(supervisor)


def main() -> None:
    """Run supervisord in the foreground of this process."""
    parser = argparse.ArgumentParser(prog="python -m shardex.supervise")
    parser.add_argument("--data", required=True, help="data directory; names this process in the process list")
    parser.add_argument("--conf", required=True, help="supervisord.conf")
    parser.add_argument("--lock", type=int, required=True, help="descriptor that holds the lock of the data directory")
    parser.add_argument("--remove", nargs="*", default=[], help="directories that end with this process")
    parser.add_argument("--parent", type=int, default=0, help="end when this process ends")
    arguments = parser.parse_args()
    os.set_inheritable(arguments.lock, False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until supervisord has its own: what is to go goes
    try:
        if arguments.parent:
            _end_with(arguments.parent)
        _raise_descriptor_limit()
        setproctitle.setproctitle(f"shardex supervisor {arguments.data}")
        supervisord.main(["--nodaemon", "--configuration", arguments.conf])
    finally:
        for directory in arguments.remove:
            shutil.rmtree(directory, ignore_errors=True)


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent dies; where the kernel cannot, only its orderly end counts."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


def _raise_descriptor_limit() -> None:
    """Daemons inherit the limit: a gateway needs one descriptor a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
