"""The HTTP door: from bytes to a call, through signature and limits, to an answer with the headers of the house.

It stands on aiohttp's low-level server with a table of routes of its own: one look-up, exact 405 answers, and no
middleware between a request and its order.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from aiohttp import web
from msgspec import Struct

from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS
from exchange.limits import BATCH_BODY_BYTES_MAX, HTTP_BODY_BYTES_MAX
from exchange.process import Log
from gateway import classic
from gateway.classic import Answer
from gateway.core.auth import Authority, Credentials, Principal, Scope, Signed
from gateway.core.problems import Problem
from gateway.core.throttle import Quota, Throttle
from gateway.guard import GuardedConnection
from gateway.response import Rendered

QUERY_FIELDS_MAX = 8
_REQUEST_ID = re.compile(r"[.A-Za-z0-9:/_-]{1,64}")

Lane = Literal["orders", "cancels", "queries"]
Body = web.Response | web.WebSocketResponse | Rendered
T = TypeVar("T")


class Call:
    """One request on its way to its handler. `started_ns` = monotonic time when it was complete."""

    __slots__ = ("fields", "parameter", "query", "request", "request_id", "started_ns", "who")

    def __init__(self, request: web.BaseRequest, request_id: str) -> None:
        self.request = request
        self.request_id = request_id
        self.started_ns = 0
        self.parameter = ""
        self.query: Mapping[str, str] = {}
        self.fields: Any = None
        self.who = Principal("", ())


Handler = Callable[[Call], Awaitable[Answer | Problem | Body]]


class Route(Struct, frozen=True):
    """One endpoint. `path` may hold one `{}`. `scope` None = public. `lane` None = not limited, or by the handler.

    `owner` = the path parameter is a user_id. `orders` = a failure of ours may have executed something.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None = None
    lane: Lane | None = "queries"
    decode: Callable[[bytes], Any] | None = None
    query: tuple[str, ...] = ()
    body_max: int = HTTP_BODY_BYTES_MAX
    owner: bool = False
    orders: bool = False


class Router:
    """Finds the route of a path: literal ones by one look-up, then those with a parameter."""

    def __init__(self, routes: list[Route]) -> None:
        self._literal: dict[str, dict[str, Route]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            table = patterns if "{}" in route.path else self._literal
            table.setdefault(route.path, {})[route.method] = route
        self._patterns = [
            (re.compile(re.escape(path).replace(r"\{\}", "([^/]+)")), methods) for path, methods in patterns.items()
        ]

    def find(self, path: str) -> tuple[dict[str, Route], str] | None:
        """The routes of a raw path by method, and the decoded parameter."""
        methods = self._literal.get(path)
        if methods is not None:
            return methods, ""
        for pattern, methods in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, unquote(match[1])
        return None


class Door:
    """Serves every HTTP request of the gateway."""

    def __init__(self, routes: list[Route], *, authority: Authority, throttle: Throttle, name: str, log: Log) -> None:
        self.draining = False
        self._router = Router(routes)
        self._authority = authority
        self._throttle = throttle
        self._name = name
        self._log = log
        self._requests = 0

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; nothing that goes wrong leaves here but as an answer."""
        self._requests += 1
        given_id = request.headers.get("X-Request-Id", "")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else f"{self._name}-{self._requests:x}"
        path, _, raw_query = request.raw_path.partition("?")
        connection = request.protocol
        assert isinstance(connection, GuardedConnection)
        found = self._router.find(path)
        route = found[0].get(request.method) if found is not None else None
        call = Call(request, request_id)
        quotas: tuple[Quota, ...] = ()
        owner = ""
        answer: Answer | Problem | Body
        try:
            body = await _read(request, connection, route) if route is not None else b""
            connection.begin()
            call.started_ns = monotonic_ns()
            if route is None or found is None:
                answer = self._unrouted(request, found, request_id)
            elif isinstance(body, Problem):
                answer = body
            else:
                problem = self._open(call, route, path, raw_query, found[1], body)
                if problem is None and route.lane is not None:
                    quotas = getattr(self._throttle.profile, route.lane)
                    owner = call.who.account or f"ip {request.remote}"
                    problem = self._throttle.take(owner, quotas, 1, call.started_ns)
                answer = problem if problem is not None else await route.handler(call)
        except Exception:
            # The last line: an order may have gone out before the fault, so the honest word for it is "unknown".
            self._log.exception("request failed", request_id=request_id, path=path)
            reason = "UNKNOWN" if route is not None and route.orders else "INTERNAL"
            answer = Problem(reason, f"the gateway failed on this request; its log has {request_id}")
        finally:
            connection.end()
        if isinstance(answer, Body):
            return answer
        if isinstance(answer, Problem):
            answer = classic.denied(answer, server_time_ms=wall_ns() // NS_PER_MS if answer.reason == "CLOCK" else 0)
        return self._respond(answer, request_id, self._limits(owner, quotas))

    def _open(self, call: Call, route: Route, path: str, raw_query: str, parameter: str, body: bytes) -> Problem | None:
        """Fill in the call, or say what is wrong with it."""
        if self.draining and route.orders:
            return Problem("DRAINING", f"gateway {self._name} is shutting down", 1)
        call.parameter = parameter
        claimed = parameter if route.owner else ""
        if raw_query:
            query = _parse_query(raw_query, route)
            if isinstance(query, Problem):
                return query
            call.query = query
            claimed = claimed or query.get("user_id", "")
        if route.decode is not None:
            try:
                call.fields = route.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
                return Problem("MALFORMED", f"body: {fault}")
            claimed = claimed or call.fields.user_id
        elif body:
            return Problem("MALFORMED", f"{route.method} {route.path} takes no body, not one of {len(body)} bytes")
        if route.scope is None:
            return None
        return self._identify(call, route.scope, Signed(call.request.method, path, raw_query, body), claimed)

    def _identify(self, call: Call, scope: Scope, signed: Signed, claimed: str) -> Problem | None:
        who = self._authority.identify(credentials(call.request), signed, claimed, scope, wall_ns())
        if isinstance(who, Problem):
            # Guessing is limited by address: who fails here has no account whose limit could count it.
            address = f"ip {call.request.remote}"
            return self._throttle.take(address, self._throttle.profile.queries, 1, monotonic_ns()) or who
        call.who = who
        return None

    def _unrouted(self, request: web.BaseRequest, found: tuple[dict[str, Route], str] | None, request_id: str) -> Body:
        if found is None:
            problem = Problem("NOT_FOUND", f"there is no {request.raw_path[:80]!r}; GET / lists what there is")
            return self._respond(classic.denied(problem), request_id, {})
        allow = ", ".join(sorted(found[0]))
        if request.method == "OPTIONS" and self._authority.open_demo:
            headers = {**_PREFLIGHT, "Access-Control-Allow-Methods": allow}
            return web.Response(status=204, headers=headers)
        answer = classic.denied(Problem("METHOD", f"{request.method} is not one of {allow}"))
        return self._respond(answer, request_id, {"Allow": allow})

    def _limits(self, owner: str, quotas: tuple[Quota, ...]) -> dict[str, str]:
        if not owner or not quotas:
            return {}
        left, full_s = self._throttle.remaining(owner, quotas[0], monotonic_ns())
        return {
            "RateLimit-Policy": ", ".join(quota.policy for quota in quotas),
            "RateLimit": f'"{quotas[0].name}";r={left};t={full_s}',
        }

    def _respond(self, answer: Answer, request_id: str, extra: dict[str, str]) -> Rendered:
        headers = {**_HEADERS, "X-Request-Id": request_id, **extra, **answer.headers}
        if answer.epoch:
            headers["X-Shard"] = answer.shard
            headers["X-Shard-Epoch"] = str(answer.epoch)
            headers["X-Shard-Seq"] = str(answer.seq)
        if answer.replay:
            headers["X-Idempotent-Replay"] = "true"
        if answer.wait_s:
            headers["Retry-After"] = str(answer.wait_s)
        if self._authority.open_demo:
            headers["Access-Control-Allow-Origin"] = "*"
        return Rendered(answer.http, headers, classic.encode_json(answer.body))


def credentials(request: web.BaseRequest) -> Credentials:
    """What the headers of a request say about its sender."""
    headers = request.headers
    return Credentials(
        headers.get("X-API-Key", "") or headers.get("X-MBX-APIKEY", ""),
        headers.get("X-API-Timestamp", ""),
        headers.get("X-API-Nonce", ""),
        headers.get("X-API-Signature", ""),
    )


def decoder(type_: type[T]) -> Callable[[bytes], T]:
    """Strict JSON decoder of a request body."""
    return msgspec.json.Decoder(type_).decode


async def _read(request: web.BaseRequest, connection: GuardedConnection, route: Route) -> bytes | Problem:
    """The body, bounded. How long it may take is the guard's business."""
    if not request.body_exists:
        return b""
    too_large = Problem("TOO_LARGE", f"body may have at most {route.body_max} bytes")
    if (request.content_length or 0) > route.body_max:
        return too_large
    if request.content.is_eof():
        body: bytes = request.content.read_nowait()
    else:
        connection.await_body()
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return too_large
    return body if len(body) <= route.body_max else too_large


def _parse_query(raw_query: str, route: Route) -> dict[str, str] | Problem:
    try:
        pairs = parse_qsl(raw_query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX, errors="strict")
    except ValueError as fault:
        return Problem("MALFORMED", f"query: {fault}")
    query = dict(pairs)
    if len(query) != len(pairs):
        return Problem("MALFORMED", "query: a name stands there twice")
    for name in query:
        if name not in route.query and not (name == "user_id" and route.scope is not None):
            allowed = ", ".join((*route.query, *(["user_id"] if route.scope is not None else [])))
            return Problem("MALFORMED", f"query: {name[:40]!r} is not one of {allowed or 'no names at all'}")
    return query


_HEADERS = {
    "Content-Type": "application/json",
    "Server": "shardex",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_PREFLIGHT = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "600",
}


def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any, *, loop: Any) -> web.BaseRequest:
    """aiohttp's request with our ceiling on its body."""
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BATCH_BODY_BYTES_MAX)
