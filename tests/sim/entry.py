"""Order entry: gateways around the real Lane, and clients that retry honestly and write down what they were told."""

from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Raw, Struct

from exchange import messages as m
from exchange.domain import NS_PER_S
from exchange.membership import Membership
from exchange.wire import decode_coordinator_outbound, decode_shard_outbound
from gateway.core.doubt import doubtful, question, verdict
from gateway.core.pending import Flight, Lane, Run, Settled
from gateway.core.problems import Problem
from tests.sim.shell import COORDINATOR, Shell
from tests.sim.world import MS, US, WALL_NS, Network, World

DEADLINES_NS = (60 * MS, 300 * MS, 800 * MS, 2_000 * MS)
"""How long a gateway tries for a client; each request has one of these."""
Told = Callable[["Answer"], None]


class Answer(Struct, frozen=True):
    """What a client is told: a reply, or a status (503, 504, 0 = the connection broke). `derived` = by questioning."""

    status: int
    reply: Raw | None = None
    derived: bool = False


class LyingLane(Lane):
    """Says "not executed" of what is unknown: breaks E6."""

    def _unknown(self, flight: Flight) -> Problem:
        return self._not_executed(flight)


class Gateway:
    """A process between clients and the shard. Its table of what is in flight dies with it."""

    def __init__(
        self, world: World, network: Network, dice: Random, *, name: str, shells: dict[str, Shell], lying: bool,
        fresh_ids: bool,
    ) -> None:  # fmt: skip
        self.name = name
        self.up = False
        self._world = world
        self._network = network
        self._dice = dice
        self._shells = shells
        self._lying = lying
        self._fresh_ids = fresh_ids
        self._life = 0
        self._departing = False
        self._waiting: dict[int, Told] = {}
        self._number = 0
        network.join(name, self)
        self.start()

    def start(self) -> None:
        if self.up:
            return
        self.up = True
        self._life += 1
        self._departing = False
        self.lane = (LyingLane if self._lying else Lane)("s0", self.name, WALL_NS + self._world.now_ns)
        register = m.Register("gateway", self.name, self._life, f"{self.name}-{self._life}", 0, 0, {})
        self._membership = Membership(register, lambda: (True, {}))
        self._tick(self._life)

    def die(self) -> None:
        """Every connection to a client breaks: nobody is told what became of his request."""
        if not self.up:
            return
        self.up = False
        self._life += 1
        self._world.tell(f"{self.name} dies with {self.lane.pending} commands in flight")
        waiting, self._waiting = self._waiting, {}
        for told in waiting.values():
            self._world.after(1 * MS, told, Answer(0))

    def ask(self, command: m.Command, told: Told) -> None:
        """A client's request; `told` is called once."""
        if not self.up:
            self._world.after(1 * MS, told, Answer(503))
            return
        self._number += 1
        self._waiting[self._number] = told
        self._enter([command], self._number)

    def hear(self, source: str, message: tuple[Any, ...]) -> None:
        if not self.up:
            return
        if message[0] == "control":
            self._hear_coordinator(message[1])
        else:
            answer = decode_shard_outbound(message[1])
            if isinstance(answer, m.Answers | m.Refused):
                self._settle(self.lane.on_message(answer, message[2], self._world.now_ns))

    def _hear_coordinator(self, payload: bytes) -> None:
        membership = self._membership
        before = membership.map
        for answer in membership.on_message(decode_coordinator_outbound(payload), self._world.now_ns):
            self._network.datagram(self.name, COORDINATOR, answer)
        self.lane.incarnation = membership.incarnation
        if membership.map is not None and membership.map is not before:
            self._send(self.lane.on_map(membership.map.shards[0], self._world.now_ns))

    def _enter(self, commands: list[m.Command], number: int) -> None:
        sweep = isinstance(commands[0], m.MassCancel)
        deadline_ns = self._world.now_ns + self._dice.choice(DEADLINES_NS)
        run = Run(commands, deadline_ns, lambda settled: self._tell(number, settled), sweep=sweep)
        problem = self.lane.enter(run)
        if problem is not None:
            self._tell(number, Settled(run, [], problem, False))
        elif not self._departing:
            self._departing = True
            self._world.after(20 * US, self._depart, self._life)

    def _depart(self, life: int) -> None:
        if life == self._life:
            self._departing = False
            self._send(self.lane.depart())

    def _tick(self, life: int) -> None:
        if life != self._life:
            return
        self._world.after(25 * MS if self.lane.pending else 100 * MS, self._tick, life)
        for message in self._membership.on_tick(self._world.now_ns):
            self._network.datagram(self.name, COORDINATOR, message)
        settled, flights = self.lane.on_tick(self._world.now_ns)
        self._settle(settled)
        self._send(flights)

    def _send(self, flights: list[Flight]) -> None:
        entry = self.lane.entry
        for flight in flights:
            if entry is None or not self._shells[entry.node].up:
                return
            payload = flight.payload
            if self._fresh_ids and flight.sends:
                payload = payload.replace(b"-i", b"-%d" % (flight.sends % 10))
            self._network.stream(self.name, entry.node, "order", self.lane.header(flight), payload)
            self.lane.sent(flight, self._world.now_ns)

    def _settle(self, all_settled: list[Settled]) -> None:
        for settled in all_settled:
            doubts = [] if settled.problem is not None else doubtful(settled)
            if doubts:
                self._clear_up(settled, doubts)
            else:
                settled.run.ticket(settled)

    def _clear_up(self, settled: Settled, doubts: list[int]) -> None:
        def answered(answers: Settled) -> None:
            found = verdict(answers.replies[0]) if answers.replies else None
            replies = [found or settled.replies[0]]
            settled.run.ticket(Settled(settled.run, replies, None, found is not None))

        run = Run([question(settled.run.commands[doubts[0]])], self._world.now_ns + NS_PER_S, answered)
        if self.lane.enter(run) is not None:
            settled.run.ticket(settled)
        self._send(self.lane.depart())

    def _tell(self, number: int, settled: Settled) -> None:
        told = self._waiting.pop(number, None)
        if told is None:
            return
        if settled.problem is None:
            answer = Answer(200, settled.replies[0], settled.resent and isinstance(settled.run.commands[0], m.Cancel))
        else:
            answer = Answer(504 if settled.problem.reason == "UNKNOWN" else 503)
        self._world.after(self._dice.randrange(50 * US, 1 * MS), told, answer)


class Attempt(Struct):
    """One request of a client and what it was told."""

    command: m.Command
    called_ns: int
    returned_ns: int = -1
    answer: Answer | None = None


class Client:
    """One account. One request at a time; a request that was not decided is repeated, or resolved, until it is."""

    def __init__(self, world: World, dice: Random, *, name: str, gateways: list[Gateway], instruments: int) -> None:
        self.name = name
        self.history: list[Attempt] = []
        self.given_up = False
        self.idle = True
        self._world = world
        self._dice = dice
        self._gateways = gateways
        self._instruments = instruments
        self._number = 0
        self._orders: list[tuple[int, str]] = []
        self._stopping = False
        self._rests_until_ns = 0
        self._think_ns = dice.choice((2, 10, 40)) * MS
        world.after(dice.randrange(50 * MS), self._next)

    def rest(self, for_ns: int) -> None:
        """Begin nothing new for a while."""
        self._rests_until_ns = self._world.now_ns + for_ns

    def stop(self) -> None:
        """Begin nothing new; finish what is open."""
        self._stopping = True

    def _next(self) -> None:
        if self._world.now_ns < self._rests_until_ns and not self._stopping:
            self._world.after(self._rests_until_ns - self._world.now_ns, self._next)
        elif not self._stopping:
            self.idle = False
            self._try(self._make(), 0)

    def _make(self) -> m.Command:
        dice = self._dice
        draw = dice.random()
        if self._orders and draw < 0.35:
            instrument, target = dice.choice(self._orders)
            if draw < 0.2:
                return m.Cancel(self.name, instrument, 0, target)
            ident = self._fresh()
            if draw < 0.3:
                price, quantity = dice.randint(95, 105), dice.randint(1, 20)
                return m.Replace(self.name, ident, instrument, 0, target, price, quantity, 0, client_ns=self._stamp())
            return m.Reduce(self.name, ident, instrument, 0, target, dice.randint(1, 5), client_ns=self._stamp())
        if draw < 0.38:
            return m.MassCancel(self.name, dice.randrange(self._instruments))
        instrument, ident = dice.randrange(self._instruments), self._fresh()
        self._orders = [*self._orders[-20:], (instrument, ident)]
        kind = int(dice.random() < 0.1)
        time_in_force = 1 if kind else dice.choice((0, 0, 0, 1, 2))
        price = 0 if kind else dice.randint(95, 105)
        return m.Submit(
            self.name, ident, instrument, dice.randrange(2), kind, time_in_force, 0, dice.randrange(5), price,
            dice.randint(1, 20), deadline_ns=self._stamp() + 2_000 * MS if dice.random() < 0.3 else 0,
            client_ns=self._stamp(),
        )  # fmt: skip

    def _fresh(self) -> str:
        self._number += 1
        return f"{self.name}-i{self._number:05d}"

    def _stamp(self) -> int:
        return WALL_NS + self._world.now_ns

    def _try(self, command: m.Command, tries: int) -> None:
        attempt = Attempt(command, self._world.now_ns)
        self.history.append(attempt)

        def told(answer: Answer) -> None:
            attempt.returned_ns = self._world.now_ns
            attempt.answer = answer
            self._on_answer(command, tries, answer)

        self._dice.choice([one for one in self._gateways if one.up] or self._gateways).ask(command, told)

    def _on_answer(self, command: m.Command, tries: int, answer: Answer) -> None:
        decided = answer.status == 200
        ident = getattr(command, "client_order_id", "")
        if not decided and (isinstance(command, m.MassCancel) or (answer.status == 503 and self._dice.random() < 0.5)):
            decided = True  # nobody insists on it
        if decided or (not ident and tries >= 3):
            self.idle = True
            self._world.after(self._dice.randrange(1, self._think_ns), self._next)
            return
        again = command
        if ident and answer.status != 503 and not isinstance(command, m.Resolve) and self._dice.random() < 0.3:
            again = m.Resolve(self.name, getattr(command, "instrument", 0), ident)
        self._world.after(self._dice.randrange(1 * MS, 100 * MS), self._try, again, tries + 1)
