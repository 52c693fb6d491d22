"""The invariants that need no replay: one function each, findings out."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from coordinator.core.group import Group, Session
from drills.checker.history import Calls
from drills.checker.journals import Fragment, Line, NodeLog, Record
from drills.checker.metadata import Version
from drills.checker.report import Finding, Gap
from drills.checker.traces import Note
from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.errors import WireError
from exchange.wire import array_header, decode_commands
from shard.core.record import HEAD_BYTES

_EPOCH_START = b"\x94\x0a"
Begins = dict[int, tuple[str, int]]
"""Term -> (node, incarnation) of its EpochStart."""


def i1_agreement(shard: str, logs: Sequence[NodeLog], line: Line, group: Group | None) -> Iterator[Finding]:
    """Within one term there is one history, and whoever is recorded as in sync has a part of the line."""
    ends = line.term_ends()
    seen: dict[tuple[int, int], tuple[int, Fragment, int]] = {}
    for log in logs:
        for fragment in (*log.fragments, *log.archives):
            for place, seq in enumerate(fragment.ends):
                chain, epoch = fragment.chains[place], fragment.epochs[place]
                if line.chain_at(seq) == chain:
                    continue
                other = seen.setdefault((epoch, seq), (chain, fragment, place))
                if ends.get(epoch, 0) < seq and other[0] == chain:
                    continue
                sentence = f"term {epoch} has two histories at seq {seq}"
                evidence = {
                    "file": str(fragment.path),
                    "byte": fragment.offsets[place],
                    "chain": f"{chain:016x}",
                    "other": str(other[1].path) if other[0] != chain else f"the log of {line.node}",
                }
                yield Finding("I1", log.node, sentence, evidence)
                break
    for node, incarnation in group.isr if group is not None else ():
        member = {log.node: log for log in logs}.get(node)
        if member is None or not member.fragments:
            continue
        if member.state is not None and member.state.incarnation != incarnation:
            continue  # its session is over, the store will hear of it
        seq, chain = member.fragments[-1].end
        if seq > line.base_seq and line.chain_at(seq) != chain:
            sentence = f"{node} is recorded as in sync, but at seq {seq} it has another history than {line.node}"
            yield Finding("I1", shard, sentence, {"file": str(member.fragments[-1].path), "seq": seq})


class _Begun(NamedTuple):
    """Where a term begins, and who says so."""

    fragment: Fragment
    offset: int
    seq: int
    epoch: int
    who: Session


class Order:
    """I2 dense order, of one node's files; `begins` = who began which term, `instruments` = what was defined."""

    def __init__(self, log: NodeLog) -> None:
        self.begins: Begins = {}
        self.instruments: dict[int, None] = {}
        self.records = 0
        self._log = log
        self._begun: list[_Begun] = []
        self._defining = False

    def scan(self) -> Iterator[Finding]:
        """Read all files of the node and index them."""
        before: Fragment | None = None
        for fragment in (*self._log.fragments, *self._log.archives):
            yield from self._scan(fragment)
            if not fragment.archived:
                if before is not None and before.end != (fragment.head.base_seq, fragment.head.base_chain):
                    sentence = (
                        f"{fragment.path.name} starts behind seq {fragment.head.base_seq}, the file before it ends at "
                        f"seq {before.end[0]}, or with another history"
                    )
                    yield self._finding(fragment, fragment.stop_offset, sentence)
                if before is not None and before.fault:
                    yield self._finding(before, before.stop_offset, f"{before.fault}, and another file follows")
                before = fragment
            if fragment.damaged:
                yield self._finding(fragment, fragment.stop_offset, f"{fragment.fault}, and whole records follow")

    def strangers(self, leaders: Mapping[int, list[Session]]) -> Iterator[Finding]:
        """Terms that were begun by somebody else than the store names. The store knows of a term before any journal."""
        for begun in self._begun if leaders else []:
            known = leaders.get(begun.epoch, [])
            if begun.who not in known:
                led = ", ".join(f"{node} ({incarnation})" for node, incarnation in known) or "nobody"
                sentence = (
                    f"record of seq {begun.seq}: term {begun.epoch} was begun by {begun.who[0]} ({begun.who[1]}), "
                    f"but belongs to {led}"
                )
                yield self._finding(begun.fragment, begun.offset, sentence)

    def _scan(self, fragment: Fragment) -> Iterator[Finding]:
        head = fragment.head
        seq, epoch, ts_ns, chain = head.base_seq, head.base_epoch, head.base_ts_ns, head.base_chain
        for record in fragment.scan():
            self.records += 1
            found = record.head
            wrong = []
            if found.first_seq != seq + 1:
                wrong.append(f"seq {found.first_seq} follows seq {seq}")
            if found.prev_chain != chain:
                wrong.append(f"prev_chain {found.prev_chain:016x} is not {chain:016x}")
            if found.ts_ns <= ts_ns:
                wrong.append(f"time {found.ts_ns} is not after {ts_ns}")
            if found.epoch < epoch:
                wrong.append(f"term {found.epoch} follows term {epoch}")
            begins = record.record.startswith(_EPOCH_START, HEAD_BYTES)
            if found.epoch > epoch and not begins:
                wrong.append(f"term {found.epoch} does not start with EpochStart")
            if begins:
                self._defining = True
                if found.epoch <= epoch:
                    wrong.append(f"term {found.epoch} starts a second time")
            if self._defining:
                wrong += self._read_beginning(fragment, record)
            for sentence in wrong:
                yield self._finding(fragment, record.offset, f"record of seq {found.first_seq}: {sentence}")
            seq, epoch, ts_ns, chain = found.last_seq, found.epoch, found.ts_ns, record.chain

    def _read_beginning(self, fragment: Fragment, record: Record) -> list[str]:
        """EpochStart and the definitions behind it."""
        head = record.head
        payload = record.record[HEAD_BYTES : HEAD_BYTES + head.payload_bytes]
        try:
            commands = decode_commands(array_header(head.count) + payload)
        except WireError as fault:
            return [str(fault)]
        wrong: list[str] = []
        defined = [command.index for command in commands if isinstance(command, m.DefineInstrument)]
        self.instruments.update(dict.fromkeys(defined))
        first = commands[0]
        self._defining = bool(defined) or isinstance(first, m.EpochStart)
        if isinstance(first, m.EpochStart):
            who = (first.node, first.incarnation)
            self._begun.append(_Begun(fragment, record.offset, head.first_seq, head.epoch, who))
            if first.epoch != head.epoch:
                wrong.append(f"its EpochStart names term {first.epoch}, the record is of term {head.epoch}")
            if self.begins.setdefault(head.epoch, who) != who:
                wrong.append(f"term {head.epoch} was begun by {who[0]} and by {self.begins[head.epoch][0]}")
        return wrong

    def _finding(self, fragment: Fragment, offset: int, sentence: str) -> Finding:
        return Finding("I2", self._log.node, sentence, {"file": str(fragment.path), "byte": offset})


def i3_synced(log: NodeLog) -> Iterator[Finding]:
    """What a node knew to be durable is still there."""
    if log.fragments and log.end_seq < log.synced_seq:
        sentence = f"the journal ends at seq {log.end_seq}, but seq {log.synced_seq} was durable"
        yield Finding("I3", log.node, sentence, {"file": str(log.fragments[-1].path), "synced": log.synced_seq})


def i6_real_time(shard: str, calls: Calls, places: Sequence[int]) -> Iterator[Finding]:
    """Who called after an answer had come is sequenced after it. One sort; a repetition has its first copy's seq."""
    by_call, by_return = calls.by_time(places)
    newest, next_returned = -1, 0
    for place in by_call:
        while next_returned < len(by_return) and calls.return_ns[by_return[next_returned]] < calls.call_ns[place]:
            if newest < 0 or calls.seqs[by_return[next_returned]] > calls.seqs[newest]:
                newest = by_return[next_returned]
            next_returned += 1
        if newest >= 0 and calls.seqs[place] < calls.seqs[newest] and not calls.is_repetition(place):
            answer, earlier = calls.at(place), calls.at(newest)
            sentence = f"seq {answer.seq} was called for after seq {earlier.seq} had been answered"
            evidence = {
                "history": str(answer.place.path),
                "at": answer.place.offset,
                "earlier": str(earlier.place.path),
                "earlier_at": earlier.place.offset,
            }
            yield Finding("I6", shard, sentence, evidence)


def i8_promotion(shard: str, versions: Sequence[Version]) -> Iterator[Finding]:
    """Every new primary was in the set before it, or an operator said so, which stays recorded."""
    for before, after in pairwise(versions):
        if after.group.epoch == before.group.epoch or not before.group.isr:
            continue
        node, incarnation = after.group.primary
        evidence = {"ver": after.ver, "epoch": after.group.epoch, "isr": [list(member) for member in before.group.isr]}
        if after.group.epoch < before.group.epoch:
            yield Finding("I8", shard, f"term {after.group.epoch} follows term {before.group.epoch}", evidence)
        elif node not in [member for member, _ in before.group.isr] and not _marked(before, after):
            members = ", ".join(member for member, _ in before.group.isr)
            sentence = f"{node} ({incarnation}) leads term {after.group.epoch}, the set before it was {members}"
            yield Finding("I8", shard, sentence, evidence)


def i8_releases(shard: str, notes: Mapping[str, Sequence[Note]], line: Line) -> Iterator[Finding]:
    """What was released in a term is in the log of that term, whoever leads now."""
    ends = line.term_ends()
    for node, told in notes.items():
        for note in told:
            if note.kind == "release" and line.base_seq < note.seq and note.epoch < line.epoch:
                end_seq = max((seq for epoch, seq in ends.items() if epoch <= note.epoch), default=0)
                if note.seq > end_seq:
                    sentence = f"{node} released seq {note.seq} in term {note.epoch}, which ends at seq {end_seq} now"
                    yield Finding("I8", shard, sentence, {"node": node, "epoch": note.epoch, "seq": note.seq})


def i9_fence(log: NodeLog, notes: Sequence[Note]) -> Iterator[Finding]:
    """Nothing of a term below the promised one is written or acknowledged; and nothing without a promise."""
    if log.state is not None and not log.state.rebuilding and log.last_epoch > log.state.promised_epoch:
        sentence = f"it has records of term {log.last_epoch}, but has promised only term {log.state.promised_epoch}"
        yield Finding("I9", log.node, sentence, {"file": str(log.directory)})
    promised = 0
    for note in notes:
        if note.kind == "promise":
            promised = max(promised, note.epoch)
        elif note.kind in ("write", "ack") and note.epoch < promised:
            sentence = f"{note.kind} of term {note.epoch} at seq {note.seq} after the promise of term {promised}"
            yield Finding("I9", log.node, sentence, {"file": str(note.path), "at": note.offset})


def i10_view(notes: Mapping[str, Sequence[Note]], versions: Sequence[Version], *, synced: bool) -> Iterator[Finding]:
    """Whatever a primary released was acknowledged before by the node that it required, and durable at its own.

    `synced` = the mode is `both`. A primary that required nobody held a version of the record with itself alone in it.
    """
    acked = {node: _Acks(told) for node, told in notes.items()}
    sets = {version.ver: [node for node, _ in version.group.isr] for version in versions}
    for node, told in notes.items():
        durable = 0
        for note in told:
            if note.kind == "start":
                durable = 0
            elif note.kind == "sync":
                durable = max(durable, note.seq)
            elif note.kind == "release":
                evidence = {"file": str(note.path), "at": note.offset, "epoch": note.epoch}
                if note.seq > durable and (synced or not note.required):
                    sentence = f"seq {note.seq} was released, only seq {durable} was durable"
                    yield Finding("I10", node, sentence, evidence)
                required = [note.required] if note.required else []
                missing = [other for other in sets.get(note.ver, []) if other not in (node, *required)]
                for other in (*required, *missing):
                    if other not in acked or acked[other].seq(note.epoch, note.at_ns) < note.seq:
                        sentence = f"seq {note.seq} was released, but {other} of the view had not acknowledged it"
                        yield Finding("I10", node, sentence, {**evidence, "ver": note.ver})


class _Acks:
    """How far one node had acknowledged at any time."""

    def __init__(self, told: Sequence[Note]) -> None:
        self._times: dict[int, list[int]] = {}
        self._seqs: dict[int, list[int]] = {}
        for note in told:
            if note.kind == "ack":
                seqs = self._seqs.setdefault(note.epoch, [])
                self._times.setdefault(note.epoch, []).append(note.at_ns)
                seqs.append(max(note.seq, seqs[-1] if seqs else 0))

    def seq(self, epoch: int, at_ns: int) -> int:
        """Up to where, in a term, at a time."""
        place = bisect_right(self._times.get(epoch, []), at_ns)
        return self._seqs[epoch][place - 1] if place else 0


def i16_availability(
    shard: str, calls: Calls, instruments: Sequence[int], gap_max_ms: int | None
) -> tuple[Gap, list[Finding]]:
    """Longest time without a success while somebody was asking."""
    attempts: list[tuple[int, int, bool]] = []
    for instrument in instruments:
        attempts += zip(*calls.attempts.get(instrument, ((), (), ())), strict=True)
    gap = Gap(shard, *longest_gap(attempts))
    findings = []
    if gap_max_ms is not None and gap.longest_ns > gap_max_ms * NS_PER_MS:
        sentence = f"no success for {gap.longest_ns // NS_PER_MS} ms, the bound is {gap_max_ms} ms"
        findings.append(Finding("I16", shard, sentence, {"from_ns": gap.from_ns}))
    return gap, findings


def longest_gap(attempts: Sequence[tuple[int, int, bool]]) -> tuple[int, int]:
    """(nanoseconds, from when) of the longest stretch without a success in which some call was under way.

    `attempts` = (call, return, success). A stretch starts with the last success before it, or where nobody asked then,
    with the next call.
    """
    ordered = sorted(attempts)
    successes = sorted(returned for _, returned, success in ordered if success)
    longest, longest_from = 0, 0
    open_until = 0
    place = 0
    last = ordered[0][0] if ordered else 0
    for returned in [*successes, *([max(end for _, end, _ in ordered)] if ordered else [])]:
        while place < len(ordered) and ordered[place][0] <= last:
            open_until = max(open_until, ordered[place][1])
            place += 1
        start = last
        if open_until <= last:
            start = ordered[place][0] if place < len(ordered) else returned
        if returned - start > longest:
            longest, longest_from = returned - start, start
        last = max(last, returned)
    return longest, longest_from


def _marked(before: Version, after: Version) -> bool:
    """A loss was accepted by an operator, or logs were compared: the record says so for ever."""
    return after.group.unclean and (before.group.weighing or not before.group.unclean or after.group.weighing)
