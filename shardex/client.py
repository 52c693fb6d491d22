"""A small asyncio client of a gateway's REST API. Numbers stay exact.

Who is asking: an API key signs each request, or, in the open demo mode of a gateway, the account's name alone is
enough. A no of the exchange is `Refusal` with the exchange's own reason; a gateway that is away is `Unavailable`.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ShardexError, Unavailable

TIMEOUT_S = 5.0
BOOK_LAG_S_MAX, BOOK_POLL_S = 5.0, 0.01
T = TypeVar("T")


class Refusal(ShardexError):
    """The gateway said no: HTTP `status` and `reason` as in docs/API.md."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail


class ErrorBody(msgspec.Struct, frozen=True):
    """The part of an error body that a client acts on."""

    reason: str
    detail: str


class Login(msgspec.Struct, frozen=True):
    """Who trades: an account, and the key that proves it (without one: the open demo mode)."""

    account: str
    key: str = ""
    secret: str = ""

    def headers(self, method: str, path: str, raw_query: str, body: bytes) -> dict[str, str]:
        """Signature headers of one request; none without a key."""
        if not self.key:
            return {}
        timestamp, nonce = str(wall_ns() // NS_PER_MS), secrets.token_hex(16)
        parts = (method, path, raw_query, hashlib.sha256(body).hexdigest(), timestamp, nonce)
        signature = hmac.new(self.secret.encode(), "\n".join(parts).encode(), "sha256").hexdigest()
        return {
            "X-API-Key": self.key,
            "X-API-Timestamp": timestamp,
            "X-API-Nonce": nonce,
            "X-API-Signature": signature,
        }


def login_from_environment(account: str) -> Login:
    """SHARDEX_API_KEY and SHARDEX_API_SECRET where they are set, else the bare account of the open demo mode."""
    return Login(account, os.environ.get("SHARDEX_API_KEY", ""), os.environ.get("SHARDEX_API_SECRET", ""))


class Instrument(msgspec.Struct, frozen=True):
    """Reference data of one symbol as GET /api/instruments shows it; the classic name is `symbol`."""

    symbol: str
    market: str
    index: int
    shard: str
    price_decimals: int
    quantity_decimals: int
    tick_size: Decimal
    lot_size: Decimal
    quantity_min: Decimal
    reference_price: Decimal


class OpenOrder(msgspec.Struct, frozen=True):
    """One own open order."""

    order_id: str
    client_order_id: str
    symbol: str
    side: str
    price: Decimal
    remaining_quantity: Decimal


class _Instruments(msgspec.Struct):
    instruments: list[Instrument]


class _Trade(msgspec.Struct):
    price: Decimal


class _Trades(msgspec.Struct):
    trades: list[_Trade]


class _Book(msgspec.Struct):
    bids: list[tuple[Decimal, Decimal]]
    asks: list[tuple[Decimal, Decimal]]
    epoch: int
    seq: int


class _Position(msgspec.Struct):
    quantity: Decimal


class _Positions(msgspec.Struct):
    positions: dict[str, _Position]


class _OpenOrders(msgspec.Struct):
    orders: list[OpenOrder]
    more: bool


class ShardSwept(msgspec.Struct, frozen=True):
    """A sweep of one shard: how many orders it cancelled, and where in the shard's log it stands."""

    shard: str
    canceled: int
    epoch: int
    seq: int


class _Swept(msgspec.Struct):
    shards: list[ShardSwept]


class Rest:
    """REST calls of one account over kept-alive connections; use it as an async context."""

    def __init__(self, url: str, login: Login) -> None:
        self._url = url.rstrip("/")
        self.login = login
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def __aenter__(self) -> "Rest":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, answer: type[T], *, query: Mapping[str, str | int] | None = None, body: Any = None
    ) -> T:
        """One request, its answer decoded as `answer`; Refusal or Unavailable when there is none."""
        content = b"" if body is None else msgspec.json.encode(body)
        raw_query = urlencode(query or {})
        headers = self.login.headers(method, path, raw_query, content)
        if content:
            headers["Content-Type"] = "application/json"
        url = URL(f"{self._url}{path}" + (f"?{raw_query}" if raw_query else ""), encoded=True)
        try:
            async with self._session.request(method, url, data=content or None, headers=headers) as response:
                received = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as fault:
            raise Unavailable(f"{method} {url}: {fault or type(fault).__name__}") from fault
        try:
            if response.status >= 400:
                error = msgspec.json.decode(received, type=ErrorBody)
                raise Refusal(response.status, error.reason, error.detail)
            return msgspec.json.decode(received, type=answer)
        except msgspec.MsgspecError as fault:
            raise Unavailable(f"{method} {url}: status {response.status} with a body that is none: {fault}") from fault

    async def instruments(self) -> list[Instrument]:
        """All symbols, in the order of their index."""
        return (await self.call("GET", "/api/instruments", _Instruments)).instruments

    async def last_price(self, symbol: str) -> Decimal | None:
        """Price of the newest trade, if there was one."""
        answer = await self.call("GET", f"/api/trades/{symbol}", _Trades, query={"limit": 1})
        return answer.trades[0].price if answer.trades else None

    async def is_book_empty(self, symbol: str, after: ShardSwept) -> bool:
        """Nobody has an open order in the symbol, as of that sweep of its shard or later.

        Books follow the shards; Unavailable when this one does not get there within BOOK_LAG_S_MAX.
        """
        give_up_ns = monotonic_ns() + int(BOOK_LAG_S_MAX * NS_PER_S)
        while True:
            book = await self.call("GET", f"/api/book/{symbol}", _Book, query={"depth": 1})
            if (book.epoch, book.seq) >= (after.epoch, after.seq):
                return not book.bids and not book.asks
            if monotonic_ns() > give_up_ns:
                raise Unavailable(f"the book of {symbol} stands at seq {book.seq}, shard {after.shard} at {after.seq}")
            await asyncio.sleep(BOOK_POLL_S)

    async def positions(self) -> dict[str, Decimal]:
        """Signed quantity by symbol."""
        answer = await self.call("GET", f"/api/user/{self.login.account}/positions", _Positions)
        return {symbol: position.quantity for symbol, position in answer.positions.items()}

    async def open_orders(self) -> list[OpenOrder]:
        """All own open orders, ascending by order id."""
        orders: list[OpenOrder] = []
        while True:
            after = orders[-1].order_id if orders else "ORD-0"
            query = {"user_id": self.login.account, "after": after}
            page = await self.call("GET", "/api/orders", _OpenOrders, query=query)
            orders += page.orders
            if not page.more:
                return orders

    async def cancel_all(self, symbol: str = "") -> list[ShardSwept]:
        """Cancel all own orders, or those of one symbol; what each shard that was asked did."""
        query = {"user_id": self.login.account} | ({"symbol": symbol} if symbol else {})
        return (await self.call("DELETE", "/api/orders", _Swept, query=query)).shards

    async def arm_dead_man(self, timeout_ms: int) -> None:
        """Have all own orders cancelled unless this is repeated within the timeout; 0 = never mind."""
        body = {"user_id": self.login.account, "timeout_ms": timeout_ms}
        await self.call("POST", "/api/deadman", _Swept, body=body)
