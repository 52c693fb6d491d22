"""The marketdata daemon: committed streams in, WebSocket feeds and answers to gateways out. Shell."""

import asyncio
from collections.abc import Mapping
from typing import Any

import psutil

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_S
from exchange.errors import WireError
from exchange.feed import Feed
from exchange.limits import TICK_INTERVAL_NS
from exchange.process import ControlLink, Daemon, background, look_for_garbage_rarely, run_async
from exchange.sockets import Router, attach
from exchange.wire import decode_market_inbound, encode
from marketdata.feeds import Feeds
from marketdata.websocket import Door

QUESTIONS_PER_TURN = 256
_TICKS_PER_SECOND = NS_PER_S // TICK_INTERVAL_NS


def serve(daemon: Daemon) -> None:
    """Run until SIGTERM or SIGINT."""
    run_async(MarketData(daemon).run)


class MarketData:
    """Wires the sockets of one daemon to its `Feeds`."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._feeds = Feeds()
        self._door = Door(
            self._feeds,
            connections_max=daemon.config.marketdata.connections_max,
            readiness=self._readiness,
            log=daemon.log,
        )
        self._process = psutil.Process()
        self._deliveries_per_s = 0
        self._was_ready = False
        self._feed: Feed
        self._link: ControlLink
        self._questions: Router

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        daemon, config = self._daemon, self._daemon.config
        self._questions = Router()
        self._questions.bind(config.endpoint("market"))
        await self._door.open(config.marketdata.host, config.marketdata.port)
        address = f"{config.marketdata.host}:{self._door.port}"
        detach = attach(self._questions, self._answer)
        self._feed = Feed(
            f"{daemon.role}:{daemon.name}", on_frame=self._on_frame, on_image=self._on_image, log=daemon.log
        )
        self._link = ControlLink(
            daemon,
            endpoints={"market": config.endpoint("market"), "feed": f"ws://{address}"},
            stats=self._stats,
            on_map=self._on_map,
        )
        look_for_garbage_rarely()
        daemon.log.info("listening", address=address)
        ticker = background(self._tick())
        await stop.wait()
        ticker.cancel()
        await self._door.close()
        await self._link.close()
        await self._feed.close()
        detach()
        self._questions.close()

    def _on_map(self, map_: m.ShardMap) -> None:
        self._feeds.on_map(map_)
        self._feed.on_map(map_)

    def _on_frame(self, shard: str, head: m.FrameHead) -> None:
        self._feeds.on_frame(shard, head)
        self._door.wake()

    def _on_image(self, shard: str, head: m.FrameHead) -> None:
        self._feeds.on_image(shard, head)
        self._daemon.log.info("image", shard=shard, seq=head.last_seq)
        self._door.wake()

    async def _tick(self) -> None:
        """Liveness ten times a second; heartbeats and rates each second."""
        ticks = delivered = 0
        while True:
            now_ns = monotonic_ns()
            for shard, follower in self._feed.followers.items():
                self._feeds.on_liveness(shard, follower.live(now_ns), wall_ns())
            ready, _ = self._readiness()
            if ready is not self._was_ready:
                self._was_ready = ready
                self._link.beat_now()
            ticks += 1
            if ticks % _TICKS_PER_SECOND == 0:
                self._door.on_second(now_ns)
                self._deliveries_per_s = self._feeds.fanout.delivered - delivered
                delivered = self._feeds.fanout.delivered
            self._door.wake()
            await asyncio.sleep(TICK_INTERVAL_NS / NS_PER_S)

    def _answer(self) -> bool:
        """Answer questions of gateways; one that cannot be read is answered with request 0."""
        for _ in range(QUESTIONS_PER_TURN):
            received = self._questions.receive()
            if received is None:
                return False
            peer, header, _ = received
            answer: m.MarketOutbound
            try:
                answer = self._feeds.answer(decode_market_inbound(header), wall_ns())
            except WireError as error:
                self._daemon.log.warning("question refused", error=str(error))
                answer = m.NotServed(0, str(error))
            self._questions.send(peer, encode(answer))
        return True

    def _readiness(self) -> tuple[bool, dict[str, bool]]:
        """Ready = at least one shard's stream is live: the others are shown as STALE, which is better than nothing."""
        shards = {shard: self._feeds.live(shard) for shard in self._feeds.mirrors}
        return any(shards.values()), shards

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        ready, shards = self._readiness()
        fanout = self._feeds.fanout
        return ready, {
            "clients": self._door.clients,
            "channels": len(fanout.channels),
            "symbols": self._feeds.symbols,
            "shards": len(shards),
            "live_shards": sum(shards.values()),
            "deliveries_per_s": self._deliveries_per_s,
            "conflated": fanout.skipped,
            "dropped_clients": self._door.dropped,
            "memory_mb": round(self._process.memory_info().rss / 1_048_576, 1),
            **{f"seq_{shard}": mirror.seq for shard, mirror in self._feeds.mirrors.items()},
        }
