"""`shardex check`: was anything lost, run twice, told wrongly? From the files that a cluster has left or is writing."""

from pathlib import Path
from typing import Annotated

import typer

from shardex.commands.options import Json

EXIT_FINDINGS = 1
EXIT_UNREADABLE = 2


def command(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Data directory of a cluster, running or not.")],
    history: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What clients were answered, NDJSON; may be repeated.")
    ] = None,
    captures: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What subscribers took, NDJSON; may be repeated.")
    ] = None,
    gap_max_ms: Annotated[
        int | None, typer.Option(metavar="MS", help="Longest time without a success that is no finding.")
    ] = None,
    json: Json = False,
) -> None:
    """Check journals, snapshots, the control store's history and what clients saw against every invariant.

    Exit codes: 0 clean, 1 findings, 2 something cannot be read.
    """
    import msgspec

    from drills.checker.check import Inputs, check
    from exchange import config
    from exchange.errors import ShardexError
    from shardex.progress import stages_bar
    from shardex.supervision import CONFIG_FILE

    try:
        path = data / CONFIG_FILE
        durability = config.load(path).replication.durability if path.exists() else "both"
        inputs = Inputs(
            data=data,
            histories=history or [],
            captures=captures or [],
            synced=durability == "both",
            gap_max_ms=gap_max_ms,
        )
        with stages_bar() as progress:
            report = check(inputs, progress=progress)
    except (ShardexError, OSError) as error:
        typer.echo(f"shardex: {error}", err=True)
        raise typer.Exit(EXIT_UNREADABLE) from error
    print(msgspec.json.encode(report).decode() if json else "\n".join(report.lines()))
    raise typer.Exit(0 if report.clean else EXIT_FINDINGS)
