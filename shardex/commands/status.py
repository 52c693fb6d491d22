"""`shardex status`: how the cluster fares."""

import sys

from shardex.commands.options import Data, Json, locate

_WIDTH = 120
"""Where there is no terminal whose width would count."""
_EXIT_CODES = {"healthy": 0, "degraded": 1, "unhealthy": 2}


def command(data: Data = None, json: Json = False) -> None:
    """Show every daemon. Exit code: 0 healthy, 1 degraded, 2 unhealthy, 3 not running."""
    from shardex import launcher, status

    report = status.collect(launcher.attach(locate(data)))
    if json:
        print(status.to_json(report))
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else _WIDTH).print(status.table(report))
    sys.exit(_EXIT_CODES[report.health])
