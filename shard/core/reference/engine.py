"""The reference engine's face: records in, outcomes out."""

from hashlib import sha256
from typing import assert_never
from zlib import crc32

import msgspec

from exchange import messages as m
from exchange.domain import Side
from exchange.wire import encode
from shard.core.commands import NS_MAX, admit, decode_payload
from shard.core.outcome import encode_outcome
from shard.core.record import RecordHead, decode_record
from shard.core.reference.administration import Administration
from shard.core.reference.answers import Answers
from shard.core.reference.frame import Frame
from shard.core.reference.market import Market
from shard.core.reference.matching import Matching
from shard.core.reference.queries import Queries
from shard.core.reference.snapshot import read_snapshot, write_snapshot
from shard.core.reference.trading import Trading


class ReferenceEngine:
    """One shard's matching state. Single-threaded; every method is deterministic."""

    def __init__(self, config: bytes) -> None:
        """`config` is a MessagePack EngineConfig; ValueError when it is malformed or a ceiling is out of range."""
        self._take(Market(_decode_config(config)))

    # --- face ---------------------------------------------------------------------------------------------------

    def admit(self, payload: bytes, allowed: int) -> int:
        """Static check of a MessagePack array of commands; how many there are. ValueError names the fault."""
        return admit(payload, allowed)

    def apply(self, record: bytes) -> bytes:
        """Execute one journal record and return its outcome (PROTOCOL 1.4). ValueError changes nothing."""
        head, payload = decode_record(record)
        commands = decode_payload(payload, head.count)
        self._check_follows(head, commands)
        market = self._market
        market.epoch = head.epoch
        market.ts_ns = head.ts_ns
        market.frame = Frame()
        replies = []
        for command in commands:
            market.seq += 1
            market.frame.begin(market.seq)
            replies.append(encode(self._execute(command)))
        outcome = self._outcome(head, replies)
        market.trail = crc32(outcome, market.trail)
        return outcome

    def snapshot(self) -> bytes:
        """Canonical state (PROTOCOL 1.6). O(state)."""
        return write_snapshot(self._market)

    def restore(self, snapshot: bytes) -> None:
        """Replace all state by what `snapshot` wrote. ValueError on anything malformed, which changes nothing."""
        self._take(read_snapshot(snapshot, self._market.config))

    def digest(self) -> int:
        """First 8 bytes of the SHA-256 of the snapshot, little-endian. O(state)."""
        return int.from_bytes(sha256(self.snapshot()).digest()[:8], "little")

    def trail(self) -> int:
        """Rolling CRC-32 over every outcome since the first record. O(1)."""
        return self._market.trail

    def image(self) -> bytes:
        """An EventFrame of everything that is: levels, positions, states. O(state)."""
        market = self._market
        levels = [
            m.LevelRow(index, side, level.price, level.quantity, len(level.orders))
            for index, instrument in sorted(market.instruments.items())
            for side in Side
            for level in sorted(instrument.sides[side].best_first(), key=lambda level: level.price)
        ]
        positions = [
            m.PositionRow(account.name, index, *holding.state())
            for account in market.accounts
            for index, holding in sorted(account.holdings.items())
            if any(holding.state())
        ]
        states = [m.StateRow(market.seq, 0, index, of.state, "") for index, of in sorted(market.instruments.items())]
        frame = m.EventFrame(market.epoch, market.seq, market.seq, market.ts_ns, [], levels, positions, [], states)
        return encode(frame)

    def book(self, instrument: int) -> bytes:
        """MessagePack `[bids, asks]` of one instrument. ValueError when it is not defined."""
        of = self._market.instruments.get(instrument)
        if of is None:
            raise ValueError(f"instrument {instrument} is not defined")
        return encode(
            [
                [[level.price, [[o.order_id, o.leaves] for o in level.orders.values()]] for level in side.best_first()]
                for side in of.sides
            ]
        )

    def seq(self) -> int:
        return self._market.seq

    def epoch(self) -> int:
        return self._market.epoch

    def ts(self) -> int:
        return self._market.ts_ns

    def orders(self) -> int:
        return self._market.orders_open

    def _take(self, market: Market) -> None:
        """Make a market this engine's own."""
        self._market = market
        self._answers = Answers(market)
        matching = Matching(market, self._answers)
        self._trading = Trading(market, self._answers, matching)
        self._administration = Administration(market, self._answers, matching)
        self._queries = Queries(market, self._answers)

    # --- record -------------------------------------------------------------------------------------------------

    def _check_follows(self, head: RecordHead, commands: list[m.Command]) -> None:
        market = self._market
        if head.first_seq != market.seq + 1:
            raise ValueError(f"record: first_seq {head.first_seq} does not follow {market.seq}")
        if head.ts_ns <= market.ts_ns:
            raise ValueError(f"record: ts_ns {head.ts_ns} is not above {market.ts_ns}")
        if head.epoch < market.epoch:
            raise ValueError(f"record: epoch {head.epoch} is below {market.epoch}")
        if head.epoch > market.epoch and not isinstance(commands[0], m.EpochStart):
            raise ValueError(f"record: epoch {head.epoch} does not begin with an EpochStart")
        for command in commands:
            if isinstance(command, m.EpochStart) and command.epoch != head.epoch:
                raise ValueError(f"record: EpochStart of {command.epoch} in a record of epoch {head.epoch}")

    def _execute(self, command: m.Command) -> m.Reply:
        match command:
            case m.Submit():
                return self._trading.submit(command)
            case m.Cancel():
                return self._trading.cancel(command)
            case m.Replace() | m.Reduce():
                return self._trading.amend(command)
            case m.MassCancel():
                return self._administration.mass_cancel(command)
            case m.SetState():
                return self._administration.set_state(command)
            case m.DefineInstrument():
                return self._administration.define_instrument(command)
            case m.SetPositionLimit():
                return self._administration.set_position_limit(command)
            case m.Tick():
                return self._administration.tick()
            case m.EpochStart():
                return self._answers.done()
            case m.QueryOrder():
                return self._queries.query_order(command)
            case m.QueryOpen():
                return self._queries.query_open(command)
            case m.Resolve():
                return self._queries.resolve(command)
            case m.ArmDeadMan():
                return self._administration.arm_dead_man(command)
            case _:
                assert_never(command)

    def _outcome(self, head: RecordHead, replies: list[bytes]) -> bytes:
        market = self._market
        frame = market.frame
        levels = []
        for (index, side, price), before in sorted(frame.levels_before.items()):
            after = market.instruments[index].sides[side].depth_at(price)
            if after != before:
                levels.append(m.LevelRow(index, side, price, *after))
        positions = []
        for (account_index, index), held in sorted(frame.holdings_before.items()):
            account = market.accounts[account_index]
            holds = account.holding(index).state()
            if holds != held:
                positions.append(m.PositionRow(account.name, index, *holds))
        event_frame = encode(
            m.EventFrame(
                head.epoch,
                head.first_seq,
                head.last_seq,
                head.ts_ns,
                frame.trades,
                levels,
                positions,
                frame.orders,
                frame.states,
            )
        )
        return encode_outcome(replies, event_frame)


def _decode_config(config: bytes) -> m.EngineConfig:
    try:
        decoded = msgspec.msgpack.decode(config, type=m.EngineConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise ValueError(f"engine config: {fault}") from None
    for name in ("orders_max", "accounts_max", "ids_max", "ids_per_account_max", "open_orders_max"):
        if not 1 <= getattr(decoded, name) < 1 << 31:
            raise ValueError(f"engine config: {name} {getattr(decoded, name)} is not in 1..2^31-1")
    if not 0 <= decoded.ids_window_ns <= NS_MAX:
        raise ValueError(f"engine config: ids_window_ns {decoded.ids_window_ns} is not in 0..2^62")
    return decoded
