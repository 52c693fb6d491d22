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


def traced_bytes(directory: Path) -> int:
    """How much of its doing a node has noted by now."""
    path = directory / TRACE_FILE
    return path.stat().st_size if path.exists() else 0


def read_trace(directory: Path, judged_bytes: int) -> list[Note]:
    """All notes of one node, in their order; none where it wrote none. HistoryError when a line cannot be read.

    Releases behind `judged_bytes` are left out. What they stood on may have been noted by another node after its trace
    was read; with the `traced_bytes` of a time before any trace was read it cannot.
    """
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
        if found.kind != "release" or offset < judged_bytes:
            notes.append(Note(found.kind, found.at_ns, found.epoch, found.seq, found.required, found.ver, path, offset))
        offset += len(line)
    return notes
