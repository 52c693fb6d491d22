"""The only module that speaks ZeroMQ: bounded, non-blocking sockets, and their way into an asyncio loop.

Every socket has a high-water mark and a largest message. ROUTER sockets are mandatory: a send to a peer that is gone or
full returns False instead of dropping in silence. PUB drops silently by design, so its consumers count sequences.
A message is two frames: header and payload (empty where a header needs none).

ipc sockets lie in a directory of this user alone. tcp sockets speak CURVE under the cluster's key: both sides prove
that they hold it, all between them is encrypted, and a connection that has gone silent is opened anew.
"""

import asyncio
import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator

from exchange.errors import ConfigError
from exchange.limits import MESSAGE_BYTES_MAX, SOCKET_HWM

IPC_PATH_MAX = 100
"""Longest path of an ipc endpoint; the kernel's limit is 107 bytes."""

_PARTS = 2
_NOBLOCK, _MORE, _READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)
_HAS_MORE, _EVENTS = int(zmq.RCVMORE), int(zmq.EVENTS)
"""Plain integers: arithmetic on zmq's enums would cost more than the message."""
_TCP_OPTIONS = (
    (zmq.HEARTBEAT_IVL, 200),
    (zmq.HEARTBEAT_TIMEOUT, 1_000),
    (zmq.CONNECT_TIMEOUT, 1_000),
    (zmq.HANDSHAKE_IVL, 2_000),
    (zmq.RECONNECT_IVL, 50),
    (zmq.RECONNECT_IVL_MAX, 500),
)
"""Milliseconds. Without them a cut connection would wait for TCP's own, much longer patience."""


class ClusterKey(NamedTuple):
    """One CURVE key pair (Z85 text) that all daemons of a cluster share; whoever holds it is one of them."""

    public: bytes
    secret: bytes

    @staticmethod
    def generate() -> "ClusterKey":
        """A fresh pair."""
        return ClusterKey(*zmq.curve_keypair())


class _Keyring:
    """The process's key; tcp is impossible without one."""

    def __init__(self) -> None:
        self.key: ClusterKey | None = None
        self._guard: ThreadAuthenticator | None = None

    def use(self, key: ClusterKey) -> None:
        """Speak CURVE under `key` from now on, and let in only those that hold it."""
        self.key = key
        if self._guard is None:
            self._guard = ThreadAuthenticator(zmq.Context.instance())
            self._guard.start()
            self._guard.configure_curve_callback("*", credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the holder of the public key `key` (Z85) may connect; the authenticator asks."""
        return self.key is not None and hmac.compare_digest(key, self.key.public)


_keyring = _Keyring()
use_cluster_key = _keyring.use


def open_private_directory(path: Path) -> None:
    """Create `path` for this user alone (0700). ConfigError when it belongs to others or is open to them."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    mode = status.st_mode & 0o777
    if status.st_uid != os.getuid() or mode & 0o077:
        raise ConfigError([f"directory {path} must belong to this user with mode 0700, it has mode {mode:04o}"])


class Socket:
    """Common part: creation, limits, closing."""

    def __init__(self, kind: int, *, hwm: int = SOCKET_HWM, identity: str = "") -> None:
        self._zmq: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, hwm),
            (zmq.RCVHWM, hwm),
            (zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX),
        ):
            self._zmq.setsockopt(option, value)
        if identity:
            self._zmq.setsockopt(zmq.IDENTITY, identity.encode())
        self._wake: Callable[[], None] | None = None

    @property
    def fd(self) -> int:
        """Edge-triggered readiness descriptor: drain after each wake-up and after each send."""
        return int(self._zmq.getsockopt(zmq.FD))

    def bind(self, endpoint: str) -> None:
        """Listen on an endpoint; ConfigError when it is taken or its ipc path is too long."""
        self._prepare(endpoint, server=True)
        try:
            self._zmq.bind(endpoint)
        except zmq.ZMQError as fault:
            raise ConfigError([f"endpoint {endpoint} cannot be bound: {fault}"]) from fault

    def connect(self, endpoint: str) -> None:
        """Connect in the background and for ever again; messages queue up to the high-water mark meanwhile."""
        self._prepare(endpoint, server=False)
        self._zmq.connect(endpoint)

    def readable(self) -> bool:
        """A receive would return a message."""
        return bool(int(self._zmq.getsockopt(_EVENTS)) & _READABLE)

    def close(self) -> None:
        """Close at once; what is still queued is dropped."""
        self._zmq.close(0)

    def _prepare(self, endpoint: str, *, server: bool) -> None:
        _check(endpoint)
        if not endpoint.startswith("tcp://"):
            return
        key = _keyring.key
        if key is None:
            raise ConfigError([f"endpoint {endpoint}: tcp needs the cluster's key"])
        curve: list[tuple[int, Any]] = [(zmq.CURVE_PUBLICKEY, key.public), (zmq.CURVE_SECRETKEY, key.secret)]
        curve.append((zmq.CURVE_SERVER, 1) if server else (zmq.CURVE_SERVERKEY, key.public))
        for option, value in (*_TCP_OPTIONS, *curve):
            self._zmq.setsockopt(option, value)

    def _receive_parts(self) -> list[bytes] | None:
        receive = self._zmq.recv
        try:
            parts = [receive(_NOBLOCK)]
        except zmq.Again:
            return None
        while self._zmq.getsockopt(_HAS_MORE):
            parts.append(receive(_NOBLOCK))
        return parts

    def _send_parts(self, parts: list[bytes]) -> bool:
        send = self._zmq.send
        try:
            for part in parts[:-1]:
                send(part, _MORE)
            send(parts[-1], _NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as fault:
            if fault.errno == zmq.EHOSTUNREACH:
                return False
            raise
        if self._wake is not None:
            self._wake()
        return True


class Router(Socket):
    """Answers many peers by their identity. A peer that comes back under the same identity takes its place."""

    def __init__(self, *, hwm: int = SOCKET_HWM) -> None:
        super().__init__(zmq.ROUTER, hwm=hwm)
        self._zmq.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._zmq.setsockopt(zmq.ROUTER_HANDOVER, 1)

    def receive(self) -> tuple[bytes, bytes, bytes] | None:
        """Next (peer, header, payload) or None. Messages of another shape come as (peer, b"", b"")."""
        parts = self._receive_parts()
        if parts is None:
            return None
        if len(parts) != _PARTS + 1:
            return parts[0], b"", b""
        return parts[0], parts[1], parts[2]

    def send(self, peer: bytes, header: bytes, payload: bytes = b"") -> bool:
        """False when the peer is unknown or its queue is full; the message is not sent then."""
        return self._send_parts([peer, header, payload])


class Dealer(Socket):
    """One side of a request stream towards a Router; answers may overtake each other.

    Messages queue while the peer is away; with `connected_only` a send is refused then, so that what was sent and what
    never left can be told apart.
    """

    def __init__(self, identity: str, *, hwm: int = SOCKET_HWM, connected_only: bool = False) -> None:
        super().__init__(zmq.DEALER, hwm=hwm, identity=identity)
        self._zmq.setsockopt(zmq.IMMEDIATE, int(connected_only))

    def receive(self) -> tuple[bytes, bytes] | None:
        """Next (header, payload) or None; b"", b"" for a message of another shape."""
        parts = self._receive_parts()
        if parts is None:
            return None
        return (parts[0], parts[1]) if len(parts) == _PARTS else (b"", b"")

    def send(self, header: bytes, payload: bytes = b"") -> bool:
        """False when the queue is full, or nobody is there and that matters; the message is not sent then."""
        return self._send_parts([header, payload])


class Publisher(Socket):
    """Sends to whoever listens. Loses messages for slow listeners without a word: number what you publish."""

    def __init__(self, *, hwm: int = SOCKET_HWM) -> None:
        super().__init__(zmq.PUB, hwm=hwm)

    def send(self, header: bytes, payload: bytes = b"") -> bool:
        """Never blocks."""
        return self._send_parts([header, payload])


class Subscriber(Socket):
    """Listens to all that a Publisher sends."""

    def __init__(self, *, hwm: int = SOCKET_HWM) -> None:
        super().__init__(zmq.SUB, hwm=hwm)
        self._zmq.setsockopt(zmq.SUBSCRIBE, b"")

    def receive(self) -> tuple[bytes, bytes] | None:
        """Next (header, payload) or None; b"", b"" for a message of another shape."""
        parts = self._receive_parts()
        if parts is None:
            return None
        return (parts[0], parts[1]) if len(parts) == _PARTS else (b"", b"")


class Waiter:
    """Blocks a single-threaded loop until one of its sockets is readable or a time passes."""

    def __init__(self, *sockets: Socket) -> None:
        self._poller = zmq.Poller()
        self._sockets = {socket._zmq: socket for socket in sockets}
        for socket in self._sockets:
            self._poller.register(socket, zmq.POLLIN)

    def wait(self, timeout_ms: int) -> list[Socket]:
        """The sockets that have something to receive. Returns early on a signal."""
        return [self._sockets[socket] for socket, _ in self._poller.poll(timeout_ms)]


def attach(socket: Socket, drain: Callable[[], bool]) -> Callable[[], None]:
    """Run `drain` in the running asyncio loop whenever `socket` may be readable; returns the undo.

    `drain` receives until None or until it has done enough for one turn, and returns whether there may be more; it is
    called again in the next turn then. Also called after sends, because the descriptor is edge-triggered.
    """
    loop = asyncio.get_running_loop()
    scheduled = False
    closed = False

    def turn() -> None:
        nonlocal scheduled
        scheduled = False
        if not closed and drain():
            schedule()

    def schedule() -> None:
        nonlocal scheduled
        if not scheduled and not closed:
            scheduled = True
            loop.call_soon(turn)

    def after_send() -> None:
        if not scheduled and socket.readable():
            schedule()

    def detach() -> None:
        nonlocal closed
        closed = True
        socket._wake = None
        loop.remove_reader(descriptor)

    descriptor = socket.fd
    loop.add_reader(descriptor, schedule)
    socket._wake = after_send
    schedule()
    return detach


def _check(endpoint: str) -> None:
    scheme, _, address = endpoint.partition("://")
    size = len(address.encode())
    if scheme == "ipc" and size > IPC_PATH_MAX:
        raise ConfigError(
            [f"ipc path {address} has {size} bytes, at most {IPC_PATH_MAX}: choose a shorter cluster.run"]
        )
