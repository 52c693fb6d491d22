"""One shard's group of nodes: who leads which term, who is in sync, and every permitted change of that. Pure functions.

A change takes a record and gives the next one, or raises Denied with a sentence. Laws (rules of docs/PROTOCOL.md):

    R2  Every member of the in-sync set has every committed record of the present term and of all before it.
    R3  The set shrinks only here, on the word of the primary of the present term, or because a session has ended.
    R4  A member is added on the word of the primary of the present term, for its present incarnation only.
        What a primary asks for names the version that it wants to change: once refused, or once the record has moved
        on, no late copy of the request can be granted. Primaries rely on that.
    R5  A new primary comes from the set. Only an operator may break this, and then `unclean` says so for ever.
    R8  A new session of a node ends its old one: that is removed from the set, unless nobody else of it is alive. Then
        the new session leads the next term, for its journal has whatever was acknowledged.
        In the mode `replicated` that is not so when the machine crashed (`lossy`): others of the set come first, and an
        only member is *weighed*: nobody leads until both logs are known, for the other node may have what was not yet
        synced here; the greater leads, and `unclean` says that something may be missing.
    R14 A node that cannot run a command of its log neither leads nor follows. If it would have to lead, nobody does:
        the group is frozen at that command, until an operator has it left out, or a member that can run it comes back.
        Only then is anything left out, so that no member of the set has ever run what the others skip.
    The set is never empty once somebody led, the primary is in it, and terms only grow.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from coordinator.core.rules import ALL, Rules

Session = tuple[str, int]
"""(node, incarnation): one uptime of one node."""

NOBODY: Session = ("", 0)
SKIPS_MAX = 256
"""Commands of one shard that operators may have left out."""

Log = tuple[int, int]
"""(term of the last record, last seq): of two logs the greater one has every acknowledged record of the other."""


class Denied(Exception):
    """The change is not permitted; the record stays as it is."""


class Node(Struct, frozen=True, array_like=True):
    """A node as it registered last. `session_uuid` is new with every process, `journal_uuid` with every journal.

    `poisoned_seq` = the command that it cannot run, 0 = none. `must_equal` = settings that other nodes must have alike.
    """

    incarnation: int
    journal_uuid: str
    session_uuid: str
    pid: int
    endpoints: dict[str, str]
    poisoned_seq: int = 0
    must_equal: dict[str, str] = {}


class Skipped(Struct, frozen=True, array_like=True):
    """A command that is left out, who wanted that, and why."""

    seq: int
    actor: str
    why: str


class Group(Struct, frozen=True, array_like=True):
    """Metadata of one shard. `served_epoch` = the newest term whose primary said that it was ready.

    `weighing` = nobody leads (`primary` is NOBODY) until logs were compared. `failovers_ns` = when it lately changed
    hands without an operator, by the machine's monotonic clock; `flapping` = too often, only an operator moves it now.
    `frozen_seq` = nobody leads, for who would have to died of this command; 0 = not so. `skip` in ascending order.
    """

    epoch: int = 0
    primary: Session = NOBODY
    isr: tuple[Session, ...] = ()
    served_epoch: int = 0
    unclean: bool = False
    nodes: dict[str, Node] = {}
    weighing: bool = False
    failovers_ns: tuple[int, ...] = ()
    flapping: bool = False
    frozen_seq: int = 0
    skip: tuple[Skipped, ...] = ()

    def current(self, node: str) -> Session:
        """The node's present session; NOBODY when it never registered."""
        known = self.nodes.get(node)
        return (node, known.incarnation) if known else NOBODY

    def can_run(self, session: Session) -> bool:
        """The session is its node's present one, and can run everything that its log holds."""
        return self.current(session[0]) == session != NOBODY and not self.nodes[session[0]].poisoned_seq


Alive = Callable[[Session], bool]


def check(group: Group) -> None:
    """The laws that can be seen in one record. AssertionError = our own defect."""
    assert bool(group.epoch) == bool(group.isr), "somebody leads exactly when the set is not empty"
    leaderless = group.weighing or group.frozen_seq > 0
    assert leaderless or not group.isr or group.primary in group.isr, "the primary is in the set"
    assert not leaderless or group.primary == NOBODY, "nobody leads while logs are compared, or past a poison command"
    assert len({node: None for node, _ in group.isr}) == len(group.isr), "one session a node"


def would_lead(group: Group, name: str, alive: Alive) -> bool:
    """A new session of this node would have to lead: its old one is in the set and nobody else of it is alive."""
    return not group.isr or (group.current(name) in group.isr and not _living(group, name, alive))


def register(
    group: Group, name: str, node: Node, alive: Alive, *, lossy: bool = False, relaxed: bool = False, rules: Rules = ALL
) -> Group:
    """A new session of a node begins (R8). The caller has checked journal and promise with `refusal`.

    `relaxed` = the mode `replicated`; `lossy` = as in Register.
    """
    leads, living, old = would_lead(group, name, alive), _living(group, name, alive), group.current(name)
    was_primary, was_member = group.primary == old != NOBODY, old in group.isr
    session = (name, node.incarnation)
    others = tuple(member for member in group.isr if member != old)
    group = replace(group, nodes={**group.nodes, name: node})
    if was_primary and was_member and not rules.session_starts_term:
        return replace(group, primary=session, isr=frozen((session, *others)))
    if was_member and not was_primary and not rules.session_ends_membership:
        return replace(group, isr=frozen((session, *others)))
    lossy = lossy and relaxed and rules.weigh_lossy
    if not leads:
        changed = replace(group, isr=others)
        changed = _lead(changed, living[0]) if was_primary else changed
    elif node.poisoned_seq:
        changed = _freeze(group, frozen((session, *others))) if was_member else group
    elif group.weighing or (lossy and not others and len(group.nodes) > 1):
        changed = replace(group, primary=NOBODY, isr=(session,), weighing=True)
    elif lossy and others:
        changed = _lead(group, others[0]) if was_primary else replace(group, isr=others)
    else:
        changed = _lead(group, session)
    check(changed)
    return changed


def refusal(
    group: Group, shard: str, name: str, *, journal_uuid: str, promised_epoch: int, alive: Alive = lambda _: False
) -> str:
    """Why a journal may not come back as this node's; empty when it may.

    A node that a living member of the set can fill may come with any journal. Else its journal may be the only copy
    within reach of what was acknowledged, so it must be that copy.
    """
    known = group.nodes.get(name)
    if promised_epoch > group.epoch:
        return (
            f"METADATA_BEHIND: {name!r} of shard {shard!r} has promised epoch {promised_epoch}, the control store "
            f"knows only {group.epoch}: the store went back in time; restore its newest copy"
        )
    if known is None or name not in [node for node, _ in group.isr] or _living(group, name, alive):
        return ""
    if known.journal_uuid != journal_uuid:
        return (
            f"{name!r} of shard {shard!r}: its journal has uuid {journal_uuid}, the shard's only copy is "
            f"{known.journal_uuid}: the data directory was swapped; put the right one back"
        )
    if promised_epoch < group.served_epoch:
        return (
            f"JOURNAL_BEHIND: {name!r} of shard {shard!r} has served epoch {group.served_epoch}, its journal knows "
            f"only {promised_epoch}: the data directory went back in time; restore its newest copy"
        )
    return ""


def change_isr(
    group: Group,
    *,
    ver: int,
    asked_ver: int,
    epoch: int,
    asker: Session,
    isr: tuple[Session, ...],
    rules: Rules = ALL,
) -> Group:
    """The primary of the present term asks for another set (R3, R4). The set it has already is no change.

    `ver` = the record's version in the store, `asked_ver` = the one that the request names.
    """
    if epoch != group.epoch or asker != group.primary or asker == NOBODY:
        raise Denied(f"{asker[0]} leads no term {epoch}: term {group.epoch} is led by {group.primary[0] or 'nobody'}")
    if frozen(isr) == frozen(group.isr):
        return group
    if asked_ver != ver and rules.ask_names_ver:
        raise Denied(f"{asker[0]} asks for a change of version {asked_ver}, the record stands at {ver}")
    if asker not in isr:
        raise Denied(f"{asker[0]} cannot leave the set that it leads")
    for member in isr:
        if member == NOBODY or group.current(member[0]) != member:
            raise Denied(f"incarnation {member[1]} of {member[0] or 'nobody'} is over")
    changed = replace(group, isr=frozen(isr))
    check(changed)
    return changed


def fail_over(group: Group, alive: Alive, *, rules: Rules = ALL) -> Group:
    """The primary is gone: the first member of the set that is alive leads the next term (R5)."""
    electable = group.isr if rules.promote_from_set else tuple(map(group.current, group.nodes))
    for member in electable:
        if member != group.primary and group.can_run(member) and alive(member):
            return _lead(group, member)
    raise Denied(f"nobody else in the in-sync set is alive: {', '.join(node for node, _ in group.isr)}")


def promote(group: Group, member: Session) -> Group:
    """`member` of the set leads the next term, alone until others have joined it."""
    if member not in group.isr or not group.can_run(member):
        raise Denied(f"{member[0]} is not in the in-sync set")
    return _lead(group, member)


def weigh(group: Group, logs: Mapping[Session, Log]) -> Group:
    """Compare logs (R8). `logs`: of present sessions, named by nodes that know this very record: they grow no more.

    Unchanged while the log of a known node is missing.
    """
    sessions = [group.current(name) for name in sorted(group.nodes)]
    if not group.weighing or any(session not in logs for session in sessions):
        return group
    best = max(sessions, key=lambda session: (logs[session], session in group.isr))
    if not group.can_run(best):
        return replace(_freeze(group, (best,)), unclean=True)
    return replace(_lead(group, best), unclean=True)


def skip(group: Group, seq: int, *, actor: str, why: str) -> Group:
    """An operator has a command left out, for ever. Only of a frozen group, and only the one that froze it."""
    if seq in [known.seq for known in group.skip]:
        raise Denied(f"seq {seq} is left out already")
    if not group.frozen_seq:
        raise Denied("it is not frozen: nothing may be left out that a node may have run")
    if seq != group.frozen_seq:
        raise Denied(f"it is frozen at seq {group.frozen_seq}, not at {seq}")
    if len(group.skip) >= SKIPS_MAX:
        raise Denied(f"{len(group.skip)} commands are left out already, at most {SKIPS_MAX}")
    listed = sorted((*group.skip, Skipped(seq, actor, why)), key=lambda skipped: skipped.seq)
    return replace(group, skip=tuple(listed))


def elect(group: Group, name: str, *, accept_loss: bool) -> Group:
    """An operator's choice. Outside the set only with `accept_loss`; the record is marked unclean then."""
    member = group.current(name)
    if member == NOBODY:
        raise Denied(f"{name} has never registered")
    if not group.can_run(member):
        raise Denied(f"{name} cannot run seq {group.nodes[name].poisoned_seq} of its log")
    if member in group.isr and not group.weighing:
        return promote(group, member)
    if not accept_loss:
        why = "the logs were not compared" if group.weighing else f"{name} is not in the in-sync set"
        raise Denied(f"{why}: acknowledged orders may be lost; say --accept-loss to do it")
    return replace(_lead(group, member), unclean=True)


def frozen(isr: tuple[Session, ...]) -> tuple[Session, ...]:
    """A set of sessions in its one form."""
    return tuple(sorted(dict.fromkeys(isr)))


def _living(group: Group, name: str, alive: Alive) -> list[Session]:
    """Members of the set on other nodes whose session has not ended, and that could lead."""
    return [member for member in group.isr if member[0] != name and group.can_run(member) and alive(member)]


def _lead(group: Group, member: Session) -> Group:
    changed = replace(group, epoch=group.epoch + 1, primary=member, isr=(member,), weighing=False, frozen_seq=0)
    check(changed)
    return changed


def _freeze(group: Group, isr: tuple[Session, ...]) -> Group:
    """Nobody leads: who would have to cannot run a command. Of several the last one counts: it has the longer log."""
    seqs = [group.nodes[node].poisoned_seq for node, incarnation in isr if group.current(node) == (node, incarnation)]
    changed = replace(group, primary=NOBODY, isr=isr, weighing=False, frozen_seq=max(seqs))
    check(changed)
    return changed
