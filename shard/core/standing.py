"""A primary's end of the link: what its standby's present incarnation was sent and has acknowledged. Pure."""

from collections import deque
from typing import NamedTuple

from exchange import messages as m
from shard.core.record import decode_head

WINDOW_BYTES_MAX = 4 * 1024 * 1024
"""Records sent to a standby and not acknowledged."""
FETCH_BYTES_MAX = 1024 * 1024


class Fetch(NamedTuple):
    """Read whole records behind `after_seq`, at most `bytes_max` (at least one), and hand them to `on_fetched`."""

    after_seq: int
    bytes_max: int


class Standing:
    """`acked_seq` = it said that it has everything up to here; a fact for as long as term and incarnation last."""

    def __init__(self, peer: bytes, member: m.Member, seq: int) -> None:
        """Its journal is a prefix of ours that ends at `seq`; whether that is durable there is not known yet."""
        self.peer = peer
        self.member = member
        self.sent_seq = seq
        self.acked_seq = 0
        self._window: deque[tuple[int, int]] = deque()
        self._window_bytes = 0
        self._fetching = False

    @property
    def open(self) -> bool:
        """The next record may be sent as it is made."""
        return not self._fetching and self._window_bytes < WINDOW_BYTES_MAX

    def restart(self, seq: int) -> None:
        """Something was lost on the way: send again from behind `seq`."""
        self.sent_seq = seq
        self._window.clear()
        self._window_bytes = 0
        self._fetching = False

    def sent(self, last_seq: int, size: int) -> None:
        """Records up to `last_seq` are on their way."""
        self.sent_seq = last_seq
        if size:
            self._window.append((last_seq, size))
            self._window_bytes += size

    def acked(self, seq: int) -> None:
        """Everything up to `seq` has arrived."""
        self.acked_seq = max(self.acked_seq, seq)
        while self._window and self._window[0][0] <= self.acked_seq:
            self._window_bytes -= self._window.popleft()[1]

    def fetch(self, end_seq: int) -> Fetch | None:
        """What to read from the journal, which ends at `end_seq`, when records were not sent as they were made."""
        if not self.open or self.sent_seq >= end_seq:
            return None
        self._fetching = True
        return Fetch(self.sent_seq, FETCH_BYTES_MAX)

    def fetched(self, records: bytes) -> bool:
        """Whether these records are the ones to send now."""
        awaited, self._fetching = self._fetching, False
        return awaited and bool(records) and decode_head(records).first_seq == self.sent_seq + 1
