"""The least that an aiohttp server can do with an order: read it and answer. What the gateway is compared with."""

import argparse
import asyncio

import uvloop
from aiohttp import web

ANSWER = (
    b'{"success":true,"order_id":"ORD-1099511627777","status":"NEW","trades":[],"remaining_quantity":5,'
    b'"latency_us":287,"client_order_id":"0123456789ab00000000-0","epoch":1,"seq":12345,"duplicate":false}'
)


async def submit(request: web.Request) -> web.Response:
    """Take the whole body, parse nothing."""
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


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
