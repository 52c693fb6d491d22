"""Traces: what nodes noted of their own doing when they ran with SHARDEX_TRACE=1 (shard.trace), one line a deed."""

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from drills.checker.history import HistoryError
from shard.trace import TRACE_FILE


class Note(Struct, frozen=True, gc=False):
    """One deed of a node; kinds and fields as in shard.trace. `at_ns` is monotonic."""

    kind: str
    at_ns: int
    epoch: int = 0
    seq: int = 0
    required: str = ""
    ver: int = 0
    path: Path = Path()
    offset: int = 0


class _Line(Struct):
    kind: Literal["start", "promise", "write", "sync", "ack", "release"]
    at_ns: int
    epoch: int = 0
    seq: int = 0
    required: str = ""
    ver: int = 0


def read_trace(directory: Path) -> list[Note]:
    """All notes of one node, in their order; none where it wrote none. HistoryError when a line cannot be read."""
    path = directory / TRACE_FILE
    if not path.exists():
        return []
    decode = msgspec.json.Decoder(_Line).decode
    notes = []
    offset = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # killed in the middle of a line
        try:
            found = decode(line)
        except msgspec.MsgspecError as fault:
            raise HistoryError(f"{path}, byte {offset}: {fault}") from fault
        notes.append(Note(found.kind, found.at_ns, found.epoch, found.seq, found.required, found.ver, path, offset))
        offset += len(line)
    return notes
