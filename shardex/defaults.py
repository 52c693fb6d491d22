"""The cluster.toml that `up` and `demo` write into a new data directory: eight markets, spread over the shards.

Written once; from then on the file belongs to whoever runs the cluster.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from exchange.config import Cluster, Config, InstrumentEntry, Shard
from exchange.errors import ConfigError

SHARDS_DEFAULT = 2
SHARDS_MAX = 64
REPLICAS_DEFAULT = 2

_STOCKS = {
    "AAPL": "150.25",
    "MSFT": "425.50",
    "GOOG": "175.30",
    "AMZN": "185.75",
    "TSLA": "250.40",
    "NVDA": "125.60",
}


def default_config(
    data: Path, run: Path, *, shards: int, replicas: int = 1, overrides: Mapping[str, Mapping[str, Any]]
) -> Config:
    """Configuration of a new cluster; `overrides` = section -> key -> value. ConfigError for a bad count."""
    if replicas not in (1, 2):
        raise ConfigError([f"number of replicas must be 1 or 2, not {replicas}"])
    if not 1 <= shards <= SHARDS_MAX:
        raise ConfigError([f"number of shards must be 1 to {SHARDS_MAX}, not {shards}"])
    config = Config(
        cluster=Cluster(data=str(data), run=str(run)),
        shards=[Shard(name=f"s{index}", replicas=2 if replicas == 2 else 1) for index in range(shards)],
        instruments=_instruments(),
    )
    for section, values in overrides.items():
        changed = msgspec.structs.replace(getattr(config, section), **values)
        config = msgspec.structs.replace(config, **{section: changed})
    return config


def _instruments() -> list[InstrumentEntry]:
    stocks = [InstrumentEntry(base=base, reference_price=price) for base, price in _STOCKS.items()]
    return [*stocks, _bitcoin(), _ether()]


def _bitcoin() -> InstrumentEntry:
    """Whole dollars, satoshis, no collar and wide bounds: takes the recorded order flow of a real venue as it is."""
    return InstrumentEntry(
        base="BTC",
        price_decimals=0,
        quantity_decimals=8,
        tick="1",
        lot="0.00000001",
        quantity_min="0.00000001",
        quantity_max="10000000",
        price_min="0",
        price_max="1000000000",
        collar_bps=0,
        reference_price="78320",
    )


def _ether() -> InstrumentEntry:
    return InstrumentEntry(
        base="ETH",
        quantity_decimals=4,
        lot="0.0001",
        quantity_min="0.0001",
        reference_price="2310.50",
    )
