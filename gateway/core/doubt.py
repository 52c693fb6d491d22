"""Cancels that were sent twice: the second copy of a cancel that worked finds no order. Ask what became of it. Pure."""

from msgspec import Raw

from exchange import messages as m
from exchange.domain import Reject, Status
from exchange.wire import decode_reply, encode
from gateway.core.pending import Settled


def doubtful(settled: Settled) -> list[int]:
    """Which commands of a run are cancels whose "unknown order" may be the answer to a repetition."""
    if not settled.resent:
        return []
    return [
        index
        for index, (command, raw) in enumerate(zip(settled.run.commands, settled.replies, strict=False))
        if isinstance(command, m.Cancel) and _is_unknown(decode_reply(raw))
    ]


def question(command: m.Command) -> m.QueryOrder:
    """What became of the target of a cancel."""
    assert isinstance(command, m.Cancel)
    return m.QueryOrder(command.account, command.instrument, command.order_id, command.target_id)


def verdict(answer: Raw) -> Raw | None:
    """The answer that the cancel would have had, when the order was cancelled; else None: the first answer stands."""
    reply = decode_reply(answer)
    if not isinstance(reply, m.Order) or reply.info.status != Status.CANCELED:
        return None
    info = reply.info
    left = info.quantity - info.filled
    executed = m.Executed(
        reply.epoch, reply.seq, reply.ts_ns, True, info.order_id, info.status, info.reason, info.filled, left, []
    )
    return Raw(encode(executed))


def _is_unknown(reply: m.Reply) -> bool:
    return isinstance(reply, m.Rejected) and reply.code == Reject.UNKNOWN_ORDER
