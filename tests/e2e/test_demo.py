"""`shardex demo` as a newcomer meets it: paste a line, see a trade, press Ctrl-C, and nothing is left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardex import ports, supervision

BOUND_S = 60


class Demo:
    """A demo whose temporary files lie in `directory`. Its ports are its own: tests run side by side."""

    def __init__(self, directory: Path, wanted: tuple[int, int] | None = None) -> None:
        self.directory = directory
        gateway = ports.choose("127.0.0.1")
        self.ports = wanted or (gateway, ports.choose("127.0.0.1", (gateway,)))
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shardex", "demo", "--port", str(self.ports[0]), "--feed-port", str(self.ports[1])],
            env={**os.environ, "TMPDIR": str(directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """Read the output up to a line that contains `text`, and return that line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return line
        raise AssertionError(f"the demo ended without saying {text!r}: {self.lines}")

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self._process.send_signal(number)
        output, _ = self._process.communicate(timeout=BOUND_S)
        self.lines += output.splitlines()
        return self._process.returncode

    def data(self) -> Path:
        """Its data directory."""
        return next(self.directory.glob("shardex-demo-*"))

    def curls(self) -> list[str]:
        """The lines that it offers for pasting."""
        return [line.strip() for line in self.lines if line.strip().startswith("curl ")]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    try:
        yield running
    finally:
        running.close()


def test_a_pasted_line_trades_and_ctrl_c_leaves_nothing(demo: Demo) -> None:
    demo.read_until("Ctrl-C stops everything")
    data = demo.data()
    buy, book, positions = demo.curls()
    eventually(lambda: paste(book)["asks"])
    answer = paste(buy)
    assert answer["success"] is True
    assert [trade["quantity"] for trade in answer["trades"]] == [10]
    # Positions follow the shards: at first there may be none yet, or one without the trade.
    eventually(lambda: paste(positions)["positions"].get("AAPL", {}).get("quantity") == 10)

    assert demo.end(signal.SIGINT) == 0
    assert demo.lines[-1] == "stopped; no process is left"
    assert supervision.cluster_processes(data) == []
    assert list(demo.directory.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_half_way_through_the_start_leaves_nothing(demo: Demo, number: signal.Signals) -> None:
    demo.read_until("starting 2 shards")
    data = demo.data()
    eventually(lambda: len(supervision.cluster_processes(data)) > 1)
    assert demo.end(number) == 0
    assert supervision.cluster_processes(data) == []
    assert list(demo.directory.iterdir()) == []


@pytest.mark.parametrize(("moment", "processes"), [("starting 2 shards", 1), ("Ctrl-C stops everything", 2)])
def test_nothing_outlives_a_demo_that_was_killed(demo: Demo, moment: str, processes: int) -> None:
    demo.read_until(moment)
    data = demo.data()
    eventually(lambda: len(supervision.cluster_processes(data)) >= processes)
    demo.end(signal.SIGKILL)
    eventually(lambda: supervision.cluster_processes(data) == [] and list(demo.directory.iterdir()) == [])


def test_a_supervisor_that_is_killed_ends_the_demo_tidily(demo: Demo) -> None:
    demo.read_until("Ctrl-C stops everything")
    data = demo.data()
    supervisor = supervision.supervisor_process(data)
    assert supervisor is not None
    supervisor.kill()
    assert "the supervisor ended unasked" in demo.read_until("supervisor ended")
    eventually(lambda: not psutil.pid_exists(supervisor.pid) or supervision.cluster_processes(data) == [])
    assert list(demo.directory.iterdir()) == []


def test_a_second_demo_takes_other_ports_and_says_so(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> None:
    demo.read_until("Ctrl-C stops everything")
    second = Demo(tmp_path_factory.mktemp("second"), demo.ports)
    try:
        second.read_until("Ctrl-C stops everything")
        for port in demo.ports:
            assert any(re.match(rf"port {port} is held by .+; using \d+", line) for line in second.lines)
        assert paste(second.curls()[1])["symbol"] == "AAPL"
        assert second.end(signal.SIGINT) == 0
        assert paste(demo.curls()[1])["symbol"] == "AAPL"
    finally:
        second.close()


def paste(line: str) -> dict[str, Any]:
    """Run a line as a shell would and read its answer."""
    assert shutil.which("curl"), "this test pastes curl lines: install curl"
    told = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=BOUND_S, check=True)
    return json.loads(told.stdout)


def eventually(condition):
    """The first true value of `condition`; fails after BOUND_S."""
    until = time.monotonic() + BOUND_S
    while not (value := condition()):
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.05)
    return value
