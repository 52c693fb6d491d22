"""Running a cluster in the foreground: signals become a flag, start-up and status are shown, the end is always tidy."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from exchange.config import Config
from exchange.errors import ShardexError
from shardex import keys, launcher, status

_REFRESH_S = 1.0
_REFRESHES_PER_S = 4
_POLL_S = 0.1


class Interrupt:
    """True once somebody wants this process to end. A flag, not an exception: nothing is cut off half-way."""

    def __init__(self) -> None:
        self._number = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._set)

    def __call__(self) -> bool:
        return self._number != 0

    def _set(self, number: int, _frame: FrameType | None) -> None:
        self._number = number


@contextmanager
def started(
    config: Config, interrupt: Interrupt, console: Console, *, ephemeral: bool = False
) -> Iterator[launcher.Running]:
    """Start a cluster, wait until it is ready or `interrupt`, and stop it at the end whatever happens."""
    running = launcher.start(config, ephemeral=ephemeral)
    try:
        with progress(console, f"starting {len(config.shards)} shards"):
            running.wait_ready(cancelled=interrupt)
        yield running
    finally:
        with progress(console, "stopping"):
            running.stop()
        console.print("stopped; no process is left", highlight=False)


def start_detached(config: Config, interrupt: Interrupt, console: Console) -> launcher.Running:
    """Start a cluster that outlives this process and wait until it is ready; stop it when it does not get there."""
    running = launcher.start(config, detached=True)
    try:
        with progress(console, f"starting {len(config.shards)} shards"):
            running.wait_ready(cancelled=interrupt)
        if interrupt():
            raise launcher.LaunchError("interrupted before the cluster was ready; it is stopped again")
    except BaseException:
        running.stop()
        raise
    return running


def introduce(running: launcher.Running, console: Console) -> None:
    """Where the cluster is reached, which engine it runs on and how it is stopped."""
    config = running.config
    engine = status.collect(running).engine
    if engine == "reference":
        console.print(
            "ENGINE: plain-Python reference, many times slower. Install cargo and run `make setup`.", style="bold red"
        )
    lines = [
        f"engine       {engine}",
        f"REST         {running.rest_url}",
        f"order entry  {running.orders_url}",
        f"market data  {running.feed_url}",
        f"data         {config.data}",
    ]
    if not config.gateway.open_demo and not keys.read(config.data):
        lines.append(f"nobody can trade yet; create a key: shardex keys add ACCOUNT --data {config.data}")
    for line in lines:
        console.print(line, highlight=False, markup=False)


@contextmanager
def progress(console: Console, text: str) -> Iterator[None]:
    """A spinner on a terminal, one plain line elsewhere."""
    if console.is_terminal:
        with console.status(f"{text} …", refresh_per_second=_REFRESHES_PER_S):
            yield
    else:
        console.print(text, highlight=False)
        yield


def hold(running: launcher.Running, interrupt: Interrupt, console: Console) -> None:
    """Show how the cluster fares until `interrupt`; LaunchError when its supervisor ends before that.

    On a terminal one line is kept up to date; elsewhere a line is printed whenever the health changes.
    """
    last = ""
    with (
        console.status("running …", refresh_per_second=_REFRESHES_PER_S) if console.is_terminal else _nothing() as line
    ):
        while not interrupt():
            if not running.alive():
                raise launcher.LaunchError(
                    f"the supervisor ended unasked: {launcher.last_line(running.config, 'supervisor')}"
                )
            try:
                now = status.collect(running)
                health, text = now.health, status.one_line(now)
            except ShardexError as fault:
                health, text = "unknown", str(fault)
            if line is not None:
                line.update(text)
            elif health != last:
                console.print(text, highlight=False)
            last = health
            wait(_REFRESH_S, interrupt)


def wait(seconds: float, interrupt: Interrupt) -> None:
    """Sleep, but not longer than `interrupt` allows."""
    until = time.monotonic() + seconds
    while not interrupt() and time.monotonic() < until:
        time.sleep(_POLL_S)


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def console() -> Console:
    """Standard output, with rich output on a terminal only."""
    return Console(file=sys.stdout, soft_wrap=True)
