"""A node's own account of what it did, for the checker: only with SHARDEX_TRACE=1, one line a deed in trace.ndjson.

A line is written whole by one call before the deed has any effect elsewhere, so a kill loses nothing that others saw.

kind      epoch, seq
start     the process begins
promise   the term is durable in node.state
write     records up to seq lie in the journal, made in the term or sent by its primary
sync      the journal is durable up to seq
ack       as a standby: everything up to seq is acknowledged in the term
release   as a primary: everything up to seq leaves; `required` = the node whose acknowledgement that needed, "" = none,
          `ver` = version of the shard's record that the primary holds
"""

import os
from pathlib import Path

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.wire import decode_replica

TRACE_FILE = "trace.ndjson"
VARIABLE = "SHARDEX_TRACE"


class Trace:
    """The file; or nothing, which costs one comparison a deed. OSError from any method: the disk failed."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = -1
        if os.environ.get(VARIABLE) == "1":
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(directory / TRACE_FILE, flags, 0o600)
        self._last: dict[str, tuple[int, int]] = {}
        self.note("start")

    def note(self, kind: str, epoch: int = 0, seq: int = 0, required: str = "", ver: int = 0) -> None:
        """Write a line, unless the last one of this kind said the same."""
        if self._descriptor < 0 or self._last.get(kind) == (epoch, seq):
            return
        self._last[kind] = epoch, seq
        line = (
            f'"kind":"{kind}","at_ns":{monotonic_ns()},"epoch":{epoch},"seq":{seq},"required":"{required}","ver":{ver}'
        )
        os.write(self._descriptor, b"{%b}\n" % line.encode())

    def note_sent(self, header: bytes) -> None:
        """A message goes to the primary: an acknowledgement is a deed."""
        if self._descriptor >= 0:
            message = decode_replica(header)
            if isinstance(message, m.Appended):
                self.note("ack", message.epoch, message.last_seq)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
