"""A second opinion that does not believe the journal: is there any order of the calls that explains all answers?

The search of Wing and Gong with Lowe's memory, for one instrument and at most CALLS_MAX calls. The specification is a
fresh engine: a call is explained at a place when the engine gives there what the client was told. Calls without an
answer may have happened at any time after they began, or not at all. What it proves is linearizability; cost grows
exponentially with the number of calls that overlap, hence the bounds.
"""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec
from msgspec import Struct

from drills.checker.history import MAYBE_HTTP, Call
from drills.checker.identity import mark, reply_mark
from exchange import messages as m
from exchange.wire import array_header, decode_replies, encode
from shard.core.engine import Engine, create_engine
from shard.core.outcome import decode_outcome
from shard.core.record import encode_record

CALLS_MAX = 200
STATES_MAX = 200_000
_CEILINGS = m.EngineConfig(10_000, 1_000, 20_000, 10_000, 1 << 60, 10_000)
_NEVER_NS = 1 << 62


class TooHard(Exception):
    """More calls, or more possible orders of them, than the search takes on."""


class _Call(Struct, frozen=True):
    command: bytes
    call_ns: int
    return_ns: int
    told: int
    repetition: bool
    certain: bool


def linearizable(calls: Sequence[Call], definition: m.DefineInstrument) -> bool:
    """Whether some order explains every answer about the instrument. TooHard when the search is given up.

    Order ids must be the instrument's: the history has to begin with it. Answers of gateways that deny count as "it did
    not happen".
    """
    told = [_prepared(call) for call in calls if call.instrument == definition.index and not _denied(call)]
    if len(told) > CALLS_MAX:
        raise TooHard(f"{len(told)} calls, at most {CALLS_MAX}")
    told.sort(key=lambda call: call.call_ns)
    return _Search(told, definition).run()


class _Search:
    def __init__(self, calls: Sequence[_Call], definition: m.DefineInstrument) -> None:
        self._calls = calls
        self._engine = create_engine(_CEILINGS)
        _apply(self._engine, encode(definition))
        self._certain = sum(1 << number for number, call in enumerate(calls) if call.certain)
        self._seen: dict[tuple[int, int], None] = {}

    def run(self) -> bool:
        """Depth first; each entry of the stack = what has happened, and the state that it led to."""
        stack = [(0, self._engine.snapshot())]
        while stack:
            happened, state = stack.pop()
            if happened & self._certain == self._certain:
                return True
            for number in reversed(self._next(happened)):
                self._engine.restore(state)
                if not self._explains(self._calls[number]):
                    continue
                key = happened | 1 << number, _digest(self._engine)
                if key not in self._seen:
                    self._seen[key] = None
                    if len(self._seen) > STATES_MAX:
                        raise TooHard(f"more than {STATES_MAX} states")
                    stack.append((key[0], self._engine.snapshot()))
        return False

    def _next(self, happened: int) -> list[int]:
        """Calls that may come next: nobody who is still to come had returned before they began."""
        first_return_ns = min(
            (call.return_ns for number, call in enumerate(self._calls) if not happened >> number & 1), default=0
        )
        return [
            number
            for number, call in enumerate(self._calls)
            if not happened >> number & 1 and call.call_ns <= first_return_ns
        ]

    def _explains(self, call: _Call) -> bool:
        reply = _apply(self._engine, call.command)
        if not call.certain:
            return True
        if getattr(reply, "duplicate", False) and not call.repetition:
            return False  # the other way round is a gateway's own second copy
        return reply_mark(reply) == call.told


def _prepared(call: Call) -> _Call:
    outcome = call.outcome
    certain = outcome.seq > 0
    assert call.command is not None, "the search needs whole requests"
    told = mark(outcome.status, outcome.reason, outcome.order_id, outcome.filled)
    end_ns = call.return_ns if certain else _NEVER_NS
    return _Call(encode(call.command), call.call_ns, end_ns, told, outcome.duplicate, certain)


def _denied(call: Call) -> bool:
    outcome = call.outcome
    return outcome.seq <= 0 and outcome.http not in MAYBE_HTTP


def _apply(engine: Engine, command: bytes) -> m.Reply:
    """One command, one record: the specification knows no batches."""
    seq, ts_ns = engine.seq() + 1, engine.ts() + 1
    record = encode_record(epoch=0, first_seq=seq, ts_ns=ts_ns, prev_chain=0, commands=[command])
    replies, _ = decode_outcome(engine.apply(record))
    return decode_replies(array_header(1) + replies[0])[0]


def _digest(engine: Engine) -> int:
    """State without seqs and stamps, which differ between two orders that come to the same."""
    state = msgspec.msgpack.decode(engine.snapshot())
    state[1:5] = [0, 0, 0, 0]
    for order in state[8]:
        order[10] = 0
    for entry in state[9]:
        entry[5:8] = [0, 0, 0]
        if entry[18]:
            entry[18][10] = 0
    return int.from_bytes(blake2b(encode(state), digest_size=8).digest(), "little")
