"""The one place that reads the operating system's clock. Cores never import this: time arrives as an argument."""

import time


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch. May jump; used for stamps that people read and for signed requests."""
    return time.time_ns()


def monotonic_ns() -> int:
    """Nanoseconds that only grow. Used for every time-out, heartbeat and latency."""
    return time.monotonic_ns()
