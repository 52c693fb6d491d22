"""`shardex engine`: the matching engine alone, commands in and events out as NDJSON.

One JSON object a line on both sides. The engine runs exactly as in a shard: lines become commands, commands become
journal records of what has arrived (64 at most, so an idle pipe withholds nothing), and what is printed comes from the
replies and event frames.

Identity. The source's `id` is the client order id, unique for each symbol and account. `cancel`, `reduce` and `replace`
may leave out the symbol and account that their order was entered with. The first use of a symbol defines its instrument
with a tick and lot of 1 and no collar or limit. `halt` and `resume` without a symbol mean all symbols seen so far.
Log time is the number of the record: the source's own times are information only.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from exchange import messages as m
from exchange.domain import (
    ALL_INSTRUMENTS,
    INSTRUMENTS_MAX,
    PRICE_MAX,
    QUANTITY_MAX,
    Flag,
    Kind,
    OrderEvent,
    QuantityBasis,
    Reject,
    SelfTrade,
    Side,
    State,
    TimeInForce,
)
from exchange.wire import array_header, decode_frame, encode
from exchange.wire import decode_replies as decode_reply_list
from shard.core.engine import Engine, create_engine
from shard.core.outcome import decode_outcome
from shard.core.record import chain_after, encode_record

BATCH_COMMANDS_MAX = 64
LINE_BYTES_MAX = 64 * 1024
CHUNK_BYTES = 256 * 1024
DEFAULT_SYMBOL = "DEFAULT"
DEFAULT_ACCOUNT = "default"
ACTOR = "stdin"
MALFORMED = "MALFORMED"
CONFIG = m.EngineConfig(
    orders_max=1 << 20,
    accounts_max=1 << 16,
    ids_max=1 << 22,
    ids_per_account_max=1 << 22,
    ids_window_ns=0,
    open_orders_max=1 << 20,
)

SourceId = Annotated[int, Meta(ge=0, lt=1 << 53)]
SelfTradeWord = Literal["none", "newest", "oldest", "both", "decrement"]


class Line(Struct, tag_field="op"):
    """Keys that any line may have; empty = left out."""

    symbol: str = ""
    account: str = ""


class Enter(Line, kw_only=True):
    """A new order."""

    id: SourceId
    side: Literal["B", "S"]
    qty: int
    stp: SelfTradeWord | None = None


class New(Enter, tag="new", kw_only=True):
    px: int


class Ioc(Enter, tag="ioc", kw_only=True):
    px: int


class Fok(Enter, tag="fok", kw_only=True):
    px: int


class PostOnly(Enter, tag="post_only", kw_only=True):
    px: int


class Market(Enter, tag="market", kw_only=True):
    pass


class Reduce(Line, tag="reduce", kw_only=True):
    id: SourceId
    qty: int


class Replace(Line, tag="replace", kw_only=True):
    id: SourceId
    px: int
    qty: int


class Cancel(Line, tag="cancel", kw_only=True):
    id: SourceId


class Halt(Line, tag="halt", kw_only=True):
    pass


class Resume(Line, tag="resume", kw_only=True):
    pass


AnyLine = New | Ioc | Fok | PostOnly | Market | Reduce | Replace | Cancel | Halt | Resume

_decode_line = msgspec.json.Decoder(AnyLine).decode
_encode_json = msgspec.json.Encoder().encode

_HOW: dict[type[Enter], tuple[Kind, TimeInForce, Flag]] = {
    New: (Kind.LIMIT, TimeInForce.GTC, Flag(0)),
    Ioc: (Kind.LIMIT, TimeInForce.IOC, Flag(0)),
    Fok: (Kind.LIMIT, TimeInForce.FOK, Flag(0)),
    PostOnly: (Kind.LIMIT, TimeInForce.GTC, Flag.POST_ONLY),
    Market: (Kind.MARKET, TimeInForce.IOC, Flag(0)),
}
_EVENT_WORDS = {
    OrderEvent.ACCEPTED: "accepted",
    OrderEvent.REDUCED: "reduced",
    OrderEvent.REPLACED: "replaced",
    OrderEvent.CANCELLED: "cancelled",
    OrderEvent.EXPIRED: "expired",
}


class Home(NamedTuple):
    """Where an order lives."""

    account: str
    instrument: int


class Origin(NamedTuple):
    """The line that a command came from: its number, the order it speaks of, the symbol it named."""

    number: int
    id: int | None
    symbol: str


class Session:
    """One stream of lines. Pure: bytes in, bytes out."""

    def __init__(self, *, reference: bool = False, checkpoint_every: int = 0) -> None:
        """`checkpoint_every` 0 = no checkpoints."""
        self.engine: Engine = create_engine(CONFIG, reference=reference)
        self._checkpoint_every = checkpoint_every
        self._checkpoint_at = -1
        self._number = 0
        self._rest = b""
        self._skipping = False
        self._chain = 0
        self._commands: list[bytes] = []
        self._origins: list[Origin | None] = []
        self._instruments: dict[str, int] = {}
        self._homes: dict[int, Home] = {}
        """Homes of orders that are not at the default one."""
        self._names: dict[int, int] = {}
        """Order id → source id of open orders."""
        self._out: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        """Bytes have arrived: the events of every line that is complete now."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._take(line)
        if len(self._rest) > LINE_BYTES_MAX:
            if not self._skipping:
                self._take(self._rest)
            self._skipping = True
            self._rest = b""
        return self._flush()

    def close(self) -> bytes:
        """The input has ended: the events of a last line without newline, and the last checkpoint."""
        out = self.feed(b"\n")
        if self._checkpoint_every and self._checkpoint_at != self._number:
            self._checkpoint()
            out += self._flush()
        return out

    # --- lines in -------------------------------------------------------------------------------------------------

    def _take(self, text: bytes) -> None:
        if not text.strip():
            return
        self._number += 1
        try:
            if len(text) > LINE_BYTES_MAX:
                raise ValueError(f"longer than {LINE_BYTES_MAX} bytes")
            self._enqueue(_decode_line(text))
        except (ValueError, RecursionError) as fault:
            self._execute()
            detail = f"line {self._number}: {fault}"
            self._event(Origin(self._number, _source_id(text), ""), "rejected", reason=MALFORMED, detail=detail)
        if len(self._commands) >= BATCH_COMMANDS_MAX:
            self._execute()
        if self._checkpoint_every and self._number % self._checkpoint_every == 0:
            self._execute()
            self._checkpoint()

    def _enqueue(self, line: AnyLine) -> None:
        """Append the line's commands to the record in hand, or raise ValueError with nothing appended."""
        home = self._home(line)
        commands: list[m.Command] = []
        symbol = line.symbol or DEFAULT_SYMBOL
        if home.instrument == len(self._instruments):
            if home.instrument >= INSTRUMENTS_MAX:
                raise ValueError(f"symbol {symbol} would be number {INSTRUMENTS_MAX + 1}")
            commands.append(_define(home.instrument, symbol))
        commands.append(self._command(line, home))
        encoded = [encode(command) for command in commands]
        self.engine.admit(array_header(len(encoded)) + b"".join(encoded), m.OPERATOR_COMMANDS)
        if len(commands) == 2:
            self._instruments[symbol] = home.instrument
        if isinstance(line, Enter) and (line.symbol or line.account):
            self._homes.setdefault(line.id, home)
        self._commands += encoded
        self._origins += [None] * (len(encoded) - 1)
        self._origins.append(Origin(self._number, getattr(line, "id", None), line.symbol))

    def _home(self, line: AnyLine) -> Home:
        """Account and instrument that a line means; the next index stands for a symbol not yet seen."""
        if isinstance(line, Reduce | Replace | Cancel) and line.id in self._homes:
            known = self._homes[line.id]
            instrument = self._index(line.symbol) if line.symbol else known.instrument
            return Home(line.account or known.account, instrument)
        if isinstance(line, Halt | Resume) and not line.symbol and self._instruments:
            return Home("", ALL_INSTRUMENTS)
        return Home(line.account or DEFAULT_ACCOUNT, self._index(line.symbol or DEFAULT_SYMBOL))

    def _index(self, symbol: str) -> int:
        return self._instruments.get(symbol, len(self._instruments))

    def _command(self, line: AnyLine, home: Home) -> m.Command:
        match line:
            case Halt():
                return m.SetState(home.instrument, State.HALT, ACTOR)
            case Resume():
                return m.SetState(home.instrument, State.OPEN, ACTOR)
            case Cancel():
                return m.Cancel(home.account, home.instrument, 0, str(line.id))
            case Reduce():
                return m.Reduce(home.account, "", home.instrument, 0, str(line.id), line.qty)
            case Replace():
                basis = QuantityBasis.LEAVES
                return m.Replace(home.account, "", home.instrument, 0, str(line.id), line.px, line.qty, basis)
            case _:
                kind, time_in_force, flags = _HOW[type(line)]
                word = line.stp or ("newest" if line.account else "none")
                return m.Submit(
                    home.account,
                    str(line.id),
                    home.instrument,
                    Side.BUY if line.side == "B" else Side.SELL,
                    kind,
                    time_in_force,
                    flags,
                    SelfTrade[word.upper()],
                    0 if isinstance(line, Market) else line.px,
                    line.qty,
                )

    # --- events out -----------------------------------------------------------------------------------------------

    def _execute(self) -> None:
        """Run the record in hand and collect its events."""
        if not self._commands:
            return
        first_seq = self.engine.seq() + 1
        record = encode_record(
            epoch=0, first_seq=first_seq, ts_ns=self.engine.ts() + 1, prev_chain=self._chain, commands=self._commands
        )
        self._chain = chain_after(record)
        replies, frame = decode_outcome(self.engine.apply(record))
        origins, self._origins, self._commands = self._origins, [], []
        rows = _rows_by_seq(decode_frame(frame))
        answers = decode_reply_list(array_header(len(replies)) + b"".join(replies))
        for seq, (origin, answer) in enumerate(zip(origins, answers, strict=True), first_seq):
            for row in rows.get(seq, ()):
                if origin is not None:
                    self._row(origin, row)
            if origin is not None:
                self._refusal(origin, answer)

    def _row(self, origin: Origin, row: m.TradeRow | m.OrderRow) -> None:
        if isinstance(row, m.TradeRow):
            taker, maker = int(row.taker_client_order_id), int(row.maker_client_order_id)
            if row.taker_leaves == 0:
                self._names.pop(row.taker_order_id, None)
            if row.maker_leaves == 0:
                self._names.pop(row.maker_order_id, None)
            self._event(origin, "trade", taker=taker, maker=maker, px=row.price, qty=row.quantity)
            return
        kind = OrderEvent(row.kind)
        if kind == OrderEvent.REJECTED:
            return
        details: dict[str, Any] = {"id": int(row.client_order_id)}
        if kind in (OrderEvent.CANCELLED, OrderEvent.EXPIRED):
            self._names.pop(row.order_id, None)
            details |= {"qty": row.quantity, "reason": Reject(row.reason).name}
        else:
            if kind == OrderEvent.ACCEPTED:
                self._names[row.order_id] = details["id"]
            details |= {"px": row.price, "qty": row.quantity, "leaves": row.leaves}
        self._event(origin, _EVENT_WORDS[kind], **details)

    def _refusal(self, origin: Origin, answer: m.Reply) -> None:
        """A rejected event where a command had no effect. A repeated id never runs, whatever its first answer was."""
        if isinstance(answer, m.Executed | m.Rejected) and answer.duplicate:
            code, detail = Reject.ID_REUSED, f"id {origin.id} was first used by the command with seq {answer.seq}"
        elif isinstance(answer, m.Rejected):
            code, detail = Reject(answer.code), f"value {answer.value}, bound {answer.bound}"
        else:
            return
        self._event(origin, "rejected", reason=code.name, detail=detail)

    def _event(self, origin: Origin, event: str, **details: Any) -> None:
        row: dict[str, Any] = {"n": origin.number, "event": event}
        if event == "rejected" and origin.id is not None:
            row["id"] = origin.id
        if origin.symbol:
            row["symbol"] = origin.symbol
        self._out.append(_encode_json(row | details))

    def _flush(self) -> bytes:
        self._execute()
        out, self._out = self._out, []
        return b"\n".join(out) + b"\n" if out else b""

    def _checkpoint(self) -> None:
        """Counts and the hash of the whole book, as text: see `book_text`."""
        self._checkpoint_at = self._number
        books = {symbol: self._book(index) for symbol, index in sorted(self._instruments.items())}
        row = {
            "event": "checkpoint",
            "commands": self._number,
            "orders": self.engine.orders(),
            "bid_levels": sum(len(book["B"]) for book in books.values()),
            "ask_levels": sum(len(book["S"]) for book in books.values()),
            "sha256": hashlib.sha256(book_text(books)).hexdigest(),
        }
        self._out.append(_encode_json(row))

    def _book(self, index: int) -> dict[str, list[Any]]:
        bids, asks = msgspec.msgpack.decode(self.engine.book(index))
        named = (
            [[price, [[self._names[order_id], leaves] for order_id, leaves in orders]] for price, orders in side]
            for side in (bids, asks)
        )
        return dict(zip("BS", named, strict=True))


def book_text(books: dict[str, dict[str, list[Any]]]) -> bytes:
    """`{"B":[[px,[[id,qty],…]],…],"S":[…]}` of the one book; of several, an object of these by symbol, ascending."""
    if not books:
        return b'{"B":[],"S":[]}'
    return _encode_json(next(iter(books.values())) if len(books) == 1 else books)


def _define(index: int, symbol: str) -> m.DefineInstrument:
    return m.DefineInstrument(index, symbol, 1, 1, 1, QUANTITY_MAX, 0, PRICE_MAX, 0, 0, -1)


def _rows_by_seq(frame: m.EventFrame) -> dict[int, list[m.TradeRow | m.OrderRow]]:
    """Trades and order rows of each command in the order in which they happened."""
    rows: list[m.TradeRow | m.OrderRow] = [*frame.trades, *frame.orders]
    rows.sort(key=lambda row: (row.seq, row.sub))
    by_seq: dict[int, list[m.TradeRow | m.OrderRow]] = {}
    for row in rows:
        by_seq.setdefault(row.seq, []).append(row)
    return by_seq


def _source_id(text: bytes) -> int | None:
    """The id of a line that is otherwise malformed, if it can be read."""
    try:
        line = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None
    id_ = line.get("id") if isinstance(line, dict) else None
    return id_ if type(id_) is int else None


def run_engine(*, reference: bool = False, checkpoint_every: int = 0) -> None:
    """Serve standard input until it ends. What has arrived is answered before more is waited for."""
    session = Session(reference=reference, checkpoint_every=checkpoint_every)
    for chunk in _chunks():
        _write(session.feed(chunk))
    _write(session.close())


def _chunks() -> Iterator[bytes]:
    while chunk := os.read(0, CHUNK_BYTES):
        yield chunk


def _write(out: bytes) -> None:
    """All of it to standard output; BrokenPipeError when nobody reads any more."""
    view = memoryview(out)
    while view:
        view = view[os.write(1, view) :]
