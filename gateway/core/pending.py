"""What one gateway has asked one shard and does not know the outcome of yet. Pure: the shell owns the socket.

Laws
    A *run* is the commands of one request for this shard; it is settled exactly once, as a whole. A *flight* is the
    runs of one loop turn: one batch on the wire. Its bytes never change under its number, however often they are sent.
    Sending a flight again is safe: Submit, Replace and Reduce carry a client order id under which the engine executes
    once, and a stamp (`client_ns`) that stops a copy which arrives after its id was forgotten. Cancels and queries may
    run twice without harm. Sweeps may not (a late copy would cancel what came after): they fly alone and are sent
    again only when the copy before is settled or its shard's term is over.
    A shard answers in the order in which it was asked. A flight without answer is repeated when the shard has said
    nothing at all for a while, or has answered what was sent later; not because it is slow: that would make it slower.
    A copy is settled by its own `Refused`. "Not executed" is said only when every copy is settled or none was sent;
    everything else that has no answer by its deadline is unknown (rules E3 to E6). What was said to be not executed
    never leaves again: a flight goes on without it, under another number.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Raw, Struct

from exchange import messages as m
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import WireError
from exchange.limits import BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, GATEWAY_PENDING_MAX
from exchange.wire import decode_replies_raw, encode
from gateway.core.problems import Problem

RESEND_SILENCE_NS = 250 * NS_PER_MS
RETRY_REFUSED_NS = 25 * NS_PER_MS
"""A batch that was refused by a shard without a primary is offered again after this time."""
NEVER = 1 << 62

NO_PRIMARY_REASONS = ("NOT_PRIMARY", "SUPERSEDED", "SHARD_DOWN", "FAILING_OVER")
"""Refusals that pass when the shard has a primary again; any other one is final for the batch."""

Ticket = Callable[["Settled"], None]
"""How the shell learns the end of a run; it calls the ticket exactly once."""


class Run:
    """Commands of one request for one shard.

    `started_ns` = when the request was complete, 0 = nobody measures it. `places` = where in it the answers belong.
    """

    __slots__ = ("commands", "deadline_ns", "open", "places", "started_ns", "sweep", "ticket")

    def __init__(
        self,
        commands: list[m.Command],
        deadline_ns: int,
        ticket: Ticket,
        *,
        started_ns: int = 0,
        places: list[int] | None = None,
        sweep: bool = False,
    ) -> None:
        self.commands = commands
        self.deadline_ns = deadline_ns
        self.ticket = ticket
        self.started_ns = started_ns
        self.places = places
        self.sweep = sweep
        self.open = True


class Settled(Struct, frozen=True):
    """The end of a run: `replies` in command order, or the problem that all its commands share.

    `resent` = more than one copy went out, so an answer to a command without client order id may be a repetition's.
    """

    run: Run
    replies: list[Raw]
    problem: Problem | None
    resent: bool


class Flight:
    """One batch on the wire. `copies` = sent and not refused, the last one at `sent_ns` in term `epoch`.

    `due_ns` = when to send it again whatever else happens, NEVER = when it is found to be lost. `deadline_ns` = the
    earliest of its open runs. A settled run stays in `runs`, so that answers keep their places.
    """

    __slots__ = (
        "batch",
        "copies",
        "count",
        "deadline_ns",
        "due_ns",
        "epoch",
        "first_sent_ns",
        "payload",
        "refused",
        "runs",
        "sends",
        "sent_ns",
        "sweep",
    )

    def __init__(self, batch: int, runs: list[Run], count: int, payload: bytes) -> None:
        self.batch = batch
        self.runs = runs
        self.count = count
        self.payload = payload
        self.sweep = runs[0].sweep
        self.deadline_ns = min(run.deadline_ns for run in runs)
        self.copies = 0
        self.epoch = 0
        self.sends = 0
        self.due_ns = NEVER
        self.first_sent_ns = 0
        self.sent_ns = 0
        self.refused: m.Refused | None = None


class Lane:
    """Drive with `enter`, then once a loop turn `depart`; with `on_message` and, every 20 ms or so, `on_tick`."""

    def __init__(self, shard: str, sender: str, first_batch: int) -> None:
        """Batches count from `first_batch` on. It must be above all numbers that an earlier process of this sender
        has used: a shard answers to the name, and its answers to a dead gateway reach the one after it.
        """
        self.shard = shard
        self.pending = 0
        self.entry: m.ShardEntry | None = None
        self.incarnation = 0
        self.resends = 0
        self._sender = sender
        self._batch = first_batch
        self._queue: list[Run] = []
        self._unsent: deque[Flight] = deque()
        self._flights: dict[int, Flight] = {}
        self._heard_ns = 0
        self._answered_ns = 0

    @property
    def serving(self) -> bool:
        """As far as is known, somebody leads the shard."""
        return self.entry is not None and self.entry.epoch > 0 and self.entry.serving

    def enter(self, run: Run) -> Problem | None:
        """Take a run for the next departure; refused at once when too much waits already."""
        count = len(run.commands)
        if self.pending + count > GATEWAY_PENDING_MAX:
            return Problem(
                "OVERLOADED",
                f"{self.pending} commands wait for shard {self.shard}, at most {GATEWAY_PENDING_MAX}",
                NS_PER_S,
            )
        self.pending += count
        self._queue.append(run)
        return None

    def depart(self) -> list[Flight]:
        """What to send now, oldest first. Stop at the first that the socket refuses; report each sent by `sent`."""
        if self._queue:
            queue, self._queue = self._queue, []
            for runs in _group(queue):
                self._form(runs)
        return list(self._unsent) if self._unsent and self.serving else []

    def header(self, flight: Flight) -> bytes:
        """The batch header for a copy that is sent now."""
        return encode(m.Batch(self._sender, self.incarnation, flight.batch, self._epoch, flight.count))

    def sent(self, flight: Flight, now_ns: int) -> None:
        """A copy of `flight` was handed to an established connection."""
        if self._unsent and self._unsent[0] is flight:
            self._unsent.popleft()
        self.resends += flight.sends > 0
        if not flight.sends:
            flight.first_sent_ns = now_ns
        flight.sends += 1
        flight.copies += 1
        flight.epoch = self._epoch
        flight.sent_ns = now_ns
        flight.due_ns = NEVER

    def on_map(self, entry: m.ShardEntry, now_ns: int) -> list[Flight]:
        """A newer map: in a new term every unanswered flight is offered to it, as soon as it serves."""
        before, self.entry = self.entry, entry
        if before is not None and (before.epoch, before.incarnation) != (entry.epoch, entry.incarnation):
            for flight in self._flights.values():
                flight.due_ns = now_ns
        return self.due(now_ns)

    def on_message(self, message: m.Answers | m.Refused, payload: bytes, now_ns: int) -> list[Settled]:
        """An answer of the shard. WireError, changing nothing, when it does not fit what was asked."""
        self._heard_ns = now_ns
        flight = self._flights.get(message.batch)
        if flight is None:
            return []
        if isinstance(message, m.Refused):
            return self._refused(flight, message, now_ns)
        replies = decode_replies_raw(payload)
        if len(replies) != flight.count:
            raise WireError(f"shard {self.shard} answers {flight.count} commands with {len(replies)} replies")
        self._land(flight)
        self._answered_ns = max(self._answered_ns, flight.first_sent_ns)
        settled = []
        start = 0
        for run in flight.runs:
            end = start + len(run.commands)
            if run.open:
                run.open = False
                self.pending -= end - start
                settled.append(Settled(run, replies[start:end], None, flight.sends > 1))
            start = end
        return settled

    def on_tick(self, now_ns: int) -> tuple[list[Settled], list[Flight]]:
        """Time passes: runs whose deadline is over are settled, flights that are due are to be sent."""
        settled: list[Settled] = []
        for flight in [flight for flight in self._flights.values() if flight.deadline_ns <= now_ns]:
            settled += self._end(flight, now_ns)
        return settled, self.due(now_ns)

    def due(self, now_ns: int) -> list[Flight]:
        """What to send now: what never left, oldest first, then what is to be sent again."""
        return [*self.depart(), *self._overdue(now_ns)]

    def abandon(self) -> list[Settled]:
        """The gateway ends: settle everything as it stands."""
        self.depart()
        settled: list[Settled] = []
        for flight in list(self._flights.values()):
            settled += self._end(flight, None)
        return settled

    def _form(self, runs: list[Run]) -> None:
        commands = [command for run in runs for command in run.commands]
        payload = encode(commands)
        if len(payload) > BATCH_BYTES_MAX:
            middle = len(runs) // 2
            self._form(runs[:middle])
            self._form(runs[middle:])
            return
        self._batch += 1
        flight = Flight(self._batch, runs, len(commands), payload)
        self._flights[flight.batch] = flight
        self._unsent.append(flight)

    @property
    def _epoch(self) -> int:
        return self.entry.epoch if self.entry is not None else 0

    def _overdue(self, now_ns: int) -> list[Flight]:
        """Flights to send again. A sweep with a copy that may still be alive waits for a new term."""
        if not self.serving:
            return []
        return [
            flight
            for flight in self._flights.values()
            if flight.sends
            and (flight.due_ns <= now_ns or self._lost(flight, now_ns))
            and not (flight.sweep and flight.copies and flight.epoch == self._epoch)
        ]

    def _lost(self, flight: Flight, now_ns: int) -> bool:
        """No word for long, though the shard has answered what was sent later, or says nothing at all."""
        silent_since_ns = now_ns - RESEND_SILENCE_NS
        overtaken = flight.sent_ns < self._answered_ns
        return flight.sent_ns <= silent_since_ns and (overtaken or self._heard_ns <= silent_since_ns)

    def _refused(self, flight: Flight, message: m.Refused, now_ns: int) -> list[Settled]:
        flight.copies -= flight.copies > 0
        flight.refused = message
        if flight.copies:
            return []
        if message.reason in NO_PRIMARY_REASONS:
            flight.due_ns = now_ns + RETRY_REFUSED_NS
            return []
        return self._end(flight, None)

    def _end(self, flight: Flight, now_ns: int | None) -> list[Settled]:
        """Settle the runs whose deadline is over, or all (None), by what is certain of the flight's copies."""
        problem = self._unknown(flight) if flight.copies else self._not_executed(flight)
        settled = []
        for run in flight.runs:
            if run.open and (now_ns is None or run.deadline_ns <= now_ns):
                run.open = False
                self.pending -= len(run.commands)
                settled.append(Settled(run, [], problem, flight.sends > 1))
        still_open = [run for run in flight.runs if run.open]
        if not still_open:
            self._land(flight)
            return settled
        flight.deadline_ns = min(run.deadline_ns for run in still_open)
        if not flight.copies:
            self._renumber(flight, still_open)
        return settled

    def _renumber(self, flight: Flight, runs: list[Run]) -> None:
        """Only these runs of a flight of which no copy is alive go on."""
        del self._flights[flight.batch]
        self._batch += 1
        commands = [command for run in runs for command in run.commands]
        flight.batch, flight.runs, flight.count, flight.payload = self._batch, runs, len(commands), encode(commands)
        self._flights[flight.batch] = flight

    def _land(self, flight: Flight) -> None:
        del self._flights[flight.batch]
        if not flight.sends:
            self._unsent.remove(flight)

    def _not_executed(self, flight: Flight) -> Problem:
        refused = flight.refused
        if refused is not None and refused.reason not in NO_PRIMARY_REASONS:
            return Problem("OVERLOADED", f"shard {self.shard} refused: {refused.reason}, {refused.detail}", NS_PER_S)
        told = f": {refused.reason}, {refused.detail}" if refused is not None else ""
        return Problem("SHARD_DOWN", f"shard {self.shard} has no reachable primary{told}", NS_PER_S)

    def _unknown(self, flight: Flight) -> Problem:
        return Problem("UNKNOWN", f"sent to shard {self.shard} {flight.sends} times without an answer")


def _group(queue: list[Run]) -> list[list[Run]]:
    """Cut a turn's runs into batches, in order; a sweep gets one for itself."""
    groups: list[list[Run]] = []
    count = BATCH_COMMANDS_MAX
    for run in queue:
        count += len(run.commands)
        if run.sweep or count > BATCH_COMMANDS_MAX:
            groups.append([])
            count = len(run.commands)
        groups[-1].append(run)
        if run.sweep:
            count = BATCH_COMMANDS_MAX
    return groups
