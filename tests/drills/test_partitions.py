"""Every partition drill once, on real processes in network namespaces: nothing is lost, nothing runs twice, all heals.

How long clients waited is measured by `python -m drills.partition`; here a primary may be silent for longer before it
is replaced, so that a busy machine is not taken for a broken line.
"""

from pathlib import Path

import pytest

from drills.network import missing
from drills.partition import DRILLS, play

SUSPECT_MS = 1_500
EXECUTED_MIN = 200

pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"PARTITIONS ARE NOT TESTED: {', '.join(missing())} missing on this machine"
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DRILLS)
def test_a_partition_costs_no_order(name: str, tmp_path: Path) -> None:
    outcome = play(name, tmp_path, suspect_ms=SUSPECT_MS)
    assert outcome.broken == []
    assert outcome.checked[-1] == "clean"
    assert outcome.calls["executed"] >= EXECUTED_MIN, "there was hardly any load"
