"""`shardex replay`: send an order-flow file through a gateway of a running cluster."""

from pathlib import Path
from typing import Annotated

import typer

from shardex.commands.options import Data, locate


def command(
    file: Annotated[Path, typer.Argument(help="Order flow, one JSON object a line; .xz is unpacked.")],
    symbol: Annotated[str, typer.Option(help="Symbol of the lines that name none.")] = "BTC",
    account: Annotated[str, typer.Option(help="Account of the lines that name none.")] = "replay",
    trades: Annotated[Path | None, typer.Option(metavar="CSV", help="Write the trades to this file.")] = None,
    data: Data = None,
) -> None:
    """Send every command of a file in exact order and print a JSON summary.

    --trades writes taker_id,maker_id,px,qty in the file's own numbers, in order of execution.
    """
    import csv

    import msgspec

    from shardex import launcher
    from shardex.loop import run
    from shardex.progress import orders_bar
    from shardex.replay import Trade, replay

    config = launcher.attach(locate(data)).config
    with orders_bar(f"replaying {file.name}") as progress:
        work = replay(config, file, symbol=symbol, account=account, progress=progress, makers=trades is not None)
        summary, seen = run(work)
    if trades is not None:
        with trades.open("w", newline="") as out:
            rows = csv.writer(out, lineterminator="\n")
            rows.writerow(Trade.__struct_fields__)
            rows.writerows(msgspec.structs.astuple(trade) for trade in seen)
    print(msgspec.json.encode(summary).decode())
