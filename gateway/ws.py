"""/ws/orders: order entry over one socket, pipelined. JSON text frames and compact MessagePack frames; docs/API.md.

The compact path is the fast one: a frame is decoded once, its commands go to their shards as runs, the shards' replies
are put into the answer without being decoded, and one answer leaves for each frame. No task and no future per order.
"""

import asyncio
from collections.abc import Callable
from typing import Any, assert_never

import msgspec
from aiohttp import WSMsgType, web

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS
from exchange.limits import FEED_QUEUE_BYTES_MAX, FEED_QUEUE_MESSAGES_MAX, WS_FRAME_BYTES_MAX
from exchange.process import Log
from exchange.wire import encode
from gateway import classic
from gateway.classic import Answer
from gateway.core import requests as q
from gateway.core.auth import Authority, Principal
from gateway.core.pending import Run, Settled
from gateway.core.problems import Problem
from gateway.core.throttle import Throttle
from gateway.executions import Executions
from gateway.http import Body, Call
from gateway.orders import Orders, stamp_of
from gateway.shards import Shards

FRAMES_IN_FLIGHT_MAX = 256
"""Frames of one socket without an answer; further ones are not read until some are answered."""
HEARTBEAT_S = 20.0
DEAD_MAN_MS = 10_000
DEAD_MAN_RENEW_S = 1.0
CLOSE_WAIT_S = 2.0

_decode_json = msgspec.json.Decoder(q.JsonFrame).decode
_decode_compact = msgspec.msgpack.Decoder(q.CompactFrame).decode


class _IdOnly(msgspec.Struct):
    """What can be echoed of a frame that is otherwise malformed."""

    id: q.FrameId = None


_decode_id = msgspec.json.Decoder(_IdOnly).decode


class OrderSockets:
    """All order sessions of the gateway."""

    def __init__(
        self,
        *,
        shards: Shards,
        orders: Orders,
        throttle: Throttle,
        authority: Authority,
        executions: Executions,
        log: Log,
        draining: Callable[[], bool],
    ) -> None:
        self.shards = shards
        self.orders = orders
        self.throttle = throttle
        self.executions = executions
        self.log = log
        self.draining = draining
        self._authority = authority
        self._sessions: dict[int, Session] = {}
        self._opened = 0

    def __len__(self) -> int:
        return len(self._sessions)

    async def serve(self, call: Call) -> Answer | Problem | Body:
        """GET /ws/orders: upgrade and serve until either side closes."""
        refusal = self._refusal(call)
        if refusal is not None:
            return refusal
        # Orders of a session are stamped when they arrive: the signature was for opening it.
        who = msgspec.structs.replace(call.who, stamp_ns=0)
        protected = call.query.get("cancelOnDisconnect") == "true"
        if protected:
            armed = await self.orders.arm_dead_man(who, DEAD_MAN_MS, "", monotonic_ns())
            if armed.http != 200:
                return armed
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False, max_msg_size=WS_FRAME_BYTES_MAX)
        await socket.prepare(call.request)
        self._opened += 1
        session = self._sessions[self._opened] = Session(self, self._opened, socket, who)
        try:
            await session.run(protected=protected)
        finally:
            del self._sessions[session.number]
            if protected:
                await self._cancel_all_of(who)
        return socket

    def end_keys(self, keys: list[str]) -> None:
        """Close the sessions of keys that are gone or have changed."""
        for session in [session for session in self._sessions.values() if session.who.key in keys]:
            session.close_soon(1008, "API key was revoked")

    async def close(self) -> None:
        """Tell every client, let what is in flight be answered, close."""
        sessions = list(self._sessions.values())
        await asyncio.gather(*[session.shut_down() for session in sessions], return_exceptions=True)

    def _refusal(self, call: Call) -> Problem | None:
        headers = call.request.headers
        if headers.get("Upgrade", "").lower() != "websocket":
            return Problem("MALFORMED", "this is a WebSocket; send an upgrade request")
        origin = headers.get("Origin")
        if origin and not self._authority.open_demo and origin.partition("://")[2] != headers.get("Host"):
            return Problem("FORBIDDEN", f"Origin {origin[:80]!r} is not this host")
        wanted = call.query.get("cancelOnDisconnect", "false")
        if wanted not in ("true", "false"):
            return Problem("MALFORMED", f"cancelOnDisconnect must be true or false, not {wanted[:40]!r}")
        if self.draining():
            return Problem("DRAINING", "the gateway is shutting down", 1)
        return None if self.shards.known else Problem("SHARD_DOWN", "the gateway has no shard map yet", 1)

    async def _cancel_all_of(self, who: Principal) -> None:
        """The socket is closed: cancel at once, and leave no timer behind that nobody renews."""
        swept = await self.orders.cancel_all(who, "", monotonic_ns())
        if swept.http == 200 and not any(s.protected and s.who.account == who.account for s in self._sessions.values()):
            await self.orders.arm_dead_man(who, 0, "", monotonic_ns())


class Session:
    """One socket of one account."""

    def __init__(self, sockets: OrderSockets, number: int, socket: web.WebSocketResponse, who: Principal) -> None:
        self.number = number
        self.who = who
        self.protected = False
        self._sockets = sockets
        self._socket = socket
        self._outbox: list[tuple[bytes, WSMsgType]] = []
        self._outbox_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._ending = False

    async def run(self, *, protected: bool) -> None:
        """Read frames until the socket ends; everything else happens beside it."""
        self.protected = protected
        helpers = [asyncio.create_task(self._write())]
        if protected:
            helpers.append(asyncio.create_task(self._renew()))
        try:
            async for message in self._socket:
                if message.type is WSMsgType.BINARY:
                    self._on_compact(message.data)
                elif message.type is WSMsgType.TEXT:
                    self._on_json(message.data)
                if self._in_flight >= FRAMES_IN_FLIGHT_MAX:
                    self._room.clear()
                    await self._room.wait()
        finally:
            await self._sockets.executions.leave(self.who.account, self.number)
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    def close_soon(self, code: int, reason: str) -> None:
        """Close from outside; the reading loop ends by it."""
        if not self._ending:
            self._ending = True
            self._spawn(self._close(code, reason))

    async def shut_down(self) -> None:
        """Say goodbye, answer what is in flight, close."""
        self._send(classic.encode_json({"type": "serverShutdown"}), WSMsgType.TEXT)
        try:
            await asyncio.wait_for(self._idle.wait(), CLOSE_WAIT_S)
            while self._outbox and not self._socket.closed:
                await asyncio.sleep(0)
        except TimeoutError:
            self._sockets.log.warning("frames left unanswered", session=self.number, frames=self._in_flight)
        await self._close(1001, "the gateway is shutting down")

    async def _close(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode())

    # --- compact frames -----------------------------------------------------------------------------------------

    def _on_compact(self, content: bytes) -> None:
        started_ns = monotonic_ns()
        try:
            frame = _decode_compact(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
            self._send(encode([None, [], problem_row(Problem("MALFORMED", f"frame: {fault}"), "")]), WSMsgType.BINARY)
            return
        cancels = sum([type(row) is q.CancelRow for row in frame.rows])
        problem = self._limit(len(frame.rows) - cancels, cancels, started_ns)
        if problem is not None:
            self._send(encode([frame.id, [], problem_row(problem, "")]), WSMsgType.BINARY)
            return
        shards = self._sockets.shards
        split = shards.admission.split_rows(frame, stamp_of(self.who, frame.deadline_ms))
        answer = FrameAnswer(self, frame.id, len(frame.rows), len(split.by_shard))
        for place, problem in split.denied:
            answer.results[place] = problem_row(problem, "")
        self._begin_frame()
        if not split.by_shard:
            answer.finish()
            return
        deadline_ns = started_ns + frame.deadline_ms * NS_PER_MS
        for shard, (commands, places) in split.by_shard.items():
            run = Run(commands, deadline_ns, answer.settle, started_ns=started_ns, places=places)
            refused = shards.links[shard].enter(run)
            if refused is not None:
                answer.settle(Settled(run, [], refused, False))

    def end_frame(self, answer: bytes, kind: WSMsgType) -> None:
        """One frame is answered."""
        self._send(answer, kind)
        self._in_flight -= 1
        if self._in_flight < FRAMES_IN_FLIGHT_MAX:
            self._room.set()
        if not self._in_flight:
            self._idle.set()

    def _begin_frame(self) -> None:
        self._in_flight += 1
        self._idle.clear()

    def _limit(self, orders: int, cancels: int, now_ns: int) -> Problem | None:
        if self._sockets.draining():
            return Problem("DRAINING", "the gateway is shutting down", 1)
        throttle, account = self._sockets.throttle, self.who.account
        problem = throttle.take(account, throttle.profile.orders, orders, now_ns) if orders else None
        if problem is None and cancels:
            problem = throttle.take(account, throttle.profile.cancels, cancels, now_ns)
        return problem

    # --- JSON frames --------------------------------------------------------------------------------------------

    def _on_json(self, content: str) -> None:
        started_ns = monotonic_ns()
        try:
            frame = _decode_json(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
            try:
                id_ = _decode_id(content).id
            except (msgspec.MsgspecError, RecursionError):
                id_ = None
            self._answer(id_, classic.denied(Problem("MALFORMED", f"frame: {fault}")))
            return
        self._begin_frame()
        self._spawn(self._serve_json(frame, started_ns))

    async def _serve_json(self, frame: q.JsonFrame, started_ns: int) -> None:
        try:
            body = await self._perform(frame, started_ns)
        except Exception:
            self._sockets.log.exception("frame failed", session=self.number)
            body = _envelope(classic.denied(Problem("UNKNOWN", "the gateway failed on this frame")))
        self.end_frame(classic.encode_json({"id": frame.id, **body}), WSMsgType.TEXT)

    async def _perform(self, frame: q.JsonFrame, started_ns: int) -> dict[str, Any]:
        """Serve one frame; the body of its answer."""
        orders, who = self._sockets.orders, self.who
        problem = self._check(frame, started_ns)
        if problem is not None:
            return _envelope(classic.denied(problem))
        match frame:
            case q.SubmitFrame():
                return _envelope(await orders.submit(who, frame, started_ns))
            case q.BatchFrame():
                answers = await orders.batch(who, frame.orders, started_ns)
                return {"http": 200, "results": [classic.result(answer) for answer in answers]}
            case q.AmendFrame():
                return _envelope(await orders.amend(who, frame.order_id, frame, started_ns))
            case q.CancelFrame():
                return _envelope(await orders.cancel(who, frame.order_id, frame.symbol, started_ns))
            case q.CancelAllFrame():
                return _envelope(await orders.cancel_all(who, frame.symbol, started_ns))
            case q.SubscribeFrame():
                await self._sockets.executions.listen(who.account, self.number, self._push)
                return _envelope(Answer({"success": True, "channel": frame.channel}))
            case q.UnsubscribeFrame():
                await self._sockets.executions.leave(who.account, self.number)
                return _envelope(Answer({"success": True, "channel": frame.channel}))
            case q.PingFrame():
                return _envelope(Answer({"success": True}))
            case _:
                assert_never(frame)

    def _check(self, frame: q.JsonFrame, now_ns: int) -> Problem | None:
        match frame:
            case q.SubmitFrame() | q.AmendFrame():
                return self._own(frame.user_id) or self._limit(1, 0, now_ns)
            case q.BatchFrame():
                users = [frame.user_id, *[order.user_id for order in frame.orders]]
                problems = [problem for user in users if (problem := self._own(user)) is not None]
                return problems[0] if problems else self._limit(len(frame.orders), 0, now_ns)
            case q.CancelFrame() | q.CancelAllFrame():
                return self._limit(0, 1, now_ns)
            case q.SubscribeFrame() | q.UnsubscribeFrame():
                if frame.channel != "executions":
                    return Problem("MALFORMED", f"channel must be executions, not {frame.channel[:40]!r}")
                return None
            case q.PingFrame():
                return None
            case _:
                assert_never(frame)

    def _own(self, user_id: str) -> Problem | None:
        if user_id in ("", self.who.account):
            return None
        return Problem("FORBIDDEN", "user_id must be the account of the session")

    def _answer(self, id_: q.FrameId, answer: Answer) -> None:
        self._send(classic.encode_json({"id": id_, **_envelope(answer)}), WSMsgType.TEXT)

    # --- writing ------------------------------------------------------------------------------------------------

    def _push(self, text: bytes) -> None:
        """An event that nobody asked for just now: a client that does not read is cut off rather than waited for."""
        if len(self._outbox) >= FEED_QUEUE_MESSAGES_MAX or self._outbox_bytes + len(text) > FEED_QUEUE_BYTES_MAX:
            self.close_soon(1013, "slow consumer")
        else:
            self._send(text, WSMsgType.TEXT)

    def _send(self, content: bytes, kind: WSMsgType) -> None:
        self._outbox.append((content, kind))
        self._outbox_bytes += len(content)
        self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            outbox, self._outbox = self._outbox, []
            self._outbox_bytes = 0
            try:
                for content, kind in outbox:
                    await self._socket.send_frame(content, kind)
            except (ConnectionError, RuntimeError):
                # The socket is closed or closing; the reading loop sees the same and ends the session.
                return

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(DEAD_MAN_RENEW_S)
            await self._sockets.orders.arm_dead_man(self.who, DEAD_MAN_MS, "", monotonic_ns())

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))


class FrameAnswer:
    """The answer to one compact frame while it comes together."""

    __slots__ = ("_id", "_left", "_session", "results")

    def __init__(self, session: Session, id_: int, rows: int, shards: int) -> None:
        self.results: list[Any] = [None] * rows
        self._id = id_
        self._left = shards
        self._session = session

    def settle(self, settled: Settled) -> None:
        """Ticket of the runs of this frame."""
        run, results = settled.run, self.results
        assert run.places is not None
        if settled.problem is None:
            for place, reply in zip(run.places, settled.replies, strict=True):
                results[place] = reply
        else:
            for place, command in zip(run.places, run.commands, strict=True):
                results[place] = problem_row(settled.problem, getattr(command, "client_order_id", ""))
        self._left -= 1
        if not self._left:
            self.finish()

    def finish(self) -> None:
        """Every place has its result."""
        self._session.end_frame(encode([self._id, self.results]), WSMsgType.BINARY)


def problem_row(problem: Problem, client_order_id: str) -> tuple[int, int, str, str, str]:
    """What the gateway itself has to say about one row: tag 0, HTTP status, reason, sentence, client order id."""
    return 0, problem.rule.http, problem.reason, problem.detail, client_order_id


def _envelope(answer: Answer) -> dict[str, Any]:
    key = "error" if isinstance(answer.body, classic.ErrorBody) else "result"
    return {"http": answer.http, key: answer.body}
