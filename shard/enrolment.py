"""What a node says of itself when it registers, and which answers to that can be true."""

import os
import uuid
from collections.abc import Mapping

from msgspec.structs import asdict

from exchange import messages as m
from exchange.config import Config
from exchange.wire import PROTOCOL_VERSION
from shard.core.node import EPOCH_MAX
from shard.node_state import NodeState, boot_id

INCARNATION_MAX = 1 << 62


class Enrolment:
    """One process of one node; its `session` is new with each."""

    def __init__(self, config: Config, shard: str, name: str, state: NodeState, *, poisoned_seq: int = 0) -> None:
        """`state` as the process found it."""
        self.session = uuid.uuid4().hex
        self.endpoints: Mapping[str, str] = {
            what: config.endpoint(f"{what}.{name}") for what in ("orders", "events", "replica")
        }
        settings = {"protocol": PROTOCOL_VERSION, "durability": config.replication.durability}
        self._must_equal = {name: str(value) for name, value in (settings | asdict(config.engine_config())).items()}
        self._shard = shard
        self._name = name
        self._poisoned_seq = poisoned_seq
        # After a failed write or sync the tail behind suspect_seq is given up, as after a crash of the machine.
        other_boot = state.boot_id not in ("", boot_id()) and state.clean_seq < 0
        self._lossy = other_boot or state.suspect_seq >= 0

    def message(self, state: NodeState, *, last_epoch: int, last_seq: int) -> m.Register:
        """What to register with, now that the journal ends there."""
        return m.Register(
            role="shard",
            name=self._name,
            pid=os.getpid(),
            uuid=state.journal_uuid,
            last_seq=last_seq,
            promised_epoch=state.promised_epoch,
            endpoints=dict(self.endpoints),
            shard=self._shard,
            session=self.session,
            last_epoch=last_epoch,
            boot_id=boot_id(),
            lossy=self._lossy,
            view_ver=state.view_ver,
            poisoned_seq=self._poisoned_seq,
            must_equal=self._must_equal,
        )


def doubt(registered: m.Registered, promised: int) -> str:
    """Why the coordinator's word on a process that has promised so much cannot be true; empty when it can."""
    epoch, incarnation = registered.epoch, registered.incarnation
    if not (0 <= epoch <= EPOCH_MAX and 0 < incarnation <= INCARNATION_MAX):
        return f"the coordinator registers incarnation {incarnation} in term {epoch}"
    if epoch < promised:
        return f"the coordinator is behind: it offers term {epoch}, term {promised} is promised"
    return ""
