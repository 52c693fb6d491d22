"""Stories of two nodes: who may commit when, what a term's end means, and how two journals become one again."""

import pytest

from exchange import messages as m
from exchange.wire import decode_replica, encode
from shard.core.node import Role
from tests.shard.duo import Actor, Duo, heard, member, view
from tests.shard.stage import order


@pytest.fixture
def duo() -> Duo:
    duo = Duo()
    duo.pair()
    return duo


def test_who_leads_alone_begins_its_term_and_answers_from_its_own_disk() -> None:
    a = Actor("a", 1)
    assert a.view(view(2, 1, "a1")) == ["published 1-2"]
    assert a.node.serving
    assert a.node.mode == "solo"
    a.order(order(1))
    assert a.turn() == ["ann: NEW", "published 3-3"]


def test_alone_nothing_leaves_before_the_sync() -> None:
    a = Actor("a", 1)
    a.view(view(2, 1, "a1"))
    a.order(order(1))
    a.write()
    assert a.node.must_sync
    assert a.keep(a.node.ready()) == []
    a.node.on_synced()
    assert a.keep(a.node.ready()) == ["ann: NEW", "published 3-3"]


def test_with_a_standby_nothing_leaves_before_it_has_acknowledged(duo: Duo) -> None:
    duo.a.order(order(1))
    assert duo.a.turn() == []
    assert heard(duo.a.sent) == ["Append"]
    duo.deliver(duo.a, duo.b)
    assert heard(duo.b.sent) == ["Appended"]
    assert duo.deliver(duo.b, duo.a) == ["a: ann: NEW", "a: published 3-3"]
    assert duo.a.journal == duo.b.journal


def test_an_acknowledgement_does_not_help_while_the_own_disk_works(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.write()
    duo.deliver(duo.a, duo.b)
    _, header, payload = duo.b.sent.pop()
    duo.a.node.on_link(header, payload, b"b:2", duo.a.now_ns)
    assert duo.a.keep(duo.a.node.ready()) == []
    duo.a.node.on_synced()
    assert duo.a.keep(duo.a.node.ready()) == ["ann: NEW", "published 3-3"]


def test_a_standby_acknowledges_what_is_durable_there(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    _, header, payload = duo.a.sent.pop()
    duo.b.node.on_link(header, payload, b"", 0)
    duo.b.write()
    assert duo.b.sent == []
    assert duo.b.node.must_sync
    duo.b.node.on_synced()
    duo.b.keep(duo.b.node.ready())
    assert heard(duo.b.sent) == ["Appended"]


def test_a_standby_shows_events_only_when_it_heard_that_they_are_committed(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    assert duo.deliver(duo.a, duo.b) == []
    duo.deliver(duo.b, duo.a)
    duo.a.pass_time(50)
    assert duo.deliver(duo.a, duo.b) == ["b: published 3-3"]


def test_a_silent_standby_is_required_until_the_store_has_let_it_go(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    assert duo.a.pass_time(300) == []
    assert duo.a.pass_time(50) == ["ask a at 3"]
    assert duo.a.pass_time(100) == ["ask a at 3"]
    assert duo.a.answer(True, view(4, 1, "a1")) == ["ann: NEW", "published 3-3"]
    assert duo.a.node.mode == "solo"


def test_a_refused_shrink_changes_nothing(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.a.pass_time(350)
    assert duo.a.answer(False, view(3, 1, "a1", "b2")) == []
    assert duo.a.node.mode == "paired"


def test_a_higher_term_ends_the_old_one_and_what_is_in_doubt_is_never_answered(duo: Duo) -> None:
    duo.a.order(order(1), number=1)
    duo.a.turn()
    duo.a.order(order(2), number=2)
    assert duo.a.view(view(4, 2, "b2")) == ["ann: refused NOT_PRIMARY shard s0: term 1 is over"]
    assert duo.a.node.role is Role.STANDBY


def test_what_was_in_doubt_is_committed_by_the_next_primary_and_runs_once(duo: Duo) -> None:
    duo.a.order(order(1), number=1)
    duo.a.turn()
    duo.deliver(duo.a, duo.b)
    duo.b.sent.clear()
    assert duo.b.view(view(4, 2, "b2")) == ["published 3-3", "published 4-5"]
    duo.b.order(order(1), number=1)
    assert duo.b.turn() == ["ann: NEW again", "published 6-6"]


def test_a_standby_is_required_before_the_store_is_asked_to_add_it() -> None:
    duo = Duo()
    duo.a.view(view(2, 1, "a1"))
    duo.b.view(view(2, 1, "a1"))
    assert duo.talk()[-1] == "a: ask a b at 2"
    duo.a.order(order(1))
    assert duo.a.turn() == []
    duo.deliver(duo.a, duo.b)
    assert duo.deliver(duo.b, duo.a) == ["a: ann: NEW", "a: published 3-3"]


def test_while_an_answer_of_the_store_is_lost_both_are_required() -> None:
    duo = Duo()
    duo.a.view(view(2, 1, "a1"))
    duo.b.view(view(2, 1, "a1"))
    duo.talk()
    duo.a.order(order(1))
    duo.a.turn()
    assert "ann: NEW" not in duo.a.pass_time(1_000)
    assert duo.a.view(view(3, 1, "a1", members="a1 b5"))[:1] == ["ann: NEW"]


def test_an_old_answer_decides_nothing() -> None:
    duo = Duo()
    duo.a.view(view(2, 1, "a1"))
    duo.b.view(view(2, 1, "a1"))
    duo.talk()
    duo.a.order(order(1))
    duo.a.turn()
    assert duo.a.answer(False, view(1, 1, "a1"), request=7) == []
    assert duo.a.answer(False, view(1, 1, "a1"), incarnation=7) == []


def test_an_old_answer_in_a_later_reign_decides_nothing(duo: Duo) -> None:
    """Who leads again soon after hears what the store said to the questions of the reign before (seed 13984): were its
    standby no longer required, it could be recorded as in sync without what was committed meanwhile."""
    first_request = duo.a.request
    duo.a.view(view(4, 2, "b2"))
    duo.b.view(view(4, 2, "b2"))
    duo.talk()
    duo.a.view(view(5, 3, "a1"))
    duo.b.view(view(5, 3, "a1"))
    assert duo.talk()[-1] == "a: ask a b at 5"
    assert duo.a.request > first_request
    duo.a.order(order(1))
    assert "ann: NEW" not in duo.a.pass_time(400)
    assert duo.a.answer(False, view(3, 1, "a1", "b2"), request=first_request) == []
    assert "ann: NEW" in duo.a.answer(False, view(5, 3, "a1"), request=duo.a.request)


def test_who_promised_a_higher_term_fences_the_older_one(duo: Duo) -> None:
    duo.b.view(view(4, 2, "b2"))
    duo.b.sent.clear()
    duo.a.order(order(1))
    duo.a.turn()
    duo.deliver(duo.a, duo.b)
    assert heard(duo.b.sent) == ["Fenced"]
    duo.deliver(duo.b, duo.a)
    assert duo.a.node.role is Role.WAITING
    assert duo.a.node.promised == 2
    duo.a.order(order(2), number=2)
    assert duo.a.turn() == ["ann: refused SHARD_DOWN shard s0 waits for the coordinator"]
    assert duo.a.view(view(3, 1, "a1", "b2", members="a1 b2")) == []
    assert duo.a.node.role is Role.WAITING


def test_a_message_for_another_incarnation_is_dropped(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    _, header, payload = duo.a.sent.pop()
    late = Actor("b", 9)
    late.view(view(3, 1, "a1", "b2"))
    late.sent.clear()
    late.hear((b"b:9", header, payload))
    assert late.sent == []
    assert late.journal == []


def test_a_view_of_a_lower_term_than_promised_is_dropped() -> None:
    a = Actor("a", 1)
    a.node.on_registered(5, 1)
    assert a.view(view(2, 4, "a1")) == []
    assert a.node.role is Role.WAITING


def test_another_incarnation_is_another_session(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.a.node.on_registered(2, 7)
    assert duo.a.turn() == []
    assert duo.a.node.role is Role.WAITING
    assert duo.a.view(view(4, 2, "a7", members="a7 b2")) == ["published 3-3", "published 4-5"]


def test_what_was_lost_on_the_way_is_sent_again(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.a.sent.clear()
    duo.a.order(order(2), number=2)
    duo.a.turn()
    duo.a.pass_time(100)
    said = duo.talk()
    assert [line for line in said if "ann" in line] == ["a: ann: NEW", "a: ann: NEW"]
    assert duo.a.journal == duo.b.journal


def test_a_suffix_that_the_primary_has_not_is_cut_behind_the_last_common_record(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.a.sent.clear()
    duo.b.view(view(4, 2, "b2"))
    duo.a.view(view(4, 2, "b2"))
    assert duo.talk() == ["a: cut 2"]
    assert duo.a.node.form() == []
    again = Actor("a", 5, journal=duo.a.journal[:1])
    duo.b.view(view(5, 2, "b2", members="a5 b2"))
    again.view(view(5, 2, "b2", members="a5 b2"))
    duo.a = again
    assert duo.talk()[-1] == "b: ask b a at 5"
    assert again.journal == duo.b.journal


def test_a_journal_that_ends_before_the_primarys_begins_needs_a_snapshot(duo: Duo) -> None:
    duo.a.node.oldest_seq = 2
    empty = Actor("b", 5)
    duo.a.view(view(4, 1, "a1", members="a1 b5"))
    empty.view(view(4, 1, "a1", members="a1 b5"))
    duo.b = empty
    assert duo.talk() == ["b: snapshot"]


def test_a_late_answer_to_an_old_join_cuts_nothing(duo: Duo) -> None:
    stale = encode(m.JoinAt(1, 1, 2, 0, False, 0))
    assert duo.b.hear((b"b:2", stale, b"")) == []
    fresh = Actor("b", 2, journal=duo.b.journal)
    fresh.view(view(3, 1, "a1", "b2"))
    assert fresh.hear((b"b:2", stale, b"")) == []


def test_a_planned_switch_hands_over_when_the_standby_has_everything(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.a.node.on_step_down(m.StepDown("s0", 1, member("b", 2)))
    duo.a.order(order(2), number=2)
    assert duo.a.turn() == []
    assert duo.talk() == ["a: ann: NEW", "a: published 3-3", "a: drained to b at 3"]
    assert duo.a.view(view(4, 2, "b2")) == ["ann: refused NOT_PRIMARY shard s0: term 1 is over"]
    assert duo.b.view(view(4, 2, "b2"))[-1] == "published 4-5"
    assert "b: ask b a at 4" in duo.talk()


def test_a_switch_that_does_not_come_is_given_up(duo: Duo) -> None:
    duo.a.node.on_step_down(m.StepDown("s0", 1, member("b", 2)))
    duo.a.order(order(1))
    duo.a.turn()
    for _ in range(30):
        duo.a.pass_time(50)
        duo.talk()
    assert len(duo.a.journal) == 2
    assert duo.a.node.replica.committed_seq == 3


def test_a_switch_to_somebody_else_than_the_standby_is_ignored(duo: Duo) -> None:
    duo.a.node.on_step_down(m.StepDown("s0", 1, member("b", 3)))
    duo.a.node.on_step_down(m.StepDown("s0", 0, member("b", 2)))
    duo.a.order(order(1))
    duo.a.turn()
    assert duo.talk() == ["a: ann: NEW", "a: published 3-3"]


def test_replicated_mode_answers_what_both_have_written() -> None:
    duo = Duo(relaxed=True)
    duo.pair()
    duo.a.order(order(1))
    duo.a.turn()
    assert not duo.a.node.must_sync
    assert duo.talk() == ["a: ann: NEW", "a: published 3-3"]
    assert (duo.a.node.synced_seq, duo.b.node.synced_seq) == (2, 0)


def test_replicated_mode_syncs_before_it_asks_to_be_alone_and_while_it_is() -> None:
    duo = Duo(relaxed=True)
    duo.pair()
    duo.a.order(order(1))
    duo.a.turn()
    assert duo.a.node.synced_seq == 2
    assert duo.a.pass_time(350) == ["ask a at 3"]
    assert duo.a.node.synced_seq == 3
    duo.a.order(order(2), number=2)
    duo.a.write()
    assert duo.a.node.must_sync


def test_nobody_waits_for_a_standby_whose_process_has_ended(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    for another in (member("b", 1), member("c", 2)):
        duo.a.node.on_ended(m.Ended("s0", another))
    assert duo.a.pass_time(100) == []
    duo.a.node.on_ended(m.Ended("s0", member("b", 2)))
    assert duo.a.turn() == ["ask a at 3"]
    assert duo.a.answer(True, view(4, 1, "a1", members="a1 b2")) == ["ann: NEW", "published 3-3"]


def test_a_primary_that_cannot_commit_refuses_instead_of_keeping_people_waiting(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.a.pass_time(600)
    assert not duo.a.node.serving
    duo.a.order(order(2), number=2)
    (refused,) = duo.a.turn()
    assert refused.startswith("ann: refused FAILING_OVER shard s0: ")


def test_where_one_copy_is_not_enough_nobody_is_served_alone() -> None:
    a = Actor("a", 1, solo=False)
    a.view(view(2, 1, "a1"))
    a.pass_time(50)
    a.order(order(1))
    (refused,) = a.turn()
    assert refused.startswith("ann: refused FAILING_OVER shard s0: ")
    assert not a.node.serving


def test_a_standby_that_made_something_else_of_the_same_log_is_found_out(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.deliver(duo.a, duo.b)
    _, header, _ = duo.b.sent.pop()
    said = decode_replica(header)
    assert isinstance(said, m.Appended)
    other = m.Appended(said.epoch, said.sender, said.target, said.last_seq, said.chain, said.trail ^ 1)
    assert duo.a.hear((b"", encode(other), b""), b"b:2") == []
    assert duo.a.node.diverged.startswith("at seq 3 the standby has chain ")
    assert heard(duo.a.sent) == ["Diverged"]
    rebuilt = Actor("b", 5)
    duo.a.view(view(4, 1, "a1", "b2", members="a1 b5"))
    rebuilt.view(view(4, 1, "a1", "b2", members="a1 b5"))
    duo.a.sent.clear()
    duo.b = rebuilt
    duo.talk()
    assert rebuilt.journal == duo.a.journal
    assert duo.a.node.diverged == ""


def test_what_recovery_brought_back_is_durable_and_not_known_to_be_committed() -> None:
    duo = Duo()
    duo.pair()
    again = Actor("a", 5, journal=duo.a.journal)
    assert again.node.synced_seq == 2
    again.node.on_order(encode(m.Follow("md", 0)), b"", b"md", 0)
    assert again.turn() == []
    assert again.view(view(4, 2, "a5", members="a5 b2"))[0] == "md: frames 1-2"


def test_a_follower_of_a_standby_never_sees_what_may_be_cut(duo: Duo) -> None:
    duo.a.order(order(1))
    duo.a.turn()
    duo.deliver(duo.a, duo.b)
    duo.b.node.on_order(encode(m.Follow("md", 2)), b"", b"md", 0)
    assert duo.b.turn() == ["md: frames 3-2"]
    duo.b.node.on_order(encode(m.Follow("md", 3)), b"", b"md", 0)
    assert duo.b.turn() == []


@pytest.mark.parametrize("header", [b"", b"\xc1", encode(m.Tick()), b"\xff" * 99])
def test_garbage_on_the_link_is_a_note(duo: Duo, header: bytes) -> None:
    duo.a.node.on_link(header, b"", b"b:2", 0)
    (note,) = duo.a.node.ready().notes
    assert note.startswith("message between nodes: ")
    duo.b.hear((b"b:2", encode(m.Append(1, 1, 2, 2, 2)), b"garbage"))
    assert duo.b.node.replica.position.seq == 2
