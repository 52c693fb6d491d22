"""Books, trades, positions, health and figures, with and without the daemons behind them."""

import pytest

from exchange.domain import NS_PER_S
from tests.gateway.conftest import PATIENCE_S, Build, World, until

PERFORMANCE = {
    "throughput": {"orders_per_second", "trades_per_second", "total_orders", "total_trades"},
    "latency": {"p50_us", "p95_us", "p99_us", "p99_9_us"},
    "system": {"memory_mb", "cpu_percent", "active_connections"},
}


async def test_book_and_trades_come_from_marketdata(world: World) -> None:
    book = await world.call("GET", "/api/book/AAPL?depth=2")
    assert book.json == {
        "symbol": "AAPL",
        "bids": [[150.24, 300], [150.23, 300]],
        "asks": [[150.26, 200]],
        "timestamp": 1763821800123456789,
        "epoch": 3,
        "seq": 48,
        "stale": False,
        "age_ms": 4,
    }
    assert len((await world.call("GET", "/api/book/AAPLUSD")).json["bids"]) == 10
    trades = await world.call("GET", "/api/trades/AAPL?limit=5")
    assert trades.json == {
        "symbol": "AAPL",
        "trades": [
            {
                "trade_id": "TRD-9",
                "price": 150.24,
                "quantity": 100,
                "side": "BUY",
                "timestamp": "2026-01-15T09:30:01.123456Z",
            }
        ],
        "stale": False,
    }
    for path in ("/api/book/NOPE", "/api/trades/aapl"):
        said = await world.call("GET", path)
        assert (said.status, said.json["reason"]) == (404, "NOT_FOUND")


async def test_without_marketdata_the_shard_shows_its_book_as_stale(build: Build) -> None:
    world = await build(desks=False)
    await world.submit(price=150.10, quantity=30)
    await world.submit(price=150.20, quantity=20)
    await world.submit(price=150.30, quantity=10, side="sell")
    book = (await world.call("GET", "/api/book/AAPL?depth=1")).json
    assert (book["bids"], book["asks"], book["stale"]) == ([[150.2, 20]], [[150.3, 10]], True)
    trades = await world.call("GET", "/api/trades/AAPL")
    assert (trades.status, trades.json["reason"]) == (503, "UNAVAILABLE")
    assert trades.headers["Retry-After"] == "1"


async def test_without_marketdata_and_shard_a_book_is_unavailable(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await build(desks=False)
    monkeypatch.setattr("gateway.views.ASK_S", 0.1)
    world.shards[0].stop()
    said = await world.call("GET", "/api/book/AAPL")
    assert (said.status, said.json["reason"]) == (503, "UNAVAILABLE")
    world.shards[0].start()


async def test_positions_come_from_riskd(build: Build) -> None:
    world = await build()
    said = await world.call("GET", "/api/user/t1/positions")
    assert said.json == {
        "user_id": "t1",
        "positions": {
            "AAPL": {"quantity": 300, "open_buy": 0, "open_sell": 50, "avg_price": 150.243333, "volume": 300},
            "MSFT": {"quantity": 0, "open_buy": 0, "open_sell": 0, "avg_price": None, "volume": 4},
        },
        "as_of": {"s0": {"epoch": 1, "seq": 9, "stale": False}, "s1": {"epoch": 1, "seq": 4, "stale": False}},
        "stale": False,
    }
    alone = await build(desks=False)
    said = await alone.call("GET", "/api/user/t1/positions")
    assert (said.status, said.json["reason"]) == (503, "UNAVAILABLE")


async def test_instruments_say_what_an_order_must_keep_to(world: World) -> None:
    said = await world.call("GET", "/api/instruments")
    bitcoin = next(entry for entry in said.json["instruments"] if entry["symbol"] == "BTC")
    assert (bitcoin["market"], bitcoin["index"], bitcoin["shard"], bitcoin["serving"]) == ("BTCUSD", 2, "s0", True)
    assert (bitcoin["price_decimals"], bitcoin["quantity_decimals"]) == (1, 8)
    assert '"tick_size":0.5,"lot_size":0.00000001,' in said.text
    assert bitcoin["position_limit"] is None


async def test_time(world: World) -> None:
    said = (await world.call("GET", "/api/time")).json
    assert said["server_time_ns"] // 1_000_000 == said["server_time_ms"]
    assert said["iso"].endswith("Z")


async def test_health_of_everything(world: World) -> None:
    said = await world.call("GET", "/health")
    assert said.status == 200
    components = said.json["components"]
    assert set(components) == {
        "matching_engine",
        "memory",
        "shards",
        "risk_manager",
        "websocket_feed",
        "market_maker",
        "coordinator",
    }
    assert components["shards"] == {"status": "healthy", "serving": 2, "total": 2}
    assert components["risk_manager"] == {"status": "healthy"}
    assert components["market_maker"] == {"status": "disabled"}
    assert components["matching_engine"]["latency_us"] > 0
    assert said.headers["X-Health"] == said.json["status"]


async def test_one_shard_of_two_is_degraded_and_none_is_unhealthy(build: Build) -> None:
    world = await build()
    world.shards[1].stop()
    world.control.spread()
    await until(lambda: not world.gateway.serving["s1"], "the map")
    said = await world.call("GET", "/health")
    assert (said.status, said.json["status"]) == (200, "degraded")
    assert said.json["components"]["shards"] == {"status": "degraded", "serving": 1, "total": 2}
    assert (await world.call("GET", "/health?strict=1")).status == 503
    assert (await world.call("GET", "/readyz")).status == 200
    dark = await build(serving=False)
    said = await dark.call("GET", "/health")
    assert (said.status, said.json["status"]) == (503, "unhealthy")
    assert said.json["components"]["matching_engine"] == {"status": "unhealthy", "error": "no shard takes orders"}
    assert (await dark.call("GET", "/readyz")).status == 503
    assert (await dark.call("GET", "/livez")).status == 200
    assert (await dark.call("GET", "/api/status")).status == 200


async def test_probes_do_not_load_the_engine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = world.shards[0]
    shard.batches.clear()
    monkeypatch.setattr("gateway.views.CACHE_NS", PATIENCE_S * NS_PER_S)
    for _ in range(20):
        assert (await world.call("GET", "/health")).status == 200
    assert shard.arrived == 1, "one probe for as long as its answer is kept"
    monkeypatch.setattr("gateway.views.CACHE_NS", 0)
    await world.call("GET", "/health")
    assert shard.arrived == 2


async def test_performance_has_exactly_the_classic_keys(world: World) -> None:
    for _ in range(5):
        await world.submit(quantity=1)
    said = (await world.call("GET", "/api/performance/system")).json
    assert set(said) == {*PERFORMANCE, "window_s", "shards"}
    for block in (said, *said["shards"].values()):
        assert {name: set(block[name]) for name in PERFORMANCE} == PERFORMANCE
    assert said["throughput"]["total_orders"] == 5
    assert said["throughput"]["total_trades"] == 14, "as two shards count them"
    assert said["shards"]["s0"]["throughput"]["total_orders"] == 5
    assert 0 < said["latency"]["p50_us"] <= said["latency"]["p99_us"] <= said["latency"]["p99_9_us"]
    assert said["system"]["active_connections"] >= 1


async def test_metrics_for_prometheus(world: World) -> None:
    await world.submit()
    said = await world.call("GET", "/metrics")
    assert said.headers["Content-Type"].startswith("text/plain")
    lines = said.text.splitlines()
    assert 'shardex_gateway_orders_total{shard="s0"} 1.0' in lines
    assert 'shardex_gateway_shard_serving{shard="s1"} 1.0' in lines
    assert 'shardex_up{name="r0",role="riskd"} 1.0' in lines
    assert 'shardex_shard_memory_mb{name="s1"} 20.0' in lines
    assert 'shardex_shard_in_sync{shard="s1"} 1.0' in lines
    assert 'shardex_shard_flag{flag="SOLO",shard="s0"} 1.0' in lines


async def test_status_names_terms_and_flags(world: World) -> None:
    said = (await world.call("GET", "/api/status")).json
    assert said["health"] == "healthy"
    assert said["shards"]["s0"]["epoch"] == 1
    shard = said["shards"]["s0"]
    assert (shard["serving"], shard["node"], shard["mode"], shard["lag"]) == (True, "s0", "paired", 0)
    assert (shard["flags"], shard["in_sync"]) == (["SOLO", "NO_FAILOVER"], ["s0"])
    said_of_itself = {"role": "primary", "mode": "paired", "epoch": None, "seq": 5, "lag": 0}
    said_of_itself |= {"clock_off_ms": None, "poisoned_seq": None}
    assert shard["nodes"] == {"s0": {**said_of_itself, "health": "healthy", "age_ms": 5}}
    assert {daemon["role"] for daemon in said["daemons"]} == {"shard", "riskd", "marketdata"}


async def test_status_without_a_coordinator_says_that_nobody_would_fail_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.control.away = True
    monkeypatch.setattr("gateway.views.ASK_S", 0.1)
    said = (await world.call("GET", "/api/status")).json
    assert said["health"] == "unknown"
    assert said["shards"]["s0"]["flags"] == ["NO_FAILOVER"]
    assert said["shards"]["s0"]["serving"] is True


@pytest.mark.parametrize(
    "path", ["/api/instruments", "/api/orders?user_id=a", "/api/book/AAPL", "/api/user/a/positions"]
)
async def test_before_the_first_map_nothing_is_known(build: Build, path: str) -> None:
    world = await build(mapless=True)
    said = await world.call("GET", path)
    assert (said.status, said.json["reason"]) == (503, "SHARD_DOWN")
    submit = await world.submit()
    assert (submit.status, submit.json["reason"]) == (503, "SHARD_DOWN")
