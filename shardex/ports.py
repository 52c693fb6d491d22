"""TCP ports of this machine: is one free, who holds it, which is the next free one."""

import os
import socket

import psutil

from exchange.errors import ShardexError

_FIRST = 20_000
_COUNT = 12_000
"""Below 32768, where the kernel starts to hand out ports for outgoing connections."""
_STRIDE = 7_417
"""The golden section of _COUNT: processes that start together look hundreds of ports apart, and do not meet between
choosing a port and listening on it."""


def is_free(host: str, port: int) -> bool:
    """Nobody listens on `host`:`port` (a port that only lingers after a close counts as free)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose(host: str, taken: tuple[int, ...] = ()) -> int:
    """A free port of `host` that is not in `taken`. Processes start looking at different places."""
    for step in range(_COUNT):
        port = _FIRST + (os.getpid() * _STRIDE + step) % _COUNT
        if port not in taken and is_free(host, port):
            return port
    raise ShardexError(f"no free port on {host} from {_FIRST} to {_FIRST + _COUNT - 1}")


def holder(port: int) -> str:
    """Who listens on `port`, as far as this user may know: "python3 (pid 4711)" or "another process"."""
    try:
        connections = psutil.net_connections("tcp")
        pid = next(c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port)
        return f"{psutil.Process(pid).name()} (pid {pid})" if pid else "another process"
    except (psutil.Error, StopIteration):
        return "another process"
