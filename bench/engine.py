"""The engine alone: commands per second, the ratio to the reference engine, the book, memory. Floats are never money.

    python bench/engine.py [--json]

The mixed flow: 55 % limit orders around the mid, 35 % cancels of a live order by its id, 5 % replaces, 5 % MARKET or
IOC; 4 symbols, 100 accounts, unique client order ids of 16 characters. Records are built before the clock starts.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from shutil import which
from time import perf_counter_ns
from typing import Any

import msgspec
from rich.console import Console

from bench.results import Row, row, table
from exchange.domain import NS_PER_S, Kind, SelfTrade, Side, Status, TimeInForce
from exchange.messages import Cancel, Command, DefineInstrument, EngineConfig, Executed, Replace, Submit
from exchange.wire import array_header, decode_frame, decode_replies, encode
from shard.core.engine import Engine, create_engine
from shard.core.outcome import decode_outcome
from shard.core.record import encode_record

CONFIG = EngineConfig(
    orders_max=1_000_000,
    accounts_max=65_536,
    ids_max=1_500_000,
    ids_per_account_max=250_000,
    ids_window_ns=3_600 * NS_PER_S,
    open_orders_max=100_000,
)
RUNS = 15
BATCH_COMMANDS = 64
FLOW_COMMANDS = 300_032
REFERENCE_COMMANDS = 16_000
SYMBOLS, ACCOUNTS = 4, 100
MID, SPREAD_TICKS = 10_000, 25
RESTING_ORDERS = 1_000_000
RESTING_ACCOUNTS = 1_000
CRATE = Path(__file__).parent.parent / "shard" / "native"
_OPEN = (Status.NEW, Status.PARTIALLY_FILLED)


def run() -> list[dict[str, Any]]:
    """Every row, as a plain dict in the shape of bench.results.Row."""
    rows = [*_measure_apply(), *_measure_book(), *_measure_memory()]
    return [msgspec.to_builtins(one) for one in rows]


# --- the mixed flow ---------------------------------------------------------------------------------------------------


def define_symbols() -> list[Command]:
    return [
        DefineInstrument(index, f"SYM{index}", 1, 1, 1, 10**9, 1, 10**9, 0, MID, -1) for index in range(SYMBOLS)
    ]  # fmt: skip


class MixedFlow:
    """Draws commands; learns from the outcomes of what it drew which orders live."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)  # noqa: S311 - reproducible on purpose
        self._number = 0
        self._live: list[tuple[int, str]] = []
        """(order id, account), and where each order id stands in it."""
        self._place: dict[int, int] = {}

    def records(self, commands: int) -> list[bytes]:
        """Records of 64 commands after a first one that defines the symbols."""
        engine = create_engine(CONFIG)
        built = []
        batch = define_symbols()
        while True:
            record = _record(engine, batch)
            outcome = engine.apply(record)
            built.append(record)
            if engine.seq() >= commands:
                return built
            self._learn(batch, outcome)
            batch = [self._command() for _ in range(BATCH_COMMANDS)]

    def _learn(self, batch: list[Command], outcome: bytes) -> None:
        replies, frame = decode_outcome(outcome)
        for command, reply in zip(batch, decode_replies(array_header(len(replies)) + b"".join(replies)), strict=True):
            if isinstance(reply, Executed):
                if reply.status not in _OPEN:
                    self._forget(reply.order_id)
                elif isinstance(command, Submit):
                    self._place[reply.order_id] = len(self._live)
                    self._live.append((reply.order_id, command.account))
        for trade in decode_frame(frame).trades:
            if trade.maker_leaves == 0:
                self._forget(trade.maker_order_id)

    def _forget(self, order_id: int) -> None:
        place = self._place.pop(order_id, None)
        if place is None:
            return
        last = self._live.pop()
        if place < len(self._live):
            self._live[place] = last
            self._place[last[0]] = place

    def _command(self) -> Command:
        draw = self._dice.random()
        if draw < 0.40 and self._live:
            order_id, account = self._dice.choice(self._live)
            instrument = order_id >> 40
            if draw < 0.35:
                return Cancel(account, instrument, order_id)
            price, quantity = MID + self._dice.randint(-60, 60), self._dice.randint(1, 100)
            return Replace(account, self._id(), instrument, order_id, "", price, quantity, 0)
        if draw < 0.45:
            market = self._dice.random() < 0.5
            return self._submit(market=market, time_in_force=TimeInForce.IOC)
        return self._submit(market=False, time_in_force=TimeInForce.GTC)

    def _submit(self, *, market: bool, time_in_force: TimeInForce) -> Submit:
        dice = self._dice
        side = dice.choice((Side.BUY, Side.SELL))
        behind = round(dice.gauss(SPREAD_TICKS, SPREAD_TICKS))
        price = MID - behind if side == Side.BUY else MID + behind
        account = f"account-{dice.randrange(ACCOUNTS):03}"
        kind = Kind.MARKET if market else Kind.LIMIT
        return Submit(
            account, self._id(), dice.randrange(SYMBOLS), side, kind, time_in_force, 0, SelfTrade.NEWEST,
            0 if market else price, dice.randint(1, 100),
        )  # fmt: skip

    def _id(self) -> str:
        self._number += 1
        return f"c-{self._number:014}"


def _record(engine: Engine, commands: list[Command]) -> bytes:
    return encode_record(
        epoch=engine.epoch(),
        first_seq=engine.seq() + 1,
        ts_ns=engine.ts() + 1_000_000,
        prev_chain=0,
        commands=[encode(command) for command in commands],
    )


# --- measurements -----------------------------------------------------------------------------------------------------


def _rates(records: list[bytes], *, reference: bool, runs: int) -> list[float]:
    """Commands per second of each run; the record that defines the symbols is not counted."""
    rates = []
    for _ in range(runs):
        engine = create_engine(CONFIG, reference=reference)
        engine.apply(records[0])
        before = engine.seq()
        start_ns = perf_counter_ns()
        for record in records[1:]:
            engine.apply(record)
        spent_ns = perf_counter_ns() - start_ns
        rates.append((engine.seq() - before) * NS_PER_S / spent_ns)
    return rates


def _measure_apply() -> Iterator[Row]:
    records = MixedFlow(seed=1).records(FLOW_COMMANDS)
    detail = f"{FLOW_COMMANDS:,} commands, batches of {BATCH_COMMANDS}, {SYMBOLS} symbols, {ACCOUNTS} accounts"
    native = _rates(records, reference=False, runs=RUNS)
    yield row("engine: apply, mixed flow", native, "commands/s", target=2_000_000, detail=detail)
    short = records[: REFERENCE_COMMANDS // BATCH_COMMANDS]
    reference = _rates(short, reference=True, runs=RUNS)
    yield row("engine: apply, mixed flow, reference engine", reference, "commands/s", detail="plain Python")
    ratios = [fast / slow for fast, slow in zip(_rates(short, reference=False, runs=RUNS), reference, strict=True)]
    yield row("engine: native / reference", ratios, "times", target=10, detail=f"{REFERENCE_COMMANDS:,} commands")


def _measure_book() -> Iterator[Row]:
    cargo = which("cargo") or str(Path.home() / ".cargo" / "bin" / "cargo")
    command = [cargo, "run", "--release", "--quiet", "--locked", "--no-default-features", "--example", "book_bench"]
    done = subprocess.run(command, cwd=CRATE, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    detail = f"{told['operations']:,} operations, {told['trades']:,} trades, {told['live']:,} orders at the end"
    yield row("engine: book alone", told["rates"], "operations/s", target=10_000_000, detail=detail)


def _measure_memory() -> Iterator[Row]:
    """Each run in a process of its own: memory that was touched once stays with a process."""
    child = [sys.executable, __file__, "--memory"]
    told = [json.loads(subprocess.run(child, capture_output=True, check=True).stdout) for _ in range(3)]
    detail = f"{RESTING_ORDERS:,} orders of {RESTING_ACCOUNTS:,} accounts with ids of 16 characters, window and indexes"
    per_order = [one["bytes_per_order"] for one in told]
    yield row("engine: memory of a resting order", per_order, "bytes", target=250, better="lower", detail=detail)
    idle = [one["idle_bytes"] / 2**20 for one in told]
    yield row("engine: memory of an idle engine", idle, "MiB", detail="with the ceilings that are the default")


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4_096


def _memory() -> dict[str, float]:
    """Resident memory per order of a full book, and of an engine that does nothing."""
    config = msgspec.structs.replace(CONFIG, open_orders_max=2 * RESTING_ORDERS, ids_per_account_max=RESTING_ORDERS)
    warm = create_engine(config)
    warm.apply(_record(warm, define_symbols()))
    before = _resident_bytes()
    engine = create_engine(config)
    engine.apply(_record(engine, define_symbols()))
    idle = _resident_bytes()
    dice = Random(7)  # noqa: S311 - reproducible on purpose
    for start in range(0, RESTING_ORDERS, 500):
        batch: list[Command] = []
        for number in range(start, start + 500):
            side, distance = (Side.BUY, Side.SELL)[number & 1], dice.randint(1, 2_000)
            price = MID - distance if side == Side.BUY else MID + distance
            account, id_ = f"account-{dice.randrange(RESTING_ACCOUNTS):04}", f"c-{number:014}"
            batch.append(Submit(account, id_, number % SYMBOLS, side, 0, 0, 0, 1, price, 100))
        engine.apply(_record(engine, batch))
    assert engine.orders() == RESTING_ORDERS
    return {"idle_bytes": idle - before, "bytes_per_order": (_resident_bytes() - idle) / RESTING_ORDERS}


def main() -> None:
    if "--memory" in sys.argv:
        print(json.dumps(_memory()))
    elif "--json" in sys.argv:
        print(json.dumps(run(), indent=2))
    else:
        Console().print(table([msgspec.convert(one, Row) for one in run()], "engine"))


if __name__ == "__main__":
    main()
