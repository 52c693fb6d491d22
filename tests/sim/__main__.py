"""`python -m tests.sim --seeds N [--seed S] [--mutant NAME] [--mutants]`: runs seeds, tells the story of one that fails."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from multiprocessing import get_context

from tests.sim.mutants import MUTANTS
from tests.sim.run import NOTHING, Mutant, Report, run


def reports(mutant: Mutant, seeds: Iterable[int], processes: int) -> Iterator[Report]:
    """Reports in the order of the seeds."""
    if processes == 1:
        yield from (run(seed, mutant) for seed in seeds)
        return
    with get_context("fork").Pool(processes) as pool:
        yield from pool.imap(partial(_run, mutant), seeds, chunksize=4)


def _run(mutant: Mutant, seed: int) -> Report:
    return run(seed, mutant)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--mutant", default="")
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.mutants:
        for mutant in MUTANTS:
            if mutant.name.startswith(chosen.mutant):
                began = time.perf_counter()
                caught = next((r for r in reports(mutant, range(chosen.first, chosen.first + chosen.seeds), chosen.processes) if r.violation), None)
                print(f"{mutant.name:40} {caught.seed if caught else 'NOT CAUGHT':>10} {time.perf_counter()-began:6.1f} s  {caught.violation[:150] if caught else ''}", flush=True)
        return 0
    mutant = next((one for one in MUTANTS if chosen.mutant and one.name.startswith(chosen.mutant)), NOTHING)
    if chosen.seed is not None:
        report = run(chosen.seed, mutant)
        for at_ns, line in report.story:
            print(f"{at_ns / 1e6:10.3f} {line}")
        print(report.violation or "well", report.events, report.commits, report.epochs)
        return bool(report.violation)
    began = time.perf_counter()
    bad = 0
    for report in reports(mutant, range(chosen.first, chosen.first + chosen.seeds), chosen.processes):
        if report.violation:
            bad += 1
            print(report.seed, report.violation[:400], flush=True)
    print(f"{chosen.seeds} seeds, {bad} violations, {time.perf_counter() - began:.1f} s")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
