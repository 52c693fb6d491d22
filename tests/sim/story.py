"""The story of a run that fails, with as few faults as still make it fail in the same way."""

from tests.sim.plan import Fault
from tests.sim.run import Mutant, Report, run

RUNS_MAX = 200
LINES_MAX = 80


def shortened(report: Report, mutant: Mutant) -> Report:
    """The same violation with fewer faults: halves are left out, then quarters, and so on, while it still fails."""
    best = report
    size = max(1, len(report.faults) // 2)
    runs = 0
    while size and runs < RUNS_MAX:
        start = 0
        while start < len(best.faults) and runs < RUNS_MAX:
            fewer: list[Fault] = best.faults[:start] + best.faults[start + size :]
            runs += 1
            again = run(report.seed, mutant, fewer)
            if kind(again) == kind(report):
                best = again
            else:
                start += size
        size //= 2
    return best


def kind(report: Report) -> str:
    """Which invariant is broken; "" = none."""
    return report.violation.partition(":")[0]


def told(report: Report, mutant: Mutant) -> str:
    """For a person: what went wrong, which faults it takes, what happened."""
    lines = [f"seed {report.seed}{f', without {mutant.name}' if mutant.name else ''}: {report.violation}"]
    lines += [f"it takes {len(report.faults)} faults:", *(f"  {fault}" for fault in report.faults)]
    lines += ["what happened:", *(f"{at_ns / 1e6:10.3f} {line}" for at_ns, line in report.story[-LINES_MAX:])]
    return "\n".join(lines)
