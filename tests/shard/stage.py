"""A stage for stories about one replica: cues go in, plain sentences come out. No socket, no file.

ann: NEW 1                    answer to ann's batch: statuses or reject codes, one a command
ann: refused MALFORMED ...    the batch was refused whole
published 1-2                 an event frame left
note ...                      a line for the log
"""

from exchange import messages as m
from exchange.domain import Reject, Side, Status, TimeInForce
from exchange.limits import RING_BYTES_MAX, RING_FRAMES_MAX
from exchange.wire import decode_published, decode_replies, decode_shard_outbound, encode
from shard.core.engine import create_engine
from shard.core.journal import START
from shard.core.record import decode_record
from shard.core.replica import Ready, Replica
from shard.core.ring import Ring

CEILINGS = m.EngineConfig(
    orders_max=10_000,
    accounts_max=100,
    ids_max=20_000,
    ids_per_account_max=10_000,
    ids_window_ns=10**15,
    open_orders_max=10_000,
)
BTC = m.Instrument(0, "BTCUSD", "BTC", "USD", 2, 0, 1, 1, 1, 10**9, 1, 10**9, 0, 0, -1, "s0")
ETH = m.Instrument(1, "ETHUSD", "ETH", "USD", 2, 0, 1, 1, 1, 10**9, 1, 10**9, 0, 0, -1, "s0")


def order(
    number: int, side: Side = Side.BUY, price: int = 100, *, account: str = "ann", instrument: int = 0
) -> m.Submit:
    return m.Submit(account, f"id-{number}", instrument, side, 0, TimeInForce.GTC, 0, 1, price, 10)


class Stage:
    """Plays the shell with a perfect disk."""

    def __init__(self, *, serving: bool = True, ring_frames: int = RING_FRAMES_MAX) -> None:
        self.engine = create_engine(CEILINGS, reference=True)
        ring = Ring(after_seq=0, bytes_max=RING_BYTES_MAX, frames_max=ring_frames)
        self.replica = Replica(shard="s0", node="s0", engine=self.engine, position=START, ring=ring)
        self.journal: list[bytes] = []
        self.now_ns = 1_000
        if serving:
            self.replica.begin_term(1, 1, [BTC], self.now_ns)
            self.turn()

    def batch(
        self, *commands: m.Command, peer: str = "ann", number: int = 1, epoch: int = 0, count: int | None = None
    ) -> None:
        header = m.Batch(peer, 1, number, epoch, len(commands) if count is None else count)
        self.message(encode(header), encode(list(commands)), peer=peer)

    def message(self, header: bytes, payload: bytes, *, peer: str = "ann") -> None:
        self.replica.on_message(header, payload, peer.encode(), self.now_ns)

    def follow(self, after_seq: int, *, peer: str = "md") -> None:
        self.message(encode(m.Follow(peer, after_seq)), b"", peer=peer)

    def commit(self) -> bool:
        """One record, if there is anything to log."""
        record = self.replica.form()
        if record:
            self.journal.append(record)
            self.replica.on_written()
            self.replica.release(self.replica.position.seq)
        return bool(record)

    def turn(self) -> list[str]:
        """All that can be done now."""
        while self.commit():
            pass
        return self.said(self.replica.ready())

    def logged(self) -> list[list[str]]:
        """Names of the commands of each record."""
        return [[type(command).__name__ for command in commands_of(record)] for record in self.journal]

    @staticmethod
    def said(ready: Ready) -> list[str]:
        lines = [f"{peer.decode()}: {_answer(header, payload)}" for peer, header, payload in ready.send]
        for header, _ in ready.publish:
            published = decode_published(header)
            lines.append(f"published {published.previous_seq + 1}-{published.last_seq}")
        return lines + [f"note {note}" for note in ready.notes]


def commands_of(record: bytes) -> list[m.Command]:
    from shard.core.commands import decode_payload

    head, payload = decode_record(record)
    return decode_payload(payload, head.count)


def _answer(header: bytes, payload: bytes) -> str:
    message = decode_shard_outbound(header)
    match message:
        case m.Answers():
            return " ".join(_reply(reply) for reply in decode_replies(payload))
        case m.Refused():
            return f"refused {message.reason} {message.detail}"
        case m.Frames():
            return f"frames {message.first_seq}-{message.last_seq}{' more' * message.more}"
        case m.Image():
            return f"image {message.seq}"


def _reply(reply: m.Reply) -> str:
    match reply:
        case m.Executed():
            return Status(reply.status).name + " again" * reply.duplicate
        case m.Rejected():
            return Reject(reply.code).name
        case _:
            return type(reply).__name__
