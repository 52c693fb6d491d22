"""The native engine: Rust, built from shard/native. docs/PROTOCOL.md section 1 says what each method means."""

from typing import final

@final
class Engine:
    """One shard's matching state.

    Hostile input raises ValueError and changes nothing. A fault of the engine itself is a panic (BaseException); after
    one every method but `admit` raises RuntimeError: the state may be half changed and the process has to end.
    end.
    """

    def __init__(self, config: bytes) -> None:
        """`config` is a MessagePack EngineConfig; ValueError when it is malformed or a ceiling is out of range."""

    def admit(self, payload: bytes, allowed: int) -> int:
        """Static check of a MessagePack array of commands; how many there are. ValueError names the fault."""

    def apply(self, record: bytes) -> bytes:
        """Execute one journal record and return its outcome. ValueError changes nothing."""

    def snapshot(self) -> bytes:
        """Canonical state. O(state)."""

    def restore(self, snapshot: bytes) -> None:
        """Replace all state by what `snapshot` wrote. ValueError changes nothing. For a moment both states are held."""

    def digest(self) -> int:
        """64 bits of the SHA-256 of the snapshot. O(state)."""

    def trail(self) -> int:
        """Rolling CRC-32 over every outcome so far. O(1)."""

    def image(self) -> bytes:
        """An EventFrame of everything that is. O(state)."""

    def book(self, instrument: int) -> bytes:
        """MessagePack `[bids, asks]` with every order. ValueError when the instrument is not defined."""

    def seq(self) -> int: ...
    def epoch(self) -> int: ...
    def ts(self) -> int: ...
    def orders(self) -> int: ...
