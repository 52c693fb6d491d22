"""Order-flow files: read them, and turn their lines into frames for a gateway. Faults name their place in the file.

The source's `id` becomes the client order id behind a prefix. Orders without an account in the file go to one account
with self-trade prevention off; a cancel, reduce or replace may leave out what its order was entered with; a halt
without a symbol is one of the symbol that lines without one mean.
"""

import lzma
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
from msgspec import Struct

from exchange.domain import Flag, Kind, QuantityBasis, SelfTrade, Side, State, TimeInForce
from exchange.errors import ShardexError
from shardex import engine as words
from shardex.ordersession import CancelRow, ReduceRow, ReplaceRow, Row, SubmitRow

BATCH = 64
_HOW: dict[type[words.Enter], tuple[Kind, TimeInForce, Flag]] = {
    words.New: (Kind.LIMIT, TimeInForce.GTC, Flag(0)),
    words.Ioc: (Kind.LIMIT, TimeInForce.IOC, Flag(0)),
    words.Fok: (Kind.LIMIT, TimeInForce.FOK, Flag(0)),
    words.PostOnly: (Kind.LIMIT, TimeInForce.GTC, Flag.POST_ONLY),
    words.Market: (Kind.MARKET, TimeInForce.IOC, Flag(0)),
}
_decode = msgspec.json.Decoder(words.AnyLine).decode


class FlowError(ShardexError):
    """A line of an order-flow file cannot be understood."""


class Frame(Struct, frozen=True):
    """Commands of one account, in order, and the id that each speaks of; `first` = number of the first, from 1."""

    account: str
    first: int
    rows: list[Row]
    ids: list[int]


class Change(Struct, frozen=True):
    """An operator's command: enter a trading state in one symbol."""

    symbol: str
    state: State


Step = Frame | Change


def read(path: Path) -> list[words.AnyLine]:
    """Every command of the file in order, empty lines left out; .xz files are unpacked.

    All of it is read before any of it is used: a fault in the last line is found before the first is sent.
    """
    number = 0
    lines: list[words.AnyLine] = []
    try:
        with _open(path) as file:
            while text := file.readline(words.LINE_BYTES_MAX + 1):
                number += 1
                if len(text) > words.LINE_BYTES_MAX:
                    raise FlowError(f"{path} line {number}: longer than {words.LINE_BYTES_MAX} bytes")
                if text.strip():
                    lines.append(_decode(text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise FlowError(f"{path} line {number}: {fault}") from fault
    except (OSError, lzma.LZMAError, EOFError) as fault:
        raise FlowError(f"{path} cannot be read beyond line {number}: {fault}") from fault
    return lines


def steps(
    lines: Iterable[words.AnyLine], indexes: Mapping[str, int], *, symbol: str, account: str, prefix: str
) -> Iterator[Step]:
    """The file as frames and operators' commands, in order.

    `indexes` = index of the instrument by symbol; `symbol` and `account` stand for what a line leaves out. FlowError
    for a symbol that is not there.
    """
    homes: dict[int, tuple[str, int]] = {}
    frame = Frame(account, 1, [], [])
    for number, line in enumerate(lines, 1):
        if isinstance(line, words.Halt | words.Resume):
            if frame.rows:
                yield frame
            name = line.symbol or symbol
            _index(indexes, name, number)
            yield Change(name, State.HALT if isinstance(line, words.Halt) else State.OPEN)
            frame = Frame(account, number + 1, [], [])
            continue
        if not isinstance(line, words.Enter) and line.id in homes:
            owner, where = homes[line.id]
            owner = line.account or owner
            where = _index(indexes, line.symbol, number) if line.symbol else where
        else:
            owner, where = line.account or account, _index(indexes, line.symbol or symbol, number)
        if isinstance(line, words.Enter) and (line.symbol or line.account):
            homes.setdefault(line.id, (owner, where))
        if owner != frame.account or len(frame.rows) == BATCH:
            if frame.rows:
                yield frame
            frame = Frame(owner, number, [], [])
        frame.rows.append(_row(line, where, f"{prefix}{line.id}"))
        frame.ids.append(line.id)
    if frame.rows:
        yield frame


def _row(line: words.Enter | words.Cancel | words.Reduce | words.Replace, instrument: int, client_order_id: str) -> Row:
    match line:
        case words.Cancel():
            return CancelRow(instrument, 0, client_order_id)
        case words.Reduce():
            return ReduceRow(instrument, 0, client_order_id, line.qty)
        case words.Replace():
            return ReplaceRow(instrument, 0, client_order_id, line.px, line.qty, QuantityBasis.LEAVES)
        case _:
            kind, time_in_force, flags = _HOW[type(line)]
            self_trade = SelfTrade[(line.stp or ("newest" if line.account else "none")).upper()]
            side = Side.BUY if line.side == "B" else Side.SELL
            price = getattr(line, "px", 0)
            return SubmitRow(instrument, side, kind, time_in_force, flags, self_trade, price, line.qty, client_order_id)


def _index(indexes: Mapping[str, int], symbol: str, number: int) -> int:
    if symbol not in indexes:
        raise FlowError(f"command {number}: symbol {symbol!r} is not one of {', '.join(indexes)}")
    return indexes[symbol]


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, lzma.open(path)) if path.suffix == ".xz" else path.open("rb")
