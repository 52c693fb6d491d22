"""`shardex switch`: hand a shard over to its standby, drained."""

from typing import Annotated

import typer

from shardex.commands.options import Data, Json, locate


def command(
    shard: Annotated[str, typer.Argument(help="s0, s1, …")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Have the primary of a shard hand over to its standby; clients see a short pause and no error."""
    from shardex import administer

    administer.show_shard(administer.switch(locate(data), shard), json=json)
