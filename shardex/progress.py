"""Progress of work that may take longer than a second: a bar on a terminal, now and then a plain line elsewhere.

Everything goes to stderr, so that results on stdout can be piped.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich import progress as rich_progress

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S

Advance = Callable[[int, int], None]
"""(done, in all), in units of the bar."""
PLAIN_EVERY_NS = 2 * NS_PER_S


@contextmanager
def bar(text: str, unit: Literal["bytes", "orders"] = "orders") -> Iterator[Advance]:
    """Show how far `text` has come. Work that ends within PLAIN_EVERY_NS prints nothing where there is no terminal."""
    if not sys.stderr.isatty():
        yield _plain(text)
        return
    speed = rich_progress.TransferSpeedColumn() if unit == "bytes" else _Rate(unit)
    columns = ("[progress.description]{task.description}", rich_progress.BarColumn(), speed)
    with rich_progress.Progress(*columns, rich_progress.TimeRemainingColumn(), transient=True) as shown:
        task = shown.add_task(text, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


class _Rate(rich_progress.ProgressColumn):
    """Count and count a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: rich_progress.Task) -> str:
        return f"{task.completed:,.0f} {self._unit}, {task.speed or 0:,.0f}/s"


def _plain(text: str) -> Advance:
    said_ns = monotonic_ns()

    def advance(done: int, total: int) -> None:
        nonlocal said_ns
        if monotonic_ns() - said_ns >= PLAIN_EVERY_NS:
            said_ns = monotonic_ns()
            print(f"{text}: {100 * done // max(total, 1)} %", file=sys.stderr, flush=True)

    return advance
