"""What `shardex status` shows: the coordinator's view, the supervisor's view and the memory of each process, merged."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from exchange.errors import Unavailable
from shardex.control import Control
from shardex.launcher import Running
from shardex.supervision import programs

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = (
    ("role", "role"),
    ("name", "name"),
    ("pid", "pid"),
    ("health", "health"),
    ("epoch", "epoch"),
    ("seq", "seq"),
    ("orders_per_second", "orders/s"),
    ("trades_per_second", "trades/s"),
    ("p50_us", "p50 µs"),
    ("p99_us", "p99 µs"),
    ("memory_mb", "MB"),
    ("pool_percent", "pool %"),
    ("restarts", "restarts"),
)
_COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red", "down": "red"}


@dataclass(frozen=True)
class Row:
    """One daemon. None = it does not have such a figure, or nobody can tell now."""

    role: str
    name: str
    pid: int
    state: str
    health: str
    epoch: int | None
    seq: int | None
    orders_per_second: float | None
    trades_per_second: float | None
    p50_us: float | None
    p99_us: float | None
    memory_mb: float | None
    pool_percent: float | None
    restarts: int


@dataclass(frozen=True)
class Report:
    """The whole cluster at one moment."""

    data: str
    health: str
    engine: str
    map_version: int
    rest_url: str
    feed_url: str
    daemons: list[Row]


def collect(running: Running) -> Report:
    """Ask supervisor and coordinator. A coordinator that is away makes the cluster degraded, all else stays visible.

    Raises Unavailable when the supervisor does not answer.
    """
    config = running.config
    processes = {process.name: process for process in running.supervisor.processes()}
    try:
        with Control(config) as control:
            seen = control.status()
        health, map_version = seen.health, seen.map_version
        daemons = {daemon.name: daemon for daemon in seen.daemons}
    except Unavailable:
        health, map_version, daemons = "degraded", 0, {}
    rows = []
    for program in programs(config):
        process, daemon = processes[program.name], daemons.get(program.name)
        stats = daemon.stats if daemon else {}
        up = process.state == "RUNNING"
        rows.append(
            Row(
                role=program.role,
                name=program.name,
                pid=process.pid,
                state=process.state,
                health=(daemon.health if daemon else "unknown") if up else "down",
                epoch=daemon.epoch if daemon and daemon.epoch else None,
                seq=_number(stats, "seq"),
                orders_per_second=_number(stats, "orders_per_second"),
                trades_per_second=_number(stats, "trades_per_second"),
                p50_us=_number(stats, "p50_us"),
                p99_us=_number(stats, "p99_us"),
                memory_mb=_memory_mb(process.pid) if up else None,
                pool_percent=_number(stats, "pool_percent"),
                restarts=process.restarts,
            )
        )
    if health == "healthy" and any(row.health != "healthy" for row in rows):
        health = "degraded"
    engines = sorted({str(daemon.stats["engine"]) for daemon in daemons.values() if "engine" in daemon.stats})
    return Report(
        data=str(config.data),
        health=health,
        engine=" and ".join(engines) or "unknown",
        map_version=map_version,
        rest_url=running.rest_url,
        feed_url=running.feed_url,
        daemons=rows,
    )


def to_json(report: Report) -> str:
    """One line of JSON; figures that a daemon does not have are null."""
    return msgspec.json.encode(report).decode()


def one_line(report: Report) -> str:
    """The cluster in one line of text."""
    shards = [row for row in report.daemons if row.role == "shard"]
    orders = sum(row.orders_per_second or 0 for row in shards)
    trades = sum(row.trades_per_second or 0 for row in shards)
    slowest = max((row.p99_us or 0 for row in shards), default=0)
    return f"{report.health} · {orders:,.0f} orders/s · {trades:,.0f} trades/s · p99 {slowest:,.0f} µs"


def table(report: Report) -> "Table":
    """For a terminal."""
    from rich.table import Table  # noqa: PLC0415 - `status --json` does not need it

    colour = _COLOURS[report.health]
    shown = Table(title=f"{report.data}: [{colour}]{report.health}[/], engine {report.engine}", title_justify="left")
    for key, title in _COLUMNS:
        shown.add_column(title, justify="left" if key in ("role", "name", "health") else "right")
    for row in report.daemons:
        cells = [_cell(getattr(row, key)) for key, _ in _COLUMNS]
        shown.add_row(*cells, style=None if row.health == "healthy" else _COLOURS.get(row.health, "red"))
    return shown


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def _number(stats: dict[str, Any], key: str) -> Any:
    value = stats.get(key)
    return value if isinstance(value, int | float) else None


def _memory_mb(pid: int) -> float | None:
    try:
        return round(float(psutil.Process(pid).memory_info().rss) / 1e6, 1)
    except psutil.Error:
        return None
