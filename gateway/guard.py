"""Connections under guard: how many in all and from one address, and how long a request may take to arrive.

aiohttp waits for ever for the rest of a header or a body; here a connection that has sent part of a request, or nothing
since it was opened, is closed after HTTP_REQUEST_DEADLINE_NS.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from exchange.clock import monotonic_ns
from exchange.limits import HTTP_REQUEST_DEADLINE_NS
from gateway import classic
from gateway.core.problems import Problem

KEEPALIVE_S = 75.0


class Connections:
    """Every open connection of the door."""

    def __init__(self, *, total_max: int, per_address_max: int) -> None:
        self._total_max = total_max
        self._per_address_max = per_address_max
        self._open: dict[GuardedConnection, None] = {}
        self._by_address: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: "GuardedConnection", address: str) -> Problem | None:
        """Count a new connection, or say why it is one too many."""
        if len(self._open) >= self._total_max:
            return Problem("CONNECTION_LIMIT", f"{self._total_max} connections are open, the most this gateway takes")
        count = self._by_address.get(address, 0)
        if count >= self._per_address_max:
            return Problem("CONNECTION_LIMIT", f"{count} connections are open from {address}, the most allowed")
        self._open[connection] = None
        self._by_address[address] = count + 1
        return None

    def leave(self, connection: "GuardedConnection", address: str) -> None:
        """A connection is gone."""
        if connection not in self._open:
            return
        del self._open[connection]
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def close_late(self) -> None:
        """Close every connection whose request is overdue; call it about once a second."""
        bound_ns = monotonic_ns() - HTTP_REQUEST_DEADLINE_NS
        for connection in [c for c in self._open if c.arriving_since_ns and c.arriving_since_ns < bound_ns]:
            connection.force_close()


class GuardedConnection(web.RequestHandler):
    """aiohttp's connection, which also knows since when a request has been arriving (0 = none is)."""

    __slots__ = ("_address", "_connections", "_serving", "arriving_since_ns")

    def __init__(self, connections: Connections, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        self._address = ""
        self._serving = False
        self.arriving_since_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if peer else ""
        self.arriving_since_ns = monotonic_ns()
        problem = self._connections.enter(self, self._address)
        if problem is not None:
            cast(asyncio.Transport, transport).write(_refusal(problem))
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.leave(self, self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._serving and not self.arriving_since_ns:
            self.arriving_since_ns = monotonic_ns()
        super().data_received(data)

    def await_body(self) -> None:
        """A request whose body has not wholly arrived: it may have been waiting behind another one until now."""
        self._serving = False
        self.arriving_since_ns = self.arriving_since_ns or monotonic_ns()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP at all: our error body instead of aiohttp's text, no stack trace, and the end."""
        said = (message or "bad HTTP").splitlines()[0][:120]
        problem = Problem("INTERNAL" if status >= 500 else "MALFORMED", f"not a request: {said}")
        answer = classic.denied(problem)
        response = web.Response(
            body=classic.encode_json(answer.body), status=answer.http, content_type="application/json"
        )
        response.force_close()
        return response

    def begin(self) -> None:
        """A request is complete and being served: from now on the door's own deadlines hold."""
        self._serving = True
        self.arriving_since_ns = 0

    def end(self) -> None:
        """The request is answered; the next one has not begun to arrive."""
        self._serving = False


class GuardedServer(web.Server):
    """aiohttp's server with guarded connections."""

    def __init__(self, connections: Connections, handler: Any, **options: Any) -> None:
        super().__init__(handler, **options)
        self._guard = connections

    def __call__(self) -> web.RequestHandler:
        return GuardedConnection(self._guard, self, **self._kwargs)


def _refusal(problem: Problem) -> bytes:
    body: bytes = classic.encode_json(classic.denied(problem).body)
    head = (
        f"HTTP/1.1 {problem.rule.http} {HTTPStatus(problem.rule.http).phrase}\r\nContent-Type: application/json\r\n"
        f"Retry-After: {problem.retry_after_s}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
