"""Cancel, Replace, Reduce: finding the order, what keeps its place in the queue, and what leaves it untouched."""

import pytest

from exchange import messages as m
from exchange.domain import compose_id
from tests.engine.conftest import NewStage
from tests.engine.stage import BOTH, BUY, POST_ONLY, SELL, Stage, cancel, define, order, reduce, replace

TOTAL = 1


@pytest.fixture
def queue(stage: Stage) -> Stage:
    """Three asks in one level, ann's first and third; bob's behind her."""
    stage.setup(order("ann/1", SELL, 10, 100), order("bob/1", SELL, 10, 100), order("ann/2", SELL, 10, 100))
    return stage


def test_cancel_by_either_id(queue: Stage) -> None:
    assert queue.tell(cancel("ann/1"), m.Cancel("ann", 0, compose_id(0, 3))) == [
        "CANCELLED ann/1 SELL 10@100 leaves 0 USER",
        "-> CANCELED USER filled 0 remaining 10",
        "CANCELLED ann/2 SELL 10@100 leaves 0 USER",
        "-> CANCELED USER filled 0 remaining 10",
    ]


def test_cancel_tells_what_was_filled(queue: Stage) -> None:
    queue.setup(order("cid/1", BUY, 4, 100))
    assert queue.tell(cancel("ann/1"))[-1] == "-> CANCELED USER filled 4 remaining 6"


def test_whose_order_and_where_must_be_right(queue: Stage) -> None:
    queue.setup(define(1, "ETH-USD"), order("ann/filled", SELL, 1, 90), order("cid/1", BUY, 1, 90))
    first = compose_id(0, 1)
    assert queue.tell(
        m.Cancel("bob", 0, first),
        m.Cancel("ann", 1, first),
        m.Cancel("nobody", 0, first),
        m.Cancel("ann", 0, 999, "1"),
        m.Cancel("ann", 0, 0, "3"),
        m.Cancel("ann", 0, 0),
        m.Cancel("ann", 0, 0, "filled"),
        m.Cancel("ann", 5, first),
    ) == [
        "REJECTED bob/ BUY 0@0 leaves 0 UNKNOWN_ORDER",
        "-> rejected UNKNOWN_ORDER 1, 0",
        "REJECTED ann/ BUY 0@0 leaves 0 UNKNOWN_ORDER",
        "-> rejected UNKNOWN_ORDER 1, 0",
        "REJECTED nobody/ BUY 0@0 leaves 0 UNKNOWN_ORDER",
        "-> rejected UNKNOWN_ORDER 1, 0",
        "REJECTED ann/1 BUY 0@0 leaves 0 UNKNOWN_ORDER",
        "-> rejected UNKNOWN_ORDER 999, 0",
        "REJECTED ann/3 BUY 0@0 leaves 0 UNKNOWN_ORDER",
        "-> rejected UNKNOWN_ORDER 0, 0",
        "REJECTED ann/ BUY 0@0 leaves 0 UNKNOWN_ORDER",
        "-> rejected UNKNOWN_ORDER 0, 0",
        "REJECTED ann/filled BUY 0@0 leaves 0 UNKNOWN_ORDER",
        "-> rejected UNKNOWN_ORDER 0, 0",
        "-> rejected UNKNOWN_INSTRUMENT 5, 0",
    ]
    (reply,), frame = queue.run(m.Cancel("bob", 0, first))
    assert isinstance(reply, m.Rejected)
    assert (reply.order_id, frame.orders[0].order_id) == (first, first)


def test_cancel_works_in_every_state_but_not_past_its_deadline(queue: Stage) -> None:
    queue.setup(m.SetState(0, 2, "ops"))
    late, in_time = cancel("ann/1", deadline_ns=99), cancel("ann/2", deadline_ns=100)
    assert queue.tell(late, in_time, ts_ns=100) == [
        "REJECTED ann/1 BUY 0@0 leaves 0 EXPIRED",
        "-> rejected EXPIRED 100, 99",
        "CANCELLED ann/2 SELL 10@100 leaves 0 USER",
        "-> CANCELED USER filled 0 remaining 10",
    ]
    assert queue.tell(m.Cancel("ann", 9, 1, "", 1))[-1].startswith("-> rejected EXPIRED")


@pytest.mark.parametrize(
    ("quantity", "price", "book"),
    [
        (4, 100, " | 4+10+10@100"),
        (10, 100, " | 10+10+10@100"),
        (11, 100, " | 10+10+11@100"),
        (10, 101, " | 10+10@100 10@101"),
        (4, 99, " | 4@99 10+10@100"),
    ],
)
def test_only_a_smaller_size_at_the_same_price_keeps_the_place(
    queue: Stage, quantity: int, price: int, book: str
) -> None:
    assert queue.tell(replace("ann/1", quantity, price)) == [
        f"REPLACED ann/1 SELL {quantity}@{price} leaves {quantity}",
        f"-> NEW filled 0 remaining {quantity}",
    ]
    assert queue.book() == book


def test_replace_means_leaves_or_the_total(queue: Stage) -> None:
    queue.setup(order("cid/1", BUY, 4, 100))
    assert queue.tell(
        replace("ann/1", 5, 100), replace("ann/1", 8, 100, basis=TOTAL), replace("ann/1", 4, 100, basis=TOTAL)
    ) == [
        "REPLACED ann/1 SELL 9@100 leaves 5",
        "-> PARTIALLY_FILLED filled 4 remaining 5",
        "REPLACED ann/1 SELL 8@100 leaves 4",
        "-> PARTIALLY_FILLED filled 4 remaining 4",
        "CANCELLED ann/1 SELL 4@100 leaves 0 USER",
        "-> CANCELED USER filled 4 remaining 4",
    ]


def test_a_replace_that_crosses_trades_under_its_own_id(stage: Stage) -> None:
    stage.setup(order("bob/1", BUY, 5, 90), order("ann/1", SELL, 10, 100), order("cid/1", BUY, 1, 100))
    (reply,), frame = stage.run(replace("ann/1", 9, 90, id_="r1"))
    assert reply == m.Executed(0, 5, 3, False, 2, 1, 0, 6, 4, [m.Fill(2, 90, 5)])
    assert [(row.kind, row.client_order_id, row.quantity, row.leaves) for row in frame.orders] == [(4, "1", 10, 9)]
    assert stage.book() == " | 4@90"


def test_a_replace_meets_its_own_account(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 5, 90), order("ann/2", SELL, 5, 100, self_trade=BOTH))
    assert stage.tell(replace("ann/2", 5, 90)) == [
        "REPLACED ann/2 SELL 5@90 leaves 5",
        "CANCELLED ann/1 BUY 5@90 leaves 0 SELF_TRADE",
        "CANCELLED ann/2 SELL 5@90 leaves 0 SELF_TRADE",
        "-> CANCELED SELF_TRADE filled 0 remaining 5",
    ]


def test_a_refused_replace_leaves_the_order_exactly_as_it_was(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(
        define(tick=5, lot=10, quantity=(30, 100), price=(50, 500), collar_bps=1_000, reference_price=100),
        m.SetPositionLimit("ann", 0, 60, "ops"),
        order("bob/1", SELL, 30, 105),
        order("ann/1", BUY, 30, 100, flags=POST_ONLY),
    )
    answers = [
        (replace("ann/1", 5, 100), "QUANTITY_MIN 5, 10"),
        (replace("ann/1", -10, 100), "QUANTITY_MIN -10, 10"),
        (replace("ann/1", 110, 100), "QUANTITY_MAX 110, 100"),
        (replace("ann/1", 15, 100), "LOT_SIZE 15, 10"),
        (replace("ann/1", 30, 45), "PRICE_MIN 45, 50"),
        (replace("ann/1", 30, 505), "PRICE_MAX 505, 500"),
        (replace("ann/1", 30, 101), "TICK_SIZE 101, 5"),
        (replace("ann/1", 30, 115), "PRICE_COLLAR 115, 110"),
        (replace("ann/1", 30, 105), "POST_ONLY_WOULD_CROSS 105, 105"),
        (replace("ann/1", 70, 100), "POSITION_LIMIT 70, 60"),
        (replace("ann/2", 30, 100), "UNKNOWN_ORDER 0, 0"),
        (replace("nobody/1", 30, 100), "UNKNOWN_ORDER 0, 0"),
        (replace("ann/1", 30, 100, instrument=4), "UNKNOWN_INSTRUMENT 4, 0"),
        (replace("ann/1", 30, 100, deadline_ns=1), "EXPIRED 2, 1"),
    ]
    before = stage.engine.book(0)
    story = stage.tell(*(command for command, _ in answers))
    assert [line for line in story if line.startswith("->")] == [f"-> rejected {answer}" for _, answer in answers]
    assert stage.engine.book(0) == before


def test_below_the_minimum_size_a_lot_is_enough_for_a_replace(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(lot=10, quantity=(30, 100)), order("ann/1", BUY, 30, 100))
    assert stage.tell(replace("ann/1", 10, 100))[-1] == "-> NEW filled 0 remaining 10"


@pytest.mark.parametrize(("state", "code"), [(1, "CANCEL_ONLY"), (2, "HALT"), (3, "CLOSED")])
def test_replace_needs_an_open_instrument_reduce_does_not(queue: Stage, state: int, code: str) -> None:
    queue.setup(m.SetState(0, state, "ops"))
    assert queue.tell(replace("ann/1", 5, 100), reduce("ann/1", 5)) == [
        f"REJECTED ann/ BUY 0@0 leaves 0 {code}",
        f"-> rejected {code} 0, 0",
        "REDUCED ann/1 SELL 5@100 leaves 5 USER",
        "-> NEW filled 0 remaining 5",
    ]


def test_reduce_keeps_the_place_and_down_to_zero_cancels(queue: Stage) -> None:
    queue.setup(order("cid/1", BUY, 2, 100))
    assert queue.tell(reduce("ann/1", 3), reduce("ann/1", 5), reduce("bob/1", 99)) == [
        "REDUCED ann/1 SELL 3@100 leaves 5 USER",
        "-> PARTIALLY_FILLED filled 2 remaining 5",
        "CANCELLED ann/1 SELL 5@100 leaves 0 USER",
        "-> CANCELED USER filled 2 remaining 5",
        "CANCELLED bob/1 SELL 10@100 leaves 0 USER",
        "-> CANCELED USER filled 0 remaining 10",
    ]
    assert queue.tell(m.QueryOrder("ann", 0, 0, "1"))[-1] == "-> 1 SELL 7@100 filled 2 leaves 0 CANCELED USER"


def test_reduce_has_size_rules_too(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(lot=10), order("ann/1", BUY, 30, 100))
    assert stage.tell(reduce("ann/1", 0), reduce("ann/1", -10), reduce("ann/1", 15), reduce("ann/9", 10))[1::2] == [
        "-> rejected QUANTITY_MIN 0, 1",
        "-> rejected QUANTITY_MIN -10, 1",
        "-> rejected LOT_SIZE 15, 10",
        "-> rejected UNKNOWN_ORDER 0, 0",
    ]
    assert stage.book() == "30@100 | "


def test_an_amendment_with_an_id_runs_once(queue: Stage) -> None:
    lower, change = reduce("ann/1", 2, id_="r1"), replace("ann/2", 5, 101, id_="r2")
    assert queue.tell(lower, lower, change, change) == [
        "REDUCED ann/1 SELL 2@100 leaves 8 USER",
        "-> NEW filled 0 remaining 8",
        "-> NEW filled 0 remaining 8 again",
        "REPLACED ann/2 SELL 5@101 leaves 5",
        "-> NEW filled 0 remaining 5",
        "-> NEW filled 0 remaining 5 again",
    ]
    assert queue.tell(reduce("ann/1", 3, id_="r1"), replace("ann/1", 2, 100, id_="r1"), order("ann/r2", BUY, 1, 1)) == [
        "REJECTED ann/r1 BUY 0@0 leaves 0 ID_REUSED",
        "-> rejected ID_REUSED 5, 0",
        "REJECTED ann/r1 BUY 0@0 leaves 0 ID_REUSED",
        "-> rejected ID_REUSED 5, 0",
        "REJECTED ann/r2 BUY 1@1 leaves 0 ID_REUSED",
        "-> rejected ID_REUSED 7, 0",
    ]


def test_an_amendment_without_an_id_runs_each_time(queue: Stage) -> None:
    assert queue.tell(reduce("ann/1", 2), reduce("ann/1", 2))[1::2] == [
        "-> NEW filled 0 remaining 8",
        "-> NEW filled 0 remaining 6",
    ]


def test_an_amendments_id_names_no_order(queue: Stage) -> None:
    queue.setup(reduce("ann/1", 2, id_="r1"))
    assert queue.tell(cancel("ann/r1"))[-1] == "-> rejected UNKNOWN_ORDER 0, 0"


def test_repeated_refills_cannot_grow_an_order_past_any_bound(stage: Stage) -> None:
    """Replace by leaves again and again while others fill it: the total stays inside 2^62."""
    size = 10**15
    stage.setup(order("ann/1", BUY, size, 1))
    for number in range(4_611):
        story = stage.tell(order(f"bob/{number}", SELL, size - 1, 1), replace("ann/1", size, 1))
    filled = 4_611 * (size - 1)
    assert story[-1] == f"-> rejected QUANTITY_MAX {filled + size}, {1 << 62}"
