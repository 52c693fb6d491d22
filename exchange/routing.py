"""Symbol to instrument to shard, from one version of the shard map."""

from exchange.domain import instrument_of
from exchange.messages import Instrument, ShardEntry, ShardMap


class Routing:
    """Look-ups over one ShardMap; built once for each version. Every look-up is one dict access."""

    def __init__(self, map_: ShardMap) -> None:
        self.version = map_.version
        self.shards: dict[str, ShardEntry] = {entry.shard: entry for entry in map_.shards}
        self.instruments: dict[int, Instrument] = {i.index: i for i in map_.instruments}
        self._by_name: dict[str, Instrument] = {}
        for instrument in map_.instruments:
            self._by_name.setdefault(instrument.base, instrument)
        for instrument in map_.instruments:
            self._by_name[instrument.symbol] = instrument

    def instrument(self, name: str) -> Instrument | None:
        """By "AAPL" (base, classic name) or "AAPLUSD" (symbol)."""
        return self._by_name.get(name)

    def instrument_of_id(self, id_: int) -> Instrument | None:
        """The instrument that an order id or trade id names."""
        return self.instruments.get(instrument_of(id_))

    def shard_of(self, instrument: Instrument) -> ShardEntry | None:
        """Who serves an instrument now, if anybody is known."""
        return self.shards.get(instrument.shard)
