"""What goes wrong in one run: a list that the seed draws before anything happens, so that a story can be shortened."""

from random import Random

from msgspec import Struct

from exchange import messages as m
from tests.sim.council import Council
from tests.sim.entry import Client, Gateway
from tests.sim.oracle import Oracle
from tests.sim.shell import Shell, Step
from tests.sim.world import MS, Network, World

NODES = ("a", "b")
LINKS = [("a", "b"), ("b", "a"), ("a", "coordinator"), ("coordinator", "a"), ("b", "coordinator"), ("coordinator", "b")]
LINKS += [(gateway, node) for gateway in ("g0", "g1") for node in NODES]
LINKS += [(node, gateway) for gateway in ("g0", "g1") for node in NODES]


class Fault(Struct, frozen=True):
    """At `at_ns` `kind` happens to `target`; `for_ns` later it is over. `number` settles the rest."""

    at_ns: int
    kind: str
    target: str
    for_ns: int
    number: int

    def __str__(self) -> str:
        return f"{self.at_ns / 1e6:8.1f} ms  {self.kind} {self.target} for {self.for_ns / 1e6:.0f} ms ({self.number})"


KINDS = {
    "kill": 6,
    "kill at step": 6,
    "stop machine": 5,
    "stop machine at step": 5,
    "pause": 4,
    "cut": 6,
    "cut one way": 6,
    "isolate": 4,
    "break sync": 2,
    "replace disk": 3,
    "rot": 2,
    "clock": 2,
    "kill coordinator": 3,
    "lose store answers": 3,
    "kill gateway": 2,
    "switch": 3,
    "elect": 3,
    "lull": 3,
    "kill both": 2,
}
"""How often each kind comes, relatively. Each run uses some of them only: what is rare in a mixture is common alone."""


def draw(dice: Random, until_ns: int) -> list[Fault]:
    """The faults of one run, in order of time."""
    kinds = [kind for kind in KINDS if dice.random() < 0.5] or ["kill"]
    weights = [KINDS[kind] for kind in kinds]
    gap_ns = dice.choice((100, 250, 600)) * MS
    faults: list[Fault] = []
    at_ns = 300 * MS
    while at_ns < until_ns:
        kind = dice.choices(kinds, weights)[0]
        for_ns = dice.choice((5, 30, 120, 350, 800, 1_500)) * MS
        faults.append(Fault(at_ns, kind, dice.choice(NODES), for_ns, dice.randrange(1 << 30)))
        if dice.random() < 0.3:
            at_ns += dice.randrange(1 * MS, 20 * MS)  # soon another one, while the first still works
        else:
            at_ns += dice.randrange(1, 2 * gap_ns)
    return faults


class Fate:
    """Makes faults happen. What would take the last copy of something is left out: no protocol survives that."""

    def __init__(
        self,
        world: World,
        network: Network,
        oracle: Oracle,
        *,
        shells: dict[str, Shell],
        council: Council,
        gateways: list[Gateway],
        clients: list[Client],
        relaxed: bool,
    ) -> None:
        self.over = False
        self._world = world
        self._network = network
        self._oracle = oracle
        self._shells = shells
        self._council = council
        self._gateways = gateways
        self._clients = clients
        self._relaxed = relaxed
        self._hurt: dict[str, bool] = {}

    def plan(self, faults: list[Fault]) -> None:
        for fault in faults:
            self._world.after(fault.at_ns, self._happen, fault)

    def heal(self) -> None:
        """Everything that is broken is mended, once and for all."""
        self.over = True
        self._network.heal()
        for shell in self._shells.values():
            shell.doom = None
            shell.disk.broken_syncs = 0
            shell.resume()
            shell.start()
        self._council.store.lost = 0
        self._council.doomed = False
        self._council.start()
        for gateway in self._gateways:
            gateway.start()

    def _happen(self, fault: Fault) -> None:
        if self.over or self._is_critical():
            return
        world, shell = self._world, self._shells[fault.target]
        other = self._shells["b" if fault.target == "a" else "a"]
        world.tell(f"-- {fault.kind} {fault.target}, {fault.for_ns // MS} ms")
        match fault.kind:
            case "kill":
                self._kill(shell, fault, "kill -9")
            case "kill both":
                self._kill(shell, fault, "kill -9")
                self._kill(other, fault, "kill -9")
            case "kill at step" if shell.doom is None:
                shell.doom = list(Step)[fault.number % len(Step)]
                shell.down_ns = fault.for_ns
            case "stop machine":
                if self._may_lose_tail(other):
                    self._kill(shell, fault, "its machine stops")
                    if fault.number % 2:
                        self._block([(other.name, shell.name)], fault.for_ns + 200 * MS)
                    shell.stop_machine()
                    self._hurt[shell.name] = True
            case "stop machine at step":
                if shell.doom is None and self._may_lose_tail(other):
                    shell.doom, shell.doom_stops_machine = list(Step)[fault.number % len(Step)], True
                    shell.down_ns = fault.for_ns
                    self._hurt[shell.name] = True
            case "pause":
                if shell.up and not shell.paused:
                    shell.pause()
                    world.after(fault.for_ns, shell.resume)
            case "cut" | "cut one way":
                link = LINKS[fault.number % len(LINKS)]
                self._block([link] if fault.kind == "cut one way" else [link, link[::-1]], fault.for_ns)
            case "isolate":
                names = {name for link in LINKS for name in link} - {fault.target}
                peers = sorted(names if fault.number % 2 else names - {"g0", "g1"})
                self._block(
                    [pair for peer in peers for pair in ((fault.target, peer), (peer, fault.target))], fault.for_ns
                )
            case "break sync":
                if self._may_lose_tail(other):
                    shell.disk.broken_syncs = 1
                    shell.down_ns = fault.for_ns
                    self._hurt[shell.name] = True
            case "replace disk":
                if self._may_lose_all(other):
                    self._kill(shell, fault, "its disk is replaced")
                    if fault.number % 2:
                        self._block([(other.name, shell.name)], fault.for_ns + 200 * MS)
                    shell.disk.wipe()
                    shell.disk.promised = 0
                    self._oracle.damaged(fault.target)
            case "rot":
                if self._may_lose_all(other):
                    self._kill(shell, fault, "a bit of its journal flips")
                    if shell.disk.rot():
                        self._oracle.damaged(fault.target)
            case "clock":
                shell.wall_offset_ns = (fault.number % 7_200_000 - 3_600_000) * MS
                world.tell(f"{fault.target}'s clock jumps to {shell.wall_offset_ns / 1e9:+.0f} s")
            case "kill coordinator":
                self._council.doomed = fault.number % 2 == 0
                if not self._council.doomed:
                    self._council.die("kill -9")
                world.after(fault.for_ns, self._council.start)
                world.after(fault.for_ns + 200 * MS, self._council.start)
            case "lose store answers":
                self._council.store.lost = 1 + fault.number % 3
            case "kill gateway":
                gateway = self._gateways[fault.number % len(self._gateways)]
                gateway.die()
                world.after(fault.for_ns, gateway.start)
            case "lull":
                for client in self._clients:
                    client.rest(fault.for_ns)
            case "switch":
                self._council.operate(m.Switch("ops", "s0"))
            case "elect":
                self._council.operate(m.Elect("ops", "s0", fault.target, False))

    def _kill(self, shell: Shell, fault: Fault, why: str) -> None:
        shell.down_ns = fault.for_ns
        shell.die(why)

    def _block(self, links: list[tuple[str, str]], for_ns: int) -> None:
        self._world.tell(f"cut: {', '.join(f'{source}->{target}' for source, target in links)} for {for_ns // MS} ms")
        for link in links:
            self._network.block(*link)
            self._world.after(for_ns, self._network.unblock, *link)

    def _is_critical(self) -> bool:
        """A session whose disk was damaged is still recorded as in sync: one more fault could take the last copy."""
        return any(session in self._oracle.excused for session in self._oracle.group.isr)

    def _may_lose_tail(self, other: Shell) -> bool:
        """In the mode `both` always. `replicated` survives one such loss at a time."""
        disks = [shell.disk for shell in self._shells.values()]
        if len(self._oracle.group.isr) == 2 and all(
            disk.durable_seq >= self._oracle.committed_seq and not disk.broken_syncs for disk in disks
        ):
            self._hurt.clear()
        return not self._relaxed or not self._hurt.get(other.name)

    def _may_lose_all(self, other: Shell) -> bool:
        """The other node is in sync, well and running, and nothing else is wrong."""
        oracle = self._oracle
        session, seq = oracle.group.current(other.name), oracle.committed_seq
        well = other.serving and not other.paused and other.doom is None and other.disk.broken_syncs == 0
        undisturbed = self._council.up and not self._council.doomed and not self._network.disturbed
        whole = other.disk.ends.get(seq) == oracle.committed[seq] and other.disk.durable_seq >= seq
        return well and undisturbed and whole and session in oracle.group.isr and session not in oracle.excused
