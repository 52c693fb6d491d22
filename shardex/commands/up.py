"""`shardex up`: start the cluster of a data directory."""

from typing import Annotated

import typer

from shardex.commands.options import Data, default_data


def command(
    data: Data = None,
    shards: Annotated[int | None, typer.Option(help="Number of shards of a new cluster (2).")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready and leave it running.")] = False,
    open_demo: Annotated[
        bool, typer.Option("--open", help="New cluster: no API keys needed, on loopback only.")
    ] = False,
) -> None:
    """Start a cluster that keeps its data. Ctrl-C stops it; with --detach, `shardex down` does."""
    from shardex import foreground, launcher

    interrupt = foreground.Interrupt()
    console = foreground.console()
    overrides = {"gateway": {"open_demo": True}} if open_demo else None
    config = launcher.prepare(data or default_data(), shards=shards, overrides=overrides)
    if detach:
        running = foreground.start_detached(config, interrupt, console)
        foreground.introduce(running, console)
        return
    with foreground.started(config, interrupt, console) as running:
        if not interrupt():
            foreground.introduce(running, console)
            foreground.hold(running, interrupt, console)
