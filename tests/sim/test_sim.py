"""Real cores under every fault that the design knows: no seed breaks an invariant, no broken rule stays unseen."""

import pytest

from tests.sim.__main__ import caught, regressions, reports
from tests.sim.mutants import MUTANTS
from tests.sim.run import NOTHING, Mutant, run
from tests.sim.story import kind, shortened, told

pytestmark = pytest.mark.timeout(600)
"""Nothing here waits for anything: how long it takes is the machine's affair."""
SEEDS = 2_000
SLICES = 20


def test_seeds_that_failed_once_do_not_fail_again() -> None:
    for seed in regressions():
        report = run(seed)
        assert not report.violation, told(shortened(report, NOTHING), NOTHING)


@pytest.mark.parametrize("slice_", range(SLICES))
def test_no_seed_breaks_an_invariant(slice_: int) -> None:
    for report in reports(NOTHING, range(slice_, SEEDS, SLICES), processes=1):
        assert not report.violation, told(shortened(report, NOTHING), NOTHING)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_rule_that_is_switched_off_is_missed(mutant: Mutant) -> None:
    assert caught(mutant, processes=1) is not None


def test_equal_seeds_give_equal_stories() -> None:
    for seed in (0, 1, 2):  # the first one plays scripts
        assert run(seed) == run(seed)


def test_a_story_is_shortened_to_the_faults_that_it_takes() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name.startswith("R3 shrink"))
    report = caught(mutant, processes=1)
    assert report is not None
    shorter = shortened(report, mutant)
    assert kind(shorter) == kind(report)
    assert 1 <= len(shorter.faults) < len(report.faults)
    assert run(report.seed, mutant, shorter.faults) == shorter
