"""The life of an order over REST."""

import asyncio

import pytest

from tests.gateway.conftest import World


async def test_an_order_rests_and_a_second_one_trades_with_it(world: World) -> None:
    rests = await world.submit(side="sell", price=150.24, client_order_id="a-1")
    assert rests.status == 200
    assert rests.json["status"] == "NEW"
    assert rests.json["client_order_id"] == "a-1"
    assert rests.json["remaining_quantity"] == 100
    trades = await world.submit(user_id="bob", quantity=40)
    body = trades.json
    assert trades.status == 200
    assert (body["success"], body["status"], body["remaining_quantity"]) == (True, "FILLED", 0)
    assert [(t["price"], t["quantity"]) for t in body["trades"]] == [(150.24, 40)]
    assert body["trades"][0]["trade_id"].startswith("TRD-")
    assert body["trades"][0]["timestamp"].endswith("Z")
    assert '"price":150.24,' in trades.text, "numbers are exact JSON numbers"
    assert body["order_id"].startswith("ORD-")
    assert body["latency_us"] > 0
    assert trades.headers["X-Shard"] == "s0"
    assert trades.headers["X-Shard-Epoch"] == str(body["epoch"])
    assert trades.headers["X-Shard-Seq"] == str(body["seq"])


async def test_the_same_order_again_gets_the_first_answer(world: World) -> None:
    first = await world.submit(client_order_id="same")
    again = await world.submit(client_order_id="same")
    assert again.status == 200
    assert again.headers["X-Idempotent-Replay"] == "true"
    assert "X-Idempotent-Replay" not in first.headers
    assert again.json["duplicate"] is True
    assert {**again.json, "duplicate": None, "latency_us": 0} == {**first.json, "duplicate": None, "latency_us": 0}
    other = await world.submit(client_order_id="same", quantity=101)
    assert (other.status, other.json["reason"]) == (409, "ID_REUSED")
    listed = await world.call("GET", "/api/orders?user_id=alice")
    assert len(listed.json["orders"]) == 1, "it ran once"


async def test_the_header_idempotency_key_stands_in_for_the_id(world: World) -> None:
    order = {"symbol": "AAPL", "side": "buy", "price": 150, "quantity": 1, "user_id": "alice"}
    for replay in (None, "true"):
        said = await world.call("POST", "/api/submit", order, headers={"Idempotency-Key": "h-1"})
        assert said.json["client_order_id"] == "h-1"
        assert said.headers.get("X-Idempotent-Replay") == replay
    named = await world.call(
        "POST", "/api/submit", {**order, "client_order_id": "b-1"}, headers={"Idempotency-Key": "h-1"}
    )
    assert named.json["client_order_id"] == "b-1", "the body comes first"
    odd = await world.call("POST", "/api/submit", order, headers={"Idempotency-Key": "no blanks"})
    assert odd.status == 400


async def test_orders_of_one_turn_ride_in_one_batch(world: World) -> None:
    shard = world.shards[0]
    shard.batches.clear()
    answers = await asyncio.gather(*[world.submit(user_id=f"u{n}") for n in range(20)])
    assert [answer.status for answer in answers] == [200] * 20
    assert shard.arrived == 20


async def test_numbers_are_read_from_their_text(world: World) -> None:
    sent = '{"symbol":"BTC","side":"SELL","price":"78000.5","quantity":0.10000001,"user_id":"alice"}'
    said = await world.call("POST", "/api/submit", body=sent.encode())
    assert said.status == 200, said.text
    assert said.json["remaining_quantity"] == 0.10000001
    order = await world.call("GET", f"/api/orders/{said.json['order_id']}?user_id=alice")
    assert '"price":78000.5,"quantity":0.10000001,' in order.text
    exponent = '{"symbol":"AAPL","side":"buy","price":1.5e2,"quantity":1e1,"user_id":"alice"}'
    said = await world.call("POST", "/api/submit", body=exponent.encode())
    assert said.json["remaining_quantity"] == 10


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"symbol": "NOPE"}, 400, "UNKNOWN_INSTRUMENT"),
        ({"side": "hold"}, 400, "MALFORMED"),
        ({"order_type": "stop"}, 400, "MALFORMED"),
        ({"price": None}, 400, "MALFORMED"),
        ({"price": "150.255"}, 400, "TICK_SIZE"),
        ({"price": "-1"}, 400, "PRICE_MIN"),
        ({"price": 10**16}, 400, "PRICE_MAX"),
        ({"price": 170}, 400, "PRICE_COLLAR"),
        ({"quantity": 1.5}, 400, "LOT_SIZE"),
        ({"quantity": 0}, 400, "QUANTITY_MIN"),
        ({"quantity": 2_000_000}, 400, "QUANTITY_MAX"),
        ({"quantity": 5_001}, 400, "POSITION_LIMIT"),
        ({"order_type": "market"}, 400, "INVALID_COMBINATION"),
        ({"time_in_force": "gtd"}, 400, "INVALID_COMBINATION"),
        ({"time_in_force": "gtd", "expire_at_ms": 1}, 400, "EXPIRE_IN_PAST"),
        ({"client_order_id": "ORD-5"}, 400, "MALFORMED"),
        ({"client_order_id": "no blanks"}, 400, "MALFORMED"),
        ({"deadline_ms": 0}, 400, "MALFORMED"),
        ({"surprise": 1}, 400, "MALFORMED"),
        ({"user_id": "no/slash"}, 400, "MALFORMED"),
    ],
)
async def test_a_wrong_order_is_refused_with_its_reason(
    world: World, change: dict[str, object], status: int, reason: str
) -> None:
    said = await world.submit(**change)
    assert (said.status, said.json["reason"]) == (status, reason), said.text
    assert said.json["success"] is False
    assert said.json["retryable"] is False
    assert said.json["doc"] == f"/docs/errors#{reason}"
    assert said.json["detail"]
    assert (await world.call("GET", "/api/orders?user_id=alice")).json["orders"] == []


async def test_the_engines_refusal_names_rule_and_value_in_the_clients_units(world: World) -> None:
    said = await world.submit(price=170)
    assert said.json["detail"] == "price 170.00 is beyond the collar at 165.00"
    assert said.headers["X-Shard-Seq"] == str(said.json["seq"])
    said = await world.submit(quantity=5_001)
    assert said.json["detail"] == "position with all open orders would be 5001, limit 5000"


async def test_enums_are_case_insensitive_and_market_orders_take_what_is_there(world: World) -> None:
    await world.submit(side="sell", stp="nOnE")
    said = await world.submit(user_id="bob", order_type="Market", side="bUy", price=None, quantity=150)
    assert (said.json["status"], said.json["reason"], said.json["remaining_quantity"]) == (
        "EXPIRED",
        "NO_LIQUIDITY",
        50,
    )


async def test_cancel_by_either_id_once(world: World) -> None:
    first = (await world.submit(client_order_id="c-1")).json
    said = await world.call("DELETE", f"/api/cancel/{first['order_id']}?user_id=alice")
    assert said.status == 200
    assert said.json["status"] == "CANCELED"
    assert said.json["remaining_quantity"] == 100
    assert said.json["order_id"] == first["order_id"]
    again = await world.call("DELETE", f"/api/cancel/{first['order_id']}?user_id=alice")
    assert (again.status, again.json["reason"]) == (404, "UNKNOWN_ORDER")
    await world.submit(client_order_id="a/b:c.d_e-f")
    said = await world.call("DELETE", "/api/cancel/a%2Fb:c.d_e-f?symbol=AAPL&user_id=alice")
    assert said.status == 200, said.text
    unnamed = await world.call("DELETE", "/api/cancel/c-1?user_id=alice")
    assert (unnamed.status, unnamed.json["reason"]) == (400, "MALFORMED")


async def test_an_order_of_somebody_else_looks_like_none(world: World) -> None:
    id_ = (await world.submit()).json["order_id"]
    none = id_[:-1] + "9"
    for method, path, body in (
        ("DELETE", "/api/cancel/{}?user_id=eve", None),
        ("GET", "/api/orders/{}?user_id=eve", None),
        ("PATCH", "/api/orders/{}", {"reduce_by": 1, "user_id": "eve"}),
    ):
        theirs = await world.call(method, path.format(id_), body)
        nobodys = await world.call(method, path.format(none), body)
        assert theirs.status == nobodys.status == 404
        pair = [{**said.json, "seq": 0, "client_order_id": ""} for said in (theirs, nobodys)]
        assert pair[0] == pair[1]


async def test_amend(world: World) -> None:
    id_ = (await world.submit(client_order_id="m-1")).json["order_id"]
    path = f"/api/orders/{id_}"

    async def amend(**fields: object) -> tuple[int, object]:
        said = await world.call("PATCH", path, {"user_id": "alice", **fields})
        return said.status, said.json.get("remaining_quantity", said.json.get("reason"))

    assert await amend(reduce_by=10) == (200, 90)
    assert await amend(price=150.20) == (200, 90), "the quantity stays"
    assert await amend(quantity=80) == (200, 80), "the price stays"
    await world.submit(user_id="bob", side="sell", price=150.20, quantity=30)
    assert await amend(quantity=60) == (200, 30), "a total counts what is filled"
    assert await amend(remaining_quantity=20, price=150.10) == (200, 20)
    order = (await world.call("GET", f"{path}?user_id=alice")).json
    assert (order["price"], order["quantity"], order["filled_quantity"]) == (150.1, 50, 30)
    assert await amend() == (400, "MALFORMED")
    assert await amend(quantity=5, reduce_by=5) == (400, "MALFORMED")
    assert await amend(price=1, reduce_by=5) == (400, "MALFORMED")
    assert await amend(reduce_by=0) == (400, "QUANTITY_MIN")
    by_name = await world.call("PATCH", "/api/orders/m-1?symbol=AAPL", {"reduce_by": 20, "user_id": "alice"})
    assert by_name.json["status"] == "CANCELED", "nothing is left"
    assert await amend(reduce_by=1) == (404, "UNKNOWN_ORDER")


async def test_an_amendment_repeated_under_its_id_runs_once(world: World) -> None:
    id_ = (await world.submit()).json["order_id"]
    change = {"reduce_by": 10, "client_order_id": "r-1", "user_id": "alice"}
    first = await world.call("PATCH", f"/api/orders/{id_}", change)
    again = await world.call("PATCH", f"/api/orders/{id_}", change)
    assert (first.json["remaining_quantity"], again.json["remaining_quantity"]) == (90, 90)
    assert again.headers["X-Idempotent-Replay"] == "true"


async def test_batch_answers_each_order_in_its_place(world: World) -> None:
    orders = [
        {"symbol": "AAPL", "side": "sell", "price": 150.25, "quantity": 5, "client_order_id": "b-0"},
        {"symbol": "NOPE", "side": "buy", "price": 1, "quantity": 1},
        {"symbol": "MSFT", "side": "buy", "price": 400, "quantity": 7, "client_order_id": "b-2"},
        {"symbol": "AAPL", "side": "buy", "price": 150.25, "quantity": 0.5},
        {"symbol": "AAPL", "side": "buy", "price": 170, "quantity": 1},
    ]
    said = await world.call("POST", "/api/orders", {"orders": orders, "user_id": "alice"})
    assert said.status == 200
    results = said.json["results"]
    assert [result.get("status", result.get("reason")) for result in results] == [
        "NEW",
        "UNKNOWN_INSTRUMENT",
        "NEW",
        "LOT_SIZE",
        "PRICE_COLLAR",
    ]
    assert [result.get("http") for result in results] == [None, 400, None, 400, 400]
    assert [results[place]["client_order_id"] for place in (0, 2)] == ["b-0", "b-2"]
    listed = (await world.call("GET", "/api/orders?user_id=alice")).json["orders"]
    assert [order["symbol"] for order in listed] == ["AAPL", "MSFT"], "over all shards, by order id"


async def test_a_malformed_order_refuses_the_whole_batch(world: World) -> None:
    good = {"symbol": "AAPL", "side": "sell", "price": 150.25, "quantity": 5}
    for orders in ([good, {**good, "price": True, "deadline_ms": "soon"}], [], [good] * 257):
        said = await world.call("POST", "/api/orders", {"orders": orders, "user_id": "alice"})
        assert (said.status, said.json["reason"]) == (400, "MALFORMED")
    other = await world.call("POST", "/api/orders", {"orders": [good, {**good, "user_id": "eve"}], "user_id": "alice"})
    assert (other.status, other.json["reason"]) == (403, "FORBIDDEN")
    assert (await world.call("GET", "/api/orders?user_id=alice")).json["orders"] == []


async def test_open_orders_in_pages(world: World) -> None:
    for symbol, price in (("AAPL", 150), ("MSFT", 400), ("AAPL", 151)):
        await world.submit(symbol=symbol, price=price)
    everything = (await world.call("GET", "/api/orders?user_id=alice")).json
    assert everything["more"] is False
    ids = [order["order_id"] for order in everything["orders"]]
    first = (await world.call("GET", "/api/orders?user_id=alice&limit=2")).json
    assert (first["more"], [order["order_id"] for order in first["orders"]]) == (True, ids[:2])
    rest = (await world.call("GET", f"/api/orders?user_id=alice&limit=2&after={ids[1]}")).json
    assert (rest["more"], [order["order_id"] for order in rest["orders"]]) == (False, ids[2:])
    only = (await world.call("GET", "/api/orders?user_id=alice&symbol=MSFT")).json["orders"]
    assert [order["symbol"] for order in only] == ["MSFT"]


async def test_status_by_either_id_also_after_the_end(world: World) -> None:
    id_ = (await world.submit(client_order_id="s-1", symbol="MSFT", price=400)).json["order_id"]
    for path in (id_, "s-1", "s-1?symbol=MSFT"):
        mark = "&" if "?" in path else "?"
        order = await world.call("GET", f"/api/orders/{path}{mark}user_id=alice")
        assert order.json["client_order_id"] == "s-1"
        assert order.json["status"] == "NEW"
        assert order.headers["X-Shard"] == "s1"
    await world.call("DELETE", f"/api/cancel/{id_}?user_id=alice")
    order = (await world.call("GET", "/api/orders/s-1?user_id=alice")).json
    assert (order["status"], order["reason"], order["remaining_quantity"]) == ("CANCELED", "USER", 100)
    missing = await world.call("GET", "/api/orders/s-2?user_id=alice")
    assert (missing.status, missing.json["reason"]) == (404, "UNKNOWN_ORDER")


async def test_mass_cancel_of_one_symbol_and_of_all(world: World) -> None:
    for symbol, price in (("AAPL", 150), ("MSFT", 400), ("AAPL", 151), ("MSFT", 401)):
        await world.submit(symbol=symbol, price=price)
    await world.submit(user_id="bob", price=140)
    one = await world.call("DELETE", "/api/orders?symbol=AAPL&user_id=alice")
    assert one.status == 200
    place = {"epoch": world.shards[0].epoch, "seq": world.shards[0].sequence}
    assert one.json["shards"] == [{"shard": "s0", "status": "DONE", "canceled": 2, **place}]
    every = await world.call("DELETE", "/api/orders?user_id=alice")
    assert [(s["shard"], s["canceled"]) for s in every.json["shards"]] == [("s0", 0), ("s1", 2)]
    assert len((await world.call("GET", "/api/orders?user_id=bob")).json["orders"]) == 1, "only one's own"


async def test_dead_man_switch_fires_in_log_time(world: World) -> None:
    await world.submit()
    armed = await world.call("POST", "/api/deadman", {"timeout_ms": 1, "user_id": "alice"})
    assert armed.status == 200
    assert [shard["status"] for shard in armed.json["shards"]] == ["DONE", "DONE"]
    assert armed.json["timeout_ms"] == 1
    for shard in world.shards:
        shard.pass_time()
    assert (await world.call("GET", "/api/orders?user_id=alice")).json["orders"] == []
    wrong = await world.call("POST", "/api/deadman", {"timeout_ms": -1, "user_id": "alice"})
    assert wrong.status == 400


async def test_resolve_tells_what_an_id_led_to_or_voids_it(world: World) -> None:
    first = (await world.submit(client_order_id="k-1")).json
    await world.submit(client_order_id="k-2", price=170)

    async def resolve(id_: str) -> dict[str, object]:
        said = await world.call("POST", f"/api/orders/{id_}/resolve", {"symbol": "AAPL", "user_id": "alice"})
        assert said.status == 200, said.text
        return dict(said.json)

    known = await resolve("k-1")
    assert (known["order_id"], known["status"], known["duplicate"]) == (first["order_id"], "NEW", True)
    rejected = await resolve("k-2")
    assert (rejected["status"], rejected["reason"]) == ("REJECTED", "PRICE_COLLAR")
    voided = await resolve("k-3")
    assert (voided["status"], voided["reason"]) == ("VOIDED", "VOIDED")
    late = await world.submit(client_order_id="k-3")
    assert (late.status, late.json["reason"]) == (409, "VOIDED")
