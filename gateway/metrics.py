"""Prometheus text: the gateway's own figures, and the numbers in the last heartbeats of all daemons.

Built anew for each scrape from counters that exist anyway: nothing is counted twice, and nothing on the order path.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S
from gateway.links import ShardLink
from gateway.stats import WINDOW_S, summarize

_METRIC = re.compile(r"[a-z][a-z0-9_]{0,99}")


def expose(links: Mapping[str, ShardLink], connections: int, cluster: m.ClusterStatus | None) -> bytes:
    """One scrape; `cluster` None = the coordinator is away."""
    registry = CollectorRegistry()
    registry.register(_Scrape(links, connections, cluster))
    return generate_latest(registry)


class _Scrape(Collector):
    def __init__(self, links: Mapping[str, ShardLink], connections: int, cluster: m.ClusterStatus | None) -> None:
        self._links = links
        self._connections = connections
        self._cluster = cluster

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily("shardex_gateway_connections", "Open connections of this gateway")
        gauge.add_metric([], self._connections)
        yield gauge
        for name, text, read in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["shard"])
            for shard, link in self._links.items():
                counter.add_metric([shard], read(link))
            yield counter
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["shard"])
            for shard, link in self._links.items():
                gauge.add_metric([shard], read(link))
            yield gauge
        yield from _latency(self._links)
        yield from _groups(self._cluster)
        yield from _beats(self._cluster)


_COUNTERS: list[tuple[str, str, Callable[[ShardLink], int]]] = [
    ("shardex_gateway_orders", "Commands answered by the shard", lambda link: link.stats.commands),
    ("shardex_gateway_resends", "Batches sent more than once", lambda link: link.lane.resends),
    ("shardex_gateway_unknown", "Requests without an answer by their deadline", lambda link: link.stats.unknown),
    ("shardex_gateway_not_executed", "Requests that certainly did not execute", lambda link: link.stats.not_executed),
]
_GAUGES: list[tuple[str, str, Callable[[ShardLink], int]]] = [
    ("shardex_gateway_pending", "Commands that wait for the shard", lambda link: link.lane.pending),
    ("shardex_gateway_shard_serving", "1 when the shard takes orders", lambda link: int(link.lane.serving)),
]


def _latency(links: Mapping[str, ShardLink]) -> Iterator[Metric]:
    now_ns = monotonic_ns()
    gauge = GaugeMetricFamily(
        "shardex_gateway_latency_us", f"Latency over the last {WINDOW_S} s", labels=["shard", "percentile"]
    )
    for shard, link in links.items():
        for name, value in summarize([link.stats], now_ns, now_ns - WINDOW_S * NS_PER_S).latency.items():
            gauge.add_metric([shard, name.removesuffix("_us")], value)
    yield gauge


def _groups(cluster: m.ClusterStatus | None) -> Iterator[Metric]:
    in_sync = GaugeMetricFamily("shardex_shard_in_sync", "Nodes of the shard's in-sync set", labels=["shard"])
    flags = GaugeMetricFamily("shardex_shard_flag", "1 while the coordinator shows the flag", labels=["shard", "flag"])
    for status in cluster.shards if cluster is not None else []:
        in_sync.add_metric([status.shard], len(status.isr))
        for flag in status.flags:
            flags.add_metric([status.shard, flag], 1)
    yield in_sync
    yield flags


def _beats(cluster: m.ClusterStatus | None) -> Iterator[Metric]:
    up = GaugeMetricFamily("shardex_up", "1 when the coordinator calls the daemon healthy", labels=["role", "name"])
    gauges: dict[str, GaugeMetricFamily] = {}
    for daemon in cluster.daemons if cluster is not None else []:
        up.add_metric([daemon.role, daemon.name], int(daemon.health == "healthy"))
        for key, value in sorted(daemon.stats.items()):
            name = f"shardex_{daemon.role}_{key}"
            if isinstance(value, int | float) and _METRIC.fullmatch(name):
                gauge = gauges.setdefault(name, GaugeMetricFamily(name, "From the daemon's heartbeat", labels=["name"]))
                gauge.add_metric([daemon.name], value)
    yield up
    yield from gauges.values()
