"""The classic feed: one JSON text for each message, as docs/FEEDS.md lists them. Pure.

Texts are put together by hand because each is encoded once and its parts are numbers and symbols that need no escape;
free text goes through the JSON encoder. Prices and quantities are JSON numbers without trailing zeros and exact: they
are written from integer units, never from a float.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import Struct

from exchange.domain import Side
from exchange.errors import WireError
from exchange.messages import Instrument, PublicTrade
from exchange.money import format_units
from marketdata.core.candles import MINUTE_NS, Candle
from marketdata.core.depth import Level

FeedType = Literal["trades", "level2", "ticker", "candles", "candles_5m", "candles_1h", "book", "status"]
CONFLATED: tuple[FeedType, ...] = ("level2", "ticker")
CANDLES: dict[str, tuple[str, int]] = {"candles": ("1m", 1), "candles_5m": ("5m", 5), "candles_1h": ("1h", 60)}
"""Name and minutes of the interval of each candle feed."""

_ERROR_TEXT_MAX = 200
_SIDES = (Side.BUY.name, Side.SELL.name)


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may say."""

    action: Literal["subscribe", "unsubscribe", "snapshot"]
    symbol: str
    feed_types: list[FeedType] = []
    after_seq: int | None = None


_decode = msgspec.json.Decoder(Request).decode


def parse(text: str | bytes) -> Request:
    """A client's message; WireError says what is wrong with it."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as fault:
        raise WireError(f"message: {fault}") from fault


@lru_cache(maxsize=65_536)
def number(units: int, decimals: int) -> str:
    """JSON number of `units` of 10^-decimals without trailing zeros: number(15020, 2) = "150.2"."""
    text = format_units(units, decimals)
    return text.rstrip("0").rstrip(".") if decimals else text


def text_frame(text: str) -> bytes:
    """The WebSocket frame (RFC 6455 section 5.2; final, text, unmasked) that carries `text`."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Writer:
    """Writes the messages of one instrument under the name that classic clients know it by."""

    def __init__(self, instrument: Instrument, name: str) -> None:
        self.name = name
        self._price = instrument.price_decimals
        self._quantity = instrument.quantity_decimals

    def subscribed(self, feeds: Iterable[str], *, epoch: int, seq: int, complete: bool | None) -> bytes:
        """`complete` (asked for with after_seq): the trades that follow are all since then."""
        names = ",".join([f'"{feed}"' for feed in feeds])
        replay = "" if complete is None else f',"trades_complete":{_bool(complete)}'
        return self._frame(
            "subscribed",
            f'"feed_types":[{names}],"price_decimals":{self._price},"quantity_decimals":{self._quantity},'
            f'"epoch":{epoch},"seq":{seq}{replay}',
        )

    def unsubscribed(self, feeds: Iterable[str]) -> bytes:
        """`feeds` = what the client no longer gets."""
        names = ",".join([f'"{feed}"' for feed in feeds])
        return self._frame("unsubscribed", f'"feed_types":[{names}]')

    def trade(self, trade: PublicTrade) -> bytes:
        """One fill of one maker."""
        return self._frame(
            "trade",
            f'"price":{number(trade.price, self._price)},"quantity":{number(trade.quantity, self._quantity)},'
            f'"timestamp":{trade.ts_ns},"side":"{_SIDES[trade.side]}","trade_id":"TRD-{trade.trade_id}",'
            f'"epoch":{trade.epoch},"seq":{trade.seq}',
        )

    def level2(self, bids: Sequence[Level], asks: Sequence[Level], *, ts_ns: int, epoch: int, seq: int) -> bytes:
        """The whole top of the book."""
        return self._frame(
            "level2_update",
            f'"bids":{self._levels(bids)},"asks":{self._levels(asks)},"timestamp":{ts_ns},"epoch":{epoch},"seq":{seq}',
        )

    def book_snapshot(
        self, bids: Sequence[Level], asks: Sequence[Level], *, epoch: int, seq: int, checksum: int
    ) -> bytes:
        """Every level."""
        return self._frame(
            "book_snapshot",
            f'"bids":{self._levels(bids)},"asks":{self._levels(asks)},"epoch":{epoch},"seq":{seq},'
            f'"checksum":{checksum}',
        )

    def book_update(
        self, bids: Sequence[Level], asks: Sequence[Level], *, epoch: int, prev_seq: int, seq: int, checksum: int
    ) -> bytes:
        """Levels that changed after `prev_seq`, up to `seq`."""
        return self._frame(
            "book_update",
            f'"bids":{self._levels(bids)},"asks":{self._levels(asks)},"epoch":{epoch},"prev_seq":{prev_seq},'
            f'"seq":{seq},"checksum":{checksum}',
        )

    def ticker(
        self,
        last: PublicTrade | None,
        bid: Level | None,
        ask: Level | None,
        day: Candle | None,
        *,
        ts_ns: int,
        epoch: int,
        seq: int,
    ) -> bytes:
        """Best prices and the rolling day; null where there is none."""
        price = self._price
        day_text = '"open":null,"high":null,"low":null,"volume":0,"trades":0'
        if day is not None:
            day_text = (
                f'"open":{number(day.open, price)},"high":{number(day.high, price)},"low":{number(day.low, price)},'
                f'"volume":{number(day.volume, self._quantity)},"trades":{day.trades}'
            )
        return self._frame(
            "ticker",
            f'"last":{"null" if last is None else number(last.price, price)},'
            f"{self._best('bid', bid)},{self._best('ask', ask)},{day_text},"
            f'"timestamp":{ts_ns},"epoch":{epoch},"seq":{seq}',
        )

    def candle(self, interval: str, candle: Candle, *, closed: bool) -> bytes:
        """The newest candle; `closed` = its interval is over."""
        names = ("start", "open", "high", "low", "close", "volume", "trades")
        fields = ",".join(f'"{name}":{text}' for name, text in zip(names, self._candle(candle), strict=True))
        return self._frame("candle", f'"interval":"{interval}",{fields},"closed":{_bool(closed)}')

    def candles(self, interval: str, candles: Sequence[Candle]) -> bytes:
        """What is kept, oldest first: [start, open, high, low, close, volume, trades]."""
        rows = ",".join([f"[{','.join(self._candle(candle))}]" for candle in candles])
        return self._frame("candles", f'"interval":"{interval}","candles":[{rows}]')

    def status(self, state: str, reason: str) -> bytes:
        """Trading state, or STALE when the stream behind it is not live."""
        return self._frame("status", f'"state":"{state}","reason":{_text(reason)}')

    def gap(self, missing: int) -> bytes:
        """Trades that were never seen here and cannot be delivered."""
        message = f"{missing} trades before the next one were lost"
        return self._frame("notice", f'"mode":"gap","missing":{missing},"message":{_text(message)}')

    def _frame(self, type_: str, fields: str) -> bytes:
        return text_frame(f'{{"type":"{type_}","symbol":"{self.name}",{fields}}}')

    def _levels(self, levels: Sequence[Level]) -> str:
        price, quantity = self._price, self._quantity
        rows = ",".join([f"[{number(level[0], price)},{number(level[1], quantity)}]" for level in levels])
        return f"[{rows}]"

    def _best(self, side: str, level: Level | None) -> str:
        if level is None:
            return f'"{side}":null,"{side}_quantity":0'
        return f'"{side}":{number(level[0], self._price)},"{side}_quantity":{number(level[1], self._quantity)}'

    def _candle(self, candle: Candle) -> list[str]:
        """Start, open, high, low, close, volume, trades as JSON numbers."""
        prices = (candle.open, candle.high, candle.low, candle.close)
        return [
            str(candle.minute * MINUTE_NS),
            *[number(price, self._price) for price in prices],
            number(candle.volume, self._quantity),
            str(candle.trades),
        ]


def error(text: str, reason: str) -> bytes:
    """The client's message had no effect."""
    return text_frame(f'{{"type":"error","error":{_text(text[:_ERROR_TEXT_MAX])},"reason":"{reason}"}}')


def heartbeat(now_ns: int, count: int) -> bytes:
    """Sent each second, so that no news differs from no feed."""
    return text_frame(f'{{"type":"heartbeat","timestamp":{now_ns},"n":{count}}}')


def server_shutdown(now_ns: int) -> bytes:
    """The last message before close code 1012."""
    return text_frame(f'{{"type":"serverShutdown","timestamp":{now_ns}}}')


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _text(text: str) -> str:
    return msgspec.json.encode(text).decode()
