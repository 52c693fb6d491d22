"""The checker on a world of the story."""

from pathlib import Path

from drills.checker.check import Inputs, Progress, check
from drills.checker.report import Report
from drills.checker.walk import Create
from shard.core.engine import create_engine
from tests.drills.story import World, write


def judge(
    world: World,
    data: Path,
    *,
    create: Create = create_engine,
    gap_max_ms: int | None = None,
    progress: Progress = lambda *_: None,
) -> Report:
    """Write it and check everything of it."""
    write(world, data)
    inputs = Inputs(
        data=data, histories=[data / "history.ndjson"], captures=[data / "captures.ndjson"], gap_max_ms=gap_max_ms
    )
    return check(inputs, progress=progress, create=create)
