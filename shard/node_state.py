"""What a replica remembers besides its journal: its lock, `node.state` and the `synced` note.

`node.state` holds promises and marks; it changes a few times in a process's life and survives any crash. The `synced`
note says up to where the journal was made durable; it changes with every record, costs a store into mapped memory and
no system call, and survives the death of the process but not always that of the machine: it is a lower bound.
"""

import fcntl
import mmap
import os
import time
import uuid
from functools import cache
from pathlib import Path
from struct import Struct as Layout
from zlib import crc32

import msgspec

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S
from exchange.errors import ConfigError, JournalError
from shard import two_copies
from shard.core.poison import Poison

STATE_FILE = "node.state"
LOCK_WAIT_NS = 1 * NS_PER_S
LOCK_RETRY_S = 0.02
_LOCK_FILE = "lock"
_NOTE_FILE = "synced"
_NOTE = Layout("<QI")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NodeState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Durable facts of one replica.

    `clean_seq`: the journal ended at this seq when the process stopped in good order. `suspect_seq`: a write or sync
    failed, and only what is at or below this seq is known to be on the disk. -1 = not so. `rebuilding`: the journal is
    just being replaced; whatever of it is there counts for nothing. `view_ver`: newest version of the shard's metadata
    that was seen; a control store that is older has gone back in time. `skip`: commands that are left out wherever the
    log is executed, as the newest view said. `poison`: the record that ended the last process (rule R14).
    """

    shard: str
    journal_uuid: str
    promised_epoch: int = 0
    incarnation: int = 0
    boot_id: str = ""
    clean_seq: int = -1
    suspect_seq: int = -1
    rebuilding: bool = False
    view_ver: int = 0
    skip: tuple[int, ...] = ()
    poison: Poison | None = None


class NodeLock:
    """Only one process may have a replica's directory; the lock ends with the process."""

    def __init__(self, directory: Path) -> None:
        """Waits a moment for a process that is just ending; ConfigError when another one stays."""
        self._file = (directory / _LOCK_FILE).open("a+")
        give_up_ns = monotonic_ns() + LOCK_WAIT_NS
        while not self._acquired():
            if monotonic_ns() > give_up_ns:
                self._file.seek(0)
                owner = self._file.read(32).strip() or "unknown"
                self._file.close()
                raise ConfigError([f"directory {directory} is in use by process {owner}; one process may have it"])
            time.sleep(LOCK_RETRY_S)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def close(self) -> None:
        """Let go of the directory."""
        self._file.close()

    def _acquired(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def is_locked(directory: Path) -> bool:
    """A process has this directory right now. Changes nothing."""
    try:
        with (directory / _LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def load_state(directory: Path) -> NodeState | None:
    """Read `node.state`; None when there is none. JournalError when it is damaged."""
    path = directory / STATE_FILE
    body = two_copies.read(path)
    try:
        return msgspec.json.decode(body, type=NodeState) if body is not None else None
    except msgspec.MsgspecError as fault:
        raise JournalError(f"{path}: {fault}") from fault


def save_state(directory: Path, state: NodeState) -> None:
    """Durable when it returns. OSError when the disk fails; the old state is then still there."""
    two_copies.replace(directory / STATE_FILE, _encoded(state))


def change_state(directory: Path, state: NodeState) -> None:
    """As `save_state`, in about a third of the time, for a process that has saved it and seen no disk fail since."""
    two_copies.change(directory / STATE_FILE, _encoded(state))


def _encoded(state: NodeState) -> bytes:
    return msgspec.json.format(msgspec.json.encode(state)) + b"\n"


def new_state(shard: str) -> NodeState:
    """State of a replica that has no journal yet."""
    return NodeState(shard, uuid.uuid4().hex)


def new_journal(state: NodeState) -> NodeState:
    """The same replica, with its promises, and an empty journal of another name."""
    changes = {"journal_uuid": uuid.uuid4().hex, "clean_seq": -1, "suspect_seq": -1, "rebuilding": False}
    return msgspec.structs.replace(state, **changes)


class SyncedNote:
    """The mapped note; `write` after each sync of the journal."""

    def __init__(self, directory: Path) -> None:
        descriptor = os.open(directory / _NOTE_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size != _NOTE.size:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, bytes(_NOTE.size), 0)
            self._map = mmap.mmap(descriptor, _NOTE.size)
        finally:
            os.close(descriptor)

    def write(self, seq: int) -> None:
        """Everything up to `seq` is durable."""
        _NOTE.pack_into(self._map, 0, seq, crc32(seq.to_bytes(8, "little")))

    def lower(self, seq: int) -> None:
        """What is behind `seq` no longer counts; durable when it returns."""
        self.write(seq)
        self._map.flush()

    def close(self) -> None:
        """Unmap; the file stays."""
        self._map.close()


def read_note(directory: Path) -> int:
    """The seq of the note; 0 when it is missing or was hit in the middle of a store."""
    try:
        note = (directory / _NOTE_FILE).read_bytes()
    except FileNotFoundError:
        return 0
    if len(note) != _NOTE.size:
        return 0
    seq: int
    seq, crc = _NOTE.unpack(note)
    return seq if crc == crc32(seq.to_bytes(8, "little")) else 0


@cache
def boot_id() -> str:
    """Identity of the running kernel's life; empty where the system has none."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
