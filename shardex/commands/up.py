"""`shardex up`: start the cluster of a data directory."""

from typing import Annotated, Any, Literal

import typer

from shardex.commands.options import Data, default_data


def command(
    data: Data = None,
    shards: Annotated[int | None, typer.Option(help="New cluster: number of shards (2).")] = None,
    replicas: Annotated[int | None, typer.Option(help="New cluster: nodes of a shard, 1 or 2 (2).")] = None,
    profile: Annotated[
        Literal["classic", "demo", "load"] | None, typer.Option(help="New cluster: limits of the gateway (classic).")
    ] = None,
    open_demo: Annotated[bool, typer.Option("--open", help="New cluster: no API keys needed, loopback only.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready and leave it running.")] = False,
) -> None:
    """Start a cluster that keeps its data. Ctrl-C stops it; with --detach, `shardex down` does.

    A new one is laid out by cluster.toml in its data directory, which is yours to edit from then on.
    """
    from shardex import foreground, launcher

    interrupt = foreground.Interrupt()
    console = foreground.console()
    gateway: dict[str, Any] = {"profile": profile} if profile else {}
    if open_demo:
        gateway["open_demo"] = True
    overrides = {"gateway": gateway} if gateway else None
    config = launcher.prepare(data or default_data(), shards=shards, replicas=replicas, overrides=overrides)
    if detach:
        running = foreground.start_detached(config, interrupt, console)
        foreground.introduce(running, console)
        return
    with foreground.started(config, interrupt, console) as running:
        if not interrupt():
            foreground.introduce(running, console)
            foreground.hold(running, interrupt, console)
