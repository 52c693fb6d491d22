"""The control store is gone for good, and a command begins it anew from what the nodes have."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shard.node_state import STATE_FILE, NodeState, load_state, save_state
from shardex import launcher, rebuild_store
from shardex.launcher import Running
from shardex.rebuild_store import RebuildError
from tests.e2e.conftest import StartCluster


def shardex(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardex", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def submit(cluster: Running, number: int) -> dict[str, Any]:
    """One resting order; what it was told."""
    order = {
        "user_id": "ann",
        "symbol": "AAPL",
        "side": "buy",
        "quantity": 1,
        "price": 140,
        "client_order_id": f"o{number}",
        "deadline_ms": 30_000,  # it may wait for a slow disk
    }
    body, headers = json.dumps(order).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{cluster.rest_url}/api/submit", body, headers), timeout=60
    ) as answer:
        return dict(json.loads(answer.read()))


def flags(cluster: Running) -> list[str]:
    report = json.loads(shardex("status", "--json", "--data", str(cluster.config.data)).stdout)
    return list(report["shards"][0]["flags"])


@pytest.mark.timeout(240)
def test_a_lost_store_is_begun_anew_from_what_the_nodes_have(start_cluster: StartCluster, tmp_path: Path) -> None:
    data = tmp_path / "cluster"
    cluster = start_cluster(data, shards=1, replicas=2)
    first = {number: submit(cluster, number) for number in range(5)}
    assert shardex("switch", "s0", "--data", str(data)).returncode == 0
    first |= {number: submit(cluster, number) for number in range(5, 10)}
    running = shardex("rebuild-store", "--data", str(data))
    assert running.returncode == 1
    assert "runs: stop all of it first" in running.stderr
    cluster.stop()
    kept = shardex("rebuild-store", "--data", str(data))
    assert kept.stderr == f"shardex: {data}/control has a control store: move it away first\n"

    (data / "control").rename(tmp_path / "lost")
    (data / "shards" / "s0-b").rename(tmp_path / "s0-b")
    missing = shardex("rebuild-store", "--data", str(data))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "s0-b: there is no node that ever took part. Acknowledged orders may be only there" in missing.stderr
    assert not (data / "control").exists()
    (tmp_path / "s0-b").rename(data / "shards" / "s0-b")
    promised = [state.promised_epoch for node in "ab" if (state := load_state(data / "shards" / f"s0-{node}"))]
    told = shardex("rebuild-store", "--data", str(data))
    assert (told.returncode, told.stderr) == (0, "")
    assert f"of term {max(promised)}" in told.stdout

    again = start_cluster(data, shards=1, replicas=2)
    until = time.monotonic() + 30
    while (seen := flags(again)) != ["UNCLEAN"]:  # the other node may just be on its way into the in-sync set
        assert time.monotonic() < until, seen
        time.sleep(0.1)
    for number, answer in first.items():
        repeated = submit(again, number)
        assert (repeated["order_id"], repeated["duplicate"]) == (answer["order_id"], True)
    submit(again, 11)
    again.stop()
    checked = shardex("check", str(data))
    assert checked.returncode == 0, checked.stdout


def test_a_cluster_that_never_ran_needs_no_store(tmp_path: Path) -> None:
    launcher.prepare(tmp_path / "data", shards=1, replicas=1)
    assert rebuild_store.rebuild(tmp_path / "data", accept_loss=False) == []


def test_a_shard_without_any_readable_journal_is_not_begun_by_force(tmp_path: Path) -> None:
    config = launcher.prepare(tmp_path / "data", shards=1, replicas=1)
    directory = config.node_directory("s0-a")
    directory.mkdir(parents=True, mode=0o700)
    save_state(directory, NodeState("s0", "uuid", promised_epoch=3, incarnation=7))
    with pytest.raises(RebuildError, match="Acknowledged orders may be only there"):
        rebuild_store.rebuild(tmp_path / "data", accept_loss=False)
    with pytest.raises(RebuildError, match="no node has a journal that can be read"):
        rebuild_store.rebuild(tmp_path / "data", accept_loss=True)
    (directory / STATE_FILE).write_bytes(b"damaged")
    with pytest.raises(RebuildError, match="crc of neither copy is that of its content"):
        rebuild_store.rebuild(tmp_path / "data", accept_loss=False)
