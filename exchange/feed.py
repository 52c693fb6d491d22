"""The committed streams of all shards for an asyncio daemon: sockets, followers and the ticker that drives them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import assert_never

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.errors import WireError
from exchange.follower import START, Advanced, Ask, Cursor, Follower, Output
from exchange.limits import TICK_INTERVAL_NS
from exchange.process import Log, background
from exchange.sockets import Dealer, Subscriber, attach
from exchange.wire import decode_published, decode_shard_outbound, encode

FRAMES_PER_TURN = 256
"""Messages of one socket that are taken in one loop turn; other work of the loop gets its turn in between."""
ASKS_QUEUED_MAX = 4
"""Questions that wait for a shard that is away; more would only be repetitions."""

Deliver = Callable[[str, m.FrameHead], None]


class Feed:
    """Follows every shard of the newest map and calls the owner with (shard, frame) and (shard, image), in order.

    Trades of an image are recent ones that may have been delivered before. An owner that raises WireError (a section
    of the frame is malformed) must have changed nothing: it gets the same frame again later, and the stream is not
    live until then. `cursors` = where the owner's own state stands; a shard that is not in it is read from its start.
    """

    def __init__(
        self,
        consumer: str,
        *,
        on_frame: Deliver,
        on_image: Deliver,
        log: Log,
        cursors: Mapping[str, Cursor] | None = None,
    ) -> None:
        self._consumer = consumer
        self._on_frame = on_frame
        self._on_image = on_image
        self._log = log
        self._cursors = dict(cursors or {})
        self._streams: dict[str, _Stream] = {}
        self._ticker = background(self._tick())

    @property
    def followers(self) -> dict[str, Follower]:
        """By shard: cursor, lag, gaps, images and `live(now)`."""
        return {shard: stream.follower for shard, stream in self._streams.items()}

    def on_map(self, map_: m.ShardMap) -> None:
        """Connect to shards that are new or have moved. Their cursors stay."""
        for entry in map_.shards:
            stream = self._streams.get(entry.shard)
            if not entry.events_endpoint or (stream is not None and stream.serves(entry)):
                continue
            if stream is None:
                follower = Follower(entry.shard, self._consumer, self._cursors.get(entry.shard, START))
            else:
                stream.close()
                follower = stream.follower
            self._streams[entry.shard] = _Stream(
                entry, follower, consumer=self._consumer, deliver=self._deliver, log=self._log
            )

    async def close(self) -> None:
        """Stop following and close all sockets."""
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        for stream in self._streams.values():
            stream.close()

    async def _tick(self) -> None:
        while True:
            for stream in self._streams.values():
                stream.tick()
            await asyncio.sleep(TICK_INTERVAL_NS / 2 / 1e9)

    def _deliver(self, shard: str, advanced: Advanced) -> None:
        (self._on_image if advanced.image else self._on_frame)(shard, advanced.head)


class _Stream:
    """Sockets to one shard under its current address."""

    def __init__(
        self,
        entry: m.ShardEntry,
        follower: Follower,
        *,
        consumer: str,
        deliver: Callable[[str, Advanced], None],
        log: Log,
    ) -> None:
        self.follower = follower
        self._address = (entry.orders_endpoint, entry.events_endpoint)
        self._deliver = deliver
        self._log = log
        self._events = Subscriber()
        self._events.connect(entry.events_endpoint)
        self._orders = Dealer(consumer, hwm=ASKS_QUEUED_MAX)
        self._orders.connect(entry.orders_endpoint)
        self._detach = [attach(self._events, self._drain_events), attach(self._orders, self._drain_answers)]
        self._perform(follower.on_connect(monotonic_ns()))

    def serves(self, entry: m.ShardEntry) -> bool:
        """The shard is still at this address."""
        return self._address == (entry.orders_endpoint, entry.events_endpoint)

    def tick(self) -> None:
        """Let the follower see that time passes."""
        self._perform(self.follower.on_tick(monotonic_ns()))

    def close(self) -> None:
        """Close both sockets."""
        for detach in self._detach:
            detach()
        self._events.close()
        self._orders.close()

    def _drain_events(self) -> bool:
        for _ in range(FRAMES_PER_TURN):
            received = self._events.receive()
            if received is None:
                return False
            header, payload = received
            try:
                outputs = self.follower.on_published(decode_published(header), payload, monotonic_ns())
            except WireError as error:
                self._report(error)
            else:
                self._perform(outputs)
        return True

    def _drain_answers(self) -> bool:
        received = self._orders.receive()
        if received is None:
            return False
        header, payload = received
        try:
            message = decode_shard_outbound(header)
            if not isinstance(message, m.Frames | m.Image):
                raise WireError(f"answer to Follow is a {type(message).__name__}")
            outputs = self.follower.on_answer(message, payload, monotonic_ns())
        except WireError as error:
            self._report(error)
        else:
            self._perform(outputs)
        return True

    def _perform(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Ask():
                    # Refused when the shard is away and enough is queued: the next retry asks again.
                    self._orders.send(encode(output.follow))
                case Advanced():
                    try:
                        self._deliver(self.follower.shard, output)
                    except WireError as error:
                        self._report(error)
                        self.follower.retreat(output.before)
                        return
                case _:
                    assert_never(output)

    def _report(self, error: WireError) -> None:
        self._log.warning("malformed stream", shard=self.follower.shard, error=str(error))
