"""A small file that is changed in place and survives any crash: two copies, of which one is durable at any moment.

To overwrite blocks that the file has already needs no change of the file system's own books, so one `fdatasync` waits
for these blocks alone. A file that is written aside and renamed needs two syncs, and each waits for whatever else the
file system is just writing down: three to ten times as long here, and more when the disk is busy.

Copy number `generation % 2` is written and synced first, then the other one, which the next sync makes durable. So a
generation begins by overwriting the copy that its predecessor wrote second, and the durable one stays until it is done.
One copy that is torn, or rots, costs nothing. An unsynced second copy is the one thing that a crash of the machine may
take. Nobody can know of a file that he finds whether that is so, nor what is on the disk after a sync that failed:
a process begins with `replace`, which makes both copies durable, and after a failure it must not `change` again.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from exchange.errors import JournalError
from exchange.failpoints import Point, reach
from shard.files import replace_durably

COPY_BYTES = 16 * 1024
"""Room of one copy, a whole number of blocks."""
_HEAD = b"generation %016d, %05d bytes, crc %08x\n"
_FORM = re.compile(rb"generation (\d{16}), (\d{5}) bytes, crc ([0-9a-f]{8})\n")
_HEAD_BYTES = len(_HEAD % (0, 0, 0))
BODY_BYTES_MAX = COPY_BYTES - _HEAD_BYTES


class _Copy(NamedTuple):
    generation: int
    body: bytes


def read(path: Path) -> bytes | None:
    """The newest body; None when there is no file. JournalError when neither copy is whole."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    newest = _newest(content)
    if newest is None:
        raise JournalError(f"{path}: crc of neither copy is that of its content")
    return newest.body


def replace(path: Path, body: bytes) -> None:
    """Another file in the place of this one, if it is there. Durable when it returns: two syncs, of names too.

    OSError when the disk fails; what was there before is then still there.
    """
    copy = _encoded(_Copy(0, body)).ljust(COPY_BYTES, b"\0")
    replace_durably(path, copy + copy)


def change(path: Path, body: bytes) -> None:
    """The same file with another body. Durable when it returns: one sync. It must have been replaced by this process.

    OSError when the disk fails: what was there before is still there, and `replace` may be tried.
    """
    newest = _newest(path.read_bytes())
    assert newest is not None, "this process has made it"
    copy = _Copy(newest.generation + 1, body)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        place = copy.generation % 2
        _put(descriptor, place, copy)
        reach(Point.STATE_WRITTEN)
        os.fdatasync(descriptor)
        reach(Point.STATE_ONE_COPY)
        _put(descriptor, 1 - place, copy)
    finally:
        os.close(descriptor)


def _put(descriptor: int, place: int, copy: _Copy) -> None:
    encoded = _encoded(copy)
    assert os.pwrite(descriptor, encoded, place * COPY_BYTES) == len(encoded), "a file with room is written whole"


def _encoded(copy: _Copy) -> bytes:
    assert len(copy.body) <= BODY_BYTES_MAX, "what is kept here is bounded"
    return _HEAD % (copy.generation, len(copy.body), _crc(copy)) + copy.body


def _crc(copy: _Copy) -> int:
    return crc32(copy.body, copy.generation & 0xFFFFFFFF)


def _newest(content: bytes) -> _Copy | None:
    copies = [_decoded(content[place * COPY_BYTES : (place + 1) * COPY_BYTES]) for place in range(2)]
    return max((copy for copy in copies if copy is not None), default=None)


def _decoded(content: bytes) -> _Copy | None:
    """None when it is not whole."""
    head = _FORM.match(content)
    if head is None:
        return None
    copy = _Copy(int(head[1]), content[_HEAD_BYTES : _HEAD_BYTES + int(head[2])])
    return copy if len(copy.body) == int(head[2]) and _crc(copy) == int(head[3], 16) else None
