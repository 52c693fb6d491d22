"""The load generator against a real cluster: everything is answered, counted once, and nothing is left behind."""

import json
import subprocess
import sys
from typing import Any

import pytest

from loadgen.session import Load, LoadError, Options
from shardex.client import Login, Rest
from shardex.launcher import Running


async def books_are_empty(cluster: Running) -> bool:
    async with Rest(cluster.rest_url, Login("looker")) as rest:
        now = {swept.shard: swept for swept in await rest.cancel_all()}
        return all([await rest.is_book_empty(one.symbol, now[one.shard]) for one in await rest.instruments()])


@pytest.mark.parametrize(
    ("protocol", "batch", "connections"), [("ws", 16, 2), ("ws", 1, 1), ("rest", 1, 4), ("rest", 8, 2)]
)
async def test_every_order_of_a_run_is_answered_as_expected(
    cluster: Running, protocol: Any, batch: int, connections: int
) -> None:
    options = Options(
        url=cluster.rest_url, protocol=protocol, batch=batch, connections=connections, accounts=connections
    )
    async with Load(options) as load:
        report = await load.drive(rate=300 * batch, duration_s=0.7)

    assert report.sent == report.answered == sum(report.outcomes.values()) > 0
    assert set(report.outcomes) <= {"new", "filled", "cancelled", "expired"}
    assert report.outcomes["filled"] > 0
    assert set(report.by_shard) == {"s0", "s1"}
    assert await books_are_empty(cluster)


async def test_a_symbol_that_is_not_there_is_refused(cluster: Running) -> None:
    with pytest.raises(LoadError, match="symbol 'NOPE' is not one of AAPL, "):
        async with Load(Options(url=cluster.rest_url, symbols=("AAPL", "NOPE"))):
            pass


def test_the_command_prints_one_json_report_and_its_exit_code_tells_whether_the_rate_held(cluster: Running) -> None:
    words = ["load", "--max", "--duration", "1", "--batch", "32", "--symbol", "AAPL", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "shardex", *words, "--data", str(cluster.config.data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["by_shard"].keys() == {"s0"}
    assert done.returncode == (0 if report["sustained"] else 1)
    assert report["intended_per_s"] > report["batch"] == 32
