"""`shardex clock`: an operator's word that a wall clock is right."""

from typing import Annotated

import typer

from shardex.commands.options import Data, Json, locate


def command(
    shard: Annotated[str, typer.Argument(help="s0, s1, …")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Have log time follow the wall clock of a shard that shows CLOCK: orders whose time has come end at once."""
    from shardex import administer

    administer.show_shard(administer.clock(locate(data), shard), json=json)
