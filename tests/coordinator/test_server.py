"""The coordinator as a process: registration, pushes, kill -9, a failing disk, garbage, operators' commands."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.config import Cluster, Config, InstrumentEntry, Shard, render
from exchange.domain import NS_PER_S, State
from exchange.process import EXIT_CONFIG, EXIT_IO
from exchange.sockets import Dealer, Router, Waiter
from exchange.wire import decode_commands, decode_coordinator_outbound, decode_shard_inbound, encode

A = TypeVar("A")
PATIENCE_NS = 15 * NS_PER_S
FILE_BYTES = 8_192
"""Between the size of the log and that of the store's journal: with this limit the store fails and the log goes on."""


class Peer:
    """A daemon or operator that talks to the coordinator over the real socket."""

    def __init__(self, config: Config, identity: str) -> None:
        self.role, _, self.name = identity.partition(":")
        self.incarnation = 0
        self.socket = Dealer(identity)
        self.socket.connect(config.endpoint("control"))
        self._waiter = Waiter(self.socket)

    def send(self, message: Any) -> None:
        self.socket.send(encode(message))

    def ask(self, message: Any, answer: type[A], when: Callable[[A], bool] = lambda _: True) -> A:
        """Repeat the question until such an answer comes."""
        self.send(message)
        deadline = monotonic_ns() + PATIENCE_NS
        while monotonic_ns() < deadline:
            received = self.socket.receive()
            if received is None:
                self._waiter.wait(100)
                if not self.socket.readable():
                    self.send(message)
                continue
            said = decode_coordinator_outbound(received[0])
            if isinstance(said, answer) and when(said):
                return said
        raise AssertionError(f"no {answer.__name__} in time")

    def wait(self, answer: type[A], when: Callable[[A], bool]) -> A:
        """Wait for a message that comes unasked."""
        deadline = monotonic_ns() + PATIENCE_NS
        while monotonic_ns() < deadline:
            received = self.socket.receive()
            if received is None:
                self._waiter.wait(100)
                continue
            said = decode_coordinator_outbound(received[0])
            if isinstance(said, answer) and when(said):
                return said
        raise AssertionError(f"no {answer.__name__} in time")

    def register(self, **changes: Any) -> m.Registered:
        endpoints = {"orders": "ipc:///nowhere/o", "events": "ipc:///nowhere/e"} if self.role == "shard" else {}
        register = m.Register(self.role, self.name, os.getpid(), f"uuid-{self.name}", 0, 0, endpoints)
        registered = self.ask(msgspec.structs.replace(register, **changes), m.Registered)
        self.incarnation = registered.incarnation
        return registered

    def beat(self, *, ready: bool = True, **stats: Any) -> m.BeatSeen:
        return self.ask(m.Beat(self.role, self.name, self.incarnation, 0, ready, stats), m.BeatSeen)


class Place:
    """A data directory and the coordinator processes that run on it."""

    def __init__(self, directory: Path) -> None:
        instruments = [InstrumentEntry(base="AAPL"), InstrumentEntry(base="MSFT")]
        cluster = Cluster(data=str(directory / "d"), run=str(directory / "r"))
        self.config = Config(cluster=cluster, shards=[Shard(name="s0"), Shard(name="s1")], instruments=instruments)
        self.file = directory / "cluster.toml"
        self.file.write_text(render(self.config))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.peers: list[Peer] = []

    def start(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "coordinator", "--config", str(self.file), "--name", "c0"]
        with self.log(len(self.processes)).open("w") as log:
            process = subprocess.Popen(words, stderr=log)
        self.processes.append(process)
        return process

    def log(self, number: int) -> Path:
        """What the process with this number says."""
        return self.file.with_name(f"log.{number}")

    def peer(self, identity: str) -> Peer:
        peer = Peer(self.config, identity)
        self.peers.append(peer)
        return peer

    def close(self) -> None:
        for peer in self.peers:
            peer.socket.close()
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def place() -> Iterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="sx-"))
    place = Place(directory)
    yield place
    place.close()
    shutil.rmtree(directory)


def test_daemons_come_are_told_of_each_other_and_are_seen(place: Place) -> None:
    process = place.start()
    gateway, shard, cli = place.peer("gateway:g0"), place.peer("shard:s0"), place.peer("cli:1")
    assert gateway.register().epoch == 0
    registered = shard.register()
    assert registered.epoch == 1
    gateway.wait(m.ShardMap, lambda map_: map_.shards[0].epoch == 1)
    shard.beat(seq=12)
    gateway.wait(m.ShardMap, lambda map_: map_.shards[0].serving)
    status = cli.ask(m.AskStatus(), m.ClusterStatus)
    rows = {(row.role, row.name): row for row in status.daemons}
    assert status.health == "degraded"
    assert rows["coordinator", "c0"].health == "healthy"
    assert (rows["shard", "s0"].health, rows["shard", "s0"].stats) == ("healthy", {"seq": 12})
    assert [rows[key].health for key in (("shard", "s1"), ("marketdata", "m0"), ("riskd", "r0"))] == ["down"] * 3
    gateway.wait(m.ShardMap, lambda map_: not map_.shards[0].serving)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0


def test_a_killed_coordinator_goes_on_from_its_store(place: Place) -> None:
    process = place.start()
    shard = place.peer("shard:s0")
    shard.register()
    version = shard.beat().map_version
    for term in (2, 3, 4):
        process.kill()
        process.wait()
        process = place.start()
        shard.ask(m.AskStatus(), m.ClusterStatus, lambda s, term=term: s.daemons[0].stats.get("term") == term)
        assert shard.beat() == m.BeatSeen(version, True)


def test_a_second_coordinator_on_the_same_store_is_refused(place: Place) -> None:
    first = place.start()
    peer = place.peer("gateway:g0")
    peer.register()
    second = place.start()
    assert second.wait(timeout=15) == EXIT_CONFIG
    assert f"in use by another coordinator (pid {first.pid})" in place.log(1).read_text()
    assert peer.beat().known


def test_a_disk_that_fails_ends_the_coordinator(place: Place) -> None:
    process = place.start()
    peer = place.peer("gateway:g0")
    peer.register()
    assert (place.config.data / "control" / "control.db-wal").stat().st_size > FILE_BYTES > place.log(0).stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    peer.send(m.Register("gateway", "g0", 1, "another-process", 0, 0, {}))
    assert process.wait(timeout=15) == EXIT_IO
    assert "control store" in place.log(0).read_text()
    again = place.start()
    assert peer.beat().known
    assert again.poll() is None


def test_garbage_is_counted_and_harms_nothing(place: Place) -> None:
    process = place.start()
    peer, hostile = place.peer("gateway:g0"), place.peer("gateway:g9")
    peer.register()
    dice = random.Random(7)
    good = encode(m.Register("gateway", "g9", 1, "u", 0, 0, {}))
    garbage = [dice.randbytes(dice.randrange(60)) for _ in range(100)]
    garbage += [good[:length] for length in range(len(good))]
    garbage += [encode([21, "gateway", "g0", 1, "u", 0, 0, {}]), encode([23] * 7), b"\xdd\xff\xff\xff\xff"]
    garbage += [encode(m.Beat("gateway", "g9", 1, 0, True, {"x": "y" * 1_000_000})), b"\x91" * 5_000]
    for message in garbage:
        hostile.socket.send(message)
    hostile.socket.send(good, b"a second part that does not belong")
    counted = len(garbage) + 1
    status = peer.ask(m.AskStatus(), m.ClusterStatus, lambda s: s.daemons[0].stats.get("malformed", 0) >= counted)
    assert [row.name for row in status.daemons if row.role == "gateway"] == ["g0"]
    assert peer.beat().known
    assert process.poll() is None


def test_an_operator_s_command_reaches_the_shard_and_its_answer_comes_back(place: Place) -> None:
    place.start()
    shard, cli = place.peer("shard:s0"), place.peer("cli:1")
    orders = Router()
    endpoint = place.config.endpoint("orders.s0")
    shard.register(endpoints={"orders": endpoint, "events": place.config.endpoint("events.s0")})
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
