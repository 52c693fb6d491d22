"""Keys on disk, signed requests through the real door, and what a changed file does."""

import secrets
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from exchange.errors import ConfigError
from gateway.core.auth import Signed, sign
from gateway.server import is_loopback, read_keys
from tests.gateway.conftest import ORDER, PATIENCE_S, Build, Said, World, until

KEYS = {
    "k-trader": {"account": "alice", "scopes": ["read", "trade"], "secret": "s-1"},
    "k-reader": {"account": "alice", "scopes": ["read"], "secret": "s-2"},
    "k-ops": {"account": "olga", "scopes": ["ops"], "secret": "s-3"},
}


def write_keys(world: World, keys: dict[str, Any]) -> None:
    """As the command line does: a whole new file in the place of the old one."""
    path = world.config.data / "keys.json"
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(keys))
    fresh.chmod(0o600)
    fresh.rename(path)


def headers(key: str, method: str, path: str, body: bytes = b"") -> dict[str, str]:
    bare, _, query = path.partition("?")
    timestamp, nonce = str(time.time_ns() // 1_000_000), secrets.token_hex(8)
    signature = sign(KEYS[key]["secret"], Signed(method, bare, query, body), timestamp, nonce)  # type: ignore[arg-type]
    return {"X-API-Key": key, "X-API-Timestamp": timestamp, "X-API-Nonce": nonce, "X-API-Signature": signature}


async def signed(world: World, key: str, method: str, path: str, json: Any = None) -> Said:
    body = b"" if json is None else msgspec.json.encode(json)
    return await world.call(method, path, body=body, headers=headers(key, method, path, body))


@pytest.fixture
async def keyed(build: Build) -> World:
    """A world whose keys appeared while it ran: the open demo mode is over."""
    world = await build()
    write_keys(world, KEYS)
    await until(lambda: not world.gateway.open_demo, "the end of the demo mode")
    return world


async def test_a_key_ends_the_demo_mode_and_signs_from_then_on(keyed: World) -> None:
    nobody = await keyed.submit()
    assert (nobody.status, nobody.json["reason"]) == (401, "KEY")
    order = {**ORDER, "user_id": "alice"}
    assert (await signed(keyed, "k-trader", "POST", "/api/submit", order)).status == 200
    other = await signed(keyed, "k-trader", "POST", "/api/submit", {**ORDER, "user_id": "bob"})
    assert (other.status, other.json["reason"]) == (403, "FORBIDDEN")
    mine = await signed(keyed, "k-reader", "GET", "/api/orders?symbol=AAPL")
    assert len(mine.json["orders"]) == 1


async def test_a_captured_request_cannot_be_used_again(keyed: World) -> None:
    body = msgspec.json.encode(ORDER)
    once = headers("k-trader", "POST", "/api/submit", body)
    assert (await keyed.call("POST", "/api/submit", body=body, headers=once)).status == 200
    assert (await keyed.call("POST", "/api/submit", body=body, headers=once)).status == 401
    assert (await keyed.call("POST", "/api/orders", body=body, headers=once)).status in (400, 401)


async def test_a_wrong_clock_is_told_the_right_time(keyed: World) -> None:
    timestamp = str(time.time_ns() // 1_000_000 - 10_000)
    signature = sign("s-1", Signed("GET", "/api/orders", "", b""), timestamp, "n")
    late = {"X-API-Key": "k-trader", "X-API-Timestamp": timestamp, "X-API-Nonce": "n", "X-API-Signature": signature}
    said = await keyed.call("GET", "/api/orders", headers=late)
    assert (said.status, said.json["reason"]) == (401, "CLOCK")
    assert int(timestamp) + 10_000 <= said.json["server_time_ms"] <= time.time_ns() // 1_000_000


PUBLIC = [
    "/api/book/AAPL",
    "/api/trades/AAPL",
    "/api/instruments",
    "/api/time",
    "/api/status",
    "/health",
    "/metrics",
    "/",
]
GUARDED = [
    ("POST", "/api/submit", ORDER, "trade"),
    ("POST", "/api/orders", {"orders": [ORDER]}, "trade"),
    ("PATCH", "/api/orders/ORD-1", {"reduce_by": 1}, "trade"),
    ("POST", "/api/orders/c-1/resolve", {"symbol": "AAPL"}, "trade"),
    ("POST", "/api/deadman", {"timeout_ms": 0}, "trade"),
    ("DELETE", "/api/cancel/ORD-1", None, "trade"),
    ("DELETE", "/api/orders", None, "trade"),
    ("GET", "/ws/orders", None, "trade"),
    ("GET", "/api/orders", None, "read"),
    ("GET", "/api/orders/ORD-1", None, "read"),
    ("GET", "/api/user/alice/positions", None, "read"),
    ("GET", "/api/performance/system", None, "ops"),
]


async def test_every_endpoint_against_every_scope(keyed: World) -> None:
    for path in PUBLIC:
        assert (await keyed.call("GET", path)).status == 200
    for method, path, body, scope in GUARDED:
        bare = await keyed.call(method, path, body)
        assert (bare.status, bare.json["reason"]) == (401, "KEY"), path
        for key, entry in KEYS.items():
            said = await signed(keyed, key, method, path, body)
            owner = entry["account"] == "alice" or "alice" not in path
            own_body = not isinstance(body, dict) or body.get("user_id", entry["account"]) == entry["account"]
            allowed = scope in entry["scopes"] and owner and own_body
            assert (said.status == 403) is not allowed, (method, path, key, said.status, said.text)


async def test_positions_of_others_are_refused_alike(keyed: World) -> None:
    answers = [await signed(keyed, "k-reader", "GET", f"/api/user/{name}/positions") for name in ("olga", "nobody")]
    assert [said.status for said in answers] == [403, 403]
    assert answers[0].text == answers[1].text


async def test_a_revoked_key_is_refused_and_its_sockets_are_closed(keyed: World) -> None:
    opened = headers("k-trader", "GET", "/ws/orders")
    async with keyed.http.ws_connect("/ws/orders", headers=opened) as socket:
        write_keys(keyed, {name: entry for name, entry in KEYS.items() if name != "k-trader"})
        message = await socket.receive(timeout=PATIENCE_S)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1008
    assert (await signed(keyed, "k-trader", "GET", "/api/orders")).status == 401
    assert (await signed(keyed, "k-reader", "GET", "/api/orders")).status == 200


async def test_a_broken_keys_file_changes_nothing(keyed: World) -> None:
    path = keyed.config.data / "keys.json"
    path.write_text("{")
    await until(lambda: keyed.gateway.keys_faults > 0, "the failed reading")
    assert (await signed(keyed, "k-reader", "GET", "/api/orders")).status == 200


async def test_a_page_from_elsewhere_cannot_open_an_order_socket(keyed: World) -> None:
    opened = {**headers("k-trader", "GET", "/ws/orders"), "Origin": "http://evil.example"}
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await keyed.http.ws_connect("/ws/orders", headers=opened)
    assert caught.value.status == 403


def test_a_keys_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert read_keys(path) == {}
    path.write_bytes(msgspec.json.encode(KEYS))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="0600"):
        read_keys(path)
    path.chmod(0o600)
    assert sorted(read_keys(path)) == sorted(KEYS)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("here", False)],
)
def test_the_open_demo_mode_needs_a_loopback_host(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
