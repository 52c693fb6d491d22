"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        envvar="SHARDEX_DATA",
        help="Data directory of the cluster; default: the one that runs, else ~/.local/share/shardex.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]


def default_data() -> Path:
    """Where a cluster lives when nobody says otherwise."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "shardex"


def locate(data: Path | None) -> Path:
    """The data directory that a command works on."""
    from shardex import launcher

    return launcher.locate(data, default_data())
