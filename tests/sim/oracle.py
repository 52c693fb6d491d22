"""Sees everything that leaves and everything that is durable, and objects at once when a rule is broken."""

from typing import TYPE_CHECKING

from coordinator.core.group import Group
from exchange import messages as m
from exchange.wire import decode_published, decode_replica, decode_shard_outbound
from shard.core.journal import Position
from shard.core.log_clock import AHEAD_MAX_NS
from shard.core.node import Role
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from tests.sim.shell import Shell


class Oracle:
    """Knows the truth: what was let go, and what every disk would keep."""

    def __init__(self, world: World, *, relaxed: bool) -> None:
        self.committed: dict[int, int] = {0: 0}
        self.log: list[bytes] = []
        self.committed_seq = 0
        self.group = Group()
        self.leaders: dict[int, tuple[str, int]] = {}
        self.frames: dict[int, bytes] = {}
        self.shells: dict[str, Shell] = {}
        self.running: dict[str, int] = {}
        self.commits = 0
        self.excused: dict[tuple[str, int], None] = {}
        self._world = world
        self._relaxed = relaxed

    # --- the control store ------------------------------------------------------------------------------------------

    def recorded(self, group: Group) -> None:
        """The store holds another record of the shard."""
        before, self.group = self.group, group
        if group.epoch < before.epoch:
            raise Violation("I2", f"term {before.epoch} is followed by {group.epoch}")
        if group.epoch != before.epoch and group.primary[0]:
            known = self.leaders.setdefault(group.epoch, group.primary)
            if known != group.primary:
                raise Violation("I2", f"term {group.epoch} is given to {known} and to {group.primary}")
            nodes = [node for node, _ in before.isr]
            if before.epoch and group.primary[0] not in nodes and not group.unclean:
                raise Violation("I8", f"{group.primary[0]} leads term {group.epoch}, in sync were {nodes}")
        if set(group.isr) != set(before.isr) or group.epoch != before.epoch:
            self._world.tell(f"store: term {group.epoch}, leads {group.primary}, in sync {list(group.isr)}")
            for member in () if group.weighing else group.isr:
                self._expect(member, f"is in the in-sync set of term {group.epoch}", group)

    # --- processes --------------------------------------------------------------------------------------------------

    def began(self, node: str, incarnation: int) -> None:
        self.running[node] = incarnation

    def ended(self, node: str) -> None:
        self.running.pop(node, None)

    def damaged(self, node: str) -> None:
        """Fate took something from this disk that it may take: the session that relied on it is not blamed."""
        self.excused[self.group.current(node)] = None

    def snapshot_of(self, node: str) -> tuple[Position, bytes] | None:
        """What a primary would send of its newest snapshot."""
        return self.shells[node].disk.snapshot

    # --- what leaves ------------------------------------------------------------------------------------------------

    def published(self, shell: "Shell", header: bytes, frame: bytes) -> None:
        """An event frame leaves a node: it must be committed, and is for ever."""
        published = decode_published(header)
        self.released(shell, published.last_seq)
        if self.committed.get(published.last_seq) != shell.disk.ends[published.last_seq]:
            raise Violation("I1", f"{shell.name} lets go another seq {published.last_seq} than was committed")
        self._keep_frame(published.last_seq, frame)

    def answered(self, shell: "Shell", header: bytes, payload: bytes) -> None:
        """Something leaves for a gateway or a consumer."""
        message = decode_shard_outbound(header)
        if isinstance(message, m.Frames | m.Image):
            seq = message.last_seq if isinstance(message, m.Frames) else message.seq
            if seq > self.committed_seq:
                raise Violation("I13", f"{shell.name} shows events up to seq {seq}, committed is {self.committed_seq}")

    def linked(self, shell: "Shell", header: bytes) -> None:
        """A node says something to the other one: in the term that its disk knows as promised, no other (R1)."""
        message = decode_replica(header)
        promised = shell.disk.promised
        if message.epoch > promised or (isinstance(message, m.Appended) and message.epoch < promised):
            what = type(message).__name__
            raise Violation("I9", f"{shell.name} says {what} in term {message.epoch}, its disk has promised {promised}")

    def stamped(self, shell: "Shell", ts_ns: int, *, own: bool) -> None:
        """R15: log time does not run ahead of the path that this process knows by more than the bound."""
        ahead_ns = ts_ns - self._world.now_ns
        if shell.path_ns is None:
            shell.path_ns = ahead_ns
        if own and ahead_ns > shell.path_ns + AHEAD_MAX_NS:
            raise Violation("R15", f"{shell.name} lets log time jump by {(ahead_ns - shell.path_ns) / 1e9:.0f} s")
        shell.path_ns = max(shell.path_ns, ahead_ns)

    def released(self, shell: "Shell", seq: int) -> None:
        """A primary lets go what records up to `seq` did, or may do so from now on."""
        if seq <= self.committed_seq:
            return
        node = shell.node
        if node is None or node.role is not Role.PRIMARY:
            raise Violation("I13", f"standby {shell.name} lets go seq {seq}, committed is {self.committed_seq}")
        ends = shell.disk.ends
        if ends.get(self.committed_seq) != self.committed[self.committed_seq]:
            raise Violation("I1", f"{shell.name} lets go seq {seq}, but does not have seq {self.committed_seq}")
        for last_seq in shell.disk.ends_between(self.committed_seq, seq):
            self.committed[last_seq] = ends[last_seq]
            self.log.append(shell.disk.record_at(last_seq))
        self.committed_seq = seq
        self.commits += 1
        for member in self.group.isr:
            self._expect(member, f"is in sync when {shell.name} lets go seq {seq}", self.group)

    def _keep_frame(self, last_seq: int, frame: bytes) -> None:
        if self.frames.setdefault(last_seq, frame) != frame:
            raise Violation("I13", f"the event frame of seq {last_seq} left in two versions")

    def _expect(self, member: tuple[str, int], why: str, group: Group) -> None:
        """R2: a member of the in-sync set has everything that was let go, as durably as the mode asks."""
        if member in self.excused:
            return
        disk = self.shells[member[0]].disk
        seq = self.committed_seq
        if disk.ends.get(seq) != self.committed[seq]:
            invariant = "I8" if len(group.isr) == 1 else "I10"
            raise Violation(invariant, f"{member[0]} {why}, but its journal does not have seq {seq}")
        if not self._relaxed and disk.durable_seq < seq:
            raise Violation("I10", f"{member[0]} {why}, but only seq {disk.durable_seq} of {seq} is durable there")
