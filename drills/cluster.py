"""A cluster for drills: real processes under the launcher, limits above the load, everything it writes kept."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from drills.network import Network
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.config import COORDINATOR_NAME, render
from exchange.domain import NS_PER_S
from exchange.errors import ShardexError, Unavailable
from exchange.keyfile import open_transport
from shard.trace import VARIABLE
from shardex import launcher, ports
from shardex.control import Control
from shardex.supervision import CONFIG_FILE

READY_S = 60.0
POLL_S = 0.05
SNAPSHOT_EVERY_BYTES = 256 * 1024
"""A killed node is back soon however long the drill goes on, and kills meet snapshots."""

Mode = Literal["both", "replicated"]


class Cluster:
    """Shards of two nodes, gateway, coordinator, riskd, marketdata. Blocking calls: run them beside the loop."""

    def __init__(self, data: Path, *, shards: int, mode: Mode, apart: bool = False, traced: bool = True) -> None:
        """`apart` = nodes live in network namespaces of their own (needs root), joined by a bridge. `traced` = nodes
        write down what they do and keep their whole journal, for the checker, and take snapshots often; it costs time.
        """
        os.environ[VARIABLE] = str(int(traced))  # daemons inherit it
        gateway = ports.choose("127.0.0.1")
        overrides: dict[str, dict[str, Any]] = {
            "gateway": {"port": gateway, "profile": "load", "open_demo": True},
            "marketdata": {"port": ports.choose("127.0.0.1", (gateway,))},
            "replication": {"durability": mode, "failovers_max": 1_000_000},
        }
        if traced:
            overrides["journal"] = {"snapshot_every_bytes": SNAPSHOT_EVERY_BYTES, "prune": False}
        if apart:
            overrides["cluster"] = {"transport": "tcp"}
        self.config = launcher.prepare(data, shards=shards, replicas=2, overrides=overrides)
        self.network: Network | None = None
        if apart:
            self.network = Network([COORDINATOR_NAME, *(node for _, node in self.config.nodes())])
            hosts = self.network.places(self.config)
            (data / CONFIG_FILE).write_text(render(msgspec.structs.replace(self.config, hosts=hosts)))
            self.config = launcher.read_config(data)
        open_transport(self.config)
        self.running = launcher.start(self.config)
        self.ended: list[tuple[str, int]] = []
        self.shards = [shard.name for shard in self.config.shards]
        self.nodes = {node: shard for shard, node in self.config.nodes()}

    @property
    def url(self) -> str:
        """The gateway's."""
        return self.running.rest_url

    def wait_whole(self, timeout_s: float = READY_S) -> None:
        """Start what has ended; return when all is healthy and every shard has its full in-sync set.

        Unavailable after that time.
        """
        deadline_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        while monotonic_ns() < deadline_ns:
            missing = self._missing()
            if not missing:
                return
            time.sleep(POLL_S)
        raise Unavailable(f"not whole after {timeout_s:g} s: {missing}")

    def _missing(self) -> str:
        try:
            self.revive()
            processes, status = self.running.supervisor.processes(), self.status()
        except Unavailable as fault:
            return str(fault)
        alone = [one.shard for one in status.shards if len(one.isr) < len(one.nodes) or not one.serving]
        if alone or not status.shards:
            return f"shards {', '.join(alone)} are not whole"
        return ", ".join(launcher.troubles(processes, status))

    def status(self) -> m.ClusterStatus:
        """Health of everything, as the coordinator has it."""
        with Control(self.config) as control:
            return control.status()

    def primary(self, shard: str) -> str:
        """Node that leads a shard now; "" when nobody is known to."""
        found = self.shard(shard)
        return found.primary if found is not None else ""

    def shard(self, name: str) -> m.ShardStatus | None:
        """One shard as the coordinator has it; None when it cannot be asked."""
        try:
            return next((one for one in self.status().shards if one.shard == name), None)
        except Unavailable:
            return None

    def switch(self, shard: str) -> None:
        """Have a primary hand over. Unavailable when it does not."""
        with Control(self.config) as control:
            refused = control.switch(shard)
        if refused:
            raise Unavailable(f"shard {shard} does not change hands: {refused}")

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a daemon; its process id, 0 when it is not running just now."""
        try:
            return self.running.kill(name, number)
        except (ShardexError, psutil.NoSuchProcess):
            return 0

    def revive(self) -> None:
        """Start again what has ended for good; `ended` remembers who that was, and with which exit status."""
        for process in self.running.supervisor.processes():
            if process.gave_up:
                self.ended.append((process.name, process.exit_status))
                self.running.supervisor.start(process.name)

    def stop(self) -> None:
        """End everything."""
        self.running.stop()
        if self.network is not None:
            self.network.close()


async def aside(work: Any, *arguments: Any) -> Any:
    """Run a blocking call in a thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)
