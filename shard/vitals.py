"""What a shard tells about itself with each heartbeat: flat numbers and short texts, cheap to keep."""

from collections.abc import Mapping

import psutil

from exchange.domain import NS_PER_S, NS_PER_US

WINDOW_NS = 1 * NS_PER_S
"""Rates and percentiles are those of the last full window in which something happened."""


class Vitals:
    """Counts records; a record costs less than a microsecond here, and some more when the window closes."""

    def __init__(self, now_ns: int) -> None:
        self._process = psutil.Process()
        self._syncs_ns: list[int] = []
        self._commits_ns: list[int] = []
        self._window_ns = now_ns
        self._records = 0
        self._commands = 0
        self._trades = 0
        self._trades_before = 0
        self._shown: dict[str, int] = {
            "records_per_s": 0,
            "commands_per_s": 0,
            "trades_per_s": 0,
            "trades": 0,
            "fsync_p50_us": 0,
            "fsync_p99_us": 0,
            "commit_p50_us": 0,
            "commit_p99_us": 0,
            "memory_mb": self._memory_mb(),
        }

    def on_written(self, *, commands: int) -> None:
        """A turn's records were written."""
        self._records += 1
        self._commands += commands

    def on_synced(self, took_ns: int) -> None:
        """The loop has waited so long for the disk."""
        self._syncs_ns.append(took_ns)

    def on_committed(self, *, trades: int, took_ns: int) -> None:
        """A record is committed, so long after its turn began. `trades` = of all so far."""
        self._trades = trades
        self._commits_ns.append(took_ns)

    def on_tick(self, now_ns: int) -> None:
        """Close the window when it is over. `now_ns` is monotonic."""
        elapsed_ns = now_ns - self._window_ns
        if elapsed_ns < WINDOW_NS:
            return
        self._shown["records_per_s"] = self._records * NS_PER_S // elapsed_ns
        self._shown["commands_per_s"] = self._commands * NS_PER_S // elapsed_ns
        self._shown["trades_per_s"] = (self._trades - self._trades_before) * NS_PER_S // elapsed_ns
        self._shown["trades"] = self._trades_before = self._trades
        self._shown["memory_mb"] = self._memory_mb()
        for name, took_ns in (("fsync", self._syncs_ns), ("commit", self._commits_ns)):
            if took_ns:
                took_ns.sort()
                for percentile in (50, 99):
                    place = (len(took_ns) * percentile - 1) // 100
                    self._shown[f"{name}_p{percentile}_us"] = took_ns[place] // NS_PER_US
                took_ns.clear()
        self._window_ns = now_ns
        self._records = self._commands = 0

    def shown(self) -> Mapping[str, int]:
        """Rates per second, percentiles in microseconds, resident memory in MiB."""
        return self._shown

    def _memory_mb(self) -> int:
        return int(self._process.memory_info().rss) >> 20
