"""A shard of two real nodes with a coordinator that a test steers, and the supervisor's one duty: starting again."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from exchange import config as configuration
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS, Side
from exchange.failpoints import Point
from exchange.process import EXIT_POISON, EXIT_RESTART
from shard.core.journal import consume, scan
from shard.journal_file import open_segment, open_segments, segment_paths, segment_seq
from shard.rejoin import divergent_paths
from shard.snapshot_file import snapshot_paths
from tests.shard.peers import PATIENCE_NS, Coordinator, Gateway, Place, order, short_directory

T = TypeVar("T")
A, B = "s0-a", "s0-b"
NOTHING: Mapping[str, Any] = MappingProxyType({})
SHRINK_MS = 3_000
"""A node that is kept from running or waits for its disk is not dropped for that; of deaths the coordinator tells."""
PATIENT = configuration.Replication(shrink_ms=SHRINK_MS)


class Pair(Place):
    """Nodes s0-a and s0-b. A process that asks for a new start gets one while somebody waits for something."""

    def __init__(self, root: Path, *, replication: configuration.Replication = PATIENT, **journal: int) -> None:
        super().__init__(root, replication=replication, replicas=2, **journal)
        self.lives: dict[str, subprocess.Popen[bytes]] = {}
        self.restarts: list[str] = []
        self._brittle: dict[str, str] = {}
        self._gateways = 0
        self._silent_ns = 0

    @property
    def led(self) -> Coordinator:
        """The coordinator, which is there."""
        assert self.coordinator is not None
        return self.coordinator

    @property
    def primary(self) -> str:
        """Name of the node that leads."""
        return self.led.group.primary[0]

    @property
    def standby(self) -> str:
        """Name of the other one."""
        return B if self.primary == A else A

    def start(self, node: str, *, failpoint: str = "", launcher: list[str] | None = None) -> subprocess.Popen[bytes]:
        """A failpoint strikes in one process, except for an engine that fails: that is so in every life of the node."""
        if failpoint.startswith(Point.APPLY):
            self._brittle[node] = failpoint
        failpoint = failpoint or self._brittle.get(node, "")
        self.lives[node] = self.start_shard(launcher, node=node, failpoint=failpoint)
        return self.lives[node]

    def start_both(
        self, *, failpoints: Mapping[str, str] = NOTHING, launchers: Mapping[str, list[str]] = NOTHING
    ) -> None:
        """s0-a leads, s0-b is in sync."""
        self.start_coordinator()
        self.start(A, failpoint=failpoints.get(A, ""), launcher=launchers.get(A))
        self.until_serving(A)
        self.start(B, failpoint=failpoints.get(B, ""), launcher=launchers.get(B))
        self.until_paired()

    def until(self, found: Callable[[], T]) -> T:
        def found_or_restart() -> T:
            for node, process in list(self.lives.items()):
                if process.poll() in (EXIT_RESTART, EXIT_POISON):
                    self.restarts.append(node)
                    self.start(node)
            return found()

        return super().until(found_or_restart)

    def mend(self, node: str) -> None:
        """From the next start on its engine runs everything."""
        del self._brittle[node]

    def mode(self, node: str) -> str:
        """What a node says that it is."""
        said = self.led.said(node)
        return str(said.stats["mode"]) if said is not None else ""

    def deaf_for(self, milliseconds: int) -> bool:
        """A while without a coordinator has passed."""
        self._silent_ns = self._silent_ns or monotonic_ns()
        return monotonic_ns() - self._silent_ns > milliseconds * NS_PER_MS

    def until_serving(self, node: str) -> None:
        """This node leads and takes orders."""

        def serving() -> bool:
            said = self.led.said(node)
            return said is not None and said.ready and said.stats["role"] == "primary" and self.primary == node

        self.until(serving)

    def until_paired(self) -> None:
        """Both are in sync, and both know it."""

        def paired() -> bool:
            first, second = self.led.said(self.primary), self.led.said(self.standby)
            if first is None or second is None or len(self.led.isr) < 2:
                return False
            return first.stats["mode"] == "paired" and second.stats["mode"] == "standby" and second.ready

        self.until(paired)

    def until_even(self) -> None:
        """Both say the same of the same record, one of after this call; orders must have stopped.

        Two last words are seldom of the same moment, so all are compared: each node says many a seq.
        """
        begun_ns = monotonic_ns()

        def trails(node: str) -> dict[int, int]:
            session = self.led.group.current(node)
            fresh = [beat for beat in self.led.beats if (beat.name, beat.incarnation) == session]
            return {beat.stats["last_seq"]: beat.stats["trail"] for beat in fresh if beat.sent_ns >= begun_ns}

        def even() -> bool:
            first, second = trails(A), trails(B)
            common = first.keys() & second.keys()
            assert all(first[seq] == second[seq] for seq in common)
            return bool(common)

        self.until(even)

    def until_whole(self) -> None:
        """Both are in the set. It changes only while somebody waits, so what comes next finds it so."""
        self.until(lambda: len(self.led.isr) == 2)

    def freeze(self, node: str) -> None:
        """SIGSTOP; it runs no more when this returns."""
        process = self.lives[node]
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def kill_primary(self) -> None:
        """kill -9 of a primary whose standby is in sync, and stays so until there is a failover."""
        self.until_whole()
        self.kill_node(self.primary)

    def kill_node(self, node: str) -> None:
        """kill -9, and the coordinator learns of it."""
        self.kill(self.lives.pop(node))
        self.led.bury(node)

    def leave_behind(self, node: str, *, failpoint: str = "") -> None:
        """This node dies. The other one starts anew, so that it never heard of it and keeps no records for it."""
        other = A if node == B else B
        self.kill_node(node)
        self.until(lambda: self.led.isr == [other])
        self.kill_node(other)
        self.start(other, failpoint=failpoint)
        self.until_serving(other)

    def fail_over(self) -> str:
        """The other node leads; its name."""
        self.led.fail_over()
        self.until_serving(self.primary)
        return self.primary

    def door(self) -> Gateway:
        """A gateway that is connected to the primary of now."""
        self._gateways += 1
        return self.gateway(f"gw{self._gateways}", node=self.primary)

    def records(self, node: str) -> dict[int, bytes]:
        """The journal of a node by the first seq of each record."""
        found: dict[int, bytes] = {}
        segments = open_segments(self.config.node_directory(node))
        consume(scan(segments), lambda entry: found.__setitem__(entry.head.first_seq, entry.record))
        return found

    def oldest(self, node: str) -> int:
        """The journal of a node begins behind this seq."""
        return segment_seq(segment_paths(self.config.node_directory(node))[0])

    def snapshots(self, node: str) -> list[Path]:
        return snapshot_paths(self.config.node_directory(node))

    def divergent(self, node: str) -> dict[int, bytes]:
        """What was archived, in the same form."""
        found: dict[int, bytes] = {}
        for path in divergent_paths(self.config.node_directory(node)):
            consume(scan([open_segment(path)]), lambda entry: found.__setitem__(entry.head.first_seq, entry.record))
        return found


@contextmanager
def open_pair(**settings: Any) -> Iterator[Pair]:
    """A pair in a directory of its own."""
    with short_directory() as root:
        pair = Pair(root, replication=configuration.Replication(**{"shrink_ms": SHRINK_MS, **settings}))
        try:
            yield pair
        finally:
            pair.close()


def trade(gateway: Gateway, number: int, *, count: int = 10) -> dict[str, m.Executed]:
    """Acknowledged orders, both sides, by client order id. What was refused was not executed and is sent again."""
    batch = [order(count * number + one, Side(one % 2), 100 + one % 3) for one in range(count)]
    answers: dict[str, m.Executed] = {}
    said = gateway.wait(gateway.send(*batch))
    give_up_ns = monotonic_ns() + PATIENCE_NS
    while isinstance(said, m.Refused):
        assert monotonic_ns() < give_up_ns, said
        said = gateway.wait(gateway.send(*batch))
    for command, reply in zip(batch, said, strict=True):
        assert isinstance(reply, m.Executed)
        answers[command.client_order_id] = reply
    return answers


def resend(gateway: Gateway, number: int, first: dict[str, m.Executed], *, count: int = 10) -> None:
    """The same orders again: each has the answer that it had."""
    for client_order_id, reply in trade(gateway, number, count=count).items():
        before = first[client_order_id]
        assert reply.duplicate
        assert (reply.seq, reply.epoch, reply.order_id, reply.fills) == (
            before.seq,
            before.epoch,
            before.order_id,
            before.fills,
        )
