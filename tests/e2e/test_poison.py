"""A command that the engine cannot run reaches a real cluster: no restart loop, no wrong state, one shard stands, the
others trade on, and an operator's word makes it go on without that command.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from exchange.failpoints import VARIABLE
from shardex import journal
from shardex.launcher import Running
from tests.e2e.conftest import StartCluster

PATIENCE_S = 40.0
POISON = "poison-17"


def shardex(cluster: Running, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardex", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def operate(cluster: Running, *words: str) -> subprocess.CompletedProcess[str]:
    return shardex(cluster, *words, "--data", str(cluster.config.data))


def starts(cluster: Running) -> dict[str, int]:
    """How often each node of s0 was started again."""
    return {process.name: process.restarts for process in cluster.supervisor.processes() if process.name[:2] == "s0"}


def until_frozen(cluster: Running) -> dict[str, Any]:
    """Wait until every node of s0 that is in sync says what it died of, and all its nodes are up; how the shard stands
    then.

    A standby that had not received the command may be back without it, and waits like the others.
    """
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        report = json.loads(operate(cluster, "status", "--json").stdout)
        died_of = {
            row["name"]: row["stats"].get("poisoned_seq", 0) for row in report["daemons"] if row["health"] != "down"
        }
        for found in report["shards"]:  # none while the coordinator is late
            up = all(node in died_of for node in found["nodes"])
            died = all(died_of.get(node) == found["frozen_seq"] for node in found["in_sync"])
            if found["shard"] == "s0" and "FROZEN" in found["flags"] and up and died:
                return dict(found)
        assert time.monotonic() < give_up_s, report
        time.sleep(0.1)


def ask(request: urllib.request.Request) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status), json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def submit(cluster: Running, symbol: str, id_: str) -> tuple[int, dict[str, Any]]:
    """One resting order through the gateway: HTTP status and body."""
    price = {"AAPL": 140, "MSFT": 400}[symbol]
    order = {"user_id": "ann", "symbol": symbol, "side": "buy", "quantity": 1, "price": price, "client_order_id": id_}
    headers = {"Content-Type": "application/json"}
    return ask(urllib.request.Request(f"{cluster.rest_url}/api/submit", json.dumps(order).encode(), headers))


def trade_beside(cluster: Running, number: int) -> dict[str, int]:
    """The other shard takes everything, the frozen one nothing; how often nodes were started again until then."""
    assert [submit(cluster, "MSFT", f"other-{number}-{one}")[0] for one in range(10)] == [200] * 10
    code, refused = submit(cluster, "AAPL", "late")
    assert (code, refused["reason"]) == (503, "SHARD_DOWN")
    return starts(cluster)


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.timeout(240)
def test_a_poison_command_stops_one_shard_until_an_operator_has_it_left_out(
    start_cluster: StartCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str
) -> None:
    monkeypatch.setenv(VARIABLE, f"apply:poison_{POISON}")
    cluster = start_cluster(tmp_path / "cluster", shards=2, replicas=2, overrides={"cluster": {"engine": engine}})
    kept = {f"kept-{number}": submit(cluster, "AAPL", f"kept-{number}") for number in range(5)}
    assert {code for code, _ in kept.values()} == {200}

    code, _ = submit(cluster, "AAPL", POISON)
    assert code == 504, "it has a place in the log: nobody may say that it was not executed"
    frozen = until_frozen(cluster)
    assert (frozen["primary"], frozen["serving"]) == ("", False)
    seq = frozen["frozen_seq"]
    rounds = [trade_beside(cluster, number) for number in range(4)]
    assert rounds[-1] == rounds[-2], f"whoever is held stays up and waits, it does not start again and again: {rounds}"
    assert until_frozen(cluster)["frozen_seq"] == seq
    table = operate(cluster, "status").stdout
    assert f"FROZEN at seq {seq}" in table

    wrong = operate(cluster, "skip", "s0", str(seq - 1), "--why", "a wrong one")
    assert (wrong.returncode, wrong.stderr) == (1, f"shardex: shard s0: it is frozen at seq {seq}, not at {seq - 1}\n")
    told = operate(cluster, "skip", "s0", str(seq), "--why", "kills the engine", "--actor", "ann")
    assert (told.returncode, told.stderr) == (0, "")
    assert f"left out: seq {seq}" in told.stdout
    cluster.wait_ready(timeout_s=60)
    again = operate(cluster, "skip", "s0", str(seq), "--why", "once more")
    assert again.stderr == f"shardex: shard s0: seq {seq} is left out already\n"

    for id_, (_, first) in kept.items():
        code, answer = submit(cluster, "AAPL", id_)
        assert (code, answer["order_id"]) == (200, first["order_id"])
    for _ in range(2):
        code, void = submit(cluster, "AAPL", POISON)
        assert (code, void["reason"], void["seq"]) == (409, "VOIDED", seq)
    assert submit(cluster, "AAPL", "late")[0] == 200
    cluster.stop()

    for node in ("s0-a", "s0-b"):
        replays = [
            journal.replay(cluster.config.node_directory(node), reference=reference, progress=lambda _done, _all: None)
            for reference in (False, True)
        ]
        assert [(replay.state, replay.exit_code) for replay in replays] == [(journal.State.OK, 0)] * 2
        assert replays[0].digest == replays[1].digest
    checked = shardex(cluster, "check", str(cluster.config.data))
    assert checked.returncode == 0, checked.stdout
    assert f"operators had seq {seq} left out" in checked.stdout
