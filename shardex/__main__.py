"""`shardex …`: the command line. Results go to stdout, errors as one sentence to stderr.

Exit codes: 0 done · 1 refused or failed · 2 wrong usage · 3 no cluster runs. `status`: 1 degraded, 2 unhealthy.
"""

import sys

import typer

from exchange.errors import ShardexError
from shardex.commands import (
    admin,
    check,
    clock,
    demo,
    down,
    elect,
    engine,
    journal,
    keys,
    load,
    logs,
    rebuild_store,
    replay,
    skip,
    status,
    switch,
    up,
)

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3

app = typer.Typer(
    help="A sharded exchange on this machine: start it, look at it, trade on it, replay and load it.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no cluster runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (demo, up, down, status, logs, switch, elect, skip, clock, rebuild_store, engine, replay, load, check):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
for group in (journal, keys, admin):
    app.add_typer(group.app)


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="shardex")
    except ShardexError as error:
        from shardex.launcher import NotRunning  # noqa: PLC0415 - only on failure

        print(f"shardex: {error}", file=sys.stderr)
        sys.exit(EXIT_NOT_RUNNING if isinstance(error, NotRunning) else EXIT_FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # `shardex logs | head`: nothing more to say to anybody
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
