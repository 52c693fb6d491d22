"""A cluster for one benchmark: two shards, durable, limits of the load profile, no market maker; gone afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S
from shardex import launcher, ports

BUILD = Path(__file__).parent.parent / "build"
"""On a real disk: a journal in memory would not be one."""
READY_S = 60.0
HOST = "127.0.0.1"


@contextmanager
def cluster(shards: int = 2, replicas: int = 1, durability: str = "both") -> Iterator[launcher.Running]:
    """A running cluster in a directory of its own, all nodes in sync; stopped and removed at the end."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD) as directory:
        gateway_port = ports.choose(HOST)
        feed_port = ports.choose(HOST, (gateway_port,))
        config = launcher.prepare(
            Path(directory),
            shards=shards,
            replicas=replicas,
            overrides={
                "gateway": {"port": gateway_port, "profile": "load", "open_demo": True},
                "marketdata": {"port": feed_port},
                "marketmaker": {"enabled": False},
                "replication": {"durability": durability},
            },
        )
        running = launcher.start(config)
        try:
            running.wait_ready(READY_S)
            yield running
        finally:
            running.stop()


class CpuSplit:
    """Processor time by process over spans of work; use it as a context around each of them."""

    def __init__(self, running: launcher.Running) -> None:
        self._processes = {"generator": psutil.Process()}
        for process in running.supervisor.processes():
            if process.pid:
                self._processes[process.name] = psutil.Process(process.pid)
        self._seconds = dict.fromkeys(self._processes, 0.0)
        self._wall_s = 0.0

    def __enter__(self) -> "CpuSplit":
        self._before = self._times()
        self._start_ns = monotonic_ns()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._wall_s += (monotonic_ns() - self._start_ns) / NS_PER_S
        for name, seconds in self._times().items():
            self._seconds[name] += seconds - self._before[name]

    def per_order(self, orders: int) -> str:
        """Microseconds of processor time per order by process, largest first."""
        spent = sorted(self._seconds.items(), key=lambda item: -item[1])
        parts = [f"{name} {seconds * 1e6 / max(1, orders):.2f}" for name, seconds in spent if seconds > 0]
        in_use = sum(self._seconds.values()) / self._wall_s
        return f"CPU µs/order: {', '.join(parts)}; {in_use:.2f} of {psutil.cpu_count()} processors in use"

    def _times(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}
