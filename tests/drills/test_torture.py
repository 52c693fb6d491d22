"""Real clusters under load lose parts; the checker finds nothing to object to. `make torture` runs the long ones."""

import asyncio
from pathlib import Path

import pytest

from drills.outages import longest_pause_ns, outage_ns, spread
from drills.torture import Result, Torture, lines, parse


def torture(data: Path, *words: str) -> Result:
    return asyncio.run(Torture(parse([*words, "--data", str(data)]), data).run())


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_run_twice_when_parts_are_killed(tmp_path: Path) -> None:
    result = torture(tmp_path, "--kills", "4", "--seed", "4", "--faults", "kill")
    assert result.good, "\n".join(lines(result))
    assert (result.lost, result.duplicated, result.undecided) == (0, 0, 0)
    assert result.acked > 100
    assert result.checks == 1


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("mode", ["both", "replicated"])
def test_nor_when_they_stand_still_or_their_disks_lose_what_was_not_synced(tmp_path: Path, mode: str) -> None:
    words = ("--kills", "50", "--seed", "5", "--faults", "kill,stop,tail", "--mode", mode)
    result = torture(tmp_path, *words)
    assert result.good, "\n".join(lines(result))
    assert result.acked > 5_000


def test_an_outage_is_counted_from_the_fault_on() -> None:
    successes = [0, 100, 200, 900, 1_000, 1_100]
    assert outage_ns(successes, 210, 1_000) == 690
    assert longest_pause_ns(successes, 210, 1_000) == 700
    assert outage_ns(successes, 1_050, 2_000) == 50


def test_percentiles_are_of_what_was_seen() -> None:
    found = spread(number * 1_000_000 for number in range(1, 101))
    assert (found.count, found.p50, found.p99, found.longest) == (100, 50.0, 99.0, 100.0)
