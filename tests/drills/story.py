"""A small true history of one shard of two nodes, made by the real engine: orders, a failover, repetitions, every kind
of answer. It stays a plan (`World`) until `write`, so that a test can damage any part of it first.

Term 1 is led by s0-a, and s0-b joins. s0-a dies with a record that nobody has seen; s0-b leads term 2; s0-a comes back,
archives that record, and is in sync again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from coordinator.core import records
from coordinator.core.group import Group
from coordinator.store.base import Ok, take_lease
from coordinator.store.sqlite import SqliteStore
from drills.checker.history import Call, Capture, Outcome, image_crc, outcome_of
from exchange import messages as m
from exchange.domain import NS_PER_MS, Kind, SelfTrade, Side, TimeInForce
from exchange.wire import array_header, decode_replies, encode
from shard.core.engine import create_engine
from shard.core.journal import START, Position, SegmentHead, encode_segment_head
from shard.core.outcome import decode_outcome
from shard.core.record import chain_after, encode_record
from shard.core.snapshot import encode_head
from shard.journal_file import segment_name
from shard.node_state import NodeState, SyncedNote, save_state
from shard.trace import TRACE_FILE

A, B = "s0-a", "s0-b"
BTC, ETH = 0, 1
AHEAD_BYTES = 4096
"""Zeros behind the last record: space that was taken and is not used yet."""


@dataclass
class Record:
    """One record of the plan; what is None follows from the record before."""

    epoch: int
    ts_ns: int
    commands: list[m.Command]
    first_seq: int | None = None
    prev_chain: int | None = None


@dataclass
class World:
    """Everything that `write` puts on the disk."""

    ceilings: m.EngineConfig
    log: list[Record] = field(default_factory=list)
    lost: list[Record] = field(default_factory=list)
    """What only s0-a had, behind `lost_after` records of the log."""
    lost_after: int = 0
    shorter: dict[str, int] = field(default_factory=dict)
    """Records that are missing at the end of a node's live journal."""
    own: dict[str, Record] = field(default_factory=dict)
    """The last record of a node, where it has another one than the log."""
    versions: list[Group] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    captures: list[Capture] = field(default_factory=list)
    traces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    snapshots: dict[str, dict[int, bytes]] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)
    incarnations: dict[str, int] = field(default_factory=dict)
    synced_seq: int = 0
    after_write: list[Callable[[Path], None]] = field(default_factory=list)

    def call(self, id_: str, *, nth: int = 0, op: str = "") -> int:
        """Number of the nth call that names an id."""
        return [n for n, call in enumerate(self.calls) if call.id == id_ and op in ("", call.op)][nth]

    def answer(self, id_: str, *, nth: int = 0, op: str = "", **changes: Any) -> None:
        """Change what a client says to have been answered."""
        number = self.call(id_, nth=nth, op=op)
        call = self.calls[number]
        self.calls[number] = msgspec.structs.replace(call, outcome=msgspec.structs.replace(call.outcome, **changes))


class Builder:
    """Plays clients, primary and subscriber, one record at a time."""

    def __init__(self, *, ids_window_ns: int = 10**18) -> None:
        self.world = World(m.EngineConfig(10_000, 100, 20_000, 10_000, ids_window_ns, 10_000))
        self.engine = create_engine(self.world.ceilings)
        self.now_ns = 10**12
        self._ts_ns = 10**15
        self._epoch = 0
        self._chain = 0
        self._seq = 0

    def lead(self, node: str, incarnation: int) -> None:
        """A new term begins."""
        self._epoch += 1
        rules = (1, 1, 1, 10**9, 1, 10**9, 1_000, 0, -1)
        defined = [m.DefineInstrument(BTC, "BTCUSD", *rules), m.DefineInstrument(ETH, "ETHUSD", *rules)]
        self._log([m.EpochStart(self._epoch, node, incarnation), *defined])

    def tick(self, later_ns: int = 0) -> None:
        """Log time passes."""
        self._ts_ns += later_ns
        self._log([m.Tick()])

    def ask(self, *commands: m.Command, answered: bool = True) -> list[m.Reply]:
        """Clients call at the same time, and one record has it all; not `answered` = the gateways say 504."""
        call_ns = self.now_ns
        replies = self._log(list(commands))
        self.now_ns += 3 * NS_PER_MS
        for command, reply in zip(commands, replies, strict=True):
            http = 200 if isinstance(reply, m.Executed | m.Order) else 400
            outcome = outcome_of(reply, http) if answered else Outcome(504, "UNKNOWN")
            self._call(command, outcome, call_ns)
        self.now_ns += NS_PER_MS
        return replies

    def refuse(self, command: m.Command, http: int, reason: str) -> None:
        """A gateway says no; nothing reaches the log."""
        self._call(command, Outcome(http, reason), self.now_ns)
        self.now_ns += NS_PER_MS

    def image(self, subscriber: str) -> None:
        """A subscriber starts here."""
        image = self.engine.image()
        seq = self.engine.seq()
        self.world.captures.append(Capture(subscriber, "s0", self._epoch, seq, seq, 0, True, image_crc(image)))

    def snapshot(self, node: str) -> None:
        """A node writes its state."""
        self.world.snapshots.setdefault(node, {})[self._seq] = self.engine.snapshot()

    def _call(self, command: m.Command, outcome: Outcome, call_ns: int) -> None:
        id_ = getattr(command, "client_order_id", "") or getattr(command, "target_id", "")
        op = {"QueryOrder": "query"}.get(type(command).__name__, type(command).__name__.lower())
        account, instrument = getattr(command, "account"), getattr(command, "instrument")  # noqa: B009
        self.world.calls.append(
            Call("c-" + account, account, instrument, id_, op, call_ns, self.now_ns, outcome, 1, command)
        )

    def _log(self, commands: list[m.Command]) -> list[m.Reply]:
        self._ts_ns += NS_PER_MS
        plan = Record(self._epoch, self._ts_ns, commands)
        self.world.log.append(plan)
        record, self._chain = encoded(plan, self._seq, self._chain)
        replies, frame = decode_outcome(self.engine.apply(record))
        before, self._seq = self._seq, self._seq + len(commands)
        for subscriber in dict.fromkeys(["early", *[capture.subscriber for capture in self.world.captures]]):
            self.world.captures.append(
                Capture(subscriber, "s0", self._epoch, before + 1, self._seq, before, False, crc32(frame))
            )
        return decode_replies(array_header(len(replies)) + b"".join(replies))


def order(
    id_: str,
    side: Side,
    quantity: int,
    price: int = 100,
    *,
    account: str = "ann",
    instrument: int = BTC,
    time_in_force: TimeInForce = TimeInForce.GTC,
) -> m.Submit:
    return m.Submit(account, id_, instrument, side, Kind.LIMIT, time_in_force, 0, SelfTrade.NEWEST, price, quantity)


def clean() -> Builder:
    """The story; more may be asked before it is written."""
    b = Builder()
    world = b.world
    b.lead(A, 1)
    world.versions = [
        Group(1, (A, 1), ((A, 1),)),
        Group(1, (A, 1), ((A, 1), (B, 2)), 1),
        Group(2, (B, 2), ((B, 2),), 1),
        Group(2, (B, 2), ((A, 3), (B, 2)), 2),
    ]
    b.ask(order("a1", Side.BUY, 10), order("b1", Side.SELL, 4, account="bob"))
    b.ask(order("a2", Side.BUY, 5, 90), order("b2", Side.SELL, 5, 120, account="bob", instrument=ETH))
    b.ask(order("a1", Side.BUY, 10))
    b.refuse(order("a3", Side.BUY, 1), 503, "SHARD_DOWN")
    b.refuse(order("a4", Side.BUY, 1), 400, "LOT_SIZE")
    b.ask(order("b3", Side.SELL, 3, 95, account="bob"), answered=False)
    b.ask(m.Resolve("bob", BTC, "b3"))
    b.refuse(order("b4", Side.SELL, 3, 95, account="bob"), 504, "UNKNOWN")
    b.ask(m.Resolve("bob", BTC, "b4"))
    b.ask(order("b4", Side.SELL, 3, 95, account="bob"))
    b.image("late")
    b.snapshot(B)
    b.ask(m.Cancel("ann", BTC, 0, "a2"))
    world.lost = [Record(1, b._ts_ns + NS_PER_MS, [order("x1", Side.BUY, 1, account="eve")])]
    world.lost_after = len(world.log)
    b.refuse(order("x1", Side.BUY, 1, account="eve"), 504, "UNKNOWN")
    b.lead(B, 2)
    b.ask(order("x1", Side.BUY, 1, account="eve"))
    b.ask(order("a5", Side.BUY, 2, 101), order("b5", Side.SELL, 9, 99, account="bob"))
    b.snapshot(A)
    b.ask(m.QueryOrder("bob", BTC, 0, "b5"))
    b.ask(m.Cancel("bob", BTC, 0, "b5"), order("a6", Side.BUY, 7, 80))
    b.ask(order("b6", Side.SELL, 2, 130, account="bob"))
    world.promised = {A: 2, B: 2}
    world.incarnations = {A: 3, B: 2}
    return b


def write(world: World, data: Path) -> None:
    """Put the whole world on the disk."""
    (data / "control").mkdir(mode=0o700, parents=True)
    store = SqliteStore(data / "control")
    term = take_lease(store, "c0")
    for ver, group in enumerate(world.versions):
        assert isinstance(store.cas(records.SHARD_PREFIX + "s0", ver, records.encode(group), term), Ok)
    store.close()
    for node in (A, B):
        _write_node(world, data / "shards" / node, node)
    (data / "history.ndjson").write_bytes(msgspec.json.Encoder().encode_lines(world.calls))
    (data / "captures.ndjson").write_bytes(msgspec.json.Encoder().encode_lines(world.captures))
    for act in world.after_write:
        act(data)


def note(data: Path, node: str, line: dict[str, Any]) -> None:
    """A running node notes one deed more."""
    with (data / "shards" / node / TRACE_FILE).open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")


def next_term(world: World, data: Path) -> None:
    """The store makes s0-a the leader of term 3, both nodes promise it, and then its first record lies on both."""
    store = SqliteStore(data / "control")
    changed = records.encode(Group(3, (A, 3), ((A, 3),), 2))
    assert isinstance(store.cas(records.SHARD_PREFIX + "s0", len(world.versions), changed, take_lease(store, "c0")), Ok)
    store.close()
    position = START
    for plan in world.log:
        position = _behind(plan, position)[1]
    begins = Record(3, position.ts_ns + NS_PER_MS, [m.EpochStart(3, A, 3)])
    for node in (A, B):
        directory = data / "shards" / node
        save_state(directory, NodeState("s0", f"journal-of-{node}", 3, world.incarnations[node], "boot"))
        with max(directory.glob("*.segment")).open("rb+") as file:
            file.seek(-AHEAD_BYTES, SEEK_END)
            file.write(_behind(begins, position)[0])


def encoded(plan: Record, seq: int, chain: int) -> tuple[bytes, int]:
    """The bytes of a record behind a position, and the chain behind it."""
    record = encode_record(
        epoch=plan.epoch,
        first_seq=seq + 1 if plan.first_seq is None else plan.first_seq,
        ts_ns=plan.ts_ns,
        prev_chain=chain if plan.prev_chain is None else plan.prev_chain,
        commands=[encode(command) for command in plan.commands],
    )
    return record, chain_after(record)


def _behind(plan: Record, position: Position) -> tuple[bytes, Position]:
    """The bytes of a record behind a position, and the position behind it."""
    record, chain = encoded(plan, position.seq, position.chain)
    return record, Position(position.seq + len(plan.commands), plan.epoch, plan.ts_ns, chain)


def _write_node(world: World, directory: Path, node: str) -> None:
    directory.mkdir(parents=True)
    state = NodeState("s0", f"journal-of-{node}", world.promised[node], world.incarnations[node], "boot")
    save_state(directory, state)
    log = world.log[: len(world.log) - world.shorter.get(node, 0)]
    if node in world.own:
        log = [*log[:-1], world.own[node]]
    position, file, positions = START, b"", {0: START}
    parts: list[tuple[Position, list[bytes]]] = []
    for number, plan in enumerate(log):
        if plan.epoch > position.epoch or not parts:
            parts.append((position, []))
        if number == world.lost_after and world.lost and node == A:
            _archive(world, directory, node, position)
        record, position = _behind(plan, position)
        positions[position.seq] = position
        parts[-1][1].append(record)
    for base, part in parts:
        file = encode_segment_head(_head(world, node, base)) + b"".join(part)
        ahead = bytes(AHEAD_BYTES) if part is parts[-1][1] else b""
        (directory / segment_name(base.seq)).write_bytes(file + ahead)
    for seq, body in world.snapshots.get(node, {}).items():
        (directory / f"{seq:020d}.snapshot").write_bytes(encode_head(positions[seq], body) + body)
    note = SyncedNote(directory)
    note.write(world.synced_seq or position.seq)
    note.close()
    if node in world.traces:
        lines = msgspec.json.Encoder().encode_lines(world.traces[node])
        (directory / TRACE_FILE).write_bytes(lines)


def _archive(world: World, directory: Path, node: str, base: Position) -> None:
    (directory / "divergent").mkdir()
    content, position = encode_segment_head(_head(world, node, base)), base
    for plan in world.lost:
        record, position = _behind(plan, position)
        content += record
    (directory / "divergent" / f"{base.seq:020d}-1.records").write_bytes(content)


def _head(world: World, node: str, base: Position) -> SegmentHead:
    return SegmentHead("s0", f"journal-of-{node}", node, 1, "boot", *base[:2], base.ts_ns, base.chain, world.ceilings)
