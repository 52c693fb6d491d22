"""Names and contents of files that any crash leaves whole."""

import os
from pathlib import Path

from exchange.failpoints import Point, reach


def replace_durably(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that after any crash the old or the new file is there, whole."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb", opener=_open_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    reach(Point.FILE_BEFORE_RENAME)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make created, renamed and removed names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
