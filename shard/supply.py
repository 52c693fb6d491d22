"""What a primary's disk has for its standby: records that it missed, parts of a snapshot when those are gone."""

from pathlib import Path

from exchange import messages as m
from exchange.domain import NS_PER_S
from exchange.errors import JournalError
from exchange.failpoints import Point, reach
from exchange.process import Log
from exchange.wire import encode
from shard.core.node import Files, Node
from shard.core.standing import Fetch
from shard.handover import Source
from shard.journal_file import Place, segment_paths, segment_seq
from shard.journal_reader import JournalReader

PATIENCE_NS = 10 * NS_PER_S
"""A standby that was silent for so long no longer keeps the journal from being cut: it will take a snapshot."""


class Supply:
    """Work for the other node, in steps of some milliseconds at most."""

    def __init__(self, node: Node, directory: Path, log: Log) -> None:
        self._node = node
        self._directory = directory
        self._log = log
        self._reader = JournalReader(directory)
        self._source = Source(directory)
        self._fetch: Fetch | None = None

    @property
    def busy(self) -> bool:
        """`step` has something to do."""
        return self._fetch is not None

    def note(self, place: Place) -> None:
        """The journal has grown."""
        self._reader.note(place)

    def fetch(self, fetch: Fetch) -> None:
        """The node wants records."""
        self._fetch = fetch
        self._reader.ask(fetch.after_seq, fetch.bytes_max)

    def step(self) -> None:
        """Go on with what was asked for last."""
        if self._fetch is None:
            return
        end_seq = self._node.replica.position.seq
        try:
            records = self._reader.step()
            if records is None:
                return
            if not records and self._fetch.after_seq < end_seq:
                raise JournalError(f"the journal cannot be read behind seq {self._fetch.after_seq}")
        except JournalError as fault:
            self._fetch = None
            self._log.critical("records that a standby needs cannot be read, it gets a snapshot", error=str(fault))
            self._node.on_unreadable(end_seq)
            return
        self._fetch = None
        self._node.on_fetched(records, self._reader.last_seq)

    def part(self, files: Files) -> tuple[bytes, bytes, bytes] | None:
        """Answer to a question for a part of a snapshot; None when a snapshot must be taken first."""
        ask = files.message
        assert isinstance(ask, m.SnapshotAsk), "parts are for standbys"
        reach(Point.HANDOVER_BEFORE_PART)
        part = self._source.part(ask.seq, ask.offset, self._node.oldest_seq)
        if part is None:
            return None
        header = m.SnapshotPart(ask.epoch, ask.target, ask.sender, part.seq, part.offset, part.total)
        return files.peer, encode(header), part.payload

    def needed_seq(self, now_ns: int) -> int:
        """The journal behind this seq is still needed by the standby."""
        node = self._node
        end_seq = node.replica.position.seq
        waits_for_it = node.lag >= 0 and now_ns - node.heard_ns < PATIENCE_NS
        return end_seq - node.lag if waits_for_it else end_seq

    def on_removed(self) -> None:
        """Old segments may be gone."""
        paths = segment_paths(self._directory)
        if paths:
            self._node.oldest_seq = max(self._node.oldest_seq, segment_seq(paths[0]))
            self._reader.forget_below(segment_seq(paths[0]))

    def close(self) -> None:
        """Let go of files."""
        self._source.close()
