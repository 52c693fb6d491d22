"""The life of an order over REST."""

import asyncio

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


async def test_orders_of_one_turn_ride_in_one_batch(world: World) -> None:
    shard = world.shards[0]
    shard.batches.clear()
    answers = await asyncio.gather(*[world.submit(user_id=f"u{n}") for n in range(20)])
    assert [answer.status for answer in answers] == [200] * 20
    assert sum(batch.count for batch in shard.batches) == 20
