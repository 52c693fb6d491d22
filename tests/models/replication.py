"""Explicit-state model of replication and failover (rules R1 to R10 of docs/PROTOCOL.md), small enough to search whole.

Two nodes of one shard and the coordinator's record. Breadth-first search visits every interleaving within the bounds
of: client writes; Append, Ack and full-sync messages that are delayed, reordered, duplicated or lost; kill -9 and
restart; an OS crash that loses the unsynced tail; pauses (a message that is simply not delivered); wrong suspicion;
lost answers of the store. One entry stands for one journal record.

Checked
    LC  every acknowledged value is in the log of every node that starts to lead
    AG  the value committed at an index never changes

Not modelled: liveness, de-duplication, snapshots, the inside of a batch, failure of the store itself.
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple


class Removed(Enum):
    """The rule that a run leaves out."""

    NONE = "none"
    FENCE = "R1 refuse lower terms"
    SHRINK_RECORDED_FIRST = "R3 record the shrink before acting on it"
    OBEY_REFUSAL = "R3 a refused shrink means deposed"
    SYNC_AT_SHRINK = "R3 sync before the shrink"
    REQUIRE_BEFORE_ADD = "R4 require acknowledgements before adding"
    PROMOTE_FROM_ISR = "R5 promote only from the recorded set"
    INCARNATION = "R7, R8 a restart makes a new incarnation"
    TARGET_INCARNATION = "R7 messages name the target incarnation"
    PROMISE_AT_REGISTRATION = "R7 persist the term learnt at registration"
    NEW_TERM_AT_RESTART = "R8 a restarted primary takes a new term"
    COMPARE_LOGS = "R8 compare logs after a lossy restart"
    CUT_SUFFIX = "R9 cut the suffix before appending"
    SOLO_SYNCS = "R10 solo means sync before the answer"


class Bounds(NamedTuple):
    """What a search may use up; `both` = sync on both nodes before an acknowledgement, else mode `replicated`."""

    both: bool = True
    removed: Removed = Removed.NONE
    values: int = 1
    kills: int = 1
    os_crashes: int = 1
    terms: int = 3
    incarnations: int = 4
    changes: int = 2
    syncs: int = 1
    states: int = 3_000_000


Entry = tuple[int, int]
"""(term, value)."""


class Node(NamedTuple):
    """`match` belongs to incarnation `matched` of the other node; `joined` = term in which this standby was synced."""

    up: bool
    leads: bool
    term: int
    promised: int
    log: tuple[Entry, ...]
    synced: int
    required: bool
    match: int
    matched: int
    commit: int
    incarnation: int
    joined: int
    lossy: bool


class Append(NamedTuple):
    term: int
    source: int
    at: int
    before: Entry | None
    entry: Entry
    target: int


class FullSync(NamedTuple):
    term: int
    source: int
    log: tuple[Entry, ...]
    target: int


class Ack(NamedTuple):
    term: int
    source: int
    length: int
    incarnation: int


Message = Append | FullSync | Ack


class System(NamedTuple):
    """The coordinator's record, both nodes, everything under way, what clients were told, and what is used up."""

    term: int
    primary: int
    isr: frozenset[int]
    incarnations: tuple[int, int]
    nodes: tuple[Node, Node]
    messages: frozenset[Message]
    acked: frozenset[int]
    history: tuple[int, ...]
    values: int = 0
    kills: int = 0
    os_crashes: int = 0
    changes: int = 0
    syncs: int = 0


class Violation(Exception):
    """An invariant does not hold."""


class Result(NamedTuple):
    """`story` = shortest way to the violation, empty when there is none; `states` = how many were visited."""

    violation: str
    story: list[str]
    states: int
    complete: bool


Step = tuple[str, System]


def start() -> System:
    """Node 0 leads, node 1 is in sync."""
    leader = Node(True, True, 1, 1, (), 0, True, 0, 1, 0, 1, 0, False)
    standby = Node(True, False, 1, 1, (), 0, False, 0, 1, 0, 1, 1, False)
    return System(1, 0, frozenset((0, 1)), (1, 1), (leader, standby), frozenset(), frozenset(), ())


def search(bounds: Bounds) -> Result:
    """Visit everything; stop at the first violation or at `bounds.states`."""
    first = start()
    came: dict[System, tuple[str, System] | None] = {first: None}
    frontier = deque([first])
    while frontier:
        system = frontier.popleft()
        try:
            following = list(steps(system, bounds))
        except Violation as violation:
            story = []
            at = came[system]
            while at is not None:
                story.append(at[0])
                at = came[at[1]]
            return Result(str(violation), story[::-1], len(came), True)
        for label, reached in following:
            if reached not in came:
                if len(came) >= bounds.states:
                    return Result("", [], len(came), False)
                came[reached] = (label, system)
                frontier.append(reached)
    return Result("", [], len(came), True)


def steps(system: System, bounds: Bounds) -> Iterator[Step]:
    """Everything that can happen next. Violation when what can happen breaks an invariant."""
    for place in (0, 1):
        if not system.nodes[place].up:
            yield from _restart(system, place, bounds)
            continue
        yield from _crash(system, place, bounds)
        yield from _learn(system, place)
        if system.nodes[place].leads:
            yield from _lead(system, place, bounds)
        for message in system.messages:
            if message.source != place:
                yield from _deliver(system, place, message, bounds)
    yield from _suspect(system, bounds)


def _with(system: System, place: int, node: Node) -> System:
    nodes = (node, system.nodes[1]) if place == 0 else (system.nodes[0], node)
    return system._replace(nodes=nodes)


def _greatness(node: Node) -> tuple[int, int]:
    return (node.log[-1][0] if node.log else 0, len(node.log))


def _restart(system: System, place: int, bounds: Bounds) -> Iterator[Step]:
    node, other, label = system.nodes[place], 1 - place, f"restart {place}"
    removed = bounds.removed
    if removed is Removed.NEW_TERM_AT_RESTART:
        leads = system.primary == place
        back = node._replace(
            up=True,
            leads=leads,
            term=system.term if leads else node.term,
            required=other in system.isr,
            match=0,
            matched=system.incarnations[other],
            commit=0,
            joined=node.term,
        )
        yield label, _with(system, place, back)
        return
    if sum(system.incarnations) >= bounds.incarnations:
        return
    term, primary, isr = system.term, system.primary, system.isr
    if primary == place:
        if term >= bounds.terms:
            return
        elected = place
        if other in isr:
            elected = other
        elif node.lossy and not bounds.both and removed is not Removed.COMPARE_LOGS:
            if not system.nodes[other].up:
                return
            elected = place if _greatness(node) >= _greatness(system.nodes[other]) else other
        term, primary, isr = term + 1, elected, frozenset((elected,))
    elif removed is not Removed.INCARNATION:
        isr = isr - {place}
    incarnations = list(system.incarnations)
    incarnations[place] += 1
    unpromised = removed in (Removed.PROMISE_AT_REGISTRATION, Removed.TARGET_INCARNATION)
    back = node._replace(
        up=True,
        leads=False,
        required=False,
        match=0,
        matched=0,
        commit=0,
        incarnation=incarnations[place],
        joined=0,
        lossy=False,
        promised=node.promised if unpromised else max(node.promised, term),
    )
    registered = system._replace(incarnations=(incarnations[0], incarnations[1]), term=term, primary=primary, isr=isr)
    yield label, _with(registered, place, back)


def _crash(system: System, place: int, bounds: Bounds) -> Iterator[Step]:
    node = system.nodes[place]
    if system.kills < bounds.kills:
        yield f"kill {place}", _with(system, place, node._replace(up=False))._replace(kills=system.kills + 1)
    if system.os_crashes < bounds.os_crashes:
        lost = node._replace(up=False, log=node.log[: node.synced], lossy=True)
        yield f"OS crash {place}", _with(system, place, lost)._replace(os_crashes=system.os_crashes + 1)
    if node.synced < len(node.log):
        yield f"sync {place}", _with(system, place, node._replace(synced=len(node.log)))


def _learn(system: System, place: int) -> Iterator[Step]:
    node, other = system.nodes[place], 1 - place
    if system.primary != place or system.term <= node.term or node.incarnation != system.incarnations[place]:
        return
    missing = system.acked - {value for _, value in node.log}
    if missing:
        raise Violation(f"LC: node {place} leads term {system.term} without {sorted(missing)}")
    leads = node._replace(
        leads=True,
        term=system.term,
        promised=system.term,
        required=other in system.isr,
        match=0,
        matched=system.incarnations[other],
        joined=0,
        commit=0,
    )
    yield f"promote {place}", _with(system, place, leads)


def _lead(system: System, place: int, bounds: Bounds) -> Iterator[Step]:
    node = system.nodes[place]
    if system.values < bounds.values:
        written = node._replace(log=(*node.log, (node.term, system.values)))
        yield f"write {place}", _with(system, place, written)._replace(values=system.values + 1)
    index = node.match
    if index < len(node.log):
        before = node.log[index - 1] if index else None
        append = Append(node.term, place, index, before, node.log[index], node.matched)
        yield f"send {place}.{index}", system._replace(messages=system.messages | {append})
    if not node.required and system.syncs < bounds.syncs:
        full = FullSync(node.term, place, node.log, system.incarnations[1 - place])
        yield f"full sync {place}", system._replace(messages=system.messages | {full}, syncs=system.syncs + 1)
    yield from _commit(system, place, bounds)
    yield from _shrink(system, place, bounds)
    yield from _expand(system, place, bounds)


def _commit(system: System, place: int, bounds: Bounds) -> Iterator[Step]:
    node = system.nodes[place]
    must_sync = bounds.both or (not node.required and bounds.removed is not Removed.SOLO_SYNCS)
    commit = node.synced if must_sync else len(node.log)
    if node.required:
        commit = min(commit, node.match)
    if commit <= node.commit:
        return
    values = tuple(value for _, value in node.log[:commit])
    for index, (old, new) in enumerate(zip(system.history, values, strict=False)):
        if old != new:
            raise Violation(f"AG: index {index} was committed as {old} and is {new} at node {place}, term {node.term}")
    history = values if len(values) > len(system.history) else system.history
    told = _with(system, place, node._replace(commit=commit))
    yield f"commit {place} to {commit}", told._replace(acked=system.acked | set(values), history=history)


def _shrink(system: System, place: int, bounds: Bounds) -> Iterator[Step]:
    node = system.nodes[place]
    if not node.required or system.changes >= bounds.changes:
        return
    changes = system.changes + 1
    if bounds.removed is Removed.SHRINK_RECORDED_FIRST:
        yield f"local shrink {place}", _with(system, place, node._replace(required=False))._replace(changes=changes)
        return
    synced = node if bounds.removed is Removed.SYNC_AT_SHRINK else node._replace(synced=len(node.log))
    if system.term == node.term and system.primary == place:
        recorded = system._replace(isr=frozenset((place,)), changes=changes)
        yield f"shrink {place}", _with(recorded, place, synced._replace(required=False))
        yield f"shrink {place}, answer lost", _with(recorded, place, synced)
    elif bounds.removed is Removed.OBEY_REFUSAL:
        ignored = _with(system, place, synced._replace(required=False))
        yield f"shrink {place}, refusal ignored", ignored._replace(changes=changes)


def _expand(system: System, place: int, bounds: Bounds) -> Iterator[Step]:
    node, other = system.nodes[place], 1 - place
    peer = system.nodes[other]
    mine = system.term == node.term and system.primary == place
    both = frozenset((0, 1))
    caught_up = node.match == len(node.log) and node.matched == peer.incarnation and peer.joined == node.term
    if not node.required and caught_up and system.changes < bounds.changes:
        if bounds.removed is not Removed.REQUIRE_BEFORE_ADD:
            required = _with(system, place, node._replace(required=True))
            yield f"require {place}", required._replace(changes=system.changes + 1)
        elif mine:
            yield f"add {place}", system._replace(isr=both, changes=system.changes + 1)
    present = node.matched == system.incarnations[other] or bounds.removed is Removed.INCARNATION
    if node.required and mine and other not in system.isr and present and node.match >= node.commit:
        yield f"add {place}", system._replace(isr=both)


def _deliver(system: System, place: int, message: Message, bounds: Bounds) -> Iterator[Step]:
    node = system.nodes[place]
    if isinstance(message, Ack):
        yield from _take_ack(system, place, message, bounds)
        return
    any_target = bounds.removed in (Removed.INCARNATION, Removed.TARGET_INCARNATION)
    if message.target != node.incarnation and not any_target:
        return
    if isinstance(message, FullSync):
        if message.term < node.promised or node.joined >= message.term:
            return
        if node.leads and message.term <= node.term:
            return
        filled = node._replace(
            log=message.log,
            synced=len(message.log),
            promised=message.term,
            term=message.term,
            leads=False,
            joined=message.term,
            required=False,
            match=0,
            commit=0,
        )
        yield f"take full sync {place}", _acknowledge(system, place, filled, message.term, len(message.log))
        return
    yield from _take_append(system, place, message, bounds)


def _take_append(system: System, place: int, message: Append, bounds: Bounds) -> Iterator[Step]:
    node, removed, index = system.nodes[place], bounds.removed, message.at
    if message.term < node.promised and removed is not Removed.FENCE:
        return
    if node.joined != message.term and removed not in (Removed.CUT_SUFFIX, Removed.FENCE):
        return
    if (node.leads and message.term <= node.term) or index > len(node.log):
        return
    if index and node.log[index - 1] != message.before and removed is not Removed.CUT_SUFFIX:
        return
    if index < len(node.log) and (node.log[index] == message.entry or removed is Removed.CUT_SUFFIX):
        log = node.log
    else:
        log = (*node.log[:index], message.entry)
    taken = node._replace(
        log=log,
        synced=len(log) if bounds.both else min(node.synced, len(log)),
        promised=max(message.term, node.promised),
        term=max(message.term, node.term),
        leads=False,
        joined=message.term if removed is Removed.CUT_SUFFIX else node.joined,
    )
    yield f"append {place}.{index}", _acknowledge(system, place, taken, message.term, index + 1)


def _acknowledge(system: System, place: int, node: Node, term: int, length: int) -> System:
    ack = Ack(term, place, length, node.incarnation)
    return _with(system, place, node)._replace(messages=system.messages | {ack})


def _take_ack(system: System, place: int, message: Ack, bounds: Bounds) -> Iterator[Step]:
    node = system.nodes[place]
    if not node.leads or message.term != node.term:
        return
    if message.incarnation == node.matched or bounds.removed is Removed.INCARNATION:
        if message.length > node.match:
            yield f"ack {place}", _with(system, place, node._replace(match=message.length))
    elif message.incarnation > node.matched and not node.required:
        anew = node._replace(match=message.length, matched=message.incarnation)
        yield f"ack of a new incarnation {place}", _with(system, place, anew)


def _suspect(system: System, bounds: Bounds) -> Iterator[Step]:
    """The coordinator takes the primary for dead, rightly or not."""
    other = 1 - system.primary
    if system.term < bounds.terms and (other in system.isr or bounds.removed is Removed.PROMOTE_FROM_ISR):
        yield f"fail over to {other}", system._replace(term=system.term + 1, primary=other, isr=frozenset((other,)))
