"""What a shard that does nothing holds in memory. The cost of a resting order is measured on the engine alone."""

import psutil

from bench.results import Row, row
from shardex.launcher import Running

TARGET_IDLE_MB = 80.0


def idle(running: Running) -> list[Row]:
    """Resident memory of each shard of a cluster that was just started."""
    sizes = [psutil.Process(running.pid(node)).memory_info().rss / 1e6 for _, node in running.config.nodes()]
    return [
        row(
            "shard: resident memory, idle", sizes, "MB", target=TARGET_IDLE_MB, better="lower", detail="each shard once"
        )
    ]
