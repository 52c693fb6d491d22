"""The committed log applied once more, record by record, with observers that look at every step."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from drills.checker.journals import Fragment, Line, NodeLog, Record, Snapshot
from drills.checker.report import Finding
from exchange import messages as m
from exchange.errors import JournalError
from exchange.wire import array_header, decode_commands, decode_frame, decode_replies
from shard.core.engine import Engine
from shard.core.outcome import decode_outcome
from shard.core.poison import without
from shard.core.record import HEAD_BYTES

Create = Callable[[m.EngineConfig], Engine]


class Step(NamedTuple):
    """One record and all that replay says of it. `raw` = the replies as the shard sends them, `executed` = the record
    as the engine ran it, without what operators had left out."""

    fragment: Fragment
    record: Record
    commands: list[m.Command]
    replies: list[m.Reply]
    raw: list[bytes]
    frame: m.EventFrame
    frame_bytes: bytes
    engine: Engine
    executed: bytes


class Observer(Protocol):
    """Looks at every step, then says what is wrong."""

    def on_step(self, step: Step) -> None: ...

    def findings(self, walk: "Walk") -> Iterator[Finding]:
        """Called once, when the walk has ended."""
        ...


class Walk:
    """One line from its beginning, or from the oldest snapshot that it reaches. `end_seq` = how far it came."""

    def __init__(self, line: Line, logs: Sequence[NodeLog], create: Create, skip: Sequence[int] = ()) -> None:
        """JournalError when nothing says what was before the line. `skip` = commands that operators had left out."""
        self.line = line
        self._skip = skip
        self.start: Snapshot | None = None
        if line.base_seq:
            usable = [snapshot for log in logs for snapshot in log.snapshots if _is_on(snapshot, line)]
            if not usable:
                raise JournalError(
                    f"the log of {line.node} starts behind seq {line.base_seq}, and no snapshot reaches it"
                )
            self.start = min(usable, key=lambda snapshot: snapshot.head.position.seq)
        self.start_seq = self.start.head.position.seq if self.start else 0
        self.end_seq = self.start_seq
        self.stopped = ""
        self.engine: Engine | None = None
        self._create = create
        self._ceilings: m.EngineConfig | None = None

    def body(self) -> bytes:
        """Engine snapshot of the start; b"" at the beginning of everything."""
        return self.start.body() if self.start else b""

    def steps(self) -> Iterator[Step]:
        """Apply everything. Ends early, and says why in `stopped`, where the engine refuses a record."""
        for fragment, record in self.line.records():
            if record.head.last_seq <= self.start_seq:
                continue
            engine = self._under(fragment.head.ceilings)
            executed = without(record.record, self._skip)
            try:
                outcome = engine.apply(executed)
            except BaseException as fault:  # a panic of the native engine is no Exception
                if isinstance(fault, KeyboardInterrupt | SystemExit | GeneratorExit):
                    raise
                self.stopped = f"{fragment.path.name}, byte {record.offset}: replay fails: {fault!r}"
                return
            raw, frame = decode_outcome(outcome)
            count = record.head.count
            payload = record.record[HEAD_BYTES : HEAD_BYTES + record.head.payload_bytes]
            self.end_seq = record.head.last_seq
            yield Step(
                fragment,
                record,
                decode_commands(array_header(count) + payload),
                decode_replies(array_header(count) + b"".join(raw)),
                raw,
                decode_frame(frame),
                frame,
                engine,
                executed,
            )

    def _under(self, ceilings: m.EngineConfig) -> Engine:
        """The engine, with the ceilings that the segment names."""
        if self.engine is None or ceilings != self._ceilings:
            body = self.engine.snapshot() if self.engine is not None else self.body()
            self.engine, self._ceilings = self._create(ceilings), ceilings
            if body:
                self.engine.restore(body)
        return self.engine


def plain(value: object) -> object:
    """Something that JSON can tell, for evidence."""
    return msgspec.to_builtins(value)


def _is_on(snapshot: Snapshot, line: Line) -> bool:
    position = snapshot.head.position
    return line.chain_at(position.seq) == position.chain
