"""Sockets of a gateway to the shards, and to daemons that answer one question with one answer."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from msgspec import Raw

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_S
from exchange.errors import Unavailable, WireError
from exchange.process import Log
from exchange.sockets import Dealer, attach
from exchange.wire import Decoder, decode_shard_outbound, encode
from gateway.core.doubt import doubtful, question, verdict
from gateway.core.pending import Flight, Lane, Run, Settled
from gateway.core.problems import Problem
from gateway.stats import ShardStats

MESSAGES_PER_TURN = 256
IMAGE_AFTER_SEQ = -1
"""No ring holds what follows this: a shard answers it with an image."""
ASKS_MAX = 4_096
"""Questions to one daemon that wait for their answer at once."""

A = TypeVar("A")


class ShardLink:
    """Orders to one shard and their answers. Everything that enters in one loop turn leaves in one frame."""

    def __init__(self, shard: str, sender: str, stats: ShardStats, log: Log) -> None:
        self.lane: Lane = Lane(shard, sender, wall_ns())
        self.stats = stats
        self._sender = sender
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._primary: tuple[str, int, int] | None = None
        self._socket: Dealer | None = None
        self._detach: Callable[[], None] = lambda: None
        self._departing = False
        self._held = False
        self._images: list[asyncio.Future[m.EventFrame]] = []

    def on_map(self, entry: m.ShardEntry, incarnation: int) -> None:
        """The newest map's word on this shard.

        A new term gets a new socket, also at the same address: what is sent from now on cannot end in the connection of
        a process that is dying.
        """
        self.lane.incarnation = incarnation or self.lane.incarnation  # 0 while it registers anew
        primary = (entry.orders_endpoint, entry.epoch, entry.incarnation)
        if entry.orders_endpoint and primary != self._primary:
            self.close()
            self._primary = primary
            self._socket = Dealer(self._sender, connected_only=True)
            self._socket.connect(entry.orders_endpoint)
            self._detach = attach(self._socket, self._drain)
        self._send(self.lane.on_map(entry, monotonic_ns()))

    def enter(self, run: Run) -> Problem | None:
        """Take a run into the frame of this loop turn; its ticket is called later unless this refuses."""
        problem = self.lane.enter(run)
        if problem is None and not self._departing:
            self._departing = True
            self._loop.call_soon(self._depart)
        return problem

    async def ask(
        self, commands: list[m.Command], deadline_ns: int, *, started_ns: int = 0, sweep: bool = False
    ) -> Settled:
        """Send commands and wait for their end; their latency counts from `started_ns`, if that is given."""
        future: asyncio.Future[Settled] = self._loop.create_future()

        def ticket(settled: Settled) -> None:
            if not future.done():
                future.set_result(settled)

        run = Run(commands, deadline_ns, ticket, started_ns=started_ns, sweep=sweep)
        problem = self.enter(run)
        return Settled(run, [], problem, False) if problem is not None else await future

    async def image(self, timeout_s: float) -> m.EventFrame:
        """The shard's whole state as of now. Unavailable when it does not come in time. Costs the shard O(state)."""
        future: asyncio.Future[m.EventFrame] = self._loop.create_future()
        self._images.append(future)
        try:
            if self._socket is None or not self._socket.send(encode(m.Follow(self._sender, IMAGE_AFTER_SEQ))):
                raise Unavailable(f"shard {self.lane.shard} is not connected")
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as fault:
            raise Unavailable(f"shard {self.lane.shard} sent no image within {timeout_s} s") from fault
        finally:
            if future in self._images:
                self._images.remove(future)

    def tick(self) -> None:
        """Settle what is too late, send again what is due."""
        settled, flights = self.lane.on_tick(monotonic_ns())
        self._settle(settled)
        self._send(flights)

    def abandon(self) -> None:
        """Settle everything as it stands; for the end of the process."""
        self._settle(self.lane.abandon())

    def close(self) -> None:
        """Close the socket. What was sent stays pending."""
        self._detach()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _depart(self) -> None:
        self._departing = False
        self._send(self.lane.depart())

    def _send(self, flights: list[Flight]) -> None:
        for flight in flights:
            if self._socket is None or not self._socket.send(self.lane.header(flight), flight.payload):
                self._held = True
                return
            self.lane.sent(flight, monotonic_ns())

    def _drain(self) -> bool:
        socket = self._socket
        for _ in range(MESSAGES_PER_TURN):
            received = socket.receive() if socket is not None else None
            if received is None:
                # A connection that came up wakes this too: what could not leave before leaves now.
                held, self._held = self._held, False
                self._send(self.lane.due(monotonic_ns()) if held else self.lane.depart())
                return False
            try:
                self._on_message(*received)
            except WireError as error:
                self._log.error("malformed answer", shard=self.lane.shard, error=str(error))
        return True

    def _on_message(self, header: bytes, payload: bytes) -> None:
        message = decode_shard_outbound(header)
        if isinstance(message, m.Answers | m.Refused):
            self._settle(self.lane.on_message(message, payload, monotonic_ns()))
        elif isinstance(message, m.Image):
            frame = decode_image(payload)
            images, self._images = self._images, []
            for future in images:
                if not future.done():
                    future.set_result(frame)

    def _settle(self, all_settled: list[Settled]) -> None:
        now_ns = monotonic_ns()
        for settled in all_settled:
            run, problem = settled.run, settled.problem
            if problem is not None:
                self.stats.unknown += problem.reason == "UNKNOWN"
                self.stats.not_executed += problem.reason != "UNKNOWN"
            elif doubts := doubtful(settled):
                self._loop.create_task(self._clear_up(settled, doubts))
                continue
            elif run.started_ns:
                self.stats.record(len(run.commands), now_ns - run.started_ns, now_ns)
            run.ticket(settled)

    async def _clear_up(self, settled: Settled, doubts: list[int]) -> None:
        """Ask what became of orders whose cancel was sent twice, then settle."""
        run = settled.run
        answers = await self.ask([question(run.commands[place]) for place in doubts], monotonic_ns() + NS_PER_S)
        replies: list[Raw] = list(settled.replies)
        for place, answer in zip(doubts, answers.replies, strict=False):
            replies[place] = verdict(answer) or replies[place]
        run.ticket(Settled(run, replies, None, True))


class Desk(Generic[A]):
    """One question, one answer with the same number: riskd and marketdata. `A` = what it may answer."""

    def __init__(self, what: str, endpoint: str, sender: str, decode: Decoder[A], log: Log) -> None:
        self._what = what
        self._decode = decode
        self._log = log
        self._request = 0
        self._waiting: dict[int, asyncio.Future[A]] = {}
        self._socket = Dealer(sender, connected_only=True)
        self._socket.connect(endpoint)
        self._detach = attach(self._socket, self._drain)

    async def ask(self, make: Callable[[int], Any], timeout_s: float) -> A:
        """Send the question that `make` builds for a number; Unavailable when no answer comes in time."""
        if len(self._waiting) >= ASKS_MAX:
            raise Unavailable(f"{ASKS_MAX} questions wait for {self._what}")
        self._request += 1
        number = self._request
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        if not self._socket.send(encode(make(number))):
            raise Unavailable(f"{self._what} is not connected")
        self._waiting[number] = future
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as fault:
            raise Unavailable(f"{self._what} did not answer within {timeout_s} s") from fault
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Close the socket; questions that wait time out."""
        self._detach()
        self._socket.close()

    def _drain(self) -> bool:
        for _ in range(MESSAGES_PER_TURN):
            received = self._socket.receive()
            if received is None:
                return False
            try:
                answer = self._decode(received[0])
            except WireError as error:
                self._log.error("malformed answer", error=str(error))
                continue
            future = self._waiting.get(answer.request)  # type: ignore[attr-defined]
            if future is not None and not future.done():
                future.set_result(answer)
        return True


decode_image: Decoder[m.EventFrame] = Decoder("image", m.EventFrame)
