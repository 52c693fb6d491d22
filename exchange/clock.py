"""The one place that reads the operating system's clock. Cores never import this: time arrives as an argument."""

import time

_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch. May jump; used for stamps that people read and for signed requests."""
    return time.time_ns()


def uptime_ns() -> int:
    """Nanoseconds that this machine has run, its sleep included where the system can tell."""
    return time.clock_gettime_ns(_UPTIME)


def monotonic_ns() -> int:
    """Nanoseconds that only grow. Used for every time-out, heartbeat and latency."""
    return time.monotonic_ns()
