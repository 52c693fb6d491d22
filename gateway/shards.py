"""All shards as this gateway knows them: the newest map, and a link to each."""

from exchange import messages as m
from exchange.process import Log
from exchange.routing import Routing
from gateway.core.admission import Admission, Identities, Market
from gateway.links import ShardLink
from gateway.stats import ShardStats

_NO_MAP = m.ShardMap(0, [], [])


class Shards:
    """`admission` is replaced with every newer map; hold it no longer than one request."""

    def __init__(self, sender: str, identities: Identities, log: Log) -> None:
        self.links: dict[str, ShardLink] = {}
        self.admission = Admission(Routing(_NO_MAP), identities)
        self._sender = sender
        self._identities = identities
        self._log = log

    @property
    def known(self) -> bool:
        """A shard map has arrived."""
        return self.admission.routing.version > 0

    @property
    def serving(self) -> dict[str, bool]:
        """Which shards take orders, as far as is known."""
        return {shard: link.lane.serving for shard, link in self.links.items()}

    @property
    def pending(self) -> int:
        """Commands without an outcome."""
        return sum(link.lane.pending for link in self.links.values())

    def on_map(self, map_: m.ShardMap, incarnation: int) -> None:
        """Take a newer map: connect to new shards, send again what a new term must answer."""
        if map_.instruments != list(self.admission.routing.instruments.values()) or not self.known:
            self.admission = Admission(Routing(map_), self._identities)
        else:
            self.admission.routing = Routing(map_)
        for entry in sorted(map_.shards, key=lambda entry: entry.shard):
            link = self.links.get(entry.shard)
            if link is None:
                link = self.links[entry.shard] = ShardLink(entry.shard, self._sender, ShardStats(), self._log)
            link.on_map(entry, incarnation)

    def link(self, market: Market) -> ShardLink:
        """Of the shard that has a market. The coordinator's map names no shard that it does not list."""
        return self.links[market.shard]

    def tick(self) -> None:
        for link in self.links.values():
            link.tick()

    def close(self) -> None:
        """Settle everything as it stands and close all sockets."""
        for link in self.links.values():
            link.abandon()
            link.close()
