"""Runs the shard daemon; on SIGUSR1 its wall clock jumps an hour ahead, on SIGUSR2 it is right again."""

import signal
import time

from exchange.process import main
from shard.server import serve

HOUR_NS = 3_600 * 10**9
right_ns = time.time_ns


def set_clock(number: int, _frame: object) -> None:
    wrong_ns = HOUR_NS if number == signal.SIGUSR1 else 0
    time.time_ns = lambda: right_ns() + wrong_ns


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, set_clock)
    signal.signal(signal.SIGUSR2, set_clock)
    main("shard", serve)
