"""The WebSocket door: connections, limits, and the rounds in which updates leave. Shell.

Why updates bypass aiohttp's `send_str`: it frames each message anew for each client and costs a coroutine and a system
call a delivery, which caps a core below 100,000 deliveries/s. Here a frame is built once, what is due for a client
leaves as one piece, and it goes straight to the transport. aiohttp writes its own frames (pong, close) to the same
transport, each in one synchronous step and uncompressed, so the two never mix inside a frame.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.typedefs import Handler

from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ConfigError
from exchange.limits import FEED_FRAME_BYTES_MAX, HTTP_REQUEST_DEADLINE_NS
from exchange.process import Log
from marketdata import classic
from marketdata.core.fanout import Client
from marketdata.feeds import Feeds

ROUND_NS = 5 * NS_PER_MS
"""Shortest rest between two rounds: what comes meanwhile leaves together. After quiet an update leaves at once."""
MESSAGES_BURST = 100
MESSAGE_INTERVAL_NS = 200 * NS_PER_MS
"""A client may send MESSAGES_BURST messages at once and one each interval (5 a second) in the long run."""
PING_NS = 20 * NS_PER_S
SILENCE_NS = 60 * NS_PER_S
"""A client that said nothing for so long, not even a pong, is gone."""
SEND_BUFFER_BYTES = 256 * 1024
"""Kernel buffer of a connection. The default grows to 4 MiB, in which a slow client's frames grow stale unseen."""
CLOSE_S = 5.0
"""How long a closing client may take to read what is in its socket."""
_FLUSH_POLL_S = 0.02
_PING = b"\x89\x00"


class Connection:
    """One client's socket."""

    __slots__ = ("burst_ns", "client", "heard_ns", "pinged_ns", "transport", "websocket")

    def __init__(self, client: Client, websocket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self.client = client
        self.websocket = websocket
        self.transport = transport
        self.heard_ns = self.pinged_ns = monotonic_ns()
        self.burst_ns = 0

    def admit(self, now_ns: int) -> bool:
        """Count an incoming message; False when it is one too many."""
        self.heard_ns = now_ns
        due_ns = max(self.burst_ns, now_ns)
        if due_ns - now_ns > MESSAGES_BURST * MESSAGE_INTERVAL_NS:
            return False
        self.burst_ns = due_ns + MESSAGE_INTERVAL_NS
        return True


class Door:
    """Serves `feeds` to WebSocket clients on path / and /ws, and /livez and /readyz.

    `readiness` says whether to route new clients here, and which shards are live.
    """

    def __init__(
        self, feeds: Feeds, *, connections_max: int, readiness: Callable[[], tuple[bool, dict[str, bool]]], log: Log
    ) -> None:
        self.dropped = 0
        """Clients that were closed because they did not keep up."""
        self._feeds = feeds
        self._fanout = feeds.fanout
        self._connections_max = connections_max
        self._readiness = readiness
        self._log = log
        self._connections: dict[int, Connection] = {}
        self._admitted = 0
        self._unproven: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._loopback_only = False
        self._draining = False
        self._round: asyncio.Handle | None = None
        self._rest_until_ns = 0
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/", self._upgrade)
        app.router.add_get("/ws", self._upgrade)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._listener: asyncio.Server | None = None
        self.port = 0
        """Where it listens, once it is open."""

    @property
    def clients(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    async def open(self, host: str, port: int) -> None:
        """Listen; port 0 chooses a free one. ConfigError when the address cannot be used."""
        await self._runner.setup()
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=1_024)
        except OSError as fault:
            raise ConfigError([f"marketdata cannot listen on {host}:{port}: {fault}"]) from fault
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.setblocking(False)
        self._loopback_only = _is_loopback(host)
        self._listener = await asyncio.get_running_loop().create_server(self._protocol, sock=listener)
        self.port = listener.getsockname()[1]

    async def close(self) -> None:
        """Say goodbye to every client, close all with 1012, stop listening."""
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        self._fanout.tell_all(classic.server_shutdown(wall_ns()))
        self._send()
        for connection in list(self._connections.values()):
            self._drop(connection, WSCloseCode.SERVICE_RESTART, "service restart")
        if self._closing:
            await asyncio.wait(self._closing)
        if self._round is not None:
            self._round.cancel()
        await self._runner.cleanup()

    def wake(self) -> None:
        """Something may be due: make sure that a round comes."""
        if self._round is None and self._connections:
            rest_ns = self._rest_until_ns - monotonic_ns()
            loop = asyncio.get_running_loop()
            self._round = (
                loop.call_soon(self._send) if rest_ns <= 0 else loop.call_later(rest_ns / NS_PER_S, self._send)
            )

    def on_second(self, now_ns: int) -> None:
        """A second has passed and it is monotonic `now_ns`: heartbeats, candles, pings, silent clients."""
        self._feeds.on_second(wall_ns())
        for connection in list(self._connections.values()):
            if now_ns - connection.heard_ns >= SILENCE_NS:
                self._drop(connection, WSCloseCode.POLICY_VIOLATION, "no pong for 60 s")
            elif now_ns - connection.pinged_ns >= PING_NS and not connection.transport.is_closing():
                connection.pinged_ns = now_ns
                connection.transport.write(_PING)
        self.wake()

    # --- rounds -----------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """One round: encode what is due, write to every client that takes more, drop those who are too slow.

        A client takes more when its transport is empty: what the kernel refused waits there, the rest in the fan-out,
        where it is conflated and counted. Then comes a rest of at least half the time that the round took, so that
        rounds leave a third of the core to the streams.
        """
        self._round = None
        started_ns = monotonic_ns()
        self._feeds.render(wall_ns())
        fanout = self._fanout
        fanout.spread()
        connections = self._connections
        blocked = False
        for client in fanout.waiting():
            connection = connections[client.number]
            transport = connection.transport
            if transport.is_closing():
                self._forget(connection)
            elif transport.get_write_buffer_size() == 0:
                transport.write(fanout.take(client))
            elif client.overflows:
                self.dropped += 1
                self._drop(connection, WSCloseCode.TRY_AGAIN_LATER, "slow consumer")
            else:
                blocked = True
        ended_ns = monotonic_ns()
        self._rest_until_ns = ended_ns + max(ROUND_NS, (ended_ns - started_ns) // 2)
        if blocked:
            self.wake()

    # --- connections ------------------------------------------------------------------------------------------------

    def _protocol(self) -> asyncio.BaseProtocol:
        """A new connection; it must send a whole request within the deadline (aiohttp itself would wait for ever)."""
        assert self._runner.server is not None
        protocol = self._runner.server()
        seconds = HTTP_REQUEST_DEADLINE_NS / NS_PER_S
        self._unproven[protocol] = asyncio.get_running_loop().call_later(seconds, self._expire, protocol)
        return protocol

    def _expire(self, protocol: web.RequestHandler) -> None:
        del self._unproven[protocol]
        if protocol.transport is not None:
            protocol.transport.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One request a connection; errors as JSON."""
        timer = self._unproven.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        try:
            response = await handler(request)
        except web.HTTPException as fault:
            response = _refusal(fault.status, fault.reason.upper().replace(" ", "_"), fault.text or fault.reason)
            if isinstance(fault, web.HTTPMethodNotAllowed):
                response.headers["Allow"] = fault.headers["Allow"]
        if not isinstance(response, web.WebSocketResponse):
            response.force_close()
        return response

    async def _livez(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, shards = self._readiness()
        ready = ready and not self._draining
        return web.json_response({"ready": ready, "shards": shards}, status=200 if ready else 503)

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return _refusal(426, "UPGRADE_REQUIRED", "this address speaks WebSocket; see docs/FEEDS.md")
        if not origin_allowed(
            request.headers.get("Origin"), request.headers.get("Host", ""), loopback_only=self._loopback_only
        ):
            return _refusal(403, "ORIGIN", f"origin {request.headers['Origin']!r} is not the host of this server")
        if self._draining or self._admitted >= self._connections_max:
            refusal = _refusal(503, "OVERLOADED", f"at most {self._connections_max} connections, or shutting down")
            refusal.headers["Retry-After"] = "1"
            return refusal
        websocket = web.WebSocketResponse(
            timeout=CLOSE_S, autoping=False, compress=False, max_msg_size=FEED_FRAME_BYTES_MAX
        )
        self._admitted += 1
        try:
            await websocket.prepare(request)
            if request.transport is not None:
                await self._serve(websocket, request.transport)
        finally:
            self._admitted -= 1
        return websocket

    async def _serve(self, websocket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        """Take a client's messages until it leaves or is dropped."""
        client = self._fanout.join()
        connection = self._connections[client.number] = Connection(client, websocket, transport)
        try:
            while not websocket.closed:
                message = await websocket.receive()
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
                    return
                if client.number not in self._connections:
                    continue
                if not connection.admit(monotonic_ns()):
                    self._drop(connection, WSCloseCode.POLICY_VIOLATION, "too many messages")
                elif message.type is WSMsgType.PING:
                    await websocket.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    self._feeds.on_request(client, message.data, wall_ns())
                    self.wake()
                elif message.type is WSMsgType.BINARY:
                    self._fanout.tell(client, classic.error("message: it must be a text frame", "BAD_REQUEST"))
                    self.wake()
        except ConnectionResetError:
            return
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection.client.number, None)
        self._feeds.leave(connection.client)

    def _drop(self, connection: Connection, code: WSCloseCode, reason: str) -> None:
        """Close a client: nothing more is sent to it but the close frame."""
        self._forget(connection)
        task = asyncio.get_running_loop().create_task(self._close(connection, code, reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: Connection, code: WSCloseCode, reason: str) -> None:
        """Send the close frame behind what the socket still holds, and give the client CLOSE_S to read it all."""
        transport = connection.transport
        try:
            async with asyncio.timeout(CLOSE_S):
                await connection.websocket.close(code=code, message=reason.encode())
                while transport.get_write_buffer_size():
                    await asyncio.sleep(_FLUSH_POLL_S)
        except TimeoutError:
            self._log.info("client does not read", number=connection.client.number, reason=reason)
        finally:
            if transport.get_write_buffer_size():
                transport.abort()


def origin_allowed(origin: str | None, host: str, *, loopback_only: bool) -> bool:
    """Whether a browser page of `origin` may connect when it asked for `host` (docs/decisions/0041).

    Programs send no Origin. A page may connect to the host that it came from, on any port; all loopback names are one
    host; and a server that listens on loopback only must also be asked for by such a name (DNS rebinding).
    """
    if origin is None:
        return True
    try:
        page, server = urlsplit(origin).hostname, urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    if page is None or server is None:
        return False
    if _is_loopback(server):
        return _is_loopback(page)
    return page == server and not loopback_only


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(status: int, reason: str, text: str) -> web.Response:
    return web.json_response(
        {"success": False, "error": text, "code": status, "reason": reason, "detail": text}, status=status
    )
