"""Consumers of committed events that ask for what they have missed, until they are answered. Pure."""

from exchange import messages as m
from exchange.limits import INBOX_BATCHES_MAX
from exchange.wire import encode
from shard.core.engine import Engine
from shard.core.ring import Ring

Parcel = tuple[bytes, bytes, bytes]
"""(peer, header, payload) for the Router."""


class Followers:
    """By peer, the newest question of each; at most INBOX_BATCHES_MAX peers."""

    def __init__(self, shard: str, engine: Engine, ring: Ring) -> None:
        self._shard = shard
        self._engine = engine
        self._ring = ring
        self._after: dict[bytes, int] = {}

    def ask(self, peer: bytes, after_seq: int) -> None:
        """Somebody wants everything behind `after_seq`."""
        if len(self._after) < INBOX_BATCHES_MAX:
            self._after[peer] = after_seq

    @property
    def want_image(self) -> bool:
        """Somebody asks for what the ring does not hold."""
        return any(not self._ring.covers(after_seq) for after_seq in self._after.values())

    def answer(self, image_of_seq: int | None, *, leads: bool) -> list[Parcel]:
        """Frames while the ring has them, else an image; who can have neither waits on.

        `image_of_seq` = where the engine stands, None while it holds what is not committed. A node that does not `lead`
        may be asked by one who was told more by the primary than has come here.
        """
        if not self._after:
            return []
        parcels: list[Parcel] = []
        later: dict[bytes, int] = {}
        image = b""
        for peer, after_seq in self._after.items():
            if self._ring.covers(after_seq):
                chunk = self._ring.chunk(after_seq)
                frames = m.Frames(self._shard, chunk.first_seq, chunk.last_seq, chunk.more)
                parcels.append((peer, encode(frames), chunk.payload))
            elif image_of_seq is None or (after_seq > image_of_seq and not leads):
                later[peer] = after_seq
            else:
                image = image or self._ring.with_recent_trades(self._engine.image())
                parcels.append((peer, encode(m.Image(self._shard, after_seq, image_of_seq)), image))
        self._after = later
        return parcels
