"""Where a drill plays: a small cluster whose coordinator and nodes are hosts of a network, under load and watched.

Gateway, marketdata, riskd and clients stay outside, reach every host all the time, and are never cut off.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec

from drills.clients import Client, Recorder, markets_of
from drills.network import Network
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.config import COORDINATOR_NAME, Config, Replication, render
from exchange.domain import NS_PER_S
from exchange.errors import ConfigError, Unavailable
from exchange.keyfile import KEY_FILE, create_key
from exchange.sockets import open_private_directory
from shard.trace import VARIABLE as TRACE
from shardex import launcher, ports, supervision
from shardex.control import Control
from shardex.defaults import default_config
from shardex.launcher import Running

SHARD = "s0"
COORDINATOR = COORDINATOR_NAME
NODES = (f"{SHARD}-a", f"{SHARD}-b")
SUSPECT_MS = Replication().suspect_ms
READY_S = 60.0
DRAIN_S = 30.0
CLIENTS = 4
ORDERS_PER_S = 160.0
_WATCH_S = 0.01
_POLL_S = 0.005


class Late(Exception):
    """What was waited for did not happen in time."""


class Watch(threading.Thread):
    """Asks the coordinator for the state of everything, many times a second. `samples` = (when, what)."""

    def __init__(self, config: Config) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[int, m.ClusterStatus]] = []
        self._config = config
        self._over = threading.Event()

    def run(self) -> None:
        with Control(self._config) as control:
            while not self._over.wait(_WATCH_S):
                try:
                    status = control.status(timeout_s=1.0)
                except Unavailable:
                    continue
                self.samples.append((monotonic_ns(), status))

    def end(self) -> None:
        """End and wait for the end."""
        self._over.set()
        self.join()


class Stage:
    """A drill's hands and eyes. Use inside a running loop."""

    def __init__(self, network: Network, running: Running, history: Path) -> None:
        self.network = network
        self.running = running
        self.history = history
        self._watch = Watch(running.config)
        self._gate = asyncio.Event()
        self._recorder: Recorder
        self._clients: list[Client] = []
        self._runs: list[asyncio.Task[None]] = []
        self._ends: list[Callable[[], Awaitable[None]]] = []

    async def begin(self) -> None:
        """Start watching and trading; return when there was a first look and a first answer."""
        markets = (await markets_of(self.running.rest_url))[:2]
        self._recorder = Recorder(self.history, {market.index: market.shard for market in markets})
        rate = ORDERS_PER_S / CLIENTS
        for number in range(CLIENTS):
            client = Client(
                f"drill-{number}", self.running.rest_url, markets, self._recorder, seed=number, rate=rate, batch=1
            )
            self._clients.append(client)
            self._runs.append(asyncio.create_task(client.run(self._gate)))
        self._gate.set()
        self._watch.start()
        await self.until(lambda _: bool(self._recorder.successes[SHARD]), "a first answer")

    async def settle(self) -> int:
        """Stop trading and wait until everything that was sent is decided; returns how many outcomes stay unknown."""
        self._gate.clear()
        async with asyncio.timeout(DRAIN_S):
            for client in self._clients:
                await client.settled()
        self._recorder.flush()
        return sum(client.undecided for client in self._clients)

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Close something of the drill's own when everything is over."""
        self._ends.append(close)

    async def end(self) -> None:
        """Stop everything that `begin` began."""
        for close in self._ends:
            await close()
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        for client in self._clients:
            await client.close()
        if self._clients:
            self._recorder.close()
        if self._watch.is_alive():
            self._watch.end()

    @property
    def status(self) -> m.ClusterStatus:
        """As seen last."""
        return self._watch.samples[-1][1]

    @property
    def shard(self) -> m.ShardStatus:
        """The shard, as seen last."""
        return shard_of(self.status)

    @property
    def standby(self) -> str:
        """The node that does not lead."""
        return next(node for node in NODES if node != self.shard.primary)

    @property
    def outcomes(self) -> dict[str, int]:
        """How calls ended, by kind."""
        return dict(sorted(self._recorder.outcomes.items()))

    def seen(self, from_ns: int) -> list[m.ShardStatus]:
        """Everything that was seen of the shard since then."""
        return [shard_of(status) for at_ns, status in self._watch.samples if at_ns >= from_ns]

    async def until(self, condition: Callable[[m.ClusterStatus], bool], what: str, within_s: float = READY_S) -> int:
        """When this was first seen from now on. Late when it is not seen in time."""
        begun_ns, looked = monotonic_ns(), len(self._watch.samples)
        while monotonic_ns() - begun_ns < within_s * NS_PER_S:
            samples = self._watch.samples
            while looked < len(samples):
                at_ns, status = samples[looked]
                if condition(status):
                    return at_ns
                looked += 1
            await asyncio.sleep(_POLL_S)
        raise Late(f"{what}: not within {within_s:g} s")

    async def until_well(self, within_s: float = READY_S) -> int:
        """When both nodes are in sync again and everything is healthy."""
        return await self.until(is_well, "both nodes in sync", within_s)

    def longest_gap_ns(self, from_ns: int, to_ns: int) -> int:
        """Longest time without an answer to any client within this time."""
        answered = sorted(at_ns for at_ns in self._recorder.successes[SHARD] if from_ns < at_ns < to_ns)
        ends = [from_ns, *answered, to_ns]
        return max(after - before for before, after in pairwise(ends))

    def latency_ns(self, from_ns: int, to_ns: int, quantile: float) -> int:
        """Of answers within this time, from sending on."""
        recorder = self._recorder
        both = zip(recorder.successes[SHARD], recorder.latencies[SHARD], strict=True)
        took = sorted(took_ns for at_ns, took_ns in both if from_ns <= at_ns < to_ns)
        return took[int(quantile * (len(took) - 1))] if took else to_ns - from_ns


def shard_of(status: m.ClusterStatus) -> m.ShardStatus:
    """The one shard."""
    return status.shards[0]


def is_well(status: m.ClusterStatus) -> bool:
    """Both nodes are in sync, the primary serves, the standby follows, every daemon is healthy."""
    return len(shard_of(status).isr) == len(NODES) and status.health == "healthy"


def trails(status: m.ClusterStatus) -> list[tuple[int, int]]:
    """(last seq, rolling check sum over all outcomes up to there) of each node."""
    nodes = [daemon.stats for daemon in status.daemons if daemon.name in NODES]
    return [(stats.get("last_seq", -1), stats.get("trail", -1)) for stats in nodes]


@contextmanager
def open_cluster(data: Path, *, suspect_ms: int = SUSPECT_MS) -> Iterator[tuple[Network, Running]]:
    """A ready cluster of one shard with two nodes in a new data directory; at the end it is stopped and stays there.

    NetworkError where namespaces cannot be made.
    """
    os.environ[TRACE] = "1"  # daemons inherit it
    with Network((COORDINATOR, *NODES)) as network:
        running = launcher.start(_prepare(data, network, suspect_ms))
        try:
            running.wait_ready(READY_S)
            yield network, running
        finally:
            network.heal()
            running.stop()


def _prepare(data: Path, network: Network, suspect_ms: int) -> Config:
    gateway_port = ports.choose("127.0.0.1")
    config = default_config(
        data,
        launcher.run_directory(data),
        shards=1,
        replicas=2,
        overrides={
            "cluster": {"transport": "tcp"},
            "replication": {"suspect_ms": suspect_ms},
            "gateway": {"port": gateway_port, "profile": "load", "open_demo": True},
            "marketdata": {"port": ports.choose("127.0.0.1", (gateway_port,))},
        },
    )
    path = data / supervision.CONFIG_FILE
    open_private_directory(data)
    if path.exists():
        raise ConfigError([f"{path} exists; a drill needs a directory of its own"])
    create_key(data / KEY_FILE)
    path.write_text(render(msgspec.structs.replace(config, hosts=network.places(config))))
    return launcher.prepare(data)
