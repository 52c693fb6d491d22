"""Both engines for every story. A native engine that could be built but is not is a failure, not a skip."""

import shutil
from collections.abc import Callable

import pytest

from exchange import messages as m
from shard.core.engine import native_available
from tests.engine.stage import CONFIG, Stage, define

NewStage = Callable[..., Stage]


def require_native() -> None:
    if native_available():
        return
    if shutil.which("cargo") is None:
        pytest.skip("NATIVE ENGINE NOT TESTED: shard._matching is not built and there is no cargo to build it")
    pytest.fail("shard._matching is not built although cargo is here: run `make setup`")


@pytest.fixture(params=["reference", "native"])
def new_stage(request: pytest.FixtureRequest) -> NewStage:
    """Makes stages of one kind of engine."""
    reference = request.param == "reference"
    if not reference:
        require_native()

    def make(config: m.EngineConfig = CONFIG) -> Stage:
        return Stage(reference=reference, config=config)

    return make


@pytest.fixture
def stage(new_stage: NewStage) -> Stage:
    """A stage with one plain instrument."""
    stage = new_stage()
    stage.setup(define())
    return stage


@pytest.fixture
def native() -> None:
    """The test compares with the native engine."""
    require_native()
