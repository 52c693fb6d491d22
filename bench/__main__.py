"""`make bench`: every figure that the project promises, measured now, on this machine, against its target.

Prints a table and writes build/bench.json. Ratios compare two things of the same run. A target that is missed is
printed as a miss, with where the time went. Everything shares the machine, the load generator too.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop
from rich.console import Console

from bench import engine, fanout, memory, path, rest
from bench.cluster import BUILD, cluster
from bench.machine import Machine, describe
from bench.results import Row, from_dict, table

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
    for name in names:
        console.print(f"measuring {name} …", style="dim")
        rows += PARTS[name]()
    (BUILD / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(Results(machine, DURABILITY, rows))))
    console.print(_describe(machine), highlight=False)
    console.print(table(rows, "median of several runs, smallest to largest"))
    missed = [row.name for row in rows if row.met is False]
    console.print(f"missed: {', '.join(missed)}" if missed else "every target met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
