"""What the market maker sees: books and last prices from the classic feed, straight into the makers. Shell."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal

import aiohttp
import msgspec

from exchange.errors import Unavailable
from exchange.limits import FEED_SUBSCRIPTIONS_MAX
from exchange.money import decimal_units
from marketmaker.core.maker import Maker

FEED_TYPES = ("level2", "ticker")
SILENCE_S = 3.0
"""A feed sends a heartbeat each second; one that is silent for longer is gone."""
_SYMBOLS_PER_SOCKET = FEED_SUBSCRIPTIONS_MAX // len(FEED_TYPES)

_Level = tuple[Decimal, Decimal]


class _Message(msgspec.Struct):
    type: str
    symbol: str = ""
    bids: list[_Level] = []
    asks: list[_Level] = []
    last: Decimal | None = None
    error: str = ""


_decode = msgspec.json.Decoder(_Message).decode


class Watch:
    """Feeds makers by their classic symbol; `seen` are those whose book has arrived."""

    def __init__(self, url: str, makers: Mapping[str, Maker]) -> None:
        self.seen: set[str] = set()
        self._url = url
        self._makers = makers

    async def run(self) -> None:
        """Watch until the feed fails: ends with Unavailable only."""
        symbols = list(self._makers)
        groups = [symbols[at : at + _SYMBOLS_PER_SOCKET] for at in range(0, len(symbols), _SYMBOLS_PER_SOCKET)]
        async with aiohttp.ClientSession() as session:
            tasks = [asyncio.create_task(self._watch(session, group)) for group in groups]
            try:
                await asyncio.gather(*tasks)
            except (aiohttp.ClientError, OSError, TimeoutError) as fault:
                raise Unavailable(f"feed {self._url}: {fault or 'silent'}") from fault
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, session: aiohttp.ClientSession, symbols: list[str]) -> None:
        async with session.ws_connect(self._url) as socket:
            for symbol in symbols:
                await socket.send_json({"action": "subscribe", "symbol": symbol, "feed_types": FEED_TYPES})
            while True:
                received = await socket.receive(SILENCE_S)
                if received.type is not aiohttp.WSMsgType.TEXT:
                    raise Unavailable(f"feed {self._url} ended: {received.data} {received.extra or ''}")
                self._take(received.data)

    def _take(self, text: str) -> None:
        try:
            message = _decode(text)
        except msgspec.MsgspecError as fault:
            raise Unavailable(f"feed {self._url} speaks another language: {fault}") from fault
        if message.type == "error":
            raise Unavailable(f"feed {self._url} refuses: {message.error}")
        maker = self._makers.get(message.symbol)
        if maker is None:
            return
        price, quantity = maker.instrument.price_decimals, maker.instrument.quantity_decimals
        if message.type == "level2_update":
            bids, asks = (
                [(decimal_units(level[0], price), decimal_units(level[1], quantity)) for level in side]
                for side in (message.bids, message.asks)
            )
            maker.on_book(bids, asks)
            self.seen.add(message.symbol)
        elif message.type == "ticker" and message.last is not None:
            maker.on_trade(decimal_units(message.last, price))
