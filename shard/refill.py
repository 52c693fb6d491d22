"""A standby that is too far behind takes its primary's snapshot: it asks for a part, keeps it, asks for the next."""

from pathlib import Path

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.errors import JournalError
from exchange.failpoints import Point, reach
from exchange.process import Log
from exchange.wire import encode
from shard.core.node import Files, Node
from shard.handover import Part, Sink

ASK_RETRY_NS = 200 * NS_PER_MS
"""Also how often a primary is asked that has to take a snapshot first."""


class Refill:
    """From one primary in one term; `over` when there is another by now."""

    def __init__(self, node: Node, directory: Path, log: Log) -> None:
        self._node = node
        self._log = log
        self._sink = Sink(directory)
        self._from = self._leader()
        self._asked_ns: int | None = None
        self._shown = -1

    @property
    def over(self) -> bool:
        """The snapshot would be that of another primary than the one that told us to take it."""
        return self._leader() != self._from

    def question(self, now_ns: int) -> bytes | None:
        """What to ask the primary now."""
        if self._from is None or (self._asked_ns is not None and now_ns - self._asked_ns < ASK_RETRY_NS):
            return None
        self._asked_ns = now_ns
        epoch, primary = self._from
        return encode(m.SnapshotAsk(epoch, self._node.incarnation, primary.incarnation, *self._sink.wanted))

    def take(self, files: Files) -> Path | None:
        """A part came; the file with the whole snapshot when it was the last. OSError when the disk fails."""
        part = files.message
        assert isinstance(part, m.SnapshotPart), "questions are for primaries"
        self._asked_ns = None
        self._show(part)
        try:
            received = self._sink.take(Part(part.seq, part.offset, part.total, files.payload))
        except JournalError as fault:
            self._log.error("the primary's snapshot came damaged, asking again", error=str(fault))
            return None
        if received is not None:
            reach(Point.HANDOVER_RECEIVED)
        return received

    def _leader(self) -> tuple[int, m.Member] | None:
        view, primary = self._node.view, self._node.primary
        return (view.epoch, primary) if view is not None and primary is not None else None

    def _show(self, part: m.SnapshotPart) -> None:
        tenth = 10 * part.offset // max(1, part.total)
        if tenth != self._shown:
            self._shown = tenth
            self._log.info("taking the primary's snapshot", seq=part.seq, percent=10 * tenth, bytes=part.total)
