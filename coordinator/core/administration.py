"""Operators' commands: to each shard as a batch for its log, and what the shards said back to the operator. Pure."""

from typing import assert_never

from msgspec import Struct

from coordinator.core.outbox import Send
from coordinator.core.registration import check_operator
from exchange import messages as m
from exchange.domain import NS_PER_S, Reject
from exchange.errors import WireError
from exchange.limits import BATCH_COMMANDS_MAX
from exchange.wire import decode_commands, decode_replies, encode

ANSWER_WITHIN_NS = 2 * NS_PER_S
REQUESTS_MAX = 64
SENDER = "coordinator"
_ALLOWED = m.MassCancel | m.SetState | m.SetPositionLimit


class ToShard(Struct, frozen=True):
    """One batch for the shard at `endpoint`."""

    endpoint: str
    header: bytes
    payload: bytes


Output = Send | ToShard


class _Request:
    """One Administer that is on its way: `waiting` = shards that still have to answer, by batch number."""

    def __init__(self, peer: bytes, count: int, deadline_ns: int) -> None:
        self.peer = peer
        self.count = count
        self.deadline_ns = deadline_ns
        self.waiting: dict[int, str] = {}
        self.results: dict[str, str] = {}


class Administration:
    """Every request ends within ANSWER_WITHIN_NS with one word for each shard: "done" or why not.

    A batch names the epoch of the map, so one that is delivered late, after a shard's restart, is refused there and
    does not take effect behind the operator's back.
    """

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._batch = 0
        self._requests: list[_Request] = []

    def on_administer(self, peer: bytes, message: m.Administer, map_: m.ShardMap, now_ns: int) -> list[Output]:
        """Take a request. WireError when the peer is no operator or the commands are not an operator's."""
        check_operator(peer)
        request = _Request(peer, _check(message), now_ns + ANSWER_WITHIN_NS)
        entries = [entry for entry in map_.shards if message.shard in ("", entry.shard)]
        if not entries:
            known = ", ".join(entry.shard for entry in map_.shards)
            request.results[message.shard] = f"there is no shard {message.shard[:40]!r}; shards are {known}"
        outputs: list[Output] = []
        for entry in entries:
            if len(self._requests) >= REQUESTS_MAX:
                request.results[entry.shard] = f"{REQUESTS_MAX} requests are waiting; try again"
            elif not entry.orders_endpoint:
                request.results[entry.shard] = "the shard has never been up"
            else:
                self._batch += 1
                request.waiting[self._batch] = entry.shard
                header = m.Batch(SENDER, self._incarnation, self._batch, entry.epoch, request.count)
                outputs.append(ToShard(entry.orders_endpoint, encode(header), bytes(message.commands)))
        self._requests.append(request)
        return outputs + self._finish()

    def on_answer(self, header: m.ShardOutbound, payload: bytes) -> list[Output]:
        """Take what a shard said; an answer that nobody waits for any more is dropped."""
        match header:
            case m.Answers():
                request, shard = self._find(header.batch)
                if request is not None:
                    request.results[shard] = _verdict(payload, request.count)
            case m.Refused():
                request, shard = self._find(header.batch)
                if request is not None:
                    request.results[shard] = f"{header.reason}: {header.detail}"
            case m.Frames() | m.Image():
                raise WireError(f"a shard sent {type(header).__name__} to the coordinator, which follows nobody")
            case _:
                assert_never(header)
        return self._finish()

    def on_tick(self, now_ns: int) -> list[Output]:
        """Requests whose time is up are answered with what is known."""
        for request in self._requests:
            if now_ns >= request.deadline_ns:
                for shard in request.waiting.values():
                    seconds = ANSWER_WITHIN_NS // NS_PER_S
                    request.results[shard] = f"no answer within {seconds} s: it may or may not have been carried out"
                request.waiting.clear()
        return self._finish()

    def _find(self, batch: int) -> tuple[_Request | None, str]:
        for request in self._requests:
            if batch in request.waiting:
                return request, request.waiting.pop(batch)
        return None, ""

    def _finish(self) -> list[Output]:
        done = [request for request in self._requests if not request.waiting]
        self._requests = [request for request in self._requests if request.waiting]
        return [Send(r.peer, encode(m.Administered(dict(sorted(r.results.items()))))) for r in done]


def _check(message: m.Administer) -> int:
    """Count of the commands; WireError when one of them is not for operators or is signed by somebody else."""
    commands = decode_commands(message.commands)
    if not 1 <= len(commands) <= BATCH_COMMANDS_MAX:
        raise WireError(f"Administer has {len(commands)} commands, 1 to {BATCH_COMMANDS_MAX} are allowed")
    for number, command in enumerate(commands):
        if not isinstance(command, _ALLOWED):
            raise WireError(f"Administer: command {number} is a {type(command).__name__}, not an operator's")
        if not isinstance(command, m.MassCancel) and command.actor != message.actor:
            raise WireError(f"Administer by {message.actor[:80]!r}: command {number} names {command.actor[:80]!r}")
    return len(commands)


def _verdict(payload: bytes, count: int) -> str:
    try:
        replies = decode_replies(payload)
    except WireError as error:
        return f"the shard's answer is malformed: {error}"
    if len(replies) != count:
        return f"the shard gave {len(replies)} replies to {count} commands"
    for number, reply in enumerate(replies):
        if isinstance(reply, m.Rejected):
            codes = {reject.value: reject.name for reject in Reject}
            code = codes.get(reply.code, str(reply.code))
            return f"command {number}: {code} (value {reply.value}, bound {reply.bound})"
    return "done"
