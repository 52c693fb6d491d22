"""The sockets between the two nodes of a shard: a Router for the standby, a Dealer to the primary of the moment."""

from collections.abc import Container, Iterator
from typing import NamedTuple

from exchange import messages as m
from exchange.sockets import Dealer, Router, Socket

LINK_HWM = 1_000


class Received(NamedTuple):
    """`peer` names a standby at the Router; b"" = it came from the primary."""

    peer: bytes
    header: bytes
    payload: bytes


class Link:
    """A message that cannot be sent is dropped: both ends notice gaps and go back to what they have in common."""

    def __init__(self, node: str, endpoint: str) -> None:
        self._node = node
        self._router = Router(hwm=LINK_HWM)
        self._router.bind(endpoint)
        self._dealer: Dealer | None = None
        self._followed: tuple[int, m.Member] | None = None

    @property
    def sockets(self) -> list[Socket]:
        """All that may become readable."""
        return [self._router] if self._dealer is None else [self._router, self._dealer]

    def follow(self, primary: m.Member | None, incarnation: int) -> bool:
        """Be connected to this primary, as this incarnation of ourselves, and to no other; whether that is a change."""
        wanted = None if primary is None else (incarnation, primary)
        if wanted == self._followed:
            return False
        self._followed = wanted
        if self._dealer is not None:
            self._dealer.close()
            self._dealer = None
        if primary is not None:
            self._dealer = Dealer(f"{self._node}:{incarnation}", hwm=LINK_HWM)
            self._dealer.connect(primary.endpoint)
        return True

    def receive(self, readable: Container[Socket], messages_max: int) -> Iterator[Received]:
        """What has come to those of `sockets` that are `readable`, at most so many messages from each side."""
        for _ in range(messages_max if self._router in readable else 0):
            from_standby = self._router.receive()
            if from_standby is None:
                break
            yield Received(*from_standby)
        for _ in range(messages_max if self._dealer in readable else 0):
            from_primary = self._dealer.receive() if self._dealer is not None else None
            if from_primary is None:
                break
            yield Received(b"", *from_primary)

    def to_standby(self, peer: bytes, header: bytes, payload: bytes = b"") -> None:
        """Answer or feed a standby."""
        self._router.send(peer, header, payload)

    def to_primary(self, header: bytes, payload: bytes = b"") -> None:
        """Tell the primary."""
        if self._dealer is not None:
            self._dealer.send(header, payload)

    def close(self) -> None:
        """Close at once."""
        for socket in self.sockets:
            socket.close()
