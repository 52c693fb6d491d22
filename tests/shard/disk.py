"""A stage whose journal is real: for stories about files, without a process."""

from functools import partial
from pathlib import Path

import structlog

from exchange import messages as m
from exchange.domain import Side
from shard.core.journal import Position, SegmentHead
from shard.core.replica import Replica
from shard.journal_file import JournalFile, Place
from shard.node_state import NodeState, SyncedNote, load_state, new_state, save_state
from shard.recovery import Recovered, recover
from tests.shard.stage import BTC, CEILINGS, Stage, order

LOG = structlog.get_logger()


class Disk(Stage):
    """A stage whose journal is real. Each `life` is one process: it opens a term and may die at any moment."""

    def __init__(self, directory: Path, *, segment_bytes: int = 1 << 20, ceilings: m.EngineConfig = CEILINGS) -> None:
        super().__init__(serving=False)
        self.directory = directory
        self.state = load_state(directory) or new_state("s0")
        save_state(directory, self.state)
        self.recovered = recovered(directory, self.state, ceilings=ceilings)
        self.engine = self.recovered.engine
        self.replica = Replica(
            shard="s0",
            node="s0",
            engine=self.engine,
            position=self.recovered.position,
            ring=self.recovered.ring,
        )
        self.note = SyncedNote(directory)
        self.places: list[Place] = []
        self.file = JournalFile(directory, segment_bytes=segment_bytes)
        self.file.open(self.replica.position, partial(self._head, ceilings))
        self.replica.begin_term(self.recovered.position.epoch + 1, 1, [BTC], 10**9)
        self.turn()

    def commit(self) -> bool:
        before = self.replica.position
        record = self.replica.form()
        if record:
            self.places.append(self.file.append(record, before, self.replica.epoch))
            self.replica.on_written()
            self.file.sync()
            self.note.write(self.replica.position.seq)
            self.replica.release(self.replica.position.seq)
        return bool(record)

    def write_only(self, *commands: m.Command) -> int:
        """Die between write and sync; returns the bytes that were written."""
        self.batch(*commands)
        record = self.replica.form()
        self.file.append(record, self.replica.position, self.replica.epoch)
        return len(record)

    def trade(self, number: int) -> None:
        self.batch(*self.pair(number))
        self.turn()

    @staticmethod
    def pair(number: int) -> tuple[m.Submit, m.Submit]:
        """Two orders that meet."""
        return order(2 * number), order(2 * number + 1, Side.SELL, account="bob")

    def _head(self, ceilings: m.EngineConfig, base: Position) -> SegmentHead:
        return SegmentHead("s0", self.state.journal_uuid, "s0", 1, "boot", *base_fields(base), ceilings)


def nobody_waits() -> int:
    """No standby needs any of the journal."""
    return 1 << 62


def base_fields(base: Position) -> tuple[int, int, int, int]:
    return base.seq, base.epoch, base.ts_ns, base.chain


def recovered(directory: Path, state: NodeState | None = None, *, ceilings: m.EngineConfig = CEILINGS) -> Recovered:
    state = state or load_state(directory)
    assert state is not None
    return recover(directory, state, ceilings=ceilings, reference=True, ring_bytes=1 << 20, log=LOG)
