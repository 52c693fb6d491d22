"""`shardex admin state|limit`: operator commands, logged by the shards themselves."""

from typing import Annotated

import typer

from shardex.commands.options import Data, Json, locate

app = typer.Typer(name="admin", help="Operator commands: trading states and position limits.", no_args_is_help=True)


@app.command()
def state(
    symbol: Annotated[str, typer.Argument(help="AAPL, AAPLUSD, … or ALL.")],
    value: Annotated[str, typer.Argument(metavar="STATE", help="OPEN, CANCEL_ONLY, HALT or CLOSED.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Change the trading state of a symbol, or of all."""
    from shardex import administer

    _finish(administer.set_state(locate(data), symbol, value), json=json)


@app.command()
def limit(
    account: Annotated[str, typer.Argument(help="Account to limit.")],
    symbol: Annotated[str, typer.Argument(help="AAPL, AAPLUSD, …")],
    quantity: Annotated[str, typer.Argument(help='Largest position, resting orders counted; "none" = the rule again.')],
    data: Data = None,
    json: Json = False,
) -> None:
    """Override the position limit of an account in a symbol."""
    from shardex import administer

    _finish(administer.set_limit(locate(data), account, symbol, quantity), json=json)


def _finish(results: dict[str, str], *, json: bool) -> None:
    """Print what each shard said; exit code 1 unless all have carried it out."""
    from shardex.administer import DONE

    if json:
        import msgspec

        print(msgspec.json.encode(results).decode())
    else:
        print("\n".join(f"{shard}: {said}" for shard, said in results.items()))
    if any(said != DONE for said in results.values()):
        raise typer.Exit(1)
