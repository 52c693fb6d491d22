"""`shardex demo`: choose a place and ports, start, say how to trade, wait, leave nothing behind."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from exchange.config import Gateway, MarketData
from shardex import foreground, launcher
from shardex.ports import choose, holder, is_free


def run(*, shards: int, replicas: int, ports: tuple[int, int], keep: Path | None, market_maker: bool) -> None:
    """Run the demo in the foreground until SIGINT, SIGTERM or SIGHUP.

    `ports` = wanted for gateway and market data. Without `keep` the files lie in a new temporary directory and are
    removed at the end; with it, a directory that was used before is started as it is.
    """
    interrupt = foreground.Interrupt()
    console = foreground.console()
    data = (keep or Path(tempfile.mkdtemp(prefix="shardex-demo-"))).resolve()
    try:
        new = not (data / "cluster.toml").exists()
        overrides = _overrides(console, ports, market_maker=market_maker) if new else None
        config = launcher.prepare(
            data, shards=shards if new else None, replicas=replicas if new else None, overrides=overrides
        )
        with foreground.started(config, interrupt, console, ephemeral=keep is None) as running:
            if not interrupt():
                foreground.introduce(running, console)
                _explain(running, console)
                foreground.hold(running, interrupt, console)
    finally:
        if keep is None and data.exists():
            shutil.rmtree(data)  # its supervisor never ran, or was killed


def _overrides(console: Console, wanted: tuple[int, int], *, market_maker: bool) -> dict[str, dict[str, Any]]:
    gateway = _free_port(console, Gateway().host, wanted[0])
    feed = _free_port(console, MarketData().host, wanted[1], taken=gateway)
    return {
        "gateway": {"port": gateway, "open_demo": True, "profile": "demo"},
        "marketdata": {"port": feed},
        "marketmaker": {"enabled": market_maker},
    }


def _free_port(console: Console, host: str, wanted: int, taken: int = 0) -> int:
    if wanted != taken and is_free(host, wanted):
        return wanted
    port = choose(host, (taken,))
    console.print(f"port {wanted} is held by {holder(wanted)}; using {port}", highlight=False)
    return port


def _explain(running: launcher.Running, console: Console) -> None:
    url = running.rest_url
    order = '{"symbol":"AAPL","side":"buy","order_type":"limit","price":151.00,"quantity":10,"user_id":"alice"}'
    lines = [
        "",
        "Try, in another terminal:",
        f"  curl -s {url}/api/submit -H 'Content-Type: application/json' -d '{order}'",
        f"  curl -s {url}/api/book/AAPL",
        f"  curl -s {url}/api/user/alice/positions",
        "",
        "Ctrl-C stops everything.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
