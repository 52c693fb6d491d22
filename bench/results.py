"""One line of a benchmark: its figure, its spread, its target, and what bounds it. Floats here are never money."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Literal

import msgspec
from msgspec import Struct
from rich.table import Table


class Row(Struct, frozen=True, kw_only=True):
    """`value` = median of `runs` runs between `min` and `max`. `target` None = no target, for comparison only.

    `detail` says where the time or the memory goes: the profile behind the figure.
    """

    name: str
    value: float
    unit: str
    min: float
    max: float
    runs: int
    target: float | None = None
    met: bool | None = None
    detail: str = ""


def row(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    target: float | None = None,
    better: Literal["higher", "lower"] = "higher",
    detail: str = "",
) -> Row:
    """The row of several runs of one measurement."""
    middle = median(values)
    met = None
    if target is not None:
        met = middle >= target if better == "higher" else middle <= target
    return Row(
        name=name,
        value=middle,
        unit=unit,
        min=min(values),
        max=max(values),
        runs=len(values),
        target=target,
        met=met,
        detail=detail,
    )


def from_dict(content: dict[str, Any]) -> Row:
    """A row that another benchmark module returned as a plain dict."""
    return msgspec.convert(content, Row)


def table(rows: Sequence[Row], title: str, *, figure: str = "median") -> Table:
    """For a person: figures with spread, targets, misses in words."""
    grid = Table(title=title, title_justify="left", show_lines=True)
    for heading in ("what", figure, "min to max", "target", ""):
        grid.add_column(heading, justify="left" if heading == "what" else "right")
    for one in rows:
        verdict = {None: "", True: "[green]met[/]", False: "[bold red]MISS[/]"}[one.met]
        target = "" if one.target is None else f"{_figure(one.target)} {one.unit}"
        what = one.name + (f"\n[dim]{one.detail}[/]" if one.detail else "")
        spread = f"{_figure(one.min)} to {_figure(one.max)} ({one.runs})"
        grid.add_row(what, f"{_figure(one.value)} {one.unit}", spread, target, verdict)
    return grid


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


Benchmark = Callable[[], list[Row]]
