"""`make bench`: every figure that the project promises, measured now, on this machine, against its target.

Prints a table and writes build/bench.json. Ratios compare two things of the same run. A target that is missed is
printed as a miss, with where the time went. Everything shares the machine, the load generator too. Exit code 1 when
something could not be measured; a miss is a result.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop
from rich.console import Console

from bench import engine, fanout, memory, path, replication, rest
from bench.cluster import BUILD, cluster
from bench.machine import Machine, describe
from bench.results import Row, from_dict, table
from exchange.errors import ShardexError

QUIET_PERCENT = 10.0
DURABILITY = "fdatasync of the journal before every answer"


class Results(msgspec.Struct, frozen=True):
    """Content of build/bench.json."""

    machine: Machine
    durability: str
    rows: list[Row]


def of_cluster() -> list[Row]:
    """Figures of a running cluster; the idle one first."""
    with cluster() as running:

        async def measure() -> list[Row]:
            return [
                *memory.idle(running),
                *await path.latency(running),
                *await rest.ratio(running),
                *await path.throughput(running),
            ]

        return uvloop.run(measure())


def of(module: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[Row]]:
    """Rows of a benchmark that returns plain dicts."""
    return lambda: [from_dict(content) for content in module()]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "engine": of(engine.run),
    "fanout": of(fanout.run),
    "cluster": of_cluster,
    "replication": replication.run,
}


def _describe(machine: Machine) -> str:
    parts = [
        f"{machine.cores} × {machine.processor}",
        f"{machine.memory_gib} GiB",
        machine.kernel,
        machine.python,
        f"journal on {machine.file_system} (append and fdatasync {machine.fdatasync_us:.0f} µs)",
        DURABILITY,
        f"commit {machine.commit}" + (" with changes" if machine.changed else ""),
    ]
    return ", ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to measure; default: everything")
    names = parser.parse_args().parts or list(PARTS)
    console = Console(width=None if sys.stdout.isatty() else 160)
    BUILD.mkdir(exist_ok=True)
    machine = describe(BUILD)
    rows: list[Row] = []
    failed: list[str] = []
    for name in names:
        console.print(f"measuring {name} …", style="dim")
        try:
            rows += PARTS[name]()
        except (ShardexError, OSError, subprocess.SubprocessError) as fault:
            failed.append(f"{name} could not be measured: {fault}")
    (BUILD / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(Results(machine, DURABILITY, rows))))
    console.print(_describe(machine), highlight=False)
    console.print(table(rows, "median of several runs, smallest to largest"))
    if machine.busy_percent > QUIET_PERCENT:
        sentence = f"others took {machine.busy_percent:.0f} % of the processors before the start: not a quiet machine"
        console.print(sentence, style="bold yellow")
    missed = [row.name for row in rows if row.met is False]
    console.print(f"missed: {', '.join(missed)}" if missed else "every target met")
    for sentence in failed:
        console.print(sentence, style="bold red")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
