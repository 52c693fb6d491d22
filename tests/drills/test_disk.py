"""The disk probe sees real syncs of a real file, each in its own time."""

import time
from pathlib import Path

from drills.disk import DiskProbe
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S

BOUND_NS = 30 * NS_PER_S


def test_the_longest_sync_of_a_time_is_known_and_none_outside_it(tmp_path: Path) -> None:
    since_ns = monotonic_ns()
    with DiskProbe(tmp_path) as disk:
        while not disk.longest_ns(since_ns, monotonic_ns()):
            assert monotonic_ns() - since_ns < BOUND_NS, "no sync has ended"
            time.sleep(0.01)
        assert disk.longest_ns(since_ns - NS_PER_S, since_ns - 1) == 0
    assert 0 < disk.longest_ns(since_ns, monotonic_ns()) < BOUND_NS
    assert (tmp_path / "probe").stat().st_size == 4096
