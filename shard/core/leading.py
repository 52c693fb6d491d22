"""One term of a primary: what it sends to its standby, when it may commit, who should be in the in-sync set. Pure."""

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.wire import encode
from shard.core.copy import Copy, Post
from shard.core.insync import InSync, Session, session
from shard.core.journal import Position
from shard.core.probation import Probation
from shard.core.rules import Rules
from shard.core.standing import Fetch, Standing
from shard.core.stepdown import StepDown
from shard.core.trails import Trails

LINK_BEAT_NS = 50 * NS_PER_MS
STALL_NS = 500 * NS_PER_MS
"""A primary that could not commit for so long refuses batches instead of letting them wait."""
DOUBT_RECORDS_MAX = 256


class Leading:
    """From the view that names this session as primary until one that does not.

    `heard_ns` = when the node that is required, or the one that may be, gave a sign of life. `sync_first` = the store
    is to be asked to let this node go on alone, which needs a durable journal first (R3).
    """

    def __init__(
        self, copy: Copy, post: Post, view: m.ShardView, *, relaxed: bool, solo: bool, shrink_ns: int, rules: Rules
    ) -> None:
        self.insync = InSync(copy, view, rules)
        self.epoch = view.epoch
        self.heard_ns = post.now_ns
        self.sync_first = False
        self.diverged = ""
        self._copy = copy
        self._post = post
        self._relaxed = relaxed
        self._solo = solo
        self._shrink_ns = shrink_ns
        self._rules = rules
        self._standing: Standing | None = None
        self._trails = Trails()
        self._probation = Probation()
        self._stepping: StepDown | None = None
        self._progress_ns = post.now_ns
        self._beat_ns = 0

    # --- what others may know -----------------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """`solo`, `paired`, or `joining` = there is a standby that is not in sync yet."""
        if self.insync.standby is not None:
            return "paired"
        return "joining" if self._standing is not None and not self.silent else "solo"

    @property
    def silent(self) -> bool:
        """The node that is required, or the one that may be, was not heard for too long."""
        return self._post.now_ns - self.heard_ns > self._shrink_ns

    @property
    def lag(self) -> int:
        """Commands that the standby has not acknowledged; -1 without one."""
        return self._copy.seq - self._standing.acked_seq if self._standing is not None else -1

    @property
    def may_form(self) -> bool:
        """Another record may be made."""
        return self._stepping is None and self._copy.replica.in_doubt < DOUBT_RECORDS_MAX

    @property
    def hindrance(self) -> str:
        """Why no batch can be committed now; empty when it can."""
        if not self._solo and self.insync.standby is None:
            return "it has no standby and may not go on alone"
        if self._copy.replica.in_doubt and self._post.now_ns - self._progress_ns > STALL_NS:
            return "its standby does not answer and the coordinator has not decided"
        return ""

    @property
    def durable_seq(self) -> int:
        """Up to where the own copy counts. R10: alone it counts when it is synced, in any mode."""
        relaxed = self._relaxed and not (self.insync.alone and self._rules.sync_solo)
        return self._copy.seq if relaxed or not self._rules.sync_before_ack else self._copy.synced_seq

    # --- cues ---------------------------------------------------------------------------------------------------------

    def on_view(self, view: m.ShardView) -> None:
        """A newer version of the metadata, in which this session still leads this term."""
        before = self.insync.standby
        self.insync.on_view(view)
        if self.insync.standby not in (None, before):
            self.heard_ns = self._post.now_ns
        self.review()

    def on_answer(self, answer: m.IsrAnswer) -> None:
        """The store decided about an in-sync set."""
        self.insync.on_answer(answer)
        self.review()

    def on_step_down(self, request: m.StepDown) -> None:
        """A planned switch. Ignored when it is not apt."""
        standby = self.insync.standby
        if request.epoch != self.epoch or self._stepping is not None or standby is None:
            return
        if session(standby) == session(request.to):
            self._stepping = StepDown(request, self._post.now_ns)

    def on_ended(self, hint: m.Ended) -> None:
        """A process has ended: when it is the one that is waited for, it is silent from now on."""
        standby = self.insync.standby
        if standby is not None and session(standby) == session(hint.member):
            self.heard_ns = min(self.heard_ns, self._post.now_ns - self._shrink_ns - 1)
            self.review()

    def on_tick(self) -> None:
        """Time passes."""
        if self._standing is not None and self._post.now_ns - self._beat_ns >= LINK_BEAT_NS:
            self._append(self._standing, b"", self._standing.sent_seq)
        self.review()

    def on_join(self, message: m.Join, peer: bytes) -> None:
        """A standby shows its journal: it is told where the two part."""
        copy, view, standing = self._copy, self.insync.view, self._standing
        who: Session = (message.node, message.sender)
        member = next((member for member in view.members if session(member) == who), None)
        if message.epoch != self.epoch or member is None or member.node == copy.node:
            return
        last_seq = message.terms[-1].last_seq if message.terms else 0
        common = copy.terms.common_seq(message.terms) if self._rules.cut_suffix else last_seq
        known = standing is not None and session(standing.member) == who
        if standing is not None and known and common < standing.acked_seq:
            return  # an old copy: it has acknowledged more since
        snapshot = common < copy.oldest_seq
        self._heard(who)
        if common != last_seq or snapshot:
            self._standing = None if known else standing
        elif standing is not None and known:
            standing.peer = peer
            standing.restart(common)
        else:
            self._standing = Standing(peer, member, common)
        self._post.reply(peer, m.JoinAt(self.epoch, copy.incarnation, message.sender, common, snapshot, last_seq))

    def on_appended(self, message: m.Appended, peer: bytes) -> None:
        """A standby says what it has."""
        standing = self._standing
        if standing is None or message.epoch != self.epoch or message.last_seq > self._copy.seq:
            return
        if message.sender != standing.member.incarnation and self._rules.name_target:
            return
        if not self._agrees(message, peer):
            return
        self._heard(session(standing.member))
        standing.peer = peer
        standing.acked(message.last_seq)
        self.review()

    def on_fetched(self, records: bytes, last_seq: int) -> None:
        """What `ready` wanted to be read from the journal."""
        if self._standing is not None and self._standing.fetched(records):
            self._append(self._standing, records, last_seq)

    def on_unreadable(self) -> None:
        """What the standby needs is not to be had: it will join again, and then be told of a snapshot."""
        self._standing = None

    # --- the turn -----------------------------------------------------------------------------------------------------

    def send(self, record: bytes, after: Position) -> None:
        """A record was made: it travels at once when the standby has been sent everything before it."""
        standing = self._standing
        if standing is not None and standing.open and standing.sent_seq == self._copy.seq:
            self._append(standing, record, after.seq)

    def on_executing(self) -> None:
        """A record lies in the journal, and is executed next."""
        if not self._copy.replica.in_doubt:
            self._progress_ns = self._post.now_ns

    def on_executed(self, after: Position) -> None:
        """The engine has executed the record that ends at `after`."""
        self._trails.note(after, self._copy.replica.engine.trail())

    def ready(self) -> Fetch | None:
        """Let go what is committed, and say what has to be read for the standby."""
        self._commit()
        self._hand_over()
        return self._standing.fetch(self._copy.seq) if self._standing is not None else None

    def review(self) -> None:
        """Who should be in the in-sync set, and is the store asked for it?"""
        insync, standing, now_ns = self.insync, self._standing, self._post.now_ns
        me = insync.view.primary
        question = insync.repeat(now_ns)
        if insync.asked is not None or self._stepping is not None:
            pass
        elif insync.standby is not None:
            if self.silent and self._solo:
                # What was acknowledged by both must be durable here before this node may be the only one (R3).
                self.sync_first = self._copy.synced_seq < self._copy.seq
                dropped = session(insync.standby)
                question = None if self.sync_first else insync.ask([me], now_ns)
                if question is not None:
                    self._probation.dropped(dropped, now_ns)
        elif self.silent:
            insync.forget()
            self._probation.interrupted(now_ns)
        elif standing is None or standing.sent_seq < self._copy.seq:
            insync.forget()
        elif not self._probation.passed(session(standing.member), now_ns):
            insync.forget()  # what it acknowledges meanwhile is welcome, and nobody waits for it
        else:
            self._commit()
            insync.require(standing.member)
            if standing.acked_seq >= self._copy.replica.committed_seq:
                question = insync.ask([me, standing.member], now_ns)
        if question is not None:
            self._post.control.append(question)

    def _commit(self) -> None:
        """W7: committed = durable here and acknowledged by whom the maximal view requires."""
        replica, required, standing = self._copy.replica, self.insync.required, self._standing
        seq = self.durable_seq
        if required is not None:
            there = standing is not None and session(standing.member) == session(required)
            seq = min(seq, standing.acked_seq if standing is not None and there else 0)
        if seq > replica.committed_seq:
            self._progress_ns = self._post.now_ns
        replica.release(seq if self._rules.release_after_commit else self._copy.seq)

    def _hand_over(self) -> None:
        """A planned switch: say that the standby has everything, or give it up."""
        stepping, standing, copy = self._stepping, self._standing, self._copy
        if stepping is None:
            return
        if stepping.over(self._post.now_ns):
            self._stepping = None
        elif standing is not None and standing.acked_seq == copy.seq == copy.replica.committed_seq:
            drained = stepping.drained(copy.node, copy.incarnation, copy.seq, self._post.now_ns)
            self._post.control += [drained] if drained is not None else []

    def _heard(self, who: Session) -> None:
        """A sign of life of the node that is required, or of one that may be."""
        standby = self.insync.standby
        if standby is None or session(standby) == who:
            self.heard_ns = self._post.now_ns

    def _agrees(self, message: m.Appended, peer: bytes) -> bool:
        """R13: a standby that made something else of the same log is told to stop, and counts no more."""
        found = self._trails.disagreement(message) if self._rules.compare_logs else None
        if found == "":
            self.diverged = ""
        if found:
            self.diverged = found
            self._post.notes.append(found)
            stop = m.Diverged(self.epoch, self._copy.incarnation, message.sender, message.last_seq, found)
            self._post.reply(peer, stop)
            self._standing = None
        return not found

    def _append(self, standing: Standing, records: bytes, last_seq: int) -> None:
        self._beat_ns = self._post.now_ns
        target, committed_seq = standing.member.incarnation, self._copy.replica.committed_seq
        header = m.Append(self.epoch, self._copy.incarnation, target, standing.sent_seq, committed_seq)
        self._post.to_standby.append((standing.peer, encode(header), records))
        standing.sent(last_seq, len(records))
