"""Limits of one account or address: token buckets, all in integers, time as an argument.

A bucket is one number, the instant at which it would be full again (GCRA, "virtual scheduling", ITU-T I.371 annex A):
each token pushes it one interval into the future, and it may not lie further ahead than the bucket's window.
"""

from msgspec import Struct

from exchange.domain import NS_PER_S
from gateway.core.problems import Problem

OWNERS_MAX = 65_536
"""Accounts and addresses that are remembered at once; one whose buckets are full again need not be."""


class Quota(Struct, frozen=True):
    """At most `amount` tokens at once, refilled evenly over `window_ns`."""

    name: str
    amount: int
    window_ns: int = NS_PER_S

    @property
    def interval_ns(self) -> int:
        return self.window_ns // self.amount

    @property
    def policy(self) -> str:
        """As in the RateLimit-Policy header."""
        return f'"{self.name}";q={self.amount};w={self.window_ns // NS_PER_S}'


class Profile(Struct, frozen=True):
    """Quotas by lane. Cancels have a lane of their own, so that orders and queries cannot starve them."""

    orders: tuple[Quota, ...]
    cancels: tuple[Quota, ...]
    queries: tuple[Quota, ...]


def _even(per_second: int) -> Profile:
    return Profile(
        orders=(Quota("orders", per_second),),
        cancels=(Quota("cancels", per_second),),
        queries=(Quota("requests", per_second),),
    )


_REQUESTS = (Quota("requests", 100), Quota("requests-1m", 1_000, 60 * NS_PER_S))

PROFILES: dict[str, Profile] = {
    "classic": Profile(orders=(Quota("orders", 10), *_REQUESTS), cancels=(Quota("cancels", 100),), queries=_REQUESTS),
    "demo": _even(2_000),
    "load": _even(1_000_000),
}


class Throttle:
    """Buckets of all owners under one profile. `take` costs well below a microsecond a quota."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._full_ns: dict[str, dict[str, int]] = {}

    def take(self, owner: str, quotas: tuple[Quota, ...], count: int, now_ns: int) -> Problem | None:
        """Take `count` tokens from every quota, or none at all and say how long to wait."""
        buckets = self._full_ns.get(owner)
        if buckets is None:
            if len(self._full_ns) >= OWNERS_MAX and not self._forget_idle(now_ns):
                return Problem("RATE_LIMIT", f"{OWNERS_MAX} accounts and addresses are active", NS_PER_S)
            buckets = self._full_ns[owner] = {}
        taken = []
        for quota in quotas:
            full_ns = max(buckets.get(quota.name, 0), now_ns) + count * quota.interval_ns
            if full_ns - now_ns > quota.window_ns:
                reason = "ORDER_LIMIT" if quota.name == "orders" else "RATE_LIMIT"
                seconds = quota.window_ns // NS_PER_S
                detail = f"{count} at once is above the limit of {quota.amount} {quota.name} in {seconds} s"
                return Problem(reason, detail, full_ns - now_ns - quota.window_ns)
            taken.append((quota.name, full_ns))
        buckets.update(taken)
        return None

    def remaining(self, owner: str, quota: Quota, now_ns: int) -> tuple[int, int]:
        """Tokens left, and whole seconds until the bucket is full again."""
        ahead_ns = max(0, self._full_ns.get(owner, {}).get(quota.name, 0) - now_ns)
        return (quota.window_ns - ahead_ns) // quota.interval_ns, -(-ahead_ns // NS_PER_S)

    def _forget_idle(self, now_ns: int) -> bool:
        for owner in [owner for owner, buckets in self._full_ns.items() if max(buckets.values(), default=0) <= now_ns]:
            del self._full_ns[owner]
        return len(self._full_ns) < OWNERS_MAX
