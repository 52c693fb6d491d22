"""Snapshots of the reference engine (PROTOCOL 1.6): the market to canonical bytes and back.

The rows below say types and ranges, `read_snapshot` checks what the rows say about each other and rebuilds the market,
and the last word is that the rebuilt market must write the very same bytes.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from exchange.domain import (
    ALL_INSTRUMENTS,
    INSTRUMENTS_MAX,
    OPEN_QUANTITY_MAX,
    ORDER_COUNTER_BITS,
    PRICE_MAX,
    Kind,
    Reject,
    SelfTrade,
    State,
    Status,
    TimeInForce,
    compose_id,
    instrument_of,
)
from exchange.messages import DefineInstrument, EngineConfig, Executed, Fill, Rejected, Wire
from exchange.wire import encode
from shard.core.commands import ACCOUNT_ALPHABET, CLIENT_ORDER_ID_ALPHABET, NS_MAX, check_command
from shard.core.reference.book import RESTING, Instrument, Order
from shard.core.reference.frame import Frame
from shard.core.reference.market import Account, Market
from shard.core.reference.window import REDUCE, REPLACE, SUBMIT, TOMBSTONE, Entry, Window

VERSION = 1

Bit = Annotated[int, Meta(ge=0, le=1)]
StateNo = Annotated[int, Meta(ge=0, le=int(max(State)))]
SelfTradeNo = Annotated[int, Meta(ge=0, le=int(max(SelfTrade)))]
TimeInForceNo = Annotated[int, Meta(ge=0, le=int(max(TimeInForce)))]
StatusNo = Annotated[int, Meta(ge=0, le=int(max(Status)))]
FinalStatusNo = Annotated[int, Meta(ge=int(Status.FILLED), le=int(Status.EXPIRED))]
Tag = Annotated[int, Meta(ge=SUBMIT, le=TOMBSTONE)]
Code = Annotated[int, Meta(ge=0, le=int(max(Reject)))]
U32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
U63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
U64 = Annotated[int, Meta(ge=0)]
I64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Instant = Annotated[int, Meta(ge=0, le=NS_MAX)]
Quantity = Annotated[int, Meta(ge=0, le=OPEN_QUANTITY_MAX)]
Leaves = Annotated[int, Meta(ge=1, le=OPEN_QUANTITY_MAX)]
Position = Annotated[int, Meta(ge=-OPEN_QUANTITY_MAX, le=OPEN_QUANTITY_MAX)]
Price = Annotated[int, Meta(ge=0, le=PRICE_MAX)]
Counter = Annotated[int, Meta(ge=0, le=(1 << ORDER_COUNTER_BITS) - 1)]
Id = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]
Index = Annotated[int, Meta(ge=0, le=INSTRUMENTS_MAX - 1)]
Name = Annotated[str, Meta(pattern=rf"\A[{ACCOUNT_ALPHABET}]{{1,32}}\Z")]
ClientOrderId = Annotated[str, Meta(pattern=rf"\A[{CLIENT_ORDER_ID_ALPHABET}]{{1,36}}\Z")]


class InstrumentRow(Wire, frozen=True):
    index: int
    symbol: str
    tick: int
    lot: int
    quantity_min: int
    quantity_max: int
    price_min: int
    price_max: int
    collar_bps: int
    reference_price: int
    position_limit: int
    state: StateNo
    last_price: Price
    orders_counter: Counter
    trades_counter: Counter


class AccountRow(Wire, frozen=True):
    name: Name
    bound_ns: Instant


class HoldingRow(Wire, frozen=True):
    account_index: U32
    instrument: Index
    position: Position
    limit: Annotated[int, Meta(ge=-1, le=NS_MAX)]


class OpenOrderRow(Wire, frozen=True):
    order_id: Id
    account_index: U32
    client_order_id: ClientOrderId
    side: Bit
    time_in_force: TimeInForceNo
    flags: Bit
    self_trade: SelfTradeNo
    price: Price
    quantity: Leaves
    leaves: Leaves
    created_ns: Instant
    expire_ns: Instant


class MemoryRow(Wire, frozen=True):
    side: Bit
    kind: Bit
    time_in_force: TimeInForceNo
    flags: Bit
    self_trade: SelfTradeNo
    price: Price
    quantity: Quantity
    filled: Quantity
    status: FinalStatusNo
    reason: Code
    created_ns: Instant
    expire_ns: Instant


class FillRow(Wire, frozen=True):
    trade_id: Id
    price: Price
    quantity: Leaves


class EntryRow(Wire, frozen=True):
    account_index: U32
    op: Tag
    instrument: Index
    client_order_id: ClientOrderId
    hash: U64
    epoch: U32
    seq: U63
    ts_ns: Instant
    client_ns: Instant
    code: Code
    value: I64
    bound: I64
    order_id: Id
    status: StatusNo
    reason: Code
    filled: Quantity
    remaining: Quantity
    fills: list[FillRow]
    memory: msgspec.Raw


class DeadManRow(Wire, frozen=True):
    account_index: U32
    instrument: Annotated[int, Meta(ge=0, le=ALL_INSTRUMENTS)]
    deadline_ns: Instant


class Snapshot(Wire, frozen=True):
    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    epoch: U32
    seq: U63
    ts_ns: Instant
    trail: U32
    instruments: list[InstrumentRow]
    accounts: list[AccountRow]
    holdings: list[HoldingRow]
    orders: list[OpenOrderRow]
    window: list[EntryRow]
    dead_men: list[DeadManRow]
    cursor: U32


_CODES = tuple(int(code) for code in Reject)
_OPS = (SUBMIT, REPLACE, REDUCE, TOMBSTONE)
_NO_MEMORY = msgspec.Raw(b"\x90")
_decode = msgspec.msgpack.Decoder(Snapshot).decode
_decode_memory = msgspec.msgpack.Decoder(MemoryRow).decode


def write_snapshot(market: Market) -> bytes:
    """Canonical bytes of all replicated state."""
    ascending = sorted(market.instruments.items())
    return encode(
        Snapshot(
            VERSION,
            market.epoch,
            market.seq,
            market.ts_ns,
            market.trail,
            [_instrument_row(index, instrument) for index, instrument in ascending],
            [AccountRow(account.name, account.window.bound_ns) for account in market.accounts],
            [
                HoldingRow(account.index, index, holding.position, holding.limit)
                for account in market.accounts
                for index, holding in sorted(account.holdings.items())
                if holding.position or holding.limit >= 0
            ],
            [_order_row(order) for _, instrument in ascending for order in instrument.orders()],
            [
                _entry_row(account.index, entry)
                for account in market.accounts
                for entry in account.window.entries.values()
            ],
            [DeadManRow(*key, deadline_ns) for key, deadline_ns in sorted(market.dead_men.items())],
            market.cursor,
        )
    )


def read_snapshot(snapshot: bytes, config: EngineConfig) -> Market:
    """A market in the state that `snapshot` tells. ValueError when no market could have written it."""
    try:
        rows = _decode(snapshot)
        memories = [None if row.memory == _NO_MEMORY else _decode_memory(row.memory) for row in rows.window]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise ValueError(f"snapshot: {fault}") from None
    _check(len(rows.accounts) <= config.accounts_max, f"{len(rows.accounts)} accounts exceed accounts_max")
    _check(len(rows.orders) <= config.orders_max, f"{len(rows.orders)} open orders exceed orders_max")
    _check(len(rows.window) <= config.ids_max, f"{len(rows.window)} window entries exceed ids_max")
    _check(rows.cursor < max(1, len(rows.accounts)), f"cursor {rows.cursor} is beyond the accounts")
    market = Market(config)
    market.epoch, market.seq, market.ts_ns, market.trail = rows.epoch, rows.seq, rows.ts_ns, rows.trail
    market.cursor = rows.cursor
    for instrument_row in rows.instruments:
        _read_instrument(market, instrument_row)
    for account_row in rows.accounts:
        _check(account_row.name not in market.accounts_by_name, f"account {account_row.name} stands twice")
        account = Account(len(market.accounts), account_row.name, Window(account_row.bound_ns))
        market.accounts.append(account)
        market.accounts_by_name[account.name] = account
    for holding_row in rows.holdings:
        holding = _account(market, holding_row.account_index).holding(holding_row.instrument)
        _check(holding_row.instrument in market.instruments, f"instrument {holding_row.instrument} is not defined")
        holding.position, holding.limit = holding_row.position, holding_row.limit
    for order_row in rows.orders:
        _read_order(market, order_row)
    for entry_row, memory in zip(rows.window, memories, strict=True):
        _read_entry(market, entry_row, memory)
    for dead_man in rows.dead_men:
        index = dead_man.instrument
        _check(index == ALL_INSTRUMENTS or index in market.instruments, f"instrument {index} is not defined")
        market.dead_men[_account(market, dead_man.account_index).index, index] = dead_man.deadline_ns
    _check_market(market)
    _check(write_snapshot(market) == snapshot, "the bytes are not canonical")
    market.frame = Frame()
    return market


def _check(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(f"snapshot: {fault}")


def _account(market: Market, index: int) -> Account:
    _check(index < len(market.accounts), f"account index {index} is beyond the accounts")
    return market.accounts[index]


def _instrument_row(index: int, instrument: Instrument) -> InstrumentRow:
    rules = instrument.rules
    return InstrumentRow(
        index,
        rules.symbol,
        rules.tick,
        rules.lot,
        rules.quantity_min,
        rules.quantity_max,
        rules.price_min,
        rules.price_max,
        rules.collar_bps,
        rules.reference_price,
        rules.position_limit,
        instrument.state,
        instrument.last_price,
        instrument.orders_counter,
        instrument.trades_counter,
    )


def _read_instrument(market: Market, row: InstrumentRow) -> None:
    rules = DefineInstrument(*msgspec.structs.astuple(row)[:11])
    fault = check_command(rules)
    _check(fault is None, f"instrument {row.index}: {fault}")
    instrument = market.instruments[row.index] = Instrument(rules)
    instrument.state = row.state
    instrument.last_price = row.last_price
    instrument.orders_counter = row.orders_counter
    instrument.trades_counter = row.trades_counter


def _order_row(order: Order) -> OpenOrderRow:
    return OpenOrderRow(
        order.order_id,
        order.account_index,
        order.client_order_id,
        order.side,
        order.time_in_force,
        order.flags,
        order.self_trade,
        order.price,
        order.quantity,
        order.leaves,
        order.created_ns,
        order.expire_ns,
    )


def _read_order(market: Market, row: OpenOrderRow) -> None:
    index = _check_order_id(market, row.order_id)
    _check(row.order_id not in market.orders, f"order {row.order_id} stands twice")
    _check(row.time_in_force in RESTING, f"order {row.order_id}: time in force {row.time_in_force} does not rest")
    _check(row.leaves <= row.quantity, f"order {row.order_id}: leaves {row.leaves} exceed quantity {row.quantity}")
    dated = row.time_in_force == TimeInForce.GTD
    _check((row.expire_ns != 0) == dated, f"order {row.order_id}: expire_ns {row.expire_ns} without GTD or GTD without")
    order = Order(
        row.order_id,
        _account(market, row.account_index).index,
        row.client_order_id,
        index,
        row.side,
        Kind.LIMIT,
        row.time_in_force,
        row.flags,
        row.self_trade,
        row.price,
        row.quantity,
        row.quantity - row.leaves,
        row.leaves,
        row.created_ns,
        row.expire_ns,
        Status.NEW if row.leaves == row.quantity else Status.PARTIALLY_FILLED,
    )
    market.orders[order.order_id] = order
    market.rest(order)


def _check_order_id(market: Market, order_id: int) -> int:
    """The instrument of an order id that must have been given out."""
    instrument = market.instruments.get(instrument_of(order_id))
    counter = order_id & (1 << ORDER_COUNTER_BITS) - 1
    _check(
        instrument is not None and 1 <= counter <= instrument.orders_counter, f"order id {order_id} was not given out"
    )
    return instrument_of(order_id)


def _entry_row(account_index: int, entry: Entry) -> EntryRow:
    answer = entry.answer
    memory = _NO_MEMORY
    order = entry.order
    if order is not None and not order.is_open:
        memory = msgspec.Raw(
            encode(
                MemoryRow(
                    order.side,
                    order.kind,
                    order.time_in_force,
                    order.flags,
                    order.self_trade,
                    order.price,
                    order.quantity,
                    order.filled,
                    order.status,
                    order.reason,
                    order.created_ns,
                    order.expire_ns,
                )
            )
        )
    head = (account_index, entry.op, entry.instrument, entry.client_order_id, entry.hash)
    stamp = (answer.epoch, answer.seq, answer.ts_ns, entry.client_ns)
    if isinstance(answer, Rejected):
        reject = (answer.code, answer.value, answer.bound, answer.order_id)
        return EntryRow(*head, *stamp, *reject, 0, 0, 0, 0, [], memory)
    fills = [FillRow(fill.trade_id, fill.price, fill.quantity) for fill in answer.fills]
    result = (answer.order_id, answer.status, answer.reason, answer.filled, answer.remaining)
    return EntryRow(*head, *stamp, 0, 0, 0, *result, fills, memory)


def _read_entry(market: Market, row: EntryRow, memory: MemoryRow | None) -> None:
    account = _account(market, row.account_index)
    subject = f"window entry {row.client_order_id!r} of account {account.name}"
    _check(row.instrument in market.instruments, f"{subject}: instrument {row.instrument} is not defined")
    _check((row.instrument, row.client_order_id) not in account.window.entries, f"{subject} stands twice")
    _check(row.op in _OPS, f"{subject}: op {row.op} is not one of {_OPS}")
    _check(row.code in _CODES and row.reason in _CODES, f"{subject}: code {row.code} or reason {row.reason} is unknown")
    _check((row.op == TOMBSTONE) == (row.code == Reject.VOIDED), f"{subject}: code {row.code} of op {row.op}")
    _check(1 <= row.seq <= market.seq, f"{subject}: seq {row.seq} is not in 1..{market.seq}")
    _check(row.epoch <= market.epoch, f"{subject}: epoch {row.epoch} is above {market.epoch}")
    _check(row.ts_ns <= market.ts_ns, f"{subject}: ts_ns {row.ts_ns} is above {market.ts_ns}")
    stamp = (row.epoch, row.seq, row.ts_ns, False)
    answer: Executed | Rejected
    if row.code:
        answer = Rejected(*stamp, row.code, row.value, row.bound, row.order_id)
    else:
        _check(_check_order_id(market, row.order_id) == row.instrument, f"{subject}: order {row.order_id}")
        trades = market.instruments[row.instrument].trades_counter
        for fill in row.fills:
            known = compose_id(row.instrument, 1) <= fill.trade_id <= compose_id(row.instrument, trades)
            _check(known, f"{subject}: trade id {fill.trade_id} was not given out")
        fills = [Fill(fill.trade_id, fill.price, fill.quantity) for fill in row.fills]
        answer = Executed(*stamp, row.order_id, row.status, row.reason, row.filled, row.remaining, fills)
    entry = Entry(row.op, row.instrument, row.client_order_id, row.hash, row.client_ns, answer)
    if entry.holds_order:
        entry.order = _entry_order(market, account, row, memory)
        _check(entry.order is not None, f"{subject}: order {row.order_id} is not the entry's")
    else:
        _check(memory is None, f"{subject}: memory without an order")
    market.remember(account, entry)
    ids = len(account.window.entries)
    _check(ids <= market.config.ids_per_account_max, f"{ids} ids of account {account.name} exceed ids_per_account_max")


def _entry_order(market: Market, account: Account, row: EntryRow, memory: MemoryRow | None) -> Order | None:
    """The order that the entry of an accepted Submit holds: the open one of that id, or the ended one remembered."""
    order = market.orders.get(row.order_id)
    if memory is None:
        if order is None:
            return None
        whose = (order.account_index, order.client_order_id, order.created_ns)
        return order if whose == (account.index, row.client_order_id, row.ts_ns) else None
    sound = memory.filled <= memory.quantity and memory.reason in _CODES and memory.created_ns == row.ts_ns
    if order is not None or not sound:
        return None
    order = Order(
        row.order_id,
        account.index,
        row.client_order_id,
        row.instrument,
        memory.side,
        memory.kind,
        memory.time_in_force,
        memory.flags,
        memory.self_trade,
        memory.price,
        memory.quantity,
        memory.filled,
        0,
        memory.created_ns,
        memory.expire_ns,
        memory.status,
        memory.reason,
    )
    market.orders[order.order_id] = order
    return order


def _check_market(market: Market) -> None:
    """What holds between the rows."""
    held = sum(entry.held for account in market.accounts for entry in account.window.entries.values())
    _check(held == market.orders_open, f"{market.orders_open} open orders have {held} window entries")
    for index, instrument in market.instruments.items():
        bid, ask = (side.best() for side in instrument.sides)
        _check(bid is None or ask is None or bid.price < ask.price, f"instrument {index}: the book is crossed")
        for side in instrument.sides:
            _check(side.quantity <= OPEN_QUANTITY_MAX, f"instrument {index}: open quantity {side.quantity}")
    for account in market.accounts:
        for index, holding in account.holdings.items():
            position, open_buy, open_sell = holding.state()
            worst = max(position + open_buy, open_sell - position)
            _check(worst <= OPEN_QUANTITY_MAX, f"account {account.name}, instrument {index}: exposure {worst}")
