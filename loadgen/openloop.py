"""Sends frames at their intended times, whatever the answers do, and measures from those times.

A frame that is due while every lane is full waits, and its waiting counts: no coordinated omission. Without a rate the
loop is closed: every lane is kept full, and latency counts from the send.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S, NS_PER_US
from loadgen.pacer import pace
from loadgen.report import Tally
from loadgen.workload import Flow

WAKE_NS_MIN = 100 * NS_PER_US
"""Frames that are due within this time of each other leave together."""
DRAIN_S = 5.0
"""How long answers are awaited after the last frame; longer than the deadline of any order."""
PROGRESS_S = 0.25


Outcomes = Mapping[str, int] | str
"""Orders of a frame by outcome class, or the class that all of them share."""


class Wire(Protocol):
    """One connection: frames out, answers in, each answer under the number of its frame."""

    on_answer: Callable[[int, Outcomes], None]
    """Called with the number of a frame and what became of its orders."""
    on_lost: Callable[[], None]
    """Called once when the connection ends."""

    def send(self, number: int, body: bytes) -> None:
        """Write a frame now; never waits."""


class Lane:
    """One connection, its number and its flow; at most `capacity` frames wait for their answers."""

    def __init__(self, wire: Wire, flow: Flow, capacity: int, connection: int = 0) -> None:
        self.wire = wire
        self.capacity = capacity
        self.lost = False
        self.waiting: dict[int, tuple[int, int]] = {}
        """By frame number: intended time in nanoseconds, commands."""
        self._flow = flow
        self._connection = connection
        self._number = 0

    def send(self, intended_ns: int, tally: Tally) -> None:
        """Send the next frame of the flow."""
        number = self._number
        self._number = number + 1
        frame = self._flow.frame(number)
        self.waiting[number] = (intended_ns, frame.commands)
        tally.sent += frame.commands
        tally.by_shard.update(frame.by_shard)
        self.wire.send(number, frame.build(number, self._connection))


class Drive:
    """One run over lanes that have nothing in flight. Use once."""

    def __init__(self, lanes: Sequence[Lane], *, frames_per_s: float | None, duration_s: float, tally: Tally) -> None:
        self._lanes = lanes
        self._free = deque(lane for lane in lanes for _ in range(lane.capacity) if not lane.lost)
        self._interval_ns = None if frames_per_s is None else NS_PER_S / frames_per_s
        self._duration_ns = int(duration_s * NS_PER_S)
        self._tally = tally
        self._issued = 0
        self._start_ns = 0
        self._sending = False
        self._quiet = asyncio.Event()
        for lane in lanes:
            self._listen(lane)

    async def run(self, progress: Callable[[float], None] = lambda _: None) -> float:
        """Send for the whole duration, then wait for the answers that are still due.

        `progress` is called with the seconds that have passed. Returns the orders answered per second of sending. What
        is not answered within DRAIN_S counts as lost.
        """
        self._start_ns = monotonic_ns()
        self._sending = True
        stop = self._wake_up()
        try:
            self._pump()
            while self._sending:
                left_ns = self._start_ns + self._duration_ns - monotonic_ns()
                if left_ns <= 0 or all(lane.lost for lane in self._lanes):
                    self._sending = False
                else:
                    progress((self._duration_ns - left_ns) / NS_PER_S)
                    await asyncio.sleep(min(PROGRESS_S, left_ns / NS_PER_S))
        finally:
            self._sending = False
            stop()
        rate = self._tally.answered * NS_PER_S / max(1, monotonic_ns() - self._start_ns)
        await self._drain()
        return rate

    async def _drain(self) -> None:
        self._settle()
        try:
            await asyncio.wait_for(self._quiet.wait(), DRAIN_S)
        except TimeoutError:
            for lane in self._lanes:
                self._forget(lane)

    def _wake_up(self) -> Callable[[], None]:
        """Have frames sent when they are due; in a closed loop the answers alone do that."""
        if self._interval_ns is None:
            return lambda: None
        return pace(max(WAKE_NS_MIN, int(self._interval_ns)), self._pump)

    def _pump(self) -> None:
        """Send every frame that is due and has a free place; the others wait for an answer to free one."""
        now = monotonic_ns()
        if now - self._start_ns >= self._duration_ns:
            self._sending = False
        while self._sending and self._free:
            intended = now if self._interval_ns is None else self._start_ns + int(self._issued * self._interval_ns)
            if intended > now:
                return
            lane = self._free.popleft()
            if not lane.lost:
                self._issued += 1
                lane.send(intended, self._tally)

    def _listen(self, lane: Lane) -> None:
        tally = self._tally

        def answered(number: int, outcomes: Outcomes) -> None:
            waiting = lane.waiting.pop(number, None)
            if waiting is None:
                return  # later than DRAIN_S of an earlier run: counted as lost there
            intended, commands = waiting
            counts = {outcomes: commands} if isinstance(outcomes, str) else outcomes
            tally.add(counts, monotonic_ns() - intended)
            self._free.append(lane)
            if self._sending:
                self._pump()
            self._settle()

        def lost() -> None:
            lane.lost = True
            self._forget(lane)
            self._settle()

        lane.wire.on_answer = answered
        lane.wire.on_lost = lost

    def _forget(self, lane: Lane) -> None:
        self._tally.outcomes["lost"] += sum(commands for _, commands in lane.waiting.values())
        lane.waiting.clear()

    def _settle(self) -> None:
        if not self._sending and not any(lane.waiting for lane in self._lanes):
            self._quiet.set()
