"""A file of two copies: whatever happens to one of them, wherever a change is interrupted, a whole state is there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange import failpoints
from exchange.errors import JournalError
from exchange.failpoints import Point
from shard.two_copies import BODY_BYTES_MAX, COPY_BYTES, change, read, replace

BODIES = [b"one", b"two, which is longer", b"", b"four"] * 2


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    failpoints.arm("")


def test_the_newest_is_read(path: Path) -> None:
    assert read(path) is None
    replace(path, b"zero")
    assert read(path) == b"zero"
    for body in (*BODIES, b"x" * BODY_BYTES_MAX, b"short again"):
        change(path, body)
        assert read(path) == body
        assert path.stat().st_size == 2 * COPY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("copy", [0, 1])
def test_one_copy_that_rots_costs_nothing(path: Path, copy: int) -> None:
    replace(path, b"zero")
    for body in BODIES:
        change(path, body)
        whole = path.read_bytes()
        for byte in range(len(whole[:COPY_BYTES].rstrip(b"\0"))):
            place = copy * COPY_BYTES + byte
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert read(path) == body
        path.write_bytes(whole)


def test_a_machine_that_dies_in_the_middle_of_a_change_has_the_state_before(path: Path) -> None:
    """What was synced is there, and of what was not any part: the first copy of a change is torn anywhere, the second
    copy of the change before, which nobody has synced yet, is lost."""
    replace(path, b"zero")
    before = b"zero"
    for body in BODIES:
        disk = path.read_bytes()
        changed = interrupted(path, body, Point.STATE_WRITTEN)
        places = [place for place, byte in enumerate(disk) if changed[place] != byte]
        for place in places:
            path.write_bytes(changed[:place] + disk[place:])
            assert read(path) == before
        path.write_bytes(changed)
        assert read(path) == body
        path.write_bytes(disk)
        path.write_bytes(interrupted(path, body, Point.STATE_ONE_COPY))
        assert read(path) == body
        before = body


def test_a_process_that_dies_in_the_middle_of_a_change_leaves_the_state_after(path: Path) -> None:
    """The kernel lives, so what was written is read; the next process makes it durable before it changes anything."""
    for body in BODIES:
        replace(path, b"before")
        for point in (Point.STATE_WRITTEN, Point.STATE_ONE_COPY):
            interrupted(path, body, point)
            assert read(path) == body
        replace(path, b"later")
        assert read(path) == b"later"


def test_what_is_whole_in_neither_copy_is_refused_and_may_be_replaced(path: Path) -> None:
    path.write_bytes(b"\0" * (2 * COPY_BYTES))
    with pytest.raises(JournalError, match="neither copy"):
        read(path)
    replace(path, b"two")
    assert read(path) == b"two"


def interrupted(path: Path, body: bytes, point: Point) -> bytes:
    """The file's content at this point of a change."""
    failpoints.arm(f"{point.value}:eio")
    with pytest.raises(OSError, match="failpoint"):
        change(path, body)
    return path.read_bytes()
