"""Token buckets with injected time."""

import pytest

from exchange.domain import NS_PER_S
from gateway.core.throttle import OWNERS_MAX, PROFILES, Quota, Throttle

FIVE = (Quota("orders", 5),)
START_NS = 1_000 * NS_PER_S


def throttle() -> Throttle:
    return Throttle(PROFILES["classic"])


def test_a_full_bucket_gives_its_amount_at_once_and_then_one_token_an_interval() -> None:
    limits = throttle()
    taken = [limits.take("a", FIVE, 1, START_NS) for _ in range(6)]
    assert taken[:5] == [None] * 5
    refusal = taken[5]
    assert refusal is not None
    assert (refusal.reason, refusal.wait_ns, refusal.retry_after_s) == ("ORDER_LIMIT", NS_PER_S // 5, 1)
    assert limits.take("a", FIVE, 1, START_NS + refusal.wait_ns - 1) is not None
    assert limits.take("a", FIVE, 1, START_NS + refusal.wait_ns) is None
    assert limits.take("a", FIVE, 1, START_NS + refusal.wait_ns) is not None


def test_over_a_long_time_the_rate_is_the_quotas() -> None:
    limits = throttle()
    step_ns = NS_PER_S // 100
    granted = sum(limits.take("a", FIVE, 1, START_NS + n * step_ns) is None for n in range(1_000))
    assert granted == 5 + 10 * 5 - 1


def test_many_tokens_are_taken_together_or_not_at_all() -> None:
    limits = throttle()
    assert limits.take("a", FIVE, 4, START_NS) is None
    refusal = limits.take("a", FIVE, 2, START_NS)
    assert refusal is not None
    assert "2 at once is above the limit of 5 orders in 1 s" in refusal.detail
    assert limits.take("a", FIVE, 1, START_NS) is None, "the refused two took nothing"


def test_all_quotas_of_a_lane_must_have_room() -> None:
    limits = throttle()
    now_ns = START_NS
    granted = 0
    while (refusal := limits.take("a", limits.profile.queries, 1, now_ns)) is None and granted < 5_000:
        granted += 1
        now_ns += NS_PER_S // 50
    assert refusal is not None, "50 a second is below 100 a second and for long above 1000 a minute"
    assert "1000 requests-1m in 60 s" in refusal.detail
    assert 1_000 < granted < 2_000
    assert limits.take("b", limits.profile.queries, 1, now_ns) is None


def test_cancels_have_a_lane_of_their_own() -> None:
    limits = throttle()
    while limits.take("a", limits.profile.orders, 1, START_NS) is None:
        pass
    while limits.take("a", limits.profile.queries, 1, START_NS) is None:
        pass
    assert limits.take("a", limits.profile.cancels, 50, START_NS) is None


def test_what_is_left_and_when_it_is_full_again() -> None:
    limits = throttle()
    quota = Quota("orders", 10)
    assert limits.remaining("a", quota, START_NS) == (10, 0)
    limits.take("a", (quota,), 3, START_NS)
    assert limits.remaining("a", quota, START_NS) == (7, 1)
    assert limits.remaining("a", quota, START_NS + NS_PER_S) == (10, 0)


def test_the_memory_of_owners_is_bounded_and_the_idle_are_forgotten() -> None:
    limits = throttle()
    for number in range(OWNERS_MAX):
        assert limits.take(f"u{number}", FIVE, 1, START_NS) is None
    assert limits.take("one-more", FIVE, 1, START_NS) is not None
    assert limits.take("u0", FIVE, 1, START_NS) is None
    assert limits.take("one-more", FIVE, 1, START_NS + NS_PER_S) is None


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_profiles_have_room_for_a_single_request(profile: str) -> None:
    limits = Throttle(PROFILES[profile])
    for lane in (limits.profile.orders, limits.profile.cancels, limits.profile.queries):
        assert limits.take("a", lane, 1, START_NS) is None
