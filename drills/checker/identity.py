"""Marks by which a call and a command of the log are known to be the same: 64-bit hashes, fit for columns."""

from hashlib import blake2b

from msgspec.structs import replace

from exchange import messages as m
from exchange.domain import Reject, Status
from exchange.wire import encode

ORDER_PREFIX = "ORD-"


def identity(account: str, instrument: int, id_: str) -> int:
    """Of a client order id in its scope."""
    return _hash(f"{account}\0{instrument}\0{id_}".encode())


def command_identity(command: m.Command) -> int:
    """Of the id that a command names; 0 when it names none."""
    match command:
        case m.Submit() | m.Replace() | m.Reduce() | m.Resolve():
            return identity(command.account, command.instrument, command.client_order_id)
        case m.Cancel() | m.QueryOrder():
            target = command.target_id or f"{ORDER_PREFIX}{command.order_id}"
            return identity(command.account, command.instrument, target)
        case m.MassCancel() | m.QueryOpen() | m.ArmDeadMan():
            return identity(command.account, command.instrument, "")
        case _:
            return 0


def request_mark(command: m.Command) -> int:
    """Of what is asked, without the stamps that differ between two copies of a request."""
    match command:
        case m.Submit() | m.Replace() | m.Reduce() if command.deadline_ns or command.client_ns:
            command = replace(command, deadline_ns=0, client_ns=0)
        case m.Cancel() if command.deadline_ns:
            command = replace(command, deadline_ns=0)
        case _:
            pass
    return _hash(encode(command))


def mark(status: str, reason: str, order_id: int, filled: int) -> int:
    """Of what an answer says."""
    return _hash(f"{status} {reason} {order_id} {filled}".encode())


def reply_mark(reply: m.Reply) -> int:
    """The same of a reply."""
    match reply:
        case m.Executed():
            reason = Reject(reply.reason).name if reply.reason else ""
            return mark(Status(reply.status).name, reason, reply.order_id, reply.filled)
        case m.Rejected():
            return mark("", Reject(reply.code).name, reply.order_id, 0)
        case _:
            return mark("", "", 0, 0)


def _hash(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
