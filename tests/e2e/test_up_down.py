"""`up`, `status`, `logs`, `admin`, `down`: a cluster that outlives the command that started it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardex import launcher, ports, supervision
from tests.e2e.conftest import StartCluster


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A prepared data directory on free ports; whatever runs there is ended."""
    directory = tmp_path / "cluster"
    gateway = ports.choose("127.0.0.1")
    feed = ports.choose("127.0.0.1", (gateway,))
    overrides = {"gateway": {"port": gateway, "open_demo": True}, "marketdata": {"port": feed}}
    config = launcher.prepare(directory, shards=2, replicas=1, overrides=overrides)
    try:
        yield directory
    finally:
        launcher.stop(config)


def shardex(data: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardex", *words, "--data", str(data)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)


def test_a_detached_cluster_lives_until_it_is_taken_down(data: Path) -> None:
    started = shardex(data, "up", "--detach")
    assert (started.returncode, started.stderr) == (0, "")
    assert launcher.attach(data).rest_url in started.stdout

    told = shardex(data, "status", "--json")
    report = json.loads(told.stdout)
    assert (told.returncode, report["health"]) == (0, "healthy")
    assert [row["name"] for row in report["daemons"]] == ["c0", "r0", "s0-a", "s1-a", "m0", "g0"]
    assert {row["health"] for row in report["daemons"]} == {"healthy"}
    assert all(row["memory_mb"] > 1 and row["restarts"] == 0 for row in report["daemons"])
    table = shardex(data, "status")
    assert table.returncode == 0
    assert "healthy" in table.stdout

    again = shardex(data, "up", "--detach")
    assert again.returncode == 1
    assert again.stderr == f"shardex: a cluster runs in {data} already; `shardex down` stops it\n"

    assert shardex(data, "down").returncode == 0
    assert supervision.cluster_processes(data) == []
    assert shardex(data, "status").returncode == 3
    assert shardex(data, "down").returncode == 3


def test_up_lays_out_a_new_cluster_and_says_which_engine_runs_and_who_may_trade(tmp_path: Path) -> None:
    data = tmp_path / "new"
    gateway = ports.choose("127.0.0.1")
    feed = ports.choose("127.0.0.1", (gateway,))
    doors = {"SHARDEX_GATEWAY_PORT": str(gateway), "SHARDEX_MARKETDATA_PORT": str(feed)}
    try:
        words = ("up", "--detach", "--shards", "1", "--profile", "load")
        told = shardex(data, *words, SHARDEX_CLUSTER_ENGINE="reference", **doors)
        assert told.returncode == 0
        assert "ENGINE: plain-Python reference" in told.stdout
        assert f"http://127.0.0.1:{gateway}" in told.stdout
        assert "nobody can trade yet; create a key: shardex keys add" in told.stdout
        report = json.loads(shardex(data, "status", "--json").stdout)
        assert report["engine"] == "reference"
        assert [row["name"] for row in report["daemons"] if row["role"] == "shard"] == ["s0-a", "s0-b"]
        assert launcher.read_config(data).gateway.profile == "load"
    finally:
        launcher.stop(launcher.read_config(data))


def test_an_operator_halts_a_symbol_and_limits_an_account(data: Path) -> None:
    assert shardex(data, "up", "--detach").returncode == 0
    assert shardex(data, "admin", "state", "AAPL", "HALT").stdout == "s0: done\n"
    everywhere = shardex(data, "admin", "state", "ALL", "OPEN", "--json")
    assert json.loads(everywhere.stdout) == {"s0": "done", "s1": "done"}
    assert shardex(data, "admin", "limit", "alice", "MSFT", "100").stdout == "s1: done\n"
    for words, sentence in (
        (("state", "AAPL", "PAUSED"), "state 'PAUSED' is not one of OPEN, CANCEL_ONLY, HALT, CLOSED"),
        (("limit", "alice", "GOLD", "1"), "symbol 'GOLD' is not one of AAPLUSD"),
        (("limit", "alice", "MSFT", "1.5"), "limit: 1.5 has more than 0 decimals"),
        (("limit", "alice", "MSFT", "lots"), "limit: 'lots' is not a plain decimal number"),
    ):
        refused = shardex(data, "admin", *words)
        assert refused.returncode == 1
        assert sentence in refused.stderr


def test_a_killed_daemon_comes_back_and_is_counted(data: Path) -> None:
    assert shardex(data, "up", "--detach").returncode == 0
    running = launcher.attach(data)
    killed = running.kill("s1-a")
    until = time.monotonic() + 30
    while (process := row("s1-a", running)).pid in (0, killed):
        assert time.monotonic() < until, process
        assert not process.gave_up  # also in the moment between its end and its new start
    assert process.restarts == 1
    running.wait_ready()
    assert '"name":"s1-a"' in shardex(data, "status", "--json").stdout
    assert shardex(data, "logs", "s1-a", "-n", "1").stdout.startswith("s1-a | ")


def test_a_cluster_that_is_ready_after_a_kill_has_another_process(start_cluster: StartCluster) -> None:
    running = start_cluster(shards=1)
    for name in ("m0", "r0", "s0-a"):
        killed = running.kill(name)
        running.wait_ready()
        assert running.pid(name) != killed


def row(name: str, running: launcher.Running) -> supervision.ProcessInfo:
    return next(process for process in running.supervisor.processes() if process.name == name)


def test_the_exit_code_of_status_tells_how_bad_it_is(data: Path) -> None:
    assert shardex(data, "up", "--detach").returncode == 0
    running = launcher.attach(data)
    running.kill("s0-a", signal.SIGSTOP)
    assert eventually_exits(data, 1)["health"] == "degraded"
    running.kill("s1-a", signal.SIGSTOP)
    assert eventually_exits(data, 2)["health"] == "unhealthy"
    running.kill("s0-a", signal.SIGCONT)
    running.kill("s1-a", signal.SIGCONT)
    assert eventually_exits(data, 0)["health"] == "healthy"
    running.kill("c0", signal.SIGSTOP)
    assert eventually_exits(data, 1)["health"] == "degraded"
    running.kill("c0", signal.SIGCONT)
    assert eventually_exits(data, 0)["health"] == "healthy"


def eventually_exits(data: Path, code: int) -> dict[str, object]:
    """The first report of `status --json` that comes with this exit code, within half a minute."""
    until = time.monotonic() + 30
    while (told := shardex(data, "status", "--json")).returncode != code:
        assert time.monotonic() < until, told
    report: dict[str, object] = json.loads(told.stdout)
    return report


def kill_supervisor(data: Path) -> None:
    """Kill it and wait for its end: until then it has its lock and counts as running."""
    supervisor = supervision.supervisor_process(data)
    assert supervisor is not None
    supervisor.kill()
    until = time.monotonic() + 30
    while supervision.supervisor_process(data) is not None:
        assert time.monotonic() < until, "it does not end"
        time.sleep(0.01)


def test_down_ends_the_orphans_of_a_killed_supervisor(data: Path) -> None:
    assert shardex(data, "up", "--detach").returncode == 0
    kill_supervisor(data)
    assert shardex(data, "status").returncode == 3
    assert supervision.cluster_processes(data) != []
    assert shardex(data, "down").returncode == 0
    assert supervision.cluster_processes(data) == []


def test_up_replaces_the_orphans_of_a_killed_supervisor(data: Path) -> None:
    assert shardex(data, "up", "--detach").returncode == 0
    orphan = launcher.attach(data).pid("s0-a")
    kill_supervisor(data)
    assert shardex(data, "up", "--detach").returncode == 0
    assert launcher.attach(data).pid("s0-a") != orphan
    assert shardex(data, "status").returncode == 0


def test_a_stopped_daemon_does_not_keep_down_from_ending(data: Path) -> None:
    assert shardex(data, "up", "--detach").returncode == 0
    launcher.attach(data).kill("r0", signal.SIGSTOP)
    assert shardex(data, "down").returncode == 0
    assert supervision.cluster_processes(data) == []
