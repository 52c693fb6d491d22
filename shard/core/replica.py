"""One shard's replica: batches in, one journal record a turn, answers and events out. Pure.

A turn of the shell, in this order, which is the safety argument:

1. cues: `on_message`, `on_tick`, `begin_term`, `define`, `drain`
2. `form`: the record of this turn. When there is one: write it to the journal, then `on_written` (executes it). Its
   bytes are fixed and written before any of its commands runs: a failed write leaves the state untouched, and a
   command that kills the process can be found in the journal. When write or sync fails, call nothing more: exit.
   A record that another node made enters by `on_replicated`.
3. What a record did is in doubt until `release`: the node says when it is committed.
4. `ready`: what may leave now. It holds only what is committed, or was refused and will never be in a record.

Phases
    WAITING   leads no term: batches are refused
    SERVING   from `begin_term` on: batches enter records
    DRAINING  from `drain` on: new batches are refused, what is in the inbox is still executed

Laws
    A batch is executed whole or refused whole; `Refused` says that nothing of it was or will be executed.
    A record is stamped with the newest wall-clock time that the shell passed in, within the bounds of `clock`.
    Nothing that a record did leaves before it is released. What recovery brought back is not known to be committed:
    followers wait until it is.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple, assert_never

from exchange import messages as m
from exchange.errors import WireError
from exchange.limits import RECORD_BYTES_MAX, RECORD_COMMANDS_MAX
from exchange.wire import array_header, decode_replies, decode_shard_inbound, encode
from shard.core.engine import Engine
from shard.core.followers import Followers, Parcel
from shard.core.inbox import COORDINATOR, Inbox, Refusal, Waiting
from shard.core.journal import Position
from shard.core.log_clock import LogClock
from shard.core.outcome import event_frame, reply_range, trade_count
from shard.core.poison import apply
from shard.core.record import chain_after, encode_batch
from shard.core.ring import Ring
from shard.core.senders import Senders

_TICK = encode(m.Tick())


class Phase(Enum):
    WAITING = "waiting"
    SERVING = "serving"
    DRAINING = "draining"


class Ready(NamedTuple):
    """What may leave now: answers to the Router, (header, payload) to the Publisher, lines for the log."""

    send: list[Parcel]
    publish: list[tuple[bytes, bytes]]
    notes: list[str]


class _Flight(NamedTuple):
    """A record on its way: who gets which part of its outcome."""

    record: bytes
    first_seq: int
    after: Position
    own: int
    batches: list[Waiting]
    ticks: int


class _Doubt(NamedTuple):
    """A record that was executed here and is not known to be committed."""

    flight: _Flight
    outcome: bytes


class Replica:
    """Single-threaded; no method blocks.

    `position` is where the journal stands, counting written records; everything up to `committed_seq` was released, 0 =
    nothing is known yet; `trades` = how many this process has committed; commands of `skip` are left out (R14).
    """

    def __init__(self, *, shard: str, node: str, engine: Engine, position: Position, ring: Ring) -> None:
        self.position = position
        self.ring = ring
        self.engine = engine
        self.phase = Phase.WAITING
        self.committed_seq = 0
        self.trades = 0
        self.skip: Sequence[int] = ()
        self.clock = LogClock()
        self._shard = shard
        self._node = node
        self._epoch = position.epoch
        self._now_ns = 0
        self._inbox = Inbox(shard, engine)
        self._epoch_start = b""
        self._own: deque[bytes] = deque()
        self._defined: dict[int, m.DefineInstrument] = {}
        self._tick_due = False
        self._followers = Followers(shard, engine, ring)
        self._senders = Senders()
        self._flight: _Flight | None = None
        self._doubt: deque[_Doubt] = deque()
        self._refusing = ""
        self._notes: list[str] = []
        self._send: list[Parcel] = []
        self._publish: list[tuple[bytes, bytes]] = []

    @property
    def epoch(self) -> int:
        """The term in which records are formed now."""
        return self._epoch

    @property
    def serving(self) -> bool:
        """The term has begun, its EpochStart and the instruments' definitions are committed."""
        return self.phase is Phase.SERVING and not self._epoch_start and not self._own

    @property
    def busy(self) -> bool:
        """`form` would give a record without any further cue."""
        return bool(self._inbox or self._own or self._epoch_start)

    @property
    def formed_position(self) -> Position:
        """Where the journal will stand after the record that `form` gave."""
        assert self._flight is not None, "form gave a record"
        return self._flight.after

    @property
    def in_doubt(self) -> int:
        """Records that were executed here and are not known to be committed."""
        return len(self._doubt)

    @property
    def inbox_batches(self) -> int:
        """Batches that wait for their record."""
        return len(self._inbox)

    # --- cues ---------------------------------------------------------------------------------------------------

    def begin_term(
        self, epoch: int, incarnation: int, instruments: Iterable[m.Instrument], now_ns: int, *, opens: bool = True
    ) -> None:
        """The coordinator made this replica the primary of `epoch`, whose promise the shell has made durable.

        Batches that were meant for another term are refused. ValueError when the numbers are out of range. `opens` =
        False breaks R6: the term does not begin with EpochStart.
        """
        epoch_start = encode(m.EpochStart(epoch, self._node, incarnation))
        self.engine.admit(array_header(1) + epoch_start, m.SHARD_COMMANDS)
        assert self.phase is not Phase.DRAINING, "a replica that drains begins no term"
        assert epoch >= self._epoch, "terms only grow"
        self._now_ns = now_ns
        self.phase = Phase.SERVING
        self._epoch = epoch
        for batch in self._inbox.empty():
            if batch.epoch in (0, epoch):
                self._inbox.put(batch)
            else:
                self._refuse(batch.peer, batch.number, "NOT_PRIMARY", self._other_term(batch.epoch))
        self._epoch_start = epoch_start if opens else b""
        self.define(instruments)

    def define(self, instruments: Iterable[m.Instrument]) -> None:
        """Log the definition of every instrument that this process has not logged in just this form."""
        for instrument in instruments:
            definition = _definition(instrument)
            if self._defined.get(instrument.index) == definition:
                continue
            self._defined[instrument.index] = definition
            command = encode(definition)
            try:
                self.engine.admit(array_header(1) + command, m.SHARD_COMMANDS)
            except ValueError as fault:
                self._notes.append(f"instrument {instrument.symbol!r} of the shard map cannot be defined: {fault}")
            else:
                self._own.append(command)

    def drain(self) -> None:
        """Take no new batches; finish what is in the inbox."""
        self.phase = Phase.DRAINING

    def on_tick(self, now_ns: int) -> None:
        """Wall-clock time passes: the next record carries a Tick."""
        self._now_ns = now_ns
        self._tick_due = self.phase is Phase.SERVING

    def on_message(self, header: bytes, payload: bytes, peer: bytes, now_ns: int) -> None:
        """Take one message from the Router. `now_ns` is wall-clock time."""
        self._now_ns = now_ns
        try:
            message = decode_shard_inbound(header)
        except WireError as error:
            self._notes.append(f"peer {peer!r}: {error}")
            return
        match message:
            case m.Batch():
                self._take(message, payload, peer)
            case m.Follow():
                self._followers.ask(peer, message.after_seq)
            case _:
                assert_never(message)

    def on_written(self) -> None:
        """The record of `form` lies in the journal: execute it. Poisoned when the engine fails."""
        flight = self._flight
        assert flight is not None, "on_written answers a record"
        outcome = apply(self.engine, flight.record, self.skip)
        self._flight = None
        self.position = flight.after
        self._doubt.append(_Doubt(flight, outcome))

    def on_replicated(self, record: bytes, after: Position) -> None:
        """A record of the primary that follows `position` lies in the journal: execute it. Poisoned as above."""
        assert self.phase is Phase.WAITING, "who leads makes its own records"
        outcome = apply(self.engine, record, self.skip)
        self._doubt.append(_Doubt(_Flight(record, self.position.seq + 1, after, 0, [], 0), outcome))
        self.clock.learn(after.ts_ns)
        self.position = after

    def release(self, seq: int) -> None:
        """Everything up to `seq`, which is no more than `position` has, is committed."""
        self.committed_seq = max(self.committed_seq, seq)
        while self._doubt and self._doubt[0].flight.after.seq <= seq:
            self._settle(*self._doubt.popleft())

    def refuse(self, why: str) -> None:
        """Take no batches and keep none waiting until this is called with "": nothing can be committed now."""
        self._refusing = why
        if why:
            self._empty_inbox("FAILING_OVER", f"shard {self._shard}: {why}")

    def abdicate(self, *, silent: bool = True) -> None:
        """The term is over. What has no seq is refused as not executed.

        What is in doubt may be in the next primary's log and become committed: its senders are never answered (E4), its
        events leave when it is. `silent` = False breaks that rule.
        """
        if not silent:
            for doubt in self._doubt:
                for batch in doubt.flight.batches:
                    self._refuse(batch.peer, batch.number, "NOT_PRIMARY", f"term {self._epoch} is over")
        self._doubt = deque(
            _Doubt(doubt.flight._replace(own=0, batches=[], ticks=0), doubt.outcome) for doubt in self._doubt
        )
        self._epoch_start = b""
        self._own.clear()
        self._defined.clear()
        self._tick_due = False
        self._refusing = ""
        self._empty_inbox("NOT_PRIMARY", f"shard {self._shard}: term {self._epoch} is over")
        self.phase = Phase.WAITING

    def _empty_inbox(self, reason: str, detail: str) -> None:
        for batch in self._inbox.empty():
            self._refuse(batch.peer, batch.number, reason, detail)

    def _settle(self, flight: _Flight, outcome: bytes) -> None:
        if flight.own:
            self._check_own(outcome, flight.own)
        taken = flight.own + flight.ticks
        for batch in flight.batches:
            answers = encode(m.Answers(batch.number, flight.after.epoch))
            self._send.append(
                (batch.peer, answers, array_header(batch.commands) + reply_range(outcome, taken, batch.commands))
            )
            taken += batch.commands
        frame = event_frame(outcome)
        self.trades += trade_count(frame)
        published = m.Published(self._shard, flight.after.epoch, flight.first_seq - 1, flight.after.seq)
        self._publish.append((encode(published), frame))
        self.ring.add(flight.first_seq, flight.after.seq, frame)

    # --- consequences -------------------------------------------------------------------------------------------

    def ready(self) -> Ready:
        """What may leave now; what is returned here is not returned again."""
        if self.committed_seq >= self.ring.last_seq:
            in_doubt = self._doubt or self._flight is not None
            leads = self.phase is not Phase.WAITING
            self._send += self._followers.answer(None if in_doubt else self.position.seq, leads=leads)
        ready = Ready(self._send, self._publish, self._notes)
        self._send, self._publish, self._notes = [], [], []
        return ready

    def form(self) -> bytes:
        """The next record: own commands first (EpochStart opens a term), then a Tick, then batches as they came.

        Empty when there is nothing to log, and while a follower needs an image: then what is in doubt is settled first.
        """
        assert self._flight is None, "one record at a time"
        if self._doubt and self._followers.want_image:
            return b""
        commands = [self._epoch_start] if self._epoch_start else []
        self._epoch_start = b""
        count = own = len(commands)
        size = sum(map(len, commands))
        ticks = 0
        while self._own and count < RECORD_COMMANDS_MAX and size + len(self._own[0]) <= RECORD_BYTES_MAX:
            command = self._own.popleft()
            commands.append(command)
            count += 1
            size += len(command)
            own += 1
        if self._tick_due and count < RECORD_COMMANDS_MAX and size + len(_TICK) <= RECORD_BYTES_MAX:
            self._tick_due = False
            commands.append(_TICK)
            count += 1
            size += len(_TICK)
            ticks = 1
        batches = self._inbox.draw(RECORD_COMMANDS_MAX - count, RECORD_BYTES_MAX - size) if not self._own else []
        for batch in batches:
            commands.append(batch.body)
            count += batch.commands
        if not count:
            return b""
        before = self.position
        ts_ns = self.clock.stamp(self._now_ns, before.ts_ns)
        record = encode_batch(
            epoch=self._epoch,
            first_seq=before.seq + 1,
            ts_ns=ts_ns,
            prev_chain=before.chain,
            count=count,
            payload=b"".join(commands),
        )
        after = Position(before.seq + count, self._epoch, ts_ns, chain_after(record))
        self._flight = _Flight(record, before.seq + 1, after, own, batches, ticks)
        return record

    def _take(self, header: m.Batch, payload: bytes, peer: bytes) -> None:
        """Let a batch in or refuse it whole."""
        if self.phase is Phase.WAITING:
            refusal: Refusal | None = Refusal("SHARD_DOWN", f"shard {self._shard} waits for the coordinator")
        elif self.phase is Phase.DRAINING:
            refusal = Refusal("SHARD_DOWN", f"shard {self._shard} is shutting down")
        elif header.epoch not in (0, self._epoch):
            refusal = Refusal("NOT_PRIMARY", self._other_term(header.epoch))
        elif peer != COORDINATOR and self._senders.is_over(peer, header.incarnation, header.batch):
            refusal = Refusal("SUPERSEDED", f"incarnation {header.incarnation} of the sender is over")
        elif self._refusing:
            refusal = Refusal("FAILING_OVER", f"shard {self._shard}: {self._refusing}")
        else:
            refusal = self._inbox.take(header, payload, peer)
        if refusal is None:
            return
        if refusal.note:
            self._notes.append(refusal.note)
        self._refuse(peer, header.batch, refusal.reason, refusal.detail)

    def _refuse(self, peer: bytes, batch: int, reason: str, detail: str) -> None:
        self._send.append((peer, encode(m.Refused(batch, self._epoch, reason, detail)), b""))

    def _other_term(self, epoch: int) -> str:
        return f"shard {self._shard} is in term {self._epoch}, the batch is meant for term {epoch}"

    def _check_own(self, outcome: bytes, count: int) -> None:
        for reply in decode_replies(array_header(count) + reply_range(outcome, 0, count)):
            if isinstance(reply, m.Rejected):
                self._notes.append(f"own command of seq {reply.seq}: code {reply.code}, value {reply.value}")


def _definition(i: m.Instrument) -> m.DefineInstrument:
    return m.DefineInstrument(
        i.index,
        i.symbol,
        i.tick,
        i.lot,
        i.quantity_min,
        i.quantity_max,
        i.price_min,
        i.price_max,
        i.collar_bps,
        i.reference_price,
        i.position_limit,
    )
