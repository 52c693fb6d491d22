"""A standby's end of the link: which of the primary's records follow what the journal has. Pure."""

from collections import deque

from shard.core.journal import Position, advance
from shard.core.record import check_body, decode_head


class Intake:
    """Records that were received and are not written yet. `tail` = where the journal will stand behind them.

    `leader` = (term, incarnation) of the primary that this journal is a prefix of; (0, 0) = not joined to anybody.
    """

    def __init__(self, tail: Position) -> None:
        self.tail = tail
        self.leader = (0, 0)
        self._queue: deque[tuple[bytes, Position]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def joined(self) -> bool:
        return self.leader != (0, 0)

    def reset(self, tail: Position) -> None:
        """Another primary: forget what was received and not written."""
        self.tail = tail
        self.leader = (0, 0)
        self._queue.clear()

    def take(self, records: bytes) -> None:
        """Queue those records that follow what is queued. ValueError leaves what was good in the queue."""
        offset = 0
        while offset < len(records):
            head = decode_head(records, offset)
            record = records[offset : offset + head.record_bytes]
            offset += head.record_bytes
            if head.last_seq <= self.tail.seq:
                continue
            check_body(head, record)
            after = advance(self.tail, head, record)
            self._queue.append((record, after))
            self.tail = after

    def drain(self) -> list[tuple[bytes, Position]]:
        """Everything received, with the position behind each record."""
        drained = list(self._queue)
        self._queue.clear()
        return drained
