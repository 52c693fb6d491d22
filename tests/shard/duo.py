"""A stage for stories about two nodes of one shard: perfect disks, a link whose messages are handed over by name.

Cues go in, plain sentences come out:
    ann: NEW                       an answer left
    published 1-2                  an event frame left
    ask a b at 3                   the store is asked for this in-sync set in place of that of version 3
    drained to b at 7              a planned switch may happen
    cut 5 / snapshot               the journal has to be changed
"""

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.limits import RING_BYTES_MAX, RING_FRAMES_MAX
from exchange.wire import decode_coordinator_inbound, decode_replica, encode
from shard.core.engine import create_engine
from shard.core.journal import START, advance
from shard.core.node import Node, Ready
from shard.core.outcome import event_frame
from shard.core.poison import apply
from shard.core.record import decode_head
from shard.core.replica import Replica
from shard.core.ring import Ring
from tests.shard.stage import BTC, CEILINGS, Stage

WALL_NS = 10**9
Message = tuple[bytes, bytes, bytes]


def member(name: str, incarnation: int) -> m.Member:
    return m.Member(name, incarnation, f"ipc:///run/replica.{name}")


def view(ver: int, epoch: int, *isr: str, members: str = "a1 b2") -> m.ShardView:
    """`isr` and `members` as "a1 b2": node and incarnation. The first of the in-sync set leads."""

    def sessions(text: str) -> list[m.Member]:
        return [member(word[0], int(word[1:])) for word in text.split()]

    in_sync = sessions(" ".join(isr))
    return m.ShardView("s0", ver, epoch, in_sync[0], in_sync, sessions(members))


class Actor:
    """One node with a perfect disk. `sent` = what left for the other node and was not handed over yet, `request` = the
    number of the last question to the store."""

    def __init__(
        self, name: str, incarnation: int, *, journal: list[bytes] | None = None, relaxed: bool = False,
        oldest_seq: int = 0, solo: bool = True,
    ) -> None:  # fmt: skip
        self.name = name
        self.journal = list(journal or [])
        self.now_ns = NS_PER_MS
        self.cut = False
        self.request = 0
        self.sent: list[Message] = []
        self.engine = create_engine(CEILINGS, reference=True)
        ring = Ring(after_seq=0, bytes_max=RING_BYTES_MAX, frames_max=RING_FRAMES_MAX)
        position, terms = START, []
        for record in self.journal:
            position = advance(position, decode_head(record), record)
            frame = event_frame(apply(self.engine, record))
            ring.add(decode_head(record).first_seq, position.seq, frame)
            term = m.Term(position.epoch, position.seq, position.chain)
            terms[-1:] = [term] if terms and terms[-1].epoch == position.epoch else [*terms[-1:], term]
        replica = Replica(shard="s0", node=name, engine=self.engine, position=position, ring=ring)
        self.node = Node(
            replica, shard="s0", node=name, promised=0, terms=terms, oldest_seq=oldest_seq, relaxed=relaxed, solo=solo
        )
        self.node.on_instruments([BTC])
        self.node.on_registered(0, incarnation)

    def view(self, seen: m.ShardView) -> list[str]:
        self.node.on_view(seen)
        return self.turn()

    def order(self, *commands: m.Command, number: int = 1, epoch: int = 0) -> None:
        header = encode(m.Batch("ann", 1, number, epoch, len(commands)))
        self.node.on_order(header, encode(list(commands)), b"ann", WALL_NS + self.now_ns)

    def write(self) -> bool:
        """The first half of a turn: records are written and executed."""
        self.node.on_promised()
        self.keep(self.node.ready())
        records = self.node.form()
        self.journal += records
        if records:
            self.sent += self.node.replicate()
            self.node.on_written()
        return bool(records)

    def turn(self) -> list[str]:
        """All that can be done now, with a disk that works."""
        said: list[str] = []
        self.node.on_promised()
        said += self.keep(self.node.ready())
        while True:
            records = self.node.form()
            self.journal += records
            if records:
                self.sent += self.node.replicate()
                self.node.on_written()
            if self.node.must_sync:
                self.node.on_synced()
            said += self.keep(self.node.ready())
            if not records:
                return said

    def pass_time(self, ms: int) -> list[str]:
        """In steps that a shell would take."""
        said: list[str] = []
        for _ in range(0, ms, 50):
            self.now_ns += 50 * NS_PER_MS
            self.node.on_tick(WALL_NS + self.now_ns, self.now_ns, log_tick=False)
            said += self.turn()
        return said

    def hear(self, message: Message, peer: bytes = b"") -> list[str]:
        self.node.on_link(message[1], message[2], peer, self.now_ns)
        return self.turn()

    def answer(self, accepted: bool, seen: m.ShardView, request: int = 1, incarnation: int | None = None) -> list[str]:
        """Of the store; `incarnation` = who had asked, None = this session."""
        asker = self.node.incarnation if incarnation is None else incarnation
        self.node.on_answer(m.IsrAnswer(request, asker, accepted, seen))
        return self.turn()

    def keep(self, ready: Ready) -> list[str]:
        self.sent += ready.to_standby
        self.sent += [(b"", header, payload) for header, payload in ready.to_primary]
        if ready.fetch is not None:
            behind = [record for record in self.journal if decode_head(record).first_seq > ready.fetch.after_seq]
            self.node.on_fetched(b"".join(behind), self.node.replica.position.seq)
        said = [line for line in Stage.said(ready) if not line.startswith("note ")]  # type: ignore[arg-type]
        for payload in ready.control:
            message = decode_coordinator_inbound(payload)
            said.append(_control(message))
            self.request = message.request if isinstance(message, m.AskIsr) else self.request
        if ready.cut is not None and not self.cut:
            self.cut = True
            said.append("snapshot" if ready.cut.snapshot else f"cut {ready.cut.seq}")
        return said


class Duo:
    """a and b, in contact unless a story keeps their messages back."""

    def __init__(self, *, relaxed: bool = False) -> None:
        self.a = Actor("a", 1, relaxed=relaxed)
        self.b = Actor("b", 2, relaxed=relaxed)

    def talk(self) -> list[str]:
        """Hand over everything, both ways, until nobody has more to say."""
        said: list[str] = []
        while self.a.sent or self.b.sent:
            said += self.deliver(self.a, self.b)
            said += self.deliver(self.b, self.a)
        return said

    def deliver(self, source: Actor, target: Actor) -> list[str]:
        messages, source.sent = source.sent, []
        target.now_ns = max(source.now_ns, target.now_ns)
        peer = f"{source.name}:{source.node.incarnation}".encode()
        said: list[str] = []
        for message in messages:
            said += [f"{target.name}: {line}" for line in target.hear(message, b"" if message[0] else peer)]
        return said

    def pair(self) -> None:
        """a leads term 1, b is in sync: the store is at version 3."""
        self.a.view(view(2, 1, "a1"))
        self.b.view(view(2, 1, "a1"))
        assert self.talk()[-1] == "a: ask a b at 2"
        self.a.answer(True, view(3, 1, "a1", "b2"))
        self.b.view(view(3, 1, "a1", "b2"))
        self.talk()


def heard(messages: list[Message]) -> list[str]:
    """Names of messages on their way."""
    return [type(decode_replica(header)).__name__ for _, header, _ in messages]


def _control(message: object) -> str:
    match message:
        case m.AskIsr():
            return f"ask {' '.join(one.node for one in message.isr)} at {message.ver}"
        case m.Drained():
            return f"drained to {message.to.node} at {message.seq}"
    raise AssertionError(message)
