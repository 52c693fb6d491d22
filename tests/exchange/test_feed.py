"""The asyncio side of following: real sockets, a shard that restarts or moves, an owner that refuses a frame."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import structlog
import structlog.testing

from exchange import messages as m
from exchange.errors import WireError
from exchange.feed import Feed
from exchange.follower import Cursor
from exchange.sockets import Publisher, Router, attach
from exchange.wire import decode_shard_inbound, encode, join_array

LOG = structlog.stdlib.get_logger()


def frame(seq: int) -> bytes:
    return encode(m.EventFrame(1, seq, seq, seq, [], [], [], [], []))


class Shard:
    """Speaks a shard's two sockets: publishes, and answers Follow from everything it ever published."""

    def __init__(self, directory: Path, name: str = "s0", *, image_below: int = 0) -> None:
        self.entry = m.ShardEntry(name, 1, "n", 1, f"ipc://{directory}/o", f"ipc://{directory}/e", True)
        self.asked: list[int] = []
        self._image_below = image_below
        self._image_seq = 0
        self._seq = 0
        self._events, self._orders = Publisher(), Router()
        self._events.bind(self.entry.events_endpoint)
        self._orders.bind(self.entry.orders_endpoint)
        self._detach = attach(self._orders, self._drain)

    def publish(self, count: int = 1, *, lose: bool = False) -> None:
        for _ in range(count):
            self._seq += 1
            header = encode(m.Published(self.entry.shard, 1, self._seq - 1, self._seq))
            if not lose:
                self._events.send(header, frame(self._seq))

    def say(self, header: bytes, payload: bytes) -> None:
        self._events.send(header, payload)

    def close(self) -> None:
        self._detach()
        self._events.close()
        self._orders.close()

    def _drain(self) -> bool:
        while (received := self._orders.receive()) is not None:
            peer, header, _ = received
            follow = decode_shard_inbound(header)
            assert isinstance(follow, m.Follow)
            self.asked.append(follow.after_seq)
            if follow.after_seq < self._image_below:
                # A question that was asked again gets the same answer again.
                self._image_seq = self._image_seq or self._seq
                answer = m.Image(self.entry.shard, follow.after_seq, self._image_seq)
                self._orders.send(peer, encode(answer), frame(self._image_seq))
                continue
            wanted = [frame(seq) for seq in range(follow.after_seq + 1, self._seq + 1)]
            answer = encode(m.Frames(self.entry.shard, follow.after_seq, self._seq, False))
            self._orders.send(peer, answer, join_array(wanted, len(wanted)))
        return False


class Owner:
    """Writes down what it gets; refuses a frame as often as told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, int]] = []
        self.refuse: dict[int, int] = {}

    def on_frame(self, shard: str, head: m.FrameHead) -> None:
        if self.refuse.get(head.last_seq, 0) > 0:
            self.refuse[head.last_seq] -= 1
            raise WireError(f"frame {head.last_seq} is not to my taste")
        self.got.append((shard, "frame", head.last_seq))

    def on_image(self, shard: str, head: m.FrameHead) -> None:
        self.got.append((shard, "image", head.last_seq))

    @property
    def seqs(self) -> list[int]:
        return [seq for _, _, seq in self.got]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def feed(owner: Owner) -> AsyncIterator[Feed]:
    feed = Feed("riskd:r0", on_frame=owner.on_frame, on_image=owner.on_image, log=LOG)
    yield feed
    await feed.close()


def map_of(*entries: m.ShardEntry, version: int = 1) -> m.ShardMap:
    return m.ShardMap(version, list(entries), [])


async def test_what_was_missed_is_fetched_and_the_rest_is_followed(tmp_path: Path, feed: Feed, owner: Owner) -> None:
    shard = Shard(tmp_path)
    shard.publish(5)
    feed.on_map(map_of(shard.entry))
    await until(lambda: len(owner.got) == 5)
    shard.publish(1, lose=True)
    shard.publish(3)
    await until(lambda: len(owner.got) >= 9)
    assert owner.seqs == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    shard.close()


async def test_the_owner_s_own_state_is_the_start(tmp_path: Path, owner: Owner) -> None:
    shard = Shard(tmp_path)
    shard.publish(7)
    cursors = {"s0": Cursor(1, 4)}
    feed = Feed("riskd:r0", on_frame=owner.on_frame, on_image=owner.on_image, log=LOG, cursors=cursors)
    feed.on_map(map_of(shard.entry))
    await until(lambda: len(owner.got) >= 3)
    assert owner.seqs == [5, 6, 7]
    assert shard.asked[0] == 4
    await feed.close()
    shard.close()


async def test_a_late_consumer_gets_an_image(tmp_path: Path, feed: Feed, owner: Owner) -> None:
    shard = Shard(tmp_path, image_below=50)
    shard.publish(60)
    feed.on_map(map_of(shard.entry))
    await until(lambda: bool(owner.got))
    shard.publish(2)
    await until(lambda: len(owner.got) >= 3)
    assert owner.got == [("s0", "image", 60), ("s0", "frame", 61), ("s0", "frame", 62)]
    shard.close()


async def test_a_shard_that_moves_is_followed_from_the_cursor(tmp_path: Path, feed: Feed, owner: Owner) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    old, new = Shard(tmp_path / "a"), Shard(tmp_path / "b")
    old.publish(3)
    new.publish(5)
    feed.on_map(map_of(old.entry))
    await until(lambda: len(owner.got) == 3)
    old.close()
    feed.on_map(map_of(new.entry, version=2))
    await until(lambda: len(owner.got) >= 5)
    assert owner.seqs == [1, 2, 3, 4, 5]
    assert new.asked[0] == 3
    new.close()


async def test_each_shard_has_its_own_cursor_and_one_without_an_address_waits(
    tmp_path: Path, feed: Feed, owner: Owner
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = Shard(tmp_path / "a", "s0"), Shard(tmp_path / "b", "s1")
    nobody = m.ShardEntry("s2", 0, "", 0, "", "", False)
    one.publish(2)
    two.publish(4)
    feed.on_map(map_of(one.entry, two.entry, nobody))
    await until(lambda: len(owner.got) >= 6)
    assert [got for got in owner.got if got[0] == "s0"] == [("s0", "frame", 1), ("s0", "frame", 2)]
    assert [seq for name, _, seq in owner.got if name == "s1"] == [1, 2, 3, 4]
    assert sorted(feed.followers) == ["s0", "s1"]
    one.close()
    two.close()


async def test_a_frame_the_owner_refuses_comes_again(tmp_path: Path, feed: Feed, owner: Owner) -> None:
    owner.refuse = {3: 2}
    shard = Shard(tmp_path)
    shard.publish(5)
    feed.on_map(map_of(shard.entry))
    await until(lambda: len(owner.got) >= 5)
    assert owner.seqs == [1, 2, 3, 4, 5]
    shard.close()


async def test_garbage_on_the_event_socket_is_reported_and_harms_nothing(
    tmp_path: Path, feed: Feed, owner: Owner
) -> None:
    shard = Shard(tmp_path)
    shard.publish(1)
    feed.on_map(map_of(shard.entry))
    await until(lambda: len(owner.got) == 1)
    with structlog.testing.capture_logs() as logs:
        await until(lambda: shard.say(b"", b"") or bool(logs))  # the first ones go nowhere until it listens
        heard = len(logs)
        shard.say(b"\xc1", frame(2))
        shard.say(encode(m.Published("s0", 1, 1, 2)), b"\x93")
        shard.publish(2)
        # The frames may come as an answer, past the garbage that is still on its way.
        await until(lambda: len(owner.got) >= 3 and len(logs) >= heard + 2)
    assert owner.seqs == [1, 2, 3]
    assert {log["event"] for log in logs} == {"malformed stream"}
    shard.close()
