"""/ws/orders: JSON and compact frames, pipelining, executions, cancel on disconnect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType

from exchange import messages as m
from exchange.domain import Reject, Status
from exchange.limits import BATCH_ORDERS_MAX, WS_FRAME_BYTES_MAX
from tests.gateway.conftest import PATIENCE_S, Build, World, repeat, until

BUY, SELL = 0, 1


class Client:
    """One socket; events of the executions channel are kept apart from answers."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    async def say(self, frame: dict[str, Any]) -> None:
        await self.socket.send_str(msgspec.json.encode(frame).decode())

    async def send_rows(self, frame: list[Any]) -> None:
        await self.socket.send_bytes(msgspec.msgpack.encode(frame))

    async def hear(self) -> Any:
        """The next answer, JSON or compact."""
        while True:
            message = await asyncio.wait_for(self.socket.receive(), PATIENCE_S)
            if message.type is WSMsgType.BINARY:
                return msgspec.msgpack.decode(message.data)
            if message.type is not WSMsgType.TEXT:
                return message
            body = msgspec.json.decode(message.data)
            if "channel" not in body or "http" in body:
                return body
            self.events.append(body)

    async def ask(self, frame: dict[str, Any]) -> Any:
        await self.say(frame)
        return await self.hear()

    async def ask_rows(self, frame: list[Any]) -> Any:
        await self.send_rows(frame)
        return await self.hear()


@asynccontextmanager
async def connect(world: World, user: str = "alice", **query: str) -> AsyncIterator[Client]:
    parameters = "&".join(f"{name}={value}" for name, value in {"user_id": user, **query}.items())
    async with world.http.ws_connect(f"/ws/orders?{parameters}", max_msg_size=0) as socket:
        yield Client(socket)


def row(side: int, price: int, quantity: int, id_: str = "", market: str | int = "AAPL") -> list[Any]:
    return [1, market, side, 0, 0, 0, 1, price, quantity, id_]


async def test_json_frames_speak_like_rest(world: World) -> None:
    async with connect(world) as client:
        order = {"symbol": "AAPL", "side": "buy", "price": 150.25, "quantity": 100, "client_order_id": "w-1"}
        said = await client.ask({"id": 1, "op": "submit", **order})
        assert (said["id"], said["http"], said["result"]["status"]) == (1, 200, "NEW")
        id_ = said["result"]["order_id"]
        said = await client.ask({"id": "two", "op": "amend", "order_id": id_, "remaining_quantity": 60})
        assert (said["id"], said["result"]["remaining_quantity"]) == ("two", 60)
        said = await client.ask({"op": "submit", **order})
        assert (said["id"], said["result"]["duplicate"]) == (None, True)
        said = await client.ask(
            {"id": 4, "op": "batch", "orders": [{**order, "client_order_id": "w-2"}, {**order, "price": 0.5}]}
        )
        assert [result.get("status", result.get("reason")) for result in said["results"]] == ["NEW", "ID_REUSED"]
        assert said["results"][1]["http"] == 409
        said = await client.ask({"id": 5, "op": "cancel", "order_id": "w-2", "symbol": "AAPL"})
        assert said["result"]["status"] == "CANCELED"
        said = await client.ask({"id": 6, "op": "cancel", "order_id": "ORD-99"})
        assert (said["http"], said["error"]["reason"]) == (404, "UNKNOWN_ORDER")
        said = await client.ask({"id": 7, "op": "cancel_all"})
        assert [shard["canceled"] for shard in said["result"]["shards"]] == [1, 0]
        assert (await client.ask({"id": 8, "op": "ping"})) == {"id": 8, "http": 200, "result": {"success": True}}


async def test_compact_rows_go_to_their_shards_and_come_back_in_place(world: World) -> None:
    async with connect(world) as client:
        id_, results = await client.ask_rows(
            [
                7,
                [
                    row(SELL, 15030, 5, "c-0"),
                    row(BUY, 40000, 7, "c-1", "MSFTUSD"),
                    row(BUY, 40000, 7, "c-2", 1),
                    row(BUY, 1, 1, "c-3", "NOPE"),
                    row(BUY, 17000, 1, "c-4"),
                    [3, "AAPL", 0, "c-0", 15031, 4, 0],
                    [4, "AAPL", 0, "c-0", 1],
                    [2, "MSFT", 0, "c-1"],
                    [2, "AAPL", 99],
                    [4, "AAPL", 0, "c-0", 0],
                ],
            ]
        )
    assert id_ == 7
    assert [result[0] for result in results] == [1, 1, 1, 0, 2, 1, 1, 1, 2, 0]
    assert results[0][6:] == [Status.NEW, 0, 0, 5, []]
    assert results[3][1:3] == [400, "UNKNOWN_INSTRUMENT"]
    assert results[4][5:8] == [Reject.PRICE_COLLAR, 17000, 16500]
    assert results[6][9] == 3
    assert results[7][6] == Status.CANCELED
    assert results[8][5] == Reject.UNKNOWN_ORDER
    assert results[9][2] == "QUANTITY_MIN"


async def test_a_compact_trade_carries_its_fills(world: World) -> None:
    async with connect(world) as maker, connect(world, "bob") as taker:
        await maker.ask_rows([1, [row(SELL, 15020, 5), row(SELL, 15021, 5)]])
        _, (result,) = await taker.ask_rows([2, [row(BUY, 15025, 8, "t-1")]])
    trades = result[10]
    assert [trade[1:] for trade in trades] == [[15020, 5], [15021, 3]]


async def test_pipelined_frames_are_all_answered_and_keep_their_order_in_the_log(world: World) -> None:
    frames = 300
    async with connect(world) as client:
        for number in range(frames):
            await client.send_rows([number, [row(BUY, 15000, 1, f"p-{number}")]])
        answers = dict([await client.hear() for _ in range(frames)])
    assert sorted(answers) == list(range(frames))
    sequence = [answers[number][0][2] for number in range(frames)]
    assert sequence == sorted(sequence)


async def test_both_kinds_of_frame_on_one_socket(world: World) -> None:
    async with connect(world) as client:
        await client.say({"id": 1, "op": "submit", "symbol": "AAPL", "side": "sell", "price": 150.3, "quantity": 1})
        await client.send_rows([2, [row(SELL, 15031, 1)]])
        answers = [await client.hear(), await client.hear()]
    assert {type(answer) for answer in answers} == {dict, list}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        msgspec.msgpack.encode([1, []]),
        msgspec.msgpack.encode([1, [row(2, 1, 1)]]),
        msgspec.msgpack.encode([1, [row(BUY, -1, 1)]]),
        msgspec.msgpack.encode([1, [row(BUY, 1 << 63, 1)]]),
        msgspec.msgpack.encode([1, [row(BUY, 1, 1, "no blanks")]]),
        msgspec.msgpack.encode([1, [row(BUY, 1, 1, "x" * 37)]]),
        msgspec.msgpack.encode([1, [[9, "AAPL"]]]),
        msgspec.msgpack.encode([1, [[*row(BUY, 1, 1), 0, "surplus"]]]),
        msgspec.msgpack.encode([1, [row(BUY, 1, 1)] * (BATCH_ORDERS_MAX + 1)]),
        msgspec.msgpack.encode([1, [row(BUY, 15000, 1)], 0]),
        msgspec.msgpack.encode([-1.5, [row(BUY, 15000, 1)]]),
        msgspec.msgpack.encode({"id": 1}),
    ],
)
async def test_a_malformed_compact_frame_is_answered_and_does_nothing(world: World, content: bytes) -> None:
    async with connect(world) as client:
        await client.socket.send_bytes(content)
        id_, results, problem = await client.hear()
        assert (id_, results, problem[:3]) == (None, [], [0, 400, "MALFORMED"])
        assert (await client.ask({"id": 1, "op": "ping"}))["http"] == 200, "the session goes on"
    assert (await world.call("GET", "/api/orders?user_id=alice")).json["orders"] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"id": 3}',
        '{"id": 3, "op": "fly"}',
        '{"id": 3, "op": "submit", "symbol": "AAPL", "side": "buy", "price": NaN, "quantity": 1}',
        '{"id": 3, "op": "submit", "symbol": "AAPL", "side": "buy", "price": 1, "quantity": 1, "x": 1}',
        '{"id": 3, "op": "cancel"}',
        '{"id": 3, "op": "batch", "orders": []}',
        '{"id": 3, "op": "subscribe", "channel": "secrets"}',
        '{"id": 3, "op": "submit", "symbol": "AAPL", "side": "buy", "price": 1e400, "quantity": 1}',
        "[" * 30_000,
    ],
)
async def test_a_malformed_json_frame_is_answered_and_does_nothing(world: World, text: str) -> None:
    async with connect(world) as client:
        await client.socket.send_str(text)
        said = await client.hear()
        assert (said["http"], said["error"]["reason"]) == (400, "MALFORMED")
        assert said["id"] == (3 if '"id": 3' in text and "NaN" not in text else None)
        assert (await client.ask({"id": 1, "op": "ping"}))["http"] == 200


async def test_a_frame_beyond_the_bound_ends_the_session(world: World) -> None:
    async with connect(world) as client:
        await client.socket.send_bytes(b"\x00" * (WS_FRAME_BYTES_MAX + 1))
        message = await client.hear()
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
        assert client.socket.close_code == 1009


async def test_other_accounts_cannot_be_named_inside_a_session(world: World) -> None:
    async with connect(world) as client:
        order = {"symbol": "AAPL", "side": "buy", "price": 150, "quantity": 1, "user_id": "bob"}
        assert (await client.ask({"id": 1, "op": "submit", **order}))["http"] == 403
        assert (await client.ask({"id": 1, "op": "batch", "orders": [order]}))["http"] == 403


@pytest.mark.usefixtures("no_refill")
async def test_limits_count_every_row_of_a_frame(build: Build) -> None:
    world = await build(profile="classic")
    async with connect(world) as client:
        id_, results, problem = await client.ask_rows([1, [row(BUY, 15000, 1)] * 11])
        assert (id_, results, problem[1:3]) == (1, [], [429, "ORDER_LIMIT"]), "more than there ever is"
        for number in range(2, 12):
            await client.send_rows([number, [row(BUY, 15000, 1)] * 8])
        await client.send_rows([12, [[2, "AAPL", 1]] * 50])
        answers = {answer[0]: answer[1:] for answer in [await client.hear() for _ in range(11)]}
    assert len(answers[2][0]) == 8
    refused = [number for number in range(3, 12) if answers[number][0] == []]
    assert refused == list(range(3, 12))
    assert answers[refused[0]][1][2] == "ORDER_LIMIT"
    assert len(answers[12][0]) == 50, "cancels have a bucket of their own"


async def test_a_silent_shard_leaves_rows_unknown_and_a_dead_one_not_executed(build: Build) -> None:
    world = await build()
    world.shards[0].mute = True
    world.shards[1].refuse = "OVERLOADED"
    async with connect(world) as client:
        _, results = await client.ask_rows([1, [row(BUY, 15000, 1, "k-1"), row(BUY, 1, 1, "k-2", "MSFT")], 1_500])
    assert results[0][:3] == [0, 504, "UNKNOWN"]
    assert results[0][4] == "k-1"
    assert results[1][:3] == [0, 503, "OVERLOADED"]


async def test_executions_are_ones_own_and_in_order(world: World) -> None:
    async with connect(world) as alice, connect(world, "bob") as bob:
        await alice.ask_rows([1, [row(SELL, 15020, 5, "before")]])
        said = await alice.ask({"id": 2, "op": "subscribe", "channel": "executions"})
        assert said["result"] == {"success": True, "channel": "executions"}
        await alice.ask_rows([3, [row(SELL, 15021, 5, "e-1")]])
        await bob.ask_rows([4, [row(BUY, 15025, 7, "b-1")]])
        await alice.ask({"id": 5, "op": "cancel_all"})
        while len(alice.events) < 4:
            await alice.ask({"op": "ping"})
        await bob.ask({"op": "ping"})
        assert bob.events == [], "nothing came before the answer to what he asked last"
    first, second, third, fourth = alice.events
    assert (first["type"], first["event"], first["client_order_id"]) == ("order", "ACCEPTED", "e-1")
    assert [
        (e["type"], e["client_order_id"], e["price"], e["quantity"], e["remaining_quantity"]) for e in (second, third)
    ] == [
        ("trade", "before", 150.2, 5, 0),
        ("trade", "e-1", 150.21, 2, 3),
    ]
    assert (second["side"], second["maker"], second["symbol"]) == ("SELL", True, "AAPL")
    assert (fourth["event"], fourth["reason"], fourth["quantity"]) == ("CANCELLED", "MASS_CANCEL", 3)
    order = [(event["seq"], event["sub"]) for event in alice.events]
    assert order == sorted(order)


async def test_the_streams_are_followed_only_while_somebody_listens(world: World) -> None:
    async with connect(world) as alice:
        await alice.ask({"op": "subscribe", "channel": "executions"})
        await alice.ask({"op": "unsubscribe", "channel": "executions"})
        await alice.ask_rows([1, [row(SELL, 15020, 5)]])
        await alice.ask({"op": "ping"})
        assert alice.events == []
        await alice.ask({"op": "subscribe", "channel": "executions"})
        await alice.ask_rows([2, [row(SELL, 15021, 5, "again")]])
        while not alice.events:
            await alice.ask({"op": "ping"})
    assert alice.events[0]["client_order_id"] == "again", "nothing from before the second subscription"


async def test_a_shard_that_goes_while_the_others_tell_their_place_does_not_lend_them_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, slow = world.shards
    for _ in range(50):
        busy.log(m.Tick())
    async with connect(world) as alice:
        slow.deaf = True
        slow.batches.clear()
        busy.batches.clear()
        await alice.say({"id": 1, "op": "subscribe", "channel": "executions"})
        await until(lambda: bool(slow.batches) and bool(busy.batches), "the question to both")
        assert (await world.call("GET", "/api/orders?symbol=AAPL&user_id=alice")).status == 200, "answered in order"
        busy.stop()
        world.control.spread()
        await until(lambda: not world.gateway.serving["s0"], "the map")
        repeat(monkeypatch)
        slow.deaf = False
        assert (await alice.hear())["id"] == 1
        await alice.ask_rows([2, [row(SELL, 40000, 5, "seen", "MSFT")]])
        while not alice.events:
            await alice.ask({"op": "ping"})
    assert alice.events[0]["client_order_id"] == "seen"


async def open_orders(world: World, user: str = "alice") -> int:
    listed = await world.call("GET", f"/api/orders?user_id={user}")
    return len(listed.json["orders"])


async def wait_for_orders(world: World, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await open_orders(world) != count:
            await asyncio.sleep(0.01)


async def test_orders_stay_when_a_plain_socket_closes(world: World) -> None:
    async with connect(world) as client:
        await client.ask_rows([1, [row(BUY, 15000, 1), row(BUY, 40000, 1, "", "MSFT")]])
    await until(lambda: world.gateway.sessions == 0, "the end of the session")
    assert await open_orders(world) == 2


async def test_cancel_on_disconnect_cancels_at_once(world: World) -> None:
    async with connect(world, cancelOnDisconnect="true") as client:
        await client.ask_rows([1, [row(BUY, 15000, 1), row(BUY, 40000, 1, "", "MSFT")]])
        assert await open_orders(world) == 2
    await wait_for_orders(world, 0)


async def test_a_protected_socket_does_not_open_when_a_shard_cannot_be_armed(world: World) -> None:
    world.shards[1].refuse = "OVERLOADED"
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with connect(world, cancelOnDisconnect="true"):
            pass
    assert caught.value.status == 409


async def test_the_dead_man_of_a_protected_socket_fires_when_nobody_renews_it(world: World) -> None:
    """As after the death of the gateway: the shards' own time is enough."""
    async with connect(world, cancelOnDisconnect="true") as client:
        await client.ask_rows([1, [row(BUY, 15000, 1)]])
        world.shards[0].pass_time(20.0)
        assert await open_orders(world) == 0


async def test_upgrade_is_asked_for(world: World) -> None:
    plain = await world.call("GET", "/ws/orders?user_id=alice")
    assert (plain.status, plain.json["reason"]) == (400, "MALFORMED")
    odd = await world.call("GET", "/ws/orders?cancelOnDisconnect=yes", headers={"Upgrade": "websocket"})
    assert (odd.status, odd.json["reason"]) == (400, "MALFORMED")
