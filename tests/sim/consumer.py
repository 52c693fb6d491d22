"""A consumer of committed events: the real Follower, connected to whoever the map names, keeping what it was given."""

from random import Random
from typing import Any

from exchange import messages as m
from exchange.follower import Advanced, Ask, Follower, Output
from exchange.limits import TICK_INTERVAL_NS
from exchange.membership import Membership
from exchange.wire import decode_coordinator_outbound, decode_published, decode_shard_outbound, encode
from tests.sim.shell import COORDINATOR, Shell
from tests.sim.world import MS, Network, Violation, World


class Consumer:
    """`seen` = (first_seq, last_seq, is image) of everything delivered, in order."""

    def __init__(self, world: World, network: Network, dice: Random, *, name: str, shells: dict[str, Shell]) -> None:
        self.name = name
        self.seen: list[tuple[int, int, bool]] = []
        self.follower = Follower("s0", name)
        self._world = world
        self._network = network
        self._shells = shells
        self._source = ""
        self._life: tuple[str, int] = ("", 0)
        self._membership = Membership(m.Register("gateway", name, 1, name, 0, 0, {}), lambda: (True, {}))
        network.join(name, self)
        world.after(dice.randrange(100 * MS), self._tick)

    def hear(self, source: str, message: tuple[Any, ...]) -> None:
        now_ns = self._world.now_ns
        match message:
            case ("control", payload):
                for answer in self._membership.on_message(decode_coordinator_outbound(payload), now_ns):
                    self._network.datagram(self.name, COORDINATOR, answer)
                map_ = self._membership.map
                if map_ is not None:
                    self._source = map_.shards[0].node
                    self._connect()
            case ("event", header, frame) if source == self._source:
                self._perform(self.follower.on_published(decode_published(header), frame, now_ns))
            case ("order", header, payload) if source == self._source:
                answer = decode_shard_outbound(header)
                if isinstance(answer, m.Frames | m.Image):
                    self._perform(self.follower.on_answer(answer, payload, now_ns))

    def _tick(self) -> None:
        self._world.after(TICK_INTERVAL_NS, self._tick)
        for message in self._membership.on_tick(self._world.now_ns):
            self._network.datagram(self.name, COORDINATOR, message)
        self._connect()
        self._perform(self.follower.on_tick(self._world.now_ns))

    def _connect(self) -> None:
        """Sockets connect again by themselves when the process behind an address is another one."""
        shell = self._shells.get(self._source)
        if shell is not None and shell.up and (self._source, shell.life) != self._life:
            self._life = self._source, shell.life
            shell.subscribe(self.name)
            self._perform(self.follower.on_connect(self._world.now_ns))

    def _perform(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Ask(follow):
                    if self._source:
                        self._network.stream(self.name, self._source, "order", encode(follow), b"")
                case Advanced(head, image, before):
                    if not image and head.first_seq != before.seq + 1:
                        raise Violation("I13", f"{self.name} got seq {head.first_seq} after {before.seq}")
                    if image and head.last_seq < before.seq:
                        raise Violation("I13", f"{self.name} went back from seq {before.seq} to {head.last_seq}")
                    self.seen.append((head.first_seq, head.last_seq, image))
