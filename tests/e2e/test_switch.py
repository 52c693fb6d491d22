"""`shardex switch` and `elect` on a whole cluster: who leads changes, orders do not notice, operators are told."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shardex.launcher import Running
from tests.e2e.conftest import StartCluster


@pytest.fixture
def cluster(start_cluster: StartCluster) -> Running:
    """One shard of two nodes; a node that a busy machine keeps silent for a while is not replaced."""
    return start_cluster(shards=1, replicas=2, overrides={"replication": {"suspect_ms": 5_000}})


def shardex(cluster: Running, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardex", *words, "--data", str(cluster.config.data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def status(cluster: Running) -> dict[str, Any]:
    told = shardex(cluster, "status", "--json")
    assert told.stdout, told.stderr
    report: dict[str, Any] = json.loads(told.stdout)
    return report


def until_whole(cluster: Running, primary: str) -> dict[str, Any]:
    """The first report in which all say so at once: this node leads, the other one follows in sync.

    Cluster-wide health alone can be of before a change: who leads is known before the other has lost and found its way.
    """
    until = time.monotonic() + 30
    while True:
        report = status(cluster)
        shards = [(row["primary"], sorted(row["in_sync"]), row["flags"]) for row in report["shards"]]
        nodes = [row["name"] for row in report["daemons"] if row["role"] == "shard"]
        parts = {row["name"]: (row["stats"].get("role"), row["stats"].get("mode")) for row in report["daemons"]}
        follows = all(parts[node][0] == "standby" for node in nodes if node != primary)
        if shards == [(primary, nodes, [])] and parts[primary] == ("primary", "paired") and follows:
            return report
        assert time.monotonic() < until, report
        time.sleep(0.1)


def submit(cluster: Running, number: int) -> int:
    """One resting order through the gateway; its HTTP status. It may wait for a slow disk, but not be refused."""
    order = {"user_id": "ann", "symbol": "AAPL", "side": "buy", "quantity": 1, "price": 140, "deadline_ms": 30_000}
    body = json.dumps({**order, "client_order_id": f"o{number}"}).encode()
    request = urllib.request.Request(f"{cluster.rest_url}/api/submit", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


@contextmanager
def trading(cluster: Running) -> Iterator[list[int]]:
    """Order after order from a thread; gives the statuses of their answers."""
    over = threading.Event()
    answers: list[int] = []

    def trade() -> None:
        while not over.is_set():
            answers.append(submit(cluster, len(answers)))

    thread = threading.Thread(target=trade)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def test_a_shard_is_handed_over_while_orders_flow_and_elected_back(cluster: Running) -> None:
    [before] = status(cluster)["shards"]
    first, epoch = before["primary"], before["epoch"]
    [second] = [node for node in before["nodes"] if node != first]
    with trading(cluster) as answers:
        told = shardex(cluster, "switch", "s0")
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout == f"s0: {second} leads term {epoch + 1}\n", "the old primary is in sync again"
        until_whole(cluster, second)
        told = shardex(cluster, "elect", "s0", first, "--json")
        assert (told.returncode, told.stderr) == (0, "")
        elected = json.loads(told.stdout)
        assert (elected["primary"], elected["epoch"]) == (first, epoch + 2)
        until_whole(cluster, first)
    assert len(answers) > 10
    assert set(answers) == {200}
    table = shardex(cluster, "status").stdout
    assert "standby" in table
    assert "paired" in table
    refused = {
        ("switch", "s9"): "there is no shard 's9'; shards are s0",
        ("elect", "s9", "s0-a"): "there is no shard 's9'; shards are s0",
        ("elect", "s0", first): f"shard s0: {first} leads already",
        ("elect", "s0", "s1-a", "--accept-loss"): "shard s0: s1-a has never registered",
    }
    for words, sentence in refused.items():
        told = shardex(cluster, *words)
        assert (told.returncode, told.stdout, told.stderr) == (1, "", f"shardex: {sentence}\n")
