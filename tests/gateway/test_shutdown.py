"""The end of a gateway: nothing new, everything in flight answered; and its exit codes as a process."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from exchange.config import render
from tests.gateway.conftest import PATIENCE_MS, PATIENCE_S, World, repeat, until
from tests.gateway.peers import cluster_config


async def test_what_is_in_flight_is_answered_and_nothing_new_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeat(monkeypatch)
    monkeypatch.setattr("gateway.ws.CLOSE_WAIT_S", float(PATIENCE_S))
    monkeypatch.setattr("gateway.server.DRAIN_S", float(PATIENCE_S))
    shard = world.shards[0]
    shard.deaf = True
    shard.batches.clear()
    order = {"op": "submit", "symbol": "AAPL", "side": "buy", "price": 150, "quantity": 1}
    order["deadline_ms"] = PATIENCE_MS
    async with world.http.ws_connect("/ws/orders?user_id=alice") as socket_:

        async def say(id_: int) -> None:
            await socket_.send_str(msgspec.json.encode({"id": id_, **order}).decode())

        async def hear() -> dict[str, Any]:
            return dict(msgspec.json.decode((await socket_.receive(timeout=PATIENCE_S)).data))

        await asyncio.gather(*[world.call("GET", "/livez") for _ in range(2)])
        await say(1)
        rest = asyncio.create_task(world.submit(client_order_id="last", deadline_ms=PATIENCE_MS))
        await until(lambda: shard.arrived == 2, "both orders' arrival")
        ending = asyncio.create_task(world.stop())
        assert await hear() == {"type": "serverShutdown"}
        await say(2)
        refused = await hear()
        assert (refused["id"], refused["http"], refused["error"]["reason"]) == (2, 503, "DRAINING")
        late = await world.submit(client_order_id="late")
        assert (late.status, late.json["reason"]) == (503, "DRAINING"), "on a connection that was open before"
        assert (await world.call("GET", "/readyz")).status == 503
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", world.port)
        shard.deaf = False
        answer = await hear()
        assert (answer["id"], answer["http"]) == (1, 200)
        assert (await socket_.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.CLOSE
        assert socket_.close_code == 1001
    assert (await rest).status == 200
    await ending


async def test_a_silent_shard_does_not_hold_up_the_end_for_ever(world: World) -> None:
    world.shards[0].mute = True
    world.shards[0].batches.clear()
    held = asyncio.create_task(world.submit(deadline_ms=PATIENCE_MS))
    await until(lambda: bool(world.shards[0].batches), "the order")
    await asyncio.wait_for(world.stop(), 20)
    said = await held
    assert (said.status, said.json["reason"]) == (504, "UNKNOWN")


async def run_gateway(directory: Path, **gateway: object) -> asyncio.subprocess.Process:
    config = cluster_config(directory, **gateway)
    path = directory / "cluster.toml"
    path.write_text(render(config))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "--config", str(path), "--name", "g0"),
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


async def test_the_process_ends_with_zero_on_sigterm(tmp_path: Path) -> None:
    process = await run_gateway(tmp_path)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            while b"listening" not in (line := await process.stderr.readline()):
                assert line, "the process ended before it listened"
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


async def test_a_taken_port_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await run_gateway(tmp_path, port=taken.getsockname()[1])
        async with asyncio.timeout(2 * PATIENCE_S):
            _, errors = await process.communicate()
    assert process.returncode == 78
    assert b"cannot be used" in errors
