"""The order flow of a load test: reproducible, unique ids, a quarter trades, the book stays bounded."""

from collections.abc import Sequence

import msgspec
import pytest

from exchange.domain import Side
from loadgen.workload import LAG_UNITS, CancelOrder, Command, Flow, Market, NewOrder, flow

MARKETS = [
    Market(
        symbol="AAPLUSD",
        index=0,
        shard="s0",
        price_decimals=2,
        quantity_decimals=0,
        tick=1,
        lot=1,
        quantity_min=1,
        mid=15_025,
    ),
    Market(
        symbol="BTCUSD",
        index=1,
        shard="s1",
        price_decimals=2,
        quantity_decimals=0,
        tick=5,
        lot=10,
        quantity_min=25,
        mid=78_320,
    ),
    Market(
        symbol="MSFTUSD",
        index=2,
        shard="s0",
        price_decimals=2,
        quantity_decimals=0,
        tick=1,
        lot=1,
        quantity_min=1,
        mid=42_550,
    ),
]


class Row(msgspec.Struct):
    """One command as it was sent; quantity 0 = a cancel."""

    symbol: str
    identity: str
    side: Side = Side.BUY
    price: int = 0
    quantity: int = 0
    take: bool = False


def row(command: Command) -> Row:
    match command:
        case NewOrder(market, side, price, quantity, take, identity):
            return Row(market.symbol, identity, side, price, quantity, take)
        case CancelOrder(market, identity):
            return Row(market.symbol, identity)


def encode(commands: Sequence[Command]) -> bytes:
    return msgspec.json.encode([row(command) for command in commands])


def make(batch: int, seed: int = 1, *, lag_units: int = LAG_UNITS, cancels: bool = True) -> Flow:
    return flow(MARKETS, batch=batch, run="r1.", seed=seed, encode=encode, lag_units=lag_units, cancels=cancels)


def sent(source: Flow, frames: int) -> list[Row]:
    """All commands of a flow in the order in which a connection sends them."""
    bodies = [source.frame(number).build(number) for number in range(frames)]
    return [one for body in bodies for one in msgspec.json.decode(body, type=list[Row])]


class Book:
    """The least of an exchange that shows what the flow does to one: price-time priority and cancels."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, str], Row] = {}
        self.takes = self.filled_takes = self.late_cancels = self.crossed_rests = self.open_max = 0

    def apply(self, one: Row) -> None:
        if one.quantity == 0:
            self.late_cancels += self.open.pop((one.symbol, one.identity), None) is None
            return
        sign = 1 if one.side is Side.BUY else -1
        makers = [
            (sign * maker.price, key)
            for key, maker in self.open.items()
            if maker.symbol == one.symbol and maker.side is not one.side and sign * maker.price <= sign * one.price
        ]
        left = one.quantity
        for _, key in sorted(makers, key=lambda pair: pair[0]):
            traded = min(left, self.open[key].quantity)
            left -= traded
            self.open[key].quantity -= traded
            if not self.open[key].quantity:
                del self.open[key]
            if not left:
                break
        if one.take:
            self.takes += 1
            self.filled_takes += left == 0
            return
        self.crossed_rests += left != one.quantity
        if left:
            self.open[one.symbol, one.identity] = one
        self.open_max = max(self.open_max, len(self.open))


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    assert sent(make(64), 50) == sent(make(64), 50)
    assert sent(make(64), 50) != sent(make(64, seed=2), 50)


@pytest.mark.parametrize(("batch", "lag_units"), [(1, 4), (3, LAG_UNITS), (64, LAG_UNITS), (64, 4)])
def test_a_quarter_of_the_flow_trades_and_the_book_stays_bounded(batch: int, lag_units: int) -> None:
    source, book = make(batch, lag_units=lag_units), Book()
    rows = sent(source, 12_000 // batch)
    for one in rows:
        book.apply(one)

    assert book.takes == book.filled_takes == pytest.approx(len(rows) / 4, rel=0.01)
    assert book.late_cancels == book.crossed_rests == 0
    assert book.open_max <= 4 * lag_units + 8
    cancels = sum(one.quantity == 0 for one in rows)
    assert cancels > len(rows) / 8


def test_a_flow_without_cancels_leaves_nothing_behind() -> None:
    book = Book()
    for one in sent(make(64, cancels=False), 200):
        assert one.quantity
        book.apply(one)
    assert book.open == {}
    assert book.filled_takes == 200 * 64 / 4


def test_client_order_ids_are_unique_and_start_with_the_run() -> None:
    identities = [one.identity for one in sent(make(7), 3_000) if one.quantity]
    assert len(identities) == len(set(identities))
    assert all(identity.startswith("r1.") and len(identity) <= 36 for identity in identities)


def test_connections_send_the_same_flow_under_ids_of_their_own() -> None:
    frame = make(7).frame(1_000)
    rows = [msgspec.json.decode(frame.build(1_000, connection), type=list[Row]) for connection in (0, 1_023)]
    assert [one.identity for one in rows[1]] == [one.identity.replace("r1.000000", "r1.0003ff") for one in rows[0]]
    assert [one.price for one in rows[0]] == [one.price for one in rows[1]]


def test_frames_know_what_they_carry_for_each_shard() -> None:
    source = make(64)
    frame = source.frame(1_000)
    assert frame.commands == 64 == sum(frame.by_shard.values())
    assert set(frame.by_shard) == {"s0", "s1"}


def test_orders_obey_tick_lot_and_smallest_quantity() -> None:
    rules = {market.symbol: market for market in MARKETS}
    for one in sent(make(64), 20):
        market = rules[one.symbol]
        assert one.price % market.tick == 0
        assert one.quantity % market.lot == 0
        assert one.quantity == 0 or one.quantity >= market.quantity_min


def test_a_market_without_room_for_far_orders_is_refused_with_its_numbers() -> None:
    low = Market(
        symbol="PENNYUSD",
        index=3,
        shard="s0",
        price_decimals=2,
        quantity_decimals=0,
        tick=1,
        lot=1,
        quantity_min=1,
        mid=12,
    )
    with pytest.raises(ValueError, match="PENNYUSD: the load needs a mid of at least 137 ticks of 1, it is 12"):
        flow([low], batch=1, run="r", seed=1, encode=encode)
    with pytest.raises(ValueError, match="at least one symbol"):
        flow([], batch=1, run="r", seed=1, encode=encode)
