"""An answer written to its connection in one piece: head rendered here, body behind it, one write.

aiohttp's own way (a case-insensitive header table, a serialised head, chunking, compression) is for answers that may be
streams; a JSON answer of known length needs none of it, and an order's answer is most of what a gateway writes.
"""

from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from exchange.clock import wall_ns
from exchange.domain import NS_PER_S

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Rendered(web.StreamResponse):
    """A whole response. Names and values of `headers` must hold no line breaks: they are written as they are."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(status=status)
        self._head = headers
        self._content = body
        self._stays_open = True

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection takes another request."""
        return self._stays_open

    def force_close(self) -> None:
        """This is the connection's last answer."""
        self._stays_open = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write head and body. ConnectionError when the client is gone."""
        self._stays_open = self._stays_open and request.keep_alive
        lines = [f"{name}: {value}\r\n" for name, value in self._head.items()]
        if not self._stays_open:
            lines.append("Connection: close\r\n")
        elif request.version < (1, 1):
            lines.append("Connection: keep-alive\r\n")
        head = f"{_STATUS_LINES[self.status]}{''.join(lines)}Date: {_DATE.text()}\r\n"
        head += f"Content-Length: {len(self._content)}\r\n\r\n"
        content = b"" if request.method == "HEAD" else self._content
        await request.writer.write(head.encode() + content)
        return None

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        """Everything was written by `prepare`."""


class _Date:
    """The Date header's text, rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def text(self) -> str:
        second = wall_ns() // NS_PER_S
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True)
        return self._text


_DATE = _Date()
