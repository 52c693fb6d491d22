"""riskd's shell: the feed of all shards, a Router for questions, a checkpoint on the disk.

A checkpoint is written about once a second, less often when it is large, and at the end; a restart reads it and goes on
from its cursors. Without one, or when the shards no longer hold what came after it, positions come from images:
right at once, but their history is gone (riskd.core.positions).
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S
from exchange.errors import WireError
from exchange.feed import Feed
from exchange.process import ControlLink, Daemon, look_for_garbage_rarely, run_async
from exchange.sockets import Router, attach, open_private_directory
from exchange.wire import decode_risk_inbound, encode
from riskd.core import checkpoint
from riskd.core.checkpoint import CheckpointError
from riskd.core.positions import Positions

CHECKPOINT_S = 1.0
CHECKPOINT_SHARE = 20
"""At most one part in so many of riskd's time goes into checkpoints."""
QUESTION_BYTES_MAX = 4_096
QUESTIONS_PER_TURN = 64


def serve(daemon: Daemon) -> None:
    """Run until SIGTERM."""
    run_async(lambda stop: Riskd(daemon).run(stop))


class Riskd:
    """One riskd; it holds nothing that the shards' journals do not."""

    def __init__(self, daemon: Daemon) -> None:
        self._log = daemon.log
        self._process = psutil.Process()
        directory = daemon.config.data / "risk"
        open_private_directory(directory)
        self._file = directory / "checkpoint"
        self._checkpoint = "none yet"
        self._positions = self._recover()
        self._map: m.ShardMap | None = None
        self._router = Router()
        self._router.bind(daemon.config.endpoint("risk"))
        self._feed = Feed(
            f"{daemon.role}:{daemon.name}",
            on_frame=self._positions.on_frame,
            on_image=self._on_image,
            log=daemon.log,
            cursors={shard: ledger.cursor for shard, ledger in self._positions.ledgers.items()},
        )
        endpoints = {"risk": daemon.config.endpoint("risk")}
        self._control = ControlLink(daemon, endpoints=endpoints, stats=self._stats, on_map=self._on_map)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then write the last checkpoint."""
        detach = attach(self._router, self._drain)
        look_for_garbage_rarely()
        self._log.info("serving", shards=sorted(self._positions.ledgers))
        await self._write_checkpoints(stop)
        await self._feed.close()
        await self._control.close()
        detach()
        self._router.close()
        await self._write_checkpoint()

    def _recover(self) -> Positions:
        try:
            positions = checkpoint.decode(self._file.read_bytes())
        except FileNotFoundError:
            return Positions()
        except (CheckpointError, OSError) as error:
            self._log.warning("starting without history", file=str(self._file), error=str(error))
            return Positions()
        cursors = {shard: ledger.cursor.seq for shard, ledger in positions.ledgers.items()}
        self._log.info("checkpoint", **cursors)
        return positions

    def _on_map(self, map_: m.ShardMap) -> None:
        self._map = map_
        self._positions.on_map(map_.instruments)
        self._feed.on_map(map_)

    def _on_image(self, shard: str, head: m.FrameHead) -> None:
        before = self._positions.ledger(shard).cursor
        self._positions.on_image(shard, head)
        self._log.warning("history lost: positions from an image", shard=shard, before=before.seq, seq=head.last_seq)

    def _drain(self) -> bool:
        for _ in range(QUESTIONS_PER_TURN):
            received = self._router.receive()
            if received is None:
                return False
            peer, header, payload = received
            try:
                if len(header) > QUESTION_BYTES_MAX or payload:
                    raise WireError(
                        f"question of {len(header)} + {len(payload)} bytes, at most {QUESTION_BYTES_MAX} + 0"
                    )
                answer = self._answer(decode_risk_inbound(header))
            except WireError as error:
                self._log.warning("dropped", error=str(error))
            else:
                self._router.send(peer, encode(answer))
        return True

    def _answer(self, question: m.AskPositions) -> m.Positions | m.NotServed:
        if self._map is None:
            return m.NotServed(question.request, "riskd has not heard from the coordinator yet")
        now_ns = monotonic_ns()
        as_of = {entry.shard: (0, 0, False) for entry in self._map.shards}
        for shard, follower in self._feed.followers.items():
            as_of[shard] = (follower.cursor.epoch, follower.cursor.seq, follower.live(now_ns))
        account = question.account
        holdings, exposure = self._positions.holdings(account), self._positions.exposure(account)
        return m.Positions(question.request, account, holdings, as_of, exposure)

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        now_ns = monotonic_ns()
        followers = self._feed.followers
        shards = [] if self._map is None else [entry.shard for entry in self._map.shards]
        live = [shard for shard in shards if shard in followers and followers[shard].live(now_ns)]
        stats: dict[str, Any] = {
            "accounts": self._positions.accounts(),
            "lag": sum(follower.lag for follower in followers.values()),
            "shards_live": len(live),
            "gaps": sum(follower.gaps for follower in followers.values()),
            "images": sum(follower.images for follower in followers.values()),
            "conservation": self._positions.conservation(),
            "checkpoint": self._checkpoint,
            "memory_mb": self._process.memory_info().rss >> 20,
        }
        stats |= {f"seq.{shard}": ledger.cursor.seq for shard, ledger in self._positions.ledgers.items()}
        return bool(shards) and len(live) == len(shards), stats

    async def _write_checkpoints(self, stop: asyncio.Event) -> None:
        pause_s = CHECKPOINT_S
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                pause_s = max(CHECKPOINT_S, CHECKPOINT_SHARE * await self._write_checkpoint())

    async def _write_checkpoint(self) -> float:
        """Seconds that the loop stood still for it. A disk that fails costs history at the next start, nothing now."""
        started_ns = monotonic_ns()
        encoded = checkpoint.encode(self._positions)
        stood_s = (monotonic_ns() - started_ns) / NS_PER_S
        try:
            await asyncio.to_thread(_replace, self._file, encoded)
        except OSError as fault:
            self._log.error("no checkpoint", file=str(self._file), error=str(fault))
            self._checkpoint = f"failed: {fault}"
        else:
            self._checkpoint = "ok"
        return stood_s


def _replace(file: Path, encoded: bytes) -> None:
    """Durable and all or nothing: written aside, synced, renamed, the directory synced."""
    aside = file.with_suffix(".tmp")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as stream:
            stream.write(encoded)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside.rename(file)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
