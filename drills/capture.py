"""A subscriber that believes nothing: it follows every shard's committed stream as marketdata does, and writes down
what it took. The file is what `shardex check --captures` reads.
"""

import asyncio
import os
from pathlib import Path
from zlib import crc32

import msgspec

from drills.checker.history import Capture, image_crc
from exchange import logs
from exchange import messages as m
from exchange.config import Config
from exchange.errors import WireError
from exchange.feed import Feed
from exchange.sockets import Dealer, attach
from exchange.wire import decode_coordinator_outbound, encode

ASK_S = 0.2
_encode_line = msgspec.json.Encoder().encode


class Subscriber:
    """Lives in a running loop; needs the transport of this process to be open."""

    def __init__(self, config: Config, name: str, path: Path) -> None:
        self.frames = 0
        self.images = 0
        self._name = name
        self._file = path.open("wb", buffering=1 << 16)
        self._at: dict[str, int] = {}
        self._feed = Feed(
            f"{name}:{os.getpid()}", on_frame=self._on_frame, on_image=self._on_image, log=logs.configure("drill", name)
        )
        self._control = Dealer(f"cli:{name}-{os.getpid()}", hwm=16)
        self._control.connect(config.endpoint("control"))
        self._detach = attach(self._control, self._drain)
        self._ticker = asyncio.get_running_loop().create_task(self._ask())

    def flush(self) -> None:
        """Everything taken can be read by others."""
        self._file.flush()

    async def close(self) -> None:
        """Stop following and write the rest."""
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        self._detach()
        self._control.close()
        await self._feed.close()
        self._file.close()

    async def _ask(self) -> None:
        """Who leads which shard: the coordinator tells only those who ask, or are registered."""
        while True:
            self._control.send(encode(m.AskMap()))
            await asyncio.sleep(ASK_S)

    def _drain(self) -> bool:
        while (received := self._control.receive()) is not None:
            try:
                message = decode_coordinator_outbound(received[0])
            except WireError:
                continue
            if isinstance(message, m.ShardMap):
                self._feed.on_map(message)
        return False

    def _on_frame(self, shard: str, head: m.FrameHead) -> None:
        self.frames += 1
        self._note(shard, head, image=False, crc=crc32(encode(head)))

    def _on_image(self, shard: str, head: m.FrameHead) -> None:
        self.images += 1
        self._note(shard, head, image=True, crc=image_crc(encode(head)))

    def _note(self, shard: str, head: m.FrameHead, *, image: bool, crc: int) -> None:
        before = self._at.get(shard, 0)
        first_seq = head.last_seq if image else head.first_seq
        capture = Capture(self._name, shard, head.epoch, first_seq, head.last_seq, before, image, crc)
        self._at[shard] = head.last_seq
        self._file.write(_encode_line(capture) + b"\n")
