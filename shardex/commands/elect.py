"""`shardex elect`: an operator's choice of a primary."""

from typing import Annotated

import typer

from shardex.commands.options import Data, Json, locate


def command(
    shard: Annotated[str, typer.Argument(help="s0, s1, …")],
    node: Annotated[str, typer.Argument(help="Node that is to lead: s0-a, s0-b, …")],
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Also one that is not in sync: acknowledged orders may be lost.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a node the primary of its shard. Outside the in-sync set this is marked UNCLEAN for ever."""
    from shardex import administer

    administer.show_shard(administer.elect(locate(data), shard, node, accept_loss=accept_loss), json=json)
