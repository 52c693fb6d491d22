"""`shardex rebuild-store`: begin a lost control store anew from what the nodes have."""

from typing import Annotated

import typer

from shardex.commands.options import Data, Json, locate


def command(
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Also without a node's journal: acknowledged orders may be lost."),
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Begin a lost control store anew, of a cluster that is stopped. Each shard is marked UNCLEAN for ever."""
    import msgspec

    from shardex import rebuild_store

    rebuilt = rebuild_store.rebuild(locate(data), accept_loss=accept_loss)
    if json:
        print(msgspec.json.encode(rebuilt).decode())
    else:
        for one in rebuilt:
            print(f"{one.shard}: {one.node} leads next, its log ends at seq {one.seq} of term {one.epoch}")
