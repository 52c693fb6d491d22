"""What a standby does: join the primary's log, take its records, acknowledge them. Pure."""

from typing import NamedTuple

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.wire import encode
from shard.core.copy import Copy, Post
from shard.core.intake import Intake
from shard.core.rules import Rules

JOIN_RETRY_NS = 100 * NS_PER_MS
LINK_SILENCE_NS = 1_000 * NS_PER_MS
"""A primary that was not heard for so long may have forgotten this standby: it joins again."""


class Cut(NamedTuple):
    """The journal behind `seq` is another history: archive it, cut it, and start the process again (R9).

    `snapshot` = the primary no longer has what is needed: archive everything and take its snapshot first.
    """

    seq: int
    snapshot: bool


class Following:
    """`view` = the metadata that names whom to follow; None = nobody. `cut` stays once it is there: the process ends.

    Once joined to the primary of a term the journal is a prefix of the primary's for as long as that term and both
    incarnations last, so every acknowledgement is a fact that stays true.
    """

    def __init__(self, copy: Copy, post: Post, *, relaxed: bool, rules: Rules) -> None:
        self.view: m.ShardView | None = None
        self.cut: Cut | None = None
        self.heard_ns = 0
        self.diverged = ""
        self._copy = copy
        self._post = post
        self._relaxed = relaxed
        self._rules = rules
        self.intake = Intake(copy.replica.position)
        self._join_ns: int | None = None
        self._committed_seq = 0
        self._owes = False

    @property
    def durable_seq(self) -> int:
        """Up to where this copy counts: in the mode `replicated` as soon as it is written."""
        return self._copy.seq if self._relaxed or not self._rules.sync_before_ack else self._copy.synced_seq

    def leave(self) -> None:
        """Follow nobody; what was received and not written is forgotten."""
        self.view = None
        self.intake.reset(self._copy.replica.position)

    def on_view(self, view: m.ShardView) -> None:
        """Another node leads."""
        before, self.view = self.view, view
        if before is None or (before.epoch, before.primary) != (view.epoch, view.primary):
            self.intake.reset(self._copy.replica.position)
            self._join_ns = None
            self._join()

    def on_tick(self) -> None:
        """Time passes."""
        if self.intake.joined and self._post.now_ns - self.heard_ns > LINK_SILENCE_NS:
            self.intake.reset(self._copy.replica.position)
        if not self.intake.joined:
            self._join()

    def obeys(self, message: m.JoinAt | m.Append | m.SnapshotPart | m.Diverged, promise: int) -> bool:
        """R1: only the leader of the promised term is obeyed."""
        if not self._rules.fence:
            return True
        view = self.view
        if view is None or not message.epoch == view.epoch == promise:
            return False
        return message.sender == view.primary.incarnation or not self._rules.name_target

    def on_join_at(self, message: m.JoinAt) -> None:
        """Where the two journals part."""
        seq = self._copy.seq
        if self.intake.joined or message.last_seq != seq or self.view is None:
            return  # joined already, or an answer to an old question
        self.heard_ns = self._post.now_ns
        if message.snapshot or message.cut_seq < seq:
            self.cut = Cut(message.cut_seq, message.snapshot)
        elif message.cut_seq == seq:
            self.intake.leader = (message.epoch, message.sender)
            self._owes = True

    def on_append(self, message: m.Append, records: bytes) -> None:
        """Records, or a heartbeat."""
        if not self.intake.joined and self._rules.fence:
            return
        self.heard_ns = self._post.now_ns
        self.intake.leader = (message.epoch, message.sender)
        self._owes = True
        if message.prev_seq > self.intake.tail.seq:
            self._join()  # something was lost on the way: have it sent again
            return
        try:
            self.intake.take(records)
        except ValueError as fault:
            self._post.notes.append(f"records of the primary do not follow: {fault}")
            return
        self._committed_seq = max(self._committed_seq, message.commit_seq)

    def on_executed(self) -> None:
        """Records were written and executed: they are to be acknowledged when they count."""
        self._owes = True

    def ready(self) -> None:
        """Let go what the primary said is committed and this journal has; joined, so it is the same. Acknowledge."""
        copy, position = self._copy, self._copy.replica.position
        committed_seq = min(self._committed_seq, position.seq)
        copy.replica.release(committed_seq if self._rules.release_after_commit else position.seq)
        if not self._owes or not self.intake.joined or self.intake or self.durable_seq < position.seq:
            return
        self._owes = False
        epoch, primary = self.intake.leader
        trail = copy.replica.engine.trail()
        appended = m.Appended(epoch, copy.incarnation, primary, position.seq, position.chain, trail)
        self._post.to_primary.append((encode(appended), b""))

    def _join(self) -> None:
        """Say what this journal has."""
        view, now_ns = self.view, self._post.now_ns
        if view is None or (self._join_ns is not None and now_ns - self._join_ns < JOIN_RETRY_NS):
            return
        self._join_ns = now_ns
        copy = self._copy
        join = m.Join(view.epoch, copy.incarnation, view.primary.incarnation, copy.node, copy.terms.newest())
        self._post.to_primary.append((encode(join), b""))
