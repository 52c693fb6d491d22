"""Makes the faults of a plan happen."""

from coordinator.core.leadership import SWITCH_WITHIN_NS
from exchange import messages as m
from tests.sim.council import Council
from tests.sim.entry import Client, Gateway
from tests.sim.oracle import Oracle
from tests.sim.plan import LINKS, NODES, Fault
from tests.sim.shell import Shell, Step
from tests.sim.world import MS, Network, World


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
        self._handover = 0, 0

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
        world = self._world
        world.tell(f"-- {fault.kind} {fault.target}, {fault.for_ns // MS} ms")
        if fault.kind in ("block", "echo", "slow"):
            self._disturb(fault)
            return
        shell, other = self._nodes(fault.target)
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
                names = {name for link in LINKS for name in link} - {shell.name}
                peers = sorted(names if fault.number % 2 else names - {"g0", "g1"})
                self._block([pair for peer in peers for pair in ((shell.name, peer), (peer, shell.name))], fault.for_ns)
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
                    self._oracle.damaged(shell.name)
            case "rot":
                if self._may_lose_all(other):
                    self._kill(shell, fault, "a bit of its journal flips")
                    if shell.disk.rot():
                        self._oracle.damaged(shell.name)
            case "clock":
                shell.wall_offset_ns = (fault.number % 7_200_000 - 3_600_000) * MS
                world.tell(f"{shell.name}'s clock jumps to {shell.wall_offset_ns / 1e9:+.0f} s")
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
                self._handover = self._oracle.group.epoch, world.now_ns + SWITCH_WITHIN_NS
                self._council.operate(m.Switch("ops", "s0"))
            case "elect":
                self._council.operate(m.Elect("ops", "s0", shell.name, False))

    def _nodes(self, target: str) -> tuple[Shell, Shell]:
        """Who is meant, and the other one. While nobody leads `leader` is the first of them."""
        leader = self._oracle.group.primary[0] or NODES[0]
        standby = next(name for name in NODES if name != leader)
        name = {"leader": leader, "standby": standby}.get(target, target)
        return self._shells[name], self._shells[standby if name == leader else leader]

    def _disturb(self, fault: Fault) -> None:
        """A way is blocked or slow, or what goes along it comes again later."""
        source, _, target = fault.target.partition(">")
        links = [(one, other) for one in self._named(source) for other in self._named(target)]
        if fault.kind == "block":
            self._block(links, fault.for_ns)
            return
        ways = ", ".join(f"{one}->{other}" for one, other in links)
        self._world.tell(f"{fault.kind}: {ways}, {fault.number // MS} ms later")
        for link in links:
            if fault.kind == "slow":
                self._network.slow(*link, fault.number)
                self._world.after(fault.for_ns, self._network.slow, *link, 0)
                continue
            self._network.echo(*link, fault.number)
            self._world.after(fault.for_ns, self._network.end_echo, *link)

    def _named(self, role: str) -> list[str]:
        match role:
            case "gateways":
                return [gateway.name for gateway in self._gateways]
            case "coordinator":
                return [role]
            case _:
                return [self._nodes(role)[0].name]

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
        """The other node is in sync, well and running, nothing else is wrong, and it is not handing over to this one:
        who has handed over is not in sync before it has joined again."""
        oracle, now_ns = self._oracle, self._world.now_ns
        epoch, until_ns = self._handover
        session, seq = oracle.group.current(other.name), oracle.committed_seq
        well = other.serving and not other.paused and other.doom is None and other.disk.broken_syncs == 0
        undisturbed = self._council.up and not self._council.doomed and not self._network.disturbed
        stays = oracle.group.epoch != epoch or now_ns >= until_ns
        in_sync = session in oracle.group.isr and session not in oracle.excused
        whole = other.disk.ends.get(seq) == oracle.committed[seq] and other.disk.durable_seq >= seq
        return well and undisturbed and stays and whole and in_sync
