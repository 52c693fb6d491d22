"""Asyncio clients of /ws/orders: orders in compact frames (prices and quantities are units), and executions."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from exchange.domain import Flag, Kind, QuantityBasis, SelfTrade, Side, TimeInForce
from exchange.errors import Unavailable
from exchange.messages import Executed, Rejected
from shardex.client import TIMEOUT_S, Login, Refusal


class SubmitRow(msgspec.Struct, array_like=True, tag=1):
    """Enter an order; the enumerations of exchange.domain. `price` 0 for MARKET."""

    instrument: int
    side: Side
    kind: Kind
    time_in_force: TimeInForce
    flags: Flag
    self_trade: SelfTrade
    price: int
    quantity: int
    client_order_id: str


class CancelRow(msgspec.Struct, array_like=True, tag=2):
    """Cancel by order id, or when that is 0 by client order id."""

    instrument: int
    order_id: int
    target_id: str


class ReplaceRow(msgspec.Struct, array_like=True, tag=3):
    """Change price and quantity of an order named as in CancelRow."""

    instrument: int
    order_id: int
    target_id: str
    price: int
    quantity: int
    basis: QuantityBasis


class ReduceRow(msgspec.Struct, array_like=True, tag=4):
    """Lower the open quantity of an order named as in CancelRow."""

    instrument: int
    order_id: int
    target_id: str
    quantity: int


Row = SubmitRow | CancelRow | ReplaceRow | ReduceRow


class Denied(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """What the gateway itself says about one row: HTTP status, reason, sentence."""

    http: int
    reason: str
    detail: str


Reply = Executed | Rejected | Denied


class _Answer(msgspec.Struct, array_like=True):
    id: int | None
    results: list[Reply]
    problem: Denied | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


class OrderSession:
    """One /ws/orders session with compact frames; use it as an async context.

    Frames reach a shard in the order in which they were posted, and their rows in the order of the frame.
    """

    def __init__(self, url: str, login: Login) -> None:
        self._url = url.rstrip("/")
        self._login = login
        self._session = aiohttp.ClientSession()
        self._socket: aiohttp.ClientWebSocketResponse
        self._reader: asyncio.Task[None]
        self._waiting: dict[int, asyncio.Future[list[Reply]]] = {}
        self._last_id = 0

    async def __aenter__(self) -> "OrderSession":
        self._socket = await _connect(self._session, self._url, self._login)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._reader
        await self._session.close()

    async def post(self, rows: Sequence[Row]) -> asyncio.Future[list[Reply]]:
        """Send a frame; the future has one reply for each row. Unavailable when the session has ended.

        The future raises Refusal when the whole frame was refused, Unavailable when its answer never came.
        """
        self._last_id += 1
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = future
        try:
            await self._socket.send_bytes(_encode([self._last_id, rows]))
        except (aiohttp.ClientError, OSError) as fault:
            raise Unavailable(f"order session {self._url} has ended: {fault}") from fault
        return future

    async def send(self, rows: Sequence[Row]) -> list[Reply]:
        """Send a frame and wait for its answer; raises as `post` and its future do."""
        return await asyncio.wait_for(await self.post(rows), TIMEOUT_S)

    async def _read(self) -> None:
        ended = "the session has ended"
        try:
            async for received in self._socket:
                if received.type is aiohttp.WSMsgType.BINARY:
                    self._take(_decode_answer(received.data))
        except msgspec.MsgspecError as fault:
            ended = f"an answer cannot be read: {fault}"
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(f"order session {self._url}: {ended}"))
                future.exception()  # whoever gave up waiting need not hear of it again
        self._waiting.clear()

    def _take(self, answer: _Answer) -> None:
        future = self._waiting.pop(answer.id or 0, None)
        if future is None or future.done():
            return
        if answer.problem is not None:
            future.set_exception(Refusal(answer.problem.http, answer.problem.reason, answer.problem.detail))
        else:
            future.set_result(answer.results)


class Executions:
    """The executions channel of one account, from the entry of the context on.

    `makers` = by trade id the client order id of the maker, "" when that is another account's order.
    """

    def __init__(self, url: str, login: Login) -> None:
        self.makers: dict[int, str] = {}
        self._pong = asyncio.Event()
        self._url = url.rstrip("/")
        self._login = login
        self._session = aiohttp.ClientSession()
        self._socket: aiohttp.ClientWebSocketResponse
        self._reader: asyncio.Task[None]

    async def __aenter__(self) -> "Executions":
        self._socket = await _connect(self._session, self._url, self._login)
        await self._socket.send_json({"op": "subscribe", "channel": "executions", "id": 1})
        subscribed = await self._socket.receive(TIMEOUT_S)
        if subscribed.type is not aiohttp.WSMsgType.TEXT or _decode_event(subscribed.data).http != 200:
            await self._session.close()
            raise Unavailable(f"executions of {self._url}: {subscribed.data}")
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._reader
        await self._session.close()

    async def catch_up(self) -> None:
        """On return everything that was pushed before the call is known: both sides of a trade, not just one."""
        self._pong.clear()
        await self._socket.send_json({"op": "ping"})
        await asyncio.wait_for(self._pong.wait(), TIMEOUT_S)

    async def _read(self) -> None:
        async for received in self._socket:
            if received.type is not aiohttp.WSMsgType.TEXT:
                continue
            event = _decode_event(received.data)
            if event.type == "trade":
                trade_id = int(event.trade_id.removeprefix("TRD-"))
                if event.maker:
                    self.makers[trade_id] = event.client_order_id
                else:
                    self.makers.setdefault(trade_id, "")
            elif event.http:
                self._pong.set()


class _Event(msgspec.Struct):
    type: str = ""
    http: int = 0
    trade_id: str = ""
    client_order_id: str = ""
    maker: bool = False


_decode_event = msgspec.json.Decoder(_Event).decode


async def _connect(session: aiohttp.ClientSession, base: str, login: Login) -> aiohttp.ClientWebSocketResponse:
    """Open /ws/orders; on failure the session is closed too."""
    path, raw_query = "/ws/orders", urlencode({"user_id": login.account})
    url = URL(f"{base}{path}?{raw_query}", encoded=True)
    try:
        return await session.ws_connect(url, headers=login.headers("GET", path, raw_query, b""), max_msg_size=0)
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        await session.close()
        raise Unavailable(f"order session {url}: {fault or type(fault).__name__}") from fault
