"""One face over two engines: the native one (Rust, `shard._matching`) and the reference one (plain Python).

They are equal byte for byte, so nobody needs to know which one runs, except a person who wonders why it is slow.
"""

import importlib
from typing import Protocol

from exchange.messages import EngineConfig
from exchange.wire import encode
from shard.core.reference import ReferenceEngine

NATIVE, REFERENCE = "native", "reference"
_NATIVE_MODULE = "shard._matching"


class Engine(Protocol):
    """A deterministic state machine over journal records; docs/PROTOCOL.md section 1 says what each method means."""

    def admit(self, payload: bytes, allowed: int) -> int:
        """Static check of a MessagePack array of commands; how many there are. ValueError names the fault."""

    def apply(self, record: bytes) -> bytes:
        """Execute one journal record and return its outcome. ValueError changes nothing."""

    def snapshot(self) -> bytes:
        """Canonical state. O(state)."""

    def restore(self, snapshot: bytes) -> None:
        """Replace all state by what `snapshot` wrote. ValueError changes nothing."""

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


def create_engine(config: EngineConfig, *, reference: bool = False) -> Engine:
    """A fresh engine: the native one where it is built, unless `reference` is asked for. ValueError on a bad config."""
    encoded = encode(config)
    if reference or not native_available():
        return ReferenceEngine(encoded)
    native: Engine = importlib.import_module(_NATIVE_MODULE).Engine(encoded)
    return native


def native_available() -> bool:
    """Whether the native engine is built. One that is built but broken raises its ImportError."""
    try:
        importlib.import_module(_NATIVE_MODULE)
    except ModuleNotFoundError as missing:
        if missing.name != _NATIVE_MODULE:
            raise
        return False
    return True


def engine_kind(engine: Engine) -> str:
    """`native` or `reference`, for status pages and logs."""
    return REFERENCE if isinstance(engine, ReferenceEngine) else NATIVE
