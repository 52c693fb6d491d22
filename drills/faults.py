"""Faults: each strikes a victim, lasts as long as it lasts, and leaves the healing to the cluster."""

import asyncio
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from drills.checker.journals import Fragment
from drills.cluster import Cluster, aside
from exchange.clock import monotonic_ns
from exchange.config import COORDINATOR_NAME, RISKD_NAME
from exchange.domain import NS_PER_S
from exchange.errors import JournalError, Unavailable
from shard.journal_file import segment_paths
from shard.node_state import load_state, read_note, save_state
from shardex.launcher import NotRunning

KINDS = ("kill", "stop", "tail", "disk", "partition")
LASTS_S = {"kill": 0.0, "stop": 1.3, "tail": 0.2, "disk": 1.5, "partition": 1.7}
"""About how long a fault is under way, on average."""
PAUSE_S = (0.5, 3.0)
"""From the end of a fault to the next."""
ENDED_WITHIN_NS = 5 * NS_PER_S
TORN_BYTES_MAX = 600
OTHER_BOOT = "another-boot"


class Fault(Struct, frozen=True):
    """What was done to whom; `shard` "" = no shard's node. Monotonic begin.

    `part` = the victim's part in the cluster; a primary without a standby in sync is a "lone primary", and nobody may
    take over from it; "node" = the coordinator was away, and could not say who leads.
    """

    kind: str
    victim: str
    part: str
    shard: str
    at_ns: int
    detail: str = ""

    @property
    def what(self) -> str:
        """Kind and part: what is counted together."""
        return f"{self.kind} {self.part}"

    def __str__(self) -> str:
        return f"{self.kind} {self.victim} ({self.part}) {self.detail}".rstrip()


class Faults:
    """Chooses by one seed. Victims: a node as primary or as standby, coordinator, gateway, marketdata, riskd."""

    def __init__(self, cluster: Cluster, kinds: list[str], seed: int) -> None:
        self._cluster = cluster
        self._kinds = kinds
        self._dice = random.Random(seed)  # noqa: S311 - repeatable, not secret

    async def strike(self) -> Fault:
        """One fault; returns when the victim is on its own again. Who ended for good before is started first."""
        await aside(self._cluster.revive)
        kind = self._dice.choice(self._kinds)
        part, victim = await self._victim(only_nodes=kind in ("tail", "disk", "partition"))
        at_ns, detail = monotonic_ns(), ""
        match kind:
            case "kill":
                await aside(self._cluster.signal, victim, signal.SIGKILL)
            case "stop":
                detail = await self._stand_still(victim, self._dice.choice((0.2, 0.6, 1.5, 3.0)))
            case "tail":
                await aside(self.tear, victim, self._dice.randrange(1 << 30))
            case "disk":
                detail = await self._fail_disk(victim)
            case _:
                detail = await self._cut(victim)
        return Fault(kind, victim, part, self._cluster.nodes.get(victim, ""), at_ns, detail)

    def pause_s(self) -> float:
        """How long until the next fault."""
        return self._dice.uniform(*PAUSE_S)

    async def _victim(self, *, only_nodes: bool) -> tuple[str, str]:
        """(part, daemon): parts are equally likely, whatever the number of shards."""
        config = self._cluster.config
        parts = ["primary", "standby"]
        if not only_nodes:
            parts += ["coordinator", "gateway", "marketdata", "riskd"]
        part = self._dice.choice(parts)
        if part in ("primary", "standby"):
            shard = self._dice.choice(self._cluster.shards)
            status = await aside(self._cluster.shard, shard)
            nodes = [node for node, of in self._cluster.nodes.items() if of == shard]
            if status is None or not status.primary:
                return "node", self._dice.choice(nodes)
            victim = next(node for node in nodes if (node == status.primary) == (part == "primary"))
            alone = part == "primary" and len(status.isr) < len(nodes)
            return "lone primary" if alone else part, victim
        names = {
            "coordinator": COORDINATOR_NAME,
            "riskd": RISKD_NAME,
            "gateway": config.gateway.name,
            "marketdata": config.marketdata.name,
        }
        return part, names[part]

    async def _stand_still(self, victim: str, seconds: float) -> str:
        if pid := await aside(self._cluster.signal, victim, signal.SIGSTOP):
            await asyncio.sleep(seconds)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # asks nobody: if the supervisor were late it would stand still for ever
        return f"{seconds:g} s"

    async def _fail_disk(self, victim: str) -> str:
        """Its syncs fail once, or take 100 ms, for a while; who sees an error ends, and is started by an operator."""
        inject = self._dice.choice(("error=EIO:when=1", "delay_exit=100000"))
        try:
            pid = await aside(self._cluster.running.pid, victim)
        except NotRunning:
            return f"{inject}, but it was not running"  # an error of before may only now have ended it
        words = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", f"inject=fdatasync:{inject}"]
        tracer = subprocess.Popen([*words, "-e", "trace=fdatasync"], stderr=subprocess.DEVNULL)
        await asyncio.sleep(1.5)
        tracer.send_signal(signal.SIGINT)
        await aside(tracer.wait)
        return inject

    async def _cut(self, victim: str) -> str:
        """Away from the other node, from the coordinator, or from both, sometimes one way only, for 0.3 to 3 s."""
        network, nodes = self._cluster.network, self._cluster.nodes
        assert network is not None, "partitions need namespaces"
        other = next(node for node in nodes if nodes[node] == nodes[victim] and node != victim)
        one_way = self._dice.random() < 0.3
        lost = self._dice.choice(([other], [COORDINATOR_NAME], [other, COORDINATOR_NAME]))
        seconds = self._dice.uniform(0.3, 3.0)
        for far in lost:
            await aside(lambda far=far: network.cut(far, victim, one_way=one_way))
        await asyncio.sleep(seconds)
        await aside(network.heal)
        return f"{'hears nothing of' if one_way else 'without'} {' and '.join(lost)} for {seconds:.1f} s"

    def tear(self, victim: str, seed: int) -> None:
        """As if the machine had crashed: kill -9, what was not synced is cut or garbled, the boot is another one."""
        dice = random.Random(seed)  # noqa: S311 - as above
        running = self._cluster.running
        pid = self._cluster.signal(victim, signal.SIGSTOP)
        if not pid:
            return
        running.supervisor.stop(victim)  # so that it is not started again before the damage is done
        os.kill(pid, signal.SIGKILL)
        deadline_ns = monotonic_ns() + ENDED_WITHIN_NS
        while monotonic_ns() < deadline_ns:
            states = {process.name: process.state for process in running.supervisor.processes()}
            if states[victim] not in ("RUNNING", "STOPPING", "STARTING"):
                break
            time.sleep(0.02)
        else:
            raise Unavailable(f"{victim} does not end")
        _tear(self._cluster.config.node_directory(victim), dice)
        running.supervisor.start(victim)


def _tear(directory: Path, dice: random.Random) -> None:
    """Damage the end of a journal beyond what is known to be durable."""
    state, paths = load_state(directory), segment_paths(directory)
    if state is None or not paths:
        return
    fragment = Fragment(paths[-1], directory.name, archived=False)
    try:
        for _ in fragment.scan():
            pass
    except JournalError:
        return
    synced_seq = read_note(directory)
    keep = fragment.stop_offset
    unsynced = [place for place, seq in enumerate(fragment.ends) if seq > synced_seq]
    if unsynced:
        keep = dice.randint(fragment.offsets[unsynced[0]], fragment.stop_offset)
    torn = dice.randbytes(dice.randint(0, TORN_BYTES_MAX)) if dice.random() < 0.7 else b""
    with paths[-1].open("r+b") as file:
        file.truncate(keep)
        file.seek(keep)
        file.write(torn)
    save_state(directory, replace(state, boot_id=OTHER_BOOT))
