"""A short conversation with the coordinator from a plain, synchronous program."""

import os
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.config import Config
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import Unavailable
from exchange.keyfile import open_transport
from exchange.sockets import Dealer, Waiter
from exchange.wire import decode_coordinator_outbound, encode

A = TypeVar("A", m.ClusterStatus, m.ShardMap, m.Administered, m.Operated)


class Control:
    """One connection to the coordinator; use it as a context. Calls raise Unavailable when their time is up."""

    def __init__(self, config: Config) -> None:
        open_transport(config)
        self._endpoint = config.endpoint("control")
        self.identity = f"cli:{os.getpid()}"
        self._socket = Dealer(self.identity)
        self._socket.connect(self._endpoint)
        self._waiter = Waiter(self._socket)

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def status(self, timeout_s: float = 2.0) -> m.ClusterStatus:
        """Health of everything."""
        return self._ask(m.AskStatus(), m.ClusterStatus, timeout_s)

    def shard_map(self, timeout_s: float = 2.0) -> m.ShardMap:
        """Who leads what, and the instruments."""
        return self._ask(m.AskMap(), m.ShardMap, timeout_s)

    def administer(self, shard: str, commands: list[Any], timeout_s: float = 5.0) -> m.Administered:
        """Have operator commands logged by one shard, or by all with ""."""
        question = m.Administer(self.identity, shard, msgspec.Raw(encode(commands)))
        return self._ask(question, m.Administered, timeout_s)

    def switch(self, shard: str, timeout_s: float = 5.0) -> str:
        """Have a primary hand over; returns why not, "" = it is done."""
        return self._ask(m.Switch(self.identity, shard), m.Operated, timeout_s).refused

    def elect(self, shard: str, node: str, *, accept_loss: bool, timeout_s: float = 5.0) -> str:
        """Make a node the primary; returns why not, "" = it is done."""
        return self._ask(m.Elect(self.identity, shard, node, accept_loss), m.Operated, timeout_s).refused

    def skip(self, shard: str, seq: int, *, why: str, actor: str, timeout_s: float = 5.0) -> str:
        """Have a command of a frozen shard left out; returns why not, "" = it is recorded."""
        return self._ask(m.Skip(actor, shard, seq, why), m.Operated, timeout_s).refused

    def clock(self, shard: str, timeout_s: float = 5.0) -> str:
        """Have a primary believe its wall clock; returns why not, "" = it was told."""
        return self._ask(m.Clock(self.identity, shard), m.Operated, timeout_s).refused

    def _ask(self, question: msgspec.Struct, answer: type[A], timeout_s: float) -> A:
        self._socket.send(encode(question))
        deadline_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        while (left_ns := deadline_ns - monotonic_ns()) > 0:
            received = self._socket.receive()
            if received is None:
                self._waiter.wait(left_ns // NS_PER_MS + 1)
                continue
            message = decode_coordinator_outbound(received[0])
            if isinstance(message, answer):
                return message
        raise Unavailable(f"coordinator at {self._endpoint} did not answer within {timeout_s:g} s")
