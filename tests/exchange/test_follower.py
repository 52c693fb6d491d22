"""A consumer of a shard's stream: nothing twice, nothing out of order, nothing missing for long, honest liveness."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange import messages as m
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import WireError
from exchange.follower import Advanced, Ask, Cursor, Follower, Output
from exchange.limits import FOLLOW_HELD_FRAMES_MAX, FOLLOW_RETRY_MAX_NS, FOLLOW_RETRY_MIN_NS, FOLLOW_SILENCE_NS
from exchange.wire import encode, join_array

Published = tuple[m.Published, bytes]


def frame(first: int, last: int | None = None, epoch: int = 1) -> bytes:
    return encode(m.EventFrame(epoch, first, last or first, first, [], [], [], [], []))


def published(first: int, last: int | None = None, epoch: int = 1) -> Published:
    return m.Published("s0", epoch, first - 1, last or first), frame(first, last, epoch)


def frames(*encoded: bytes, more: bool = False) -> tuple[m.Frames, bytes]:
    return m.Frames("s0", 0, 0, more), join_array(encoded, len(encoded))


def image(after_seq: int, seq: int, epoch: int = 1) -> tuple[m.Image, bytes]:
    return m.Image("s0", after_seq, seq), frame(seq, seq, epoch)


def said(outputs: list[Output]) -> list[str]:
    """Outputs in one short form: "3-5" a frame, "image 9", "ask 2"."""
    texts = []
    for output in outputs:
        if isinstance(output, Ask):
            texts.append(f"ask {output.follow.after_seq}")
        elif output.image:
            texts.append(f"image {output.head.last_seq}")
        else:
            texts.append(f"{output.head.first_seq}-{output.head.last_seq}")
    return texts


@pytest.fixture
def follower() -> Follower:
    """A consumer that is connected, has asked, and has everything up to 10."""
    follower = Follower("s0", "riskd:r0", Cursor(1, 10))
    assert said(follower.on_connect(0)) == ["ask 10"]
    assert follower.on_answer(*frames(), 1) == []
    return follower


def test_frames_in_order_pass_and_repetitions_do_not(follower: Follower) -> None:
    assert said(follower.on_published(*published(11), 2)) == ["11-11"]
    assert said(follower.on_published(*published(12, 14), 3)) == ["12-14"]
    assert follower.on_published(*published(12, 14), 4) == []
    assert follower.cursor == Cursor(1, 14)
    assert follower.gaps == 0


def test_a_gap_is_asked_for_once_and_what_came_early_is_held(follower: Follower) -> None:
    assert said(follower.on_published(*published(13), 2)) == ["ask 10"]
    assert said(follower.on_published(*published(14, 15), 3)) == []
    assert not follower.live(3)
    assert (follower.gaps, follower.lag) == (1, 5)
    assert said(follower.on_answer(*frames(frame(11, 12), frame(13)), 4)) == ["11-12", "13-13", "14-15"]
    assert follower.live(4)
    assert follower.lag == 0


def test_an_unanswered_question_is_repeated_with_back_off(follower: Follower) -> None:
    follower.on_published(*published(13), 2)
    asked = [2, *(now for now in range(3, 4 * NS_PER_S, 10 * NS_PER_MS) if follower.on_tick(now))]
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert waits[0] >= FOLLOW_RETRY_MIN_NS
    assert waits == sorted(waits)
    assert FOLLOW_RETRY_MAX_NS <= waits[-1] <= FOLLOW_RETRY_MAX_NS + 10 * NS_PER_MS


def test_a_long_gap_is_fetched_in_parts_without_waiting(follower: Follower) -> None:
    follower.on_published(*published(31), 2)
    assert said(follower.on_answer(*frames(frame(11, 20), more=True), 3)) == ["11-20", "ask 20"]
    assert said(follower.on_answer(*frames(frame(21, 30)), 4)) == ["21-30", "31-31"]


def test_an_answer_that_does_not_help_is_not_repeated_at_once(follower: Follower) -> None:
    follower.on_published(*published(31), 2)
    assert said(follower.on_answer(*frames(frame(20, 30)), 3)) == []
    assert not follower.live(3)
    assert said(follower.on_answer(*frames(more=True), 4)) == []


def test_an_image_replaces_what_can_no_longer_be_fetched(follower: Follower) -> None:
    follower.on_published(*published(500), 2)
    outputs = follower.on_answer(*image(10, 499), 3)
    assert said(outputs) == ["image 499", "500-500"]
    first = outputs[0]
    assert isinstance(first, Advanced)
    assert first.before == Cursor(1, 10)
    assert follower.live(3)
    assert follower.images == 1


def test_a_late_image_of_an_earlier_question_is_dropped(follower: Follower) -> None:
    follower.on_published(*published(13), 2)
    follower.on_answer(*frames(frame(11), frame(12)), 3)
    assert follower.on_answer(*image(10, 12), 4) == []
    assert follower.cursor == Cursor(1, 13)


def test_a_shard_whose_data_was_replaced_starts_over_with_its_image() -> None:
    follower = Follower("s0", "riskd:r0", Cursor(7, 1_000))
    follower.on_connect(0)
    assert said(follower.on_answer(*image(1_000, 3, epoch=1), 1)) == ["image 3"]
    assert said(follower.on_published(*published(4), 2)) == ["4-4"]
    assert follower.live(2)
    assert follower.cursor == Cursor(1, 4)


def test_a_question_that_was_asked_twice_takes_nobody_back_twice() -> None:
    follower = Follower("s0", "riskd:r0", Cursor(7, 1_000))
    follower.on_connect(0)
    assert said(follower.on_tick(FOLLOW_RETRY_MAX_NS)) == ["ask 1000"]
    assert said(follower.on_answer(*image(1_000, 3), FOLLOW_RETRY_MAX_NS)) == ["image 3"]
    assert said(follower.on_published(*published(4), FOLLOW_RETRY_MAX_NS)) == ["4-4"]
    asked = follower.on_published(*published(6), FOLLOW_RETRY_MAX_NS)
    assert said(asked) == ["ask 4"]
    assert follower.on_answer(*image(1_000, 3), FOLLOW_RETRY_MAX_NS) == []
    assert said(follower.on_answer(*frames(frame(5)), FOLLOW_RETRY_MAX_NS)) == ["5-5", "6-6"]


def test_a_new_term_goes_on_and_frames_of_a_deposed_primary_are_dropped(follower: Follower) -> None:
    assert said(follower.on_published(*published(11, epoch=2), 2)) == ["11-11"]
    assert follower.on_published(*published(12, epoch=1), 3) == []
    assert follower.cursor == Cursor(2, 11)
    assert said(follower.on_published(*published(12, epoch=2), 4)) == ["12-12"]


def test_silence_is_not_live_and_is_asked_about(follower: Follower) -> None:
    assert follower.live(1)
    assert follower.on_tick(FOLLOW_SILENCE_NS) == []
    assert not follower.live(1 + FOLLOW_SILENCE_NS)
    assert said(follower.on_tick(1 + FOLLOW_SILENCE_NS)) == ["ask 10"]
    follower.on_published(*published(11), 2 + FOLLOW_SILENCE_NS)
    assert follower.live(2 + FOLLOW_SILENCE_NS)


def test_nothing_is_live_before_the_shard_has_said_a_word() -> None:
    follower = Follower("s0", "riskd:r0")
    follower.on_connect(0)
    assert not follower.live(0)


def test_what_the_owner_could_not_use_comes_again(follower: Follower) -> None:
    [advanced] = follower.on_published(*published(11), NS_PER_S)
    assert isinstance(advanced, Advanced)
    follower.retreat(advanced.before)
    assert not follower.live(NS_PER_S)
    assert said(follower.on_tick(NS_PER_S)) == ["ask 10"]
    assert said(follower.on_answer(*frames(frame(11)), NS_PER_S)) == ["11-11"]


def test_held_frames_have_a_ceiling(follower: Follower) -> None:
    for first in range(12, 12 + 2 * FOLLOW_HELD_FRAMES_MAX):
        follower.on_published(*published(first), 2)
    released = said(follower.on_answer(*frames(frame(11, 12 + FOLLOW_HELD_FRAMES_MAX - 1)), 3))
    assert len(released) == 1 + FOLLOW_HELD_FRAMES_MAX


@pytest.mark.parametrize(
    ("header", "payload", "rule"),
    [
        (m.Published("s1", 1, 10, 11), frame(11), "comes from shard 's1'"),
        (m.Published("s0", 1, 10, 12), frame(11), "header says epoch 1, 11 to 12"),
        (m.Published("s0", 2, 10, 11), frame(11), "header says epoch 2"),
        (m.Published("s0", 1, 10, 11), b"", "event frame"),
        (m.Published("s0", 1, 10, 11), b"\xc1", "event frame"),
        (m.Published("s0", 1, 10, 11), frame(11)[:-1], "event frame"),
    ],
)
def test_malformed_messages_are_refused_and_change_nothing(
    follower: Follower, header: m.Published, payload: bytes, rule: str
) -> None:
    with pytest.raises(WireError, match=rule):
        follower.on_published(header, payload, 2)
    assert follower.cursor == Cursor(1, 10)
    assert said(follower.on_published(*published(11), 3)) == ["11-11"]


def test_a_malformed_frame_among_good_ones_refuses_the_whole_answer(follower: Follower) -> None:
    follower.on_published(*published(13), 2)
    with pytest.raises(WireError):
        follower.on_answer(*frames(frame(11), b"\x01"), 3)
    with pytest.raises(WireError, match="header says 9"):
        follower.on_answer(m.Image("s0", 10, 9), frame(99, 99), 3)
    assert follower.cursor == Cursor(1, 10)


@given(st.data())
def test_any_loss_repetition_and_delay_still_gives_every_frame_once(data: st.DataObject) -> None:
    """The shard keeps a short ring; messages of both sockets get lost; in the end the stream is whole."""
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=40), label="commands per frame")
    ring_frames = data.draw(st.integers(1, 40), label="frames the ring holds")
    history: list[bytes] = []
    delivered: list[Advanced] = []
    follower = Follower("s0", "riskd:r0")
    waiting: list[int] = []
    last = now = 0

    def perform(outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Ask):
                waiting.append(output.follow.after_seq)
            else:
                delivered.append(output)

    def answer() -> None:
        after = waiting.pop(0)
        wanted = [f for f in history if msgspec.msgpack.decode(f)[3] > after]
        if len(wanted) > ring_frames:
            perform(follower.on_answer(*image(after, last), now))
        else:
            perform(follower.on_answer(*frames(*wanted[:3], more=len(wanted) > 3), now))

    perform(follower.on_connect(now))
    for size in sizes:
        now += data.draw(st.integers(1, 200 * NS_PER_MS), label="time passes")
        message = published(last + 1, last + size)
        last += size
        history.append(message[1])
        for _ in range(data.draw(st.integers(0, 2), label="copies that arrive")):
            perform(follower.on_published(*message, now))
        if waiting and data.draw(st.booleans(), label="the shard answers"):
            answer()
        elif waiting and data.draw(st.booleans(), label="the question is lost"):
            waiting.pop(0)
        perform(follower.on_tick(now))
    for _ in range(100):
        now += FOLLOW_RETRY_MAX_NS
        perform(follower.on_tick(now))
        while waiting:
            answer()
        if follower.cursor.seq == last:
            break
    assert follower.cursor.seq == last
    assert follower.live(now)
    position = 0
    for advanced in delivered:
        if not advanced.image:
            assert advanced.head.first_seq == position + 1
        assert advanced.head.last_seq > position
        assert advanced.before.seq == position
        position = advanced.head.last_seq
