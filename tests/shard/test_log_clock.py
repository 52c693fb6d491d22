"""What a primary stamps when its wall clock misbehaves (R15)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exchange.domain import NS_PER_MS, NS_PER_S, TimeInForce
from exchange.messages import TakeClock, Tick
from shard.core.log_clock import AHEAD_MAX_NS, LogClock
from tests.shard.duo import WALL_NS, Duo, view
from tests.shard.stage import commands_of, order

HOUR_NS = 3_600 * NS_PER_S
START_NS = 1_700_000_000 * NS_PER_S
UPTIME_NS = 5_000 * NS_PER_S


class Machine:
    """A primary's clocks: time passes, the wall clock may be set; each record is stamped."""

    def __init__(self, clock: LogClock | None = None, *, before_ns: int = 0) -> None:
        self.clock = clock or LogClock()
        self.passed_ns = 0
        self.wrong_ns = 0
        self.ts_ns = before_ns

    @property
    def wall_ns(self) -> int:
        return START_NS + self.passed_ns + self.wrong_ns

    def record(self, *, after_ns: int = 100 * NS_PER_MS) -> int:
        """How far log time is ahead of true time in the next record."""
        self.passed_ns += after_ns
        self.clock.uptime_ns = UPTIME_NS + self.passed_ns
        stamp = self.clock.stamp(self.wall_ns, self.ts_ns)
        assert stamp > self.ts_ns, "log time goes on"
        self.ts_ns = stamp
        return stamp - START_NS - self.passed_ns

    @property
    def off_ns(self) -> int:
        return self.clock.off_ns(self.wall_ns, self.ts_ns)


def test_a_good_clock_is_log_time() -> None:
    machine = Machine()
    assert [machine.record() for _ in range(3)] == [0, 0, 0]
    assert machine.record(after_ns=HOUR_NS) == 0, "an hour without a record is no jump"
    assert machine.off_ns == 0


def test_a_clock_that_jumps_ahead_is_followed_for_five_seconds_and_no_further() -> None:
    machine = Machine()
    machine.record()
    machine.wrong_ns = HOUR_NS
    assert [machine.record() for _ in range(1_000)] == [AHEAD_MAX_NS] * 1_000
    assert machine.off_ns == HOUR_NS
    machine.wrong_ns = 0
    machine.record()
    assert machine.off_ns == 0
    machine.record(after_ns=6 * NS_PER_S)
    assert [machine.record() for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("seconds", [-4, 4])
def test_a_small_step_is_followed(seconds: int) -> None:
    machine = Machine()
    machine.record()
    machine.wrong_ns = seconds * NS_PER_S
    machine.record(after_ns=10 * NS_PER_S)
    assert machine.record() == seconds * NS_PER_S
    assert machine.off_ns == 0


def test_a_clock_that_was_set_back_makes_log_time_creep_and_may_return() -> None:
    machine = Machine()
    machine.record()
    machine.wrong_ns = -HOUR_NS
    before_ns = machine.ts_ns
    for number in range(1, 100):
        machine.record()
        assert machine.ts_ns == before_ns + number
    assert machine.off_ns < -HOUR_NS + 11 * NS_PER_S
    machine.wrong_ns = 0
    assert machine.record() == 0
    assert machine.off_ns == 0


def test_an_operators_word_ends_the_bound() -> None:
    machine = Machine()
    machine.record()
    machine.wrong_ns = HOUR_NS
    machine.record()
    machine.clock.believe()
    assert [machine.record(), machine.record()] == [HOUR_NS, HOUR_NS]
    assert machine.off_ns == 0


def test_the_first_record_of_a_process_takes_the_clocks_word() -> None:
    machine = Machine(before_ns=START_NS - 5 * HOUR_NS)
    assert machine.record() == 0


def test_a_process_that_starts_with_a_clock_behind_the_log_is_bounded_by_the_log() -> None:
    machine = Machine(before_ns=START_NS)
    machine.wrong_ns = -HOUR_NS
    machine.record()
    machine.wrong_ns = HOUR_NS
    assert machine.record() <= AHEAD_MAX_NS


def test_a_standby_learns_the_path_from_its_primary() -> None:
    primary, clock = Machine(), LogClock()
    for _ in range(10):
        primary.record()
        clock.uptime_ns = 77 + primary.passed_ns
        clock.learn(primary.ts_ns)
    heir = Machine(clock, before_ns=primary.ts_ns)
    heir.passed_ns, heir.wrong_ns = primary.passed_ns, HOUR_NS
    clock.uptime_ns = 77 + heir.passed_ns
    assert heir.off_ns == HOUR_NS, "an operator can see it before the failover"
    assert clock.stamp(heir.wall_ns, primary.ts_ns) == primary.ts_ns + AHEAD_MAX_NS


def test_without_uptime_nothing_is_bounded() -> None:
    clock = LogClock()
    assert clock.stamp(10, 3) == 10
    clock.learn(10)
    assert clock.stamp(10 + HOUR_NS, 10) == 10 + HOUR_NS
    assert clock.stamp(5, 10 + HOUR_NS) == 11 + HOUR_NS


@given(st.lists(st.tuples(st.integers(0, 2 * HOUR_NS), st.integers(-2 * HOUR_NS, 2 * HOUR_NS)), max_size=40))
def test_whatever_the_clock_does_log_time_rises_and_is_bounded(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    path_ns = machine.record()
    for after_ns, wrong_ns in steps:
        machine.wrong_ns = wrong_ns
        ahead_ns = machine.record(after_ns=after_ns)
        assert ahead_ns <= path_ns + AHEAD_MAX_NS
        path_ns = max(path_ns, ahead_ns)


@pytest.mark.parametrize(("told", "left"), [(True, 1), (False, 0)])
def test_orders_with_a_date_survive_a_failover_to_a_clock_that_is_an_hour_ahead(told: bool, left: int) -> None:
    duo = Duo()
    if told:
        duo.b.node.on_uptime(NS_PER_S)
    duo.pair()
    dated = replace(order(1), time_in_force=TimeInForce.GTD, expire_ns=WALL_NS + HOUR_NS // 2)
    duo.a.order(dated)
    duo.a.turn()
    duo.talk()
    assert duo.b.engine.orders() == 1
    duo.b.view(view(4, 2, "b2"))
    duo.b.node.on_tick(WALL_NS + HOUR_NS, duo.b.now_ns, log_tick=True)
    duo.b.turn()
    assert type(commands_of(duo.b.journal[-1])[-1]) is Tick
    assert duo.b.engine.orders() == left


def test_only_the_primary_of_the_term_takes_an_operators_word() -> None:
    duo = Duo()
    duo.a.node.on_uptime(NS_PER_S)
    duo.pair()
    duo.a.pass_time(50)
    duo.a.order(order(1))
    duo.a.turn()
    wall_ns = WALL_NS + HOUR_NS
    assert duo.a.node.clock_off_ns(wall_ns) > HOUR_NS // 2
    duo.a.node.on_take_clock(TakeClock("s0", 9))
    duo.b.node.on_take_clock(TakeClock("s0", 1))
    assert duo.a.node.clock_off_ns(wall_ns) > HOUR_NS // 2
    duo.a.node.on_take_clock(TakeClock("s0", 1))
    assert duo.a.node.clock_off_ns(wall_ns) == 0
