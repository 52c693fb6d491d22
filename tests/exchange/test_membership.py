"""A daemon's place in the cluster: it registers until it is answered, beats, and never acts on an old map."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from exchange import messages as m
from exchange.limits import BEAT_INTERVAL_NS, REGISTER_RETRY_NS
from exchange.membership import Membership
from exchange.wire import decode_coordinator_inbound

REGISTER = m.Register("shard", "s0", 7, "journal", 10, 2, {"orders": "ipc:///o"})


def map_(version: int) -> m.ShardMap:
    return m.ShardMap(version, [], [])


def said(messages: list[bytes]) -> list[Any]:
    return [decode_coordinator_inbound(message) for message in messages]


class Vitals:
    """What the daemon says of itself."""

    def __init__(self) -> None:
        self.ready = False

    def __call__(self) -> tuple[bool, Mapping[str, Any]]:
        return self.ready, {"seq": 5}


@pytest.fixture
def vitals() -> Vitals:
    return Vitals()


@pytest.fixture
def membership(vitals: Vitals) -> Membership:
    return Membership(REGISTER, vitals)


def test_it_asks_until_it_is_answered(membership: Membership) -> None:
    assert said(membership.on_tick(0)) == [REGISTER]
    assert membership.on_tick(REGISTER_RETRY_NS - 1) == []
    assert said(membership.on_tick(REGISTER_RETRY_NS)) == [REGISTER]
    assert not membership.registered


def test_once_answered_it_beats_at_once_and_then_at_its_interval(membership: Membership, vitals: Vitals) -> None:
    membership.on_tick(0)
    assert said(membership.on_message(m.Registered(4, 3), 9)) == [m.Beat("shard", "s0", 4, 9, False, {"seq": 5})]
    assert (membership.registered, membership.incarnation, membership.epoch) == (True, 4, 3)
    vitals.ready = True
    assert membership.on_tick(8 + BEAT_INTERVAL_NS) == []
    assert said(membership.on_tick(9 + BEAT_INTERVAL_NS)) == [
        m.Beat("shard", "s0", 4, 9 + BEAT_INTERVAL_NS, True, {"seq": 5})
    ]


def test_a_refusal_is_kept_and_it_goes_on_asking(membership: Membership) -> None:
    membership.on_tick(0)
    assert membership.on_message(m.Registered(0, 0, "wrong journal"), 1) == []
    assert (membership.refused, membership.registered) == ("wrong journal", False)
    assert said(membership.on_tick(REGISTER_RETRY_NS)) == [REGISTER]
    membership.on_message(m.Registered(4, 3), 2)
    assert (membership.refused, membership.registered) == ("", True)


def test_only_a_newer_map_replaces_the_map(membership: Membership) -> None:
    for version in (2, 1, 3, 3):
        membership.on_message(map_(version), 0)
    assert membership.map == map_(3)


def test_a_missed_map_is_noticed_within_one_beat(membership: Membership) -> None:
    membership.on_message(m.Registered(4, 3), 0)
    assert said(membership.on_message(m.BeatSeen(1, True), 1)) == [m.AskMap()]
    membership.on_message(map_(1), 2)
    assert membership.on_message(m.BeatSeen(1, True), 3) == []
    assert said(membership.on_message(m.BeatSeen(2, True), 4)) == [m.AskMap()]


def test_a_coordinator_that_does_not_know_it_is_asked_again_with_what_is_true_now(membership: Membership) -> None:
    membership.on_tick(0)
    membership.on_message(m.Registered(4, 3), 0)
    membership.on_message(map_(5), 0)
    later = msgspec.structs.replace(REGISTER, promised_epoch=3)
    membership.update(later)
    assert said(membership.on_message(m.BeatSeen(5, False), 1)) == [later]
    assert not membership.registered
    assert membership.map == map_(5)


def test_other_answers_are_not_its_business(membership: Membership) -> None:
    membership.on_message(m.Registered(4, 3), 0)
    assert membership.on_message(m.ClusterStatus(1, "healthy", []), 0) == []
    assert membership.on_message(m.Administered({}), 0) == []


def test_an_answer_to_the_process_before_is_not_taken() -> None:
    membership = Membership(REGISTER, lambda: (False, {}))
    assert membership.on_message(m.Registered(3, 3, session="another"), 0) == []
    assert not membership.registered
    membership.on_message(m.Registered(4, 3, session=REGISTER.session or REGISTER.uuid), 0)
    assert membership.incarnation == 4
