"""What one walk along the committed log can see: I3, I4, I5, I7, I11, I13. An observer keeps one or two of them."""

from collections.abc import Iterator, Sequence
from zlib import crc32

from msgspec.structs import replace

from drills.checker.history import NO, Answer, Calls, Capture, Captures, Place, image_crc
from drills.checker.identity import command_identity, reply_mark, request_mark
from drills.checker.journals import Line, NodeLog, Snapshot
from drills.checker.report import Finding
from drills.checker.walk import Create, Step, Walk
from exchange import messages as m
from exchange.domain import Status
from exchange.wire import encode
from shard.core.engine import Engine

SHADOWS_MAX = 2
"""Snapshots of one shard from which everything is replayed to the end; all of them are compared."""


class Answers:
    """I3 durability and I5 fidelity: what was answered is in the log, and is what the log gives."""

    def __init__(self, shard: str, calls: Calls, instruments: Sequence[int], start_seq: int) -> None:
        """What was answered at or below `start_seq` cannot be seen."""
        self._shard = shard
        self._calls = calls
        self._order = calls.order(instruments)
        self._next = 0
        self._found: list[Finding] = []
        while self._next < len(self._order) and calls.seqs[self._order[self._next]] <= start_seq:
            self._next += 1
        self.checked = 0
        self.unchecked = self._next

    def on_step(self, step: Step) -> None:
        first_seq, last_seq = step.record.head.first_seq, step.record.head.last_seq
        seqs, order = self._calls.seqs, self._order
        while self._next < len(order):
            seq = seqs[order[self._next]]
            if seq > last_seq:
                break
            self._compare(self._calls.at(order[self._next]), step, seq - first_seq)
            self._next += 1

    def findings(self, walk: Walk) -> Iterator[Finding]:
        """What was compared, then what the log does not reach."""
        yield from self._found
        for place in self._order[self._next :]:
            answer = self._calls.at(place)
            if answer.seq <= walk.line.end_seq:
                self.unchecked += 1
                continue
            sentence = (
                f"seq {answer.seq} of term {answer.epoch} was answered, but the log of {walk.line.node} ends at "
                f"seq {walk.line.end_seq}"
            )
            yield Finding("I3", self._shard, sentence, _told(answer))

    def _compare(self, answer: Answer, step: Step, index: int) -> None:
        self.checked += 1
        command, reply = step.commands[index], step.replies[index]
        evidence = {**_told(answer), "segment": str(step.fragment.path), "byte": step.record.offset}
        wrong = self._identity_fault(answer, command, reply, step.record.head.epoch)
        if wrong:
            sentence = f"the answer of seq {answer.seq} is not in the log: {wrong}"
            self._found.append(Finding("I3", self._shard, sentence, evidence))
            return
        expected, raw = reply, step.raw[index]
        if answer.op == "cancel" and isinstance(command, m.QueryOrder):
            expected = _cancel_in_doubt(reply)
            raw = encode(expected)
        elif answer.duplicate != getattr(reply, "duplicate", False) and isinstance(reply, m.Executed | m.Rejected):
            expected = replace(reply, duplicate=answer.duplicate)
            raw = encode(expected)
        if answer.mark != reply_mark(expected) or (answer.reply_crc >= 0 and answer.reply_crc != crc32(raw)):
            sentence = f"the answer of seq {answer.seq} is not what the log gives: {_said(expected)}"
            self._found.append(Finding("I5", self._shard, sentence, evidence))

    @staticmethod
    def _identity_fault(answer: Answer, command: m.Command, reply: m.Reply, epoch: int) -> str:
        """Why the command at an answer's seq is not the one that was answered."""
        if answer.epoch != epoch:
            return f"it is of term {answer.epoch}, the record there of term {epoch}"
        if answer.key != command_identity(command):
            return f"another command stands there: {type(command).__name__}"
        if reply.seq != answer.seq:
            return f"a repetition of seq {reply.seq} stands there"
        same_kind = answer.op == type(command).__name__.lower()
        if same_kind and answer.request and answer.request != request_mark(command):
            return f"a {type(command).__name__} with other fields stands there"
        return ""


class Once:
    """I4 at most once, and I7 honesty: what was denied or voided has no effect in the log. Over all shards."""

    def __init__(self, calls: Calls) -> None:
        self.effective: dict[int, int] = {}
        self._calls = calls
        self._found: list[Finding] = []
        self._shard = ""

    def on_shard(self, shard: str) -> None:
        """The steps that follow are of this shard."""
        self._shard = shard

    def on_step(self, step: Step) -> None:
        for command, reply in zip(step.commands, step.replies, strict=True):
            if not isinstance(reply, m.Executed) or reply.duplicate:
                continue
            if not isinstance(command, m.Submit | m.Replace | m.Reduce) or not command.client_order_id:
                continue
            key = command_identity(command)
            evidence = {
                "account": command.account,
                "id": command.client_order_id,
                "seq": reply.seq,
                "epoch": reply.epoch,
                "segment": str(step.fragment.path),
                "byte": step.record.offset,
            }
            before_ns = self.effective.get(key)
            if before_ns is not None and (not command.client_ns or command.client_ns <= before_ns):
                sentence = f"id {command.client_order_id} of {command.account} took effect again at seq {reply.seq}"
                self._found.append(Finding("I4", self._shard, sentence, evidence))
            self.effective[key] = reply.ts_ns
            place = self._calls.doubt_places.get(key) if self._calls.doubts.get(key) == NO else None
            if place is not None:
                sentence = (
                    f"id {command.client_order_id} of {command.account} was answered as not executed, but took effect "
                    f"at seq {reply.seq}"
                )
                self._found.append(Finding("I7", self._shard, sentence, {**evidence, **_where(place)}))
            place = self._calls.voided.get(key)
            if place is not None:
                sentence = (
                    f"id {command.client_order_id} of {command.account} was answered as voided, but took effect at "
                    f"seq {reply.seq}"
                )
                self._found.append(Finding("I7", self._shard, sentence, {**evidence, **_where(place)}))

    def findings(self, walk: Walk) -> Iterator[Finding]:
        """What was found in the shard whose walk has ended."""
        del walk
        yield from self._found
        self._found = []


class Snapshots:
    """I11 determinism: every snapshot of every node is what replay gives, and leads to the same end."""

    def __init__(self, shard: str, line: Line, logs: Sequence[NodeLog], create: Create) -> None:
        self._shard = shard
        self._create = create
        self._at: dict[int, list[Snapshot]] = {}
        self._shadows: list[tuple[Snapshot, Engine]] = []
        self._found: list[Finding] = []
        self.compared = 0
        for log in logs:
            for sentence in log.broken_snapshots:
                self._found.append(Finding("I11", log.node, f"snapshot unreadable: {sentence}", {}))
            for snapshot in log.snapshots:
                position = snapshot.head.position
                if line.chain_at(position.seq) == position.chain:
                    self._at.setdefault(position.seq, []).append(snapshot)
                elif line.base_seq <= position.seq <= line.end_seq and not _has(log, position.seq, position.chain):
                    sentence = f"snapshot of seq {position.seq} is of a history that no journal here has"
                    self._found.append(Finding("I11", log.node, sentence, {"file": str(snapshot.path)}))

    def on_step(self, step: Step) -> None:
        for _, engine in self._shadows:
            engine.apply(step.executed)
        for snapshot in self._at.get(step.record.head.last_seq, ()):
            self.compared += 1
            digest = step.engine.digest()
            if snapshot.head.digest != digest:
                sentence = (
                    f"snapshot of seq {snapshot.head.position.seq} has digest {snapshot.head.digest:016x}, "
                    f"replay gives {digest:016x}"
                )
                self._found.append(Finding("I11", snapshot.path.parent.name, sentence, {"file": str(snapshot.path)}))
            elif len(self._shadows) < SHADOWS_MAX:
                engine = self._create(step.fragment.head.ceilings)
                engine.restore(snapshot.body())
                self._shadows.append((snapshot, engine))

    def findings(self, walk: Walk) -> Iterator[Finding]:
        """What was compared on the way, then the ends."""
        yield from self._found
        for snapshot, engine in self._shadows:
            if walk.engine is not None and engine.digest() != walk.engine.digest():
                sentence = f"replay from the snapshot of seq {snapshot.head.position.seq} leads to another end"
                yield Finding("I11", snapshot.path.parent.name, sentence, {"file": str(snapshot.path)})
        if walk.stopped:
            yield Finding("I11", self._shard, walk.stopped, {"seq": walk.end_seq + 1})


class Events:
    """I13: what subscribers took is gap-free or starts anew with an image, and is what the log gives."""

    def __init__(self, shard: str, captures: Captures, start_seq: int) -> None:
        """Frames at or below `start_seq` cannot be compared."""
        self._shard = shard
        self._captures = captures
        self._order = [n for n in captures.ordered() if captures.at(shard, n)[0].last_seq > start_seq]
        self._next = 0
        self._image: tuple[int, int] = (-1, 0)
        self._found = list(_gaps(shard, captures))

    def on_step(self, step: Step) -> None:
        head = step.record.head
        crc = -1
        while self._next < len(self._order):
            capture, place = self._captures.at(self._shard, self._order[self._next])
            if capture.last_seq > head.last_seq:
                break
            self._next += 1
            if capture.last_seq < head.last_seq:
                self._add(capture, place, "no record of the log ends there")
            elif capture.image:
                if self._image[0] != head.last_seq:
                    self._image = head.last_seq, image_crc(step.engine.image())
                if capture.frame_crc != self._image[1]:
                    self._add(capture, place, "the log gives another image")
            else:
                crc = crc if crc >= 0 else crc32(step.frame_bytes)
                if (capture.epoch, capture.first_seq, capture.frame_crc) != (head.epoch, head.first_seq, crc):
                    self._add(capture, place, f"the log has another frame there, of term {head.epoch}")

    def findings(self, walk: Walk) -> Iterator[Finding]:
        """Gaps, differences, then what the log does not reach."""
        yield from self._found
        for number in self._order[self._next :]:
            capture, place = self._captures.at(self._shard, number)
            if capture.last_seq > walk.line.end_seq:
                yield self._finding(capture, place, f"the log ends at seq {walk.line.end_seq}")

    def _add(self, capture: Capture, place: Place, why: str) -> None:
        self._found.append(self._finding(capture, place, why))

    def _finding(self, capture: Capture, place: Place, why: str) -> Finding:
        what = "image" if capture.image else "frame"
        sentence = f"{capture.subscriber} took a {what} of seq {capture.first_seq} to {capture.last_seq}, but {why}"
        return Finding("I13", self._shard, sentence, {**_where(place), "epoch": capture.epoch})


def _gaps(shard: str, captures: Captures) -> Iterator[Finding]:
    """Per subscriber: each frame follows the one before it, unless it is an image."""
    at: dict[str, int] = {}
    for number in range(len(captures)):
        capture, place = captures.at(shard, number)
        before = at.get(capture.subscriber, capture.prev_seq)
        if capture.image and capture.last_seq < before:
            sentence = f"{capture.subscriber} was at seq {before} and was given an image of seq {capture.last_seq}"
            yield Finding("I13", shard, sentence, _where(place))
        elif not capture.image and (capture.first_seq != before + 1 or capture.prev_seq != before):
            sentence = (
                f"{capture.subscriber} was at seq {before} and took seq {capture.first_seq} to {capture.last_seq} "
                "without an image between"
            )
            yield Finding("I13", shard, sentence, _where(place))
        at[capture.subscriber] = capture.last_seq


def _cancel_in_doubt(reply: m.Reply) -> m.Reply:
    """What a gateway makes of a cancel that was sent twice and asked about (rule E5)."""
    if not isinstance(reply, m.Order) or reply.info.status != Status.CANCELED:
        return reply
    info = reply.info
    left = info.quantity - info.filled
    return m.Executed(
        reply.epoch, reply.seq, reply.ts_ns, True, info.order_id, info.status, info.reason, info.filled, left, []
    )


def _has(log: NodeLog, seq: int, chain: int) -> bool:
    return any(fragment.place_behind(seq, chain) >= 0 for fragment in (*log.fragments, *log.archives))


def _said(reply: m.Reply) -> str:
    fields = {name: getattr(reply, name) for name in reply.__struct_fields__ if name not in ("ts_ns", "infos", "info")}
    return f"{type(reply).__name__} " + " ".join(f"{name}={value}" for name, value in fields.items())


def _told(answer: Answer) -> dict[str, object]:
    return {**_where(answer.place), "op": answer.op, "seq": answer.seq, "epoch": answer.epoch}


def _where(place: Place) -> dict[str, object]:
    return {"history": str(place.path), "at": place.offset}
