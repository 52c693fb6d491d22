"""The least that an aiohttp server can do with an order: parse it and answer. What the gateway is compared with."""

import argparse
import asyncio

import msgspec
import uvloop
from aiohttp import web


class Order(msgspec.Struct):
    """The fields that every order has."""

    symbol: str
    side: str
    price: msgspec.Raw
    quantity: msgspec.Raw
    client_order_id: str


class Taken(msgspec.Struct):
    """An answer as long as that of the gateway."""

    success: bool
    order_id: str
    status: str
    trades: list[str]
    remaining_quantity: msgspec.Raw
    latency_us: int
    client_order_id: str
    epoch: int
    seq: int


decode = msgspec.json.Decoder(Order).decode
encode = msgspec.json.Encoder().encode


async def submit(request: web.Request) -> web.Response:
    """Believe everything, remember nothing."""
    order = decode(await request.read())
    taken = Taken(True, "ORD-1099511627777", "NEW", [], order.quantity, 287, order.client_order_id, 1, 12_345)
    return web.Response(body=encode(taken), content_type="application/json")


async def serve(port: int) -> None:
    """Serve until killed."""
    application = web.Application()
    application.router.add_post("/api/submit", submit)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
