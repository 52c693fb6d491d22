"""Who gets what: channels, clients, conflation, slow consumers. Pure: it holds bytes and never sends them.

Laws
    An update is encoded once; every client gets the same bytes.
    A *queued* channel delivers every frame in order. A *conflated* one owes each client only its newest frame, so a
    client that reads slowly skips frames of it but always ends with the newest.
    What a client cannot take yet waits here and not in its socket, so that it can still be conflated. Beyond
    FEED_QUEUE_MESSAGES_MAX or FEED_QUEUE_BYTES_MAX of waiting frames the client is too slow and must go.

A round is `spread` (channels to clients), then `take` for each of `waiting` that can be written to. It costs
O(changed channels x their clients), whatever the number of frames in them.
"""

from exchange.limits import FEED_QUEUE_BYTES_MAX, FEED_QUEUE_MESSAGES_MAX

Key = tuple[int, str]
"""(index of the instrument, feed type)"""


class Client:
    """One subscriber and what waits for it. Created by `Fanout.join`."""

    __slots__ = ("channels", "messages", "newest", "number", "queue", "size")

    def __init__(self, number: int) -> None:
        self.number = number
        self.channels: dict[Key, Channel] = {}
        self.queue: list[bytes] = []
        self.messages = 0
        self.size = 0
        self.newest: dict[Key, bytes] = {}

    @property
    def overflows(self) -> bool:
        """More waits than a client may leave unread."""
        return self.messages > FEED_QUEUE_MESSAGES_MAX or self.size > FEED_QUEUE_BYTES_MAX


class Channel:
    """One feed of one instrument: its clients, and the frames published since the last round."""

    __slots__ = ("clients", "conflated", "frames", "key")

    def __init__(self, key: Key, *, conflated: bool) -> None:
        self.key = key
        self.conflated = conflated
        self.clients: dict[int, Client] = {}
        self.frames: list[bytes] = []


class Fanout:
    """All clients and channels. `conflated` = the feed types of which only the newest frame counts."""

    def __init__(self, conflated: tuple[str, ...]) -> None:
        self._conflated = conflated
        self._numbers = 0
        self.clients: dict[int, Client] = {}
        self.channels: dict[Key, Channel] = {}
        self._published: dict[Key, Channel] = {}
        self._waiting: dict[int, Client] = {}
        self.delivered = 0
        """Messages handed out by `take`."""
        self.skipped = 0
        """Messages that a client was spared because a newer one replaced them."""

    def join(self) -> Client:
        """A new client without subscriptions."""
        self._numbers += 1
        client = self.clients[self._numbers] = Client(self._numbers)
        return client

    def leave(self, client: Client) -> None:
        """Forget a client and what waits for it. Doing so twice does no harm."""
        for key in list(client.channels):
            self.unsubscribe(client, key)
        self.clients.pop(client.number, None)
        self._waiting.pop(client.number, None)

    def subscribe(self, client: Client, key: Key) -> bool:
        """Add a client to a channel; False when it is there already. It gets what is published from now on."""
        if key in client.channels:
            return False
        self.spread()
        channel = self.channels.get(key)
        if channel is None:
            channel = self.channels[key] = Channel(key, conflated=key[1] in self._conflated)
        channel.clients[client.number] = client
        client.channels[key] = channel
        return True

    def unsubscribe(self, client: Client, key: Key) -> bool:
        """Take a client from a channel; False when it was not there. A channel without clients ends."""
        channel = client.channels.pop(key, None)
        if channel is None:
            return False
        client.newest.pop(key, None)
        del channel.clients[client.number]
        if not channel.clients:
            del self.channels[key]
            self._published.pop(key, None)
        return True

    def publish(self, key: Key, frame: bytes) -> None:
        """Send a frame to all clients of a channel in the next round. No channel, no effect."""
        channel = self.channels.get(key)
        if channel is not None:
            channel.frames.append(frame)
            self._published[key] = channel

    def tell(self, client: Client, frame: bytes) -> None:
        """Send a frame to one client, behind all that waits for it (conflated frames come last anyway)."""
        client.queue.append(frame)
        client.messages += 1
        client.size += len(frame)
        self._waiting[client.number] = client

    def tell_all(self, frame: bytes) -> None:
        """Send a frame to every client."""
        for client in self.clients.values():
            self.tell(client, frame)

    @property
    def due(self) -> bool:
        """A round would have something to do."""
        return bool(self._published or self._waiting)

    def spread(self) -> None:
        """Hand what was published to the clients of each channel."""
        waiting = self._waiting
        for key, channel in self._published.items():
            frames, channel.frames = channel.frames, []
            if channel.conflated:
                newest = frames[-1]
                for number, client in channel.clients.items():
                    if key in client.newest:
                        self.skipped += 1
                    client.newest[key] = newest
                    waiting[number] = client
                self.skipped += (len(frames) - 1) * len(channel.clients)
                continue
            block = b"".join(frames)
            count, size = len(frames), len(block)
            for number, client in channel.clients.items():
                client.queue.append(block)
                client.messages += count
                client.size += size
                waiting[number] = client
        self._published.clear()

    def waiting(self) -> list[Client]:
        """Clients for which something waits, in the order in which it came."""
        return list(self._waiting.values())

    def take(self, client: Client) -> bytes:
        """All that waits for a client, in one piece: queued frames in order, then the newest of conflated channels."""
        blocks = client.queue
        if client.newest:
            blocks.extend(client.newest.values())
            self.delivered += len(client.newest)
            client.newest.clear()
        self.delivered += client.messages
        client.queue = []
        client.messages = client.size = 0
        del self._waiting[client.number]
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)
