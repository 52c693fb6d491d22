"""Wakes the loop at a steady interval, finer than the millisecond of an event loop's own timers.

Linux timerfd, because an open-loop generator that is up to a millisecond late would measure itself. Elsewhere the
loop's timers, with their millisecond.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

from exchange.domain import NS_PER_S

_CLOCK_MONOTONIC = 1
_NONBLOCK = 0o4000
_CLOEXEC = 0o2000000
_EXPIRATIONS_BYTES = 8


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


def pace(interval_ns: int, wake: Callable[[], None]) -> Callable[[], None]:
    """Call `wake` every `interval_ns` in the running loop, fewer times when the loop is late; returns the stop."""
    if sys.platform == "linux":
        return _pace_by_descriptor(interval_ns, wake)
    return _pace_by_loop(interval_ns, wake)


def _pace_by_descriptor(interval_ns: int, wake: Callable[[], None]) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    seconds, nanoseconds = divmod(interval_ns, NS_PER_S)
    span = _Timespec(seconds, nanoseconds)
    if libc.timerfd_settime(descriptor, 0, ctypes.byref(_Itimerspec(span, span)), None) < 0:
        os.close(descriptor)
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    loop = asyncio.get_running_loop()

    def fired() -> None:
        os.read(descriptor, _EXPIRATIONS_BYTES)
        wake()

    def stop() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)

    loop.add_reader(descriptor, fired)
    return stop


def _pace_by_loop(interval_ns: int, wake: Callable[[], None]) -> Callable[[], None]:
    async def beat() -> None:
        while True:
            await asyncio.sleep(interval_ns / NS_PER_S)
            wake()

    task = asyncio.get_running_loop().create_task(beat())

    def stop() -> None:
        task.cancel()

    return stop
