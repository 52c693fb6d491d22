"""The market maker in a real cluster: it quotes, leans against its inventory, and its quotes die with it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psutil
import pytest

from shardex.client import Login, OpenOrder, Rest
from shardex.launcher import Running
from tests.e2e.conftest import StartCluster, start

HOUSE = "market-maker"
BOUND_S = 30
OVERRIDES = {
    "marketmaker": {
        "enabled": True,
        "account": HOUSE,
        "spread_bps": 20,
        "skew_bps": 100,
        "levels": 2,
        "quote_quantity": "50",
        "inventory_max": "200",
        "interval_ms": 50,
        "dead_man_ms": 1_000,
    }
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One cluster with a market maker for all stories; each leaves the house flat and quoting."""
    running = start(tmp_path_factory.mktemp("cluster") / "data", overrides=OVERRIDES)
    try:
        yield running
    finally:
        running.stop()


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """The first true result of `look`."""
    async with asyncio.timeout(BOUND_S):
        while not (seen := await look()):
            await asyncio.sleep(0.02)
    return seen


async def quotes(house: Rest, symbol: str) -> tuple[list[OpenOrder], list[OpenOrder]]:
    """Bids and asks of the house, best first."""
    orders = [order for order in await house.open_orders() if order.symbol == symbol]
    bids = sorted((order for order in orders if order.side == "BUY"), key=lambda order: -order.price)
    asks = sorted((order for order in orders if order.side == "SELL"), key=lambda order: order.price)
    return bids, asks


async def trade(customer: Rest, side: str, quantity: int) -> int:
    """Take liquidity of AAPL at any price within the collar; what was had of it, for the house may be re-quoting."""
    order = {"symbol": "AAPL", "side": side, "order_type": "market", "quantity": quantity}
    body = {**order, "user_id": customer.login.account}
    answer = await customer.call("POST", "/api/submit", dict[str, Any], body=body)
    return sum(fill["quantity"] for fill in answer["trades"])


async def test_it_quotes_both_sides_of_every_symbol(cluster: Running) -> None:
    async with Rest(cluster.rest_url, Login(HOUSE)) as house:
        for instrument in await house.instruments():

            async def both_sides(symbol: str = instrument.symbol) -> Any:
                bids, asks = await quotes(house, symbol)
                return (bids, asks) if len(bids) == len(asks) == 2 else None

            bids, asks = await until(both_sides)
            assert bids[1].price < bids[0].price < asks[0].price < asks[1].price
            assert abs(bids[0].price - instrument.reference_price) < instrument.reference_price / 50


async def test_a_long_house_moves_both_quotes_down_and_stops_buying_when_it_is_full(cluster: Running) -> None:
    async with Rest(cluster.rest_url, Login(HOUSE)) as house, Rest(cluster.rest_url, Login("seller")) as seller:

        async def complete() -> Any:
            bids, asks = await quotes(house, "AAPL")
            return (bids[0].price, asks[0].price) if len(bids) == len(asks) == 2 else None

        flat = await until(complete)
        sold = await until(lambda: trade(seller, "sell", 100))

        async def bought() -> bool:
            return (await house.positions()).get("AAPL") == sold

        await until(bought)

        async def moved_down() -> Any:
            seen = await complete()
            return seen and seen[0] < flat[0] and seen[1] < flat[1]

        await until(moved_down)

        async def sell_until_full() -> Any:
            held = (await house.positions())["AAPL"]
            if held < 200:
                await trade(seller, "sell", 10)
                return None
            bids, asks = await quotes(house, "AAPL")
            return held == 200 and not bids and asks

        assert await until(sell_until_full)
        await until(lambda: buy_back(house, seller))


async def buy_back(house: Rest, seller: Rest) -> bool:
    """A step towards a flat house."""
    held = (await house.positions())["AAPL"]
    if held:
        await trade(seller, "buy", min(int(held), 10))
    return not held


async def test_quotes_of_a_house_that_falls_silent_are_cancelled_by_the_exchange(cluster: Running) -> None:
    async with Rest(cluster.rest_url, Login(HOUSE)) as house:
        await until(house.open_orders)
        pid = cluster.kill("mm0", signal.SIGSTOP)
        try:

            async def gone() -> bool:
                return not await house.open_orders()

            assert await until(gone)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await until(house.open_orders)


async def test_a_killed_house_comes_back_and_a_stopped_one_leaves_nothing(start_cluster: StartCluster) -> None:
    cluster = start_cluster(overrides=OVERRIDES)
    async with Rest(cluster.rest_url, Login(HOUSE)) as house:
        before = {order.client_order_id for order in await until(house.open_orders)}
        cluster.kill("mm0")

        async def only_new_ones() -> bool:
            now = {order.client_order_id for order in await house.open_orders()}
            return bool(now) and not now & before

        assert await until(only_new_ones)

        process = psutil.Process(cluster.pid("mm0"))
        cluster.kill("mm0", signal.SIGTERM)
        await asyncio.to_thread(process.wait, BOUND_S)
        assert await house.open_orders() == []
