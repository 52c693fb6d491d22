"""`shardex demo`: choose a place and ports, start, say how to trade, wait, leave nothing behind."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from exchange.config import Gateway, MarketData
from shardex import foreground, launcher, ports


def run(*, shards: int, keep: Path | None, market_maker: bool) -> None:
    """Run the demo in the foreground until SIGINT, SIGTERM or SIGHUP.

    Without `keep` its files lie in a new temporary directory and are removed at the end.
    """
    interrupt = foreground.Interrupt()
    console = foreground.console()
    data = keep.absolute() if keep else Path(tempfile.mkdtemp(prefix="shardex-demo-"))
    try:
        new = not (data / "cluster.toml").exists()
        overrides = _overrides(console, market_maker=market_maker) if new else None
        config = launcher.prepare(data, shards=shards if new else None, overrides=overrides)
        with foreground.started(config, interrupt, console, ephemeral=keep is None) as running:
            if not interrupt():
                foreground.introduce(running, console)
                _explain(running, console)
                foreground.hold(running, interrupt, console)
    finally:
        if keep is None and data.exists():
            shutil.rmtree(data)  # its supervisor never ran, or was killed


def _overrides(console: Console, *, market_maker: bool) -> dict[str, dict[str, Any]]:
    gateway = _port(console, Gateway().host, Gateway().port, ())
    feed = _port(console, MarketData().host, MarketData().port, (gateway,))
    return {
        "gateway": {"port": gateway, "open_demo": True, "profile": "demo"},
        "marketdata": {"port": feed},
        "marketmaker": {"enabled": market_maker},
    }


def _port(console: Console, host: str, preferred: int, taken: tuple[int, ...]) -> int:
    if ports.is_free(host, preferred):
        return preferred
    port = ports.choose(host, taken)
    console.print(f"port {preferred} is held by {ports.holder(preferred)}; using {port}", highlight=False)
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
