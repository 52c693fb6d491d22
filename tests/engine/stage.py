"""A stage for stories about one engine: commands go in, one list of plain sentences comes out.

For each command its rows in the order in which they happened, then its reply:

    ACCEPTED ann/1 BUY 10@100 leaves 10       order rows: account/client order id, side, quantity@price, leaves, reason
    TRADE 4@100 bob/2 (0) with ann/1 (6)      taker and maker with what is left of each
    STATE 0 HALT by ops
    -> NEW filled 0 remaining 10              Executed; "again" marks a repeated first answer
    -> rejected LOT_SIZE 7, 5                 Rejected: code, value, bound
"""

from itertools import groupby

import msgspec

from exchange import messages as m
from exchange.domain import OrderEvent, Reject, Side, State, Status
from exchange.wire import array_header, decode_frame, decode_replies, encode
from shard.core.engine import Engine, create_engine
from shard.core.outcome import decode_outcome
from shard.core.record import chain_after, encode_record

CONFIG = m.EngineConfig(
    orders_max=10_000,
    accounts_max=100,
    ids_max=20_000,
    ids_per_account_max=10_000,
    ids_window_ns=1_000_000,
    open_orders_max=8_000,
)
BUY, SELL = Side.BUY, Side.SELL
LIMIT, MARKET = 0, 1
GTC, IOC, FOK, DAY, GTD = range(5)
POST_ONLY = 1
NONE, NEWEST, OLDEST, BOTH, DECREMENT = range(5)


def define(
    index: int = 0,
    symbol: str = "BTC-USD",
    *,
    tick: int = 1,
    lot: int = 1,
    quantity: tuple[int, int] = (1, 10**15),
    price: tuple[int, int] = (0, 10**15),
    collar_bps: int = 0,
    reference_price: int = 0,
    position_limit: int = -1,
) -> m.DefineInstrument:
    return m.DefineInstrument(
        index, symbol, tick, lot, *quantity, *price, collar_bps, reference_price, position_limit
    )  # fmt: skip


def order(
    who: str,
    side: Side,
    quantity: int,
    price: int = 0,
    *,
    kind: int = LIMIT,
    tif: int = GTC,
    flags: int = 0,
    self_trade: int = NEWEST,
    instrument: int = 0,
    expire_ns: int = 0,
    deadline_ns: int = 0,
    client_ns: int = 0,
) -> m.Submit:
    """`who` is "account/client order id"."""
    account, id_ = who.split("/")
    return m.Submit(
        account,
        id_,
        instrument,
        side,
        kind,
        tif,
        flags,
        self_trade,
        price,
        quantity,
        expire_ns,
        deadline_ns,
        client_ns,
    )


def cancel(who: str, *, instrument: int = 0, order_id: int = 0, deadline_ns: int = 0) -> m.Cancel:
    account, id_ = who.split("/")
    return m.Cancel(account, instrument, order_id, id_, deadline_ns)


def replace(
    who: str,
    quantity: int,
    price: int,
    *,
    id_: str = "",
    basis: int = 0,
    instrument: int = 0,
    order_id: int = 0,
    deadline_ns: int = 0,
    client_ns: int = 0,
) -> m.Replace:
    """Of the order `who`, under the client order id `id_`."""
    account, target = who.split("/")
    return m.Replace(account, id_, instrument, order_id, target, price, quantity, basis, deadline_ns, client_ns)


def reduce(
    who: str, quantity: int, *, id_: str = "", instrument: int = 0, order_id: int = 0, deadline_ns: int = 0
) -> m.Reduce:
    account, target = who.split("/")
    return m.Reduce(account, id_, instrument, order_id, target, quantity, deadline_ns)


class Stage:
    """One engine and the journal that leads to its state. Time is one nanosecond a record unless a story says more."""

    def __init__(self, *, reference: bool, config: m.EngineConfig = CONFIG) -> None:
        self.config = config
        self.reference = reference
        self.engine: Engine = create_engine(config, reference=reference)
        self.journal: list[bytes] = []
        self._chain = 0

    def record(self, *commands: m.Command, ts_ns: int = 0, epoch: int | None = None) -> bytes:
        """The next record, not yet applied."""
        return encode_record(
            epoch=self.engine.epoch() if epoch is None else epoch,
            first_seq=self.engine.seq() + 1,
            ts_ns=ts_ns or self.engine.ts() + 1,
            prev_chain=self._chain,
            commands=[encode(command) for command in commands],
        )

    def apply(self, record: bytes) -> tuple[list[m.Reply], m.EventFrame]:
        replies, frame = decode_outcome(self.engine.apply(record))
        self.extend(record)
        return decode_replies(array_header(len(replies)) + b"".join(replies)), decode_frame(frame)

    def extend(self, record: bytes) -> None:
        """The record was applied: the next one follows it."""
        self.journal.append(record)
        self._chain = chain_after(record)

    def run(self, *commands: m.Command, ts_ns: int = 0, epoch: int | None = None) -> tuple[list[m.Reply], m.EventFrame]:
        """Apply one record of these commands."""
        return self.apply(self.record(*commands, ts_ns=ts_ns, epoch=epoch))

    def tell(self, *commands: m.Command, ts_ns: int = 0) -> list[str]:
        """Apply one record of these commands and say what happened."""
        replies, frame = self.run(*commands, ts_ns=ts_ns)
        rows: list[m.TradeRow | m.OrderRow | m.StateRow] = [*frame.trades, *frame.orders, *frame.states]
        rows.sort(key=lambda row: (row.seq, row.sub))
        for seq, of_command in groupby(rows, key=lambda row: row.seq):
            subs = [row.sub for row in of_command]
            assert subs == list(range(len(subs))), f"sub numbers of command {seq} have gaps: {subs}"
        story = []
        for seq, reply in enumerate(replies, frame.first_seq):
            story += [tell_row(row) for row in rows if row.seq == seq]
            story.append(tell_reply(reply))
        return story

    def setup(self, *commands: m.Command) -> None:
        """Apply one record that is no part of the story; every command must take effect."""
        refused = [line for line in self.tell(*commands) if "rejected" in line]
        assert not refused, refused

    def book(self, instrument: int = 0) -> str:
        """All resting quantities, "bids | asks", best first, oldest first."""
        sides = msgspec.msgpack.decode(self.engine.book(instrument))
        return " | ".join(
            " ".join(f"{'+'.join(str(leaves) for _, leaves in orders)}@{price}" for price, orders in side)
            for side in sides
        )

    def again(self) -> "Stage":
        """A second stage with a fresh engine of the same kind and nothing applied."""
        return Stage(reference=self.reference, config=self.config)


def tell_row(row: m.TradeRow | m.OrderRow | m.StateRow) -> str:
    if isinstance(row, m.TradeRow):
        taker = f"{row.taker_account}/{row.taker_client_order_id} ({row.taker_leaves})"
        maker = f"{row.maker_account}/{row.maker_client_order_id} ({row.maker_leaves})"
        return f"TRADE {row.quantity}@{row.price} {taker} with {maker}"
    if isinstance(row, m.StateRow):
        return f"STATE {row.instrument} {State(row.state).name} by {row.actor}".rstrip()
    words = [
        OrderEvent(row.kind).name,
        f"{row.account}/{row.client_order_id}",
        Side(row.side).name,
        f"{row.quantity}@{row.price}",
        f"leaves {row.leaves}",
    ]
    if row.reason:
        words.append(Reject(row.reason).name)
    return " ".join(words)


def tell_reply(reply: m.Reply) -> str:
    again = " again" if getattr(reply, "duplicate", False) else ""
    match reply:
        case m.Executed():
            reason = f" {Reject(reply.reason).name}" if reply.reason else ""
            status = Status(reply.status).name
            return f"-> {status}{reason} filled {reply.filled} remaining {reply.remaining}{again}"
        case m.Rejected():
            return f"-> rejected {Reject(reply.code).name} {reply.value}, {reply.bound}{again}"
        case m.Order():
            return f"-> {tell_info(reply.info)}"
        case m.Orders():
            infos = ", ".join(tell_info(info) for info in reply.infos)
            return f"-> [{infos}]{' and more' if reply.more else ''}"
        case m.Swept():
            return f"-> swept {reply.count}"
        case m.Done():
            return "-> done"


def tell_info(info: m.OrderInfo) -> str:
    reason = f" {Reject(info.reason).name}" if info.reason else ""
    side, status = Side(info.side).name, Status(info.status).name
    filled = f"filled {info.filled} leaves {info.leaves}"
    return f"{info.client_order_id} {side} {info.quantity}@{info.price} {filled} {status}{reason}"
