"""`shardex load`: measure a running cluster."""

from typing import Annotated, Literal

import typer

from shardex.commands.options import Data, Json, locate


def command(
    protocol: Annotated[Literal["rest", "ws"], typer.Option(help="Way in.")] = "ws",
    batch: Annotated[int, typer.Option(help="Orders in one request or frame.")] = 64,
    rate: Annotated[
        float | None, typer.Option(min=1, help="Orders a second; default: as many as are answered.")
    ] = None,
    duration: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds.")] = 10,
    connections: Annotated[int, typer.Option(help="Connections.")] = 2,
    accounts: Annotated[int, typer.Option(help="Accounts that the connections share.")] = 1,
    in_flight: Annotated[int, typer.Option(help="Frames without answer on one connection (ws).")] = 16,
    symbol: Annotated[list[str] | None, typer.Option(help="May be repeated; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds send equal orders.")] = 1,
    max_: Annotated[
        bool, typer.Option("--max", help="Find the highest sustained rate; --duration for each try.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Send orders on schedule and measure latency from the intended send time (open loop).

    The gateway must be in open demo mode. Exit code 1 when --max finds no rate that is sustained.
    """
    from loadgen import report, session
    from shardex import launcher
    from shardex.loop import run
    from shardex.progress import seconds_bar

    options = session.Options(
        url=launcher.attach(locate(data)).rest_url,
        protocol=protocol,
        batch=batch,
        connections=connections,
        in_flight=in_flight,
        accounts=accounts,
        symbols=tuple(symbol or ()),
        seed=seed,
    )

    async def measure() -> report.Report:
        with seconds_bar() as progress:
            async with session.Load(options) as load:
                if max_:
                    return await load.find_max(duration_s=duration, progress=progress)
                return await load.drive(rate=rate, duration_s=duration, progress=progress)

    seen = run(measure())
    if json:
        print(report.to_json(seen).decode())
    else:
        from rich.console import Console

        Console().print(report.to_table(seen))
    if seen.sustained is False:
        raise typer.Exit(1)
