"""Two nodes of one shard: who leads when one of them dies, is cut off, comes back; planned switches; operators."""

import copy

import pytest

from coordinator.core.leadership import SWITCH_WITHIN_NS, Policy
from coordinator.core.suspicion import SLOW_FOR_NS
from exchange import messages as m
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import WireError
from exchange.limits import BEAT_SUSPECT_NS
from tests.coordinator.world import A0, B0, CLI, TICK_NS, Told, World, registration, said

SUSPECT_NS = 400 * NS_PER_MS


@pytest.fixture
def world() -> World:
    """s0-a leads term 1, s0-b is in sync."""
    world = World()
    world.pair()
    return world


def leader(world: World) -> tuple[str, int, list[str]]:
    group = world.group("s0")
    return group.primary[0], group.epoch, [node for node, _ in group.isr]


def views(told: Told, peer: bytes) -> list[tuple[int, str]]:
    return [(view.epoch, view.primary.node) for view in said(told, m.ShardView, peer)]


def operated(told: Told) -> list[str]:
    return [answer.refused for answer in said(told, m.Operated, CLI)]


# --- the in-sync set -------------------------------------------------------------------------------------------------


def test_the_second_node_joins_when_the_primary_says_so() -> None:
    world = World()
    world.up(A0)
    assert world.register(B0) == m.Registered(2, 1)
    assert leader(world) == ("s0-a", 1, ["s0-a"])
    answer = world.ask("s0-a", ["s0-a", "s0-b"])
    assert answer.accepted
    assert [member.node for member in answer.view.isr] == ["s0-a", "s0-b"]
    assert answer.view.ver == world.ver("s0")


def test_every_change_is_told_to_both_nodes_and_again_to_who_has_missed_it(world: World) -> None:
    answer = world.ask("s0-a", ["s0-a"])
    assert answer.accepted
    stale = world.beat(B0, view=1)
    assert said(stale, m.ShardView, B0) == [answer.view]
    assert said(world.beat(B0), m.ShardView) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"epoch": 2}, "leads no term 2"),
        ({"incarnation": 9}, "leads no term 1"),
        ({"isr": []}, "cannot leave"),
        ({"isr": [m.Member("s0-a", 1, ""), m.Member("s0-b", 9, "")]}, "is over"),
        ({"isr": [m.Member("s0-b", 2, "")]}, "cannot leave"),
        ({"isr": [m.Member("s0-a", 1, ""), m.Member("", 0, "")]}, "incarnation 0 of nobody is over"),
        ({"ver": 1, "isr": [m.Member("s0-a", 1, "")]}, "asks for a change of version 1"),
    ],
)
def test_a_set_that_may_not_be_is_refused_with_the_present_one(
    world: World, changes: dict[str, object], why: str
) -> None:
    before = world.group("s0")
    answer = world.ask("s0-a", ["s0-a"], **changes)
    assert not answer.accepted
    assert [member.node for member in answer.view.isr] == ["s0-a", "s0-b"]
    assert world.group("s0") == before
    assert why in world.notes[-1]


def test_asking_again_is_harmless(world: World) -> None:
    ver = world.ver("s0")
    first = world.ask("s0-a", ["s0-a"], ver=ver)
    assert world.ask("s0-a", ["s0-a"], ver=ver) == first
    assert world.ver("s0") == ver + 1


def test_a_standby_that_starts_again_is_out_of_the_set(world: World) -> None:
    registered = world.register(B0, session="second", promised_epoch=1)
    assert registered == m.Registered(3, 1)
    assert leader(world) == ("s0-a", 1, ["s0-a"])
    assert world.entry("s0").serving


# --- the primary dies ------------------------------------------------------------------------------------------------


def test_the_end_of_a_primary_s_process_promotes_at_once(world: World) -> None:
    told = world.gone("s0-a")
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    assert views(told, B0) == [(2, "s0-b")]
    entry = world.entry("s0")
    assert (entry.node, entry.incarnation, entry.orders_endpoint) == ("s0-b", 2, "ipc:///run/orders.s0-b")
    assert not entry.serving
    world.beat(B0)
    assert world.entry("s0").serving
    assert world.gone("s0-a") == []


def test_a_beat_from_the_grave_does_not_raise_the_dead(world: World) -> None:
    world.ask("s0-a", ["s0-a"])
    world.gone("s0-a")
    world.beat(A0)
    world.register(A0)
    assert not world.entry("s0").serving
    assert world.cluster.status(world.now).daemons[0].health == "down"


def test_nobody_outside_the_set_is_promoted(world: World) -> None:
    world.ask("s0-a", ["s0-a"])
    world.gone("s0-a")
    world.pass_time(5 * NS_PER_S, B0)
    assert leader(world) == ("s0-a", 1, ["s0-a"])
    assert not world.entry("s0").serving


def test_a_silent_primary_is_replaced_after_a_while(world: World) -> None:
    world.pass_time(SUSPECT_NS, B0)
    assert leader(world)[0] == "s0-a"
    world.pass_time(2 * TICK_NS, B0)
    assert leader(world) == ("s0-b", 2, ["s0-b"])


def test_a_node_whose_beats_come_slowly_is_suspected_later(world: World) -> None:
    for _ in range(4):
        world.pass_time(160 * NS_PER_MS, B0)
        world.beat(A0)
    world.pass_time(600 * NS_PER_MS, B0)
    assert leader(world)[0] == "s0-a"
    world.pass_time(100 * NS_PER_MS, B0)
    assert leader(world)[0] == "s0-b"


def test_a_primary_whose_standby_hears_it_is_given_time(world: World) -> None:
    """Only its way to the coordinator is cut: it serves on, and is replaced when that lasts."""
    world.pass_time(SUSPECT_NS + 1_900 * NS_PER_MS, B0, hears_primary_ms=20)
    assert leader(world)[0] == "s0-a"
    world.pass_time(200 * NS_PER_MS, B0, hears_primary_ms=20)
    assert leader(world) == ("s0-b", 2, ["s0-b"])


def test_a_primary_that_is_heard_again_in_time_went_on_all_the_while(world: World) -> None:
    world.pass_time(NS_PER_S, B0, hears_primary_ms=20)
    assert world.entry("s0").serving, "gateways that reach it need not wait"
    world.pass_time(NS_PER_S, A0, B0)
    assert leader(world) == ("s0-a", 1, ["s0-a", "s0-b"])
    assert world.entry("s0").serving


def test_a_standby_that_hears_nothing_does_not_hold_the_change(world: World) -> None:
    world.pass_time(SUSPECT_NS + 2 * TICK_NS, B0, hears_primary_ms=300)
    assert leader(world)[0] == "s0-b"


def test_a_hold_does_not_keep_a_dead_primary(world: World) -> None:
    world.pass_time(NS_PER_S, B0, hears_primary_ms=20)
    world.gone("s0-a")
    assert leader(world)[0] == "s0-b"


def test_the_first_of_the_set_that_comes_back_leads(world: World) -> None:
    world.gone("s0-b")
    world.gone("s0-a")
    assert leader(world)[:2] == ("s0-a", 1)
    assert world.register(B0, session="second", promised_epoch=1).epoch == 2
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    world.beat(B0)
    assert world.register(A0, session="second", promised_epoch=1).epoch == 2
    assert leader(world) == ("s0-b", 2, ["s0-b"])


def test_a_primary_that_starts_again_before_its_end_is_noticed_leads_no_more(world: World) -> None:
    assert world.register(A0, session="second", promised_epoch=1).epoch == 2
    assert leader(world) == ("s0-b", 2, ["s0-b"])


def test_the_last_of_a_set_must_bring_its_own_journal(world: World) -> None:
    """Both were in sync and are gone: an empty journal must not lead, whichever node comes with it."""
    world.gone("s0-b")
    world.gone("s0-a")
    assert "only copy" in world.register(B0, session="second", uuid="empty").refused
    assert world.register(A0, session="second", promised_epoch=1).epoch == 2
    world.beat(A0)
    assert world.register(B0, session="second", uuid="empty") == m.Registered(4, 2)
    assert leader(world) == ("s0-a", 2, ["s0-a"])


# --- the coordinator starts again ------------------------------------------------------------------------------------


def test_a_restarted_coordinator_promotes_nobody_whom_it_has_not_heard(world: World) -> None:
    world.start()
    world.gone("s0-a")
    assert leader(world)[0] == "s0-a"
    world.pass_time(2 * TICK_NS, B0)
    assert leader(world) == ("s0-b", 2, ["s0-b"])


def test_a_node_that_would_lead_waits_until_it_is_known_whether_others_live(world: World) -> None:
    world.start()
    told = world.say(A0, _again("s0-a"))
    assert told == []
    world.pass_time(BEAT_SUSPECT_NS + TICK_NS)
    assert world.register(A0, session="second", promised_epoch=1).epoch == 2
    assert leader(world) == ("s0-a", 2, ["s0-a"])


def test_a_standby_that_lives_takes_over_from_a_primary_that_starts_again(world: World) -> None:
    world.start()
    world.say(A0, _again("s0-a"))
    world.beat(B0)
    assert world.register(A0, session="second", promised_epoch=1).epoch == 2
    assert leader(world) == ("s0-b", 2, ["s0-b"])


def test_a_primary_hears_of_the_end_of_its_standby(world: World) -> None:
    [told] = said(world.gone("s0-b"), m.Ended)
    assert (told.shard, told.member.node, told.member.incarnation) == ("s0", "s0-b", 2)
    assert leader(world) == ("s0-a", 1, ["s0-a", "s0-b"])


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_crash_in_a_failover_ends_with_one_term_more(world: World, writes: int) -> None:
    """Killed after `writes` of the two writes of a failover, and having told nobody."""
    world.cluster.on_gone("s0-a", 1, world.now)
    ready = world.cluster.ready()
    assert [write.key for write in ready.writes] == ["shard/s0", "map"]
    for write in ready.writes[:writes]:
        world.store.cas(write.key, write.expect_ver, write.value, world.term)
    world.start()
    told = world.beat(B0, view=1, epoch=1, role="standby")
    world.pass_time(2 * BEAT_SUSPECT_NS, B0)
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    assert (2, "s0-b") in views(told, B0) or writes == 0
    world.beat(B0)
    assert (world.entry("s0").node, world.entry("s0").epoch, world.entry("s0").serving) == ("s0-b", 2, True)


# --- too often -------------------------------------------------------------------------------------------------------


def bounce(world: World, gone: str) -> None:
    """`gone` dies, comes back, and joins the set again."""
    world.gone(gone)
    other = "s0-b" if gone == "s0-a" else "s0-a"
    epoch = world.group("s0").epoch
    world.register(f"shard:{gone}".encode(), session=f"{gone}-{epoch}", promised_epoch=epoch)
    world.beat(f"shard:{gone}".encode())
    world.beat(f"shard:{other}".encode())
    assert world.ask(other, ["s0-a", "s0-b"]).accepted


def test_a_shard_that_changes_hands_too_often_is_left_to_operators(world: World) -> None:
    for victim in ("s0-a", "s0-b", "s0-a"):
        bounce(world, victim)
    assert leader(world)[:2] == ("s0-b", 4)
    world.gone("s0-b")
    world.pass_time(NS_PER_S, A0)
    assert leader(world)[:2] == ("s0-b", 4)
    assert {"NO_FAILOVER", "FLAPPING"} <= set(world.status("s0").flags)
    world.start()
    world.beat(A0)
    assert "FLAPPING" in world.status("s0").flags
    assert operated(world.say(CLI, m.Elect("me", "s0", "s0-a", False))) == [""]
    assert leader(world) == ("s0-a", 5, ["s0-a"])
    assert world.status("s0").flags == ["SOLO", "NO_FAILOVER"]


def test_failovers_that_are_far_apart_do_not_count() -> None:
    world = World(Policy(failovers_max=1, failovers_window_ns=NS_PER_S))
    world.pair()
    for victim in ("s0-a", "s0-b", "s0-a"):
        bounce(world, victim)
        world.pass_time(2 * NS_PER_S, A0, B0)
    assert leader(world)[:2] == ("s0-b", 4)
    assert "FLAPPING" not in world.status("s0").flags


# --- planned switches ------------------------------------------------------------------------------------------------


def switch(world: World) -> m.StepDown:
    told = world.say(CLI, m.Switch("me", "s0"))
    [request] = said(told, m.StepDown, A0)
    assert operated(told) == []
    return request


def drained(request: m.StepDown, **changes: object) -> m.Drained:
    plain = {"shard": "s0", "epoch": request.epoch, "node": "s0-a", "incarnation": 1, "to": request.to, "seq": 7}
    return m.Drained(**{**plain, **changes})  # type: ignore[arg-type]


def test_a_switch_drains_the_primary_and_promotes_the_standby(world: World) -> None:
    request = switch(world)
    assert (request.epoch, request.to.node) == (1, "s0-b")
    told = world.say(A0, drained(request))
    assert operated(told) == [""]
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    assert views(told, A0) == views(told, B0) == [(2, "s0-b")]


def test_a_primary_that_does_not_drain_in_time_goes_on(world: World) -> None:
    request = switch(world)
    told = world.pass_time(SWITCH_WITHIN_NS, A0, B0)
    assert operated(told) == ["shard s0: s0-a did not drain within 2 s: it goes on"]
    assert views(told, A0) == [(1, "s0-a")]
    late = world.say(A0, drained(request))
    assert views(late, A0) == [(1, "s0-a")]
    assert leader(world) == ("s0-a", 1, ["s0-a", "s0-b"])


@pytest.mark.parametrize("changes", [{"epoch": 9}, {"incarnation": 9}, {"to": m.Member("s0-b", 9, "")}])
def test_a_drained_that_does_not_fit_gets_the_view(world: World, changes: dict[str, object]) -> None:
    request = switch(world)
    assert views(world.say(A0, drained(request, **changes)), A0) == [(1, "s0-a")]
    assert leader(world)[1] == 1


def test_a_standby_that_dies_meanwhile_is_not_promoted(world: World) -> None:
    request = switch(world)
    world.gone("s0-b")
    told = world.say(A0, drained(request))
    assert operated(told) == ["shard s0: s0-b is no longer alive"]
    assert views(told, A0) == [(1, "s0-a")]
    assert leader(world)[1] == 1


def test_a_primary_that_dies_meanwhile_is_replaced_and_the_operator_is_told(world: World) -> None:
    switch(world)
    assert operated(world.gone("s0-a")) == [""]
    assert leader(world) == ("s0-b", 2, ["s0-b"])


def test_a_switch_that_nobody_can_take_is_refused(world: World) -> None:
    def ask(shard: str = "s0") -> str:
        [refused] = operated(world.say(CLI, m.Switch("me", shard)))
        return refused

    assert ask("s9") == "there is no shard 's9'; shards are s0, s1"
    assert ask("s1") == "shard s1: nobody leads it"
    world.beat(A0, ready=False)
    assert "s0-a does not serve" in ask()
    world.beat(A0)
    switch(world)
    assert "under way already" in ask()
    world.pass_time(SWITCH_WITHIN_NS, A0, B0)
    world.gone("s0-b")
    assert ask() == "shard s0: no standby is alive and in sync, only s0-a, s0-b"
    world.ask("s0-a", ["s0-a"])
    assert ask() == "shard s0: no standby is alive and in sync, only s0-a"


def slow(world: World, ns: int, *, a: int, b: int) -> Told:
    told: Told = []
    for _ in range(ns // (4 * TICK_NS)):
        told += world.beat(A0, fsync_p99_us=a) + world.beat(B0, fsync_p99_us=b) + world.pass_time(4 * TICK_NS)
    return told


def test_a_slow_disk_hands_over_to_a_faster_one(world: World) -> None:
    told = slow(world, SLOW_FOR_NS - NS_PER_S, a=80_000, b=900)
    assert said(told, m.StepDown) == []
    told = slow(world, 2 * NS_PER_S, a=80_000, b=900)
    [request] = said(told, m.StepDown, A0)
    world.say(A0, drained(request))
    assert leader(world)[0] == "s0-b"
    assert len(world.group("s0").failovers_ns) == 1


@pytest.mark.parametrize(("a", "b"), [(80_000, 70_000), (40_000, 900), (80_000, -1)])
def test_no_switch_without_a_slow_disk_and_a_fast_one(world: World, a: int, b: int) -> None:
    told = slow(world, 3 * SLOW_FOR_NS, a=a, b=b)
    assert said(told, m.StepDown) == []


# --- operators -------------------------------------------------------------------------------------------------------


def elect(world: World, node: str, *, accept_loss: bool = False) -> str:
    [refused] = operated(world.say(CLI, m.Elect("alice", "s0", node, accept_loss)))
    return refused


def test_an_operator_may_elect_from_the_set(world: World) -> None:
    assert elect(world, "s0-b") == ""
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    assert not world.group("s0").unclean


def test_outside_the_set_only_with_the_loss_accepted_and_marked_for_ever(world: World) -> None:
    world.ask("s0-a", ["s0-a"])
    world.gone("s0-a")
    assert "say --accept-loss" in elect(world, "s0-b")
    assert elect(world, "s0-b", accept_loss=True) == ""
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    assert "alice made s0-b the primary, acknowledged orders may be lost: UNCLEAN" in world.notes[-1]
    world.beat(B0)
    world.register(A0, session="second", promised_epoch=1)
    world.beat(A0)
    assert world.ask("s0-b", ["s0-a", "s0-b"]).accepted
    world.start()
    assert "UNCLEAN" in world.status("s0").flags


def test_who_cannot_be_elected(world: World) -> None:
    assert elect(world, "s0-a") == "shard s0: s0-a leads already"
    assert elect(world, "s0-x") == "shard s0: s0-x has never registered"
    world.gone("s0-b")
    assert elect(world, "s0-b", accept_loss=True) == "shard s0: s0-b is not alive"
    assert leader(world) == ("s0-a", 1, ["s0-a", "s0-b"])


# --- a lossy restart in the mode `replicated` ------------------------------------------------------------------------


def test_after_a_lossy_restart_of_the_last_member_all_logs_are_compared() -> None:
    world = World(Policy(relaxed=True))
    world.pair()
    world.gone("s0-a")
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    world.gone("s0-b")
    world.register(B0, session="second", promised_epoch=2, lossy=True)
    assert "LOGS_AWAITED" in world.status("s0").flags
    assert world.entry("s0").node == ""
    world.beat(B0, last_epoch=1, last_seq=10)
    assert "say --accept-loss" in elect(world, "s0-b")
    world.register(A0, session="second", promised_epoch=1, lossy=True)
    world.beat(A0, last_epoch=1, last_seq=12)
    world.beat(B0, last_epoch=1, last_seq=10)
    world.pass_time(TICK_NS)
    assert leader(world) == ("s0-a", 3, ["s0-a"])
    assert "UNCLEAN" in world.status("s0").flags


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_what_operators_see(world: World) -> None:
    for number in range(2):
        world.beat(B0, view=world.ver("s0") - number)
    status = world.status("s0")
    assert (status.epoch, status.primary, status.isr, status.nodes) == (1, "s0-a", ["s0-a", "s0-b"], ["s0-a", "s0-b"])
    assert (status.serving, status.flags) == (True, [])
    world.gone("s0-b")
    assert world.status("s0").flags == ["NO_FAILOVER"]
    world.ask("s0-a", ["s0-a"])
    assert world.status("s0").flags == ["SOLO", "NO_FAILOVER"]
    assert world.cluster.status(world.now).health == "degraded"
    rows = {row.name: (row.shard, row.epoch, row.health) for row in world.cluster.status(world.now).daemons}
    assert rows["s0-a"] == ("s0", 1, "healthy")
    assert rows["s0-b"] == ("s0", 1, "down")


def _again(node: str) -> m.Register:
    return registration(f"shard:{node}".encode(), session="second", promised_epoch=1)


def test_a_node_outside_a_restored_set_says_that_the_store_is_old(world: World) -> None:
    """The store is put back to when both were in sync: s0-a, out of the set since, must not lead."""
    old = copy.deepcopy(world.store)
    world.gone("s0-a")
    world.beat(B0)
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    seen = world.ver("s0")
    world.store = old
    world.start()
    assert world.say(A0, registration(A0, session="second", promised_epoch=1)) == []
    world.beat(B0, view=seen, epoch=2)
    assert "METADATA_BEHIND" in world.status("s0").flags
    assert world.register(A0, session="second", promised_epoch=1).refused.startswith("METADATA_BEHIND")
    assert world.group("s0").epoch == 1


# --- a command that nobody can run (R14) ------------------------------------------------------------------------------


def test_a_shard_whose_nodes_all_died_of_one_command_is_frozen_until_an_operator_speaks(world: World) -> None:
    world.gone("s0-a")
    assert leader(world) == ("s0-b", 2, ["s0-b"])
    world.gone("s0-b")
    world.register(A0, session="again-a", promised_epoch=1, poisoned_seq=41)
    world.register(B0, session="again-b", promised_epoch=2, poisoned_seq=44)
    assert leader(world) == ("", 2, ["s0-b"])
    status = world.status("s0")
    assert (status.flags, status.frozen_seq, status.serving) == (["SOLO", "NO_FAILOVER", "FROZEN"], 44, False)
    assert world.notes[-1] == "s0: FROZEN: nobody who could lead can run seq 44"
    failovers = world.group("s0").failovers_ns
    world.pass_time(2 * NS_PER_S, A0, B0)
    assert (leader(world), world.group("s0").failovers_ns) == (("", 2, ["s0-b"]), failovers)

    world.start()
    assert world.status("s0").frozen_seq == 44
    world.beat(A0)
    world.beat(B0)
    assert operated(world.say(CLI, m.Skip("ann", "s0", 41, "why"))) == ["shard s0: it is frozen at seq 44, not at 41"]
    told = world.say(CLI, m.Skip("ann", "s0", 44, "kills the engine"))
    assert operated(told) == [""]
    assert [view.skip for view in said(told, m.ShardView)] == [[44], [44]]
    assert world.notes[-1] == "s0: ann has seq 44 left out: kills the engine"

    world.up(B0, session="third-b", promised_epoch=2)
    assert leader(world) == ("s0-b", 3, ["s0-b"])
    status = world.status("s0")
    assert (status.flags, status.frozen_seq, status.skip) == (["SOLO", "NO_FAILOVER"], 0, [44])


def test_one_node_that_died_of_a_command_leaves_the_other_alone(world: World) -> None:
    world.gone("s0-b")
    world.register(B0, session="again", poisoned_seq=41)
    world.beat(B0, ready=False, role="held", poisoned_seq=41)
    assert leader(world) == ("s0-a", 1, ["s0-a"])
    assert "FROZEN" not in world.status("s0").flags
    assert operated(world.say(CLI, m.Switch("me", "s0"))) == ["shard s0: no standby is alive and in sync, only s0-a"]
    assert operated(world.say(CLI, m.Skip("ann", "s0", 41, "why"))) == [
        "shard s0: it is not frozen: nothing may be left out that a node may have run"
    ]


@pytest.mark.parametrize(("actor", "why"), [("a b", "why"), ("", "why"), ("ann", ""), ("ann", "a\nb")])
def test_an_operator_says_who_and_why(world: World, actor: str, why: str) -> None:
    with pytest.raises(WireError, match="actor must match"):
        world.say(CLI, m.Skip(actor, "s0", 1, why))


def test_only_operators_have_commands_left_out(world: World) -> None:
    with pytest.raises(WireError, match="may not do what operators do"):
        world.say(A0, m.Skip("ann", "s0", 1, "why"))


# --- clocks (R15) -----------------------------------------------------------------------------------------------------


def test_a_clock_that_log_time_does_not_follow_is_shown_until_an_operator_believes_it(world: World) -> None:
    world.beat(B0, clock_off_ms=3_600_000)
    assert world.status("s0").flags == ["CLOCK"]
    world.beat(B0, clock_off_ms=0)
    world.beat(A0, clock_off_ms=-7_000)
    assert world.status("s0").flags == ["CLOCK"]
    told = world.say(CLI, m.Clock("ann", "s0"))
    assert said(told, m.TakeClock, A0) == [m.TakeClock("s0", 1)]
    assert (operated(told), world.notes[-1]) == ([""], "operator ann: Clock s0")
    world.gone("s0-a")
    assert "CLOCK" not in world.status("s0").flags


def test_nobodys_clock_is_believed_where_nobody_serves(world: World) -> None:
    world.beat(A0, ready=False)
    assert operated(world.say(CLI, m.Clock("ann", "s0"))) == [
        "shard s0: nobody serves it whose clock could be believed"
    ]


# --- settings that must be equal --------------------------------------------------------------------------------------

EQUAL = {"durability": "both", "orders_max": "1000"}


def test_a_node_with_other_settings_than_the_living_one_is_refused_until_both_were_stopped() -> None:
    world = World()
    world.up(A0, must_equal=EQUAL)
    refused = world.register(B0, must_equal={**EQUAL, "orders_max": "2000"}).refused
    assert refused == (
        "'s0-b' of shard 's0': its orders_max is 2000, that of s0-a, which lives, is 1000: "
        "stop both nodes, make their cluster.toml equal, start both"
    )
    assert "durability is replicated" in world.register(B0, must_equal={**EQUAL, "durability": "replicated"}).refused
    assert world.register(B0, must_equal=EQUAL).refused == ""
    world.beat(B0)

    changed = {**EQUAL, "orders_max": "2000"}
    world.gone("s0-b")
    assert "which lives" in world.register(B0, session="second-b", must_equal=changed).refused
    world.gone("s0-a")
    assert world.register(A0, session="second-a", promised_epoch=1, must_equal=changed).refused == ""
    world.beat(A0)
    assert "which lives" in world.register(B0, session="third-b", must_equal=EQUAL).refused
    assert world.register(B0, session="third-b", must_equal=changed).refused == ""


def test_a_coordinator_that_starts_again_remembers_the_settings() -> None:
    world = World()
    world.up(A0, must_equal=EQUAL)
    world.start()
    assert "which lives" in world.register(B0, must_equal={**EQUAL, "orders_max": "2000"}).refused


@pytest.mark.parametrize(
    "settings", [{"a b": "1"}, {"a": ""}, {"a": "x" * 65}, {f"s{number}": "1" for number in range(33)}]
)
def test_settings_have_bounds(settings: dict[str, str]) -> None:
    assert "must_equal" in (refused := World().register(A0, must_equal=settings).refused) or "setting" in refused
