"""A standby on a line that fails now and then must not stall its primary again and again."""

from exchange.domain import NS_PER_S
from shard.core.probation import FORGIVEN_NS, HOLD_MAX_NS, HOLD_MIN_NS, Probation

NODE = ("s0-b", 3)


def passes_after(probation: Probation, now_ns: int) -> int:
    """How long from now on it must be heard."""
    step_ns = HOLD_MIN_NS // 4
    return next(ns for ns in range(0, HOLD_MAX_NS + step_ns, step_ns) if probation.passed(NODE, now_ns + ns))


def test_who_was_never_dropped_is_welcome_at_once() -> None:
    assert Probation().passed(NODE, 0)


def test_each_time_it_is_dropped_it_waits_twice_as_long() -> None:
    probation, now_ns, waits = Probation(), 100 * NS_PER_S, []
    for _ in range(6):
        probation.dropped(NODE, now_ns)
        waits.append(passes_after(probation, now_ns) // NS_PER_S)
        now_ns += 10 * NS_PER_S
    assert waits == [2, 4, 8, 8, 8, 8]


def test_a_gap_begins_the_wait_anew() -> None:
    probation, now_ns = Probation(), 100 * NS_PER_S
    probation.dropped(NODE, now_ns)
    probation.interrupted(now_ns + HOLD_MIN_NS - 1)
    assert not probation.passed(NODE, now_ns + HOLD_MIN_NS)
    assert probation.passed(NODE, now_ns + 2 * HOLD_MIN_NS)


def test_old_drops_are_forgiven_after_a_long_quiet_time() -> None:
    probation, now_ns = Probation(), 100 * NS_PER_S
    for _ in range(3):
        probation.dropped(NODE, now_ns)
    now_ns += FORGIVEN_NS + 1
    probation.dropped(NODE, now_ns)
    assert passes_after(probation, now_ns) == HOLD_MIN_NS


def test_a_new_session_of_the_node_has_a_clean_record() -> None:
    probation, again = Probation(), ("s0-b", 4)
    probation.dropped(NODE, NS_PER_S)
    assert probation.passed(again, NS_PER_S)
    probation.dropped(again, NS_PER_S)
    assert not probation.passed(again, NS_PER_S)
    assert probation.passed(again, NS_PER_S + HOLD_MIN_NS)
