"""One thread, one seed: a heap of future calls, a clock that jumps from one to the next, a network that misbehaves."""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

from exchange.domain import NS_PER_MS, NS_PER_US

MS = NS_PER_MS
US = NS_PER_US
WALL_NS = 1_000_000 * 1_000_000_000
"""Wall-clock time when a run begins."""
EVENTS_MAX = 100_000
"""More than five times what the busiest of ordinary runs needs: whoever gets here turns in circles."""


class Violation(Exception):
    """An invariant does not hold: its name and the evidence."""

    def __init__(self, invariant: str, evidence: str) -> None:
        super().__init__(f"{invariant}: {evidence}")
        self.invariant = invariant


class World:
    """Virtual time. Equal seeds and plans give equal runs: nothing here asks the machine anything."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.events = 0
        self.story: list[tuple[int, str]] = []
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def after(self, delay_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call it when so much time has passed; equal times in the order of asking."""
        self._number += 1
        heappush(self._heap, (self.now_ns + delay_ns, self._number, call, arguments))

    def run(self, until_ns: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True when `done` held before `until_ns`. It is asked every 20 ms."""
        ask_ns = self.now_ns
        while self._heap and self._heap[0][0] <= until_ns:
            at_ns, _, call, arguments = heappop(self._heap)
            self.now_ns = at_ns
            self.events += 1
            if self.events > EVENTS_MAX:
                raise Violation("liveness", f"more than {EVENTS_MAX} events and no end")
            call(*arguments)
            if done is not None and at_ns >= ask_ns:
                if done():
                    return True
                ask_ns = at_ns + 20 * MS
        self.now_ns = until_ns
        return False

    def tell(self, line: str) -> None:
        """A line of the story."""
        self.story.append((self.now_ns, line))


class Actor(Protocol):
    """Somebody with a name on the network."""

    def hear(self, source: str, message: tuple[Any, ...]) -> None:
        """A message has arrived; whoever is down or stands still decides what that means."""
        ...


class Weather:
    """How badly the network behaves, drawn once a run; `calm` ends it. Second copies come as late as late ones do."""

    def __init__(self, dice: Random) -> None:
        self.loss = dice.choice((0.0, 0.0, 0.01, 0.05, 0.3))
        self.repeat = dice.choice((0.0, 0.05, 0.3))
        self.late = dice.choice((0.0, 0.01, 0.05))
        self.late_ns = dice.choice((20, 200, 1_500)) * MS

    def calm(self) -> None:
        self.loss = self.repeat = self.late = 0.0


class Network:
    """Datagrams between nodes and to the coordinator: lost, repeated, late, out of order. Streams between gateways,
    consumers and shards are what ZeroMQ makes of TCP: messages may be lost when a connection breaks, but those that
    arrive do so once and in order."""

    def __init__(self, world: World, dice: Random, weather: Weather) -> None:
        self.weather = weather
        self._world = world
        self._dice = dice
        self._actors: dict[str, Actor] = {}
        self._blocked: dict[tuple[str, str], int] = {}
        self._streams: dict[tuple[str, str], int] = {}
        self._echoes: dict[tuple[str, str], int] = {}
        self._slow: dict[tuple[str, str], int] = {}

    def join(self, name: str, actor: Actor) -> None:
        self._actors[name] = actor

    def block(self, source: str, target: str) -> None:
        """Nothing gets through in this direction."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1

    def unblock(self, source: str, target: str) -> None:
        """Take one block away."""
        left = self._blocked.pop((source, target), 0) - 1
        if left > 0:
            self._blocked[source, target] = left

    def echo(self, source: str, target: str, delay_ns: int) -> None:
        """From now on every datagram in this direction comes again, so much later."""
        self._echoes[source, target] = delay_ns

    def end_echo(self, source: str, target: str) -> None:
        """What is sent from now on comes once."""
        self._echoes.pop((source, target), None)

    def slow(self, source: str, target: str, delay_ns: int) -> None:
        """From now on every datagram in this direction takes so much longer; 0 = no longer so."""
        self._slow[source, target] = delay_ns

    @property
    def disturbed(self) -> bool:
        """Some way is cut."""
        return bool(self._blocked)

    def heal(self) -> None:
        """Everything gets through again."""
        self._blocked.clear()
        self._slow.clear()
        self._echoes.clear()
        self.weather.calm()

    def datagram(self, source: str, target: str, *message: Any) -> None:
        weather, dice = self.weather, self._dice
        copies = 1 + (weather.repeat > 0 and dice.random() < weather.repeat)
        for copy in range(copies):
            if weather.loss and dice.random() < weather.loss:
                continue
            delay_ns = dice.randrange(50 * US, 2 * MS) + self._slow.get((source, target), 0)
            if copy or (weather.late and dice.random() < weather.late):
                delay_ns += dice.randrange(weather.late_ns)
            self._world.after(delay_ns, self._deliver, source, target, message)
        echo_ns = self._echoes.get((source, target))
        if echo_ns is not None:
            self._world.after(echo_ns + dice.randrange(2 * MS), self._deliver, source, target, message)

    def stream(self, source: str, target: str, *message: Any) -> None:
        if self.weather.loss and self._dice.random() < self.weather.loss / 4:
            return
        way = source, target
        arrives_ns = max(self._streams.get(way, 0), self._world.now_ns + self._dice.randrange(50 * US, 1 * MS)) + 1
        self._streams[way] = arrives_ns
        self._world.after(arrives_ns - self._world.now_ns, self._deliver, source, target, message)

    def _deliver(self, source: str, target: str, message: tuple[Any, ...]) -> None:
        if (source, target) in self._blocked:
            # What a cut cable swallows is sent again by TCP when it is mended; sometimes the connection ends before.
            if self._dice.random() < 0.2:
                self._world.after(self._dice.randrange(50 * MS, 1_000 * MS), self._deliver, source, target, message)
            return
        actor = self._actors.get(target)
        if actor is not None:
            actor.hear(source, message)
