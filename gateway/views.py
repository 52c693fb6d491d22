"""What a gateway shows: books, trades, positions, instruments, health, performance, metrics. Nothing here trades."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import psutil

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS, NS_PER_S, NS_PER_US, Side
from exchange.errors import Unavailable
from exchange.limits import IMAGE_TRADES_MAX
from exchange.process import ControlLink
from exchange.wire import encode
from gateway import classic
from gateway.classic import Answer
from gateway.core.admission import Market
from gateway.core.problems import Problem
from gateway.guard import Connections
from gateway.links import Desk, ShardLink
from gateway.metrics import expose
from gateway.shards import Shards
from gateway.stats import WINDOW_S, ShardStats, summarize

ASK_S = 0.25
"""How long marketdata, riskd and the coordinator may take before they count as away."""
CACHE_NS = 1 * NS_PER_S
PROBE_NS = 1 * NS_PER_S
PROBE_ACCOUNT = "shardex-probe"
HEALTHY_LATENCY_US = 1_000
HEALTHY_MEMORY_PERCENT = 80.0
DEPTH_DEFAULT, DEPTH_MAX = 10, 100
TRADES_DEFAULT, TRADES_MAX = 100, IMAGE_TRADES_MAX

_SUMMARY_OFF = ("healthy", "disabled")
_ROLES = {"risk_manager": "riskd", "websocket_feed": "marketdata", "market_maker": "marketmaker"}

T = TypeVar("T")


class Cached(Generic[T]):
    """The result of an asynchronous question, asked at most once a second however many want it."""

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        self._fetch = fetch
        self._task: asyncio.Task[T] | None = None
        self._fetched_ns = 0

    async def get(self) -> T:
        if self._task is None or (self._task.done() and monotonic_ns() - self._fetched_ns >= CACHE_NS):
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await asyncio.shield(self._task)

    async def _run(self) -> T:
        result = await self._fetch()
        self._fetched_ns = monotonic_ns()
        return result


class Views:
    """Each method is one endpoint's answer."""

    def __init__(
        self,
        *,
        shards: Shards,
        market: Desk[m.MarketOutbound],
        risk: Desk[m.RiskOutbound],
        control: ControlLink,
        connections: Connections,
        market_maker: bool,
    ) -> None:
        self._shards = shards
        self._market = market
        self._risk = risk
        self._control = control
        self._connections = connections
        self._market_maker = market_maker
        self._started_ns = monotonic_ns()
        self._process = psutil.Process()
        self._cluster = Cached(self._ask_cluster)
        self._probe = Cached(self._probe_shards)
        self._performance = Cached(self._measure)
        self._images: dict[str, Cached[m.EventFrame]] = {}
        psutil.cpu_percent()

    # --- market data and positions ------------------------------------------------------------------------------

    async def book(self, market: Market, depth: int) -> Answer:
        """From marketdata; while that is away from the shard itself, at most once a second, marked stale."""
        try:
            answer = await self._market.ask(lambda request: m.AskBook(request, market.index, depth), ASK_S)
        except Unavailable:
            return await self._book_from_shard(market, depth)
        if not isinstance(answer, m.Book):
            return await self._book_from_shard(market, depth)
        body = {
            "symbol": market.name,
            "bids": classic.levels(answer.bids, market),
            "asks": classic.levels(answer.asks, market),
            "timestamp": answer.ts_ns,
            "epoch": answer.epoch,
            "seq": answer.seq,
            "stale": not answer.live,
            "age_ms": answer.age_ms,
        }
        return Answer(body, 200, market.shard, answer.epoch, answer.seq)

    async def _book_from_shard(self, market: Market, depth: int) -> Answer:
        link = self._shards.link(market)
        cached = self._images.setdefault(market.shard, Cached(lambda: link.image(ASK_S)))
        try:
            image = await cached.get()
        except Unavailable as error:
            problem = Problem("UNAVAILABLE", f"neither marketdata nor shard {market.shard} answered: {error}", NS_PER_S)
            return classic.denied(problem)
        sides: list[list[tuple[int, int]]] = [[], []]
        for row in image.levels:
            if row.instrument == market.index:
                sides[row.side].append((row.price, row.quantity))
        body = {
            "symbol": market.name,
            "bids": classic.levels(sorted(sides[Side.BUY], reverse=True)[:depth], market),
            "asks": classic.levels(sorted(sides[Side.SELL])[:depth], market),
            "timestamp": image.ts_ns,
            "epoch": image.epoch,
            "seq": image.last_seq,
            "stale": True,
            "age_ms": max(0, (wall_ns() - image.ts_ns) // NS_PER_MS),
        }
        return Answer(body, 200, market.shard, image.epoch, image.last_seq)

    async def trades(self, market: Market, limit: int) -> Answer:
        """From marketdata only: a shard does not keep the times of past trades."""
        try:
            answer = await self._market.ask(lambda request: m.AskTrades(request, market.index, limit), ASK_S)
        except Unavailable as error:
            return classic.denied(Problem("UNAVAILABLE", str(error), NS_PER_S))
        if not isinstance(answer, m.Trades):
            return classic.denied(_not_served("marketdata", answer))
        trades = [classic.public_trade(trade, market) for trade in answer.trades]
        return Answer({"symbol": market.name, "trades": trades, "stale": not answer.live})

    async def positions(self, account: str) -> Answer:
        """From riskd."""
        try:
            answer = await self._risk.ask(lambda request: m.AskPositions(request, account), ASK_S)
        except Unavailable as error:
            return classic.denied(Problem("UNAVAILABLE", str(error), NS_PER_S))
        if not isinstance(answer, m.Positions):
            return classic.denied(_not_served("riskd", answer))
        markets = self._shards.admission.markets
        positions = {
            markets[holding.instrument].name: classic.position(holding, markets[holding.instrument])
            for holding in answer.holdings
            if holding.instrument in markets
        }
        as_of = {
            shard: {"epoch": epoch, "seq": seq, "stale": not live}
            for shard, (epoch, seq, live) in sorted(answer.as_of.items())
        }
        stale = not all(live for _, _, live in answer.as_of.values())
        return Answer({"user_id": account, "positions": positions, "as_of": as_of, "stale": stale})

    def instruments(self) -> Answer:
        serving = self._shards.serving
        markets = self._shards.admission.markets.values()
        listed = [classic.instrument(market, serving=serving.get(market.shard, False)) for market in markets]
        return Answer({"instruments": listed, "map_version": self._shards.admission.routing.version})

    def time(self) -> Answer:
        now_ns = wall_ns()
        body = {"server_time_ns": now_ns, "server_time_ms": now_ns // NS_PER_MS, "iso": classic.instant(now_ns)}
        return Answer(body)

    # --- health -------------------------------------------------------------------------------------------------

    async def health(self, *, strict: bool) -> Answer:
        """200 for healthy and degraded, 503 only when no shard takes orders; `strict`: 503 for degraded too."""
        cluster, (latencies, failed) = await asyncio.gather(self._cluster.get(), self._probe.get())
        total, serving = len(self._shards.links), len(latencies)
        memory = psutil.virtual_memory().percent
        slowest_us = max(latencies, default=0)
        engine: dict[str, Any] = {
            "status": "healthy" if slowest_us < HEALTHY_LATENCY_US else "degraded",
            "latency_us": slowest_us,
        }
        if not latencies:
            engine = {"status": "unhealthy", "error": failed or "no shard takes orders"}
        components: dict[str, dict[str, Any]] = {
            "matching_engine": engine,
            "memory": {
                "status": "healthy" if memory < HEALTHY_MEMORY_PERCENT else "warning",
                "usage_percent": memory,
            },
            "shards": {
                "status": "unhealthy"
                if not serving
                else "healthy"
                if serving == total and _paired(cluster)
                else "degraded",
                "serving": serving,
                "total": total,
            },
        }
        for name, role in _ROLES.items():
            components[name] = {"status": self._component(cluster, role)}
        components["coordinator"] = {"status": "healthy" if cluster is not None else "unhealthy"}
        status = "healthy"
        if any(component["status"] not in _SUMMARY_OFF for component in components.values()):
            status = "degraded"
        if not latencies:
            status = "unhealthy"
        http = 503 if status == "unhealthy" or (strict and status == "degraded") else 200
        body = {"status": status, "timestamp": wall_ns() / NS_PER_S, "components": components}
        return Answer(body, http, wait_s=1 if http == 503 else 0, headers={"X-Health": status})

    def ready(self, *, draining: bool) -> Answer:
        """503 while starting or draining: do not route new clients here."""
        serving = self._shards.serving
        ready = self._shards.known and any(serving.values()) and not draining
        body = {"ready": ready, "draining": draining, "shards": serving}
        return Answer(body, 200 if ready else 503, wait_s=0 if ready else 1)

    async def status(self) -> Answer:
        """Everything that is known, always 200."""
        cluster = await self._cluster.get()
        body = {
            "health": cluster.health if cluster is not None else "unknown",
            "map_version": self._shards.admission.routing.version,
            "shards": {shard: _shard(link, cluster) for shard, link in self._shards.links.items()},
            "daemons": [
                {
                    "role": daemon.role,
                    "name": daemon.name,
                    "pid": daemon.pid,
                    "health": daemon.health,
                    "age_ms": daemon.age_ms,
                    "stats": daemon.stats,
                }
                for daemon in (cluster.daemons if cluster is not None else [])
            ],
        }
        return Answer(body)

    async def performance(self) -> Answer:
        """Rates and latency of the last minute, totals since start."""
        return Answer(await self._performance.get())

    async def metrics(self) -> bytes:
        """Prometheus text."""
        cluster = await self._cluster.get()
        return expose(self._shards.links, len(self._connections), cluster)

    # --- helpers ------------------------------------------------------------------------------------------------

    def _component(self, cluster: m.ClusterStatus | None, role: str) -> str:
        if role == "marketmaker" and not self._market_maker:
            return "disabled"
        if cluster is None:
            return "unknown"
        healths = [daemon.health for daemon in cluster.daemons if daemon.role == role]
        if not healths or "down" in healths:
            return "unhealthy"
        return "healthy" if all(health == "healthy" for health in healths) else "degraded"

    async def _ask_cluster(self) -> m.ClusterStatus | None:
        answer = await self._control.ask(encode(m.AskStatus()), m.ClusterStatus, ASK_S)
        return answer if isinstance(answer, m.ClusterStatus) else None

    async def _probe_shards(self) -> tuple[list[int], str]:
        """Round trip of a question without effect through each serving shard's log, in microseconds; and who failed."""
        links = [link for link in self._shards.links.values() if link.lane.serving]
        results = await asyncio.gather(*[_probe(link) for link in links])
        failed = [
            f"shard {link.lane.shard} did not answer" for link, us in zip(links, results, strict=True) if us is None
        ]
        return [us for us in results if us is not None], "; ".join(failed)

    async def _measure(self) -> dict[str, Any]:
        now_ns = monotonic_ns()
        system = {
            "memory_mb": round(self._process.memory_info().rss / 1_048_576, 1),
            "cpu_percent": psutil.cpu_percent(),
            "active_connections": len(self._connections),
        }
        cluster = await self._cluster.get()
        beats = _primaries(cluster)
        stats = {shard: link.stats for shard, link in self._shards.links.items()}
        shards = {
            shard: {
                **_figures([own], [beats.get(shard, {})], now_ns, self._started_ns),
                "system": {**_NO_SYSTEM, "memory_mb": beats.get(shard, {}).get("memory_mb", 0)},
            }
            for shard, own in stats.items()
        }
        figures = _figures(list(stats.values()), list(beats.values()), now_ns, self._started_ns)
        return {**figures, "system": system, "window_s": WINDOW_S, "shards": shards}


def _shard(link: ShardLink, cluster: m.ClusterStatus | None) -> dict[str, Any]:
    """One shard: what its primary says of itself, its nodes, and what this gateway knows of it."""
    entry = link.lane.entry
    name = entry.node if entry is not None else ""
    shard = link.lane.shard
    daemons = [daemon for daemon in cluster.daemons if daemon.shard == shard] if cluster is not None else []
    seen = next((status for status in cluster.shards if status.shard == shard), None) if cluster is not None else None
    primary = next((daemon for daemon in daemons if daemon.name == name), None)
    return {
        **(primary.stats if primary is not None else {}),
        "role": "primary",
        "node": name,
        "epoch": entry.epoch if entry is not None else 0,
        "serving": link.lane.serving,
        "health": primary.health if primary is not None else "unknown",
        "pending": link.lane.pending,
        "resends": link.lane.resends,
        "unknown": link.stats.unknown,
        "not_executed": link.stats.not_executed,
        "flags": seen.flags if seen is not None else ["NO_FAILOVER"],
        "frozen_seq": seen.frozen_seq if seen is not None else 0,
        "skip": seen.skip if seen is not None else [],
        "in_sync": seen.isr if seen is not None else [],
        "nodes": {daemon.name: _node(daemon) for daemon in daemons},
    }


def _node(daemon: m.DaemonStatus) -> dict[str, Any]:
    keys = ("role", "mode", "epoch", "seq", "lag", "clock_off_ms", "poisoned_seq")
    said = {key: daemon.stats.get(key) for key in keys}
    return {**said, "health": daemon.health, "age_ms": daemon.age_ms}


def _primaries(cluster: m.ClusterStatus | None) -> dict[str, dict[str, Any]]:
    """What the primary of each shard said in its last heartbeat."""
    if cluster is None:
        return {}
    leaders = {status.primary: status.shard for status in cluster.shards}
    return {leaders[daemon.name]: daemon.stats for daemon in cluster.daemons if daemon.name in leaders}


def _paired(cluster: m.ClusterStatus | None) -> bool:
    """No shard lacks a copy that it should have, as far as is known."""
    return cluster is None or all(len(status.isr) >= len(status.nodes) for status in cluster.shards)


_NO_SYSTEM = {"memory_mb": 0, "cpu_percent": 0.0, "active_connections": 0}


async def _probe(link: ShardLink) -> int | None:
    started_ns = monotonic_ns()
    settled = await link.ask([m.QueryOpen(PROBE_ACCOUNT, limit=1)], started_ns + PROBE_NS)
    return (monotonic_ns() - started_ns) // NS_PER_US if settled.problem is None else None


def _figures(
    stats: list[ShardStats], beats: list[dict[str, Any]], now_ns: int, started_ns: int
) -> dict[str, dict[str, Any]]:
    """Orders and latency as this gateway saw them, trades as the shards count them in their heartbeats."""
    summary = summarize(stats, now_ns, started_ns)
    return {
        "throughput": {
            "orders_per_second": summary.per_second,
            "trades_per_second": sum(beat.get("trades_per_s", 0) for beat in beats),
            "total_orders": sum(shard.commands for shard in stats),
            "total_trades": sum(beat.get("trades", 0) for beat in beats),
        },
        "latency": summary.latency,
    }


def _not_served(who: str, answer: m.NotServed | m.Book | m.Trades) -> Problem:
    detail = answer.detail if isinstance(answer, m.NotServed) else f"a {type(answer).__name__} instead"
    return Problem("UNAVAILABLE", f"{who} answers: {detail}", NS_PER_S)
