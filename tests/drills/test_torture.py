"""Real clusters under load lose parts; the checker finds nothing to object to. `make torture` runs the long ones."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from drills.faults import Fault
from drills.network import missing
from drills.outages import longest_pause_ns, outage, spread
from drills.torture import Result, Torture, lines, parse, pauses_of
from exchange.domain import NS_PER_MS, NS_PER_S

LACKS: dict[str, list[str]] = {
    "stop": [],
    "tail": [],
    "disk": ([] if shutil.which("strace") else ["strace"]) + ([] if os.geteuid() == 0 else ["root"]),
    "partition": missing(),
}


def torture(data: Path, *words: str) -> Result:
    return asyncio.run(Torture(parse([*words, "--data", str(data)]), data).run())


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_run_twice_when_parts_are_killed(tmp_path: Path) -> None:
    """Fifty times kill -9, 0.5 to 3 s apart; about two minutes."""
    result = torture(tmp_path, "--kills", "50", "--seed", "4", "--faults", "kill")
    assert result.good, "\n".join(lines(result))
    assert (result.lost, result.duplicated, result.undecided) == (0, 0, 0)
    assert sum(result.faults.values()) == 50
    assert result.acked > 10_000
    assert result.checks == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("faults", ["stop", "tail", "disk", "partition"])
def test_nor_when_they_stand_still_or_disks_and_networks_fail(tmp_path: Path, faults: str) -> None:
    if LACKS[faults]:
        pytest.skip(f"NOT TESTED: {', '.join(LACKS[faults])} missing on this machine")
    result = torture(tmp_path, "--kills", "6", "--seed", "6", "--faults", faults)
    assert result.good, "\n".join(lines(result))
    assert sum(result.faults.values()) == 6
    assert result.acked > 1_000
    assert (result.disk_failures > 0) == (faults == "disk")


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("mode", ["both", "replicated"])
def test_nor_in_the_long_run(tmp_path: Path, mode: str) -> None:
    words = ("--kills", "50", "--seed", "5", "--faults", "kill,stop,tail", "--mode", mode)
    result = torture(tmp_path, *words)
    assert result.good, "\n".join(lines(result))
    assert result.acked > 5_000


def test_an_outage_is_counted_from_the_fault_on() -> None:
    successes = [0, 100, 200, 900, 1_000, 1_100]
    assert outage(successes, 210, 1_000) == (210, 900)
    assert longest_pause_ns(successes, 210, 1_000) == 700
    assert outage(successes, 1_050, 2_000) == (1_050, 1_100)


def test_a_pause_belongs_to_the_fault_before_it_and_none_is_blamed_on_shards_while_the_gateway_is_away() -> None:
    def struck(number: int, at_s: float, part: str = "primary", shard: str = "s0") -> Fault:
        return Fault("kill", f"victim-{number}", part, shard, int(at_s * NS_PER_S))

    faults = [struck(1, 1.0), struck(2, 3.0, "gateway", ""), struck(3, 4.0), struck(4, 6.0), struck(5, 8.0)]
    away_s = [(1.0, 1.3), (2.99, 4.5), (6.0, 6.5), (7.95, 8.6)]
    at_ns = [place * NS_PER_MS * 10 for place in range(1_000)]
    answered = [at for at in at_ns if not any(begin * NS_PER_S < at < end * NS_PER_S for begin, end in away_s)]
    found = [(pause.number, pause.pause_ns // NS_PER_MS) for pause in pauses_of(faults, {"s0": answered}, [])]
    assert found == [(1, 300), (2, 1_500), (4, 500), (5, 600)]


def test_percentiles_are_of_what_was_seen() -> None:
    found = spread(number * 1_000_000 for number in range(1, 101))
    assert (found.count, found.p50, found.p99, found.longest) == (100, 50.0, 99.0, 100.0)
