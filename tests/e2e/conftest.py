"""Real clusters in temporary directories on free ports, started by the launcher and always ended."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shardex import launcher, ports
from shardex.launcher import Overrides, Running

StartCluster = Callable[..., Running]


def start(data: Path, *, shards: int = 2, replicas: int = 1, overrides: Overrides | None = None) -> Running:
    """A ready cluster without market maker, keys or rate limits; the caller stops it.

    A directory that was used before is started again as it is. Start-up that fails leaves no process.
    """
    if (data / "cluster.toml").exists():
        config = launcher.prepare(data)
    else:
        gateway = ports.choose("127.0.0.1")
        feed = ports.choose("127.0.0.1", (gateway,))
        chosen = {"gateway": {"port": gateway, "profile": "load", "open_demo": True}, "marketdata": {"port": feed}}
        for section, values in (overrides or {}).items():
            chosen[section] = {**chosen.get(section, {}), **values}
        config = launcher.prepare(data, shards=shards, replicas=replicas, overrides=chosen)
    running = launcher.start(config)
    try:
        running.wait_ready()
    except BaseException:
        running.stop()
        raise
    return running


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[StartCluster]:
    """Starts clusters as `start` does, in `tmp_path / "cluster"` unless `data` is given; all are stopped at the end."""
    with ExitStack() as ends:

        def begin(
            data: Path | None = None, *, shards: int = 2, replicas: int = 1, overrides: Overrides | None = None
        ) -> Running:
            running = start(data or tmp_path / "cluster", shards=shards, replicas=replicas, overrides=overrides)
            ends.callback(running.stop)
            return running

        yield begin


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One ready cluster of two shards for all tests of a module; they must not mind each other's orders."""
    running = start(tmp_path_factory.mktemp("cluster") / "data")
    try:
        yield running
    finally:
        running.stop()
