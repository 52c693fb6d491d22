"""The gateway daemon: wires the door, the shards, riskd, marketdata and the coordinator together, and ends in order."""

import asyncio
import ipaddress
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from aiohttp import web

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S
from exchange.errors import ConfigError
from exchange.limits import ORDER_DEADLINE_NS
from exchange.process import ControlLink, Daemon, look_for_garbage_rarely, run_async
from exchange.wire import decode_market_outbound, decode_risk_outbound
from gateway.core.admission import Identities
from gateway.core.auth import Authority, Key, parse_keys
from gateway.core.throttle import PROFILES, Throttle
from gateway.executions import Executions
from gateway.guard import KEEPALIVE_S, Connections, GuardedServer
from gateway.http import Door, make_request
from gateway.links import Desk
from gateway.orders import Orders
from gateway.routes import Endpoints
from gateway.shards import Shards
from gateway.views import Views
from gateway.ws import OrderSockets

TICK_S = 0.02
KEYS_CHECK_S = 0.5
DRAIN_S = ORDER_DEADLINE_NS / NS_PER_S + 0.5
KEYS_BYTES_MAX = 4 * 1024 * 1024


def serve(daemon: Daemon) -> int | None:
    """Run until SIGTERM or SIGINT; then finish what is in flight."""

    async def body(stop: asyncio.Event) -> None:
        gateway = Gateway(daemon)
        try:
            await gateway.start()
            await stop.wait()
        finally:
            await gateway.stop()

    run_async(body)
    return None


class Gateway:
    """Construct inside a running loop."""

    def __init__(self, daemon: Daemon) -> None:
        config = daemon.config
        settings = config.gateway
        self._daemon = daemon
        self._log = daemon.log
        self._keys_path = config.data / "keys.json"
        self.keys_faults = 0
        self._process = psutil.Process()
        self._shards = Shards(daemon.name, Identities(f"{secrets.token_hex(6)}-"), daemon.log)
        self._connections = Connections(
            total_max=settings.connections_max, per_address_max=settings.connections_per_ip_max
        )
        # The stamp comes first: a file that is replaced in between is read again, not overlooked.
        self._keys_seen = stamp_of_file(self._keys_path)
        keys = read_keys(self._keys_path)
        self._authority = Authority(keys, demo=settings.open_demo and is_loopback(settings.host))
        if not self._authority.open_demo and not keys:
            self._log.warning("nobody can trade", detail=f"open_demo is off and {self._keys_path} holds no key")
        if self._authority.open_demo:
            self._log.warning("open demo mode", detail="no key is needed, anybody on this machine is any account")
        self._control = ControlLink(daemon, endpoints={}, stats=self._stats, on_map=self._on_map)
        self._market: Desk[m.MarketOutbound] = Desk(
            "marketdata", config.endpoint("market"), daemon.name, decode_market_outbound, daemon.log
        )
        self._risk: Desk[m.RiskOutbound] = Desk(
            "riskd", config.endpoint("risk"), daemon.name, decode_risk_outbound, daemon.log
        )
        throttle = Throttle(PROFILES[settings.profile])
        orders = Orders(self._shards)
        self._executions = Executions(f"{daemon.name}-executions", self._shards, daemon.log)
        self._views = Views(
            shards=self._shards,
            market=self._market,
            risk=self._risk,
            control=self._control,
            connections=self._connections,
            market_maker=config.marketmaker.enabled,
        )
        self._sockets = OrderSockets(
            shards=self._shards,
            orders=orders,
            throttle=throttle,
            authority=self._authority,
            executions=self._executions,
            log=daemon.log,
            draining=lambda: self._door.draining,
        )
        endpoints = Endpoints(
            shards=self._shards,
            orders=orders,
            views=self._views,
            throttle=throttle,
            draining=lambda: self._door.draining,
        )
        self._door = Door(
            endpoints.routes(self._sockets.serve),
            authority=self._authority,
            throttle=throttle,
            name=daemon.name,
            log=daemon.log,
        )
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._tickers: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """Where it listens; useful when the configuration says 0."""
        assert self._runner is not None
        port: int = self._runner.addresses[0][1]
        return port

    @property
    def serving(self) -> dict[str, bool]:
        """Which shards take orders, as far as is known."""
        return self._shards.serving

    @property
    def open_demo(self) -> bool:
        """No key is needed."""
        return self._authority.open_demo

    @property
    def connections(self) -> int:
        """Open connections of all kinds."""
        return len(self._connections)

    @property
    def sessions(self) -> int:
        """Open order sockets."""
        return len(self._sockets)

    async def start(self) -> None:
        """Listen. ConfigError when the address is taken."""
        loop = asyncio.get_running_loop()
        settings = self._daemon.config.gateway
        server = GuardedServer(
            self._connections,
            self._door.serve,
            request_factory=lambda *parts: make_request(*parts, loop=loop),
            keepalive_timeout=KEEPALIVE_S,
            # A signature covers the bytes as they came, and a small body must not become a large one.
            auto_decompress=False,
            access_log=None,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=DRAIN_S)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, settings.host, settings.port, backlog=1_024)
        try:
            await self._site.start()
        except OSError as fault:
            raise ConfigError([f"gateway.port {settings.port} on {settings.host} cannot be used: {fault}"]) from fault
        look_for_garbage_rarely()
        self._tickers = [loop.create_task(self._tick_shards()), loop.create_task(self._watch())]
        self._log.info("listening", host=settings.host, port=self.port)

    async def stop(self) -> None:
        """Take no new work, answer what is in flight, close."""
        self._door.draining = True
        self._control.beat_now()
        if self._site is not None:
            await self._site.stop()
        await self._sockets.close()
        deadline_ns = monotonic_ns() + int(DRAIN_S * NS_PER_S)
        while self._shards.pending and monotonic_ns() < deadline_ns:
            await asyncio.sleep(TICK_S)
        for ticker in self._tickers:
            ticker.cancel()
        await asyncio.gather(*self._tickers, return_exceptions=True)
        self._shards.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._market.close()
        self._risk.close()
        await self._control.close()

    def _on_map(self, map_: m.ShardMap) -> None:
        self._shards.on_map(map_, self._control.membership.incarnation)
        self._executions.on_map(map_)

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        serving = self._shards.serving
        ready = self._shards.known and any(serving.values()) and not self._door.draining
        links = self._shards.links.values()
        return ready, {
            "connections": len(self._connections),
            "sessions": len(self._sockets),
            "pending": self._shards.pending,
            "orders": sum(link.stats.commands for link in links),
            "unknown": sum(link.stats.unknown for link in links),
            "not_executed": sum(link.stats.not_executed for link in links),
            "resends": sum(link.lane.resends for link in links),
            "memory_mb": int(self._process.memory_info().rss) >> 20,
        }

    async def _tick_shards(self) -> None:
        while True:
            self._shards.tick()
            await asyncio.sleep(TICK_S)

    async def _watch(self) -> None:
        """Twice a second: keys that changed, requests that are late."""
        while True:
            await asyncio.sleep(KEYS_CHECK_S)
            self._connections.close_late()
            self._reload_keys()

    def _reload_keys(self) -> None:
        seen = stamp_of_file(self._keys_path)
        if seen == self._keys_seen:
            return
        self._keys_seen = seen
        try:
            keys = read_keys(self._keys_path)
        except ConfigError as error:
            self.keys_faults += 1
            self._log.error("keys not reloaded, the old ones stay", error=str(error))
            return
        ended = self._authority.replace_keys(keys)
        self._sockets.end_keys(ended)
        self._log.info("keys reloaded", keys=len(keys), ended=len(ended))


def is_loopback(host: str) -> bool:
    """The host is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def stamp_of_file(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file is written or replaced; None while there is none.

    The kernel's clock for files moves in steps of milliseconds, so the size counts too.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_keys(path: Path) -> dict[str, Key]:
    """API keys of a file that only its owner may read; none when there is no file. ConfigError names every fault."""
    try:
        status = path.stat()
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as fault:
        raise ConfigError([f"{path}: {fault}"]) from fault
    mode = status.st_mode & 0o777
    if mode & 0o077:
        raise ConfigError([f"{path} must have mode 0600, it has {mode:04o}"])
    if len(content) > KEYS_BYTES_MAX:
        raise ConfigError([f"{path} has {len(content)} bytes, at most {KEYS_BYTES_MAX}"])
    return parse_keys(content)
