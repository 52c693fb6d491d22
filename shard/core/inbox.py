"""Batches that wait for their record: which are let in, and in what order they leave. Pure."""

from collections import deque
from typing import NamedTuple

from exchange import messages as m
from exchange.errors import WireError
from exchange.limits import BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, INBOX_BATCHES_MAX, INBOX_BYTES_MAX
from exchange.wire import array_body_offset
from shard.core.engine import Engine

COORDINATOR = b"coordinator"
"""Identity of the one peer whose batches may hold operator commands."""


class Refusal(NamedTuple):
    """Why nothing of a batch will be executed; `note` is for the log."""

    reason: str
    detail: str
    note: str = ""


class Waiting(NamedTuple):
    """A batch that was let in: who asks, in which term, and its commands without their array header."""

    peer: bytes
    number: int
    epoch: int
    commands: int
    body: bytes


class Inbox:
    """First in, first out; bounded by batches and by bytes. What is in it was admitted by the engine."""

    def __init__(self, shard: str, engine: Engine) -> None:
        self._shard = shard
        self._engine = engine
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, header: m.Batch, payload: bytes, peer: bytes) -> Refusal | None:
        """Let a batch in, or say why not. O(commands)."""
        if len(self._waiting) >= INBOX_BATCHES_MAX or self._bytes + len(payload) > INBOX_BYTES_MAX:
            return Refusal("OVERLOADED", f"shard {self._shard} has {len(self._waiting)} batches waiting")
        if len(payload) > BATCH_BYTES_MAX:
            return Refusal("MALFORMED", f"batch of {len(payload)} bytes exceeds {BATCH_BYTES_MAX}")
        allowed = m.OPERATOR_COMMANDS if peer == COORDINATOR else m.CUSTOMER_COMMANDS
        try:
            count = self._engine.admit(payload, allowed)
            body = payload[array_body_offset(payload) :]
        except (ValueError, WireError) as fault:
            return Refusal("MALFORMED", str(fault))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as fault:  # our own defect (a panic is no Exception), and nothing was changed by it
            note = f"batch {header.batch} of {peer!r} could not be checked: {fault!r}"
            return Refusal("MALFORMED", "the engine failed to check it", note)
        if count != header.count or not 1 <= count <= BATCH_COMMANDS_MAX:
            detail = f"batch announces {header.count} commands, it has {count}; allowed are 1 to {BATCH_COMMANDS_MAX}"
            return Refusal("MALFORMED", detail)
        self.put(Waiting(peer, header.batch, header.epoch, count, body))
        return None

    def put(self, batch: Waiting) -> None:
        """Let a batch wait that was let in before."""
        self._waiting.append(batch)
        self._bytes += len(batch.body)

    def draw(self, commands_max: int, bytes_max: int) -> list[Waiting]:
        """The oldest batches that together fit."""
        drawn: list[Waiting] = []
        while self._waiting:
            batch = self._waiting[0]
            commands_max -= batch.commands
            bytes_max -= len(batch.body)
            if commands_max < 0 or bytes_max < 0:
                break
            drawn.append(self._waiting.popleft())
            self._bytes -= len(batch.body)
        return drawn

    def empty(self) -> list[Waiting]:
        """All of them; nothing waits any more."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return waiting
