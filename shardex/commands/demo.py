"""`shardex demo`: a whole exchange in a temporary directory, gone when it ends."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 2,
    replicas: Annotated[int, typer.Option(help="Nodes of a shard: 2 = each has a hot standby.")] = 2,
    port: Annotated[int, typer.Option(help="Of the gateway; a free one if it is taken.")] = 8080,
    feed_port: Annotated[int, typer.Option(help="Of market data; a free one if it is taken.")] = 8765,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the data in this directory.")] = None,
    market_maker: Annotated[bool, typer.Option("--market-maker/--no-market-maker", help="Quote all symbols.")] = True,
) -> None:
    """Start an exchange to play with: no keys, a market maker quotes. Ctrl-C ends it and leaves nothing behind."""
    from shardex import demo

    demo.run(shards=shards, replicas=replicas, ports=(port, feed_port), keep=keep, market_maker=market_maker)
