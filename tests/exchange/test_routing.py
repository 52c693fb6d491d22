"""From a name to the instrument to the shard that serves it."""

from exchange import messages as m
from exchange.domain import compose_id
from exchange.routing import Routing


def instrument(index: int, base: str, quote: str, shard: str) -> m.Instrument:
    return m.Instrument(index, base + quote, base, quote, 2, 0, 1, 1, 1, 10, 1, 10, 0, 0, -1, shard)


AAPL = instrument(0, "AAPL", "USD", "s0")
BTC = instrument(1, "BTC", "USD", "s1")
BTC_EUR = instrument(2, "BTC", "EUR", "s1")
BTCUSD_ITSELF = instrument(3, "BTCUSD", "T", "s9")
S0 = m.ShardEntry("s0", 1, "s0", 1, "ipc:///o", "ipc:///e", True)
S1 = m.ShardEntry("s1", 0, "", 0, "", "", False)
ROUTING = Routing(m.ShardMap(7, [S0, S1], [AAPL, BTC, BTC_EUR, BTCUSD_ITSELF]))


def test_an_instrument_has_a_full_and_a_classic_name() -> None:
    assert ROUTING.instrument("AAPLUSD") is AAPL
    assert ROUTING.instrument("AAPL") is AAPL
    assert ROUTING.instrument("aapl") is None
    assert ROUTING.instrument("") is None


def test_of_two_quotes_the_first_in_the_file_has_the_classic_name() -> None:
    assert ROUTING.instrument("BTC") is BTC
    assert ROUTING.instrument("BTCEUR") is BTC_EUR


def test_a_full_name_wins_over_a_classic_one() -> None:
    assert ROUTING.instrument("BTCUSD") is BTC


def test_an_order_id_names_its_instrument() -> None:
    assert ROUTING.instrument_of_id(compose_id(1, 5)) is BTC
    assert ROUTING.instrument_of_id(compose_id(8_000, 5)) is None
    assert ROUTING.instrument_of_id(-1) is None


def test_a_shard_is_known_or_not() -> None:
    assert ROUTING.shard_of(AAPL) is S0
    assert ROUTING.shard_of(BTC) is S1
    assert ROUTING.shard_of(BTCUSD_ITSELF) is None
    assert ROUTING.version == 7
