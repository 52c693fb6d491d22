"""cluster.toml and SHARDEX_* variables to one frozen configuration; all faults at once, each with its place.

The file is complete and readable: `render` writes every default into it, so nothing is hidden in code. A variable
SHARDEX_SECTION_KEY (for example SHARDEX_GATEWAY_PORT=9090) overrides a scalar of a section.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from exchange import messages as m
from exchange.domain import INSTRUMENTS_MAX, OPEN_QUANTITY_MAX, PRICE_MAX, QUANTITY_MAX
from exchange.errors import ConfigError
from exchange.limits import RING_BYTES_MAX
from exchange.money import parse_units

COORDINATOR_NAME = "c0"
RISKD_NAME = "r0"
"""There is one of each, and the file has no section for them."""

_LETTERS = ("a", "b")
_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_NODE_DOORS = ("orders", "events", "replica")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")
_SYMBOL = re.compile(r"[A-Z0-9]{1,10}")


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all tables of the file: unknown keys are faults."""


class Cluster(Section, frozen=True, kw_only=True):
    """Where everything lives. `run` holds sockets (short path!); empty = `<data>/run`."""

    name: str = "shardex"
    data: str
    run: str = ""
    transport: Literal["ipc", "tcp"] = "ipc"
    """tcp: at the addresses of [[hosts]], ports from `port_base` on, encrypted under the key of the cluster."""
    port_base: int = 7_400
    engine: Literal["auto", "native", "reference"] = "auto"


class Ceilings(Section, frozen=True, kw_only=True):
    """Pools of one engine; memory is reserved, and used only as it fills."""

    orders_max: int = 1_000_000
    accounts_max: int = 65_536
    ids_max: int = 1_500_000
    ids_per_account_max: int = 250_000
    ids_window_s: int = 86_400
    open_orders_max: int = 100_000


class Journal(Section, frozen=True, kw_only=True):
    """Journal of one shard. `snapshot_every_bytes` of journal a snapshot is taken; two are kept.

    `prune` = segments that no kept snapshot needs are removed; without it the journal is a record of everything.
    """

    segment_bytes: int = 64 * 1024 * 1024
    snapshot_every_bytes: int = 256 * 1024 * 1024
    prune: bool = True
    ring_bytes: int = RING_BYTES_MAX


class Gateway(Section, frozen=True, kw_only=True):
    """HTTP and WebSocket door. Profiles of limits: classic (100 a second, 10 a second on submit), demo, load."""

    name: str = "g0"
    host: str = "127.0.0.1"
    port: int = 8080
    profile: Literal["classic", "demo", "load"] = "classic"
    open_demo: bool = False
    """No API keys needed, `user_id` names the account. Only on a loopback host, and off once a key exists."""
    connections_max: int = 4_096
    connections_per_ip_max: int = 1_024


class MarketData(Section, frozen=True, kw_only=True):
    """WebSocket feeds."""

    name: str = "m0"
    host: str = "127.0.0.1"
    port: int = 8765
    connections_max: int = 4_096


class MarketMaker(Section, frozen=True, kw_only=True):
    """The house's liquidity bot. Prices in basis points of the mid; quantities as decimal text of the base."""

    name: str = "mm0"
    enabled: bool = False
    account: str = "market-maker"
    spread_bps: int = 20
    volatility_factor: Decimal = Decimal("1.0")
    skew_bps: int = 30
    levels: int = 3
    quote_quantity: str = "50"
    inventory_max: str = "2000"
    interval_ms: int = 250
    dead_man_ms: int = 3_000


class Shard(Section, frozen=True, kw_only=True):
    """One shard; its daemons are its nodes, called `<name>-a` and, with two replicas, `<name>-b`."""

    name: str
    replicas: Literal[1, 2] = 1


class Replication(Section, frozen=True, kw_only=True):
    """How the two nodes of a shard go together; without effect for a shard of one replica.

    durability: `both` = on the disks of both nodes before an answer leaves; `replicated` = written by both nodes, on
    their disks some milliseconds later: survives the loss of one machine, not that of two at once.
    solo: whether a shard whose second node is away goes on (`allow`) or refuses orders until it is back (`refuse`).
    """

    durability: Literal["both", "replicated"] = "both"
    solo: Literal["allow", "refuse"] = "allow"
    suspect_ms: int = 400
    """A primary that is silent for so long is replaced."""
    shrink_ms: int = 300
    """A primary goes on alone when its standby has acknowledged nothing for so long."""
    failovers_max: int = 3
    failovers_window_s: int = 600
    """More failovers of one shard than that in so many seconds are left to an operator."""


class Host(Section, frozen=True, kw_only=True):
    """Where a daemon listens with transport tcp; one that is not named listens on 127.0.0.1."""

    name: str
    address: str
    namespace: str = ""
    """Linux network namespace in which the local launcher starts it (needs root): several hosts on one machine."""


class InstrumentEntry(Section, frozen=True, kw_only=True):
    """One market. Prices and quantities as decimal text; `symbol` is base + quote."""

    base: str
    quote: str = "USD"
    price_decimals: int = 2
    quantity_decimals: int = 0
    tick: str = "0.01"
    lot: str = "1"
    quantity_min: str = "1"
    quantity_max: str = "1000000"
    price_min: str = "0.01"
    price_max: str = "1000000"
    collar_bps: int = 1_000
    reference_price: str = "0"
    position_limit: str = "-1"
    """Largest position of one account, counting resting orders; "-1" = none."""
    shard: str = ""
    """Empty = spread round-robin over the shards in the order of the file."""


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    cluster: Cluster
    ceilings: Ceilings = Ceilings()
    journal: Journal = Journal()
    gateway: Gateway = Gateway()
    marketdata: MarketData = MarketData()
    marketmaker: MarketMaker = MarketMaker()
    replication: Replication = Replication()
    shards: list[Shard]
    hosts: list[Host] = field(default_factory=list)
    instruments: list[InstrumentEntry] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """Root of everything durable."""
        return Path(self.cluster.data)

    @property
    def run(self) -> Path:
        """Directory of the ipc sockets, 0700."""
        return Path(self.cluster.run) if self.cluster.run else self.data / "run"

    def nodes(self) -> list[tuple[str, str]]:
        """Every (shard, node) of the cluster, in the order of the file."""
        return [
            (shard.name, f"{shard.name}-{letter}") for shard in self.shards for letter in _LETTERS[: shard.replicas]
        ]

    def node_directory(self, node: str) -> Path:
        """Journal, snapshots and state of one node."""
        return self.data / "shards" / node

    def endpoint(self, what: str) -> str:
        """Endpoint of "control", "risk", "market", "orders.<node>", "events.<node>", "replica.<node>"."""
        if self.cluster.transport == "ipc":
            return f"ipc://{self.run / what}"
        singles = {"control": COORDINATOR_NAME, "risk": RISKD_NAME, "market": self.marketdata.name}
        kind, _, node = what.partition(".")
        owner = node or singles[kind]
        nodes = [name for _, name in self.nodes()]
        offset = len(singles) + len(_NODE_DOORS) * nodes.index(node) if node else 0
        offset += _NODE_DOORS.index(kind) if node else list(singles).index(kind)
        addresses = {host.name: host.address for host in self.hosts}
        return f"tcp://{addresses.get(owner, '127.0.0.1')}:{self.cluster.port_base + offset}"

    def engine_config(self) -> m.EngineConfig:
        """Ceilings in the form the engine takes."""
        c = self.ceilings
        return m.EngineConfig(
            c.orders_max,
            c.accounts_max,
            c.ids_max,
            c.ids_per_account_max,
            c.ids_window_s * 1_000_000_000,
            c.open_orders_max,
        )

    def instrument_list(self) -> list[m.Instrument]:
        """The file's instruments in integer units; index = place in the file, so never reorder them."""
        return [_instrument(self, index, entry) for index, entry in enumerate(self.instruments)]


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check a cluster.toml. ConfigError lists every fault with file, key, rule and value."""
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError as fault:
        raise ConfigError([f"{path}: there is no such file"]) from fault
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigError([f"{path}: {fault}"]) from fault
    _override(tables, environment)
    faults: list[str] = []
    config = _convert(tables, faults)
    if config is not None:
        faults += _check(config)
    if faults or config is None:
        raise ConfigError([f"{path}: {fault}" for fault in faults])
    return config


def render(config: Config) -> str:
    """The configuration as TOML text that `load` reads back unchanged."""
    lines: list[str] = []
    for name in config.__struct_fields__:
        value = getattr(config, name)
        for table in value if isinstance(value, list) else [value]:
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            lines += [f"{key} = {_toml(getattr(table, key))}" for key in table.__struct_fields__]
            lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return msgspec.json.encode(str(value)).decode().replace("\x7f", "\\u007f")


def _override(tables: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable, text in sorted(environment.items()):
        parts = variable.lower().split("_", 2)
        if len(parts) == 3 and parts[0] == "shardex" and isinstance(tables.get(parts[1], {}), dict):
            if parts[1] not in Config.__struct_fields__:
                continue
            value: object = text
            if text in ("true", "false"):
                value = text == "true"
            elif text.isdigit():
                value = int(text)
            tables.setdefault(parts[1], {})[parts[2]] = value


def _convert(tables: dict[str, Any], faults: list[str]) -> Config | None:
    """Convert table by table so that one bad value does not hide the next."""
    before = len(faults)
    for name, value in tables.items():
        kind = {info.name: info.type for info in msgspec.structs.fields(Config)}.get(name)
        if kind is None:
            faults.append(f"[{name}] is no section; sections are {', '.join(Config.__struct_fields__)}")
            continue
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as fault:
            faults.append(f"[{name}] {fault}")
    if len(faults) > before:
        return None
    try:
        return msgspec.convert(tables, Config)
    except msgspec.ValidationError as fault:
        faults.append(str(fault))
        return None


def _check(config: Config) -> list[str]:
    faults = []
    names = [shard.name for shard in config.shards]
    if not names:
        faults.append("[[shards]] is empty; at least one shard is needed")
    others = [config.gateway.name, config.marketdata.name, config.marketmaker.name, COORDINATOR_NAME, RISKD_NAME]
    daemons = [*(node for _, node in config.nodes()), *others]
    faults += [f"name {name!r} must match {_NAME.pattern}" for name in daemons if not _NAME.fullmatch(name)]
    twice = dict.fromkeys(name for name in daemons if daemons.count(name) > 1)
    faults += [f"name {name!r} is used by two daemons" for name in twice]
    for host in config.hosts:
        if host.name not in daemons:
            faults.append(f"[[hosts]] name {host.name!r} is not one of {', '.join(daemons)}")
        if host.namespace and not _NAME.fullmatch(host.namespace):
            faults.append(f"[[hosts]] {host.name}: namespace {host.namespace!r} must match {_NAME.pattern}")
        if not _ADDRESS.fullmatch(host.address):
            faults.append(f"[[hosts]] {host.name}: address {host.address!r} must match {_ADDRESS.pattern}")
    ports_end = config.cluster.port_base + 3 + len(_NODE_DOORS) * len(config.nodes())
    if not 1_024 <= config.cluster.port_base <= ports_end <= 65_536:
        faults.append(f"cluster.port_base {config.cluster.port_base} must leave room for ports 1024 to 65535")
    if len(config.instruments) > INSTRUMENTS_MAX:
        faults.append(f"[[instruments]] has {len(config.instruments)} entries, at most {INSTRUMENTS_MAX}")
    for section in (config.ceilings, config.journal, config.replication):
        place = type(section).__name__.lower()
        values = {key: getattr(section, key) for key in section.__struct_fields__}
        faults += [
            f"{place}.{key} must be at least 1, not {value}"
            for key, value in values.items()
            if isinstance(value, int) and not isinstance(value, bool) and value < 1
        ]
    if config.ceilings.ids_max <= config.ceilings.orders_max:
        faults.append("ceilings.ids_max must be above ceilings.orders_max: every open order holds its id")
    for section_name in ("gateway", "marketdata"):
        port = getattr(config, section_name).port
        if not 0 <= port <= 65_535:
            faults.append(f"{section_name}.port must be 0 to 65535, not {port}")
    seen: dict[str, int] = {}
    for index, entry in enumerate(config.instruments):
        place = f"[[instruments]] number {index + 1} ({entry.base}{entry.quote})"
        if not (_SYMBOL.fullmatch(entry.base) and _SYMBOL.fullmatch(entry.quote)):
            faults.append(f"{place}: base and quote must match {_SYMBOL.pattern}")
        if entry.base + entry.quote in seen or entry.base in seen:
            faults.append(f"{place}: symbol stands in the file twice")
        seen[entry.base + entry.quote] = seen[entry.base] = index
        if entry.shard and entry.shard not in names:
            faults.append(f"{place}: shard {entry.shard!r} is not one of {', '.join(names)}")
        try:
            faults += [f"{place}: {fault}" for fault in _check_instrument(_instrument(config, index, entry))]
        except ValueError as fault:
            faults.append(f"{place}: {fault}")
    return faults


def _instrument(config: Config, index: int, entry: InstrumentEntry) -> m.Instrument:
    def price(text: str) -> int:
        return parse_units(text, entry.price_decimals)

    def quantity(text: str) -> int:
        return parse_units(text, entry.quantity_decimals)

    return m.Instrument(
        index=index,
        symbol=entry.base + entry.quote,
        base=entry.base,
        quote=entry.quote,
        price_decimals=entry.price_decimals,
        quantity_decimals=entry.quantity_decimals,
        tick=price(entry.tick),
        lot=quantity(entry.lot),
        quantity_min=quantity(entry.quantity_min),
        quantity_max=quantity(entry.quantity_max),
        price_min=price(entry.price_min),
        price_max=price(entry.price_max),
        collar_bps=entry.collar_bps,
        reference_price=price(entry.reference_price),
        position_limit=-1 if entry.position_limit == "-1" else quantity(entry.position_limit),
        shard=entry.shard or config.shards[index % len(config.shards)].name,
    )


def _check_instrument(i: m.Instrument) -> list[str]:
    rules = [
        (0 <= i.price_decimals <= 12, f"price_decimals must be 0 to 12, not {i.price_decimals}"),
        (0 <= i.quantity_decimals <= 12, f"quantity_decimals must be 0 to 12, not {i.quantity_decimals}"),
        (i.tick >= 1, "tick must be above 0"),
        (i.lot >= 1, "lot must be above 0"),
        (1 <= i.quantity_min <= i.quantity_max <= QUANTITY_MAX, "0 < quantity_min <= quantity_max <= 10^15 units"),
        (0 <= i.price_min <= i.price_max <= PRICE_MAX, "0 <= price_min <= price_max <= 10^15 units"),
        (0 <= i.collar_bps <= 10_000, f"collar_bps must be 0 to 10000, not {i.collar_bps}"),
        (0 <= i.reference_price <= PRICE_MAX, "reference_price must be 0 to 10^15 units"),
        (-1 <= i.position_limit <= OPEN_QUANTITY_MAX, "position_limit must be -1 or above"),
    ]
    return [text for holds, text in rules if not holds]
