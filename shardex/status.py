"""What `shardex status` shows: the coordinator's view, the supervisor's view and the memory of each process, merged."""

from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from exchange.errors import Unavailable
from shardex.control import Control
from shardex.launcher import Running
from shardex.supervision import programs

if TYPE_CHECKING:
    from rich.table import Table

RATES = {"shard": "commands_per_s", "marketdata": "deliveries_per_s"}
"""The figure of a role's heartbeat that says how busy it is."""
_COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red", "down": "red"}


class ShardRow(msgspec.Struct, frozen=True):
    """One shard as the coordinator has it recorded; empty while the coordinator is away.

    `frozen_seq` = the command that nobody can run, 0 = none; `skip` = those that operators had left out.
    """

    shard: str
    primary: str
    epoch: int
    in_sync: list[str]
    nodes: list[str]
    serving: bool
    flags: list[str]
    frozen_seq: int
    skip: list[int]


class Row(msgspec.Struct, frozen=True):
    """One daemon; `shard` of a node only.

    `state` is supervisord's word for its process, `stats` what it says of itself in its heartbeats.
    `memory_mb` is its resident memory in 10^6 bytes, None when it has no process; `epoch` is 0 without one.
    """

    role: str
    name: str
    pid: int
    state: str
    health: str
    epoch: int
    restarts: int
    memory_mb: float | None
    stats: dict[str, Any]
    shard: str

    @property
    def part(self) -> str:
        """What it does: a node's part in its shard while it lives, else its role."""
        return str(self.stats.get("role", self.role)) if self.health in ("healthy", "degraded") else self.role


class Report(msgspec.Struct, frozen=True):
    """The whole cluster at one moment. `health` is healthy, degraded or unhealthy."""

    data: str
    health: str
    engine: str
    map_version: int
    rest_url: str
    feed_url: str
    daemons: list[Row]
    shards: list[ShardRow]


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
        shards = [
            ShardRow(s.shard, s.primary, s.epoch, s.isr, s.nodes, s.serving, s.flags, s.frozen_seq, s.skip)
            for s in seen.shards
        ]
    except Unavailable:
        health, map_version, daemons, shards = "degraded", 0, {}, []
    rows = []
    for program in programs(config):
        process, daemon = processes[program.name], daemons.get(program.name)
        up = process.state == "RUNNING"
        rows.append(
            Row(
                role=program.role,
                name=program.name,
                pid=process.pid,
                state=process.state,
                health=(daemon.health if daemon else "unknown") if up else "down",
                epoch=daemon.epoch if daemon else 0,
                restarts=process.restarts,
                memory_mb=_memory_mb(process.pid) if up else None,
                stats=daemon.stats if daemon else {},
                shard=daemon.shard if daemon else "",
            )
        )
    if health == "healthy" and any(row.health != "healthy" for row in rows):
        health = "degraded"
    engines = sorted({str(row.stats["engine"]) for row in rows if "engine" in row.stats})
    return Report(
        data=str(config.data),
        health=health,
        engine=" and ".join(engines) or "unknown",
        map_version=map_version,
        rest_url=running.rest_url,
        feed_url=running.feed_url,
        daemons=rows,
        shards=shards,
    )


def to_json(report: Report) -> str:
    """One line of JSON."""
    return msgspec.json.encode(report).decode()


def one_line(report: Report) -> str:
    """The cluster in one line of text."""
    leaders = [shard.primary for shard in report.shards]
    shards = [row.stats for row in report.daemons if row.name in leaders]
    commands = sum(stats.get("commands_per_s", 0) for stats in shards)
    orders = sum(stats.get("orders", 0) for stats in shards)
    slowest = max((stats.get("commit_p99_us", 0) for stats in shards), default=0)
    told = f"{report.health} · {orders:,} open orders · {commands:,} commands/s · commit p99 {slowest:,} µs"
    return " · ".join([told, *(f"{shard}: {flags}" for shard, flags in _alarms(report).items())])


def table(report: Report) -> "Table":
    """For a terminal."""
    from rich.table import Table  # noqa: PLC0415 - `status --json` does not need it

    colour = _COLOURS[report.health]
    title = f"{report.data}: [{colour}]{report.health}[/], engine {report.engine}"
    alarms = "\n".join(f"[yellow]{shard}: {flags}[/]" for shard, flags in _alarms(report).items())
    caption = alarms or None
    shown = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=None, pad_edge=False)
    for name in ("daemon", "", "mode", "health"):
        shown.add_column(name, no_wrap=True)
    for name in (
        "pid",
        "epoch",
        "seq",
        "lag",
        "rate\n/s",
        "p50\nµs",
        "p99\nµs",
        "memory\nMB",
        "pool\n%",
        "re-\nstarts",
    ):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in report.daemons:
        figures = (
            row.pid or None,
            row.epoch or None,
            row.stats.get("seq"),
            _lag(row),
            row.stats.get(RATES.get(row.role, "")),
            row.stats.get("commit_p50_us"),
            row.stats.get("commit_p99_us"),
            row.memory_mb,
            row.stats.get("pool_use_percent"),
            row.restarts,
        )
        style = None if row.health == "healthy" else _COLOURS.get(row.health, "red")
        mode = str(row.stats.get("mode", "")) if row.part != row.role else ""
        shown.add_row(row.name, row.part, mode, row.health, *map(_cell, figures), style=style)
    return shown


def _alarms(report: Report) -> dict[str, str]:
    """Flags by shard, without those that a shard of one node always has."""
    usual = ("SOLO", "NO_FAILOVER")
    flags = {
        shard.shard: [
            f"{flag} at seq {shard.frozen_seq}" if flag == "FROZEN" else flag
            for flag in shard.flags
            if len(shard.nodes) > 1 or flag not in usual
        ]
        for shard in report.shards
    }
    return {shard: ", ".join(shown) for shard, shown in flags.items() if shown}


def _lag(row: Row) -> int | None:
    """Commands that a primary's standby has not acknowledged; nothing where there is none."""
    lag = row.stats.get("lag")
    return lag if isinstance(lag, int) and lag >= 0 and row.part == "primary" else None


def _cell(value: object) -> str:
    return "–" if value is None else str(value)


def _memory_mb(pid: int) -> float | None:
    try:
        return round(float(psutil.Process(pid).memory_info().rss) / 1e6, 1)
    except psutil.Error:
        return None
