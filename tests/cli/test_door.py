"""The door of the command line: quick to open, plain about mistakes, honest in its exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = (
    "demo",
    "up",
    "down",
    "status",
    "logs",
    "switch",
    "elect",
    "engine",
    "replay",
    "load",
    "journal",
    "keys",
    "admin",
)


def shardex(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardex", *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_names_every_command_and_the_exit_codes() -> None:
    told = shardex("--help")
    assert told.returncode == 0
    assert [command for command in COMMANDS if f"  {command} " not in told.stdout] == []
    assert "3 no cluster runs" in told.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    told = shardex(command, "--help")
    assert told.returncode == 0
    assert told.stdout.startswith(f"Usage: shardex {command}")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from shardex.__main__ import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ['aiohttp', 'asyncio', 'msgspec', 'psutil', 'rich', 'structlog', 'supervisor', 'zmq']\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stderr.strip() == "[]"


def test_wrong_usage_is_2() -> None:
    told = shardex("up", "--shards", "many")
    assert told.returncode == 2
    assert "Invalid value for '--shards'" in told.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("down",),
        ("logs",),
        ("keys", "list"),
        ("keys", "add", "a"),
        ("switch", "s0"),
        ("elect", "s0", "s0-b"),
    ],
)
def test_a_directory_without_a_cluster_is_3_and_one_sentence(words: tuple[str, ...], tmp_path: Path) -> None:
    told = shardex(*words, "--data", str(tmp_path))
    assert told.returncode == 3
    assert told.stdout == ""
    assert told.stderr == f"shardex: {tmp_path} is no data directory: there is no cluster.toml in it\n"


def test_a_refusal_is_1_and_one_sentence(tmp_path: Path) -> None:
    told = shardex("up", "--data", str(tmp_path / "new"), "--shards", "0")
    assert told.returncode == 1
    assert told.stderr == "shardex: number of shards must be 1 to 64, not 0\n"


def test_the_engine_speaks_on_standard_streams() -> None:
    order = '{{"op":"new","id":{id},"side":"{side}","px":100,"qty":5}}\n'
    told = shardex("engine", "--reference", stdin=order.format(id=1, side="B") + order.format(id=2, side="S"))
    assert told.returncode == 0
    assert '"event":"trade"' in told.stdout
