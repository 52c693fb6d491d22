"""The one place that reads the operating system's clock. Cores never import this: time arrives as an argument."""

import time

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch. May jump; used for stamps that people read and for signed requests."""
    return time.time_ns()


def monotonic_ns() -> int:
    """Nanoseconds that only grow. Used for every time-out, heartbeat and latency."""
    return time.monotonic_ns()
