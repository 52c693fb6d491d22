"""`shardex skip`: have one command of a frozen shard left out."""

from typing import Annotated

import typer

from shardex.commands.options import Data, Json, locate


def command(
    shard: Annotated[str, typer.Argument(help="s0, s1, …")],
    seq: Annotated[int, typer.Argument(help="The command that nobody can run; `shardex status` names it.")],
    why: Annotated[str, typer.Option("--why", help="Kept for ever beside the decision.")],
    actor: Annotated[str | None, typer.Option("--actor", help="Who decided; default: the user of this shell.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Leave a command out of a FROZEN shard's log, for ever and on every node; its client hears that it is void."""
    from shardex import administer

    administer.show_shard(administer.skip(locate(data), shard, seq, why=why, actor=actor), json=json)
