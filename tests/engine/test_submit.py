"""Rules 1 to 16: what keeps an order out of the book, which rule speaks first, and what is remembered."""

import pytest
from msgspec.structs import replace as with_fields

from exchange import messages as m
from tests.engine.conftest import NewStage
from tests.engine.stage import (
    BUY,
    CONFIG,
    DAY,
    FOK,
    GTC,
    GTD,
    IOC,
    MARKET,
    NONE,
    POST_ONLY,
    SELL,
    Stage,
    define,
    order,
    replace,
)


def rejected(row: str, reply: str) -> list[str]:
    return [f"REJECTED {row}", f"-> rejected {reply}"]


def test_an_unknown_instrument_is_told_without_a_row_and_interns_nobody(stage: Stage) -> None:
    before = stage.engine.snapshot()
    assert stage.tell(order("ann/1", BUY, 10, 100, instrument=7)) == ["-> rejected UNKNOWN_INSTRUMENT 7, 0"]
    assert stage.tell(order("ann/1", BUY, 10, 100)) == [
        "ACCEPTED ann/1 BUY 10@100 leaves 10",
        "-> NEW filled 0 remaining 10",
    ]
    assert b"ann" not in before


def test_accounts_have_a_ceiling(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, accounts_max=1))
    stage.setup(define(), order("ann/1", BUY, 10, 100))
    assert stage.tell(order("bob/1", BUY, 10, 100), order("ann/2", BUY, 1, 99)) == [
        *rejected("bob/1 BUY 10@100 leaves 0 ACCOUNTS_FULL", "ACCOUNTS_FULL 0, 1"),
        "ACCEPTED ann/2 BUY 1@99 leaves 1",
        "-> NEW filled 0 remaining 1",
    ]


def test_a_repeated_id_answers_as_at_first_and_runs_once(stage: Stage) -> None:
    first, second = order("ann/1", BUY, 10, 100), order("bob/1", SELL, 4, 100)
    stage.setup(first, second)
    (reply,), frame = stage.run(first)
    assert reply == m.Executed(0, 2, 2, True, 1, 0, 0, 0, 10, [])
    assert (frame.orders, frame.trades, frame.levels) == ([], [], [])
    assert stage.tell(second) == ["-> FILLED filled 4 remaining 0 again"]
    assert stage.book() == "6@100 | "


def test_a_repeated_id_with_another_payload_is_a_mistake_that_names_the_first(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 10, 100))
    for other in (
        order("ann/1", BUY, 11, 100),
        order("ann/1", SELL, 10, 100),
        order("ann/1", BUY, 10, 101),
        order("ann/1", BUY, 10, 100, tif=DAY),
        order("ann/1", BUY, 10, 100, flags=POST_ONLY),
        order("ann/1", BUY, 10, 100, self_trade=NONE),
        order("ann/1", BUY, 10, 100, tif=GTD, expire_ns=9),
    ):
        assert stage.tell(other)[-1] == "-> rejected ID_REUSED 2, 0"
    same_but_for_its_stamps = order("ann/1", BUY, 10, 100, client_ns=77, deadline_ns=10**9)
    assert stage.tell(same_but_for_its_stamps) == ["-> NEW filled 0 remaining 10 again"]


def test_ids_are_apart_by_account_and_by_instrument(stage: Stage) -> None:
    stage.setup(define(1, "ETH-USD"), order("ann/1", BUY, 10, 100))
    stage.setup(order("bob/1", BUY, 10, 100), order("ann/1", BUY, 10, 100, instrument=1))
    assert (stage.book(0), stage.book(1)) == ("10+10@100 | ", "10@100 | ")


def test_a_recorded_rejection_stays_the_answer_when_its_cause_is_gone(stage: Stage) -> None:
    stage.setup(m.SetState(0, 2, "ops"))
    late = order("ann/1", BUY, 10, 100)
    assert stage.tell(late) == rejected("ann/1 BUY 10@100 leaves 0 HALT", "HALT 0, 0")
    stage.setup(m.SetState(0, 0, "ops"))
    assert stage.tell(late) == ["-> rejected HALT 0, 0 again"]


def test_a_deadline_is_judged_by_log_time_and_recorded(stage: Stage) -> None:
    in_time, late = (order("ann/1", BUY, 1, 100, deadline_ns=50), order("ann/2", BUY, 1, 100, deadline_ns=49))
    story = stage.tell(in_time, late, ts_ns=50)
    assert story[1:] == ["-> NEW filled 0 remaining 1", *rejected("ann/2 BUY 1@100 leaves 0 EXPIRED", "EXPIRED 50, 49")]
    assert stage.tell(late) == ["-> rejected EXPIRED 50, 49 again"]


@pytest.mark.parametrize(
    "nonsense",
    [
        order("ann/1", BUY, 1, 100, kind=MARKET, tif=IOC),
        order("ann/1", BUY, 1, 0, kind=MARKET, tif=GTC),
        order("ann/1", BUY, 1, 0, kind=MARKET, tif=DAY),
        order("ann/1", BUY, 1, 0, kind=MARKET, tif=GTD, expire_ns=99),
        order("ann/1", BUY, 1, 0, kind=MARKET, tif=IOC, flags=POST_ONLY),
        order("ann/1", BUY, 1, 100, tif=IOC, flags=POST_ONLY),
        order("ann/1", BUY, 1, 100, tif=FOK, flags=POST_ONLY),
        order("ann/1", BUY, 1, 100, tif=GTC, expire_ns=99),
        order("ann/1", BUY, 1, 100, tif=IOC, expire_ns=99),
        order("ann/1", BUY, 1, 100, tif=GTD),
    ],
)
def test_combinations_without_a_meaning_are_refused(stage: Stage, nonsense: m.Submit) -> None:
    assert stage.tell(nonsense)[-1] == "-> rejected INVALID_COMBINATION 0, 0"


@pytest.mark.parametrize(("state", "code"), [(1, "CANCEL_ONLY"), (2, "HALT"), (3, "CLOSED")])
def test_only_an_open_instrument_takes_orders(stage: Stage, state: int, code: str) -> None:
    stage.setup(m.SetState(0, state, "ops"))
    row = f"ann/1 BUY 10@100 leaves 0 {code}"
    assert stage.tell(order("ann/1", BUY, 10, 100)) == rejected(row, f"{code} 0, 0")


def test_size_and_price_rules_name_value_and_bound(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(tick=5, lot=10, quantity=(20, 100), price=(50, 500)))
    answers = {
        (10, 100): "QUANTITY_MIN 10, 20",
        (-(1 << 63), 100): f"QUANTITY_MIN {-(1 << 63)}, 20",
        (110, 100): "QUANTITY_MAX 110, 100",
        (25, 100): "LOT_SIZE 25, 10",
        (20, 45): "PRICE_MIN 45, 50",
        (20, -(1 << 63)): f"PRICE_MIN {-(1 << 63)}, 50",
        (20, 505): "PRICE_MAX 505, 500",
        (20, 101): "TICK_SIZE 101, 5",
        (25, 101): "LOT_SIZE 25, 10",
    }
    for number, ((quantity, price), answer) in enumerate(answers.items()):
        assert stage.tell(order(f"ann/{number}", BUY, quantity, price))[-1] == f"-> rejected {answer}"
    assert stage.tell(order("ann/edge", BUY, 20, 50), order("ann/edge2", SELL, 100, 500)) == [
        "ACCEPTED ann/edge BUY 20@50 leaves 20",
        "-> NEW filled 0 remaining 20",
        "ACCEPTED ann/edge2 SELL 100@500 leaves 100",
        "-> NEW filled 0 remaining 100",
    ]


def test_a_good_till_date_must_lie_ahead(stage: Stage) -> None:
    story = stage.tell(
        order("ann/1", BUY, 1, 100, tif=GTD, expire_ns=50), order("ann/2", BUY, 1, 100, tif=GTD, expire_ns=51), ts_ns=50
    )
    assert story == [
        *rejected("ann/1 BUY 1@100 leaves 0 EXPIRE_IN_PAST", "EXPIRE_IN_PAST 50, 50"),
        "ACCEPTED ann/2 BUY 1@100 leaves 1",
        "-> NEW filled 0 remaining 1",
    ]


def test_the_collar_follows_the_last_trade_and_leaves_passive_prices_free(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(collar_bps=150, reference_price=1_000))
    assert stage.tell(order("ann/1", BUY, 1, 1_016))[-1] == "-> rejected PRICE_COLLAR 1016, 1015"
    assert stage.tell(order("ann/2", SELL, 1, 984))[-1] == "-> rejected PRICE_COLLAR 984, 985"
    stage.setup(order("ann/3", BUY, 1, 1), order("ann/4", SELL, 1, 9_999))
    stage.setup(order("ann/5", SELL, 1, 1_010), order("bob/1", BUY, 1, 1_010))
    assert stage.tell(order("bob/2", BUY, 1, 1_026))[-1] == "-> rejected PRICE_COLLAR 1026, 1025"
    assert stage.tell(order("bob/3", BUY, 1, 1_025))[-1] == "-> NEW filled 0 remaining 1"


def test_without_a_reference_price_there_is_no_collar(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(collar_bps=1), order("ann/1", BUY, 1, 10**15))
    assert stage.book() == f"1@{10**15} | "


def test_a_trade_at_price_zero_lifts_the_collar(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(collar_bps=10_000, reference_price=5))
    stage.setup(order("ann/1", SELL, 1, 0), order("bob/1", BUY, 1, 0))
    assert stage.tell(order("bob/2", BUY, 1, 10**15))[-1] == "-> NEW filled 0 remaining 1"


def test_the_widest_collar_does_not_overflow(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(collar_bps=9_999, reference_price=10**15))
    bound = 10**15 - 10**15 * 9_999 // 10_000
    assert stage.tell(order("ann/1", SELL, 1, bound - 1))[-1] == f"-> rejected PRICE_COLLAR {bound - 1}, {bound}"
    assert stage.tell(order("ann/2", SELL, 1, bound))[-1] == "-> NEW filled 0 remaining 1"


def test_post_only_never_takes(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 5, 100), order("ann/2", SELL, 5, 103))
    assert [
        stage.tell(order("bob/1", SELL, 5, 100, flags=POST_ONLY))[-1],
        stage.tell(order("bob/2", BUY, 5, 104, flags=POST_ONLY))[-1],
        stage.tell(order("ann/3", BUY, 5, 103, flags=POST_ONLY))[-1],
        stage.tell(order("bob/3", SELL, 5, 101, flags=POST_ONLY))[-1],
    ] == [
        "-> rejected POST_ONLY_WOULD_CROSS 100, 100",
        "-> rejected POST_ONLY_WOULD_CROSS 104, 103",
        "-> rejected POST_ONLY_WOULD_CROSS 103, 103",
        "-> NEW filled 0 remaining 5",
    ]


def test_the_position_limit_counts_what_rests_before_any_match(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(position_limit=10), m.SetPositionLimit("mm", 0, 1_000, "ops"))
    stage.setup(order("mm/1", SELL, 100, 100), order("ann/1", BUY, 4, 100), order("ann/2", BUY, 5, 99))
    assert [
        stage.tell(order("ann/3", BUY, 2, 100, tif=IOC))[-1],
        stage.tell(order("ann/4", BUY, 2, kind=MARKET, tif=IOC))[-1],
        stage.tell(order("ann/5", SELL, 15, 200))[-1],
        stage.tell(order("ann/6", SELL, 14, 200))[-1],
        stage.tell(order("ann/7", BUY, 1, 98))[-1],
    ] == [
        "-> rejected POSITION_LIMIT 11, 10",
        "-> rejected POSITION_LIMIT 11, 10",
        "-> rejected POSITION_LIMIT 11, 10",
        "-> NEW filled 0 remaining 14",
        "-> NEW filled 0 remaining 1",
    ]


def test_an_override_of_the_position_limit_comes_and_goes(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(position_limit=10))
    assert [
        stage.tell(m.SetPositionLimit("ann", 0, 0, "ops"))[-1],
        stage.tell(order("ann/1", BUY, 1, 100))[-1],
        stage.tell(m.SetPositionLimit("ann", 0, -1, "ops"))[-1],
        stage.tell(order("ann/2", BUY, 10, 100))[-1],
    ] == ["-> done", "-> rejected POSITION_LIMIT 1, 0", "-> done", "-> NEW filled 0 remaining 10"]


def test_open_orders_of_an_account_have_a_ceiling(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, open_orders_max=2))
    stage.setup(define(), define(1, "ETH-USD"), order("ann/1", BUY, 1, 100), order("ann/2", BUY, 1, 100, instrument=1))
    assert stage.tell(order("ann/3", BUY, 1, 100, tif=IOC))[-1] == "-> rejected OPEN_ORDERS_LIMIT 2, 2"
    assert stage.tell(order("bob/1", BUY, 1, 100))[-1] == "-> NEW filled 0 remaining 1"


def test_a_full_book_takes_only_what_does_not_rest(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, orders_max=2))
    stage.setup(define(), order("ann/1", BUY, 1, 100), order("ann/2", BUY, 1, 99))
    assert stage.tell(order("bob/1", SELL, 1, 100))[-1] == "-> rejected BOOK_FULL 2, 2"
    assert stage.tell(order("bob/2", SELL, 1, 100, tif=IOC))[-1] == "-> FILLED filled 1 remaining 0"


def test_open_quantity_of_a_side_has_a_ceiling(new_stage: NewStage) -> None:
    """2^62 units: 4611 orders of 10^15 and a rest. Each account stays inside the same bound by itself."""
    stage = new_stage()
    stage.setup(define())
    for start in range(0, 4_611, 1_000):
        numbers = range(start, min(start + 1_000, 4_611))
        stage.setup(*(order(f"ann/{number}", BUY, 10**15, 100) for number in numbers))
    total = 4_611 * 10**15
    worst = total + 10**15
    assert stage.tell(order("ann/x", BUY, 10**15, 100))[-1] == f"-> rejected POSITION_LIMIT {worst}, {1 << 62}"
    assert stage.tell(order("bob/x", BUY, 10**15, 100))[-1] == f"-> rejected BOOK_FULL {worst}, {1 << 62}"
    room = (1 << 62) - total
    assert stage.tell(order("bob/y", BUY, room, 100))[-1] == f"-> NEW filled 0 remaining {room}"
    growth = replace("bob/y", room + 1, 100)
    assert stage.tell(growth)[-1] == f"-> rejected BOOK_FULL {(1 << 62) + 1}, {1 << 62}"
    twin = stage.again()
    twin.engine.restore(stage.engine.snapshot())
    assert twin.engine.snapshot() == stage.engine.snapshot()


def test_rules_speak_in_their_order(new_stage: NewStage) -> None:
    """One order that breaks everything, mended rule by rule."""
    stage = new_stage(with_fields(CONFIG, open_orders_max=1, orders_max=2))
    stage.setup(
        define(tick=5, lot=10, quantity=(20, 100), price=(50, 500), collar_bps=100, reference_price=100),
        m.SetPositionLimit("ann", 0, 100, "ops"),
        order("ann/0", BUY, 100, 50),
        order("bob/0", SELL, 20, 100),
        m.SetState(0, 2, "ops"),
    )
    bad = m.Submit("ann", "1", 0, BUY, 0, 1, POST_ONLY, NONE, 503, 7, 0, 1)
    mended = [
        ("EXPIRED", {"deadline_ns": 0}),
        ("INVALID_COMBINATION", {"time_in_force": GTD, "expire_ns": 1}),
        ("HALT", {}),
        ("QUANTITY_MIN", {"quantity": 101}),
        ("QUANTITY_MAX", {"quantity": 25}),
        ("LOT_SIZE", {"quantity": 20}),
        ("PRICE_MAX", {"price": 499}),
        ("TICK_SIZE", {"price": 495}),
        ("EXPIRE_IN_PAST", {"expire_ns": 10**9}),
        ("PRICE_COLLAR", {"price": 100}),
        ("POST_ONLY_WOULD_CROSS", {"price": 95}),
        ("POSITION_LIMIT", {"account": "cid"}),
        ("BOOK_FULL", {}),
    ]
    for number, (code, mending) in enumerate(mended):
        if code == "QUANTITY_MIN":
            stage.setup(m.SetState(0, 0, "ops"))
        bad = with_fields(bad, client_order_id=f"try-{number}")
        assert stage.tell(bad)[-1].startswith(f"-> rejected {code} ")
        bad = with_fields(bad, **mending)
    stage.setup(m.SetPositionLimit("ann", 0, -1, "ops"))
    assert stage.tell(with_fields(bad, account="ann"))[-1] == "-> rejected OPEN_ORDERS_LIMIT 1, 1"
