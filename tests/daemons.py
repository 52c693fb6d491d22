"""Real daemons in a directory of their own, and peers that speak to them over the real sockets.

Every wait is for a condition and has a bound; every process is ended by its handle.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.config import Cluster, Config, InstrumentEntry, Journal, Replication, Shard, render
from exchange.domain import NS_PER_S
from exchange.sockets import Dealer, Waiter
from exchange.wire import Decoder, decode_coordinator_outbound, encode

A = TypeVar("A")
PATIENCE_NS = 30 * NS_PER_S
PATIENCE_S = PATIENCE_NS // NS_PER_S
POLL_S = 0.002
Process = subprocess.Popen[bytes]


def eventually(condition: Callable[[], A | None], what: str) -> A:
    """The first true value of `condition`, asked again and again."""
    deadline_ns = monotonic_ns() + PATIENCE_NS
    while monotonic_ns() < deadline_ns:
        if found := condition():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"{what}: not in time")


class Peer:
    """One side of a conversation; repeats its questions, as every daemon does."""

    def __init__(self, endpoint: str, identity: str, decode: Decoder[Any] = decode_coordinator_outbound) -> None:
        self.role, _, self.name = identity.partition(":")
        self.incarnation = 0
        self.socket = Dealer(identity)
        self.socket.connect(endpoint)
        self._waiter = Waiter(self.socket)
        self._decode = decode

    def send(self, message: Any, payload: bytes = b"") -> None:
        self.socket.send(encode(message), payload)

    def ask(self, message: Any, answer: type[A], when: Callable[[A], bool] = lambda _: True) -> A:
        """Repeat the question until such an answer comes."""
        self.send(message)

        def answered() -> A | None:
            found = self._next(answer, when, 100)
            if found is None and not self.socket.readable():
                self.send(message)
            return found

        return eventually(answered, f"{answer.__name__} in answer to {message}")

    def wait(self, answer: type[A], when: Callable[[A], bool] = lambda _: True) -> A:
        """Wait for a message that comes unasked."""
        return eventually(lambda: self._next(answer, when, 100), answer.__name__)

    def register(self, **changes: Any) -> m.Registered:
        register = m.Register(self.role, self.name, os.getpid(), f"uuid-{self.name}", 0, 0, {})
        if self.role == "shard":
            endpoints = {what: f"ipc:///nowhere/{what}.{self.name}" for what in ("orders", "events", "replica")}
            node = {"shard": self.name.rpartition("-")[0], "session": f"session-{self.name}"}
            register = msgspec.structs.replace(register, endpoints=endpoints, **node)
        registered = self.ask(msgspec.structs.replace(register, **changes), m.Registered)
        self.incarnation = registered.incarnation
        return registered

    def beat(self, *, ready: bool = True, **stats: Any) -> m.BeatSeen:
        return self.ask(m.Beat(self.role, self.name, self.incarnation, 0, ready, stats), m.BeatSeen)

    def _next(self, answer: type[A], when: Callable[[A], bool], timeout_ms: int) -> A | None:
        received = self.socket.receive()
        if received is None:
            self._waiter.wait(timeout_ms)
            received = self.socket.receive()
        if received is None:
            return None
        said = self._decode(received[0])
        return said if isinstance(said, answer) and when(said) else None


class Place:
    """A data directory with a cluster.toml, and the processes and peers that live on it."""

    def __init__(
        self,
        *,
        ring_bytes: int = Journal().ring_bytes,
        replicas: Literal[1, 2] = 1,
        replication: Replication = Replication(),  # noqa: B008 - frozen
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sx-"))
        self.config = Config(
            cluster=Cluster(data=str(self.directory / "d"), run=str(self.directory / "r")),
            journal=Journal(ring_bytes=ring_bytes),
            replication=replication,
            shards=[Shard(name="s0", replicas=replicas), Shard(name="s1")],
            instruments=[InstrumentEntry(base="AAPL"), InstrumentEntry(base="MSFT")],
        )
        self._file = self.directory / "cluster.toml"
        self._file.write_text(render(self.config))
        self._processes: list[Process] = []
        self._peers: list[Peer] = []

    def start(self, module: str, name: str, *options: str, **environment: str) -> Process:
        words = [sys.executable, "-m", module, "--config", str(self._file), "--name", name, *options]
        with self.log(len(self._processes)).open("w") as log:
            process = subprocess.Popen(words, stderr=log, env={**os.environ, **environment})
        self._processes.append(process)
        return process

    def kill(self, process: Process, number: int = signal.SIGKILL) -> int:
        """Send a signal, wait for the end, return the exit status."""
        process.send_signal(number)
        return process.wait(timeout=PATIENCE_S)

    def log(self, number: int) -> Path:
        """What the process with this number says."""
        return self.directory / f"log.{number}"

    def peer(self, identity: str, what: str = "control", decode: Decoder[Any] = decode_coordinator_outbound) -> Peer:
        peer = Peer(self.config.endpoint(what), identity, decode)
        self._peers.append(peer)
        return peer

    def close(self) -> None:
        for peer in self._peers:
            peer.socket.close()
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.directory)
