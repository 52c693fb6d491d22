"""`python -m tests.sim --seeds N [--seed S] [--mutant NAME] [--mutants]`: runs seeds, tells the story of one that fails."""

import argparse
import sys
import time

from tests.sim.run import NOTHING, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--tell", action="store_true")
    chosen = parser.parse_args()
    seeds = [chosen.seed] if chosen.seed is not None else range(chosen.seeds)
    began = time.perf_counter()
    bad = 0
    for seed in seeds:
        report = run(seed, NOTHING)
        if report.violation or chosen.tell:
            bad += bool(report.violation)
            print(seed, report.violation, report.events, report.commits, report.epochs)
            if chosen.seed is not None:
                for at_ns, line in report.story:
                    print(f"{at_ns / 1e6:10.3f} {line}")
    print(f"{len(seeds)} seeds, {bad} violations, {time.perf_counter() - began:.1f} s")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
