"""Progress of work that may take longer than a second: a bar on a terminal, now and then a plain line elsewhere.

Everything goes to stderr, so that results on stdout can be piped.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S

PLAIN_EVERY_NS = 2 * NS_PER_S
"""Where there is no terminal; work that ends before that prints nothing."""
_TEXT = TextColumn("{task.description}")
_Show = Callable[[str, float, float, str], None]
"""(what, done, in all, a note on it)."""


@contextmanager
def bytes_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what is to be called with (bytes done, bytes in all)."""
    with _bar(_TEXT, BarColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as show:
        yield lambda done, total: show(text, done, total, "")


@contextmanager
def stages_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yields what is to be called with (what is being done, bytes done, bytes in all); stages follow each other."""
    with _bar(_TEXT, BarColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as show:
        yield lambda what, done, total: show(what, done, total, "")


@contextmanager
def orders_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what is to be called with (orders done, orders in all)."""
    columns = _TEXT, BarColumn(), TextColumn("{task.completed:,.0f} orders, {task.fields[note]}"), TimeRemainingColumn()
    with _bar(*columns) as show:
        started_ns = monotonic_ns()

        def advance(done: int, total: int) -> None:
            seconds = (monotonic_ns() - started_ns) / NS_PER_S
            show(text, done, total, f"{done / seconds if seconds else 0:,.0f}/s")

        yield advance


@contextmanager
def seconds_bar() -> Iterator[Callable[[str, float, float, int], None]]:
    """Yields what is to be called with (what is going on, seconds done, seconds in all, orders answered so far)."""
    with _bar(_TEXT, BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn()) as show:
        yield lambda what, done, total, answered: show(what, done, total, f"{answered:,} orders answered")


@contextmanager
def _bar(*columns: ProgressColumn) -> Iterator[_Show]:
    if not sys.stderr.isatty():
        yield _plain()
        return
    with Progress(*columns, transient=True) as shown:
        task = shown.add_task("", total=None, note="")
        yield lambda text, done, total, note: shown.update(
            task, description=text, completed=done, total=total, note=note
        )


def _plain() -> _Show:
    said_ns = monotonic_ns()

    def show(text: str, done: float, total: float, note: str) -> None:
        nonlocal said_ns
        if monotonic_ns() - said_ns >= PLAIN_EVERY_NS:
            said_ns = monotonic_ns()
            print(f"{text}: {100 * done / (total or 1):.0f} % {note}".rstrip(), file=sys.stderr, flush=True)

    return show
