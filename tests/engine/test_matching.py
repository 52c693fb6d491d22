"""Rules 17 to 20: price, then time, at the maker's price; self-trade prevention; what becomes of the rest."""

import pytest

from exchange import messages as m
from exchange.domain import compose_id
from tests.engine.conftest import NewStage
from tests.engine.stage import (
    BOTH,
    BUY,
    DAY,
    DECREMENT,
    FOK,
    GTD,
    IOC,
    MARKET,
    NEWEST,
    NONE,
    OLDEST,
    SELL,
    Stage,
    define,
    order,
)


def test_best_price_first_then_oldest_at_the_makers_price(stage: Stage) -> None:
    stage.setup(
        order("ann/late", SELL, 5, 101),
        order("ann/best", SELL, 5, 100),
        order("bob/second", SELL, 5, 101),
        order("cid/far", SELL, 5, 102),
    )
    assert stage.tell(order("dan/1", BUY, 12, 101)) == [
        "ACCEPTED dan/1 BUY 12@101 leaves 12",
        "TRADE 5@100 dan/1 (7) with ann/best (0)",
        "TRADE 5@101 dan/1 (2) with ann/late (0)",
        "TRADE 2@101 dan/1 (0) with bob/second (3)",
        "-> FILLED filled 12 remaining 0",
    ]
    assert stage.book() == " | 3@101 5@102"


def test_sells_mirror_buys(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 5, 99), order("ann/2", BUY, 5, 100), order("bob/1", BUY, 5, 100))
    assert stage.tell(order("dan/1", SELL, 20, 99)) == [
        "ACCEPTED dan/1 SELL 20@99 leaves 20",
        "TRADE 5@100 dan/1 (15) with ann/2 (0)",
        "TRADE 5@100 dan/1 (10) with bob/1 (0)",
        "TRADE 5@99 dan/1 (5) with ann/1 (0)",
        "-> PARTIALLY_FILLED filled 15 remaining 5",
    ]
    assert stage.book() == " | 5@99"


def test_ids_name_their_instrument_and_fills_name_their_trades(stage: Stage) -> None:
    stage.setup(define(3, "ETH-USD"), order("ann/1", SELL, 5, 100, instrument=3))
    stage.setup(order("ann/2", SELL, 5, 101, instrument=3))
    (reply,), frame = stage.run(order("bob/1", BUY, 7, 101, instrument=3))
    assert isinstance(reply, m.Executed)
    assert reply.order_id == compose_id(3, 3)
    assert reply.fills == [m.Fill(compose_id(3, 1), 100, 5), m.Fill(compose_id(3, 2), 101, 2)]
    makers = [(row.trade_id, row.taker_order_id, row.maker_order_id, row.taker_side) for row in frame.trades]
    assert makers == [
        (compose_id(3, 1), compose_id(3, 3), compose_id(3, 1), BUY),
        (compose_id(3, 2), compose_id(3, 3), compose_id(3, 2), BUY),
    ]


@pytest.mark.parametrize(("tif", "expire_ns"), [(DAY, 0), (GTD, 10**9)])
def test_day_and_dated_orders_rest_like_any(stage: Stage, tif: int, expire_ns: int) -> None:
    stage.setup(order("ann/1", SELL, 5, 100))
    story = stage.tell(order("bob/1", BUY, 7, 100, tif=tif, expire_ns=expire_ns))
    assert story[-1] == "-> PARTIALLY_FILLED filled 5 remaining 2"
    assert stage.book() == "2@100 | "


def test_immediate_or_cancel_drops_the_rest(stage: Stage) -> None:
    stage.setup(order("ann/1", SELL, 5, 100), order("ann/2", SELL, 5, 102))
    assert stage.tell(order("bob/1", BUY, 7, 101, tif=IOC), order("bob/2", BUY, 7, 101, tif=IOC)) == [
        "ACCEPTED bob/1 BUY 7@101 leaves 7",
        "TRADE 5@100 bob/1 (2) with ann/1 (0)",
        "EXPIRED bob/1 BUY 2@101 leaves 0 IOC_REMAINDER",
        "-> EXPIRED IOC_REMAINDER filled 5 remaining 2",
        "ACCEPTED bob/2 BUY 7@101 leaves 7",
        "EXPIRED bob/2 BUY 7@101 leaves 0 IOC_REMAINDER",
        "-> EXPIRED IOC_REMAINDER filled 0 remaining 7",
    ]


def test_market_takes_any_price_and_never_rests(stage: Stage) -> None:
    stage.setup(order("ann/1", SELL, 5, 100), order("ann/2", SELL, 5, 10**15))
    assert stage.tell(order("bob/1", BUY, 12, kind=MARKET, tif=IOC)) == [
        "ACCEPTED bob/1 BUY 12@0 leaves 12",
        "TRADE 5@100 bob/1 (7) with ann/1 (0)",
        f"TRADE 5@{10**15} bob/1 (2) with ann/2 (0)",
        "EXPIRED bob/1 BUY 2@0 leaves 0 NO_LIQUIDITY",
        "-> EXPIRED NO_LIQUIDITY filled 10 remaining 2",
    ]


def test_market_stops_at_the_collar_as_it_stood_when_the_command_began(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(collar_bps=100, reference_price=1_000))
    stage.setup(*(order(f"ann/{price}", SELL, 1, price) for price in (1_005, 1_010, 1_015)))
    assert stage.tell(order("bob/1", BUY, 3, kind=MARKET, tif=IOC)) == [
        "ACCEPTED bob/1 BUY 3@0 leaves 3",
        "TRADE 1@1005 bob/1 (2) with ann/1005 (0)",
        "TRADE 1@1010 bob/1 (1) with ann/1010 (0)",
        "EXPIRED bob/1 BUY 1@0 leaves 0 PRICE_COLLAR",
        "-> EXPIRED PRICE_COLLAR filled 2 remaining 1",
    ]


def test_fill_or_kill_is_all_or_nothing(stage: Stage) -> None:
    stage.setup(order("ann/1", SELL, 5, 100), order("ann/2", SELL, 5, 101), order("ann/3", SELL, 5, 102))
    assert stage.tell(order("bob/1", BUY, 11, 101, tif=FOK), order("bob/2", BUY, 10, 101, tif=FOK)) == [
        "ACCEPTED bob/1 BUY 11@101 leaves 11",
        "EXPIRED bob/1 BUY 11@101 leaves 0 FOK_UNFILLABLE",
        "-> EXPIRED FOK_UNFILLABLE filled 0 remaining 11",
        "ACCEPTED bob/2 BUY 10@101 leaves 10",
        "TRADE 5@100 bob/2 (5) with ann/1 (0)",
        "TRADE 5@101 bob/2 (0) with ann/2 (0)",
        "-> FILLED filled 10 remaining 0",
    ]


def test_fill_or_kill_at_market_counts_only_within_the_collar(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.setup(define(collar_bps=100, reference_price=1_000))
    stage.setup(order("ann/1", SELL, 5, 1_010), order("ann/2", SELL, 5, 1_011))
    assert [
        stage.tell(order("bob/1", BUY, 6, kind=MARKET, tif=FOK))[-1],
        stage.tell(order("bob/2", BUY, 5, kind=MARKET, tif=FOK))[-1],
    ] == ["-> EXPIRED FOK_UNFILLABLE filled 0 remaining 6", "-> FILLED filled 5 remaining 0"]


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        (NONE, "-> FILLED filled 10 remaining 0"),
        (NEWEST, "-> EXPIRED FOK_UNFILLABLE filled 0 remaining 10"),
        (OLDEST, "-> FILLED filled 10 remaining 0"),
        (BOTH, "-> EXPIRED FOK_UNFILLABLE filled 0 remaining 10"),
        (DECREMENT, "-> EXPIRED FOK_UNFILLABLE filled 0 remaining 10"),
    ],
)
def test_fill_or_kill_counts_own_makers_by_mode(stage: Stage, mode: int, answer: str) -> None:
    stage.setup(order("bob/1", SELL, 5, 100), order("ann/1", SELL, 5, 101), order("bob/2", SELL, 5, 102))
    assert stage.tell(order("ann/2", BUY, 10, 102, tif=FOK, self_trade=mode))[-1] == answer


def test_fill_or_kill_skips_what_oldest_would_cancel(stage: Stage) -> None:
    stage.setup(order("bob/1", SELL, 5, 100), order("ann/1", SELL, 5, 101))
    story = stage.tell(order("ann/2", BUY, 6, 101, tif=FOK, self_trade=OLDEST))
    assert story[-1] == "-> EXPIRED FOK_UNFILLABLE filled 0 remaining 6"
    assert stage.book() == " | 5@100 5@101"


def test_own_makers_behind_the_last_fill_do_not_matter(stage: Stage) -> None:
    stage.setup(order("bob/1", SELL, 5, 100), order("ann/1", SELL, 5, 100))
    for mode in (NEWEST, BOTH, DECREMENT):
        story = stage.tell(order(f"ann/take-{mode}", BUY, 1, 100, tif=FOK, self_trade=mode))
        assert story[-1] == "-> FILLED filled 1 remaining 0"


def own_maker_between_others(stage: Stage) -> None:
    stage.setup(order("bob/1", SELL, 5, 100), order("ann/1", SELL, 5, 100), order("bob/2", SELL, 5, 101))


def test_self_trade_none_trades_with_itself(stage: Stage) -> None:
    stage.setup(order("ann/1", SELL, 5, 100))
    (_,), frame = stage.run(order("ann/2", BUY, 3, 100, self_trade=NONE))
    assert frame.positions == [m.PositionRow("ann", 0, 0, 0, 2)]
    assert [(row.taker_account, row.maker_account) for row in frame.trades] == [("ann", "ann")]


def test_self_trade_newest_cancels_the_taker(stage: Stage) -> None:
    own_maker_between_others(stage)
    assert stage.tell(order("ann/2", BUY, 12, 101, self_trade=NEWEST)) == [
        "ACCEPTED ann/2 BUY 12@101 leaves 12",
        "TRADE 5@100 ann/2 (7) with bob/1 (0)",
        "CANCELLED ann/2 BUY 7@101 leaves 0 SELF_TRADE",
        "-> CANCELED SELF_TRADE filled 5 remaining 7",
    ]
    assert stage.book() == " | 5@100 5@101"


def test_self_trade_oldest_cancels_the_maker_and_goes_on(stage: Stage) -> None:
    own_maker_between_others(stage)
    assert stage.tell(order("ann/2", BUY, 12, 101, self_trade=OLDEST)) == [
        "ACCEPTED ann/2 BUY 12@101 leaves 12",
        "TRADE 5@100 ann/2 (7) with bob/1 (0)",
        "CANCELLED ann/1 SELL 5@100 leaves 0 SELF_TRADE",
        "TRADE 5@101 ann/2 (2) with bob/2 (0)",
        "-> PARTIALLY_FILLED filled 10 remaining 2",
    ]
    assert stage.book() == "2@101 | "


def test_self_trade_both_cancels_both(stage: Stage) -> None:
    own_maker_between_others(stage)
    assert stage.tell(order("ann/2", BUY, 12, 101, self_trade=BOTH)) == [
        "ACCEPTED ann/2 BUY 12@101 leaves 12",
        "TRADE 5@100 ann/2 (7) with bob/1 (0)",
        "CANCELLED ann/1 SELL 5@100 leaves 0 SELF_TRADE",
        "CANCELLED ann/2 BUY 7@101 leaves 0 SELF_TRADE",
        "-> CANCELED SELF_TRADE filled 5 remaining 7",
    ]
    assert stage.book() == " | 5@101"


def test_decrement_lowers_both_and_goes_on_with_the_rest(stage: Stage) -> None:
    own_maker_between_others(stage)
    assert stage.tell(order("ann/2", BUY, 12, 101, self_trade=DECREMENT)) == [
        "ACCEPTED ann/2 BUY 12@101 leaves 12",
        "TRADE 5@100 ann/2 (7) with bob/1 (0)",
        "REDUCED ann/1 SELL 5@100 leaves 0 SELF_TRADE",
        "CANCELLED ann/1 SELL 0@100 leaves 0 SELF_TRADE",
        "REDUCED ann/2 BUY 5@101 leaves 2 SELF_TRADE",
        "TRADE 2@101 ann/2 (0) with bob/2 (3)",
        "-> FILLED filled 7 remaining 0",
    ]
    assert stage.tell(m.QueryOrder("ann", 0, 0, "2"), m.QueryOrder("ann", 0, 0, "1")) == [
        "-> 2 BUY 7@101 filled 7 leaves 0 FILLED",
        "-> 1 SELL 0@100 filled 0 leaves 0 CANCELED SELF_TRADE",
    ]


def test_decrement_can_end_the_taker(stage: Stage) -> None:
    stage.setup(order("ann/1", SELL, 5, 100))
    assert stage.tell(order("ann/2", BUY, 3, 100, self_trade=DECREMENT)) == [
        "ACCEPTED ann/2 BUY 3@100 leaves 3",
        "REDUCED ann/1 SELL 3@100 leaves 2 SELF_TRADE",
        "REDUCED ann/2 BUY 3@100 leaves 0 SELF_TRADE",
        "CANCELLED ann/2 BUY 0@100 leaves 0 SELF_TRADE",
        "-> CANCELED SELF_TRADE filled 0 remaining 0",
    ]
    assert stage.tell(m.QueryOrder("ann", 0, 0, "1"))[-1] == "-> 1 SELL 2@100 filled 0 leaves 2 NEW"


def test_decrement_of_equals_ends_both(stage: Stage) -> None:
    stage.setup(order("ann/1", SELL, 5, 100), order("bob/1", BUY, 1, 100))
    assert stage.tell(order("ann/2", BUY, 4, 100, self_trade=DECREMENT)) == [
        "ACCEPTED ann/2 BUY 4@100 leaves 4",
        "REDUCED ann/1 SELL 4@100 leaves 0 SELF_TRADE",
        "CANCELLED ann/1 SELL 0@100 leaves 0 SELF_TRADE",
        "REDUCED ann/2 BUY 4@100 leaves 0 SELF_TRADE",
        "CANCELLED ann/2 BUY 0@100 leaves 0 SELF_TRADE",
        "-> CANCELED SELF_TRADE filled 0 remaining 0",
    ]
    assert stage.tell(m.QueryOrder("ann", 0, 0, "1"))[-1] == "-> 1 SELL 1@100 filled 1 leaves 0 CANCELED SELF_TRADE"


def test_the_takers_mode_governs(stage: Stage) -> None:
    stage.setup(order("ann/1", SELL, 5, 100, self_trade=OLDEST))
    story = stage.tell(order("ann/2", BUY, 5, 100, self_trade=NEWEST))
    assert story[-1] == "-> CANCELED SELF_TRADE filled 0 remaining 5"
    assert stage.book() == " | 5@100"


def test_the_frame_says_where_levels_and_positions_ended(stage: Stage) -> None:
    """Only what differs from before the record, ascending; a level that comes and goes inside it is not news."""
    stage.setup(order("ann/1", SELL, 5, 100), order("ann/2", SELL, 5, 101), order("bob/1", BUY, 5, 90))
    _, frame = stage.run(
        order("cid/1", BUY, 7, 101), order("cid/2", BUY, 1, 95), m.Cancel("cid", 0, 0, "2"), m.Cancel("bob", 0, 0, "1")
    )
    assert frame.levels == [
        m.LevelRow(0, BUY, 90, 0, 0),
        m.LevelRow(0, SELL, 100, 0, 0),
        m.LevelRow(0, SELL, 101, 3, 1),
    ]
    assert frame.positions == [
        m.PositionRow("ann", 0, -7, 0, 3),
        m.PositionRow("bob", 0, 0, 0, 0),
        m.PositionRow("cid", 0, 7, 0, 0),
    ]
    assert (frame.first_seq, frame.last_seq, frame.ts_ns, frame.epoch) == (5, 8, 3, 0)
    assert [(row.seq, row.sub) for row in frame.trades] == [(5, 1), (5, 2)]
    assert [(row.seq, row.sub) for row in frame.orders] == [(5, 0), (6, 0), (7, 0), (8, 0)]
