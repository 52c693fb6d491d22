"""Runs seeds, and tells the shortened story of the first one that fails; it joins the regressions, which run first.

python -m tests.sim --seeds 2000            seeds 0 to 1999 after the regressions
python -m tests.sim --seed 17               one seed, with its story
python -m tests.sim --mutants               every rule switched off in turn: at which seed it is caught
python -m tests.sim --mutant R4 --seed 0    one seed of one mutant
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing import cpu_count, get_context
from pathlib import Path

from tests.sim.mutants import MUTANTS
from tests.sim.run import NOTHING, Mutant, Report, run
from tests.sim.story import shortened, told

REGRESSIONS = Path(__file__).with_name("regressions.txt")
MUTANT_SEEDS = 500
"""A mutant must be caught within so many."""


def reports(mutant: Mutant, seeds: Iterable[int], processes: int) -> Iterator[Report]:
    """One for each seed, in their order."""
    if processes == 1:
        yield from map(partial(_run, mutant), seeds)
        return
    with get_context("fork").Pool(processes) as pool:
        yield from pool.imap(partial(_run, mutant), seeds, chunksize=4)


def caught(mutant: Mutant, processes: int) -> Report | None:
    """The first seed that objects to a mutant."""
    return next((report for report in reports(mutant, range(MUTANT_SEEDS), processes) if report.violation), None)


def regressions() -> list[int]:
    """Seeds that failed once."""
    lines = [line.partition("#")[0].strip() for line in REGRESSIONS.read_text().splitlines()]
    return [int(line) for line in lines if line]


def _run(mutant: Mutant, seed: int) -> Report:
    return run(seed, mutant)


def _many(mutant: Mutant, seeds: list[int], processes: int) -> int:
    began = time.perf_counter()
    events = commits = 0
    for number, report in enumerate(reports(mutant, seeds, processes), 1):
        events += report.events
        commits += report.commits
        if report.violation:
            print(told(shortened(report, mutant), mutant))
            if mutant is NOTHING and report.seed not in regressions():
                with REGRESSIONS.open("a") as file:
                    file.write(f"{report.seed}  # {report.violation[:100]}\n")
            return 1
        if number % 500 == 0:
            print(f"{number} seeds, no violation, {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{len(seeds)} seeds, no violation: {events} events, {commits} commits, {time.perf_counter() - began:.0f} s")
    return 0


def _mutants(chosen: list[Mutant], processes: int) -> int:
    survivors = 0
    for mutant in chosen:
        found = caught(mutant, processes)
        survivors += found is None
        verdict = f"seed {found.seed:3}  {found.violation[:90]}" if found else "NOT CAUGHT"
        print(f"{mutant.name:36} {verdict}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants caught within {MUTANT_SEEDS} seeds")
    return int(survivors > 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Deterministic simulation of one shard.")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one, with its story")
    parser.add_argument("--mutant", default="", help="switch off the rule whose name begins so")
    parser.add_argument("--mutants", action="store_true", help="switch off every rule in turn")
    parser.add_argument("--processes", type=int, default=cpu_count())
    chosen = parser.parse_args()
    named = [mutant for mutant in MUTANTS if mutant.name.startswith(chosen.mutant)]
    if not named:
        parser.error(f"no rule's name begins with {chosen.mutant!r}: {', '.join(one.name for one in MUTANTS)}")
    if chosen.mutants:
        return _mutants(named, chosen.processes)
    mutant = named[0] if chosen.mutant else NOTHING
    if chosen.seed is not None:
        report = run(chosen.seed, mutant)
        print(
            told(report, mutant)
            if report.violation
            else "\n".join(f"{at / 1e6:10.3f} {line}" for at, line in report.story)
        )
        return int(bool(report.violation))
    seeds = list(range(chosen.first, chosen.first + chosen.seeds))
    return _many(mutant, (regressions() if mutant is NOTHING else []) + seeds, chosen.processes)


if __name__ == "__main__":
    sys.exit(main())
