"""The door itself: paths, methods, hostile bodies, headers, limits, connections."""

import asyncio
import gzip
import re
from typing import Any

import msgspec
import pytest

from exchange.limits import BATCH_BODY_BYTES_MAX, HTTP_BODY_BYTES_MAX
from gateway.guard import Connections
from tests.gateway.conftest import ORDER, PATIENCE_S, Build, World, until

ERROR_FIELDS = {"success", "error", "code", "reason", "detail", "retryable", "doc"}

ENDPOINTS = [
    ("POST", "/api/submit"),
    ("DELETE", "/api/cancel/ORD-1"),
    ("POST", "/api/orders"),
    ("GET", "/api/orders"),
    ("DELETE", "/api/orders"),
    ("GET", "/api/orders/ORD-1"),
    ("PATCH", "/api/orders/ORD-1"),
    ("POST", "/api/orders/c-1/resolve"),
    ("POST", "/api/deadman"),
    ("GET", "/api/user/alice/positions"),
    ("GET", "/api/book/AAPL"),
    ("GET", "/api/trades/AAPL"),
    ("GET", "/api/performance/system"),
    ("GET", "/api/instruments"),
    ("GET", "/api/time"),
    ("GET", "/api/status"),
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/ws/orders"),
    ("GET", "/"),
]
HOSTILE = [
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe",
    b'{"a":',
    b'{"symbol":"AAPL","side":"buy","price":NaN,"quantity":1}',
    b'{"symbol":"AAPL","side":"buy","price":Infinity,"quantity":1}',
    b'{"symbol":"AAPL","side":"buy","price":1e999999999,"quantity":1}',
    b'{"symbol":"AAPL","side":"buy","price":"NaN","quantity":1}',
    b'{"symbol":"AAPL","side":"buy","price":' + b"9" * 400 + b',"quantity":1}',
    b'{"symbol":"AAPL","side":"buy","price":{"a":1},"quantity":1}',
    b'{"symbol":"AAPL","side":"buy","price":[],"quantity":1}',
    b'{"symbol":"AAPL","side":"buy","price":1,"quantity":true}',
    b'{"symbol":"' + b"A" * 5000 + b'","side":"buy","price":1,"quantity":1}',
    b'{"symbol":"A\\u0000","side":"buy","price":1,"quantity":1}',
    b'{"symbol":"\\ud800","side":"buy","price":1,"quantity":1}',
    b'{"symbol":null,"side":"buy","price":1,"quantity":1}',
    b'{"timeout_ms":99999999999999999999}',
    b'{"orders":{}}',
    b'{"orders":[[]]}',
    b'{"reduce_by":"-1"}',
    b'{"remaining_quantity":"0x10"}',
    b"[" * 10_000,
    b'{"a":' * 2_000,
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_hostile_bodies_get_a_clear_no_everywhere(world: World, method: str, path: str) -> None:
    before = [shard.sequence for shard in world.shards]
    for body in HOSTILE:
        said = await world.call(method, path, body=body)
        assert 400 <= said.status < 500, (body[:60], said.status, said.text)
        assert set(said.json) >= ERROR_FIELDS
        assert said.json["success"] is False
        assert "Traceback" not in said.text
    assert [shard.sequence for shard in world.shards] == before, "nothing reached a shard"


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_a_wrong_method_is_told_the_right_ones(world: World, method: str, path: str) -> None:
    for other in ("PUT", "TRACE", "HEAD"):
        said = await world.call(other, path)
        assert said.status == 405
        assert method in said.headers["Allow"].split(", ")
        if other != "HEAD":
            assert said.json["reason"] == "METHOD"


@pytest.mark.parametrize("path", ["/nope", "/api", "/api/submit/", "/api/orders/a/b/c", "/api/book/", "/%00"])
async def test_an_unknown_path_is_not_found(world: World, path: str) -> None:
    said = await world.call("GET", path)
    assert (said.status, said.json["reason"]) == (404, "NOT_FOUND")
    assert set(said.json) >= ERROR_FIELDS


@pytest.mark.parametrize(
    "path",
    [
        "/api/book/AAPL?depth=0",
        "/api/book/AAPL?depth=101",
        "/api/book/AAPL?depth=ten",
        "/api/book/AAPL?depth=1&depth=2",
        "/api/book/AAPL?deep=1",
        "/api/book/AAPL?user_id=alice",
        "/api/trades/AAPL?limit=1001",
        "/api/trades/AAPL?limit=%ff",
        "/api/orders?limit=-1",
        "/api/orders?after=ORD-x",
        "/api/orders?after=ORD-99999999999999999",
        "/health?strict=2",
        "/api/orders?" + "&".join(f"x{n}=1" for n in range(50)),
    ],
)
async def test_a_wrong_query_is_refused(world: World, path: str) -> None:
    said = await world.call("GET", path)
    assert (said.status, said.json["reason"]) == (400, "MALFORMED")


@pytest.mark.parametrize(
    "id_", ["ORD-", "ORD-0", "ORD-x", "ORD-1e3", "ORD-99999999999999999", "ORD-9007199254740993", "ORD--1"]
)
async def test_ids_that_name_no_order(world: World, id_: str) -> None:
    said = await world.call("DELETE", f"/api/cancel/{id_}?user_id=alice")
    assert (said.status, said.json["reason"]) == (404, "UNKNOWN_ORDER")
    odd = await world.call("DELETE", "/api/cancel/%00%20?user_id=alice")
    assert (odd.status, odd.json["reason"]) == (400, "MALFORMED")


async def test_bodies_are_bounded(world: World) -> None:
    padded = {**ORDER, "client_order_id": "x" * HTTP_BODY_BYTES_MAX}
    said = await world.call("POST", "/api/submit", padded)
    assert (said.status, said.json["reason"]) == (413, "TOO_LARGE")
    said = await world.call("POST", "/api/orders", body=b" " * (BATCH_BODY_BYTES_MAX + 1))
    assert said.status == 413

    async def chunks() -> Any:
        for _ in range(10):
            yield b" " * 10_000

    said = await world.call("POST", "/api/orders", body=chunks())
    assert said.status == 413, "also when the length is not announced"


async def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    body = msgspec.json.encode(ORDER)
    head = ["POST /api/submit HTTP/1.1", "Host: x", "Expect: 100-continue", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*head, "Connection: close", "", ""]).encode())
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()


async def test_bodies_are_taken_as_they_come_and_never_unpacked(world: World) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    said = await world.call("POST", "/api/orders", body=bomb[:60_000], headers={"Content-Encoding": "gzip"})
    assert (said.status, said.json["reason"]) == (400, "MALFORMED")


async def test_the_last_of_a_repeated_key_wins(world: World) -> None:
    body = b'{"symbol":"AAPL","side":"buy","price":1,"price":150,"quantity":1,"user_id":"alice"}'
    said = await world.call("POST", "/api/submit", body=body)
    assert said.status == 200
    order = await world.call("GET", f"/api/orders/{said.json['order_id']}?user_id=alice")
    assert order.json["price"] == 150


async def test_headers_of_the_house(world: World) -> None:
    said = await world.submit()
    assert said.headers["Content-Type"] == "application/json"
    assert said.headers["Cache-Control"] == "no-store"
    assert said.headers["X-Content-Type-Options"] == "nosniff"
    assert said.headers["Server"] == "shardex"
    assert said.headers["X-Request-Id"].startswith("g0-")
    mine = await world.call("GET", "/api/time", headers={"X-Request-Id": "my-id.7"})
    assert mine.headers["X-Request-Id"] == "my-id.7"
    theirs = await world.call("GET", "/api/time", headers={"X-Request-Id": "<script>"})
    assert theirs.headers["X-Request-Id"].startswith("g0-")


async def test_cross_origin_only_in_demo_mode(build: Build) -> None:
    demo = await build()
    said = await demo.call("OPTIONS", "/api/submit", headers={"Origin": "http://page"})
    assert said.status == 204
    assert said.headers["Access-Control-Allow-Origin"] == "*"
    assert said.headers["Access-Control-Allow-Methods"] == "POST"
    assert (await demo.call("GET", "/api/time")).headers["Access-Control-Allow-Origin"] == "*"
    closed = await build(open_demo=False)
    assert (await closed.call("OPTIONS", "/api/submit")).status == 405
    assert "Access-Control-Allow-Origin" not in (await closed.call("GET", "/api/time")).headers


@pytest.mark.usefixtures("no_refill")
async def test_the_classic_profile_limits_orders_and_not_cancels(build: Build) -> None:
    world = await build(profile="classic")
    answers = await asyncio.gather(*[world.submit(quantity=1) for _ in range(60)])
    refused = [said for said in answers if said.status == 429]
    assert (sum(said.status == 200 for said in answers), len(refused)) == (10, 50)
    assert refused[0].json["reason"] == "ORDER_LIMIT"
    assert refused[0].headers["Retry-After"] == "1"
    assert (
        refused[0].headers["RateLimit-Policy"] == '"orders";q=10;w=1, "requests";q=100;w=1, "requests-1m";q=1000;w=60'
    )
    assert re.fullmatch(r'"orders";r=\d+;t=[01]', refused[0].headers["RateLimit"])
    cancels = [await world.call("DELETE", "/api/cancel/ORD-1?user_id=alice") for _ in range(20)]
    assert all(said.status in (200, 404) for said in cancels)
    assert (await world.submit(user_id="bob", quantity=1)).status == 200, "one account's limit is its own"


async def test_a_batch_takes_one_token_for_each_order(build: Build) -> None:
    world = await build(profile="classic")
    orders = [{"symbol": "AAPL", "side": "buy", "price": 150, "quantity": 1}] * 11
    said = await world.call("POST", "/api/orders", {"orders": orders, "user_id": "alice"})
    assert (said.status, said.json["reason"]) == (429, "ORDER_LIMIT")
    said = await world.call("POST", "/api/orders", {"orders": orders[:10], "user_id": "alice"})
    assert said.status == 200


async def raw(world: World, content: bytes) -> bytes:
    """What comes back on a connection of its own until the gateway closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(content)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"garbage\r\n\r\n",
        b"POST /api/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /api/submit HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"h%d: 1\r\n" % n for n in range(300)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
)
async def test_what_is_not_http_is_refused_and_closed(world: World, request_: bytes) -> None:
    said = await raw(world, request_ + b"\r\n\r\n")
    assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), said[:200]
    assert b'"reason":"MALFORMED"' in said
    assert b"Traceback" not in said
    assert (await world.call("GET", "/livez")).status == 200


async def test_pipelined_requests_on_one_connection_are_answered_in_order(world: World) -> None:
    one = b"GET /api/time HTTP/1.1\r\nHost: x\r\nX-Request-Id: r%d\r\n\r\n"
    said = await raw(
        world, b"".join(one % n for n in range(20)) + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert [said.index(b"X-Request-Id: r%d\r" % n) for n in range(20)] == sorted(
        said.index(b"X-Request-Id: r%d\r" % n) for n in range(20)
    )
    assert b'{"alive":true}' in said


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"POST /api/submit HTTP/1.1\r\nHost",
        b"POST /api/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ],
)
async def test_a_connection_that_dawdles_is_closed(world: World, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hurried:
        hurried.setattr("gateway.guard.HTTP_REQUEST_DEADLINE_NS", 50_000_000)
        said = await raw(world, part)
    assert b"503" not in said
    assert b"UNKNOWN" not in said
    assert (await world.call("GET", "/livez")).status == 200


async def test_a_request_that_waits_for_a_shard_is_no_dawdler(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = world.shards[0]
    shard.mute = True
    shard.batches.clear()
    waiting = asyncio.create_task(world.submit(deadline_ms=1_500))
    await until(lambda: bool(shard.batches), "the order's arrival: its request is complete")
    monkeypatch.setattr("gateway.guard.HTTP_REQUEST_DEADLINE_NS", 50_000_000)
    assert (await waiting).status == 504


async def test_connections_are_counted_by_address(build: Build) -> None:
    world = await build(connections_per_ip_max=3)
    others = [await asyncio.open_connection("127.0.0.1", world.gateway.port) for _ in range(2)]
    said = await raw(world, b"")
    assert said.startswith(b"HTTP/1.1 429 Too Many Requests")
    assert b'"reason":"CONNECTION_LIMIT"' in said
    for _, writer in others:
        writer.close()
        await writer.wait_closed()
    await until(lambda: world.gateway.connections <= 1, "the end of the connections")
    assert (await world.call("GET", "/livez")).status == 200


def test_connections_are_bounded_in_all() -> None:
    connections = Connections(total_max=0, per_address_max=5)
    problem = connections.enter(object(), "10.0.0.1")  # type: ignore[arg-type]
    assert problem is not None
    assert problem.reason == "CONNECTION_LIMIT"
