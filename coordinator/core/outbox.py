"""What the coordinator's cores want written and told, in order. Pure."""

from typing import NamedTuple

from msgspec import Struct

from coordinator.core import records
from coordinator.core.records import Write
from exchange import messages as m
from exchange.wire import encode


class Send(Struct, frozen=True):
    """One message to one peer."""

    peer: bytes
    payload: bytes


class Ready(NamedTuple):
    """What to do: all writes, in order, each durable; then all sends. `notes` are for the log."""

    writes: list[Write]
    sends: list[Send]
    notes: list[str]


class Outbox:
    """Collects the work of one cue. Knows the version of every key, and the peers that registered or were heard."""

    def __init__(self, vers: dict[str, int]) -> None:
        self.peers: dict[bytes, None] = {}
        self._vers = vers
        self._writes: list[Write] = []
        self._sends: list[Send] = []
        self._notes: list[str] = []

    def ver(self, key: str) -> int:
        """Version of a key once all writes so far are done; 0 = there is none."""
        return self._vers.get(key, 0)

    def write(self, key: str, value: object) -> bytes:
        """Change a key; returns the value as it is stored."""
        payload = records.encode(value)
        ver = self.ver(key)
        self._vers[key] = ver + 1
        self._writes.append(Write(key, ver, payload))
        return payload

    def send(self, peer: bytes, message: m.CoordinatorOutbound) -> None:
        """Tell one peer."""
        self._sends.append(Send(peer, encode(message)))

    def send_all(self, message: m.CoordinatorOutbound) -> None:
        """Tell every peer."""
        payload = encode(message)
        self._sends += [Send(peer, payload) for peer in sorted(self.peers)]

    def note(self, text: str) -> None:
        """Something that an operator wants to find in the log."""
        self._notes.append(text)

    def take(self) -> Ready:
        """The work that has come together."""
        ready = Ready(self._writes, self._sends, self._notes)
        self._writes, self._sends, self._notes = [], [], []
        return ready
