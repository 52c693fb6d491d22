"""The pure table of what is in flight, cue by cue, with injected time."""

import pytest
from msgspec import Raw

from exchange import messages as m
from exchange.errors import WireError
from exchange.limits import BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, GATEWAY_PENDING_MAX
from exchange.wire import array_header, decode_commands, decode_shard_inbound, encode
from gateway.core.pending import RESEND_SILENCE_NS, RETRY_REFUSED_NS, Flight, Lane, Run, Settled

DONE = encode(m.Done(1, 1, 1))
NEVER = 1 << 60


def entry(epoch: int = 1, *, serving: bool = True) -> m.ShardEntry:
    return m.ShardEntry("s0", epoch, "s0", epoch, "ipc://orders", "ipc://events", serving)


def order(number: int = 0) -> m.Submit:
    return m.Submit("alice", f"o-{number}", 0, 0, 0, 0, 0, 1, 15_000, 1)


class Story:
    """A lane whose runs note their end."""

    def __init__(self, *, serving: bool = True) -> None:
        self.lane = Lane("s0", "g0", 0)
        self.ended: list[Settled] = []
        self.lane.on_map(entry(serving=serving), 0)

    def enter(self, count: int = 1, deadline_ns: int = NEVER, *, sweep: bool = False) -> Run:
        commands: list[m.Command] = [m.MassCancel("alice")] if sweep else [order(number) for number in range(count)]
        run = Run(commands, deadline_ns, self.ended.append, sweep=sweep)
        assert self.lane.enter(run) is None
        return run

    def send(self, now_ns: int = 0) -> list[Flight]:
        """Everything that may leave leaves."""
        flights = self.lane.depart()
        for flight in flights:
            self.lane.sent(flight, now_ns)
        return flights

    def tick(self, now_ns: int) -> list[Flight]:
        """Time passes and everything that is due leaves."""
        settled, flights = self.lane.on_tick(now_ns)
        self._end(settled)
        for flight in flights:
            self.lane.sent(flight, now_ns)
        return flights

    def answer(self, flight: Flight, now_ns: int = 0) -> None:
        payload = array_header(flight.count) + DONE * flight.count
        self._end(self.lane.on_message(m.Answers(flight.batch, 1), payload, now_ns))

    def refuse(self, flight: Flight, reason: str, now_ns: int = 0) -> None:
        self._end(self.lane.on_message(m.Refused(flight.batch, 1, reason, "because"), b"", now_ns))

    def _end(self, settled: list[Settled]) -> None:
        for one in settled:
            one.run.ticket(one)

    def reasons(self) -> list[str]:
        return [one.problem.reason if one.problem is not None else "answered" for one in self.ended]


def test_runs_of_one_turn_share_a_batch_and_get_their_own_replies() -> None:
    story = Story()
    runs = [story.enter(2), story.enter(3)]
    (flight,) = story.send()
    assert flight.count == 5
    header = decode_shard_inbound(story.lane.header(flight))
    assert header == m.Batch("g0", 0, flight.batch, 1, 5)
    assert decode_commands(flight.payload) == [*runs[0].commands, *runs[1].commands]
    story.answer(flight)
    assert [(one.run, len(one.replies)) for one in story.ended] == [(runs[0], 2), (runs[1], 3)]
    assert story.ended[0].replies == [Raw(DONE)] * 2
    assert story.lane.pending == 0


def test_batches_keep_within_the_protocols_bounds() -> None:
    story = Story()
    for _ in range(20):
        story.enter(200)
    flights = story.send()
    assert sum(flight.count for flight in flights) == 4_000
    assert all(flight.count <= BATCH_COMMANDS_MAX for flight in flights)
    for _ in range(4):
        commands: list[m.Command] = [m.Cancel("a" * 32, 1, 0, "b" * 36, NEVER) for _ in range(250)]
        wide = [m.Submit("a" * 32, "c" * 36, 1, 0, 0, 0, 0, 0, NEVER, NEVER, NEVER, NEVER, NEVER)] * 250
        assert story.lane.enter(Run(commands, NEVER, story.ended.append)) is None
        assert story.lane.enter(Run(list(wide), NEVER, story.ended.append)) is None
    assert all(len(flight.payload) <= BATCH_BYTES_MAX for flight in story.send())


def test_too_much_waiting_is_refused_at_the_door() -> None:
    story = Story()
    for _ in range(GATEWAY_PENDING_MAX // 256):
        story.enter(256)
    problem = story.lane.enter(Run([order()], NEVER, story.ended.append))
    assert problem is not None
    assert problem.reason == "OVERLOADED"
    for flight in story.send():
        story.answer(flight)
    assert story.lane.pending == 0
    story.enter()


def test_without_a_primary_nothing_leaves_and_the_deadline_says_not_executed() -> None:
    story = Story(serving=False)
    story.enter(deadline_ns=100)
    assert story.send() == []
    assert story.tick(99) == []
    assert story.ended == []
    story.tick(100)
    assert story.reasons() == ["SHARD_DOWN"]


def test_what_waited_leaves_in_order_when_a_primary_comes() -> None:
    story = Story(serving=False)
    for _ in range(3):
        story.enter()
        assert story.send() == []
    flights = story.lane.on_map(entry(2), 5)
    assert [flight.batch for flight in flights] == sorted(flight.batch for flight in flights)
    assert len(flights) == 3


def test_a_socket_that_refuses_leaves_it_unsent() -> None:
    story = Story()
    story.enter(deadline_ns=100)
    assert len(story.lane.depart()) == 1, "offered, and not reported as sent"
    assert len(story.lane.depart()) == 1, "so it is offered again"
    story.tick(100)
    assert story.reasons() == ["SHARD_DOWN"]


def test_silence_repeats_the_same_bytes_and_a_deadline_ends_it() -> None:
    story = Story()
    story.enter(deadline_ns=2 * RESEND_SILENCE_NS + 1)
    (flight,) = story.send()
    payload = flight.payload
    assert story.tick(RESEND_SILENCE_NS - 1) == []
    assert story.tick(RESEND_SILENCE_NS) == [flight]
    assert story.tick(RESEND_SILENCE_NS + 1) == []
    assert story.tick(2 * RESEND_SILENCE_NS) == [flight]
    assert flight.payload == payload
    story.tick(2 * RESEND_SILENCE_NS + 1)
    assert story.reasons() == ["UNKNOWN"]
    story.answer(flight)
    assert len(story.ended) == 1, "an answer after the end changes nothing"


def test_a_slow_shard_that_answers_in_order_is_not_asked_again() -> None:
    """Repetitions would make it slower still."""
    story = Story()
    flights = []
    for number in range(10):
        story.enter()
        flights += story.send(number * RESEND_SILENCE_NS // 10)
    story.answer(flights[0], RESEND_SILENCE_NS + 50)
    assert story.tick(RESEND_SILENCE_NS + 60) == []
    story.answer(flights[1], 2 * RESEND_SILENCE_NS)
    assert story.tick(2 * RESEND_SILENCE_NS + 1) == []
    assert story.tick(3 * RESEND_SILENCE_NS + 1) == flights[2:], "now it says nothing at all"


def test_a_flight_that_was_overtaken_is_asked_for_again_though_the_shard_talks() -> None:
    story = Story()
    story.enter()
    (first,) = story.send(0)
    story.enter()
    (second,) = story.send(1)
    story.answer(second, RESEND_SILENCE_NS)
    assert story.tick(RESEND_SILENCE_NS) == [first]
    assert story.tick(RESEND_SILENCE_NS + 1) == []


def test_runs_of_one_flight_end_by_their_own_deadlines() -> None:
    story = Story()
    story.enter(1, 100)
    later = story.enter(2, 200)
    (flight,) = story.send()
    story.tick(100)
    assert story.reasons() == ["UNKNOWN"]
    story.answer(flight)
    assert story.reasons() == ["UNKNOWN", "answered"]
    assert (story.ended[1].run, len(story.ended[1].replies)) == (later, 2)
    assert story.lane.pending == 0


def test_what_was_said_to_be_not_executed_does_not_leave_with_its_neighbours() -> None:
    story = Story(serving=False)
    story.enter(1, 100)
    second = story.enter(2, 200)
    third = story.enter(3, 10 * RETRY_REFUSED_NS)
    assert story.send() == []
    story.tick(100)
    assert story.reasons() == ["SHARD_DOWN"]
    (flight,) = story.lane.on_map(entry(2), 101)
    assert decode_commands(flight.payload) == [*second.commands, *third.commands]
    story.lane.sent(flight, 101)
    before = flight.batch
    story.refuse(flight, "NOT_PRIMARY", 102)
    story.tick(200)
    assert story.reasons() == ["SHARD_DOWN", "SHARD_DOWN"]
    (flight,) = story.tick(102 + RETRY_REFUSED_NS)
    assert flight.batch > before, "other bytes, another number"
    assert decode_commands(flight.payload) == third.commands
    story.answer(flight)
    assert (story.ended[2].run, len(story.ended[2].replies)) == (third, 3)
    assert story.lane.pending == 0


def test_a_new_term_gets_everything_unanswered_at_once() -> None:
    story = Story()
    story.enter()
    (flight,) = story.send()
    assert story.lane.on_map(entry(1), 1) == [], "the same term again is no news"
    assert story.lane.on_map(entry(2), 2) == [flight]
    header = decode_shard_inbound(story.lane.header(flight))
    assert isinstance(header, m.Batch)
    assert header.epoch == 2


def test_a_new_term_gets_it_when_it_serves_and_not_before() -> None:
    story = Story()
    story.enter()
    (flight,) = story.send()
    story.enter()
    assert story.lane.on_map(entry(2, serving=False), 2) == []
    offered = story.lane.on_map(entry(2), 3)
    assert offered[1:] == [flight]
    assert [flight.sends for flight in offered] == [0, 1]
    assert story.lane.due(3) == offered, "until they are sent"


@pytest.mark.parametrize("reason", ["NOT_PRIMARY", "SHARD_DOWN", "FAILING_OVER", "SUPERSEDED"])
def test_no_primary_is_asked_again_soon(reason: str) -> None:
    story = Story()
    story.enter(deadline_ns=RESEND_SILENCE_NS)
    (flight,) = story.send()
    story.refuse(flight, reason, 10)
    assert story.ended == []
    assert story.tick(10 + RETRY_REFUSED_NS - 1) == []
    assert story.tick(10 + RETRY_REFUSED_NS) == [flight]
    story.refuse(flight, reason, 20)
    story.lane.on_map(entry(serving=False), 20)
    story.tick(RESEND_SILENCE_NS)
    assert story.reasons() == ["SHARD_DOWN"]
    assert story.ended[0].problem is not None
    assert reason in story.ended[0].problem.detail


@pytest.mark.parametrize("reason", ["OVERLOADED", "MALFORMED", "SOMETHING_NEW"])
def test_any_other_refusal_ends_the_batch_when_no_copy_is_left(reason: str) -> None:
    story = Story()
    story.enter()
    (flight,) = story.send()
    story.refuse(flight, reason)
    assert story.reasons() == ["OVERLOADED"]
    assert story.ended[0].problem is not None
    assert reason in story.ended[0].problem.detail


def test_every_copy_must_be_settled_before_anything_is_certain() -> None:
    story = Story()
    story.enter(deadline_ns=2 * RESEND_SILENCE_NS)
    (flight,) = story.send()
    story.tick(RESEND_SILENCE_NS)
    story.refuse(flight, "OVERLOADED")
    assert story.ended == [], "one of two copies may have run"
    story.refuse(flight, "OVERLOADED")
    assert story.reasons() == ["OVERLOADED"]
    story = Story()
    story.enter(deadline_ns=2 * RESEND_SILENCE_NS)
    (flight,) = story.send()
    story.tick(RESEND_SILENCE_NS)
    story.refuse(flight, "SHARD_DOWN")
    story.tick(2 * RESEND_SILENCE_NS)
    assert story.reasons() == ["UNKNOWN"]


def test_a_sweep_flies_alone_and_is_repeated_only_when_that_is_harmless() -> None:
    story = Story()
    story.enter()
    story.enter(sweep=True)
    story.enter()
    flights = story.send()
    assert [(flight.count, flight.sweep) for flight in flights] == [(1, False), (1, True), (1, False)]
    sweep = flights[1]
    assert sweep not in story.tick(RESEND_SILENCE_NS)
    story.refuse(sweep, "NOT_PRIMARY", RESEND_SILENCE_NS)
    assert sweep in story.tick(2 * RESEND_SILENCE_NS), "its only copy is settled"
    assert sweep not in story.tick(3 * RESEND_SILENCE_NS)
    assert sweep in story.lane.on_map(entry(2), 3 * RESEND_SILENCE_NS + 1), "the term of its copy is over"


def test_a_flight_says_whether_it_was_repeated() -> None:
    story = Story()
    story.enter()
    (once,) = story.send()
    story.answer(once)
    story.enter()
    (twice,) = story.send()
    story.tick(RESEND_SILENCE_NS)
    story.answer(twice)
    assert [one.resent for one in story.ended] == [False, True]
    assert story.lane.resends == 1


@pytest.mark.parametrize("payload", [b"", b"\xc0", array_header(2) + DONE * 2, array_header(1) + b"\xc1"])
def test_an_answer_that_does_not_fit_changes_nothing(payload: bytes) -> None:
    story = Story()
    story.enter()
    (flight,) = story.send()
    with pytest.raises(WireError):
        story.lane.on_message(m.Answers(flight.batch, 1), payload, 0)
    assert story.ended == []
    story.answer(flight)
    assert story.reasons() == ["answered"]


def test_answers_to_nothing_are_ignored() -> None:
    story = Story()
    assert story.lane.on_message(m.Answers(77, 1), b"junk", 0) == []
    assert story.lane.on_message(m.Refused(77, 1, "OVERLOADED", ""), b"", 0) == []


def test_the_end_of_the_gateway_settles_everything_by_what_is_certain() -> None:
    story = Story()
    story.enter()
    story.send()
    story.enter()
    settled = story.lane.abandon()
    assert [one.problem.reason for one in settled if one.problem] == ["UNKNOWN", "SHARD_DOWN"]
    assert story.lane.pending == 0
