"""What must hold when a run is over: the log that was let go, against everything that anybody was told."""

from exchange import messages as m
from exchange.wire import decode_frame, decode_reply
from shard.core.commands import decode_payload
from shard.core.engine import Engine, create_engine
from shard.core.journal import START, advance
from shard.core.outcome import decode_outcome
from shard.core.record import decode_record
from tests.sim.consumer import Consumer
from tests.sim.entry import Attempt, Client
from tests.sim.oracle import Oracle
from tests.sim.shell import CEILINGS
from tests.sim.world import Violation

EFFECTIVE = (m.Submit, m.Replace, m.Reduce)


class Verdict:
    """Replays the log once and judges. Raises Violation."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.engine: Engine = create_engine(CEILINGS)
        self._commands: dict[int, m.Command] = {}
        self._replies: dict[int, bytes] = {}
        self._replay()

    def judge(self, clients: list[Client], consumers: list[Consumer]) -> None:
        self._judge_copies()
        self._judge_once()
        for client in clients:
            self._judge_client(client)
        self._judge_time(clients)
        self._judge_money()
        for consumer in consumers:
            self._judge_consumer(consumer)

    def _replay(self) -> None:
        """I2, and the log as a witness of everything else."""
        position = START
        for record in self._oracle.log:
            head, payload = decode_record(record)
            try:
                after = advance(position, head, record)
            except ValueError as fault:
                raise Violation("I2", str(fault)) from fault
            commands = decode_payload(payload, head.count)
            first = commands[0]
            if head.epoch != position.epoch:
                if not isinstance(first, m.EpochStart):
                    raise Violation("I2", f"term {head.epoch} does not begin with EpochStart")
                leader = self._oracle.leaders.get(head.epoch)
                if leader != (first.node, first.incarnation):
                    raise Violation(
                        "I2", f"term {head.epoch} of {leader} is written by {first.node} {first.incarnation}"
                    )
            replies, frame = decode_outcome(self.engine.apply(record))
            self._commands |= dict(enumerate(commands, head.first_seq))
            self._replies |= dict(enumerate(replies, head.first_seq))
            known = self._oracle.frames.get(after.seq)
            if known is not None and known != frame:
                raise Violation("I13", f"the event frame that left for seq {after.seq} is not what the log gives")
            position = after

    def _judge_copies(self) -> None:
        """I11: both nodes hold the log and have made the same of it."""
        for shell in self._oracle.shells.values():
            engine = shell.node.replica.engine if shell.node is not None else None
            if engine is None or engine.seq() != self.engine.seq():
                continue
            if (engine.digest(), engine.trail()) != (self.engine.digest(), self.engine.trail()):
                raise Violation("I11", f"{shell.name} has another state than the log gives")

    def _judge_once(self) -> None:
        """I4: no id takes effect twice; neither does a wish that was repeated under another id."""
        done: dict[tuple[str, int, str], int] = {}
        for seq, command in self._commands.items():
            if isinstance(command, EFFECTIVE) and command.client_order_id:
                reply = decode_reply(self._replies[seq])
                if isinstance(reply, m.Executed) and not reply.duplicate:
                    number = command.client_order_id.rpartition("-")[2][-5:]
                    wish = command.account, command.instrument, number
                    if wish in done:
                        raise Violation("I4", f"{wish} takes effect at seq {done[wish]} and at {seq}")
                    done[wish] = seq
        self._done = done

    def _judge_client(self, client: Client) -> None:
        by_id: dict[tuple[int, str], list[Attempt]] = {}
        for attempt in client.history:
            ident = getattr(attempt.command, "client_order_id", "")
            if ident:
                by_id.setdefault((getattr(attempt.command, "instrument", 0), ident), []).append(attempt)
            if attempt.answer is not None and attempt.answer.reply is not None and not attempt.answer.derived:
                self._judge_answer(client.name, attempt)
        for (instrument, ident), attempts in by_id.items():
            self._judge_honesty(client.name, instrument, ident, attempts)

    def _judge_answer(self, account: str, attempt: Attempt) -> None:
        """I3, I5: the log has the command at that seq, and gives that very answer."""
        assert attempt.answer is not None
        assert attempt.answer.reply is not None
        told = bytes(attempt.answer.reply)
        reply = decode_reply(told)
        logged = self._replies.get(reply.seq)
        if logged is None:
            raise Violation("I3", f"{account} was answered seq {reply.seq}, the log ends at {self.engine.seq()}")
        there = self._commands[reply.seq]
        if getattr(there, "account", None) != account:
            raise Violation("I3", f"{account} was answered seq {reply.seq}, which is {there}")
        ident, asked = getattr(there, "client_order_id", ""), getattr(attempt.command, "client_order_id", "")
        if ident != asked:
            raise Violation("I3", f"{account} asked {asked!r} and was answered for {ident!r} at seq {reply.seq}")
        if told != logged and _plain(told) != _plain(logged):
            raise Violation("I5", f"{account} was told {reply}, the log says {decode_reply(logged)}")

    def _judge_honesty(self, account: str, instrument: int, ident: str, attempts: list[Attempt]) -> None:
        """I7: "not executed" and "voided" are for ever; what was told executed, was."""
        seq = self._done.get((account, instrument, ident.rpartition("-")[2][-5:]))
        replies = [
            decode_reply(attempt.answer.reply)
            for attempt in attempts
            if attempt.answer is not None and attempt.answer.reply is not None
        ]
        statuses = [attempt.answer.status if attempt.answer is not None else 0 for attempt in attempts]
        if seq is not None and all(status == 503 for status in statuses):
            raise Violation("I7", f"{account} {ident} was told 503 only, it took effect at seq {seq}")
        voided = any(isinstance(reply, m.Rejected) and reply.code == 102 for reply in replies)
        if seq is not None and voided:
            raise Violation("I7", f"{account} {ident} was told VOIDED, it took effect at seq {seq}")
        if seq is None and any(isinstance(reply, m.Executed) for reply in replies):
            raise Violation("I7", f"{account} {ident} was told it was executed, no command of it took effect")

    def _judge_time(self, clients: list[Client]) -> None:
        """I6: what was answered before another was asked stands before it in the log."""
        told = [
            (attempt.returned_ns, attempt.called_ns, reply.seq)
            for client in clients
            for attempt in client.history
            if attempt.answer is not None and attempt.answer.reply is not None
            for reply in [decode_reply(attempt.answer.reply)]
            if not getattr(reply, "duplicate", False)
        ]
        answered = sorted((returned, seq) for returned, _, seq in told)
        newest = index = 0
        for _, called, seq in sorted(told, key=lambda one: one[1]):
            while index < len(answered) and answered[index][0] < called:
                newest = max(newest, answered[index][1])
                index += 1
            if seq <= newest:
                raise Violation("I6", f"seq {seq} was asked after seq {newest} had been answered")

    def _judge_money(self) -> None:
        """I12: positions sum to zero, no book is crossed."""
        image = decode_frame(self.engine.image())
        sums: dict[int, int] = {}
        best: dict[tuple[int, int], int] = {}
        for row in image.positions:
            sums[row.instrument] = sums.get(row.instrument, 0) + row.position
        for level in image.levels:
            pick = min if level.side else max
            key = level.instrument, level.side
            best[key] = pick(best.get(key, level.price), level.price)
        for instrument, total in sums.items():
            if total:
                raise Violation("I12", f"positions of instrument {instrument} sum to {total}")
        for (instrument, side), price in best.items():
            if side == 0 and price >= best.get((instrument, 1), price + 1):
                raise Violation("I12", f"the book of instrument {instrument} is crossed at {price}")

    def _judge_consumer(self, consumer: Consumer) -> None:
        """I13: everything that happened, once and in order, from the start or from an image on."""
        seq = 0
        for first, last, image in consumer.seen:
            if not image and first != seq + 1:
                raise Violation("I13", f"{consumer.name} got seq {first} after {seq}")
            seq = last
        if seq > self.engine.seq():
            raise Violation("I13", f"{consumer.name} saw seq {seq}, the log ends at {self.engine.seq()}")


def _plain(reply: bytes) -> bytes:
    """The reply without the mark that it is a repetition."""
    decoded = decode_reply(reply)
    return repr(decoded).replace("duplicate=True", "duplicate=False").encode()
