"""kill -9 of a shard under load, twenty times: nothing acknowledged is lost, nothing runs twice.

The gateway hides a restart from its clients. So that clients have something to repeat, they hang up after each kill
with their orders unanswered, come back, and send every one of them again under its id.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exchange import messages as m
from exchange.domain import Status
from exchange.wire import array_header, decode_commands, decode_replies
from shard.core.outcome import decode_outcome
from shard.core.record import decode_record
from shard.core.replay import Replay
from shard.journal_file import open_segments
from shardex import journal
from shardex.launcher import Running

KILLS = 20
IN_FLIGHT = 64
ANSWERS_BETWEEN_KILLS = 150
MARKETS = {"s0-a": ("AAPL", 150), "s1-a": ("MSFT", 425)}
"""One market on the node of each shard, and a price around which both sides meet."""
Answer = dict[str, Any]


class Trader:
    """One account on one session: sends on, keeps every answer, and repeats whatever has no final one under its id."""

    def __init__(self, url: str, account: str, side: str) -> None:
        self.account = account
        self.answers: dict[str, Answer] = {}
        self.repeated = 0
        self._url = f"{url}?user_id={account}"
        self._side = side
        self._sent: dict[str, Answer] = {}
        self._again: deque[Answer] = deque()
        self._count = 0
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def hang_up(self) -> None:
        """Forget the answers that are on their way."""
        if self._socket is not None:
            await self._socket.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Trade until `stop`, then until every order has its final answer."""
        async with aiohttp.ClientSession() as session:
            while not stop.is_set() or self._sent:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    async with session.ws_connect(self._url) as socket:
                        self._socket = socket
                        await self._trade(socket, stop)
                self._again = deque(self._sent.values())

    async def _trade(self, socket: aiohttp.ClientWebSocketResponse, stop: asyncio.Event) -> None:
        while True:
            while self._again:
                self.repeated += 1
                await socket.send_json(self._again.popleft())
            while len(self._sent) < IN_FLIGHT and not stop.is_set():
                order = self._next()
                self._sent[order["client_order_id"]] = order
                await socket.send_json(order)
            if not self._sent:
                return
            received = await socket.receive(timeout=30)
            if received.type is not aiohttp.WSMsgType.TEXT:
                return
            answer = json.loads(received.data)
            order = self._sent[answer["id"]]
            if answer["http"] in (503, 504):
                self._again.append(order)
                await asyncio.sleep(0.02)
                continue
            self.answers[answer["id"]] = answer
            del self._sent[answer["id"]]

    def _next(self) -> Answer:
        self._count += 1
        symbol, middle = list(MARKETS.values())[self._count % len(MARKETS)]
        name = f"{self.account}-{self._count}"
        price = middle + self._count % 3 * (1 if self._side == "buy" else -1)
        return {
            "id": name,
            "op": "submit",
            "symbol": symbol,
            "side": self._side,
            "price": price,
            "quantity": 1 + self._count % 7,
            "client_order_id": name,
            "deadline_ms": 20_000,
        }


async def kill_under_load(cluster: Running) -> list[Trader]:
    """Two traders on both shards while shards die in turn."""
    traders = [Trader(cluster.orders_url, "ann", "buy"), Trader(cluster.orders_url, "bob", "sell")]
    stop = asyncio.Event()
    running = [asyncio.create_task(trader.run(stop)) for trader in traders]

    def answered() -> int:
        return sum(len(trader.answers) for trader in traders)

    async def until_answered(count: int) -> None:
        async with asyncio.timeout(30):
            while answered() < count:
                await asyncio.sleep(0.01)

    async with asyncio.timeout(300):
        for kill in range(KILLS):
            await until_answered(answered() + ANSWERS_BETWEEN_KILLS)
            cluster.kill(list(MARKETS)[kill % len(MARKETS)])
            for trader in traders:
                await trader.hang_up()
        await until_answered(answered() + ANSWERS_BETWEEN_KILLS)
        stop.set()
        await asyncio.gather(*running)
    return traders


def submits(directory: Path) -> Iterator[tuple[m.Submit, m.Reply]]:
    """Every Submit of a journal with what the engine says to it in an offline replay."""
    for applied in Replay(open_segments(directory), None, reference=False).run():
        head, payload = decode_record(applied.entry.record)
        replies, _ = decode_outcome(applied.outcome)
        commands = decode_commands(array_header(head.count) + payload)
        for command, reply in zip(commands, decode_replies(array_header(head.count) + b"".join(replies)), strict=True):
            if isinstance(command, m.Submit):
                yield command, reply


@pytest.mark.timeout(420)
def test_what_was_acknowledged_survives_and_what_was_repeated_ran_once(
    start_cluster: Callable[..., Running], tmp_path: Path
) -> None:
    cluster = start_cluster(tmp_path / "killed", shards=len(MARKETS))
    traders = asyncio.run(kill_under_load(cluster))
    cluster.stop()

    executed: dict[str, m.Executed] = {}
    logged = 0
    for node in MARKETS:
        for command, reply in submits(cluster.config.node_directory(node)):
            logged += 1
            if isinstance(reply, m.Executed) and not reply.duplicate:
                assert command.client_order_id not in executed, f"{command.client_order_id} ran twice"
                executed[command.client_order_id] = reply

    acknowledged = {name: answer for trader in traders for name, answer in trader.answers.items()}
    assert len(acknowledged) >= KILLS * ANSWERS_BETWEEN_KILLS
    assert sum(trader.repeated for trader in traders) > 0, "nothing was ever unanswered: the load is too low"
    for name, answer in acknowledged.items():
        assert answer["http"] == 200, answer
        result, ran = answer["result"], executed[name]
        told = (result["order_id"], result["status"], result["epoch"], result["seq"], len(result["trades"]))
        assert told == (f"ORD-{ran.order_id}", Status(ran.status).name, ran.epoch, ran.seq, len(ran.fills))
    assert executed.keys() == acknowledged.keys()
    assert logged >= len(executed)

    for node in MARKETS:
        directory = cluster.config.node_directory(node)
        assert journal.verify(directory, lambda done, total: None).state is journal.State.OK
        replayed = journal.replay(directory, reference=False, progress=lambda done, total: None)
        assert replayed.comparisons, "the clean end left a snapshot of the live state"
        assert all(one.equal for one in replayed.comparisons)
