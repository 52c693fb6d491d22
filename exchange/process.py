"""The skeleton of every daemon: arguments, title, logs, signals, exit codes, and its link to the coordinator."""

import argparse
import asyncio
import gc
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import setproctitle
import structlog

from exchange import config as configuration
from exchange import logs
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.errors import ConfigError, ShardexError, WireError
from exchange.keyfile import open_transport
from exchange.limits import TICK_INTERVAL_NS
from exchange.membership import Membership, Stats
from exchange.sockets import Dealer, attach, open_private_directory
from exchange.wire import decode_coordinator_outbound

EXIT_CONFIG = 78
"""The configuration is wrong: starting again cannot help (sysexits EX_CONFIG)."""
EXIT_IO = 74
"""A disk or the control store failed: this copy of the state is not to be trusted (sysexits EX_IOERR)."""

EXIT_DEFECT = 70
"""Our own mistake was found while it could still do no harm (sysexits EX_SOFTWARE)."""

EXIT_POISON = 76
"""The engine failed on a journalled record, which is noted: the next start stands still before it."""

EXIT_RESTART = 75
"""Nothing is wrong, but only a new start leads on: the supervisor gives one at once (sysexits EX_TEMPFAIL)."""

GARBAGE_ALLOCATIONS = 50_000
"""Objects allocated and not freed between two looks for cyclic garbage; Python's own number is 700."""

Log = structlog.stdlib.BoundLogger


class Daemon:
    """What `main` hands to a daemon: its configuration, its name, its logger."""

    def __init__(self, role: str, name: str, config: configuration.Config, log: Log) -> None:
        self.role = role
        self.name = name
        self.config = config
        self.log = log


def title(config: configuration.Config, role: str, name: str) -> str:
    """How a daemon is called in the process list."""
    return f"shardex {config.cluster.name} {role} {name}"


def main(role: str, serve: Callable[[Daemon], int | None]) -> None:
    """Door of a daemon: parse `--config --name`, run `serve`, exit with its code."""
    parser = argparse.ArgumentParser(prog=f"python -m {role}")
    parser.add_argument("--config", type=Path, required=True, help="cluster.toml")
    parser.add_argument("--name", required=True, help="name of this daemon in the cluster")
    arguments = parser.parse_args()
    log = logs.configure(role, arguments.name)
    try:
        config = configuration.load(arguments.config)
        open_private_directory(config.data)
        open_private_directory(config.run)
        open_transport(config)
        setproctitle.setproctitle(title(config, role, arguments.name))
        log.info("starting", pid=os.getpid())
        code = serve(Daemon(role, arguments.name, config, log))
    except ConfigError as error:
        for fault in error.faults:
            log.error("configuration", fault=fault)
        sys.exit(EXIT_CONFIG)
    except ShardexError as error:
        log.error("failed", error=str(error))
        sys.exit(EXIT_IO)
    log.info("stopped")
    sys.exit(code or 0)


def look_for_garbage_rarely() -> None:
    """Call it when everything is built that lives as long as the process. Some ten milliseconds.

    Nothing that happens often here makes cycles. With Python's own thresholds looking for them costs a gateway a tenth
    of its time, and now and then stops a daemon for tens of milliseconds, both nodes of a shard in the same moment.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_ALLOCATIONS, 20, 20)


def run_async(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run an asyncio daemon on uvloop where it is installed; the event is set by SIGTERM and SIGINT.

    An exception that escapes from a callback of the loop is our own mistake or a failed disk: it ends the daemon as if
    `serve` had raised it, instead of leaving it half alive.
    """

    async def body() -> None:
        stop = asyncio.Event()
        faults: list[Exception] = []
        loop = asyncio.get_running_loop()
        serving = asyncio.ensure_future(serve(stop))

        def on_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            fault = context.get("exception")
            if "handle" in context and isinstance(fault, Exception):
                faults.append(fault)
                serving.cancel()
            else:
                loop.default_exception_handler(context)

        loop.set_exception_handler(on_fault)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await serving
        except asyncio.CancelledError:
            if not faults:
                raise
            raise faults[0] from None

    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        asyncio.run(body())
    else:
        uvloop.run(body())


def background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run `work` beside everything else; an exception in it ends the daemon as one in a callback does."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: None if done.cancelled() else done.result())
    return task


class ControlLink:
    """An asyncio daemon's connection to the coordinator; `on_map` is called with every newer shard map."""

    def __init__(
        self, daemon: Daemon, *, endpoints: dict[str, str], stats: Stats, on_map: Callable[[m.ShardMap], None]
    ) -> None:
        self._daemon = daemon
        self._on_map = on_map
        self._waiting: list[tuple[type, asyncio.Future[m.CoordinatorOutbound]]] = []
        register = m.Register(daemon.role, daemon.name, os.getpid(), uuid.uuid4().hex, 0, 0, endpoints)
        self.membership = Membership(register, stats)
        self._socket = Dealer(f"{daemon.role}:{daemon.name}", hwm=1_000)
        self._socket.connect(daemon.config.endpoint("control"))
        self._detach = attach(self._socket, self._drain)
        self._ticker = background(self._tick())

    async def ask(self, question: bytes, answer: type, timeout_s: float) -> m.CoordinatorOutbound | None:
        """Send a question and wait for the next message of type `answer`; None when it does not come in time."""
        future: asyncio.Future[m.CoordinatorOutbound] = asyncio.get_running_loop().create_future()
        entry = (answer, future)
        self._waiting.append(entry)
        self._socket.send(question)
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def beat_now(self) -> None:
        """Tell the coordinator at once about a change of readiness."""
        if self.membership.registered:
            self._socket.send(self.membership.beat(monotonic_ns()))

    async def close(self) -> None:
        """Stop beating and close the socket."""
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        self._detach()
        self._socket.close()

    async def _tick(self) -> None:
        while True:
            for message in self.membership.on_tick(monotonic_ns()):
                self._socket.send(message)
            await asyncio.sleep(TICK_INTERVAL_NS / 1e9)

    def _drain(self) -> bool:
        while (received := self._socket.receive()) is not None:
            try:
                message = decode_coordinator_outbound(received[0])
            except WireError as error:
                self._daemon.log.warning("ignored", error=str(error))
                continue
            before = self.membership.map
            for answer in self.membership.on_message(message, monotonic_ns()):
                self._socket.send(answer)
            if self.membership.map is not before and self.membership.map is not None:
                self._on_map(self.membership.map)
            for entry in [entry for entry in self._waiting if isinstance(message, entry[0])]:
                self._waiting.remove(entry)
                if not entry[1].done():
                    entry[1].set_result(message)
        return False
