"""When a node that stands before a record which it cannot run may go on (rule R14). Pure."""

from enum import Enum

from exchange import messages as m
from shard.core.poison import DEATHS_MAX


class Release(Enum):
    """SKIP: the command is left out from now on. REJOIN: another node leads, whose log counts, not what is here."""

    SKIP = "skip"
    REJOIN = "rejoin"


def release(view: m.ShardView, *, node: str, seq: int, deaths: int) -> Release | None:
    """What a view allows to `node`, which died of the command `seq` so often; None = to wait.

    REJOIN means that the record and all behind it are cut. That is safe as soon as a view shows another primary and an
    in-sync set without this node: whatever was ever acknowledged is in the logs of that set (R2), and nobody gets into
    it but by joining. If the primary has the same record, and it ends this process again, the count ends the matter.
    """
    if seq in view.skip:
        return Release.SKIP
    led_by_another = view.primary.incarnation > 0 and view.primary.node != node
    in_sync = any(member.node == node for member in view.isr)
    if led_by_another and not in_sync and deaths < DEATHS_MAX:
        return Release.REJOIN
    return None
