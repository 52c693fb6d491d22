"""A control store that was lost is begun anew from what the nodes of a stopped cluster have (`shardex rebuild-store`).

For each shard the node with the greatest log is recorded as the only one in sync. A member of the in-sync set has every
acknowledged record, and a log is greater by its last term first, so of all nodes' logs the greatest has them too; that
is why every node must be readable, or somebody must accept a loss. The others join it as after any restart. The record
is UNCLEAN for ever: who was in sync is not known any more.
"""

from pathlib import Path

from msgspec import Struct

from coordinator.core import records
from coordinator.core.group import Group, Node, Session, Skipped
from coordinator.store.base import Entry
from coordinator.store.sqlite import begin_store
from exchange.config import Config
from exchange.errors import JournalError, ShardexError
from shard.node_state import NodeState, load_state
from shardex import journal, launcher, supervision
from shardex.journal import State
from shardex.progress import bytes_bar

CONTROL = "control"
NEVER = "there is no node that ever took part"
INCARNATIONS_LOST_MAX = 1_000
"""So many sessions may have begun without any node having written it down; no number is given twice."""


class RebuildError(ShardexError):
    """The store cannot be begun from what is there."""


class Found(Struct, frozen=True):
    """One node's directory. `trouble` = why its log cannot be counted on; empty when it can."""

    node: str
    state: NodeState | None
    last_epoch: int
    last_seq: int
    trouble: str

    @property
    def session(self) -> Session:
        """Its last one."""
        return (self.node, self.state.incarnation if self.state is not None else 0)


class Rebuilt(Struct, frozen=True):
    """What is recorded of one shard: `node` leads next, from the log that ends at `seq` of `epoch`."""

    shard: str
    node: str
    epoch: int
    seq: int


def rebuild(data: Path, *, accept_loss: bool) -> list[Rebuilt]:
    """Write the store. RebuildError, having changed nothing, when the cluster runs or a node's log cannot be read;
    ConfigError when there is a store."""
    config = launcher.read_config(data.resolve())
    if supervision.cluster_processes(config.data):
        raise RebuildError(f"the cluster of {config.data} runs: stop all of it first, `shardex down`")
    names = list(dict.fromkeys(shard for shard, _ in config.nodes()))
    found = {shard: [_look(config, node) for of, node in config.nodes() if of == shard] for shard in names}
    groups = {shard: group for shard in names if (group := _group(shard, found[shard], accept_loss=accept_loss))}
    entries = {
        f"{records.SHARD_PREFIX}{shard}": Entry(records.encode(group), 1 + _view_ver(found[shard]))
        for shard, group in groups.items()
    }
    known = [one.session[1] for of_shard in found.values() for one in of_shard]
    incarnation = max(known, default=0) + INCARNATIONS_LOST_MAX
    entries[records.INCARNATION_KEY] = Entry(records.encode(incarnation), 1)
    begin_store(config.data / CONTROL, entries)
    rebuilt = []
    for shard, group in groups.items():
        node = group.primary[0]
        seq = next(one.last_seq for one in found[shard] if one.node == node)
        rebuilt.append(Rebuilt(shard, node, group.epoch, seq))
    return rebuilt


def _look(config: Config, node: str) -> Found:
    directory = config.node_directory(node)
    try:
        state = load_state(directory)
    except JournalError as fault:
        return Found(node, None, 0, 0, str(fault))
    if state is None or not state.incarnation:
        return Found(node, None, 0, 0, NEVER)
    if state.rebuilding or not journal.has_journal(directory):
        return Found(node, state, 0, 0, "its journal is being replaced, or is gone")
    with bytes_bar(f"reading {node}") as advance:
        verdict = journal.verify(directory, advance)
    if verdict.state not in (State.OK, State.TORN):
        return Found(node, state, 0, 0, verdict.detail)
    if 0 <= state.suspect_seq < verdict.last_seq:
        return Found(node, state, 0, 0, f"a write failed behind seq {state.suspect_seq}, what follows is in doubt")
    return Found(node, state, verdict.epoch, verdict.last_seq, "")


def _group(shard: str, found: list[Found], *, accept_loss: bool) -> Group | None:
    """What is to be recorded; None of a shard of which nothing is there, which begins as a new one does."""
    states = {one.node: one.state for one in found if one.state is not None}
    if all(one.trouble == NEVER for one in found):
        return None
    troubled = [one for one in found if one.trouble]
    if troubled and not accept_loss:
        told = "; ".join(f"{one.node}: {one.trouble}" for one in troubled)
        raise RebuildError(
            f"shard {shard}: {told}. Acknowledged orders may be only there; --accept-loss goes on without"
        )
    sound = [one for one in found if not one.trouble]
    if not sound:
        raise RebuildError(f"shard {shard}: no node has a journal that can be read")
    best = max(reversed(sound), key=lambda one: (one.last_epoch, one.last_seq))
    assert best.state is not None, "a sound node has a state"
    epoch = max([best.last_epoch, *(state.promised_epoch for state in states.values())])
    skip = sorted({seq: None for state in states.values() for seq in state.skip})
    return Group(
        epoch=epoch,
        primary=best.session,
        isr=(best.session,),
        served_epoch=best.state.promised_epoch,
        unclean=True,
        nodes={node: Node(state.incarnation, state.journal_uuid, "", 0, {}) for node, state in states.items()},
        skip=tuple(Skipped(seq, "unknown", "told by its nodes when the store was lost") for seq in skip),
    )


def _view_ver(found: list[Found]) -> int:
    """Newest version of the shard's record that any node has seen."""
    return max(one.state.view_ver for one in found if one.state is not None)
