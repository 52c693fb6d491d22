"""What a standby does about a journal that is not a prefix of its primary's: it cuts it, or takes a snapshot (R9).

A snapshot comes part by part: the standby asks for one, keeps it, asks for the next. Either way the process starts
again when it is done.
"""

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.errors import JournalError
from exchange.failpoints import Point, reach
from exchange.process import Log
from exchange.wire import encode
from shard.core.following import Cut
from shard.core.node import Files, Node
from shard.handover import Part, Sink
from shard.rejoin import can_cut
from shard.storage import Storage

ASK_RETRY_NS = 200 * NS_PER_MS
"""Also how often a primary is asked that has to take a snapshot first."""

Leader = tuple[int, m.Member]


class Refill:
    """`done` = the process must start again."""

    def __init__(self, node: Node, storage: Storage, log: Log) -> None:
        self.done = False
        self._node = node
        self._storage = storage
        self._log = log
        self._from: Leader | None = None
        self._sink = Sink(storage.directory)
        self._asked_ns: int | None = None
        self._shown = -1

    def on_cut(self, cut: Cut) -> None:
        """This journal has what the primary's has not, or ends before the primary's begins."""
        if self._from is not None or self.done:
            return
        seq = self._node.replica.position.seq
        if cut.snapshot or not can_cut(self._storage.directory, cut.seq):
            self._log.warning("the primary's snapshot is needed", seq=seq, common_seq=cut.seq)
            self._from = self._leader()
            return
        self._log.warning("cutting records that the primary does not have", seq=seq, common_seq=cut.seq)
        self._storage.cut(cut.seq)
        self.done = True

    def question(self, now_ns: int) -> bytes | None:
        """What to ask the primary now."""
        if self._from is None or self.done:
            return None
        if self._leader() != self._from:
            self.done = True  # it would be the snapshot of another primary; nothing was changed yet
            return None
        if self._asked_ns is not None and now_ns - self._asked_ns < ASK_RETRY_NS:
            return None
        self._asked_ns = now_ns
        epoch, primary = self._from
        return encode(m.SnapshotAsk(epoch, self._node.incarnation, primary.incarnation, *self._sink.wanted))

    def on_part(self, files: Files) -> None:
        """A part came. OSError when the disk fails."""
        part = files.message
        assert isinstance(part, m.SnapshotPart), "questions are for primaries"
        if self._from is None or self.done:
            return
        self._asked_ns = None
        self._show(part)
        try:
            received = self._sink.take(Part(part.seq, part.offset, part.total, files.payload))
        except JournalError as fault:
            self._log.error("the primary's snapshot came damaged, asking again", error=str(fault))
            return
        if received is not None:
            reach(Point.HANDOVER_RECEIVED)
            self._log.warning("starting from the primary's snapshot", snapshot=received.name)
            self._storage.replace(received)
            self.done = True

    def _leader(self) -> Leader | None:
        view, primary = self._node.view, self._node.primary
        return (view.epoch, primary) if view is not None and primary is not None else None

    def _show(self, part: m.SnapshotPart) -> None:
        tenth = 10 * part.offset // max(1, part.total)
        if tenth != self._shown:
            self._shown = tenth
            self._log.info("taking the primary's snapshot", seq=part.seq, percent=10 * tenth, bytes=part.total)
