"""An engine that fails where a test wants it to, as a defect would: in the middle of a record, whatever runs below it.

Without the failpoint `apply:poison_TEXT` there is none of it.
"""

from typing import Any

from exchange import failpoints
from exchange import messages as m
from exchange.wire import array_header, decode_commands, decode_replies
from shard.core.engine import Engine, create_engine
from shard.core.outcome import decode_outcome
from shard.core.poison import commands_of


class Panic(BaseException):
    """Like a panic of the native engine: no Exception."""


class Brittle:
    """Fails when it has executed an order whose client order id holds `text`. A repetition is no execution."""

    def __init__(self, engine: Engine, text: str) -> None:
        self._engine = engine
        self._text = text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def apply(self, record: bytes) -> bytes:
        """As the engine does; Panic leaves it changed."""
        outcome = self._engine.apply(record)
        encoded, (replies, _) = commands_of(record), decode_outcome(outcome)
        header = array_header(len(encoded))
        commands, answers = decode_commands(header + b"".join(encoded)), decode_replies(header + b"".join(replies))
        for command, answer in zip(commands, answers, strict=True):
            executed = isinstance(answer, m.Executed) and not answer.duplicate
            if executed and isinstance(command, m.Submit) and self._text in command.client_order_id:
                raise Panic(f"failpoint: {command.client_order_id} was executed")
        return outcome


def create(config: m.EngineConfig, *, reference: bool = False) -> Engine:
    """`create_engine`, brittle where that is asked for."""
    engine, text = create_engine(config, reference=reference), failpoints.poison()
    return Brittle(engine, text) if text else engine
