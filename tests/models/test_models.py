"""The protocol's models hold, and each rule is needed: a model without it breaks within small bounds."""

import pytest

from tests.models import lease, replication
from tests.models.replication import Bounds, Removed

pytestmark = pytest.mark.timeout(600)
"""Nothing here waits for anything: how long it takes is the machine's affair."""
BOTH_OR_ONE = [
    (Removed.FENCE, Bounds()),
    (Removed.SHRINK_RECORDED_FIRST, Bounds()),
    (Removed.OBEY_REFUSAL, Bounds()),
    (Removed.REQUIRE_BEFORE_ADD, Bounds()),
    (Removed.PROMOTE_FROM_ISR, Bounds()),
    (Removed.INCARNATION, Bounds()),
    (Removed.TARGET_INCARNATION, Bounds()),
    (Removed.NEW_TERM_AT_RESTART, Bounds(both=False)),
    (Removed.CUT_SUFFIX, Bounds(values=2)),
    (Removed.SOLO_SYNCS, Bounds(both=False)),
    (Removed.COMPARE_LOGS, Bounds(both=False)),
]
SECOND_BELTS = [Removed.SYNC_AT_SHRINK, Removed.PROMISE_AT_REGISTRATION]
"""Within one lossy crash other rules cover these two; they stay in the protocol."""


@pytest.mark.parametrize("both", [True, False], ids=["both", "replicated"])
def test_no_acknowledged_value_is_lost_in_any_interleaving(both: bool) -> None:
    result = replication.search(Bounds(both=both))
    assert (result.violation, result.complete) == ("", True), result.story
    assert result.states > 40_000


@pytest.mark.parametrize(("removed", "bounds"), BOTH_OR_ONE, ids=lambda value: getattr(value, "name", ""))
def test_without_this_rule_an_acknowledged_value_is_lost(removed: Removed, bounds: Bounds) -> None:
    result = replication.search(bounds._replace(removed=removed))
    assert result.violation, f"{result.states} states without a violation"
    assert result.story


@pytest.mark.parametrize("removed", SECOND_BELTS, ids=lambda value: value.name)
def test_a_second_belt_is_not_needed_within_one_lossy_crash(removed: Removed) -> None:
    result = replication.search(Bounds(removed=removed))
    assert (result.violation, result.complete) == ("", True), result.story


def test_every_removed_rule_is_tried() -> None:
    tried = [removed for removed, _ in BOTH_OR_ONE] + SECOND_BELTS + [Removed.NONE]
    assert sorted(removed.name for removed in tried) == sorted(removed.name for removed in Removed)


@pytest.mark.parametrize("removed", [Removed.SOLO_SYNCS, Removed.COMPARE_LOGS], ids=lambda value: value.name)
def test_the_rules_of_mode_replicated_are_not_needed_where_every_log_is_synced(removed: Removed) -> None:
    result = replication.search(Bounds(removed=removed))
    assert (result.violation, result.complete) == ("", True), result.story


def test_no_mixture_of_faults_breaks_an_account_limit() -> None:
    assert [fault for fault in (lease.run(seed) for seed in range(3_000)) if fault] == []


@pytest.mark.parametrize(
    "removed", [rule for rule in lease.Removed if rule is not lease.Removed.NONE], ids=lambda rule: rule.name
)
def test_without_this_rule_an_account_limit_is_broken(removed: lease.Removed) -> None:
    assert any(lease.run(seed, removed) for seed in range(100))
