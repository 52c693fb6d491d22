"""`shardex logs`: the last lines, then what comes, over a rotation too."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardex import launcher


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The log directory of a cluster that never ran."""
    directory = launcher.prepare(tmp_path / "cluster", shards=1, replicas=1).data / "logs"
    directory.mkdir()
    return directory


@pytest.fixture
def follow(logs: Path) -> Iterator[subprocess.Popen[str]]:
    (logs / "s0-a.log").write_text("one\ntwo\nthree\n")
    words = [sys.executable, "-m", "shardex", "logs", "s0-a", "-f", "-n", "2", "--data", str(logs.parent)]
    # As from a terminal, also where the tests themselves run in the background and ignore Ctrl-C.
    words = ["env", "--default-signal=INT", *words]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read(process: subprocess.Popen[str], lines: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(lines)]


def test_following_goes_on_over_new_lines_and_a_rotation(logs: Path, follow: subprocess.Popen[str]) -> None:
    assert read(follow, 2) == ["s0-a | two", "s0-a | three"]
    with (logs / "s0-a.log").open("a") as log:
        log.write("four\nhalf a li")
        log.flush()
        assert read(follow, 1) == ["s0-a | four"]
        log.write("ne\n")
    assert read(follow, 1) == ["s0-a | half a line"]
    # Nothing stands still while a log is rotated: what is written to the old file last is not forgotten.
    with (logs / "s0-a.log").open("a") as log:
        follow.send_signal(signal.SIGSTOP)
        log.write("the last of the old file\n")
    os.rename(logs / "s0-a.log", logs / "s0-a.log.1")
    (logs / "s0-a.log").write_text("five\n")
    follow.send_signal(signal.SIGCONT)
    assert read(follow, 2) == ["s0-a | the last of the old file", "s0-a | five"]
    follow.send_signal(signal.SIGINT)
    _, told = follow.communicate(timeout=30)
    assert (follow.returncode, told) == (0, "")


def test_all_logs_are_shown_each_line_with_its_daemon(logs: Path) -> None:
    (logs / "supervisor.log").write_text("spawned\n")
    (logs / "s0-a.log").write_bytes(b"caf\xc3\xa9\n\xff\xfe\n")
    words = [sys.executable, "-m", "shardex", "logs", "--data", str(logs.parent)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "supervisor | spawned\ns0-a | café\ns0-a | \ufffd\ufffd\n"


def test_an_unknown_daemon_is_refused_by_name(logs: Path) -> None:
    words = [sys.executable, "-m", "shardex", "logs", "s9", "--data", str(logs.parent)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert told.stderr == "shardex: there is no daemon s9; there are supervisor, c0, r0, s0-a, m0, g0\n"
