"""What the parts of a node share: its copy of the log, and what is to leave. Pure."""

from exchange import messages as m
from exchange.wire import encode
from shard.core.replica import Replica
from shard.core.terms import Terms


class Copy:
    """This node's copy of the log, and the session that keeps it.

    Up to `synced_seq` it is durable; `replica.position` says where it ends; the records behind `oldest_seq` are there.
    `questions` = how many this process has asked the store, in all terms: the number of the last one.
    """

    def __init__(self, replica: Replica, node: str, terms: Terms, oldest_seq: int) -> None:
        """What recovery brought back is durable."""
        self.replica = replica
        self.node = node
        self.incarnation = 0
        self.terms = terms
        self.oldest_seq = oldest_seq
        self.synced_seq = replica.position.seq
        self.questions = 0

    @property
    def seq(self) -> int:
        """Where it ends."""
        return self.replica.position.seq


class Post:
    """What is to leave, until the shell fetches it. `now_ns` = monotonic time of the newest cue."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.to_standby: list[tuple[bytes, bytes, bytes]] = []
        self.to_primary: list[tuple[bytes, bytes]] = []
        self.control: list[bytes] = []
        self.notes: list[str] = []

    def reply(self, peer: bytes, message: m.ReplicaMessage) -> None:
        """Answer whoever `peer` is: a standby at the Router, or with b"" the primary at the Dealer's other end."""
        if peer:
            self.to_standby.append((peer, encode(message), b""))
        else:
            self.to_primary.append((encode(message), b""))
