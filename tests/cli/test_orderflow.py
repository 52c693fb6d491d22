"""Order-flow files: what is refused, where, and how lines become frames."""

import lzma
from pathlib import Path

import pytest

from exchange.domain import Flag, Kind, SelfTrade, Side, State, TimeInForce
from shardex.engine import LINE_BYTES_MAX, Cancel, Halt, New
from shardex.orderflow import BATCH, Change, FlowError, Frame, read, steps
from shardex.ordersession import CancelRow, SubmitRow

INDEXES = {"AAPL": 0, "BTC": 6}


def new(id_: int, account: str = "", symbol: str = "") -> New:
    return New(id=id_, side="B", px=5, qty=7, account=account, symbol=symbol)


def submit(instrument: int, id_: int, self_trade: SelfTrade) -> SubmitRow:
    return SubmitRow(instrument, Side.BUY, Kind.LIMIT, TimeInForce.GTC, Flag(0), self_trade, 5, 7, f"p-{id_}")


def plan(*lines: New | Cancel | Halt) -> list[Frame | Change]:
    return list(steps(lines, INDEXES, symbol="BTC", account="replay", prefix="p-"))


def test_plain_and_packed_files_read_alike(tmp_path: Path) -> None:
    content = b'{"op":"new","id":1,"side":"B","px":5,"qty":7,"row":0}\n\n{"op":"cancel","id":1}\n'
    (tmp_path / "flow.jsonl").write_bytes(content)
    (tmp_path / "flow.jsonl.xz").write_bytes(lzma.compress(content))
    expected = [new(1), Cancel(id=1)]
    assert read(tmp_path / "flow.jsonl") == read(tmp_path / "flow.jsonl.xz") == expected


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"op":"cancel","id":1}\n{"op":"buy","id":1}', r"line 2: Invalid value 'buy' - at `\$\.op`"),
        ("a.jsonl", b'\n{"op":"cancel","id":-1}', r"line 2: Expected `int` >= 0"),
        ("a.jsonl", b'{"op":"cancel","id":"\xff"}', "line 1: "),
        ("a.jsonl", b"[" * 50_000, "line 1: "),
        ("a.jsonl", b" " * (LINE_BYTES_MAX + 1), f"line 1: longer than {LINE_BYTES_MAX} bytes"),
        ("a.jsonl.xz", b"not packed at all", "cannot be read beyond line 0"),
        ("a.jsonl.xz", lzma.compress(b'{"op":"cancel","id":1}\n' * 9_999)[:-40], r"cannot be read beyond line \d+"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FlowError, match=sentence):
        read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="No such file"):
        read(tmp_path / "none.jsonl")


def test_lines_become_full_frames_in_order() -> None:
    frames = plan(*[new(number) for number in range(1, BATCH + 2)])
    assert [(frame.first, len(frame.rows)) for frame in frames if isinstance(frame, Frame)] == [(1, 64), (65, 1)]
    assert frames[1] == Frame("replay", 65, [submit(6, 65, SelfTrade.NONE)], [65])


def test_a_change_of_account_or_of_state_ends_a_frame() -> None:
    assert plan(new(1), new(2, account="bob"), Halt(), new(3), Halt(symbol="AAPL")) == [
        Frame("replay", 1, [submit(6, 1, SelfTrade.NONE)], [1]),
        Frame("bob", 2, [submit(6, 2, SelfTrade.NEWEST)], [2]),
        Change("BTC", State.HALT),
        Frame("replay", 4, [submit(6, 3, SelfTrade.NONE)], [3]),
        Change("AAPL", State.HALT),
    ]


def test_a_cancel_finds_the_home_of_its_order() -> None:
    assert plan(new(1, account="bob", symbol="AAPL"), Cancel(id=1), Cancel(id=9)) == [
        Frame("bob", 1, [submit(0, 1, SelfTrade.NEWEST), CancelRow(0, 0, "p-1")], [1, 1]),
        Frame("replay", 3, [CancelRow(6, 0, "p-9")], [9]),
    ]


def test_a_symbol_that_the_cluster_does_not_have_is_refused() -> None:
    with pytest.raises(FlowError, match="command 2: symbol 'NOPE' is not one of AAPL, BTC"):
        plan(new(1), new(2, symbol="NOPE"))
