"""`shardex keys add|list|revoke`: the API keys of a cluster. A running gateway sees a change within a second."""

from typing import Annotated

import typer

from shardex.commands.options import Data, Json, locate

app = typer.Typer(name="keys", help="API keys: add, list, revoke.", no_args_is_help=True)


@app.command()
def add(
    account: Annotated[str, typer.Argument(help="Account that the key trades for.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read, trade, ops; may be repeated (read, trade).")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Create a key. Its secret is shown this once. The first key ends open demo mode."""
    from shardex import keys

    key, entry = keys.add(locate(data), account, scope or ["read", "trade"])
    if json:
        _print_json({"key": key, "account": entry.account, "scopes": entry.scopes, "secret": entry.secret})
    else:
        print(f"key     {key}\nsecret  {entry.secret}\naccount {entry.account}\nscopes  {' '.join(entry.scopes)}")


@app.command("list")
def list_(data: Data = None, json: Json = False) -> None:
    """List keys, without their secrets."""
    from shardex import keys

    entries = keys.read(locate(data))
    if json:
        _print_json([{"key": key, "account": e.account, "scopes": e.scopes} for key, e in entries.items()])
        return
    for key, entry in entries.items():
        print(f"{key}  {entry.account}  {' '.join(entry.scopes)}")


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="The key to take away.")], data: Data = None) -> None:
    """Take a key away."""
    from shardex import keys

    keys.revoke(locate(data), key)
    print(f"revoked {key}")


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.encode(value).decode())
