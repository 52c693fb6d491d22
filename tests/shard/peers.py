"""Real processes and real sockets around one shard: the daemon itself, a coordinator, a gateway, a feed consumer.

The coordinator here speaks its protocol as a peer that a test can steer: away, back, with any term.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from coordinator.core import group as groups
from exchange import config as configuration
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S, Side
from exchange.failpoints import VARIABLE
from exchange.sockets import Dealer, Router, Socket, Subscriber, Waiter
from exchange.wire import (
    decode_coordinator_inbound,
    decode_published,
    decode_replies,
    decode_shard_outbound,
    encode,
)
from shard.node_state import NodeState, load_state

PATIENCE_NS = 40 * NS_PER_S
STEP_MS = 5
PLAIN = configuration.Replication()
T = TypeVar("T")


class Coordinator:
    """Decides about shard s0 as coordinator.core.group permits. Who is dead, and when, is the test's business.

    `deaf` = questions about the in-sync set are decided, and never answered; `unwilling` = they are not even decided.
    """

    def __init__(self, config: configuration.Config, *, epoch: int = 0) -> None:
        self.incarnation = 10 * epoch
        self.map_version = 1
        self.instruments = config.instrument_list()
        self.registered: list[m.Register] = []
        self.beats: list[m.Beat] = []
        self.deaf = False
        self.unwilling = False
        self.group = groups.Group()
        self._ver = 100 * epoch
        self._dead: list[groups.Session] = []
        if epoch:
            before = ("s0-a", self.incarnation)
            node = groups.Node(self.incarnation, "journal", "session", 0, {})
            self.group = groups.Group(epoch=epoch, primary=before, isr=(before,), nodes={"s0-a": node})
        self.socket = Router()
        self.socket.bind(config.endpoint("control"))

    @property
    def isr(self) -> list[str]:
        """Names of the nodes in sync."""
        return [node for node, _ in self.group.isr]

    def pump(self) -> None:
        """Answer everything that has come."""
        while (received := self.socket.receive()) is not None:
            peer, header, _ = received
            message = decode_coordinator_inbound(header)
            match message:
                case m.Register():
                    self._on_register(peer, message)
                case m.Beat():
                    self.beats.append(message)
                    known = self.group.current(message.name) == (message.name, message.incarnation)
                    self.socket.send(peer, encode(m.BeatSeen(self.map_version, known)))
                    if known and message.stats["view"] < self._ver:
                        self.socket.send(peer, encode(self._view()))
                case m.AskIsr():
                    self._on_ask(peer, message)
                case m.Drained():
                    self._keep(groups.promote(self.group, (message.to.node, message.to.incarnation)))
                case _:
                    self.socket.send(peer, self._map())

    def forget(self) -> None:
        """Know nobody any more, like one with another store."""
        self.group = groups.Group()

    def bury(self, node: str) -> None:
        """Its present session is dead from now on, whatever it still does; a primary hears of its standby's end."""
        session = self.group.current(node)
        self._dead.append(session)
        if self.group.primary[0] not in ("", node):
            primary = f"shard:{self.group.primary[0]}".encode()
            self.socket.send(primary, encode(m.Ended("s0", self._member(session))))

    def unbury(self) -> None:
        """Who was thought dead was not."""
        self._dead.clear()

    def fail_over(self) -> None:
        """The primary is gone: somebody else of the in-sync set leads."""
        self.bury(self.group.primary[0])
        self._keep(groups.fail_over(self.group, self._alive))

    def step_down(self) -> None:
        """Ask the primary to hand over to the other node."""
        node, _ = self.group.primary
        to = next(member for member in self._view().isr if member.node != node)
        self.socket.send(f"shard:{node}".encode(), encode(m.StepDown("s0", self.group.epoch, to)))

    def skip(self, seq: int) -> None:
        """An operator has a command left out."""
        self._keep(groups.skip(self.group, seq, actor="ops", why="a test"))

    def serves(self, node: str, pid: int) -> bool:
        """This process says that it is ready; words of an earlier one, which may still come in, do not count."""
        known, said = self.group.nodes.get(node), self.said(node)
        return known is not None and known.pid == pid and said is not None and said.ready

    def said(self, node: str) -> m.Beat | None:
        """The last heartbeat of a node's present session; None when there is none or it is dead."""
        session = self.group.current(node)
        if not self._alive(session):
            return None
        return next((beat for beat in reversed(self.beats) if (beat.name, beat.incarnation) == session), None)

    def _on_register(self, peer: bytes, message: m.Register) -> None:
        self.registered.append(message)
        known = self.group.nodes.get(message.name)
        if known is None or known.session_uuid != message.session:
            self.incarnation += 1
            endpoints = dict(message.endpoints)
            node = groups.Node(
                self.incarnation, message.uuid, message.session, message.pid, endpoints, message.poisoned_seq
            )
            self.group = groups.register(self.group, message.name, node, self._alive)
            self._ver += 1
        _, incarnation = self.group.current(message.name)
        self.socket.send(peer, encode(m.Registered(incarnation, self.group.epoch, session=message.session)))
        self.socket.send(peer, self._map())
        self._tell()

    def _on_ask(self, peer: bytes, message: m.AskIsr) -> None:
        if self.unwilling:
            return
        try:
            changed = groups.change_isr(
                self.group,
                ver=self._ver,
                asked_ver=message.ver,
                epoch=message.epoch,
                asker=(message.node, message.incarnation),
                isr=tuple((member.node, member.incarnation) for member in message.isr),
            )
        except groups.Denied:
            changed, accepted = self.group, False
        else:
            accepted = True
        if self.deaf:
            self.group, self._ver = changed, self._ver + 1
            return
        self._keep(changed)
        self.socket.send(peer, encode(m.IsrAnswer(message.request, message.incarnation, accepted, self._view())))

    def _keep(self, changed: groups.Group) -> None:
        if changed != self.group:
            self.group = changed
            self._ver += 1
            self._tell()

    def _tell(self) -> None:
        for node in self.group.nodes:
            self.socket.send(f"shard:{node}".encode(), encode(self._view()))

    def _alive(self, session: groups.Session) -> bool:
        return session not in self._dead

    def _view(self) -> m.ShardView:
        group = self.group
        isr = [self._member(session) for session in group.isr]
        members = [self._member(group.current(node)) for node in group.nodes]
        skip = [skipped.seq for skipped in group.skip]
        return m.ShardView("s0", self._ver, group.epoch, self._member(group.primary), isr, members, skip)

    def _member(self, session: groups.Session) -> m.Member:
        known = self.group.nodes.get(session[0])
        return m.Member(*session, known.endpoints.get("replica", "") if known else "")

    def _map(self) -> bytes:
        return encode(m.ShardMap(self.map_version, [], self.instruments))

    def close(self) -> None:
        self.socket.close()


class Place:
    """A data directory, a configuration, and what runs there."""

    def __init__(
        self, root: Path, *, replication: configuration.Replication = PLAIN, replicas: Literal[1, 2] = 1, **journal: int
    ) -> None:
        self.root = root
        self.config = configuration.Config(
            cluster=configuration.Cluster(data=str(root / "data"), run=str(root / "run")),
            ceilings=configuration.Ceilings(orders_max=50_000, ids_max=100_000),
            journal=configuration.Journal(**journal),
            replication=replication,
            shards=[configuration.Shard(name="s0", replicas=replicas)],
            instruments=[configuration.InstrumentEntry(base="BTC"), configuration.InstrumentEntry(base="ETH")],
        )
        self.toml = root / "cluster.toml"
        self.toml.write_text(configuration.render(self.config))
        self.directory = self.config.node_directory("s0-a")
        self.log = root / "log"
        for private in (self.config.data, self.config.run):
            private.mkdir(mode=0o700)
        self.sockets: list[Socket] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.coordinator: Coordinator | None = None

    def start_coordinator(self, *, epoch: int = 0) -> Coordinator:
        self.coordinator = Coordinator(self.config, epoch=epoch)
        self.sockets.append(self.coordinator.socket)
        return self.coordinator

    def start_shard(
        self, launcher: list[str] | None = None, *, node: str = "s0-a", failpoint: str = ""
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, *(launcher or ["-m", "shard"]), "--config", str(self.toml), "--name", node]
        environment = {**os.environ, VARIABLE: failpoint}
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stderr=log, stdout=log, env=environment)
        self.processes.append(process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the shard and wait until it serves."""
        coordinator = self.coordinator or self.start_coordinator()
        process = self.start_shard()
        self.until(lambda: coordinator.serves("s0-a", process.pid))
        return process

    def until(self, found: Callable[[], T]) -> T:
        """Wait for something true, answering as coordinator meanwhile."""
        give_up_ns = monotonic_ns() + PATIENCE_NS
        waiter = Waiter(*self.sockets)
        while True:
            if self.coordinator:
                self.coordinator.pump()
            result = found()
            if result:
                return result
            assert monotonic_ns() < give_up_ns, f"waited in vain; the log says:\n{self.log_text()}"
            waiter.wait(STEP_MS)

    def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Exit code of a process that is ending."""
        self.until(lambda: process.poll() is not None)
        return process.returncode

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        return self.ended(process)

    def gateway(self, name: str = "g0", *, node: str = "s0-a") -> "Gateway":
        gateway = Gateway(self, name, node)
        self.sockets.append(gateway.socket)
        return gateway

    def listener(self, *, node: str = "s0-a") -> "Listener":
        listener = Listener(self, node)
        self.sockets.append(listener.socket)
        return listener

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def state(self) -> NodeState:
        state = load_state(self.directory)
        assert state is not None
        return state

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)
        for socket in self.sockets:
            socket.close()


class Gateway:
    """Sends batches, collects answers by batch number."""

    def __init__(self, place: Place, name: str, node: str) -> None:
        self._place = place
        self._name = name
        self._batch = 0
        self.socket = Dealer(name)
        self.socket.connect(place.config.endpoint(f"orders.{node}"))
        self.answers: dict[int, list[m.Reply]] = {}
        self.refusals: dict[int, m.Refused] = {}
        self.followed: list[tuple[m.Frames | m.Image, bytes]] = []

    def close(self) -> None:
        """Drop what was sent and not yet taken."""
        self._place.sockets.remove(self.socket)
        self.socket.close()

    def skip_to_batch(self, number: int) -> None:
        """Number the next batch so."""
        self._batch = number - 1

    def send(self, *commands: m.Command, epoch: int = 0) -> int:
        self._batch += 1
        self.socket.send(encode(m.Batch(self._name, 1, self._batch, epoch, len(commands))), encode(list(commands)))
        return self._batch

    def pump(self) -> None:
        while (received := self.socket.receive()) is not None:
            header, payload = received
            message = decode_shard_outbound(header)
            match message:
                case m.Answers():
                    self.answers[message.batch] = decode_replies(payload)
                case m.Refused():
                    self.refusals[message.batch] = message
                case m.Frames() | m.Image():
                    self.followed.append((message, payload))

    def said(self, batch: int) -> list[m.Reply] | m.Refused | None:
        self.pump()
        return self.answers.get(batch) or self.refusals.get(batch)

    def ask(self, *commands: m.Command, epoch: int = 0) -> list[m.Reply]:
        """Answers of a batch that must not be refused; while a primary waits for its standby it is sent again."""
        give_up_ns = monotonic_ns() + PATIENCE_NS
        said = self.wait(self.send(*commands, epoch=epoch))
        while isinstance(said, m.Refused) and said.reason == "FAILING_OVER" and monotonic_ns() < give_up_ns:
            said = self.wait(self.send(*commands, epoch=epoch))
        assert isinstance(said, list), said
        return said

    def wait(self, batch: int) -> list[m.Reply] | m.Refused:
        said = self._place.until(lambda: self.said(batch))
        assert said is not None
        return said

    def wait_for_answers(self, count: int) -> None:
        """Until this many batches are answered."""

        def answered() -> bool:
            self.pump()
            return len(self.answers) >= count

        self._place.until(answered)

    def follow(self, after_seq: int) -> tuple[m.Frames | m.Image, bytes]:
        self.followed.clear()
        self.socket.send(encode(m.Follow(self._name, after_seq)))

        def answered() -> bool:
            self.pump()
            return bool(self.followed)

        self._place.until(answered)
        return self.followed[0]


class Listener:
    """Hears the committed events."""

    def __init__(self, place: Place, node: str) -> None:
        self.socket = Subscriber()
        self.socket.connect(place.config.endpoint(f"events.{node}"))
        self.heard: list[tuple[m.Published, bytes]] = []

    def pump(self) -> list[tuple[m.Published, bytes]]:
        while (received := self.socket.receive()) is not None:
            self.heard.append((decode_published(received[0]), received[1]))
        return self.heard


def order(number: int, side: Side = Side.BUY, price: int = 100, *, instrument: int = 0) -> m.Submit:
    account = "ann" if side is Side.BUY else "bob"
    return m.Submit(account, f"id-{number}", instrument, side, 0, 0, 0, 1, price, 10)


def limit_file_size(process: subprocess.Popen[bytes], size: int) -> None:
    """Let every write of `process` beyond `size` fail, as on a full disk."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room for ipc paths."""
    with tempfile.TemporaryDirectory(prefix="sx-") as name:
        yield Path(name)
