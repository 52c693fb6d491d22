"""`shardex logs`: what the daemons say."""

from typing import Annotated

import typer

from shardex.commands.options import Data, locate


def command(
    name: Annotated[str | None, typer.Argument(help="One daemon, for example s0; default: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as new lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log to start with.")] = 20,
    data: Data = None,
) -> None:
    """Show the logs of a cluster; each line is preceded by the name of its daemon."""
    from shardex import tail

    tail.show(locate(data), name, lines=lines, follow=follow)
