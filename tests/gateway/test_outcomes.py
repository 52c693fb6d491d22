"""What a gateway says when a shard dies, is silent or refuses: never more than it knows, and nothing runs twice."""

import asyncio
from typing import Any

import pytest

from exchange import messages as m
from exchange.domain import NS_PER_S
from exchange.wire import decode_commands, decode_replies
from tests.gateway.conftest import PATIENCE_MS, PATIENCE_S, Build, World, repeat, until

ALL = "/api/orders?user_id=alice"


async def open_ids(world: World) -> list[str]:
    listed = await world.call("GET", ALL)
    return [order["client_order_id"] for order in listed.json["orders"]]


async def test_an_order_survives_the_shard_that_died_with_it(world: World) -> None:
    """Executed, journalled, not answered: the next term answers the repetition from its memory."""
    shard = world.shards[0]
    shard.mute = True
    shard.batches.clear()
    waiting = asyncio.create_task(world.submit(client_order_id="d-1", deadline_ms=PATIENCE_MS))
    await until(lambda: bool(shard.batches), "the order's arrival")
    shard.stop()
    shard.mute = False
    shard.start()
    world.control.spread()
    said = await waiting
    assert said.status == 200, said.text
    assert said.json["epoch"] == 1, "the first answer, from the first term"
    assert await open_ids(world) == ["d-1"]


async def test_an_order_that_the_dead_shard_never_read_runs_in_the_next_term(world: World) -> None:
    shard = world.shards[0]
    shard.deaf = True
    shard.batches.clear()
    waiting = asyncio.create_task(world.submit(client_order_id="d-2", deadline_ms=PATIENCE_MS))
    await until(lambda: bool(shard.batches), "the order's arrival")
    shard.stop()
    shard.deaf = False
    shard.start()
    world.control.spread()
    said = await waiting
    assert (said.status, said.json["epoch"]) == (200, 2)
    assert await open_ids(world) == ["d-2"]


async def test_silence_is_answered_by_the_same_bytes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    repeat(monkeypatch)
    shard = world.shards[0]
    shard.deaf = True
    shard.payloads.clear()
    waiting = asyncio.create_task(world.submit(client_order_id="s-1", deadline_ms=PATIENCE_MS))
    await until(lambda: len(shard.payloads) >= 2, "the repetition")
    shard.deaf = False
    assert (await waiting).status == 200
    assert len({bytes(payload) for payload in shard.payloads}) == 1
    assert await open_ids(world) == ["s-1"]


async def test_no_answer_by_the_deadline_is_unknown_and_can_be_resolved(world: World) -> None:
    world.shards[0].mute = True
    world.shards[0].be_late()
    said = await world.submit(client_order_id="u-1", deadline_ms=300)
    assert (said.status, said.json["reason"], said.json["retryable"]) == (504, "UNKNOWN", True)
    assert said.json["client_order_id"] == "u-1"
    assert "Retry-After" not in said.headers
    world.shards[0].mute = False
    resolved = await world.call("POST", "/api/orders/u-1/resolve", {"symbol": "AAPL", "user_id": "alice"})
    assert resolved.json["status"] == "NEW", "it had executed"


async def test_an_unknown_order_without_an_id_of_its_own_tells_the_generated_one(world: World) -> None:
    world.shards[0].mute = True
    world.shards[0].be_late()
    said = await world.submit(deadline_ms=50)
    world.shards[0].mute = False
    assert said.status == 504
    id_ = said.json["client_order_id"]
    order = await world.call("GET", f"/api/orders/{id_}?symbol=AAPL&user_id=alice")
    assert order.status == 200


async def test_a_straggler_cannot_run_after_the_deadline(world: World) -> None:
    shard = world.shards[0]
    shard.deaf = True
    shard.payloads.clear()
    said = await world.submit(client_order_id="late", deadline_ms=50)
    assert said.status == 504
    await until(lambda: bool(shard.payloads), "the order's arrival")
    shard.deaf = False
    shard.pass_time(60.0)
    (command,) = decode_commands(shard.payloads[0])
    (reply,) = decode_replies(b"\x91" + shard.log(command))
    assert isinstance(reply, m.Rejected)
    assert await open_ids(world) == []


async def test_what_was_never_sent_is_certainly_not_executed(build: Build) -> None:
    world = await build(serving=False)
    said = await world.submit(deadline_ms=100)
    assert (said.status, said.json["reason"], said.json["retryable"]) == (503, "SHARD_DOWN", True)
    assert said.headers["Retry-After"] == "1"


async def test_orders_for_a_shard_that_is_down_wait_for_it(world: World) -> None:
    shard = world.shards[1]
    shard.stop()
    world.control.spread()
    await until(lambda: not world.gateway.serving["s1"], "the map")
    order = {"symbol": "MSFT", "price": 400, "client_order_id": "w-1", "deadline_ms": PATIENCE_MS}
    waiting = asyncio.create_task(world.submit(**order))
    async with asyncio.timeout(PATIENCE_S):
        while not (await world.call("GET", "/api/status")).json["shards"]["s1"]["pending"]:
            await asyncio.sleep(0.005)
    assert (await world.submit()).status == 200, "the other shard is not concerned"
    shard.start()
    world.control.spread()
    assert (await waiting).status == 200
    assert await open_ids(world) != []


async def test_overload_is_told_at_once(world: World) -> None:
    world.shards[0].refuse = "OVERLOADED"
    said = await world.submit()
    assert (said.status, said.json["reason"]) == (503, "OVERLOADED")
    assert said.headers["Retry-After"] == "1"
    assert "as the test says" in said.json["detail"]


async def test_a_shard_without_primary_is_asked_again_until_the_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = world.shards[0]
    shard.refuse = "NOT_PRIMARY"
    shard.batches.clear()
    waiting = asyncio.create_task(world.submit(client_order_id="n-1", deadline_ms=PATIENCE_MS))
    await until(lambda: len(shard.batches) >= 3, "some refusals")
    shard.refuse = ""
    assert (await waiting).status == 200
    # Every copy must be refused when the deadline comes, so there is only one: of one on its way nothing is certain.
    monkeypatch.setattr("gateway.core.pending.RETRY_REFUSED_NS", PATIENCE_S * NS_PER_S)
    shard.refuse = "SHARD_DOWN"
    said = await world.submit(client_order_id="n-2", deadline_ms=1_000)
    assert (said.status, said.json["reason"]) == (503, "SHARD_DOWN")
    shard.refuse = ""
    assert await open_ids(world) == ["n-1"]


async def test_a_refused_repetition_does_not_make_the_first_copy_certain(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One copy was executed in silence, the next is refused: 503 would be a lie."""
    repeat(monkeypatch)
    shard = world.shards[0]
    shard.mute = True
    shard.batches.clear()
    waiting = asyncio.create_task(world.submit(client_order_id="x-1", deadline_ms=1_500))
    await until(lambda: bool(shard.batches), "the first copy")
    shard.mute = False
    shard.refuse = "OVERLOADED"
    await until(lambda: len(shard.batches) >= 2, "the second copy")
    said = await waiting
    assert (said.status, said.json["reason"]) == (504, "UNKNOWN")
    shard.refuse = ""
    assert await open_ids(world) == ["x-1"]


async def test_a_cancel_whose_first_answer_was_lost_is_a_success(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = (await world.submit()).json["order_id"]
    shard = world.shards[0]
    repeat(monkeypatch)
    shard.mute = True
    shard.batches.clear()
    waiting = asyncio.create_task(world.call("DELETE", f"/api/cancel/{id_}?user_id=alice"))
    await until(lambda: bool(shard.batches), "the cancel")
    shard.mute = False
    said = await waiting
    assert (said.status, said.json["status"], said.json["remaining_quantity"]) == (200, "CANCELED", 100), said.text
    repeat(monkeypatch, PATIENCE_S * NS_PER_S)
    nothing = await world.call("DELETE", f"/api/cancel/{id_}?user_id=alice")
    assert nothing.status == 404, "a new request finds no order"


async def test_a_sweep_is_not_repeated_in_silence_but_in_a_new_term(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late second copy would cancel orders that came after the first."""
    shard = world.shards[0]
    await world.submit()
    repeat(monkeypatch)
    shard.mute = True
    shard.payloads.clear()
    said = await world.call("DELETE", "/api/orders?symbol=AAPL&user_id=alice")
    assert (said.status, said.json["shards"]) == (
        504,
        [{"shard": "s0", "status": "UNKNOWN", "canceled": 0, "epoch": 0, "seq": 0}],
    )
    assert len(shard.payloads) == 1
    waiting = asyncio.create_task(world.call("DELETE", "/api/orders?symbol=AAPL&user_id=alice"))
    await until(lambda: len(shard.payloads) == 2, "the second sweep")
    shard.stop()
    shard.mute = False
    shard.start()
    world.control.spread()
    (done,) = (await waiting).json["shards"]
    assert (done["status"], done["canceled"], done["epoch"]) == ("DONE", 0, shard.epoch)


@pytest.mark.parametrize(
    ("faults", "status", "shards"),
    [
        ({}, 200, ["DONE", "DONE"]),
        ({"s0": "OVERLOADED"}, 409, ["NOT_EXECUTED", "DONE"]),
        ({"s0": "OVERLOADED", "s1": "mute"}, 504, ["NOT_EXECUTED", "UNKNOWN"]),
        ({"s0": "OVERLOADED", "s1": "OVERLOADED"}, 503, ["NOT_EXECUTED", "NOT_EXECUTED"]),
    ],
)
async def test_a_sweep_tells_each_shards_part(
    world: World, faults: dict[str, str], status: int, shards: list[str]
) -> None:
    for shard in world.shards:
        fault = faults.get(shard.name, "")
        shard.mute = fault == "mute"
        shard.refuse = "" if shard.mute else fault
    said = await world.call("DELETE", ALL)
    assert said.status == status
    assert [shard["status"] for shard in said.json["shards"]] == shards
    if status >= 400:
        assert {"error", "code", "reason", "detail", "retryable", "doc"} <= set(said.json)


async def test_a_garbled_answer_is_no_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few replies for a batch: the gateway does not guess which order they belong to."""
    repeat(monkeypatch)
    shard = world.shards[0]
    shard.garble = True
    waiting = asyncio.create_task(world.submit(client_order_id="g-1", deadline_ms=PATIENCE_MS))
    await until(lambda: shard.garbled > 0, "a garbled answer")
    shard.garble = False
    said = await waiting
    assert said.status == 200
    assert said.json["duplicate"] is True, "the answer to the repetition"


async def test_a_batch_over_two_shards_of_which_one_is_silent(world: World) -> None:
    world.shards[1].mute = True
    orders: list[dict[str, Any]] = [
        {
            "symbol": symbol,
            "side": "buy",
            "price": price,
            "quantity": 1,
            "client_order_id": symbol,
            "deadline_ms": 1_500,
        }
        for symbol, price in (("AAPL", 150), ("MSFT", 400))
    ]
    said = await world.call("POST", "/api/orders", {"orders": orders, "user_id": "alice"})
    world.shards[1].mute = False
    first, second = said.json["results"]
    assert first["status"] == "NEW"
    assert (second["http"], second["reason"], second["client_order_id"]) == (504, "UNKNOWN", "MSFT")
