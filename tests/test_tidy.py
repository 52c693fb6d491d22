"""Rules of the house that neither ruff nor mypy nor import-linter can see."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange import messages
from tests import protocol_table

ROOT = Path(__file__).parents[1]
DAEMONS = ("gateway", "shard", "coordinator", "marketdata", "riskd", "marketmaker")
CORES = sorted(path for daemon in DAEMONS for path in (ROOT / daemon / "core").rglob("*.py"))

UNSTABLE_CALLS = {
    "hash": "differs from process to process",
    "set": "is iterated in an order that nobody promised",
    "frozenset": "is iterated in an order that nobody promised",
    "float": "is inexact",
    "id": "is an address",
}


def test_every_daemon_has_a_core() -> None:
    assert {path.parts[-3] for path in CORES if path.parts[-2] == "core"} == set(DAEMONS)


@pytest.mark.parametrize("path", CORES, ids=lambda path: str(path.relative_to(ROOT)))
def test_cores_are_deterministic(path: Path) -> None:
    assert list(unstable(ast.parse(path.read_text()))) == []


def test_the_determinism_check_sees_what_it_forbids() -> None:
    source = """
from datetime import datetime
import datetime as d
a = hash("x")
b = {1, 2}
c = {x for x in b}
d = set(b)
e = float("1")
f = 1.5
"""
    lines = [int(re.findall(r"line (\d+)", fault)[0]) for fault in unstable(ast.parse(source))]
    assert sorted(lines) == [2, 3, 4, 5, 6, 7, 8, 9]


def unstable(tree: ast.AST) -> Iterator[str]:
    """What in a core could make two runs differ, or put a binary float near money."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in UNSTABLE_CALLS:
                yield f"line {node.lineno}: {name}() {UNSTABLE_CALLS[name]}"
            case ast.Set() | ast.SetComp():
                yield f"line {node.lineno}: a set is iterated in an order that nobody promised"
            case ast.Constant(value=float()):
                yield f"line {node.lineno}: {node.value!r} is a binary float"
            case ast.Import(names=names) if any(alias.name.split(".")[0] == "datetime" for alias in names):
                yield f"line {node.lineno}: datetime; time is an integer argument"
            case ast.ImportFrom(module="datetime"):
                yield f"line {node.lineno}: datetime; time is an integer argument"


def test_every_tagged_message_belongs_to_a_family() -> None:
    tagged = [struct for struct in protocol_table.structs() if struct.__struct_config__.tag is not None]
    strays = [struct.__name__ for struct in tagged if struct not in protocol_table.listed()]
    assert strays == [messages.FrameHead.__name__]  # the same bytes as EventFrame, decoded in part


@pytest.mark.parametrize("family", protocol_table.FAMILIES)
def test_tags_within_a_family_differ(family: str) -> None:
    union = protocol_table.FAMILIES[family]
    tags = [struct.__struct_config__.tag for struct in getattr(union, "__args__", (union,))]
    assert len(tags) == len(set(tags))


def test_the_protocol_page_is_in_step_with_the_structs() -> None:
    page = protocol_table.PAGE.read_text()
    assert protocol_table.render() in page, "run: python tests/protocol_table.py"


def test_no_tracked_file_speaks_of_one_machine_or_of_work_not_done() -> None:
    here = [f"/{top}/" for top in ("work", "root", "farm")] + ["/tmp/" + "team", "shared/" + "design"]
    hosts = ["pypi" + ".org", "python" + "hosted", "crates" + ".io"]
    unfinished = ["TO" + "DO", "FIX" + "ME", "XX" + "X"]
    pattern = re.compile("|".join(map(re.escape, [*here, *hosts, *unfinished])))
    found = []
    for name in tracked_files():
        text = (ROOT / name).read_text(errors="replace") if (ROOT / name).exists() else ""
        found += [f"{name}:{text[: hit.start()].count(chr(10)) + 1}: {hit.group()}" for hit in pattern.finditer(text)]
    assert found == []


def tracked_files() -> list[str]:
    """Text files under version control; lock files name their registry and are left out."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if not name.endswith(".lock")]
