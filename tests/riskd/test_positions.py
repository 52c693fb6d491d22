"""Positions, average cost, volume and exposure from streams; checked against the engine that made the streams."""

import random
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange import messages as m
from exchange.domain import Side, compose_id
from exchange.errors import WireError
from exchange.follower import Cursor
from exchange.wire import decode_frame, decode_frame_head, encode
from riskd.core import checkpoint
from riskd.core.checkpoint import CheckpointError
from riskd.core.positions import Positions, Row
from shard.core.outcome import event_frame
from shard.core.reference import ReferenceEngine
from tests.engine.flows import Flow

BTC, AAPL = 0, 1


def instrument(index: int, symbol: str, quote: str, price_decimals: int, quantity_decimals: int) -> m.Instrument:
    rules = (1, 1, 1, 10**9, 0, 10**9, 0, 50_000, -1)
    return m.Instrument(index, symbol + quote, symbol, quote, price_decimals, quantity_decimals, *rules, "s0")


INSTRUMENTS = [instrument(BTC, "BTC", "USD", 2, 4), instrument(AAPL, "AAPL", "USD", 2, 0)]


class Stream:
    """Writes the frames of one shard and keeps the positions that it must report."""

    def __init__(self) -> None:
        self.seq = 0
        self.trades = 0
        self.held: dict[tuple[str, int], list[int]] = {}

    def frame(self, *trades: tuple[str, str, int, int, int], **changes: Any) -> m.FrameHead:
        """Trades as (buyer, seller, instrument, price, quantity); the buyer is the taker."""
        self.seq += 1
        rows, touched = [], {}
        for buyer, seller, index, price, quantity in trades:
            self.trades += 1
            trade_id = compose_id(index, self.trades)
            rows.append(m.TradeRow(self.seq, 0, trade_id, price, quantity, Side.BUY, 1, 2, buyer, seller, "", "", 0, 0))
            for account, signed in ((buyer, quantity), (seller, -quantity)):
                self.held.setdefault((account, index), [0, 0, 0])[0] += signed
                touched[account, index] = True
        positions = [m.PositionRow(account, index, *self.held[account, index]) for account, index in sorted(touched)]
        frame = m.EventFrame(1, self.seq, self.seq, self.seq, rows, [], positions, [], [])
        return decode_frame_head(encode(msgspec.structs.replace(frame, **changes)))

    def orders(self, account: str, index: int, open_buy: int, open_sell: int) -> m.FrameHead:
        """Orders of an account come to rest."""
        row = self.held.setdefault((account, index), [0, 0, 0])
        row[1:] = [open_buy, open_sell]
        return self.frame(positions=[m.PositionRow(account, index, *row)])

    def image(self, *recent: m.TradeRow) -> m.FrameHead:
        positions = [m.PositionRow(*key, *row) for key, row in sorted(self.held.items()) if any(row)]
        frame = m.EventFrame(1, self.seq, self.seq, self.seq, list(recent), [], positions, [], [])
        return decode_frame_head(encode(frame))


def holding(positions: Positions, account: str, index: int = BTC) -> m.Holding:
    [found] = [held for held in positions.holdings(account) if held.instrument == index]
    return found


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def positions() -> Positions:
    positions = Positions()
    positions.on_map(INSTRUMENTS)
    return positions


def test_a_trade_moves_both_sides(positions: Positions, stream: Stream) -> None:
    positions.on_frame("s0", stream.frame(("ann", "bob", BTC, 100, 5)))
    assert holding(positions, "ann") == m.Holding(BTC, 5, 0, 0, "500", 5, "0", True)
    assert holding(positions, "bob") == m.Holding(BTC, -5, 0, 0, "-500", 5, "0", True)
    assert positions.conservation() == "ok"
    assert positions.ledger("s0").cursor == Cursor(1, 1)


@pytest.mark.parametrize(
    ("fills", "position", "cost", "realised"),
    [
        ([(100, 5), (120, 5)], 10, 1_100, 0),
        ([(100, 5), (120, 5), (150, -4)], 6, 660, 160),
        ([(100, 5), (90, -5)], 0, 0, -50),
        ([(100, 5), (130, -8)], -3, -390, 150),
        ([(100, -5), (80, 2)], -3, -300, 40),
        ([(100, -5), (80, 8)], 3, 240, 100),
        ([(10, 3), (11, 4), (20, -5)], 2, 22, 48),
        ([(-10, 3), (-11, 4), (-20, -5)], 2, -22, -48),
        ([(0, 3), (5, -3)], 0, 0, 15),
    ],
    ids=[
        "adding",
        "closing in part realises at average cost",
        "closing all leaves no cost",
        "crossing zero opens at the trade's price",
        "a short closes in part",
        "a short crosses zero",
        "cost taken out is rounded toward zero",
        "also when prices are negative",
        "a price of zero",
    ],
)
def test_average_cost(fills: list[tuple[int, int]], position: int, cost: int, realised: int) -> None:
    row = Row()
    for price, quantity in fills:
        row.trade(price, quantity)
    assert (row.position, row.cost, row.realised) == (position, cost, realised)
    assert row.volume == sum(abs(quantity) for _, quantity in fills)


@given(
    st.lists(st.tuples(st.integers(0, 10**15), st.integers(-(10**15), 10**15).filter(bool)), min_size=1, max_size=60)
)
def test_money_is_never_rounded_away(fills: list[tuple[int, int]]) -> None:
    row = Row()
    for price, quantity in fills:
        before, cost = row.position, row.cost
        row.trade(price, quantity)
        assert row.position == 0 or (row.cost > 0) == (row.position > 0) or row.cost == 0
        if before and abs(row.position) < abs(before) and (row.position > 0) == (before > 0):
            exact = Fraction(cost * row.position, before)
            assert 0 <= abs(row.cost) - abs(exact) < 1
    assert row.cost - row.realised == sum(price * quantity for price, quantity in fills)
    assert row.position != 0 or row.cost == 0


def test_trading_with_oneself_changes_nothing_but_volume(positions: Positions, stream: Stream) -> None:
    positions.on_frame("s0", stream.frame(("ann", "bob", BTC, 100, 5)))
    positions.on_frame("s0", stream.frame(("ann", "ann", BTC, 130, 3), positions=[]))
    held = holding(positions, "ann")
    assert (held.position, held.volume, int(held.cost) - int(held.realised)) == (5, 11, 500)
    assert positions.conservation() == "ok"


def test_positions_span_shards(positions: Positions) -> None:
    one, two = Stream(), Stream()
    positions.on_frame("s0", one.frame(("ann", "bob", BTC, 100, 5)))
    positions.on_frame("s1", two.frame(("bob", "ann", AAPL, 7, 2)))
    assert [(held.instrument, held.position) for held in positions.holdings("ann")] == [(BTC, 5), (AAPL, -2)]
    assert positions.accounts() == 2
    assert positions.holdings("nobody") == []


def test_exposure_is_the_worst_case_at_the_last_price(positions: Positions, stream: Stream) -> None:
    positions.on_frame("s0", stream.frame(("ann", "bob", BTC, 10_000, 20_000)))
    assert positions.exposure("ann") == {"USD": "200.000000"}
    positions.on_frame("s0", stream.orders("ann", BTC, 5_000, 90_000))
    assert positions.exposure("ann") == {"USD": "700.000000"}
    positions.on_frame("s0", stream.orders("ann", AAPL, 3, 1))
    assert positions.exposure("ann") == {"USD": "2200.000000"}
    assert positions.exposure("nobody") == {}


def test_exposure_of_other_currencies_stands_apart(positions: Positions, stream: Stream) -> None:
    positions.on_map([INSTRUMENTS[BTC], instrument(AAPL, "AAPL", "EUR", 2, 0)])
    positions.on_frame("s0", stream.frame(("ann", "bob", BTC, 10_000, 10_000), ("ann", "bob", AAPL, 150, 2)))
    assert positions.exposure("ann") == {"EUR": "3.00", "USD": "100.000000"}


def test_a_position_that_its_trades_do_not_explain_is_reported(positions: Positions, stream: Stream) -> None:
    wrong = [m.PositionRow("ann", AAPL, 6, 0, 0), m.PositionRow("bob", AAPL, -5, 0, 0)]
    positions.on_frame("s0", stream.frame(("ann", "bob", AAPL, 100, 5), positions=wrong))
    assert positions.conservation() == "broken instrument AAPLUSD: ann is at 6, its trades give 5, seq 1"
    assert holding(positions, "ann", AAPL).position == 6


def test_an_image_that_does_not_sum_to_zero_is_reported(positions: Positions, stream: Stream) -> None:
    stream.held = {("ann", BTC): [5, 0, 0], ("bob", BTC): [-4, 0, 0]}
    positions.on_image("s0", stream.image())
    assert positions.conservation() == "broken instrument BTCUSD: positions of all accounts sum to 1, seq 0"
    stream.held["bob", BTC][0] = -5
    positions.on_image("s0", stream.image())
    assert positions.conservation() == "ok"


def test_an_image_gives_positions_and_admits_that_history_is_lost(positions: Positions, stream: Stream) -> None:
    positions.on_frame("s0", stream.frame(("ann", "bob", BTC, 100, 5), ("cat", "dan", BTC, 100, 2)))
    stream.frame(("ann", "bob", BTC, 300, 5))
    missed = m.TradeRow(2, 0, compose_id(BTC, 3), 300, 5, Side.BUY, 1, 2, "ann", "bob", "", "", 0, 0)
    stream.orders("eve", BTC, 7, 0)
    del stream.held["dan", BTC], stream.held["cat", BTC]
    positions.on_image("s0", stream.image(missed))
    assert holding(positions, "ann") == m.Holding(BTC, 10, 0, 0, "3000", 5, "0", False)
    assert holding(positions, "cat") == m.Holding(BTC, 0, 0, 0, "0", 2, "0", False)
    assert holding(positions, "eve") == m.Holding(BTC, 0, 7, 0, "0", 0, "0", False)
    assert positions.conservation() == "ok"
    assert positions.ledger("s0").cursor == Cursor(1, 3)


def test_an_image_leaves_unmoved_costs_and_other_shards_alone(positions: Positions, stream: Stream) -> None:
    other = Stream()
    positions.on_frame("s1", other.frame(("ann", "bob", AAPL, 7, 2)))
    positions.on_frame("s0", stream.frame(("ann", "bob", BTC, 100, 5)))
    positions.on_image("s0", stream.image())
    assert holding(positions, "ann") == m.Holding(BTC, 5, 0, 0, "500", 5, "0", False)
    assert holding(positions, "ann", AAPL) == m.Holding(AAPL, 2, 0, 0, "14", 2, "0", True)


@pytest.mark.parametrize("section", ["trades", "positions"])
def test_a_malformed_section_changes_nothing(positions: Positions, stream: Stream, section: str) -> None:
    good = stream.frame(("ann", "bob", BTC, 100, 5))
    bad = msgspec.structs.replace(good, **{section: msgspec.Raw(b"\x91\x01")})
    for apply in (positions.on_frame, positions.on_image):
        with pytest.raises(WireError):
            apply("s0", bad)
    assert positions.holdings("ann") == []
    positions.on_frame("s0", good)
    assert holding(positions, "ann").position == 5


@pytest.mark.parametrize("seed", range(12))
def test_it_agrees_with_the_engine_on_any_flow(seed: int) -> None:
    """Every command type, whatever the engine does: positions equal its image after every record, cost its trades."""
    flow = Flow(seed, 400)
    engine = ReferenceEngine(encode(flow.config))
    positions = Positions()
    cash: dict[tuple[str, int], int] = {}
    for record in flow.records():
        frame = event_frame(engine.apply(record))
        positions.on_frame("s0", decode_frame_head(frame))
        for trade in decode_frame(frame).trades:
            bought = trade.quantity if trade.taker_side == Side.BUY else -trade.quantity
            for account, signed in ((trade.taker_account, bought), (trade.maker_account, -bought)):
                key = account, trade.trade_id >> 40
                cash[key] = cash.get(key, 0) + trade.price * signed
        image = decode_frame(engine.image()).positions
        rows = {
            (account, index): row
            for account, held in positions.ledger("s0").accounts.items()
            for index, row in held.items()
        }
        mine = [m.PositionRow(*key, row.position, row.open_buy, row.open_sell) for key, row in rows.items()]
        assert sorted(map(str, image)) == sorted(
            str(row) for row in mine if row.position or row.open_buy or row.open_sell
        )
        assert positions.conservation() == "ok"
    assert cash == {key: row.cost - row.realised for key, row in rows.items() if row.volume}


def test_a_checkpoint_brings_everything_back() -> None:
    positions = Positions()
    one, two = Stream(), Stream()
    positions.on_frame("s0", one.frame(("ann", "bob", BTC, 10**15, 10**15), ("ann", "bob", BTC, 10**15, 10**15)))
    positions.on_frame("s1", two.frame(("ann", "bob", AAPL, 7, 2), positions=[m.PositionRow("ann", AAPL, 3, 1, 1)]))
    positions.on_frame("s0", one.frame(("bob", "ann", BTC, 5, 10**15)))
    positions.on_image("s1", two.image())
    back = checkpoint.decode(checkpoint.encode(positions))
    assert back.holdings("ann") == positions.holdings("ann")
    assert back.holdings("bob") == positions.holdings("bob")
    assert back.conservation() == positions.conservation()
    assert {shard: ledger.cursor for shard, ledger in back.ledgers.items()} == {"s0": Cursor(1, 2), "s1": Cursor(1, 1)}
    positions.on_map(INSTRUMENTS)
    back.on_map(INSTRUMENTS)
    assert back.exposure("ann") == positions.exposure("ann")
    following = one.frame(("ann", "cat", BTC, 9, 3))
    positions.on_frame("s0", following)
    back.on_frame("s0", following)
    assert back.holdings("ann") == positions.holdings("ann")


def test_a_damaged_checkpoint_is_refused(positions: Positions, stream: Stream) -> None:
    positions.on_frame("s0", stream.frame(("ann", "bob", BTC, 100, 5)))
    good = checkpoint.encode(positions)
    dice = random.Random(1)
    for length in range(len(good)):
        with pytest.raises(CheckpointError):
            checkpoint.decode(good[:length])
    for place in range(len(good)):
        with pytest.raises(CheckpointError, match="checksum"):
            checkpoint.decode(good[:place] + bytes([good[place] ^ (1 << dice.randrange(8))]) + good[place + 1 :])


@pytest.mark.parametrize("payload", [encode([2, []]), encode([1]), encode([1, [["s0"]]]), b"\xc1", encode({"a": 1})])
def test_a_checkpoint_of_another_shape_is_refused(payload: bytes) -> None:
    from zlib import crc32

    with pytest.raises(CheckpointError):
        checkpoint.decode(crc32(payload).to_bytes(4, "little") + payload)
