"""The coordinator as a process: registration, pushes, kill -9, a failing disk, garbage, operators' commands."""

import random
import resource
import signal
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from exchange import messages as m
from exchange.config import Replication
from exchange.domain import State
from exchange.process import EXIT_CONFIG, EXIT_IO
from exchange.sockets import Router, Waiter
from exchange.wire import decode_commands, decode_shard_inbound, encode
from tests.daemons import PATIENCE_S, Place, eventually

LEADS = {"role": "primary", "epoch": 1}
"""A node that leads term 1 says this in its heartbeats."""
FILE_BYTES = 8_192
"""Between the size of the log and that of the store's journal: with this limit the store fails and the log goes on."""


@pytest.fixture
def place() -> Iterator[Place]:
    with closing(Place()) as place:
        yield place


def test_daemons_come_are_told_of_each_other_and_are_seen(place: Place) -> None:
    process = place.start("coordinator", "c0")
    gateway, shard, cli = place.peer("gateway:g0"), place.peer("shard:s0-a"), place.peer("cli:1")
    assert gateway.register().epoch == 0
    registered = shard.register()
    assert registered.epoch == 1
    gateway.wait(m.ShardMap, lambda map_: map_.shards[0].epoch == 1)
    shard.beat(**LEADS, seq=12)
    gateway.wait(m.ShardMap, lambda map_: map_.shards[0].serving)

    def seen() -> m.ClusterStatus | None:
        """The node says it again with every look: a word that is some moments old counts no more."""
        shard.beat(**LEADS, seq=12)
        status = cli.ask(m.AskStatus(), m.ClusterStatus)
        [row] = [row for row in status.daemons if row.name == "s0-a"]
        return status if (row.health, row.stats) == ("healthy", {**LEADS, "seq": 12}) else None

    status = eventually(seen, "a node that is well")
    rows = {(row.role, row.name): row for row in status.daemons}
    assert status.health == "degraded"
    assert rows["coordinator", "c0"].health == "healthy"
    assert [rows[key].health for key in (("shard", "s1-a"), ("marketdata", "m0"), ("riskd", "r0"))] == ["down"] * 3
    gateway.wait(m.ShardMap, lambda map_: not map_.shards[0].serving)
    assert place.kill(process, signal.SIGTERM) == 0


def test_a_killed_coordinator_goes_on_from_its_store() -> None:
    with closing(Place(replication=Replication(suspect_ms=600_000))) as place:  # silence is nobody's end here
        process = place.start("coordinator", "c0")
        shard = place.peer("shard:s0-a")
        shard.register()
        version = shard.beat(**LEADS).map_version
        for term in (2, 3, 4):
            place.kill(process)
            process = place.start("coordinator", "c0")
            shard.beat(**LEADS)  # first of all: a node from before must be heard within a second
            status = shard.ask(
                m.AskStatus(), m.ClusterStatus, lambda s, term=term: s.daemons[0].stats.get("term") == term
            )
            assert status.daemons[0].stats["map_version"] == version
            assert shard.beat(**LEADS) == m.BeatSeen(version, True)


def test_a_second_coordinator_on_the_same_store_is_refused(place: Place) -> None:
    first = place.start("coordinator", "c0")
    peer = place.peer("gateway:g0")
    peer.register()
    second = place.start("coordinator", "c0")
    assert second.wait(timeout=PATIENCE_S) == EXIT_CONFIG
    assert f"in use by another coordinator (pid {first.pid})" in place.log(1).read_text()
    assert peer.beat().known


def test_a_disk_that_fails_ends_the_coordinator(place: Place) -> None:
    process = place.start("coordinator", "c0")
    peer = place.peer("gateway:g0")
    peer.register()
    assert (place.config.data / "control" / "control.db-wal").stat().st_size > FILE_BYTES > place.log(0).stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    peer.send(m.Register("gateway", "g0", 1, "another-process", 0, 0, {}))
    assert process.wait(timeout=PATIENCE_S) == EXIT_IO
    assert "control store" in place.log(0).read_text()
    again = place.start("coordinator", "c0")
    assert peer.beat().known
    assert again.poll() is None


def test_garbage_is_counted_and_harms_nothing(place: Place) -> None:
    process = place.start("coordinator", "c0")
    peer, hostile = place.peer("gateway:g0"), place.peer("gateway:g9")
    peer.register()
    dice = random.Random(7)
    good = encode(m.Register("gateway", "g9", 1, "u", 0, 0, {}))
    garbage = [dice.randbytes(dice.randrange(60)) for _ in range(100)]
    garbage += [good[:length] for length in range(len(good))]
    garbage += [encode([21, "gateway", "g0", 1, "u", 0, 0, {}]), encode([23] * 7), b"\xdd\xff\xff\xff\xff"]
    garbage += [encode(m.Beat("gateway", "g9", 1, 0, True, {"x": "y" * 1_000_000})), b"\x91" * 5_000]
    garbage += [encode(m.Switch("me", "s0")), encode(m.AskIsr("s0", 1, 1, 1, "s0-a", 1, []))]
    for message in garbage:
        hostile.socket.send(message)
    hostile.socket.send(good, b"a second part that does not belong")
    counted = len(garbage) + 1
    status = peer.ask(m.AskStatus(), m.ClusterStatus, lambda s: s.daemons[0].stats.get("malformed", 0) >= counted)
    assert [row.name for row in status.daemons if row.role == "gateway"] == ["g0"]
    assert peer.beat().known
    assert process.poll() is None


def test_an_operator_s_command_reaches_the_shard_and_its_answer_comes_back(place: Place) -> None:
    place.start("coordinator", "c0")
    shard, cli = place.peer("shard:s0-a"), place.peer("cli:1")
    orders = Router()
    endpoint = place.config.endpoint("orders.s0-a")
    shard.register(endpoints={"orders": endpoint, "events": place.config.endpoint("events.s0-a")})
    orders.bind(endpoint)
    halt = m.SetState(0, State.HALT, "alice")
    cli.send(m.Administer("alice", "", msgspec.Raw(encode([halt]))))
    waiter = Waiter(orders)
    while (received := orders.receive()) is None:
        waiter.wait(1_000)
    sender, header, payload = received
    batch = decode_shard_inbound(header)
    assert sender == b"coordinator"
    assert isinstance(batch, m.Batch)
    assert (batch.sender, batch.epoch, batch.count) == ("coordinator", 1, 1)
    assert decode_commands(payload) == [halt]
    orders.send(sender, encode(m.Answers(batch.batch, 1)), encode([m.Done(1, 2, 3)]))
    said = cli.wait(m.Administered, lambda _: True)
    assert said.results == {"s0": "done", "s1": "the shard has never been up"}
    orders.close()
