"""`shardex engine`: the matching engine alone, on standard input and output."""

from typing import Annotated

import typer


def command(
    reference: Annotated[bool, typer.Option("--reference", help="The plain-Python engine.")] = False,
    checkpoint_every: Annotated[int, typer.Option(min=0, help="Hash all books after every N commands.")] = 0,
) -> None:
    """Match commands from stdin, one JSON object a line, and write events to stdout, one JSON object a line."""
    from shardex.engine import run_engine

    run_engine(reference=reference, checkpoint_every=checkpoint_every)
