"""cluster.toml: everything said is used, everything wrong is named at once, nothing is guessed."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exchange.config import (
    Ceilings,
    Cluster,
    Config,
    Gateway,
    InstrumentEntry,
    Journal,
    MarketData,
    MarketMaker,
    Shard,
    load,
    render,
)
from exchange.domain import INSTRUMENTS_MAX
from exchange.errors import ConfigError

MINIMAL = '[cluster]\ndata = "/srv/x"\n[[shards]]\nname = "s0"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cluster.toml"


def read(file: Path, text: str, **environment: str) -> Config:
    file.write_text(text)
    return load(file, environment)


def faults(file: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(file, text, **environment)
    assert all(fault.startswith(f"{file}: ") for fault in caught.value.faults)
    return [fault.removeprefix(f"{file}: ") for fault in caught.value.faults]


def test_little_is_needed_and_places_follow_from_it(file: Path) -> None:
    config = read(file, MINIMAL)
    assert config.run == Path("/srv/x/run")
    assert config.nodes() == [("s0", "s0-a")]
    assert config.node_directory("s0-a") == Path("/srv/x/shards/s0-a")
    assert config.endpoint("orders.s0-a") == "ipc:///srv/x/run/orders.s0-a"
    assert config.engine_config().ids_window_ns == 86_400 * 10**9
    assert config.instrument_list() == []


def test_a_shard_of_two_replicas_has_two_nodes(file: Path) -> None:
    config = read(file, MINIMAL + 'replicas = 2\n[[shards]]\nname = "s1"\n[replication]\ndurability = "replicated"\n')
    assert config.nodes() == [("s0", "s0-a"), ("s0", "s0-b"), ("s1", "s1-a")]
    assert (config.replication.durability, config.replication.solo) == ("replicated", "allow")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("replicas = 3\n", "Invalid enum value 3"),
        ('[replication]\ndurability = "none"\n', "Invalid enum value 'none'"),
        ("[replication]\nshrink_ms = 0\n", "replication.shrink_ms must be at least 1, not 0"),
    ],
)
def test_replication_is_one_of_few_things(file: Path, text: str, said: str) -> None:
    (fault,) = faults(file, MINIMAL + text)
    assert said in fault


def test_instruments_become_integers_and_spread_over_the_shards(file: Path) -> None:
    text = MINIMAL + (
        '[[shards]]\nname = "s1"\n'
        '[[instruments]]\nbase = "AAPL"\ntick = "0.05"\nreference_price = "150.25"\n'
        '[[instruments]]\nbase = "BTC"\nquote = "EUR"\nquantity_decimals = 8\nquantity_min = "0.001"\nlot = "0.0001"\n'
        'quantity_max = "1000"\nposition_limit = "2.5"\n'
        '[[instruments]]\nbase = "MSFT"\nshard = "s1"\n'
    )
    aapl, btc, msft = read(file, text).instrument_list()
    assert (aapl.index, aapl.symbol, aapl.tick, aapl.reference_price, aapl.shard) == (0, "AAPLUSD", 5, 15_025, "s0")
    assert (btc.symbol, btc.quantity_min, btc.lot, btc.position_limit) == ("BTCEUR", 100_000, 10_000, 250_000_000)
    assert (btc.shard, msft.shard, aapl.position_limit) == ("s1", "s1", -1)


def test_what_is_rendered_is_read_back(file: Path) -> None:
    config = Config(
        cluster=Cluster(name='odd "name"\n', data="/srv/µ", run="/r", engine="reference"),
        ceilings=Ceilings(orders_max=5, ids_max=6),
        journal=Journal(ring_bytes=1),
        gateway=Gateway(port=0, open_demo=True, profile="load"),
        marketdata=MarketData(port=1),
        marketmaker=MarketMaker(enabled=True, volatility_factor=Decimal("0.10")),
        shards=[Shard(name="a"), Shard(name="b-2")],
        instruments=[InstrumentEntry(base="X"), InstrumentEntry(base="Y", position_limit="7")],
    )
    assert read(file, render(config)) == config


@given(data=st.text(st.characters(codec="utf-8"), max_size=30))
@example(data="".join(map(chr, range(160))))
def test_any_text_survives_rendering(tmp_path_factory: pytest.TempPathFactory, data: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    config = Config(cluster=Cluster(data=data), shards=[Shard(name="s0")])
    assert read(file, render(config)) == config


def test_variables_override_scalars_of_a_section(file: Path) -> None:
    config = read(
        file,
        MINIMAL,
        SHARDEX_GATEWAY_PORT="9090",
        SHARDEX_GATEWAY_OPEN_DEMO="true",
        SHARDEX_CLUSTER_DATA="/elsewhere",
        SHARDEX_MARKETMAKER_VOLATILITY_FACTOR="2.5",
        SHARDEX_HOME="/not/a/section",
        OTHER_GATEWAY_PORT="1",
    )
    assert (config.gateway.port, config.gateway.open_demo) == (9090, True)
    assert config.data == Path("/elsewhere")
    assert config.marketmaker.volatility_factor == Decimal("2.5")


def test_a_variable_with_an_unknown_key_is_a_fault(file: Path) -> None:
    [fault] = faults(file, MINIMAL, SHARDEX_GATEWAY_PROT="9090")
    assert fault == "[gateway] Object contains unknown field `prot`"


def test_all_faults_are_told_at_once(file: Path) -> None:
    text = (
        '[cluster]\ndata = "/srv/x"\n'
        "[ceilings]\norders_max = 0\nids_max = 0\n"
        "[gateway]\nport = 70000\n"
        '[[shards]]\nname = "S0"\n[[shards]]\nname = "s1"\n[[shards]]\nname = "s1"\n'
        '[[instruments]]\nbase = "AAPL"\ntick = "0.001"\n'
        '[[instruments]]\nbase = "MSFT"\nshard = "s9"\nlot = "0"\n'
        '[[instruments]]\nbase = "MSFT"\n'
    )
    found = faults(file, text)
    for sentence in (
        "name 'S0-a' must match",
        "name 's1-a' is used by two daemons",
        "ceilings.orders_max must be at least 1, not 0",
        "ceilings.ids_max must be above ceilings.orders_max",
        "gateway.port must be 0 to 65535, not 70000",
        "[[instruments]] number 1 (AAPLUSD): 0.001 has more than 2 decimals",
        "[[instruments]] number 2 (MSFTUSD): shard 's9' is not one of",
        "[[instruments]] number 2 (MSFTUSD): lot must be above 0",
        "[[instruments]] number 3 (MSFTUSD): symbol stands in the file twice",
    ):
        assert any(sentence in fault for fault in found), (sentence, found)


def test_every_daemon_has_a_name_of_its_own(file: Path) -> None:
    assert faults(file, MINIMAL + '[gateway]\nname = "s0-a"\n') == ["name 's0-a' is used by two daemons"]
    assert faults(file, MINIMAL + '[[shards]]\nname = "s0"\n') == ["name 's0-a' is used by two daemons"]
    assert faults(file, MINIMAL + '[marketdata]\nname = "c0"\n') == ["name 'c0' is used by two daemons"]


def test_a_wrong_type_in_each_section_is_named_for_each(file: Path) -> None:
    found = faults(file, MINIMAL + '[gateway]\nport = "x"\n[journal]\nring_bytes = 1.5\n[wizard]\na = 1\n')
    assert any("[gateway] Expected `int`, got `str`" in fault for fault in found)
    assert any("[journal] Expected `int`" in fault for fault in found)
    assert any("[wizard] is no section; sections are cluster" in fault for fault in found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "missing required field `cluster`"),
        ('[cluster]\ndata = "/x"\n', "missing required field `shards`"),
        ('shards = []\n[cluster]\ndata = "/x"\n', "at least one shard is needed"),
        ("[cluster\n", "Expected ']'"),
        ('[cluster]\ndata = "/x"\ndata = "/y"\n', "Cannot overwrite a value"),
        ('cluster = "x"\n', "[cluster] Expected `object`, got `str`"),
        (MINIMAL + '[cluster2]\nx = 1\n', "[cluster2] is no section"),
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(file: Path, text: str, sentence: str) -> None:
    assert any(sentence in fault for fault in faults(file, text))


def test_a_file_that_is_missing_or_no_text_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load(file, {})
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="can't decode byte"):
        load(file, {})


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("price_decimals = 13", "price_decimals must be 0 to 12, not 13"),
        ("price_decimals = -1", "more than -1 decimals"),
        ("quantity_decimals = 13", "quantity_decimals must be 0 to 12, not 13"),
        ('tick = "0"', "tick must be above 0"),
        ('tick = "1e-2"', "'1e-2' is not a plain decimal number"),
        ('lot = "-1"', "lot must be above 0"),
        ('quantity_min = "5"\nquantity_max = "4"', "0 < quantity_min <= quantity_max"),
        ('quantity_max = "1000000000000001"', "0 < quantity_min <= quantity_max"),
        ('price_min = "2"\nprice_max = "1"', "0 <= price_min <= price_max"),
        ("collar_bps = 10001", "collar_bps must be 0 to 10000, not 10001"),
        ('reference_price = "-1"', "reference_price must be 0 to"),
        ('position_limit = "-2"', "position_limit must be -1 or above"),
    ],
)
def test_rules_of_an_instrument(file: Path, line: str, rule: str) -> None:
    found = faults(file, f'{MINIMAL}[[instruments]]\nbase = "AAPL"\n{line}\n')
    assert any(fault.startswith("[[instruments]] number 1 (AAPLUSD): ") and rule in fault for fault in found)


def test_symbols_are_capital_letters_and_digits(file: Path) -> None:
    [fault] = faults(file, f'{MINIMAL}[[instruments]]\nbase = "aapl"\n')
    assert "base and quote must match" in fault


def test_instruments_have_a_ceiling(file: Path) -> None:
    entries = "".join(f'[[instruments]]\nbase = "X{number}"\n' for number in range(INSTRUMENTS_MAX + 1))
    assert faults(file, MINIMAL + entries) == ["[[instruments]] has 8193 entries, at most 8192"]


def test_sections_cannot_be_changed_behind_anybody_s_back() -> None:
    config = Config(cluster=Cluster(data="/x"), shards=[Shard(name="s0")])
    with pytest.raises(AttributeError):
        config.cluster.data = "/y"  # type: ignore[misc]
    assert msgspec.structs.replace(config.cluster, data="/y").data == "/y"
