"""From what a client wrote to a command, without sockets or clocks."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from exchange import messages as m
from exchange.domain import PRICE_MAX, QuantityBasis, Reject
from exchange.money import format_units
from exchange.routing import Routing
from gateway import classic
from gateway.core import requests as q
from gateway.core.admission import TEXTS_MAX, Admission, Identities, Market, Stamp
from gateway.core.problems import _SENTENCES, RULES, Problem, rejection

STAMP = Stamp("alice", 77, 66)


def instrument(index: int, base: str, shard: str, **changes: int) -> m.Instrument:
    plain = m.Instrument(index, f"{base}USD", base, "USD", 2, 0, 1, 1, 1, 10**6, 1, 10**8, 0, 0, -1, shard)
    return msgspec.structs.replace(plain, **changes)


def admission() -> Admission:
    instruments = [
        instrument(0, "AAPL", "s0"),
        instrument(1, "MSFT", "s1", tick=5, lot=10),
        instrument(2, "BTC", "s0", price_decimals=0, quantity_decimals=8),
    ]
    return Admission(Routing(m.ShardMap(1, [], instruments)), Identities("gen-"))


def fields(**changes: object) -> q.OrderFields:
    order = {"symbol": "AAPL", "side": "buy", "price": 150, "quantity": 1, **changes}
    return msgspec.json.decode(msgspec.json.encode(order), type=q.OrderFields)


def submit(**changes: object) -> m.Submit | Problem:
    admitted = admission().submit(fields(**changes), STAMP)
    return admitted if isinstance(admitted, Problem) else admitted[1]


def test_an_order_becomes_a_command() -> None:
    everything = submit(
        symbol="MSFTUSD",
        side="SELL",
        price="400.25",
        quantity=30,
        time_in_force="gtd",
        expire_at_ms=5,
        post_only=True,
        stp="decrement",
        client_order_id="mine",
    )
    assert everything == m.Submit("alice", "mine", 1, 1, 0, 4, 1, 4, 40_025, 30, 5_000_000, 77, 66)
    assert submit() == m.Submit("alice", "gen-1", 0, 0, 0, 0, 0, 1, 15_000, 1, 0, 77, 66)
    assert submit(order_type="market", price=None) == m.Submit("alice", "gen-1", 0, 0, 1, 1, 0, 1, 0, 1, 0, 77, 66)


def test_generated_ids_are_all_different() -> None:
    house = admission()
    commands = [house.submit(fields(), STAMP) for _ in range(100)]
    assert len({command[1].client_order_id for command in commands if not isinstance(command, Problem)}) == 100


@given(st.integers(0, PRICE_MAX))
def test_every_price_survives_the_way_through_text(units: int) -> None:
    market = Market(instrument(0, "X", "s0", price_max=PRICE_MAX))
    text = format_units(units, 2)
    assert market.price(Raw(text.encode())) == units
    assert market.price(Raw(f'"{text}"'.encode())) == units
    shown = bytes(classic.price(units, market)).decode()
    assert Decimal(shown) == Decimal(text)
    assert market.price(Raw(shown.encode())) == units


@given(st.binary(max_size=40) | st.text(alphabet='0123456789.-+eE"nNaIf ', max_size=30).map(str.encode))
def test_no_text_is_read_as_a_wrong_price(text: bytes) -> None:
    market = Market(instrument(0, "X", "s0"))
    units = market.price(Raw(text))
    if isinstance(units, int):
        assert Decimal(text.decode().strip('"')) * 100 == units
        assert 0 <= units <= PRICE_MAX
    else:
        assert len(units.detail) < 300


def test_the_memory_of_texts_is_bounded_and_exact() -> None:
    market = Market(instrument(0, "X", "s0"))
    for units in range(TEXTS_MAX + 10):
        text = Raw(format_units(units, 2).encode())
        assert market.price(text) == market.price(text) == units
    assert market.price(Raw(b"150.255")) == market.price(Raw(b"150.255")), "a refusal is not remembered as a price"


def test_ticks_and_lots_hold_for_json_and_for_rows() -> None:
    for change, reason in (({"price": 400.01}, "TICK_SIZE"), ({"quantity": 15}, "LOT_SIZE")):
        problem = submit(symbol="MSFT", **{"price": 400, "quantity": 10, **change})
        assert isinstance(problem, Problem)
        assert problem.reason == reason
    rows = [
        q.SubmitRow("MSFT", 0, 0, 0, 0, 1, 40_001, 10),
        q.SubmitRow("MSFT", 0, 0, 0, 0, 1, 40_000, 15),
        q.ReplaceRow("MSFT", 5, "", 40_001, 10, 0),
        q.ReduceRow("MSFT", 5, "", 15),
    ]
    split = admission().split_rows(q.CompactFrame(1, rows), STAMP)
    assert [(place, problem.reason) for place, problem in split.denied] == [
        (0, "TICK_SIZE"),
        (1, "LOT_SIZE"),
        (2, "TICK_SIZE"),
        (3, "LOT_SIZE"),
    ]
    assert split.by_shard == {}


def test_rows_become_commands_by_shard_in_their_places() -> None:
    rows = [
        q.SubmitRow("AAPL", 1, 0, 2, 0, 1, 15_000, 3, "a"),
        q.CancelRow(1, 9),
        q.ReplaceRow("AAPLUSD", 7, "", 15_001, 2, QuantityBasis.LEAVES, "r"),
        q.ReduceRow(2, 0, "a", 1),
        q.SubmitRow("XX", 0, 0, 0, 0, 0, 1, 1),
    ]
    split = admission().split_rows(q.CompactFrame(1, rows), STAMP)
    assert split.by_shard == {
        "s0": (
            [
                m.Submit("alice", "a", 0, 1, 0, 2, 0, 1, 15_000, 3, 0, 77, 66),
                m.Replace("alice", "r", 0, 7, "", 15_001, 2, QuantityBasis.LEAVES, 77, 66),
                m.Reduce("alice", "gen-1", 2, 0, "a", 1, 77, 66),
            ],
            [0, 2, 3],
        ),
        "s1": ([m.Cancel("alice", 1, 9, "", 77)], [1]),
    }
    assert [(place, problem.reason) for place, problem in split.denied] == [(4, "UNKNOWN_INSTRUMENT")]


def test_every_rejection_of_the_engine_has_a_rule_and_a_sentence() -> None:
    ends_of_orders = {
        Reject.NONE,
        Reject.SELF_TRADE,
        Reject.FOK_UNFILLABLE,
        Reject.NO_LIQUIDITY,
        Reject.IOC_REMAINDER,
        Reject.GTD_REACHED,
        Reject.DAY_END,
        Reject.USER,
        Reject.MASS_CANCEL,
        Reject.DEAD_MAN,
        Reject.INSTRUMENT_CONFLICT,
    }
    for reject in [reject for reject in Reject if reject not in ends_of_orders]:
        assert reject.name in RULES
        assert reject in _SENTENCES
        problem = rejection(m.Rejected(1, 2, 3, False, reject, 40_025, 40_000, 0), instrument(1, "MSFT", "s1"))
        assert problem.rule is RULES[reject.name]
        assert "{" not in problem.detail


@pytest.mark.parametrize("reason", sorted(RULES))
def test_the_status_tells_the_outcome(reason: str) -> None:
    rule = RULES[reason]
    assert rule.retryable == (rule.http in (429, 503, 504))
    if reason in Reject.__members__ and Reject[reason] < 100:
        assert 400 <= rule.http < 500, "recorded under the id, so final"
