"""What a load run saw: outcomes by class, rates, latency from the intended send time. Floats here are never money."""

from collections import Counter
from collections.abc import Mapping

import msgspec
from hdrh.histogram import HdrHistogram
from msgspec import Struct
from rich.table import Table

from exchange.domain import NS_PER_S, NS_PER_US

LATENCY_NS_MAX = 600 * NS_PER_S
DIGITS = 3
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

OUTCOMES = (
    "new",
    "filled",
    "cancelled",
    "expired",
    "rejected",
    "throttled",
    "unavailable",
    "unknown",
    "lost",
)
"""Every command ends in exactly one. `new` rests, `filled` traded at least in part, `rejected` by a rule of the market;
`throttled` (429) and `unavailable` (503) had no effect; `unknown` (504) and `lost` (no answer) may have had one."""


class Latency(Struct, frozen=True, kw_only=True):
    """Microseconds from the intended send time to the answer, each order counted."""

    p50_us: float
    p90_us: float
    p95_us: float
    p99_us: float
    p99_9_us: float
    max_us: float


class Report(Struct, frozen=True, kw_only=True):
    """One load run; `sustained` = kept up with the intended rate within the bound on the 99th percentile."""

    protocol: str
    batch: int
    connections: int
    in_flight: int
    duration_s: float
    intended_per_s: float | None
    achieved_per_s: float
    sent: int
    answered: int
    outcomes: dict[str, int]
    by_shard: dict[str, int]
    latency: Latency
    sustained: bool | None = None


class Tally:
    """Counts of one run while it runs."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.by_shard: Counter[str] = Counter()
        self.sent = 0
        self.answered = 0
        self._histogram = HdrHistogram(1, LATENCY_NS_MAX, DIGITS)

    def add(self, outcomes: Mapping[str, int], latency_ns: int) -> None:
        """One frame was answered: all its orders have its latency."""
        count = sum(outcomes.values())
        self.outcomes.update(outcomes)
        self.answered += count
        self._histogram.record_value(max(1, min(latency_ns, LATENCY_NS_MAX)), count)

    def latency(self) -> Latency:
        """Percentiles so far; zeros before the first answer."""
        values = [self._histogram.get_value_at_percentile(p) / NS_PER_US for p in PERCENTILES]
        p50, p90, p95, p99, p99_9 = values
        highest = self._histogram.get_max_value() / NS_PER_US if self.answered else 0.0
        return Latency(p50_us=p50, p90_us=p90, p95_us=p95, p99_us=p99, p99_9_us=p99_9, max_us=highest)


def to_json(report: Report) -> bytes:
    """One line."""
    return msgspec.json.encode(report)


def to_table(report: Report) -> Table:
    """For a person: rates, outcomes and percentiles, intended against achieved."""
    caption = 'gateway.profile = "load" lifts the limits that throttled' if report.outcomes.get("throttled") else None
    table = Table(title=f"{report.protocol}, {report.batch} orders a frame", caption=caption)
    table.add_column("measure")
    table.add_column("value", justify="right")
    intended = "closed loop" if report.intended_per_s is None else f"{report.intended_per_s:,.0f} orders/s"
    rows = [
        ("intended", intended),
        ("achieved", f"{report.achieved_per_s:,.0f} orders/s"),
        ("duration", f"{report.duration_s:.1f} s"),
        ("window", f"{report.connections} connections × {report.in_flight} frames"),
        ("sent / answered", f"{report.sent:,} / {report.answered:,}"),
    ]
    rows += [(f"  {name}", f"{report.outcomes[name]:,}") for name in OUTCOMES if report.outcomes.get(name)]
    rows += [(f"  on shard {shard}", f"{count:,}") for shard, count in sorted(report.by_shard.items())]
    for field in Latency.__struct_fields__:
        label = field.removesuffix("_us").replace("_", ".")
        rows.append((f"latency {label}", f"{getattr(report.latency, field):,.0f} µs"))
    if report.sustained is not None:
        rows.append(("sustained", "yes" if report.sustained else "no"))
    for name, value in rows:
        table.add_row(name, value)
    return table
