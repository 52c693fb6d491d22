"""`shardex engine`: NDJSON in, NDJSON out, as stories and on real order flow through the real process."""

import csv
import hashlib
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardex.engine import LINE_BYTES_MAX, Session
from tests.engine.conftest import require_native

REPOSITORY = Path(__file__).resolve().parents[2]
BITSTAMP = REPOSITORY.parent / "shared" / "data" / "bitstamp_btcusd"
KINDS = ("native", "reference")
Event = dict[str, Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        require_native()
    kind: str = request.param
    return kind


@pytest.fixture
def session(kind: str) -> Session:
    return Session(reference=kind == "reference")


def tell(session: Session, *lines: Event | str) -> list[Event]:
    """The events of these lines; `n` and what it names are kept, everything else too."""
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    return [json.loads(line) for line in session.feed(text.encode()).splitlines()]


def new(id_: int, side: str, px: int, qty: int, op: str = "new", **more: Any) -> Event:
    return {"op": op, "id": id_, "side": side, "px": px, "qty": qty, **more}


def test_the_life_of_an_order(session: Session) -> None:
    assert tell(
        session,
        new(1, "B", 100, 10, t=5, row=7, whatever=[1]),
        new(2, "S", 99, 4),
        {"op": "reduce", "id": 1, "qty": 1},
        {"op": "replace", "id": 1, "px": 101, "qty": 7},
        {"op": "cancel", "id": 1},
        {"op": "cancel", "id": 1},
    ) == [
        {"n": 1, "event": "accepted", "id": 1, "px": 100, "qty": 10, "leaves": 10},
        {"n": 2, "event": "accepted", "id": 2, "px": 99, "qty": 4, "leaves": 4},
        {"n": 2, "event": "trade", "taker": 2, "maker": 1, "px": 100, "qty": 4},
        {"n": 3, "event": "reduced", "id": 1, "px": 100, "qty": 1, "leaves": 5},
        {"n": 4, "event": "replaced", "id": 1, "px": 101, "qty": 11, "leaves": 7},
        {"n": 5, "event": "cancelled", "id": 1, "qty": 7, "reason": "USER"},
        {"n": 6, "event": "rejected", "id": 1, "reason": "UNKNOWN_ORDER", "detail": "value 0, bound 0"},
    ]


def test_every_kind_of_order(session: Session) -> None:
    events = tell(
        session,
        new(1, "S", 100, 5),
        new(2, "B", 100, 9, "fok"),
        new(3, "B", 100, 1, "post_only"),
        new(4, "B", 100, 2, "ioc"),
        {"op": "market", "id": 5, "side": "B", "qty": 9},
        new(6, "B", 100, 2, "ioc"),
        new(7, "B", 100, 2, "post_only"),
    )
    assert [(event["n"], event["event"], event.get("reason", event.get("qty"))) for event in events] == [
        (1, "accepted", 5),
        (2, "accepted", 9),
        (2, "expired", "FOK_UNFILLABLE"),
        (3, "rejected", "POST_ONLY_WOULD_CROSS"),
        (4, "accepted", 2),
        (4, "trade", 2),
        (5, "accepted", 9),
        (5, "trade", 3),
        (5, "expired", "NO_LIQUIDITY"),
        (6, "accepted", 2),
        (6, "expired", "IOC_REMAINDER"),
        (7, "accepted", 2),
    ]


def test_halt_and_resume(session: Session) -> None:
    events = tell(session, {"op": "halt"}, new(1, "B", 1, 1), {"op": "resume"}, new(2, "B", 1, 1))
    assert [(event["n"], event["event"], event.get("reason")) for event in events] == [
        (2, "rejected", "HALT"),
        (4, "accepted", None),
    ]


def test_a_reused_id_is_refused_however_the_first_one_ended(session: Session) -> None:
    again = [new(1, "B", 100, 5), new(2, "B", 100, 0), new(1, "B", 100, 6), new(2, "B", 100, 0)]
    events = tell(session, new(1, "B", 100, 5), new(2, "B", 100, 0), *again, {"op": "cancel", "id": 1}, again[0])
    assert [(event["n"], event["event"], event.get("reason")) for event in events] == [
        (1, "accepted", None),
        (2, "rejected", "QUANTITY_MIN"),
        (3, "rejected", "ID_REUSED"),
        (4, "rejected", "ID_REUSED"),
        (5, "rejected", "ID_REUSED"),
        (6, "rejected", "ID_REUSED"),
        (7, "cancelled", "USER"),
        (8, "rejected", "ID_REUSED"),
    ]
    assert all(event["detail"] for event in events if event["event"] == "rejected")


def test_one_account_trades_with_itself_named_ones_do_not(session: Session) -> None:
    events = tell(
        session,
        new(1, "B", 100, 5, account="ann"),
        new(2, "S", 100, 5, account="ann"),
        new(3, "S", 100, 5, account="ann", stp="oldest"),
        new(4, "B", 90, 5),
        new(5, "S", 90, 5),
        new(6, "B", 80, 5),
        new(7, "S", 80, 5, stp="both"),
    )
    assert [(event["n"], event["event"], event.get("id", event.get("maker"))) for event in events] == [
        (1, "accepted", 1),
        (2, "accepted", 2),
        (2, "cancelled", 2),
        (3, "accepted", 3),
        (3, "cancelled", 1),
        (4, "accepted", 4),
        (5, "accepted", 5),
        (5, "trade", 4),
        (6, "accepted", 6),
        (7, "accepted", 7),
        (7, "cancelled", 6),
        (7, "cancelled", 7),
    ]


def test_symbols_are_books_apart_and_a_cancel_finds_its_own(session: Session) -> None:
    events = tell(
        session,
        new(1, "B", 100, 5, symbol="BTC-USD", account="ann"),
        new(2, "S", 100, 5, symbol="ETH-USD", account="bob"),
        new(1, "B", 100, 5),
        {"op": "cancel", "id": 2},
        {"op": "cancel", "id": 1, "symbol": "BTC-USD", "account": "eve"},
        {"op": "reduce", "id": 1, "qty": 1},
    )
    assert [(event["n"], event["event"], event["id"], event.get("symbol")) for event in events] == [
        (1, "accepted", 1, "BTC-USD"),
        (2, "accepted", 2, "ETH-USD"),
        (3, "accepted", 1, None),
        (4, "cancelled", 2, None),
        (5, "rejected", 1, "BTC-USD"),
        (6, "reduced", 1, None),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        '{"op":"new"}',
        '{"op":"buy","id":1}',
        '{"op":"new","id":1,"side":"B","px":1}',
        '{"op":"new","id":1,"side":"X","px":1,"qty":1}',
        '{"op":"new","id":1,"side":"B","px":1.5,"qty":1}',
        '{"op":"new","id":1,"side":"B","px":1.0,"qty":1}',
        '{"op":"new","id":1,"side":"B","px":"1","qty":1}',
        '{"op":"new","id":1,"side":"B","px":1,"qty":9223372036854775808}',
        '{"op":"new","id":1,"side":"B","px":1,"qty":1e30}',
        '{"op":"new","id":9007199254740992,"side":"B","px":1,"qty":1}',
        '{"op":"new","id":-1,"side":"B","px":1,"qty":1}',
        '{"op":"new","id":true,"side":"B","px":1,"qty":1}',
        '{"op":"new","id":1,"side":"B","px":1,"qty":1,"stp":"maybe"}',
        '{"op":"new","id":1,"side":"B","px":1,"qty":1,"symbol":"btc"}',
        '{"op":"new","id":1,"side":"B","px":1,"qty":1,"account":"a b"}',
        '{"op":"cancel","id":"1"}',
        '{"op":"cancel","id":1',
        '{"op":"cancel","id":1}{"op":"cancel","id":1}',
        '{"op":"halt","symbol":"halt!"}',
        "[" * 50_000,
    ],
)
def test_a_malformed_line_is_named_and_harms_nobody(session: Session, line: str) -> None:
    before, malformed, after = tell(session, new(7, "B", 1, 1), line, new(8, "B", 1, 1))
    assert (before["event"], after["event"], after["n"]) == ("accepted", "accepted", 3)
    assert (malformed["n"], malformed["event"], malformed["reason"]) == (2, "rejected", "MALFORMED")
    assert malformed["detail"].startswith("line 2: ")
    assert len(malformed["detail"]) > len("line 2: ")


def test_bytes_that_are_no_text_and_lines_without_end(session: Session) -> None:
    out = session.feed(b"\xff\xfe\n" + b"x" * (LINE_BYTES_MAX + 1))
    out += session.feed(b"x" * 1_000_000) + session.feed(b"x\n\n  \n" + json.dumps(new(1, "B", 1, 1)).encode())
    out += session.close()
    events = [json.loads(line) for line in out.splitlines()]
    assert [(event["n"], event["event"], event.get("reason")) for event in events] == [
        (1, "rejected", "MALFORMED"),
        (2, "rejected", "MALFORMED"),
        (3, "accepted", None),
    ]


@pytest.mark.parametrize(
    ("px", "qty", "reason"), [(0, 0, "QUANTITY_MIN"), (-1, 1, "PRICE_MIN"), (1, 10**15 + 1, "QUANTITY_MAX")]
)
def test_numbers_out_of_the_rules_are_refused_by_the_engine(session: Session, px: int, qty: int, reason: str) -> None:
    (event,) = tell(session, new(1, "B", px, qty))
    assert (event["event"], event["reason"]) == ("rejected", reason)


def test_the_way_bytes_arrive_does_not_matter(kind: str) -> None:
    lines = [json.dumps(new(n, "BS"[n % 2], 100 + n % 7, 1 + n % 5)) for n in range(300)]
    text = ("\r\n".join(lines) + "\n").encode()
    at_once, bit_by_bit = (Session(reference=kind == "reference", checkpoint_every=64) for _ in range(2))
    whole = at_once.feed(text) + at_once.close()
    assert b"".join(bit_by_bit.feed(text[at : at + 37]) for at in range(0, len(text), 37)) + bit_by_bit.close() == whole


def test_checkpoints_hash_the_book_as_text(kind: str) -> None:
    session = Session(reference=kind == "reference", checkpoint_every=2)
    out = tell(session, new(5, "B", 10, 1), new(6, "B", 10, 2), new(7, "S", 12, 3))
    out += [json.loads(line) for line in session.close().splitlines()]
    checkpoints = [event for event in out if event["event"] == "checkpoint"]
    assert checkpoints == [
        checkpoint(2, 2, 1, 0, '{"B":[[10,[[5,1],[6,2]]]],"S":[]}'),
        checkpoint(3, 3, 1, 1, '{"B":[[10,[[5,1],[6,2]]]],"S":[[12,[[7,3]]]]}'),
    ]
    assert session.close() == b""


def test_checkpoints_of_many_books_and_of_none(kind: str) -> None:
    reference = kind == "reference"
    nothing = Session(reference=reference, checkpoint_every=9)
    assert [json.loads(line) for line in nothing.close().splitlines()] == [checkpoint(0, 0, 0, 0, '{"B":[],"S":[]}')]
    many = Session(reference=reference, checkpoint_every=2)
    *_, last = tell(many, new(5, "B", 10, 1, symbol="ZRX"), new(5, "S", 9, 1, symbol="ADA"))
    assert last == checkpoint(2, 2, 1, 1, '{"ADA":{"B":[],"S":[[9,[[5,1]]]]},"ZRX":{"B":[[10,[[5,1]]]],"S":[]}}')


def checkpoint(commands: int, orders: int, bid_levels: int, ask_levels: int, book: str) -> Event:
    return {
        "event": "checkpoint",
        "commands": commands,
        "orders": orders,
        "bid_levels": bid_levels,
        "ask_levels": ask_levels,
        "sha256": hashlib.sha256(book.encode()).hexdigest(),
    }


# --- the process ------------------------------------------------------------------------------------------------------


def arguments(kind: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "shardex", "engine", *(["--reference"] if kind == "reference" else []), *more]


@contextmanager
def running(kind: str) -> Iterator[subprocess.Popen[bytes]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments(kind), cwd=REPOSITORY, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_an_idle_pipe_withholds_nothing(kind: str) -> None:
    """Each answer is read before the next line is written."""
    with running(kind) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            os.write(process.stdin.fileno(), json.dumps(new(number, "B", 1, 1)).encode() + b"\n")
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(timeout=60) == 0


@pytest.mark.skipif(not BITSTAMP.is_dir(), reason=f"REAL ORDER FLOW NOT TESTED: {BITSTAMP} does not exist")
@pytest.mark.timeout(600)
def test_real_order_flow_is_matched_exactly(kind: str) -> None:
    commands = lzma.decompress((BITSTAMP / "commands.jsonl.xz").read_bytes())
    run = arguments(kind, "--checkpoint-every", "1000")
    done = subprocess.run(run, cwd=REPOSITORY, input=commands, capture_output=True, timeout=500, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    trades = [
        [str(event[key]) for key in ("taker", "maker", "px", "qty")] for event in events if event["event"] == "trade"
    ]
    keys = ("commands", "orders", "bid_levels", "ask_levels", "sha256")
    checkpoints = [[str(event[key]) for key in keys] for event in events if event["event"] == "checkpoint"]
    assert trades == columns("ref_trades.csv", "taker_id", "maker_id", "px", "qty")
    assert len(trades) == 284
    assert checkpoints == columns("ref_checkpoints.csv", *keys[:-1], "sha256_of_book")
    assert {event["event"] for event in events} == {"accepted", "trade", "cancelled", "checkpoint"}


def columns(file: str, *names: str) -> list[list[str]]:
    with (BITSTAMP / file).open(newline="") as rows:
        return [[row[name] for name in names] for row in csv.DictReader(rows)]
