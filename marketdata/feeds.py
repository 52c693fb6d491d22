"""From committed frames to what each client gets: mirrors of the shards, feeds, subscriptions. Pure.

The shell calls `on_frame` and `on_image` for the streams, `on_request` for clients, `on_second` each second, and for
each round of sending `render`, then those of `fanout`. What nobody subscribes to is never sorted, compared or encoded.
All times are wall nanoseconds.
"""

from typing import assert_never

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.errors import WireError
from exchange.limits import FEED_SUBSCRIPTIONS_MAX
from exchange.routing import Routing
from marketdata import classic
from marketdata.classic import CANDLES, FeedType
from marketdata.core.candles import MINUTE_NS
from marketdata.core.depth import CHECKSUM_LEVELS, Level, checksum
from marketdata.core.fanout import Client, Fanout, Key
from marketdata.core.market import Changes, Market, Mirror

LEVEL2_DEPTH = 10
CANDLES_KEPT = 500
"""Candles that a new subscriber gets at most."""
_CANDLES_LATE = 3
"""How many candles may have begun between two looks, a second apart; more only after the process stood still."""

assert LEVEL2_DEPTH == CHECKSUM_LEVELS


class Feeds:
    """All markets and all clients of this daemon."""

    def __init__(self) -> None:
        self.fanout = Fanout(classic.CONFLATED)
        self.mirrors: dict[str, Mirror] = {}
        self._routing: Routing | None = None
        self._homes: dict[int, Mirror] = {}
        self._writers: dict[int, classic.Writer] = {}
        self._live_ns: dict[str, int] = {}
        self._stale: dict[str, bool] = {}
        self._shown: dict[Key, object] = {}
        self._book_seq: dict[int, int] = {}
        self._snapshots: dict[int, tuple[int, bytes]] = {}
        self._resync: dict[int, None] = {}
        self._candles: dict[Key, int] = {}
        self._heartbeats = 0

    # --- from the cluster -------------------------------------------------------------------------------------------

    def on_map(self, map_: m.ShardMap) -> None:
        """A newer shard map: instruments and their homes."""
        routing = self._routing = Routing(map_)
        for shard in routing.shards:
            if shard not in self.mirrors:
                self.mirrors[shard] = Mirror(shard)
                self._stale[shard] = True
        for index, instrument in routing.instruments.items():
            short = routing.instrument(instrument.base) is instrument
            self._writers[index] = classic.Writer(instrument, instrument.base if short else instrument.symbol)
            if instrument.shard in self.mirrors:
                self._homes[index] = self.mirrors[instrument.shard]

    def on_frame(self, shard: str, head: m.FrameHead) -> None:
        """The next frame of a shard; WireError (nothing changed) when a section is malformed."""
        mirror = self.mirrors[shard]
        changes = mirror.on_frame(head)
        if changes.trades or changes.states:
            self._publish(mirror, changes)

    def on_image(self, shard: str, head: m.FrameHead) -> None:
        """Everything of a shard anew; book subscribers get a snapshot instead of an update."""
        mirror = self.mirrors[shard]
        changes = mirror.on_image(head)
        for index in mirror.touched:
            if (index, "book") in self.fanout.channels:
                self._resync[index] = None
        self._publish(mirror, changes)

    def on_liveness(self, shard: str, live: bool, now_ns: int) -> None:
        """Whether a shard's stream is current; status subscribers hear of each change."""
        if live:
            self._live_ns[shard] = now_ns
        if self._stale[shard] is live:
            self._stale[shard] = not live
            for market in self.mirrors[shard].markets.values():
                self._publish_status(market)

    @property
    def symbols(self) -> int:
        """How many instruments the map knows."""
        return len(self._writers)

    def live(self, shard: str) -> bool:
        """The last observation of `on_liveness`."""
        return not self._stale[shard]

    # --- from clients -----------------------------------------------------------------------------------------------

    def on_request(self, client: Client, text: str, now_ns: int) -> None:
        """One message of a client. It is answered, and has effect, as a whole or not at all."""
        try:
            request = classic.parse(text)
        except WireError as fault:
            self.fanout.tell(client, classic.error(str(fault), "BAD_REQUEST"))
            return
        instrument = self._routing.instrument(request.symbol) if self._routing is not None else None
        if instrument is None or instrument.index not in self._homes:
            self._refuse(client, f"symbol {request.symbol!r} is not known here", "UNKNOWN_SYMBOL")
            return
        market = self._homes[instrument.index].market(instrument.index)
        match request.action:
            case "subscribe":
                self._subscribe(client, market, request, now_ns)
            case "unsubscribe":
                self._unsubscribe(client, market.index, request)
            case "snapshot":
                if (market.index, "book") not in client.channels:
                    self._refuse(client, f"symbol {request.symbol}: feed book is not subscribed", "NOT_SUBSCRIBED")
                    return
                self._render(market, now_ns)
                self.fanout.spread()
                self.fanout.tell(client, self._book_snapshot(market))
            case _:
                assert_never(request.action)

    def leave(self, client: Client) -> None:
        """A client is gone. Doing so twice does no harm."""
        keys = list(client.channels)
        self.fanout.leave(client)
        self._end(keys)

    def on_second(self, now_ns: int) -> None:
        """A second has passed: heartbeat, and the candles that changed or ended since the last one."""
        self._heartbeats += 1
        self.fanout.tell_all(classic.heartbeat(now_ns, self._heartbeats))
        for key in list(self._candles):
            self._publish_candles(key, now_ns)

    def render(self, now_ns: int) -> None:
        """Encode what has changed since the last call and somebody wants."""
        for mirror in self.mirrors.values():
            if mirror.touched:
                if self.fanout.channels:
                    for market in mirror.touched.values():
                        self._render(market, now_ns)
                mirror.touched.clear()

    # --- from gateways ----------------------------------------------------------------------------------------------

    def answer(self, question: m.MarketInbound, now_ns: int) -> m.MarketOutbound:
        """Depth or recent trades of one instrument."""
        mirror = self._homes.get(question.instrument)
        if mirror is None:
            return m.NotServed(question.request, f"instrument {question.instrument} is not known here")
        market = mirror.market(question.instrument)
        live = self.live(mirror.shard)
        match question:
            case m.AskBook():
                if question.depth < 1:
                    return m.NotServed(question.request, f"depth must be at least 1, not {question.depth}")
                age_ns = now_ns - self._live_ns.get(mirror.shard, mirror.ts_ns)
                return m.Book(
                    question.request,
                    question.instrument,
                    market.book.bids.top(question.depth),
                    market.book.asks.top(question.depth),
                    mirror.epoch,
                    mirror.seq,
                    mirror.ts_ns,
                    max(0, age_ns // NS_PER_MS),
                    live,
                )
            case m.AskTrades():
                if question.limit < 1:
                    return m.NotServed(question.request, f"limit must be at least 1, not {question.limit}")
                return m.Trades(question.request, question.instrument, market.tape.newest(question.limit), live)
            case _:
                assert_never(question)

    # --- subscriptions ----------------------------------------------------------------------------------------------

    def _subscribe(self, client: Client, market: Market, request: classic.Request, now_ns: int) -> None:
        feeds = list(dict.fromkeys(request.feed_types))
        if not feeds:
            self._refuse(client, "subscribe: feed_types is empty", "BAD_REQUEST")
            return
        if request.after_seq is not None and ("trades" not in feeds or request.after_seq < 0):
            text = f"subscribe: after_seq {request.after_seq} must be 0 or above and needs feed trades"
            self._refuse(client, text, "BAD_REQUEST")
            return
        new = [feed for feed in feeds if (market.index, feed) not in client.channels]
        if len(client.channels) + len(new) > FEED_SUBSCRIPTIONS_MAX:
            text = f"subscribe: {len(client.channels)} + {len(new)} subscriptions, at most {FEED_SUBSCRIPTIONS_MAX}"
            self._refuse(client, text, "TOO_MANY_SUBSCRIPTIONS")
            return
        # What is due belongs to those who were there before: the newcomer starts from the state after it.
        self._render(market, now_ns)
        self.fanout.spread()
        for feed in new:
            self._begin(client, market, feed)
        replay, complete = (None, None) if request.after_seq is None else market.tape.after(request.after_seq)
        writer = self._writers[market.index]
        home = self._homes[market.index]
        self.fanout.tell(client, writer.subscribed(feeds, epoch=home.epoch, seq=home.seq, complete=complete))
        for feed in sorted(feeds, key=_FIRST_MESSAGES.index):
            for frame in self._first_messages(market, feed, now_ns):
                self.fanout.tell(client, frame)
        for trade in replay or ():
            self.fanout.tell(client, writer.trade(trade))

    def _unsubscribe(self, client: Client, index: int, request: classic.Request) -> None:
        wanted = request.feed_types or [feed for feed in _FIRST_MESSAGES if (index, feed) in client.channels]
        gone = [feed for feed in dict.fromkeys(wanted) if self.fanout.unsubscribe(client, (index, feed))]
        self._end([(index, feed) for feed in gone])
        self.fanout.tell(client, self._writers[index].unsubscribed(gone))

    def _begin(self, client: Client, market: Market, feed: FeedType) -> None:
        key = (market.index, feed)
        if feed == "book" and key not in self.fanout.channels:
            market.book.track(on=True)
            self._book_seq[market.index] = market.seq
        self.fanout.subscribe(client, key)

    def _end(self, keys: list[Key]) -> None:
        """Forget what was kept for channels that have ended."""
        for key in keys:
            if key in self.fanout.channels:
                continue
            index, feed = key
            self._shown.pop(key, None)
            self._candles.pop(key, None)
            if feed == "book":
                self._homes[index].market(index).book.track(on=False)
                self._resync.pop(index, None)
                self._snapshots.pop(index, None)
                del self._book_seq[index]

    def _refuse(self, client: Client, text: str, reason: str) -> None:
        self.fanout.tell(client, classic.error(text, reason))

    # --- messages ---------------------------------------------------------------------------------------------------

    def _first_messages(self, market: Market, feed: FeedType, now_ns: int) -> list[bytes]:
        """The state from which the updates of a feed go on."""
        writer = self._writers[market.index]
        match feed:
            case "level2":
                bids, asks = self._top(market)
                self._shown[market.index, feed] = (bids, asks)
                return [self._level2(market, bids, asks)]
            case "book":
                return [self._book_snapshot(market)]
            case "ticker":
                bids, asks = self._top(market)
                self._shown[market.index, feed] = (market.tape.last, bids[:1], asks[:1])
                return [self._ticker(market, bids, asks, now_ns)]
            case "status":
                return [writer.status(*self._status(market))]
            case "candles" | "candles_5m" | "candles_1h":
                name, minutes = CANDLES[feed]
                kept = market.minutes.newest(minutes, CANDLES_KEPT)
                if kept:
                    self._candles.setdefault((market.index, feed), kept[-1].minute)
                return [writer.candles(name, kept)]
            case "trades":
                return []
            case _:
                assert_never(feed)

    def _publish(self, mirror: Mirror, changes: Changes) -> None:
        channels = self.fanout.channels
        if not channels:
            return
        for traded in changes.trades:
            index = traded.market.index
            if self._homes.get(index) is not mirror:
                continue
            key = (index, "trades")
            if key in channels:
                writer = self._writers[index]
                if traded.missing:
                    self.fanout.publish(key, writer.gap(traded.missing))
                self.fanout.publish(key, writer.trade(traded.trade))
            for feed in CANDLES:
                key = (index, feed)
                if key in channels and key not in self._candles:
                    self._candles[key] = traded.trade.ts_ns // MINUTE_NS // CANDLES[feed][1] * CANDLES[feed][1]
        for market in changes.states:
            self._publish_status(market)

    def _render(self, market: Market, now_ns: int) -> None:
        index = market.index
        channels = self.fanout.channels
        level2, ticker, book = (index, "level2"), (index, "ticker"), (index, "book")
        if level2 not in channels and ticker not in channels and book not in channels:
            return
        bids, asks = self._top(market)
        if level2 in channels and self._shown.get(level2) != (bids, asks):
            self._shown[level2] = (bids, asks)
            self.fanout.publish(level2, self._level2(market, bids, asks))
        if ticker in channels:
            content = (market.tape.last, bids[:1], asks[:1])
            if self._shown.get(ticker) != content:
                self._shown[ticker] = content
                self.fanout.publish(ticker, self._ticker(market, bids, asks, now_ns))
        if book in channels:
            self._render_book(market, bids, asks)

    def _render_book(self, market: Market, bids: list[Level], asks: list[Level]) -> None:
        index = market.index
        changed_bids, changed_asks = market.book.bids.take_changes(), market.book.asks.take_changes()
        if index in self._resync:
            del self._resync[index]
            self._book_seq[index] = market.seq
            self.fanout.publish((index, "book"), self._book_snapshot(market))
        elif changed_bids or changed_asks:
            previous, self._book_seq[index] = self._book_seq[index], market.seq
            frame = self._writers[index].book_update(
                changed_bids,
                changed_asks,
                epoch=market.epoch,
                prev_seq=previous,
                seq=market.seq,
                checksum=checksum(bids, asks),
            )
            self.fanout.publish((index, "book"), frame)

    def _book_snapshot(self, market: Market) -> bytes:
        """All levels as of the last update published; encoded once for all who ask between two updates."""
        seq = self._book_seq[market.index]
        kept = self._snapshots.get(market.index)
        if kept is not None and kept[0] == seq:
            return kept[1]
        book = market.book
        frame = self._writers[market.index].book_snapshot(
            book.bids.top(len(book.bids)),
            book.asks.top(len(book.asks)),
            epoch=market.epoch,
            seq=seq,
            checksum=book.checksum(),
        )
        self._snapshots[market.index] = (seq, frame)
        return frame

    def _top(self, market: Market) -> tuple[list[Level], list[Level]]:
        return market.book.bids.top(LEVEL2_DEPTH), market.book.asks.top(LEVEL2_DEPTH)

    def _level2(self, market: Market, bids: list[Level], asks: list[Level]) -> bytes:
        return self._writers[market.index].level2(bids, asks, ts_ns=market.ts_ns, epoch=market.epoch, seq=market.seq)

    def _ticker(self, market: Market, bids: list[Level], asks: list[Level], now_ns: int) -> bytes:
        return self._writers[market.index].ticker(
            market.tape.last,
            bids[0] if bids else None,
            asks[0] if asks else None,
            market.minutes.day(now_ns),
            ts_ns=market.ts_ns,
            epoch=market.epoch,
            seq=market.seq,
        )

    def _publish_candles(self, key: Key, now_ns: int) -> None:
        """Publish the candles of a channel from the one last published on, if they changed; forget a closed one."""
        index, feed = key
        name, minutes = CANDLES[feed]
        closed = True
        for candle in self._homes[index].market(index).minutes.newest(minutes, _CANDLES_LATE):
            if candle.minute < self._candles[key]:
                continue
            closed = now_ns >= (candle.minute + minutes) * MINUTE_NS
            content = (candle.minute, candle.trades, closed)
            if self._shown.get(key) != content:
                self._shown[key] = content
                self.fanout.publish(key, self._writers[index].candle(name, candle, closed=closed))
            self._candles[key] = candle.minute
        if closed:
            del self._candles[key]

    def _publish_status(self, market: Market) -> None:
        key = (market.index, "status")
        if key in self.fanout.channels:
            self.fanout.publish(key, self._writers[market.index].status(*self._status(market)))

    def _status(self, market: Market) -> tuple[str, str]:
        shard = self._homes[market.index].shard
        if not self.live(shard):
            return "STALE", f"event stream of shard {shard} is not live"
        return market.state.name, market.actor


_FIRST_MESSAGES: tuple[FeedType, ...] = (
    "level2",
    "book",
    "ticker",
    "status",
    "candles",
    "candles_5m",
    "candles_1h",
    "trades",
)
"""All feeds in the order in which a new subscriber gets their first message: level2 at once after the answer."""
