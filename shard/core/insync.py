"""Who must acknowledge before a primary may commit, and what it asks the store for: rules R2 to R4. Pure."""

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.wire import encode
from shard.core.copy import Copy
from shard.core.rules import Rules

ASK_RETRY_NS = 100 * NS_PER_MS

Session = tuple[str, int]


def session(member: m.Member) -> Session:
    """(node, incarnation): where its door is does not make it another one."""
    return member.node, member.incarnation


class InSync:
    """The maximal view of one term: the recorded in-sync set and whoever is being added.

    One question to the store at a time. It names the `ver` that it wants to change, so it is decided once and for all
    by the first view with a higher one, or by a refusal: no late copy of it can be granted after that. Answers to
    questions of terms before, or of a process before, may come at any time: they name another question.
    """

    def __init__(self, copy: Copy, view: m.ShardView, rules: Rules) -> None:
        self.view = view
        self.adding: m.Member | None = None
        self.asked: m.AskIsr | None = None
        self._copy = copy
        self._rules = rules
        self._asked_ns: int | None = None

    @property
    def standby(self) -> m.Member | None:
        """The recorded member besides this node."""
        return next((member for member in self.view.isr if member.node != self._copy.node), None)

    @property
    def required(self) -> m.Member | None:
        """Whose acknowledgement commit waits for."""
        return (self.standby or self.adding) if self._rules.commit_needs_view else None

    @property
    def alone(self) -> bool:
        """The store says, or may say by now, that nobody else has a copy (R10)."""
        shrinking = self.asked is not None and len(self.asked.isr) == 1
        return self.standby is None or shrinking or not self._rules.commit_needs_view

    def on_view(self, view: m.ShardView) -> None:
        """A newer version of the metadata in which this node still leads the same term."""
        self.view = view
        if self.asked is not None and view.ver > self.asked.ver:
            self._decided()

    def on_answer(self, answer: m.IsrAnswer) -> None:
        """The store has decided; the view of the answer was taken before."""
        asked = self.asked
        if asked is None:
            return
        if (answer.request, answer.incarnation) == (asked.request, asked.incarnation) or not self._rules.match_answers:
            self._decided()

    def require(self, member: m.Member) -> None:
        """R4: from now on commit waits for `member` too."""
        if self._rules.require_before_add:
            self.adding = member

    def forget(self) -> None:
        """Require nobody who is not recorded; only while the store was not asked to record it."""
        assert self.asked is None, "what was asked may be granted"
        self.adding = None

    def ask(self, isr: list[m.Member], now_ns: int) -> bytes | None:
        """Ask the store for another set; None when it was asked something a moment ago."""
        assert self.asked is None, "one question at a time"
        if self._asked_ns is not None and now_ns - self._asked_ns < ASK_RETRY_NS:
            return None
        view = self.view
        self._copy.questions += 1
        self._asked_ns = now_ns
        leader = view.primary
        self.asked = m.AskIsr(
            view.shard, self._copy.questions, view.ver, view.epoch, leader.node, leader.incarnation, isr
        )
        shrinks = len(isr) < len(view.isr)
        if shrinks and not self._rules.shrink_recorded_first:
            self.view = m.ShardView(view.shard, view.ver, view.epoch, leader, isr, view.members)
        return encode(self.asked)

    def repeat(self, now_ns: int) -> bytes | None:
        """The open question again, when it is time."""
        if self.asked is None or self._asked_ns is None or now_ns - self._asked_ns < ASK_RETRY_NS:
            return None
        self._asked_ns = now_ns
        return encode(self.asked)

    def usurp(self, view: m.ShardView) -> None:
        """Breaks R3: another one leads, and this node goes on alone as if nothing were."""
        me = self.view.primary
        self.view = m.ShardView(view.shard, view.ver, self.view.epoch, me, [me], view.members)

    def _decided(self) -> None:
        self.asked = None
        self.adding = None
