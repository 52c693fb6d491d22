"""What holds after any history, on either engine: conservation, an uncrossed book, replay and re-cutting."""

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from msgspec.structs import replace as with_fields

from exchange import messages as m
from exchange.domain import OrderEvent
from exchange.wire import array_header, decode_frame, decode_replies
from shard.core.engine import Engine
from shard.core.outcome import decode_outcome
from tests.engine.conftest import NewStage
from tests.engine.flows import Batch, Flow
from tests.engine.test_differential import state

SEEDS = range(100, 108)
COMMANDS = 1_500


class Ledger:
    """Follows orders and positions by events alone, as any consumer of the stream would."""

    def __init__(self) -> None:
        self.entered: Counter[int] = Counter()
        self.filled: Counter[int] = Counter()
        self.given_up: Counter[int] = Counter()
        self.leaves: dict[int, int] = {}
        self.positions: Counter[tuple[str, int]] = Counter()
        self.levels: dict[tuple[int, int, int], tuple[int, int]] = {}

    def follow(self, frame: m.EventFrame) -> None:
        rows: list[m.TradeRow | m.OrderRow] = [*frame.trades, *frame.orders]
        for row in sorted(rows, key=lambda row: (row.seq, row.sub)):
            if isinstance(row, m.TradeRow):
                self._trade(row)
            else:
                self._order(row)
        for level in frame.levels:
            self.levels[level.instrument, level.side, level.price] = (level.quantity, level.orders)
        for position in frame.positions:
            assert self.positions[position.account, position.instrument] == position.position

    def _trade(self, row: m.TradeRow) -> None:
        instrument = row.trade_id >> 40
        bought = row.quantity if row.taker_side == 0 else -row.quantity
        self.positions[row.taker_account, instrument] += bought
        self.positions[row.maker_account, instrument] -= bought
        for order_id, leaves in (row.taker_order_id, row.taker_leaves), (row.maker_order_id, row.maker_leaves):
            self.filled[order_id] += row.quantity
            assert self.leaves[order_id] - row.quantity == leaves
            self.leaves[order_id] = leaves

    def _order(self, row: m.OrderRow) -> None:
        match OrderEvent(row.kind):
            case OrderEvent.ACCEPTED:
                self.entered[row.order_id] = row.quantity
                self.leaves[row.order_id] = row.leaves
            case OrderEvent.REPLACED:
                assert row.quantity == self.filled[row.order_id] + row.leaves
                self.entered[row.order_id] = row.quantity
                self.given_up[row.order_id] = 0
                self.leaves[row.order_id] = row.leaves
            case OrderEvent.REDUCED:
                assert self.leaves[row.order_id] - row.quantity == row.leaves
                self.given_up[row.order_id] += row.quantity
                self.leaves[row.order_id] = row.leaves
            case OrderEvent.CANCELLED | OrderEvent.EXPIRED:
                assert self.leaves[row.order_id] == row.quantity
                self.given_up[row.order_id] += row.quantity
                self.leaves[row.order_id] = 0
            case OrderEvent.REJECTED:
                pass


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_created_or_lost(new_stage: NewStage, seed: int) -> None:
    flow = Flow(seed, COMMANDS)
    engine = new_stage(flow.config).engine
    ledger = Ledger()
    for record in flow.records():
        _, frame = decode_outcome(engine.apply(record))
        ledger.follow(decode_frame(frame))
        check_books(engine, ledger)
    for order_id, quantity in ledger.entered.items():
        assert quantity == ledger.filled[order_id] + ledger.leaves[order_id] + ledger.given_up[order_id]
    by_instrument: Counter[int] = Counter()
    for (_, instrument), position in ledger.positions.items():
        by_instrument[instrument] += position
    assert sorted(by_instrument.values()) == [0] * len(by_instrument)
    assert len(ledger.entered) > 100


def check_books(engine: Engine, ledger: Ledger) -> None:
    """Books are never crossed, equal the levels of the stream, and hold exactly the orders the stream leaves open."""
    image = decode_frame(engine.image())
    assert [(row.instrument, row.side, row.price, row.quantity, row.orders) for row in image.levels] == [
        (*key, *depth) for key, depth in sorted(ledger.levels.items()) if depth != (0, 0)
    ]
    resting = 0
    for instrument in (row.instrument for row in image.states):
        bids, asks = msgspec.msgpack.decode(engine.book(instrument))
        assert not bids or not asks or bids[0][0] < asks[0][0]
        for _, orders in (*bids, *asks):
            resting += len(orders)
            assert [leaves for _, leaves in orders] == [ledger.leaves[order_id] for order_id, _ in orders]
    assert engine.orders() == resting == sum(leaves > 0 for leaves in ledger.leaves.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_prefix_and_a_snapshot_are_as_good_as_the_whole(new_stage: NewStage, seed: int) -> None:
    flow = Flow(seed, COMMANDS)
    records = list(flow.records())
    whole = new_stage(flow.config).engine
    outcomes, snapshots = [], []
    for record in records:
        snapshots.append(whole.snapshot())
        outcomes.append(whole.apply(record))
    for cut in range(0, len(records), max(1, len(records) // 6)):
        resumed = new_stage(flow.config).engine
        resumed.restore(snapshots[cut])
        assert resumed.snapshot() == snapshots[cut]
        assert [resumed.apply(record) for record in records[cut:]] == outcomes[cut:]
        assert state(resumed) == state(whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_restore_replaces_whatever_was_there(new_stage: NewStage, seed: int) -> None:
    flow, other = Flow(seed, 400), Flow(seed + 1_000, 400)
    engine, busy = new_stage(flow.config).engine, new_stage(flow.config).engine
    for record in flow.records():
        engine.apply(record)
    for record in other.records():
        busy.apply(record)
    busy.restore(engine.snapshot())
    assert state(busy) == state(engine)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("piece", [1, 7])
def test_the_cut_into_records_does_not_matter(new_stage: NewStage, seed: int, piece: int) -> None:
    """The same commands in one record or in many answer alike, tell the same events and leave the same books.

    Each record has an instant of its own, so commands that look at the time are left out.
    """
    flow = Flow(seed, COMMANDS)
    flow.batches = [timeless(batch) for batch in flow.batches if timeless(batch).commands]
    whole, pieces = new_stage(flow.config).engine, new_stage(flow.config).engine
    at_once = [told(whole.apply(record)) for record in flow.records()]
    bit_by_bit = [told(pieces.apply(record)) for record in flow.records(batch_commands_max=piece)]
    assert len(bit_by_bit) > len(at_once)
    for part in (0, 1):
        assert [row for record in at_once for row in record[part]] == [
            row for record in bit_by_bit for row in record[part]
        ]
    assert books(whole) == books(pieces)


def timeless(batch: Batch) -> Batch:
    return replace(batch, commands=tuple(command for command in batch.commands if not looks_at_time(command)))


def looks_at_time(command: m.Command) -> bool:
    stamped = any(getattr(command, name, 0) for name in ("expire_ns", "deadline_ns", "client_ns"))
    return stamped or isinstance(command, m.Tick | m.ArmDeadMan)


def told(outcome: bytes) -> tuple[list[m.Reply], list[m.TradeRow | m.OrderRow | m.StateRow]]:
    """Replies and rows of an outcome, without instants."""
    encoded, frame = decode_outcome(outcome)
    rows = decode_frame(frame)
    replies = []
    for reply in decode_replies(array_header(len(encoded)) + b"".join(encoded)):
        if isinstance(reply, m.Order):
            reply = with_fields(reply, info=with_fields(reply.info, created_ns=0))
        if isinstance(reply, m.Orders):
            reply = with_fields(reply, infos=[with_fields(info, created_ns=0) for info in reply.infos])
        replies.append(with_fields(reply, ts_ns=0))
    events: list[m.TradeRow | m.OrderRow | m.StateRow] = [*rows.trades, *rows.orders, *rows.states]
    return replies, sorted(events, key=lambda row: (row.seq, row.sub))


def books(engine: Engine) -> list[bytes]:
    return [engine.book(row.instrument) for row in decode_frame(engine.image()).states]
