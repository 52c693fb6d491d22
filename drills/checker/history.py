"""What clients and subscribers saw: NDJSON files in, columns of numbers out, so that millions of calls fit into memory.

A call is one line: who asked what, when (monotonic clock of one machine), how many copies the client sent, and what
came of it. `http` 0 = no answer. With a `seq` the outcome is the log's, else it is the gateway's. A capture is one line
for each frame that a subscriber took. docs/DRILLS.md has both formats.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from drills.checker.identity import identity, mark, request_mark
from exchange import messages as m
from exchange.domain import Reject, Status
from exchange.errors import ShardexError
from exchange.wire import decode_frame_head, encode

ENTRIES = ("submit", "replace", "reduce")
"""Operations that take effect at most once under their id."""
OPS = (*ENTRIES, "cancel", "resolve", "query", "sweep")
MAYBE_HTTP = (0, 408, 504)
"""No answer, or one that says that nothing is known."""
NO, MAYBE = 1, 2


class HistoryError(ShardexError):
    """A history cannot be read."""


class Outcome(Struct, frozen=True, omit_defaults=True):
    """What a call led to. `status` is a name of Status, `reason` one of Reject or of the gateway's reasons.

    `reply_crc` = CRC-32 of the reply's bytes, -1 where the client did not see them.
    """

    http: int = 0
    reason: str = ""
    epoch: int = 0
    seq: int = 0
    order_id: int = 0
    status: str = ""
    filled: int = 0
    duplicate: bool = False
    reply_crc: int = -1


class Call(Struct, frozen=True, omit_defaults=True):
    """One call of a client. `id` = client order id that it names; `command` = the whole request, where it is known."""

    client: str
    account: str
    instrument: int
    id: str
    op: str
    call_ns: int
    return_ns: int
    outcome: Outcome
    copies: int = 1
    command: m.Command | None = None


class Capture(Struct, frozen=True):
    """One frame or image that a subscriber took; `prev_seq` = where it stood before."""

    subscriber: str
    shard: str
    epoch: int
    first_seq: int
    last_seq: int
    prev_seq: int
    image: bool
    frame_crc: int


class Place(NamedTuple):
    """Where something is told."""

    path: Path
    offset: int


class Answer(NamedTuple):
    """One final answer out of the columns."""

    op: str
    seq: int
    epoch: int
    key: int
    request: int
    mark: int
    reply_crc: int
    duplicate: bool
    call_ns: int
    return_ns: int
    place: Place


class Calls:
    """All calls. Answers with a seq are columns; of the rest only ids without a final answer are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.paths: list[Path] = []
        self.instruments = array("H")
        self.seqs = array("q")
        self.doubts: dict[int, int] = {}
        self.doubt_places: dict[int, Place] = {}
        self.voided: dict[int, Place] = {}
        self.attempts: dict[int, tuple[array[int], array[int], array[int]]] = {}
        self._epochs = array("q")
        self._keys = array("Q")
        self._requests = array("Q")
        self._marks = array("Q")
        self._reply_crcs = array("q")
        self.call_ns = array("q")
        self.return_ns = array("q")
        self._kinds = array("B")
        self._files = array("H")
        self._offsets = array("Q")

    def __len__(self) -> int:
        return len(self.seqs)

    def read(self, path: Path) -> None:
        """Take one file. HistoryError names line and rule."""
        self.paths.append(path)
        for offset, call in _lines(path, Call):
            self._take(call, Place(path, offset))

    def settle(self) -> None:
        """Everything is read: forget the doubts about ids that got a final answer."""
        for place, key in enumerate(self._keys):
            if key in self.doubts and OPS[self._kinds[place] >> 1] in ENTRIES:
                del self.doubts[key]

    def at(self, place: int) -> Answer:
        """One answer."""
        kind = self._kinds[place]
        return Answer(
            OPS[kind >> 1],
            self.seqs[place],
            self._epochs[place],
            self._keys[place],
            self._requests[place],
            self._marks[place],
            self._reply_crcs[place],
            bool(kind & 1),
            self.call_ns[place],
            self.return_ns[place],
            Place(self.paths[self._files[place]], self._offsets[place]),
        )

    def order(self, instruments: Iterable[int]) -> list[int]:
        """Numbers of the answers about these instruments, ascending by seq."""
        wanted = set(instruments)
        of = self.instruments
        return sorted([place for place in range(len(self)) if of[place] in wanted], key=self.seqs.__getitem__)

    def by_time(self, places: Sequence[int]) -> tuple[list[int], list[int]]:
        """The same answers ascending by call, and ascending by return."""
        return sorted(places, key=self.call_ns.__getitem__), sorted(places, key=self.return_ns.__getitem__)

    def is_repetition(self, place: int) -> bool:
        """The answer is that of an earlier copy."""
        return bool(self._kinds[place] & 1)

    def _take(self, call: Call, place: Place) -> None:
        outcome = call.outcome
        if call.op not in OPS:
            raise HistoryError(f"{place.path}, byte {place.offset}: op {call.op!r} is not one of {', '.join(OPS)}")
        self.count += 1
        columns = self.attempts.setdefault(call.instrument, (array("q"), array("q"), array("B")))
        columns[0].append(call.call_ns)
        columns[1].append(call.return_ns)
        columns[2].append(outcome.seq > 0)
        key = identity(call.account, call.instrument, call.id)
        if outcome.seq <= 0:
            if call.op in ENTRIES and call.id:
                maybe = outcome.http in MAYBE_HTTP or (outcome.http >= 500 and outcome.http != 503)
                self.doubts[key] = self.doubts.get(key, 0) | (MAYBE if maybe else NO)
                self.doubt_places.setdefault(key, place)
            return
        if outcome.status == Status.VOIDED.name or outcome.reason == Reject.VOIDED.name:
            self.voided.setdefault(key, place)
        self.instruments.append(call.instrument)
        self.seqs.append(outcome.seq)
        self._epochs.append(outcome.epoch)
        self._keys.append(key)
        self._requests.append(request_mark(call.command) if call.command is not None else 0)
        self._marks.append(mark(outcome.status, outcome.reason, outcome.order_id, outcome.filled))
        self._reply_crcs.append(outcome.reply_crc)
        self.call_ns.append(call.call_ns)
        self.return_ns.append(call.return_ns)
        self._kinds.append(OPS.index(call.op) << 1 | outcome.duplicate)
        self._files.append(len(self.paths) - 1)
        self._offsets.append(place.offset)


class Captures:
    """All captured frames of one shard, in columns."""

    def __init__(self) -> None:
        self.subscribers: list[str] = []
        self._sources = array("H")
        self._epochs = array("q")
        self._firsts = array("q")
        self._lasts = array("q")
        self._befores = array("q")
        self._images = array("B")
        self._crcs = array("q")
        self._offsets = array("Q")
        self._paths: list[Path] = []
        self._files = array("H")

    def __len__(self) -> int:
        return len(self._lasts)

    def add(self, capture: Capture, place: Place) -> None:
        """Take one line."""
        if capture.subscriber not in self.subscribers:
            self.subscribers.append(capture.subscriber)
        if place.path not in self._paths:
            self._paths.append(place.path)
        self._sources.append(self.subscribers.index(capture.subscriber))
        self._epochs.append(capture.epoch)
        self._firsts.append(capture.first_seq)
        self._lasts.append(capture.last_seq)
        self._befores.append(capture.prev_seq)
        self._images.append(capture.image)
        self._crcs.append(capture.frame_crc)
        self._files.append(self._paths.index(place.path))
        self._offsets.append(place.offset)

    def at(self, shard: str, number: int) -> tuple[Capture, Place]:
        """One capture and where it is told."""
        capture = Capture(
            self.subscribers[self._sources[number]],
            shard,
            self._epochs[number],
            self._firsts[number],
            self._lasts[number],
            self._befores[number],
            bool(self._images[number]),
            self._crcs[number],
        )
        return capture, Place(self._paths[self._files[number]], self._offsets[number])

    def ordered(self) -> list[int]:
        """Numbers of the captures, ascending by last seq."""
        return sorted(range(len(self)), key=self._lasts.__getitem__)


def read_captures(paths: Iterable[Path]) -> dict[str, Captures]:
    """Captures by shard. HistoryError names line and rule."""
    found: dict[str, Captures] = {}
    for path in paths:
        for offset, capture in _lines(path, Capture):
            found.setdefault(capture.shard, Captures()).add(capture, Place(path, offset))
    return found


def outcome_of(reply: m.Reply, http: int = 200) -> Outcome:
    """How a client tells a reply that it saw whole."""
    crc = crc32(encode(reply))
    match reply:
        case m.Executed():
            return Outcome(
                http,
                Reject(reply.reason).name if reply.reason else "",
                reply.epoch,
                reply.seq,
                reply.order_id,
                Status(reply.status).name,
                reply.filled,
                reply.duplicate,
                crc,
            )
        case m.Rejected():
            return Outcome(
                http, Reject(reply.code).name, reply.epoch, reply.seq, reply.order_id, "", 0, reply.duplicate, crc
            )
        case _:
            return Outcome(http, "", reply.epoch, reply.seq, reply_crc=crc)


def image_crc(image: bytes) -> int:
    """CRC-32 of what an image says, without the recent trades that the shard adds to it."""
    head = decode_frame_head(image)
    crc = crc32(f"{head.epoch} {head.last_seq} {head.ts_ns}".encode())
    for section in (head.levels, head.positions, head.states):
        crc = crc32(bytes(section), crc)
    return crc


def _lines(path: Path, kind: type[Any]) -> Iterator[tuple[int, Any]]:
    decode = msgspec.json.Decoder(kind).decode
    offset = 0
    try:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield offset, decode(line)
                offset += len(line)
    except OSError as fault:
        raise HistoryError(f"{path}: {fault.strerror}") from fault
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        if not line.endswith(b"\n"):
            return  # the writer was killed in the middle of its last line
        raise HistoryError(f"{path}, byte {offset}: {fault}") from fault
