"""Two connections that cost next to nothing: HTTP keep-alive and WebSocket, written for the generator alone.

A general client would spend more time on a request than the exchange does, on the same machine. These write bytes that
are ready, read only what tells the outcome, and trust the loopback: the WebSocket mask is zero, which RFC 6455 section
5.3 allows by form; its unpredictability protects proxies that do not exist here.
"""

import asyncio
import base64
import os
from collections import deque
from collections.abc import Callable
from typing import TypeVar, cast

from exchange.errors import Unavailable
from loadgen.openloop import Outcomes

CONNECT_S = 5.0
Read = Callable[[int, bytes], Outcomes]
"""What an answer says: (HTTP status or 0, body)."""

_HEAD_END = b"\r\n\r\n"
_OPCODE_TEXT, _OPCODE_BINARY, _OPCODE_CLOSE, _OPCODE_PING, _OPCODE_PONG = 1, 2, 8, 9, 10
_FINAL, _MASKED = 0x80, 0x80


class _Wire(asyncio.Protocol):
    """Common part: the transport, the buffer, the end."""

    def __init__(self) -> None:
        self.on_answer: Callable[[int, Outcomes], None] = _ignore_answer
        self.on_lost: Callable[[], None] = _ignore_loss
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.on_lost()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _write(self, body: bytes) -> None:
        if self._transport is not None:
            self._transport.write(body)


_AnyWire = TypeVar("_AnyWire", bound=_Wire)


class HttpWire(_Wire):
    """Whole requests out; answers come back in the order of the requests."""

    def __init__(self, read: Read) -> None:
        super().__init__()
        self._read = read
        self._numbers: deque[int] = deque()

    def send(self, number: int, body: bytes) -> None:
        """Write one request, head and body."""
        self._numbers.append(number)
        self._write(body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (answer := split_http_answer(self._buffer)) is not None:
            status, body, size = answer
            del self._buffer[:size]
            self.on_answer(self._numbers.popleft(), self._read(status, body))


class WsWire(_Wire):
    """One message a frame, after the upgrade; `number_of` finds the request's number in an answer.

    Messages of the other kind (binary or text) are announcements and are not read.
    """

    def __init__(self, read: Read, number_of: Callable[[bytes], int], *, binary: bool) -> None:
        super().__init__()
        self._read = read
        self._number_of = number_of
        self._opcode = _OPCODE_BINARY if binary else _OPCODE_TEXT
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def upgrade(self, host: str, port: int, path: str) -> None:
        """Ask for the WebSocket; `upgraded` tells when it is there."""
        key = base64.b64encode(os.urandom(16)).decode()
        self._write(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def send(self, number: int, body: bytes) -> None:
        """Write one message."""
        del number
        self._write(frame(self._opcode, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.upgraded.done():
            self.upgraded.set_exception(Unavailable("the connection ended before the upgrade to WebSocket"))
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.upgraded.done():
            self._finish_upgrade()
            if not self.upgraded.done():
                return
        while (message := split_frame(self._buffer)) is not None:
            opcode, body, size = message
            del self._buffer[:size]
            if opcode == self._opcode:
                self.on_answer(self._number_of(body), self._read(0, body))
            elif opcode == _OPCODE_PING:
                self._write(frame(_OPCODE_PONG, body))
            elif opcode == _OPCODE_CLOSE:
                self.close()

    def _finish_upgrade(self) -> None:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return
        line = bytes(self._buffer[: self._buffer.find(b"\r\n")])
        del self._buffer[: end + len(_HEAD_END)]
        if b" 101 " in line:
            self.upgraded.set_result(None)
        else:
            self.upgraded.set_exception(Unavailable(f"no WebSocket: {line.decode(errors='replace')}"))
            self.close()


async def connect_http(host: str, port: int, read: Read) -> HttpWire:
    """A keep-alive connection. Unavailable when nobody listens."""
    return await _connect(host, port, lambda: HttpWire(read))


async def connect_ws(
    host: str, port: int, path: str, read: Read, number_of: Callable[[bytes], int], *, binary: bool
) -> WsWire:
    """A WebSocket. Unavailable when nobody listens or the upgrade is refused."""
    wire = await _connect(host, port, lambda: WsWire(read, number_of, binary=binary))
    wire.upgrade(host, port, path)
    try:
        await asyncio.wait_for(wire.upgraded, CONNECT_S)
    except TimeoutError as fault:
        wire.close()
        raise Unavailable(f"{host}:{port} did not answer the upgrade within {CONNECT_S} s") from fault
    return wire


def split_http_answer(buffer: bytearray) -> tuple[int, bytes, int] | None:
    """Status, body and size of the first whole HTTP answer, or None. Bodies have a Content-Length or are empty."""
    end = buffer.find(_HEAD_END)
    if end < 0:
        return None
    head = bytes(buffer[:end]).lower()
    start = end + len(_HEAD_END)
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    if len(buffer) < start + length:
        return None
    return int(head[9:12]), bytes(buffer[start : start + length]), start + length


def frame(opcode: int, body: bytes) -> bytes:
    """One final client frame with a mask of zeros."""
    size = len(body)
    if size < 126:
        head = bytes((_FINAL | opcode, _MASKED | size))
    elif size < 1 << 16:
        head = bytes((_FINAL | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + body


def split_frame(buffer: bytearray) -> tuple[int, bytes, int] | None:
    """Opcode, body and size of the first whole server frame, or None. Server frames are unmasked and unfragmented."""
    if len(buffer) < 2:
        return None
    size, start = buffer[1] & 0x7F, 2
    if size == 126:
        size, start = int.from_bytes(buffer[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(buffer[2:10], "big"), 10
    if len(buffer) < start + size:
        return None
    return buffer[0] & 0x0F, bytes(buffer[start : start + size]), start + size


async def _connect(host: str, port: int, factory: Callable[[], _AnyWire]) -> _AnyWire:
    loop = asyncio.get_running_loop()
    try:
        _, wire = await asyncio.wait_for(loop.create_connection(factory, host, port), CONNECT_S)
    except (OSError, TimeoutError) as fault:
        raise Unavailable(f"nobody answers at {host}:{port}: {fault}") from fault
    return wire


def _ignore_answer(number: int, outcomes: Outcomes) -> None:
    del number, outcomes


def _ignore_loss() -> None:
    return
