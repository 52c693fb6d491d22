"""The coordinator's shell: one Router, the control store, the nodes' processes, Dealers for operators' commands.

A store that fails or that obeys somebody else ends the process with EXIT_IO; the cluster trades on without it.
Everything durable is in the store, so a killed coordinator goes on where it was.
"""

import asyncio
import os
import uuid
from collections.abc import Callable
from typing import Any, assert_never

import psutil

from coordinator.core import records
from coordinator.core.administration import REQUESTS_MAX, SENDER, Administration, ToShard
from coordinator.core.administration import Output as AdministrationOutput
from coordinator.core.cluster import Cluster
from coordinator.core.health import NODE, Health, Place
from coordinator.core.leadership import Policy
from coordinator.core.outbox import Send
from coordinator.exits import Exits
from coordinator.store.base import Conflict, ControlStore, settle, take_lease
from coordinator.store.sqlite import SqliteStore
from exchange import failpoints
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.config import RISKD_NAME, Config
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import StoreError, WireError
from exchange.failpoints import Point, reach
from exchange.limits import BEAT_INTERVAL_NS
from exchange.process import Daemon, background, look_for_garbage_rarely, run_async, title
from exchange.sockets import Dealer, Router, attach
from exchange.wire import decode_coordinator_inbound, decode_shard_outbound, encode

MESSAGES_PER_TURN = 64
TURNS_PER_TICK_MAX = 64
"""Before silence is judged everything that has arrived is read; a flood does not put it off for ever."""
TICK_NS = 20 * NS_PER_MS
CONTROL_BYTES_MAX = 256 * 1024
"""Largest message to the coordinator: a heartbeat has a few hundred bytes."""


def serve(daemon: Daemon) -> None:
    """Run until SIGTERM. ConfigError when another coordinator holds the store, StoreError when it fails."""
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    store = SqliteStore(daemon.config.data / "control")
    try:
        run_async(lambda stop: Coordinator(daemon, store).run(stop))
    except OSError as fault:
        raise StoreError(f"input or output failed: {fault}") from fault
    finally:
        store.close()


class Coordinator:
    """One coordinator over an open store."""

    def __init__(self, daemon: Daemon, store: ControlStore) -> None:
        self._config = daemon.config
        self._log = daemon.log
        self._store = store
        self._place: Place = (daemon.role, daemon.name)
        self._process = psutil.Process()
        self._malformed = 0
        self._term = take_lease(store, f"{daemon.name}:{os.getpid()}")
        self._store_uuid = self._name_store()
        _, entries = store.changes("", 0)
        replication = daemon.config.replication
        self._health = Health(
            [self._place, *_expected_daemons(daemon.config)], node_suspect_ns=replication.suspect_ms * NS_PER_MS
        )
        self._health.started(self._place, pid=os.getpid(), incarnation=self._term, now_ns=monotonic_ns())
        self._cluster = Cluster(
            {key: (entry.value, entry.ver) for key, entry in entries},
            nodes=daemon.config.nodes(),
            instruments=daemon.config.instrument_list(),
            health=self._health,
            now_ns=monotonic_ns(),
            policy=Policy(
                failovers_max=replication.failovers_max,
                failovers_window_ns=replication.failovers_window_s * NS_PER_S,
                relaxed=replication.durability == "replicated",
            ),
        )
        self._administration = Administration(self._term)
        self._shards: dict[str, tuple[Dealer, Callable[[], None]]] = {}
        self._exits = Exits(lambda node: title(self._config, NODE, node), self._on_exit)
        self._router = Router()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. StoreError when the control store fails or obeys another coordinator."""
        self._perform()
        self._watch()
        self._router.bind(self._config.endpoint("control"))
        detach = attach(self._router, self._drain)
        ticker = background(self._tick())
        look_for_garbage_rarely()
        self._log.info("serving", term=self._term, map_version=self._cluster.map.version)
        await stop.wait()
        ticker.cancel()
        detach()
        self._exits.close()
        for dealer, detach_dealer in self._shards.values():
            detach_dealer()
            dealer.close()
        self._router.close()

    async def _tick(self) -> None:
        beat_ns = 0
        while True:
            turns = 0
            while self._drain() and turns < TURNS_PER_TICK_MAX:
                turns += 1
            now_ns = monotonic_ns()
            if now_ns - beat_ns >= BEAT_INTERVAL_NS:
                beat_ns = now_ns
                self._health.heard(self._place, ready=True, stats=self._stats(), now_ns=now_ns)
            self._cluster.on_tick(now_ns)
            self._perform()
            self._forward(self._administration.on_tick(now_ns))
            await asyncio.sleep(TICK_NS / NS_PER_S)

    def _on_exit(self, node: str, incarnation: int) -> None:
        self._cluster.on_gone(node, incarnation, monotonic_ns())
        self._perform()

    def _watch(self) -> None:
        """Of every known node the process that it has now."""
        for node, incarnation, pid in self._cluster.processes:
            self._exits.watch(node, incarnation, pid)

    def _drain(self) -> bool:
        for _ in range(MESSAGES_PER_TURN):
            received = self._router.receive()
            if received is None:
                return False
            peer, header, payload = received
            try:
                self._take(peer, header, payload)
            except WireError as error:
                self._report(error)
        return True

    def _take(self, peer: bytes, header: bytes, payload: bytes) -> None:
        """Do one message, to the end."""
        if len(header) > CONTROL_BYTES_MAX or payload:
            raise WireError(f"message of {len(header)} + {len(payload)} bytes, at most {CONTROL_BYTES_MAX} + 0")
        message = decode_coordinator_inbound(header)
        now_ns = monotonic_ns()
        match message:
            case m.Beat() | m.AskMap() | m.AskIsr() | m.Drained() | m.Switch() | m.Elect() | m.Skip() | m.Clock():
                self._cluster.on_message(peer, message, now_ns)
                self._perform()
            case m.Register():
                self._cluster.on_message(peer, message, now_ns)
                self._perform()
                self._watch()
            case m.AskStatus():
                self._router.send(peer, encode(self._cluster.status(now_ns)))
            case m.Administer():
                self._log.info("administer", actor=message.actor, shard=message.shard)
                self._forward(self._administration.on_administer(peer, message, self._cluster.map, now_ns))
            case _:
                assert_never(message)

    def _perform(self) -> None:
        """Write, then tell: nobody hears of what could still be lost."""
        ready = self._cluster.ready()
        if ready.writes:
            reach(Point.COORDINATOR_BEFORE_WRITE)
        for write in ready.writes:
            result = settle(self._store, write.key, write.expect_ver, write.value, self._term)
            if isinstance(result, Conflict):
                raise StoreError(
                    f"control store: key {write.key} is at version {result.ver} and term {result.term}, not at "
                    f"{write.expect_ver} and {self._term}: another coordinator decides now"
                )
        if ready.writes:
            reach(Point.COORDINATOR_AFTER_WRITE)
        for note in ready.notes:
            self._log.warning("decided", detail=note)
        for send in ready.sends:
            # A peer that is gone or full asks for what it missed: every heartbeat names the newest map.
            self._router.send(send.peer, send.payload)

    def _forward(self, outputs: list[AdministrationOutput]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self._router.send(output.peer, output.payload)
                case ToShard():
                    self._dealer(output.endpoint).send(output.header, output.payload)
                case _:
                    assert_never(output)

    def _dealer(self, endpoint: str) -> Dealer:
        if endpoint not in self._shards:
            dealer = Dealer(SENDER, hwm=REQUESTS_MAX)
            dealer.connect(endpoint)
            self._shards[endpoint] = dealer, attach(dealer, lambda: self._drain_answers(dealer))
        return self._shards[endpoint][0]

    def _drain_answers(self, dealer: Dealer) -> bool:
        while (received := dealer.receive()) is not None:
            try:
                outputs = self._administration.on_answer(decode_shard_outbound(received[0]), received[1])
            except WireError as error:
                self._report(error)
            else:
                self._forward(outputs)
        return False

    def _report(self, error: WireError) -> None:
        self._malformed += 1
        self._log.warning("dropped", error=str(error))

    def _stats(self) -> dict[str, Any]:
        return {
            "term": self._term,
            "map_version": self._cluster.map.version,
            "malformed": self._malformed,
            "memory_mb": self._process.memory_info().rss >> 20,
            "store_uuid": self._store_uuid,
        }

    def _name_store(self) -> str:
        """The store's own name, given once: a copy or a new store can be told from the first."""
        entry = self._store.read(records.STORE_KEY)
        if entry is not None:
            return records.decode(records.STORE_KEY, entry.value, str)
        name = uuid.uuid4().hex
        settle(self._store, records.STORE_KEY, 0, records.encode(name), self._term)
        return name


def _expected_daemons(config: Config) -> list[Place]:
    """Who should be there by the configuration."""
    places = [(NODE, node) for _, node in config.nodes()]
    places += [("gateway", config.gateway.name), ("marketdata", config.marketdata.name), ("riskd", RISKD_NAME)]
    if config.marketmaker.enabled:
        places.append(("marketmaker", config.marketmaker.name))
    return places
