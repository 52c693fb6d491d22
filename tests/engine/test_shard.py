"""Commands about many orders, instruments, time and terms; queries; what an image and a book say."""

import msgspec
import pytest
from msgspec.structs import replace as with_fields

from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, compose_id
from exchange.wire import decode_frame
from tests.engine.conftest import NewStage
from tests.engine.stage import (
    BUY,
    CONFIG,
    DAY,
    FOK,
    GTD,
    IOC,
    MARKET,
    SELL,
    Stage,
    cancel,
    define,
    order,
    reduce,
    replace,
)

OPEN, CANCEL_ONLY, HALT, CLOSED = range(4)


@pytest.fixture
def two(stage: Stage) -> Stage:
    """Two instruments with orders of two accounts, entered in mixed order."""
    stage.setup(define(1, "ETH-USD"))
    stage.setup(
        order("ann/1", BUY, 1, 100, instrument=1),
        order("bob/1", BUY, 2, 100),
        order("ann/2", BUY, 3, 101),
        order("ann/3", SELL, 4, 200, tif=DAY),
        order("ann/4", SELL, 5, 200, tif=GTD, expire_ns=1_000, instrument=1),
    )
    return stage


def test_mass_cancel_goes_by_order_id(two: Stage) -> None:
    assert two.tell(m.MassCancel("ann"), m.MassCancel("ann")) == [
        "CANCELLED ann/2 BUY 3@101 leaves 0 MASS_CANCEL",
        "CANCELLED ann/3 SELL 4@200 leaves 0 MASS_CANCEL",
        "CANCELLED ann/1 BUY 1@100 leaves 0 MASS_CANCEL",
        "CANCELLED ann/4 SELL 5@200 leaves 0 MASS_CANCEL",
        "-> swept 4",
        "-> swept 0",
    ]


def test_mass_cancel_of_one_instrument_of_everybody_of_nobody(two: Stage) -> None:
    assert two.tell(
        m.MassCancel("ann", 1), m.MassCancel("eve", 0), m.MassCancel("", 0), m.MassCancel("ann", 6), m.MassCancel("")
    ) == [
        "CANCELLED ann/1 BUY 1@100 leaves 0 MASS_CANCEL",
        "CANCELLED ann/4 SELL 5@200 leaves 0 MASS_CANCEL",
        "-> swept 2",
        "-> swept 0",
        "CANCELLED bob/1 BUY 2@100 leaves 0 MASS_CANCEL",
        "CANCELLED ann/2 BUY 3@101 leaves 0 MASS_CANCEL",
        "CANCELLED ann/3 SELL 4@200 leaves 0 MASS_CANCEL",
        "-> swept 3",
        "-> rejected UNKNOWN_INSTRUMENT 6, 0",
        "-> swept 0",
    ]


def test_closing_ends_day_orders(two: Stage) -> None:
    assert two.tell(m.SetState(ALL_INSTRUMENTS, CLOSED, "ops"), m.SetState(0, CLOSED, "ops")) == [
        "STATE 0 CLOSED by ops",
        "EXPIRED ann/3 SELL 4@200 leaves 0 DAY_END",
        "STATE 1 CLOSED by ops",
        "-> done",
        "-> done",
    ]
    assert two.tell(m.QueryOrder("ann", 0, 0, "3")) == ["-> 3 SELL 4@200 filled 0 leaves 0 EXPIRED DAY_END"]


def test_states_change_one_by_one_and_only_when_they_differ(two: Stage) -> None:
    assert two.tell(
        m.SetState(1, HALT, "ops"),
        m.SetState(ALL_INSTRUMENTS, HALT, "ops"),
        m.SetState(5, HALT, "ops"),
        m.SetState(0, OPEN, "eve"),
    ) == [
        "STATE 1 HALT by ops",
        "-> done",
        "STATE 0 HALT by ops",
        "-> done",
        "-> rejected UNKNOWN_INSTRUMENT 5, 0",
        "STATE 0 OPEN by eve",
        "-> done",
    ]
    assert two.book(0) == "3@101 2@100 | 4@200"


def test_an_instrument_is_defined_then_changed_but_never_renamed(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 5, 103))
    assert stage.tell(
        define(4, "ETH-USD"),
        define(0, tick=10),
        order("ann/2", BUY, 5, 104),
        define(0, "OTHER"),
        m.SetState(0, HALT, "ops"),
        define(0, tick=1),
        order("ann/3", BUY, 5, 104),
    ) == [
        "STATE 4 OPEN by",
        "-> done",
        "-> done",
        "REJECTED ann/2 BUY 5@104 leaves 0 TICK_SIZE",
        "-> rejected TICK_SIZE 104, 10",
        "-> rejected INSTRUMENT_CONFLICT 0, 0",
        "STATE 0 HALT by ops",
        "-> done",
        "-> done",
        "REJECTED ann/3 BUY 5@104 leaves 0 HALT",
        "-> rejected HALT 0, 0",
    ]
    assert stage.book() == "5@103 | "


def test_dated_orders_expire_with_the_tick_in_order_of_their_dates(stage: Stage) -> None:
    stage.setup(
        order("ann/late", BUY, 1, 100, tif=GTD, expire_ns=60),
        order("ann/soon", BUY, 1, 100, tif=GTD, expire_ns=50),
        order("ann/same", BUY, 1, 100, tif=GTD, expire_ns=50),
        order("ann/next", BUY, 1, 100, tif=GTD, expire_ns=61),
        m.SetState(0, HALT, "ops"),
    )
    assert stage.tell(m.Tick(), m.Tick(), ts_ns=60) == [
        "EXPIRED ann/soon BUY 1@100 leaves 0 GTD_REACHED",
        "EXPIRED ann/same BUY 1@100 leaves 0 GTD_REACHED",
        "EXPIRED ann/late BUY 1@100 leaves 0 GTD_REACHED",
        "-> done",
        "-> done",
    ]
    assert stage.book() == "1@100 | "


def test_an_expired_date_without_a_tick_still_trades(stage: Stage) -> None:
    """Time is the log's: only a Tick makes it pass."""
    stage.setup(order("ann/1", BUY, 1, 100, tif=GTD, expire_ns=50))
    assert stage.tell(order("bob/1", SELL, 1, 100), ts_ns=90)[-1] == "-> FILLED filled 1 remaining 0"


def test_a_replaced_dated_order_keeps_its_date(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 1, 100, tif=GTD, expire_ns=50), replace("ann/1", 2, 101))
    assert stage.tell(m.Tick(), ts_ns=50)[0] == "EXPIRED ann/1 BUY 2@101 leaves 0 GTD_REACHED"


def test_a_dead_mans_orders_go_when_his_timer_is_not_renewed(two: Stage) -> None:
    two.setup(m.ArmDeadMan("ann", 1, 50), m.ArmDeadMan("bob", ALL_INSTRUMENTS, 50))
    assert two.tell(m.ArmDeadMan("bob", ALL_INSTRUMENTS, 90), m.Tick(), ts_ns=53) == ["-> done", "-> done"]
    assert two.tell(m.Tick(), m.Tick(), ts_ns=54) == [
        "CANCELLED ann/1 BUY 1@100 leaves 0 DEAD_MAN",
        "CANCELLED ann/4 SELL 5@200 leaves 0 DEAD_MAN",
        "-> done",
        "-> done",
    ]
    assert two.tell(m.Tick(), ts_ns=143) == ["CANCELLED bob/1 BUY 2@100 leaves 0 DEAD_MAN", "-> done"]


def test_a_dead_man_is_disarmed_by_zero_and_armed_before_his_first_order(stage: Stage) -> None:
    stage.setup(m.ArmDeadMan("ann", 0, 10), m.ArmDeadMan("bob", 0, 10), m.ArmDeadMan("ann", 0, 0))
    stage.setup(order("ann/1", BUY, 1, 100), order("bob/1", BUY, 2, 100))
    assert stage.tell(m.Tick(), ts_ns=100) == ["CANCELLED bob/1 BUY 2@100 leaves 0 DEAD_MAN", "-> done"]
    assert stage.tell(m.ArmDeadMan("ann", 7, 10)) == ["-> rejected UNKNOWN_INSTRUMENT 7, 0"]


def test_dead_men_fall_by_deadline_then_account_then_instrument(two: Stage) -> None:
    two.setup(order("bob/2", BUY, 2, 100, instrument=1))
    two.setup(
        m.ArmDeadMan("bob", 1, 10),
        m.ArmDeadMan("bob", 0, 10),
        m.ArmDeadMan("ann", ALL_INSTRUMENTS, 10),
        m.ArmDeadMan("ann", 1, 10),
    )
    two.setup(m.ArmDeadMan("bob", 0, 5))
    fallen = [line.split()[1] for line in two.tell(m.Tick(), ts_ns=100)[:-1]]
    assert fallen == ["bob/1", "ann/1", "ann/4", "ann/2", "ann/3", "bob/2"]


def test_timers_beyond_the_end_of_time_are_capped(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 1, 100), m.ArmDeadMan("ann", 0, 1 << 62))
    twin = stage.again()
    twin.engine.restore(stage.engine.snapshot())
    assert twin.tell(m.Tick(), ts_ns=(1 << 62) - 1) == ["-> done"]
    assert twin.tell(m.Tick(), ts_ns=1 << 62) == ["CANCELLED ann/1 BUY 1@100 leaves 0 DEAD_MAN", "-> done"]


def test_within_one_tick_dates_come_before_dead_men(stage: Stage) -> None:
    stage.setup(
        order("ann/1", BUY, 1, 100), order("ann/2", BUY, 1, 100, tif=GTD, expire_ns=50), m.ArmDeadMan("ann", 0, 5)
    )
    assert stage.tell(m.Tick(), ts_ns=50) == [
        "EXPIRED ann/2 BUY 1@100 leaves 0 GTD_REACHED",
        "CANCELLED ann/1 BUY 1@100 leaves 0 DEAD_MAN",
        "-> done",
    ]


def test_an_order_is_found_alive_and_after_its_end_by_either_id(two: Stage) -> None:
    two.setup(order("cid/1", SELL, 1, 101), reduce("ann/2", 1))
    info = two.run(m.QueryOrder("ann", 0, compose_id(0, 2)))[0][0]
    assert info == m.Order(0, 10, 5, m.OrderInfo(compose_id(0, 2), "2", 0, 0, 0, 0, 0, 1, 101, 2, 1, 1, 1, 0, 3, 0))
    two.setup(cancel("ann/2"), order("cid/m", SELL, 9, kind=MARKET, tif=IOC), order("cid/k", BUY, 9, 1, tif=FOK))
    assert two.tell(
        m.QueryOrder("ann", 0, compose_id(0, 2)),
        m.QueryOrder("ann", ALL_INSTRUMENTS, 0, "4"),
        m.QueryOrder("ann", ALL_INSTRUMENTS, compose_id(1, 1)),
        m.QueryOrder("cid", 0, 0, "m"),
        m.QueryOrder("cid", 0, 0, "k"),
        m.QueryOrder("cid", 0, 0, "1"),
    ) == [
        "-> 2 BUY 2@101 filled 1 leaves 0 CANCELED USER",
        "-> 4 SELL 5@200 filled 0 leaves 5 NEW",
        "-> 1 BUY 1@100 filled 0 leaves 1 NEW",
        "-> m SELL 9@0 filled 2 leaves 0 EXPIRED NO_LIQUIDITY",
        "-> k BUY 9@1 filled 0 leaves 0 EXPIRED FOK_UNFILLABLE",
        "-> 1 SELL 1@101 filled 1 leaves 0 FILLED",
    ]


def test_an_order_is_found_by_nobody_else_and_a_refused_one_never_was(two: Stage) -> None:
    two.tell(order("ann/bad", BUY, 0, 100))
    (reply,), frame = two.run(m.QueryOrder("bob", 0, compose_id(0, 2)))
    assert reply == m.Rejected(0, 9, 5, False, 16, compose_id(0, 2), 0, compose_id(0, 2))
    assert frame.orders == []
    assert two.tell(
        m.QueryOrder("ann", 1, compose_id(0, 2)),
        m.QueryOrder("ann", 0, 0, "bad"),
        m.QueryOrder("eve", ALL_INSTRUMENTS, 0, "1"),
        m.QueryOrder("ann", ALL_INSTRUMENTS, 0, "nope"),
        m.QueryOrder("ann", 5, 0, "1"),
        m.QueryOrder("ann", ALL_INSTRUMENTS, 2**53 - 1),
    ) == [
        f"-> rejected UNKNOWN_ORDER {compose_id(0, 2)}, 0",
        "-> rejected UNKNOWN_ORDER 0, 0",
        "-> rejected UNKNOWN_ORDER 0, 0",
        "-> rejected UNKNOWN_ORDER 0, 0",
        "-> rejected UNKNOWN_INSTRUMENT 5, 0",
        f"-> rejected UNKNOWN_ORDER {2**53 - 1}, 0",
    ]


def test_everywhere_means_the_first_instrument_that_holds_the_order(stage: Stage) -> None:
    stage.setup(define(1, "ETH-USD"), define(2, "SOL-USD"))
    stage.tell(order("ann/x", BUY, 0, 100), order("ann/x", BUY, 7, 100, instrument=2))
    stage.setup(order("ann/x", BUY, 5, 100, instrument=1))
    assert stage.tell(m.QueryOrder("ann", ALL_INSTRUMENTS, 0, "x")) == ["-> x BUY 5@100 filled 0 leaves 5 NEW"]


def test_open_orders_come_in_pages_by_id(two: Stage) -> None:
    first = "2 BUY 3@101 filled 0 leaves 3 NEW, 3 SELL 4@200 filled 0 leaves 4 NEW"
    assert two.tell(
        m.QueryOpen("ann", ALL_INSTRUMENTS, 0, 2),
        m.QueryOpen("ann", ALL_INSTRUMENTS, compose_id(0, 3), 2),
        m.QueryOpen("ann", 0),
        m.QueryOpen("eve"),
        m.QueryOpen("ann", 5),
    ) == [
        f"-> [{first}] and more",
        "-> [1 BUY 1@100 filled 0 leaves 1 NEW, 4 SELL 5@200 filled 0 leaves 5 NEW]",
        f"-> [{first}]",
        "-> []",
        "-> rejected UNKNOWN_INSTRUMENT 5, 0",
    ]


def test_a_term_begins_with_an_epoch_start(stage: Stage) -> None:
    replies, frame = stage.run(m.EpochStart(3, "node-b", 12), order("ann/1", BUY, 1, 100), epoch=3)
    assert replies == [m.Done(3, 2, 2), m.Executed(3, 3, 2, False, 1, 0, 0, 0, 1, [])]
    assert (frame.epoch, stage.engine.epoch()) == (3, 3)
    assert stage.run(m.EpochStart(3, "node-b", 13), m.Tick(), m.EpochStart(3, "node-b", 14))[0][0] == m.Done(3, 4, 3)
    assert stage.run(order("ann/1", BUY, 1, 100))[0] == [m.Executed(3, 3, 2, True, 1, 0, 0, 0, 1, [])]


def test_commands_for_unknown_instruments_intern_nobody(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, accounts_max=2))
    stage.setup(define())
    assert stage.tell(
        m.SetPositionLimit("a", 9, 1, "ops"),
        m.ArmDeadMan("b", 9, 1),
        m.Resolve("c", 9, "1"),
        m.SetPositionLimit("d", 0, 1, "ops"),
        m.ArmDeadMan("e", 0, 1),
        m.SetPositionLimit("f", 0, 1, "ops"),
        m.ArmDeadMan("g", 0, 1),
        m.Resolve("h", 0, "1"),
    ) == [
        "-> rejected UNKNOWN_INSTRUMENT 9, 0",
        "-> rejected UNKNOWN_INSTRUMENT 9, 0",
        "-> rejected UNKNOWN_INSTRUMENT 9, 0",
        "-> done",
        "-> done",
        "-> rejected ACCOUNTS_FULL 0, 2",
        "-> rejected ACCOUNTS_FULL 0, 2",
        "-> rejected ACCOUNTS_FULL 0, 2",
    ]


def test_book_and_image_say_everything_that_is(two: Stage) -> None:
    two.setup(order("bob/2", SELL, 1, 101), order("bob/3", BUY, 4, 100), m.SetState(1, HALT, "ops"))
    assert msgspec.msgpack.decode(two.engine.book(0)) == [
        [[101, [[2, 2]]], [100, [[1, 2], [5, 4]]]],
        [[200, [[3, 4]]]],
    ]
    assert decode_frame(two.engine.image()) == m.EventFrame(
        0,
        10,
        10,
        4,
        [],
        [
            m.LevelRow(0, BUY, 100, 6, 2),
            m.LevelRow(0, BUY, 101, 2, 1),
            m.LevelRow(0, SELL, 200, 4, 1),
            m.LevelRow(1, BUY, 100, 1, 1),
            m.LevelRow(1, SELL, 200, 5, 1),
        ],
        [m.PositionRow("ann", 0, 1, 2, 4), m.PositionRow("ann", 1, 0, 1, 5), m.PositionRow("bob", 0, -1, 6, 0)],
        [],
        [m.StateRow(10, 0, 0, OPEN, ""), m.StateRow(10, 0, 1, HALT, "")],
    )
    with pytest.raises(ValueError, match="instrument 5 is not defined"):
        two.engine.book(5)


def test_a_new_engine_is_empty(new_stage: NewStage) -> None:
    engine = new_stage().engine
    assert (engine.seq(), engine.epoch(), engine.ts(), engine.orders(), engine.trail()) == (0, 0, 0, 0, 0)
    assert decode_frame(engine.image()) == m.EventFrame(0, 0, 0, 0, [], [], [], [], [])
    assert msgspec.msgpack.decode(engine.snapshot()) == [1, 0, 0, 0, 0, [], [], [], [], [], [], 0]
