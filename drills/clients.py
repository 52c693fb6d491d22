"""Honest clients: they send orders at a steady rate, repeat what failed under the same id, make unknown outcomes known,
and write down every call. What they write is what `shardex check --history` reads.
"""

import asyncio
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from drills.checker.history import MAYBE_HTTP, Call, Outcome, outcome_of
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_S, Flag, Kind, SelfTrade, Side, TimeInForce
from exchange.errors import ShardexError, Unavailable
from exchange.money import decimal_units
from shardex.client import Instrument, Login, Refusal, Rest
from shardex.ordersession import CancelRow, Denied, OrderSession, Reply, Row, SubmitRow

FRAMES_IN_FLIGHT_MAX = 64
"""Of one client; beyond that it waits, and sends what is overdue later: nobody's memory fills up meanwhile."""
DECIDE_WITHIN_NS = 60 * NS_PER_S
"""An outcome that could not be made known for so long stays unknown, and is counted."""
RETRY_S = 0.05
RETRY_GROWTH = 1.5
RETRY_MAX_S = 1.0
CONNECT_EVERY_S = 0.1
REST_BEHIND = 64
"""A client cancels the order that it left in the book so many orders ago."""
IOC_SHARE = 0.5
PRICE_TICKS = 20
QUANTITY_LOTS_MAX = 20
RESOLVE_SHARE = 0.5
"""Of unknown outcomes; the others are asked about by sending the same request again."""
LOST = Outcome(0, "LOST")
NOT_SENT = Outcome(503, "NOT_SENT")
"""Nobody was there to send it to; in no history."""

_encode_line = msgspec.json.Encoder().encode


class Market(Struct, frozen=True):
    """What a client must know of an instrument, in units."""

    index: int
    symbol: str
    shard: str
    tick: int
    lot: int
    quantity_min: int
    quantity_decimals: int
    mid: int


class Recorder:
    """The history file and the tallies of it. Success = an answer that the log gave."""

    def __init__(self, path: Path, shards: dict[int, str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.successes: dict[str, array[int]] = {shard: array("q") for shard in sorted(set(shards.values()))}
        self.latencies: dict[str, array[int]] = {shard: array("q") for shard in self.successes}
        self.calls = 0
        self.orders = 0
        self.acked = 0
        self._shards = shards
        self._file = path.open("wb", buffering=1 << 16)

    def note(self, call: Call) -> None:
        """Write one call down."""
        self._file.write(_encode_line(call) + b"\n")
        self.calls += 1
        outcome = call.outcome
        self.outcomes[_kind(outcome)] += 1
        if outcome.seq > 0:
            shard = self._shards[call.instrument]
            self.successes[shard].append(call.return_ns)
            self.latencies[shard].append(call.return_ns - call.call_ns)
            self.acked += call.op == "submit"

    def flush(self) -> None:
        """Everything noted can be read by others."""
        self._file.flush()

    def close(self) -> None:
        """Write the rest and close."""
        self._file.close()


class Client:
    """One account with one order session at a time. `gate` open = it sends; `idle` = nothing of it is undecided."""

    def __init__(
        self, name: str, url: str, markets: Sequence[Market], recorder: Recorder, *, seed: int, rate: float, batch: int
    ) -> None:
        """`rate` = orders a second, cancels not counted; `batch` = rows of one frame."""
        self.undecided = 0
        self._name = name
        self._url = url
        self._login = Login(name)
        self._markets = markets
        self._recorder = recorder
        self._dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._interval_s = 1 / rate
        self._batch = batch
        self._room = asyncio.Semaphore(FRAMES_IN_FLIGHT_MAX)
        self._entered: list[m.Submit] = []
        self._number = 0
        self._session: OrderSession | None = None
        self._opening = asyncio.Lock()
        self._closed_until_s = 0.0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._http: aiohttp.ClientSession | None = None

    async def run(self, gate: asyncio.Event) -> None:
        """Send until cancelled; pauses while `gate` is closed. Intervals are exponential: clients do not march in step,
        which would leave gaps between answers that are nobody's outage.
        """
        clock = asyncio.get_running_loop().time
        due_s = clock()
        while True:
            if not gate.is_set():
                await gate.wait()
                due_s = clock()
            await self._reachable()
            await self._room.acquire()
            if not gate.is_set():
                self._room.release()
                continue
            commands = self._commands()
            self._spawn(self._frame(commands))
            entered = sum(isinstance(command, m.Submit) for command in commands)
            due_s += self._interval_s * entered * self._dice.expovariate(1.0)
            await asyncio.sleep(max(0.0, due_s - clock()))

    async def settled(self) -> None:
        """Return when everything that was sent is decided, or was given up."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def close(self) -> None:
        """End what is still under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.__aexit__(None, None, None)
        if self._http is not None:
            await self._http.close()

    # --- what to ask ----------------------------------------------------------------------------------------------

    def _commands(self) -> list[m.Command]:
        commands: list[m.Command] = []
        for _ in range(self._batch):
            if len(self._entered) > REST_BEHIND and self._dice.random() < 0.5:
                old = self._entered.pop(0)
                commands.append(m.Cancel(self._name, old.instrument, 0, old.client_order_id))
            else:
                commands.append(self._order())
        return commands

    def _order(self) -> m.Submit:
        dice, market = self._dice, self._dice.choice(self._markets)
        self._number += 1
        self._recorder.orders += 1
        order = m.Submit(
            self._name,
            f"{self._name}.{self._number}",
            market.index,
            dice.choice((Side.BUY, Side.SELL)),
            Kind.LIMIT,
            TimeInForce.IOC if dice.random() < IOC_SHARE else TimeInForce.GTC,
            0,
            SelfTrade.NEWEST,
            market.mid + dice.randint(-PRICE_TICKS, PRICE_TICKS) * market.tick,
            market.quantity_min + dice.randrange(QUANTITY_LOTS_MAX) * market.lot,
        )
        if order.time_in_force == TimeInForce.GTC:
            self._entered.append(order)
        return order

    # --- asking -----------------------------------------------------------------------------------------------------

    async def _frame(self, commands: list[m.Command]) -> None:
        try:
            outcomes = await self._send(commands, 1)
        finally:
            self._room.release()
        for command, outcome in zip(commands, outcomes, strict=True):
            if outcome.seq <= 0:
                self._spawn(self._decide(command, outcome))

    async def _decide(self, command: m.Command, outcome: Outcome) -> None:
        """Go on until the outcome is known. What was certainly not executed is sometimes given up for good."""
        give_up_ns = monotonic_ns() + DECIDE_WITHIN_NS
        copies = 1
        while outcome.seq <= 0 and monotonic_ns() < give_up_ns:
            unknown = outcome.http in MAYBE_HTTP
            worth_it = outcome is NOT_SENT or (outcome.http in (429, 503) and self._dice.random() >= 0.2)
            if not (unknown or worth_it):
                return
            wait_s = min(RETRY_MAX_S, RETRY_S * RETRY_GROWTH**copies)
            await asyncio.sleep(wait_s * (0.5 + self._dice.random() / 2))
            copies += 1
            if isinstance(command, m.Submit) and unknown and self._dice.random() < RESOLVE_SHARE:
                resolved = await self._resolve(command)
                if resolved.seq > 0:
                    return
            else:
                (again,) = await self._send([command], copies)
                # A copy that was certainly not executed says nothing about the copies before it.
                outcome = outcome if unknown and again.seq <= 0 else again
        self.undecided += outcome.seq <= 0

    async def _send(self, commands: Sequence[m.Command], copies: int) -> list[Outcome]:
        try:
            session = await self._connected()
        except Unavailable:
            return [NOT_SENT] * len(commands)
        outcomes = [LOST] * len(commands)
        call_ns = monotonic_ns()
        try:
            outcomes = [_outcome(reply) for reply in await session.send([_row(command) for command in commands])]
        except Refusal as refusal:
            outcomes = [Outcome(refusal.status, refusal.reason)] * len(commands)
        except (Unavailable, TimeoutError):
            if session is self._session:
                self._session = None
                self._spawn(_end(session))
        return_ns = monotonic_ns()
        for command, outcome in zip(commands, outcomes, strict=True):
            self._note(command, outcome, call_ns, return_ns, copies)
        return outcomes

    async def _resolve(self, order: m.Submit) -> Outcome:
        """POST …/resolve: what the id led to, or that it never will lead to anything."""
        market = next(market for market in self._markets if market.index == order.instrument)
        command = m.Resolve(self._name, order.instrument, order.client_order_id)
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        url = f"{self._url}/api/orders/{order.client_order_id}/resolve"
        outcome = LOST
        call_ns = monotonic_ns()
        try:
            asked = {"symbol": market.symbol, "user_id": self._name}
            async with self._http.post(url, json=asked) as response:
                body = msgspec.json.decode(await response.read(), type=_Resolved)
                outcome = body.outcome(response.status, market)
        except aiohttp.ClientConnectorError:
            return NOT_SENT
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
            pass  # it stays unknown
        self._note(command, outcome, call_ns, monotonic_ns(), 1)
        return outcome

    def _note(self, command: m.Command, outcome: Outcome, call_ns: int, return_ns: int, copies: int) -> None:
        match command:
            case m.Submit() | m.Resolve():
                id_, op = command.client_order_id, type(command).__name__.lower()
            case m.Cancel():
                id_, op = command.target_id, "cancel"
            case _:
                raise ShardexError(f"a client does not send {type(command).__name__}")
        self._recorder.note(
            Call(self._name, self._name, command.instrument, id_, op, call_ns, return_ns, outcome, copies, command)
        )

    async def _reachable(self) -> None:
        """Return when there is a session."""
        while True:
            try:
                await self._connected()
                return
            except Unavailable:
                await asyncio.sleep(CONNECT_EVERY_S)

    async def _connected(self) -> OrderSession:
        """The session, opened by whoever comes first; who comes soon after a failure fails too."""
        async with self._opening:
            if self._session is None:
                now_s = asyncio.get_running_loop().time()
                if now_s < self._closed_until_s:
                    raise Unavailable(f"{self._url} was not there a moment ago")
                self._closed_until_s = now_s + CONNECT_EVERY_S
                session = OrderSession(self._url, self._login)
                await session.__aenter__()
                self._session = session
            return self._session

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))


class _TradeBody(Struct):
    quantity: Decimal


class _Resolved(Struct):
    """The fields of all answers to a resolve that a history needs."""

    status: str = ""
    reason: str = ""
    order_id: str = ""
    epoch: int = 0
    seq: int = 0
    duplicate: bool = False
    trades: list[_TradeBody] = []

    def outcome(self, http: int, market: Market) -> Outcome:
        """As the compact dialect would have told it."""
        number = int(self.order_id.removeprefix("ORD-") or 0)
        status = "" if self.status in ("VOIDED", "REJECTED") else self.status
        filled = sum(decimal_units(trade.quantity, market.quantity_decimals) for trade in self.trades)
        return Outcome(http, self.reason, self.epoch, self.seq, number, status, filled, self.duplicate)


async def markets_of(url: str) -> list[Market]:
    """All instruments of a gateway."""
    async with Rest(url, Login("drill")) as rest:
        return [_market(one) for one in await rest.instruments()]


def _market(one: Instrument) -> Market:
    price, quantity = one.price_decimals, one.quantity_decimals
    return Market(
        one.index,
        one.symbol,
        one.shard,
        decimal_units(one.tick_size, price),
        decimal_units(one.lot_size, quantity),
        decimal_units(one.quantity_min, quantity),
        quantity,
        decimal_units(one.reference_price, price),
    )


async def _end(session: OrderSession) -> None:
    await session.__aexit__(None, None, None)


def _row(command: m.Command) -> Row:
    match command:
        case m.Submit():
            return SubmitRow(
                command.instrument,
                Side(command.side),
                Kind(command.kind),
                TimeInForce(command.time_in_force),
                Flag(command.flags),
                SelfTrade(command.self_trade),
                command.price,
                command.quantity,
                command.client_order_id,
            )
        case m.Cancel():
            return CancelRow(command.instrument, command.order_id, command.target_id)
        case _:
            raise ShardexError(f"a client does not send {type(command).__name__}")


def _outcome(reply: Reply) -> Outcome:
    if isinstance(reply, Denied):
        return Outcome(reply.http, reply.reason)
    return outcome_of(reply, 200 if isinstance(reply, m.Executed) else 400)


def _kind(outcome: Outcome) -> str:
    if outcome.seq > 0:
        return "executed" if outcome.status else "rejected"
    return {0: "lost", 503: "503", 504: "504"}.get(outcome.http, "denied")
