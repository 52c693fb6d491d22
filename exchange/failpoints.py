"""Places where a test can make this process die, stand still, or see its disk fail: the numbered steps of the protocol.

SHARDEX_FAILPOINT=POINT:ACTION[:FILE] arms one point for one strike. POINT is a value of `Point`; ACTION is `exit` (as
by kill -9), `pause_MS`, or `eio` (the call that follows fails as a broken disk does). With FILE the point waits until
that file exists, and removes it when it strikes. Without the variable, passing a point costs one comparison.

`apply:poison_TEXT` is another kind: the engine fails whenever it executes an order whose client order id holds TEXT.
"""

import errno
import os
import re
import signal
import time
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from exchange.errors import ConfigError

VARIABLE = "SHARDEX_FAILPOINT"
_FORM = re.compile(r"(?P<point>[a-z0-9-]+):(?P<action>exit|eio|pause_(?P<ms>[0-9]{1,6}))(:(?P<file>.+))?")
_POISON = re.compile(r"apply:poison_(?P<text>[A-Za-z0-9._-]{1,36})")


class Point(StrEnum):
    """Named by the step of docs/PROTOCOL.md that comes next or has just been done."""

    PROMISE_BEFORE = "promise-before"
    PROMISE_AFTER = "promise-after"
    W4_BEFORE_WRITE = "w4-before-write"
    W5_WRITTEN = "w5-written"
    W5_SENT = "w5-sent"
    W5_APPLIED = "w5-applied"
    W5_SYNCED = "w5-synced"
    W6_BEFORE_WRITE = "w6-before-write"
    W6_WRITTEN = "w6-written"
    W6_APPLIED = "w6-applied"
    W6_SYNCED = "w6-synced"
    W6_BEFORE_ACK = "w6-before-ack"
    W8_BEFORE_RELEASE = "w8-before-release"
    W8_RELEASED = "w8-released"
    ISR_BEFORE_ASK = "isr-before-ask"
    ISR_ASKED = "isr-asked"
    CUT_BEFORE_ARCHIVE = "cut-before-archive"
    CUT_ARCHIVED = "cut-archived"
    CUT_SNAPSHOTS_REMOVED = "cut-snapshots-removed"
    CUT_TRUNCATED = "cut-truncated"
    STATE_WRITTEN = "state-written"
    STATE_ONE_COPY = "state-one-copy"
    FILE_BEFORE_RENAME = "file-before-rename"
    SNAPSHOT_BEFORE_WRITE = "snapshot-before-write"
    SNAPSHOT_RENAMED = "snapshot-renamed"
    HANDOVER_BEFORE_PART = "handover-before-part"
    HANDOVER_RECEIVED = "handover-received"
    REBUILD_MARKED = "rebuild-marked"
    REBUILD_WIPED = "rebuild-wiped"
    REBUILD_PLACED = "rebuild-placed"
    APPLY = "apply"
    COORDINATOR_BEFORE_WRITE = "coordinator-before-write"
    COORDINATOR_AFTER_WRITE = "coordinator-after-write"


class _Armed(NamedTuple):
    point: Point
    action: str
    pause_s: float
    file: Path | None


_armed: _Armed | None = None
_poison = ""


def arm(text: str) -> None:
    """Arm what SHARDEX_FAILPOINT says, "" = nothing. ConfigError when it is not of the form above."""
    global _armed, _poison  # noqa: PLW0603 - one process, one variable of its environment
    _armed, _poison = None, ""
    if not text:
        return
    poison = _POISON.fullmatch(text)
    if poison is not None:
        _poison = poison["text"]
        return
    found = _FORM.fullmatch(text)
    if found is None or found["point"] not in [point.value for point in Point if point is not Point.APPLY]:
        points = ", ".join(Point)
        form = "POINT:exit|eio|pause_MS[:FILE] or apply:poison_TEXT"
        raise ConfigError([f"{VARIABLE} must be {form}, not {text!r}; points are {points}"])
    file = Path(found["file"]) if found["file"] else None
    _armed = _Armed(Point(found["point"]), found["action"], int(found["ms"] or 0) / 1e3, file)


def poison() -> str:
    """What an order's client order id must hold to end the engine that executes it; "" = nothing does."""
    return _poison


def reach(point: Point) -> None:
    """This step is next. OSError when the disk is to fail here."""
    if _armed is not None and _armed.point is point:
        _strike(_armed)


def _strike(armed: _Armed) -> None:
    if armed.file is not None:
        try:
            armed.file.unlink()
        except FileNotFoundError:
            return
    arm("")
    if armed.action == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    if armed.action == "eio":
        raise OSError(errno.EIO, f"failpoint {armed.point}")
    time.sleep(armed.pause_s)
