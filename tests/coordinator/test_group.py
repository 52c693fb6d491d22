"""Every permitted change of one shard's group, and every one that is denied."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.core.group import (
    NOBODY,
    SKIPS_MAX,
    Denied,
    Group,
    Node,
    Session,
    Skipped,
    change_isr,
    check,
    elect,
    fail_over,
    promote,
    refusal,
    register,
    skip,
    weigh,
)

A1, A3, B2, B4 = ("a", 1), ("a", 3), ("b", 2), ("b", 4)


def node(incarnation: int, journal: str = "") -> Node:
    return Node(incarnation, journal or f"journal-{incarnation}", f"session-{incarnation}", 1, {})


def living(*sessions: Session) -> Callable[[Session], bool]:
    return lambda session: session in sessions


EVERYBODY = living(A1, A3, B2, B4)
NO_ONE = living()


def paired() -> Group:
    """a leads term 1, b is in sync."""
    group = register(Group(), "a", node(1), EVERYBODY)
    group = register(group, "b", node(2), EVERYBODY)
    return ask(group, A1, B2)


def ask(group: Group, *isr: Session, asker: Session = A1, epoch: int = 1, ver: int = 5, asked: int = 5) -> Group:
    return change_isr(group, ver=ver, asked_ver=asked, epoch=epoch, asker=asker, isr=isr)


def leads(group: Group) -> tuple[int, Session, tuple[Session, ...]]:
    return group.epoch, group.primary, group.isr


def test_the_first_that_comes_leads_alone() -> None:
    assert leads(register(Group(), "a", node(1), NO_ONE)) == (1, A1, (A1,))


def test_the_second_is_no_member_until_the_primary_says_so() -> None:
    group = register(register(Group(), "a", node(1), EVERYBODY), "b", node(2), EVERYBODY)
    assert leads(group) == (1, A1, (A1,))
    assert leads(ask(group, A1, B2)) == (1, A1, (A1, B2))


def test_a_standby_that_starts_again_is_out_of_the_set() -> None:
    assert leads(register(paired(), "b", node(4), EVERYBODY)) == (1, A1, (A1,))


def test_a_primary_that_starts_again_finds_the_other_one_leading() -> None:
    assert leads(register(paired(), "a", node(3), EVERYBODY)) == (2, B2, (B2,))


@pytest.mark.parametrize(("name", "incarnation"), [("a", 3), ("b", 4)])
def test_whoever_of_the_set_comes_back_first_leads_when_the_other_is_dead(name: str, incarnation: int) -> None:
    group = register(paired(), name, node(incarnation), NO_ONE)
    assert leads(group) == (2, (name, incarnation), ((name, incarnation),))


def test_who_is_not_in_the_set_does_not_lead_even_when_nobody_else_is_there() -> None:
    group = ask(paired(), A1)
    assert leads(register(group, "b", node(4), NO_ONE)) == (1, A1, (A1,))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"isr": (A1, B2), "epoch": 2}, "a leads no term 2"),
        ({"isr": (B2,), "asker": B2}, "b leads no term 1"),
        ({"isr": (B2,)}, "a cannot leave the set that it leads"),
        ({"isr": (A1, B4)}, "incarnation 4 of b is over"),
        ({"isr": (A1,), "asked": 4}, "a asks for a change of version 4, the record stands at 5"),
    ],
)
def test_a_set_is_changed_only_by_the_primary_of_the_term_for_present_sessions(change: dict, why: str) -> None:  # type: ignore[type-arg]
    isr = change.pop("isr")
    with pytest.raises(Denied, match=why):
        ask(paired(), *isr, **change)


def test_asking_again_for_what_is_recorded_is_no_change_whatever_the_version() -> None:
    group = paired()
    assert ask(group, B2, A1, asked=1) is group


def test_a_dead_primary_is_replaced_from_the_set_only() -> None:
    assert leads(fail_over(paired(), living(B2))) == (2, B2, (B2,))
    with pytest.raises(Denied, match="nobody else in the in-sync set is alive: a, b"):
        fail_over(paired(), living(A1))
    with pytest.raises(Denied, match="nobody else in the in-sync set is alive: a"):
        fail_over(ask(paired(), A1), living(B2))


def test_promotion_is_for_members() -> None:
    assert leads(promote(paired(), B2)) == (2, B2, (B2,))
    with pytest.raises(Denied, match="b is not in the in-sync set"):
        promote(ask(paired(), A1), B2)


def test_an_operator_may_break_the_rule_and_it_is_written_down_for_ever() -> None:
    group = ask(paired(), A1)
    with pytest.raises(Denied, match="say --accept-loss"):
        elect(group, "b", accept_loss=False)
    with pytest.raises(Denied, match="c has never registered"):
        elect(group, "c", accept_loss=True)
    group = elect(group, "b", accept_loss=True)
    assert leads(group) == (2, B2, (B2,))
    assert group.unclean
    assert promote(ask(group, B2, A1, asker=B2, epoch=2), A1).unclean
    assert not elect(paired(), "b", accept_loss=False).unclean


class TestRefusal:
    def why(self, group: Group, name: str, *alive: Session, journal: str = "journal-1", promised: int = 1) -> str:
        return refusal(group, "s0", name, journal_uuid=journal, promised_epoch=promised, alive=living(*alive))

    def test_any_journal_may_come_where_another_one_can_fill_it(self) -> None:
        assert self.why(paired(), "a", B2, journal="another", promised=0) == ""

    def test_who_would_have_to_lead_must_bring_the_journal_that_was_acknowledged(self) -> None:
        assert "the data directory was swapped" in self.why(paired(), "a", journal="another")
        assert self.why(paired(), "a") == ""

    def test_one_that_went_back_in_time_is_refused(self) -> None:
        group = Group(**{field: getattr(paired(), field) for field in Group.__struct_fields__} | {"served_epoch": 1})
        assert self.why(group, "a", promised=0).startswith("JOURNAL_BEHIND")
        assert self.why(group, "a", B2, promised=0) == ""

    def test_a_store_that_went_back_in_time_decides_nothing(self) -> None:
        assert self.why(paired(), "a", B2, promised=2).startswith("METADATA_BEHIND")


class TestLossy:
    """The mode `replicated`: what was not synced is gone when a machine stops."""

    def back(self, group: Group, name: str, incarnation: int, *alive: Session) -> Group:
        return register(group, name, node(incarnation), living(*alive), lossy=True, relaxed=True)

    def test_others_of_the_set_come_first_even_when_they_are_not_there(self) -> None:
        assert leads(self.back(paired(), "b", 4)) == (1, A1, (A1,))
        assert leads(self.back(paired(), "a", 3)) == (2, B2, (B2,))

    def test_the_only_member_waits_until_both_logs_are_known_and_the_greater_leads(self) -> None:
        group = self.back(ask(paired(), A1), "a", 3, B2)
        assert (group.weighing, group.primary, group.isr) == (True, NOBODY, (A3,))
        assert weigh(group, {A3: (1, 10)}) is group
        assert leads(weigh(group, {A3: (1, 10), B2: (1, 12)})) == (2, B2, (B2,))
        assert leads(weigh(group, {A3: (2, 10), B2: (1, 12)})) == (2, A3, (A3,))
        assert leads(weigh(group, {A3: (1, 10), B2: (1, 10)})) == (2, A3, (A3,))
        assert weigh(group, {A3: (1, 10), B2: (1, 12)}).unclean

    def test_starting_once_more_does_not_end_the_weighing(self) -> None:
        group = self.back(ask(paired(), A1), "a", 3, B2)
        again = register(group, "a", node(5), living(B2), relaxed=True)
        assert (again.weighing, again.isr) == (True, (("a", 5),))
        with pytest.raises(Denied, match="the logs were not compared"):
            elect(again, "a", accept_loss=False)
        assert leads(elect(again, "a", accept_loss=True)) == (2, ("a", 5), (("a", 5),))

    def test_alone_from_the_beginning_there_is_nothing_to_compare_with(self) -> None:
        group = register(Group(), "a", node(1), NO_ONE)
        assert leads(self.back(group, "a", 3)) == (2, A3, (A3,))

    def test_where_every_copy_is_synced_a_lossy_machine_has_lost_nothing(self) -> None:
        assert leads(register(paired(), "a", node(3), NO_ONE, lossy=True)) == (2, A3, (A3,))


@given(st.lists(st.tuples(st.sampled_from("rRlLsgpew"), st.sampled_from("ab"), st.booleans()), max_size=40))
def test_whatever_happens_the_laws_hold(steps: list[tuple[str, str, bool]]) -> None:
    group, incarnation = Group(), 0
    for step, name, flag in steps:
        before = group
        other = "b" if name == "a" else "a"
        alive = EVERYBODY if step.isupper() else (lambda session: session[0] == other)  # noqa: B023
        everybody = (lambda session: True) if flag else alive
        try:
            match step.lower():
                case "r" | "l":
                    incarnation += 1
                    lossy = step.lower() == "l"
                    group = register(group, name, node(incarnation), everybody, lossy=lossy, relaxed=lossy)
                case "s":
                    group = ask(group, group.primary, asker=group.primary, epoch=group.epoch)
                case "g":
                    both = (group.current("a"), group.current("b"))
                    group = ask(group, *both, asker=group.primary, epoch=group.epoch)
                case "p":
                    group = fail_over(group, everybody)
                case "e":
                    group = elect(group, name, accept_loss=flag)
                case "w":
                    logs = {group.current(one): (group.epoch, incarnation) for one in group.nodes}
                    group = weigh(group, logs)
        except Denied:
            assert group is before
        check(group)
        assert group.epoch >= before.epoch
        assert not before.isr or group.isr
        if group.primary not in (before.primary, NOBODY):
            assert group.epoch > before.epoch
            known = [node for node, _ in before.isr]
            assert not known or group.primary[0] in known or group.unclean


# --- R14: a command that nobody can run -------------------------------------------------------------------------------


def held(incarnation: int, seq: int) -> Node:
    return replace(node(incarnation), poisoned_seq=seq)


def test_a_node_that_cannot_run_its_log_leads_nothing_while_another_can() -> None:
    assert leads(register(paired(), "a", held(3, 7), EVERYBODY)) == (2, B2, (B2,))
    assert leads(register(paired(), "b", held(4, 7), EVERYBODY)) == (1, A1, (A1,))


def test_a_group_is_frozen_when_who_would_have_to_lead_cannot() -> None:
    alone = register(ask(paired(), A1), "a", held(3, 7), EVERYBODY)
    assert (leads(alone), alone.frozen_seq) == ((1, NOBODY, (A3,)), 7)
    first = register(paired(), "b", held(4, 7), NO_ONE)
    assert (leads(first), first.frozen_seq) == ((1, NOBODY, (A1, B4)), 7)
    both = register(first, "a", held(3, 7), living(B4))
    assert (leads(both), both.frozen_seq) == ((1, NOBODY, (A3, B4)), 7)
    with pytest.raises(Denied, match="nobody else in the in-sync set is alive"):
        fail_over(both, EVERYBODY)
    with pytest.raises(Denied, match="a cannot run seq 7 of its log"):
        elect(both, "a", accept_loss=True)


def test_a_member_that_can_run_it_ends_the_frost() -> None:
    frozen = register(paired(), "b", held(4, 7), NO_ONE)
    thawed = register(frozen, "a", node(3), living(B4))
    assert (leads(thawed), thawed.frozen_seq) == ((2, A3, (A3,)), 0)


def test_of_two_that_died_of_different_commands_the_longer_log_counts() -> None:
    group = register(register(paired(), "b", held(4, 9), NO_ONE), "a", held(3, 7), NO_ONE)
    assert group.frozen_seq == 9


def test_nobody_who_is_not_in_the_set_leads_a_frozen_group_and_operators_may_have_it_so() -> None:
    frozen = register(ask(paired(), A1), "a", held(3, 7), EVERYBODY)
    assert leads(register(frozen, "b", node(4), EVERYBODY)) == (1, NOBODY, (A3,))
    assert leads(register(frozen, "c", node(5), EVERYBODY)) == (1, NOBODY, (A3,))
    taken = elect(register(frozen, "b", node(4), EVERYBODY), "b", accept_loss=True)
    assert (leads(taken), taken.frozen_seq, taken.unclean) == ((2, B4, (B4,)), 0, True)


def test_only_the_command_that_froze_the_group_is_left_out_and_only_once() -> None:
    frozen = register(ask(paired(), A1), "a", held(3, 7), EVERYBODY)
    left_out = skip(frozen, 7, actor="ann", why="kills")
    assert left_out.skip == (Skipped(7, "ann", "kills"),)
    for group, seq, why in (
        (paired(), 7, "it is not frozen"),
        (frozen, 6, "it is frozen at seq 7, not at 6"),
        (left_out, 7, "seq 7 is left out already"),
    ):
        with pytest.raises(Denied, match=why):
            skip(group, seq, actor="ann", why="kills")
    again = register(left_out, "a", node(6), EVERYBODY)
    assert (leads(again), again.frozen_seq, again.skip) == ((2, ("a", 6), (("a", 6),)), 0, left_out.skip)


def test_the_list_of_what_is_left_out_has_an_end() -> None:
    full = replace(paired(), skip=tuple(Skipped(seq, "ann", "x") for seq in range(1, SKIPS_MAX + 1)))
    frozen = register(ask(full, A1), "a", held(3, 999), EVERYBODY)
    with pytest.raises(Denied, match="256 commands are left out already, at most 256"):
        skip(frozen, 999, actor="ann", why="kills")


def test_of_weighed_logs_the_greatest_may_be_one_that_nobody_can_run() -> None:
    group = register(ask(paired(), A1), "a", node(3), EVERYBODY, lossy=True, relaxed=True)
    group = register(group, "b", held(4, 8), EVERYBODY)
    weighed = weigh(group, {A3: (1, 5), B4: (1, 9)})
    assert (leads(weighed), weighed.frozen_seq, weighed.unclean) == ((1, NOBODY, (B4,)), 8, True)
