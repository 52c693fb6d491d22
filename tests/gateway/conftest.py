"""A gateway with its neighbours, all in one loop over real sockets, and a client of it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog

from exchange.domain import NS_PER_S
from exchange.process import Daemon
from gateway.core.pending import RESEND_SILENCE_NS
from gateway.core.throttle import Throttle
from gateway.server import Gateway
from tests.gateway.peers import ControlPeer, DeskPeers, ShardPeer, cluster_config, until

PATIENCE_S = 30
PATIENCE_MS = PATIENCE_S * 1_000
"""For an answer that comes: only the absent are waited for by the gateway's own, short measure."""
ORDER = {"symbol": "AAPL", "side": "buy", "order_type": "limit", "price": 150.25, "quantity": 100, "user_id": "alice"}


class Said:
    """One answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.text = body.decode()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.text)


class World:
    """Everything a story needs. `shards` and `control` may be stopped and started by it."""

    def __init__(self, directory: Path, **gateway: object) -> None:
        self.config = cluster_config(directory, **gateway)
        self.shards = [ShardPeer(self.config, name) for name in ("s0", "s1")]
        self.control: ControlPeer
        self.desks: DeskPeers | None = None
        self.gateway: Gateway
        self.http: aiohttp.ClientSession
        self.stopped = False
        self.port = 0

    async def start(self, *, desks: bool, serving: bool, mapless: bool) -> None:
        for shard in self.shards if serving else []:
            shard.start()
        self.control = ControlPeer(self.config, self.shards, mapless=mapless)
        self.desks = DeskPeers(self.config) if desks else None
        self.gateway = Gateway(Daemon("gateway", "g0", self.config, structlog.get_logger()))
        await self.gateway.start()
        self.port = self.gateway.port
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        await self.until_ready(200 if serving and not mapless else 503, known=not mapless)
        if serving and not mapless:
            await self.until_served("/api/orders?user_id=nobody")
        if desks and not mapless:
            await self.until_served("/api/trades/AAPL")
            await self.until_served("/api/user/nobody/positions")

    async def until_served(self, path: str) -> None:
        """A gateway is ready when it has the map; its sockets may need a moment more."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.call("GET", path)).status == 503:
                await asyncio.sleep(0.01)

    async def until_ready(self, status: int, *, known: bool = True) -> None:
        """Until the gateway says that it can serve, or that it cannot, about shards that it knows or not."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                said = await self.call("GET", "/readyz")
                if said.status == status and bool(said.json["shards"]) == known:
                    return
                await asyncio.sleep(0.01)

    async def call(self, method: str, path: str, json: Any = None, **options: Any) -> Said:
        content = None if json is None else msgspec.json.encode(json)
        content = options.pop("body", content)
        async with self.http.request(method, path, data=content, **options) as response:
            return Said(response.status, response.headers, await response.read())

    async def submit(self, **fields: Any) -> Said:
        """An order of alice for AAPL unless `fields` says otherwise; a field that is None is left out."""
        order = {name: value for name, value in {**ORDER, **fields}.items() if value is not None}
        return await self.call("POST", "/api/submit", order)

    async def stop(self) -> None:
        if self.stopped:
            return
        self.stopped = True
        await self.gateway.stop()

    async def close(self) -> None:
        await self.http.close()
        await self.stop()
        self.control.close()
        if self.desks is not None:
            self.desks.close()
        for shard in self.shards:
            if shard.entry.serving:
                shard.stop()


Build = Callable[..., Coroutine[Any, Any, World]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk, a coordinator or a shard that is there is waited for, however slow the machine is."""
    monkeypatch.setattr("gateway.views.ASK_S", float(PATIENCE_S))
    monkeypatch.setattr("gateway.views.PROBE_NS", PATIENCE_S * NS_PER_S)


@pytest.fixture
def no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of all limits stands still: what was taken does not come back, however long a test takes."""
    take = Throttle.take
    monkeypatch.setattr(Throttle, "take", lambda self, owner, quotas, count, _: take(self, owner, quotas, count, 0))


def repeat(monkeypatch: pytest.MonkeyPatch, after_ns: int = RESEND_SILENCE_NS) -> None:
    """What a shard leaves without a word for so long is sent to it again; in a world at first nothing is."""
    monkeypatch.setattr("gateway.core.pending.RESEND_SILENCE_NS", after_ns)


@pytest.fixture
async def build(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Build]:
    """Makes worlds: `await build(profile="classic", desks=False)`."""
    repeat(monkeypatch, 10 * PATIENCE_S * NS_PER_S)
    async with AsyncExitStack() as stack:

        async def make(*, desks: bool = True, serving: bool = True, mapless: bool = False, **gateway: object) -> World:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gw")))
            (directory / "run").mkdir(mode=0o700)
            world = World(directory, **gateway)
            await world.start(desks=desks, serving=serving, mapless=mapless)
            stack.push_async_callback(world.close)
            return world

        yield make


@pytest.fixture
async def world(build: Build) -> World:
    """Open demo mode, no limits worth the name, everything up."""
    return await build()


__all__ = ["ORDER", "PATIENCE_MS", "PATIENCE_S", "Build", "Said", "World", "repeat", "until"]
