"""Healthy, degraded, down: of one daemon and of the cluster."""

import pytest

from coordinator.core.health import (
    NEVER_MS,
    NODE_SUSPECT_MAX_NS,
    NODE_SUSPECT_NS,
    STANDSTILL_NS,
    STAT_TEXT_MAX,
    STATS_MAX,
    Health,
    Place,
)
from exchange.domain import NS_PER_MS
from exchange.limits import BEAT_SUSPECT_NS

S0: Place = ("shard", "s0-a")
G0: Place = ("gateway", "g0")


@pytest.fixture
def health() -> Health:
    return Health([S0, G0])


def come(health: Health, place: Place, *, ready: bool, now_ns: int = 0, incarnation: int = 1) -> None:
    health.started(place, pid=7, incarnation=incarnation, now_ns=now_ns)
    health.heard(place, ready=ready, stats={}, now_ns=now_ns)


def test_a_daemon_is_down_until_it_comes_and_again_when_it_is_silent(health: Health) -> None:
    assert health.state(G0, 0) == "down"
    health.started(G0, pid=7, incarnation=1, now_ns=0)
    assert health.state(G0, 0) == "degraded"
    come(health, G0, ready=True, now_ns=5)
    assert health.state(G0, 5 + BEAT_SUSPECT_NS) == "healthy"
    assert health.state(G0, 6 + BEAT_SUSPECT_NS) == "down"


def test_a_node_is_suspected_sooner_and_a_slow_one_later(health: Health) -> None:
    come(health, S0, ready=True)
    assert not health.silent(S0, NODE_SUSPECT_NS)
    assert health.silent(S0, NODE_SUSPECT_NS + 1)
    now_ns = 0
    for _ in range(20):
        now_ns += NODE_SUSPECT_NS
        health.heard(S0, ready=True, stats={}, now_ns=now_ns)
    assert not health.silent(S0, now_ns + NODE_SUSPECT_MAX_NS)
    assert health.silent(S0, now_ns + NODE_SUSPECT_MAX_NS + 1)
    for _ in range(20):
        now_ns += NS_PER_MS
        health.heard(S0, ready=True, stats={}, now_ns=now_ns)
    assert health.silent(S0, now_ns + NODE_SUSPECT_NS + 1)


def test_a_session_is_alive_once_it_was_heard_here(health: Health) -> None:
    health.restored(S0, pid=7, incarnation=3, now_ns=0)
    assert not health.alive(S0, 3, 0)
    assert health.undecided(S0, 3, BEAT_SUSPECT_NS)
    assert not health.undecided(S0, 3, BEAT_SUSPECT_NS + 1)
    health.heard(S0, ready=True, stats={}, now_ns=5)
    assert health.alive(S0, 3, 5)
    assert not health.alive(S0, 2, 5)
    assert not health.undecided(S0, 3, 5)


def test_who_has_ended_stays_so_until_a_new_session(health: Health) -> None:
    come(health, S0, ready=True, incarnation=3)
    assert not health.gone(S0, 2)
    assert health.gone(S0, 3)
    assert not health.gone(S0, 3)
    come(health, S0, ready=True, incarnation=3)
    assert health.state(S0, 0) == "down"
    come(health, S0, ready=True, incarnation=4)
    assert health.state(S0, 0) == "healthy"


def test_a_standstill_of_the_coordinator_is_nobody_s_silence(health: Health) -> None:
    come(health, S0, ready=True)
    assert health.on_tick(0) == 0
    assert health.on_tick(STANDSTILL_NS) == 0
    assert health.on_tick(STANDSTILL_NS + 60 * NODE_SUSPECT_NS) == 60 * NODE_SUSPECT_NS
    now_ns = 60 * NODE_SUSPECT_NS + NODE_SUSPECT_NS
    assert not health.silent(S0, now_ns)
    assert health.silent(S0, now_ns + 1)


def test_the_cluster_is_as_well_as_its_parts(health: Health) -> None:
    assert health.verdict(shards_serving=0, shards_well=True, now_ns=0) == "unhealthy"
    come(health, S0, ready=True)
    assert health.verdict(shards_serving=1, shards_well=True, now_ns=0) == "degraded"
    come(health, G0, ready=False)
    assert health.verdict(shards_serving=1, shards_well=True, now_ns=0) == "degraded"
    come(health, G0, ready=True)
    assert health.verdict(shards_serving=1, shards_well=True, now_ns=0) == "healthy"
    assert health.verdict(shards_serving=1, shards_well=False, now_ns=0) == "degraded"
    come(health, ("gateway", "g1"), ready=False)
    assert health.verdict(shards_serving=1, shards_well=True, now_ns=0) == "healthy"


def test_everybody_is_listed_expected_ones_first(health: Health) -> None:
    come(health, ("gateway", "g9"), ready=True)
    come(health, S0, ready=True)
    rows = health.statuses({"s0-a": ("s0", 4)}, 20 * NS_PER_MS)
    assert [(row.role, row.name, row.shard, row.health, row.epoch, row.age_ms) for row in rows] == [
        ("shard", "s0-a", "s0", "healthy", 4, 20),
        ("gateway", "g0", "", "down", 0, NEVER_MS),
        ("gateway", "g9", "", "healthy", 0, 20),
    ]


def test_a_refusal_is_shown_where_nobody_lives(health: Health) -> None:
    health.refused(S0, "wrong journal", 0)
    assert health.statuses({}, 0)[0].stats == {"refused": "wrong journal"}
    come(health, G0, ready=True)
    health.refused(G0, "an impostor", 0)
    assert health.statuses({}, 0)[1].stats == {}
    health.refused(("gateway", "g9"), "unknown", 0)
    assert len(health.statuses({}, 0)) == 2


def test_of_the_stats_only_flat_and_short_ones_are_kept(health: Health) -> None:
    health.started(S0, pid=7, incarnation=1, now_ns=0)
    long = "x" * (STAT_TEXT_MAX + 1)
    stats = {"seq": 5, "rate": 0.5, "engine": "native", "list": [1], "none": None, "long": long, long: 1, "raw": b"x"}
    health.heard(S0, ready=True, stats=stats, now_ns=0)
    assert health.statuses({}, 0)[0].stats == {"seq": 5, "rate": 0.5, "engine": "native"}
    health.heard(S0, ready=True, stats={f"key{n}": n for n in range(1_000)}, now_ns=0)
    assert len(health.statuses({}, 0)[0].stats) == STATS_MAX
