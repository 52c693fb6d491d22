"""How long nobody was served, told from the times of answers."""

import pytest

from drills.outages import longest_pause_ns, percentile_ms
from drills.timeline import Timeline
from exchange.domain import NS_PER_MS


@pytest.mark.parametrize(
    ("from_", "until", "pause"),
    [
        pytest.param(12, 48, 30, id="the one in the middle"),
        pytest.param(0, 9, 10, id="nothing came before: from the first on"),
        pytest.param(25, 26, 30, id="one that overlaps counts whole"),
        pytest.param(45, 60, 5, id="the last answers"),
    ],
)
def test_the_longest_gap_between_answers(from_: int, until: int, pause: int) -> None:
    assert longest_pause_ns([0, 10, 15, 45, 50], from_, until) == pause


def test_without_any_answer_the_whole_stretch_is_a_pause() -> None:
    assert longest_pause_ns([], 5, 25) == 20


def test_percentiles_are_values_that_occurred() -> None:
    values = [number * NS_PER_MS for number in range(1, 51)]
    assert (percentile_ms(values, 50), percentile_ms(values, 99)) == (25.0, 50.0)
    assert percentile_ms([], 99) == 0.0


def test_a_timeline_keeps_decided_orders_and_counts_the_others() -> None:
    timeline = Timeline()
    for outcome, latency_ns in (("new", 5), ("unknown", 2_000), ("rejected", 7), ("unavailable", 9), ("filled", 8)):
        timeline.add({outcome: 1}, latency_ns)
    first, _, last = timeline.decided_ns
    assert first <= last
    assert timeline.latencies_ns(first, last + 1) == [5, 7, 8]
    assert timeline.latencies_ns(last + 1, last + 2) == []
    assert timeline.undecided == {"unknown": 1, "unavailable": 1}
    assert timeline.answered == 5
