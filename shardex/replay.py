"""`shardex replay FILE`: an order-flow file through the gateway of a running cluster, in exact order.

One WebSocket session carries the commands of one account, several frames in flight: a gateway keeps the order of a
session's frames towards a shard, a shard executes in the order of arrival. Where the file changes the account, or halts
and resumes trading (operators' commands, through the coordinator), everything before is answered before anything after
is sent. Under limits that may refuse a frame only one is in flight: a frame that is sent again behind its successors
would change the order.

What an earlier replay left in the book is cancelled first. Trades come from the answers (taker, trade id, price,
quantity); the executions channel names their makers, which an answer does not.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct

from exchange.clock import monotonic_ns, wall_ns
from exchange.config import Config
from exchange.domain import NS_PER_S, NS_PER_US, Reject
from exchange.errors import ShardexError
from exchange.messages import Executed, Rejected
from shardex.administer import DONE, set_state
from shardex.client import Refusal, Rest, login_from_environment
from shardex.orderflow import Change, Frame, read, steps
from shardex.ordersession import Denied, Executions, OrderSession, Reply

FRAMES_IN_FLIGHT = 4
THROTTLED_WAIT_S = 0.05
THROTTLED_S_MAX = 5.0
"""A frame that is refused for so long is above what the limits allow at once."""
MAKERS_S_MAX = 10.0
"""How long the makers of the last trades may take to arrive after the last answer."""
MAKERS_POLL_S = 0.02

Progress = Callable[[int, int], None]
"""Called with (commands answered, commands in all)."""


class ReplayError(ShardexError):
    """The file cannot be replayed on this cluster, or the cluster did not do what the file says."""


class Trade(Struct, frozen=True):
    """One trade in the file's own numbers."""

    taker_id: int
    maker_id: int
    px: int
    qty: int


class Summary(Struct, frozen=True, kw_only=True):
    """What a replay did. `book_was_empty` false = orders of others stood there: trades may differ from the file's."""

    file: str
    symbol: str
    commands: int
    accepted: int
    rejected: int
    reasons: dict[str, int]
    trades: int
    book_was_empty: bool
    seconds: float
    commands_per_s: float


class _Fill(Struct, frozen=True):
    """A trade as the answer to its taker tells it."""

    taker_id: int
    trade_id: int
    px: int
    qty: int


async def replay(
    config: Config, path: Path, *, symbol: str, account: str, progress: Progress, makers: bool
) -> tuple[Summary, list[Trade]]:
    """Replay a file into a running cluster; with `makers`, its trades too, in order of execution.

    FlowError when the file is malformed (then nothing was sent), ReplayError when the cluster cannot or did not do
    exactly what it says, Unavailable when the cluster goes away.
    """
    lines = read(path)
    if config.gateway.profile == "classic":
        raise ReplayError("gateway.profile is classic, 10 orders a second; a replay needs the profile demo or load")
    url = f"http://{config.gateway.host}:{config.gateway.port}"
    prefix = f"{wall_ns() // NS_PER_US:x}-"
    async with Rest(url, login_from_environment(account)) as rest:
        names = {name: one.index for one in await rest.instruments() for name in (one.symbol, one.market)}
        plan = list(steps(lines, names, symbol=symbol, account=account, prefix=prefix))
        (swept,) = await rest.cancel_all(symbol)
        book_was_empty = await rest.is_book_empty(symbol, swept)
    async with AsyncExitStack() as ends:
        owners = dict.fromkeys(step.account for step in plan if isinstance(step, Frame)) if makers else {}
        watches = [await ends.enter_async_context(Executions(url, login_from_environment(owner))) for owner in owners]
        run = _Run(url, config, ends)
        started_ns = monotonic_ns()
        for step in plan:
            await run.perform(step)
            progress(run.commands, len(lines))
        await run.settle(0)
        seconds = (monotonic_ns() - started_ns) / NS_PER_S
        progress(run.commands, len(lines))
        trades = await _with_makers(run.fills, watches, prefix) if makers else []
    summary = Summary(
        file=str(path),
        symbol=symbol,
        commands=run.commands,
        accepted=run.accepted,
        rejected=sum(run.reasons.values()),
        reasons=dict(sorted(run.reasons.items())),
        trades=len(run.fills),
        book_was_empty=book_was_empty,
        seconds=seconds,
        commands_per_s=run.commands / seconds if seconds else 0.0,
    )
    return summary, trades


class _Run:
    """Sessions by account, what is in flight, and what came back."""

    def __init__(self, url: str, config: Config, ends: AsyncExitStack) -> None:
        self.commands = 0
        self.accepted = 0
        self.reasons: Counter[str] = Counter()
        self.fills: list[_Fill] = []
        self._url = url
        self._data = config.data
        self._in_flight_max = FRAMES_IN_FLIGHT if config.gateway.profile == "load" else 1
        self._ends = ends
        self._sessions: dict[str, OrderSession] = {}
        self._in_flight: deque[tuple[Frame, asyncio.Future[list[Reply]]]] = deque()

    async def perform(self, step: Frame | Change) -> None:
        """Send the next step of the file, as far ahead of the answers as its order allows."""
        if isinstance(step, Change):
            await self.settle(0)
            await self._change(step)
            return
        if self._in_flight and self._in_flight[-1][0].account != step.account:
            await self.settle(0)
        session = self._sessions.get(step.account)
        if session is None:
            session = OrderSession(self._url, login_from_environment(step.account))
            self._sessions[step.account] = await self._ends.enter_async_context(session)
        self._in_flight.append((step, await session.post(step.rows)))
        await self.settle(self._in_flight_max - 1)

    async def settle(self, left: int) -> None:
        """Take answers, oldest first, until only `left` frames are in flight."""
        while len(self._in_flight) > left:
            frame, answer = self._in_flight.popleft()
            try:
                replies = await answer
            except Refusal as refusal:
                if refusal.status != 429 or self._in_flight:
                    raise ReplayError(f"{_place(frame)}: {refusal}") from refusal
                replies = await self._repeat(frame)
            self._take(frame, replies)

    async def _repeat(self, frame: Frame) -> list[Reply]:
        """Send a frame that was above the limits again until it is not; nothing else is in flight."""
        give_up_ns = monotonic_ns() + int(THROTTLED_S_MAX * NS_PER_S)
        while True:
            await asyncio.sleep(THROTTLED_WAIT_S)
            try:
                return await self._sessions[frame.account].send(frame.rows)
            except Refusal as refusal:
                if refusal.status != 429 or monotonic_ns() > give_up_ns:
                    raise ReplayError(f"{_place(frame)}: {refusal}") from refusal

    def _take(self, frame: Frame, replies: list[Reply]) -> None:
        for number, (id_, reply) in enumerate(zip(frame.ids, replies, strict=True), frame.first):
            self.commands += 1
            match reply:
                case Executed():
                    self.accepted += 1
                    self.fills += [_Fill(id_, fill.trade_id, fill.price, fill.quantity) for fill in reply.fills]
                case Rejected():
                    self.reasons[Reject(reply.code).name] += 1
                case Denied():
                    raise ReplayError(f"command {number} (id {id_}): {reply.reason}: {reply.detail}")

    async def _change(self, change: Change) -> None:
        results = await asyncio.to_thread(set_state, self._data, change.symbol, change.state.name)
        failed = [f"shard {shard} says {said}" for shard, said in results.items() if said != DONE]
        if failed:
            raise ReplayError(f"{change.symbol} to {change.state.name}: {'; '.join(failed)}")
        self.commands += 1
        self.accepted += 1


def _place(frame: Frame) -> str:
    return f"commands {frame.first} to {frame.first + len(frame.rows) - 1}"


async def _with_makers(fills: Sequence[_Fill], watches: Sequence[Executions], prefix: str) -> list[Trade]:
    """The trades of the answers, with the makers that the executions channel names."""
    give_up_ns = monotonic_ns() + int(MAKERS_S_MAX * NS_PER_S)
    while missing := [fill for fill in fills if not any(fill.trade_id in watch.makers for watch in watches)]:
        if monotonic_ns() > give_up_ns:
            raise ReplayError(f"the executions channel told nothing of {len(missing)} of {len(fills)} trades")
        await asyncio.sleep(MAKERS_POLL_S)
    makers: dict[int, str] = {}
    for watch in watches:
        await watch.catch_up()
        makers.update({trade_id: identity for trade_id, identity in watch.makers.items() if identity})
    strangers = [fill for fill in fills if not makers.get(fill.trade_id, "").startswith(prefix)]
    if strangers:
        raise ReplayError(f"{len(strangers)} trades, the first with id {strangers[0].taker_id}, met orders of others")
    return [Trade(fill.taker_id, int(makers[fill.trade_id].removeprefix(prefix)), fill.px, fill.qty) for fill in fills]
