"""One shard's group of nodes: who leads which term, who is in sync, and every permitted change of that. Pure functions.

A change takes a record and gives the next one, or raises Denied with a sentence. Laws (rules of docs/PROTOCOL.md):

    R2  Every member of the in-sync set has every committed record of the present term and of all before it.
    R3  The set shrinks only here, on the word of the primary of the present term, or because a session has ended.
    R4  A member is added on the word of the primary of the present term, for its present incarnation only.
    R5  A new primary comes from the set. Only an operator may break this, and then `unclean` says so for ever.
    R8  A new session of a node ends its old one: that is removed from the set, unless nobody else is in it.
    The set is never empty once somebody led, the primary is always in it, and terms only grow.
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

Session = tuple[str, int]
"""(node, incarnation): one uptime of one node."""

NOBODY: Session = ("", 0)


class Denied(Exception):
    """The change is not permitted; the record stays as it is."""


class Node(Struct, frozen=True, array_like=True):
    """A node as it registered last. `session_uuid` is new with every process, `journal_uuid` with every journal."""

    incarnation: int
    journal_uuid: str
    session_uuid: str
    pid: int
    endpoints: dict[str, str]


class Group(Struct, frozen=True, array_like=True):
    """Metadata of one shard. `served_epoch` = the newest term whose primary said that it was ready."""

    epoch: int = 0
    primary: Session = NOBODY
    isr: tuple[Session, ...] = ()
    served_epoch: int = 0
    unclean: bool = False
    nodes: dict[str, Node] = {}

    def current(self, node: str) -> Session:
        """The node's present session; NOBODY when it never registered."""
        known = self.nodes.get(node)
        return (node, known.incarnation) if known else NOBODY


Alive = Callable[[Session], bool]


def check(group: Group) -> None:
    """The laws that can be seen in one record. AssertionError = our own defect."""
    assert bool(group.epoch) == bool(group.isr), "somebody leads exactly when the set is not empty"
    assert not group.isr or group.primary in group.isr, "the primary is in the set"
    assert len({node: None for node, _ in group.isr}) == len(group.isr), "one session a node"


def register(group: Group, name: str, node: Node, alive: Alive) -> Group:
    """A new session of a node begins (R8). The caller has checked journal and promise with `refusal`.

    When the old session was in the set and nobody else of the set is alive, the new one leads the next term: whatever
    was acknowledged is in its journal, and the old primary, should it live, can no longer commit without it.
    """
    old = group.current(name)
    session = (name, node.incarnation)
    group = replace(group, nodes={**group.nodes, name: node})
    others = tuple(member for member in group.isr if member != old)
    living = [member for member in others if group.current(member[0]) == member and alive(member)]
    if not group.isr or (old in group.isr and not living):
        group = replace(group, epoch=group.epoch + 1, primary=session, isr=(session,))
    elif group.primary == old:
        group = promote(replace(group, isr=others, primary=living[0]), living[0])
    else:
        group = replace(group, isr=others)
    check(group)
    return group


def refusal(group: Group, shard: str, name: str, *, journal_uuid: str, promised_epoch: int) -> str:
    """Why a journal may not come back as this node's; empty when it may.

    A node that others can replace may come with any journal: it will be filled from the primary. The last one in the
    set holds the only copy of what was acknowledged, so it must be that copy.
    """
    known = group.nodes.get(name)
    if promised_epoch > group.epoch:
        return (
            f"METADATA_BEHIND: {name!r} of shard {shard!r} has promised epoch {promised_epoch}, the control store knows "
            f"only {group.epoch}: the store went back in time; restore its newest copy"
        )
    if known is None or group.isr != (group.current(name),):
        return ""
    if known.journal_uuid != journal_uuid:
        return (
            f"{name!r} of shard {shard!r}: its journal has uuid {journal_uuid}, the shard's only copy is "
            f"{known.journal_uuid}: the data directory was swapped; put the right one back"
        )
    if promised_epoch < group.served_epoch:
        return (
            f"JOURNAL_BEHIND: {name!r} of shard {shard!r} has served epoch {group.served_epoch}, its journal knows only "
            f"{promised_epoch}: the data directory went back in time; restore its newest copy"
        )
    return ""


def change_isr(group: Group, *, epoch: int, asker: Session, isr: tuple[Session, ...]) -> Group:
    """The primary of the present term asks for another set (R3, R4). The set it has already is no change."""
    if epoch != group.epoch or asker != group.primary:
        raise Denied(f"{asker[0]} leads no term {epoch}: term {group.epoch} is led by {group.primary[0]}")
    if asker not in isr:
        raise Denied(f"{asker[0]} cannot leave the set that it leads")
    for member in isr:
        if group.current(member[0]) != member:
            raise Denied(f"incarnation {member[1]} of {member[0]} is over")
    if frozen(isr) == frozen(group.isr):
        return group
    changed = replace(group, isr=frozen(isr))
    check(changed)
    return changed


def fail_over(group: Group, alive: Alive) -> Group:
    """The primary is gone: the first member of the set that is alive leads the next term (R5)."""
    for member in group.isr:
        if member != group.primary and group.current(member[0]) == member and alive(member):
            return promote(group, member)
    raise Denied(f"nobody else in the in-sync set is alive: {', '.join(node for node, _ in group.isr)}")


def promote(group: Group, member: Session) -> Group:
    """`member` of the set leads the next term, alone until others have joined it."""
    if member not in group.isr or group.current(member[0]) != member:
        raise Denied(f"{member[0]} is not in the in-sync set")
    changed = replace(group, epoch=group.epoch + 1, primary=member, isr=(member,))
    check(changed)
    return changed


def elect(group: Group, name: str, *, accept_loss: bool) -> Group:
    """An operator's choice. Outside the set only with `accept_loss`; the record is marked unclean then."""
    member = group.current(name)
    if member == NOBODY:
        raise Denied(f"{name} has never registered")
    if member in group.isr:
        return promote(group, member)
    if not accept_loss:
        raise Denied(f"{name} is not in the in-sync set: acknowledged orders may be lost; say --accept-loss to do it")
    changed = replace(group, epoch=group.epoch + 1, primary=member, isr=(member,), unclean=True)
    check(changed)
    return changed


def frozen(isr: tuple[Session, ...]) -> tuple[Session, ...]:
    """A set of sessions in its one form."""
    return tuple(sorted(dict.fromkeys(isr)))
