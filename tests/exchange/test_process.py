"""A daemon on an asyncio loop: it stops on a signal, and it ends when something in it breaks, wherever that is."""

import asyncio
import os
import signal

import pytest

from exchange.process import background, run_async


class Defect(Exception):
    """Something that must not happen."""


def fail() -> None:
    raise Defect("here")


def test_a_signal_stops_it() -> None:
    seen = []

    async def serve(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        seen.append("stopped in good order")

    run_async(serve)
    assert seen == ["stopped in good order"]


def test_an_exception_in_a_callback_ends_it_without_a_good_order() -> None:
    seen = []

    async def serve(stop: asyncio.Event) -> None:
        asyncio.get_running_loop().call_soon(fail)
        await stop.wait()
        seen.append("stopped in good order")

    with pytest.raises(Defect, match="here"):
        run_async(serve)
    assert seen == []


def test_an_exception_in_the_background_ends_it() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        fail()

    async def serve(stop: asyncio.Event) -> None:
        background(work())
        await stop.wait()

    with pytest.raises(Defect, match="here"):
        run_async(serve)


def test_background_work_may_end_or_be_cancelled() -> None:
    async def serve(stop: asyncio.Event) -> None:
        ended = background(asyncio.sleep(0))
        cancelled = background(asyncio.sleep(3_600))
        cancelled.cancel()
        await asyncio.gather(ended, cancelled, return_exceptions=True)
        await asyncio.sleep(0)

    run_async(serve)


def test_an_exception_of_its_own_is_passed_on() -> None:
    async def serve(stop: asyncio.Event) -> None:
        fail()

    with pytest.raises(Defect, match="here"):
        run_async(serve)
