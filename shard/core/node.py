"""One node of a replicated shard: who it is in this term, what it tells the other node, what is committed. Pure.

A turn of the shell, in this order, which is the safety argument (rules R1 to R10, W3 to W8 of docs/PROTOCOL.md):

1. cues: `on_order`, `on_link`, `on_view`, `on_answer`, `on_tick`, ...
2. when `promise` is above `promised`: make it durable, then `on_promised`; nothing else of this turn comes before (R1)
3. `ready`: what may leave now. Perform it before the disk is touched: what others have made committed need not wait
4. `form`: records to write; a primary made one, a standby was sent them. When there are any: write them, send what
   `replicate` returns (it travels while the disk works), then `on_written` (executes)
5. while `must_sync`: make the journal durable, then `on_synced`. In the mode `replicated` it is often False: then the
   shell syncs in the background within 5 ms and says with `on_synced(seq)` how far. A failed write or sync ends the
   process at once; `synced_seq` is what is then known to be durable
6. `ready` again

Roles
    WAITING   no view of the shard, or deposed and no view of the new term yet
    STANDBY   another node leads: joins its log, appends, acknowledges
    PRIMARY   leads the term of the view: executes, commits when every required node has acknowledged
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple, assert_never

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.errors import WireError
from exchange.wire import decode_replica, encode
from shard.core.insync import InSync, Session, session
from shard.core.intake import Intake
from shard.core.journal import Position
from shard.core.probation import Probation
from shard.core.replica import Phase, Replica
from shard.core.rules import ALL, Rules
from shard.core.standing import Fetch, Standing
from shard.core.stepdown import StepDown
from shard.core.terms import Terms
from shard.core.trails import Trails

LINK_BEAT_NS = 50 * NS_PER_MS
LINK_SILENCE_NS = 1_000 * NS_PER_MS
"""A primary that was not heard for so long may have forgotten this standby: it joins again."""
SHRINK_NS = 300 * NS_PER_MS
JOIN_RETRY_NS = 100 * NS_PER_MS
STALL_NS = 500 * NS_PER_MS
"""A primary that could not commit for so long refuses batches instead of letting them wait."""
DOUBT_RECORDS_MAX = 256
EPOCH_MAX = (1 << 32) - 1


class Role(Enum):
    WAITING = "waiting"
    STANDBY = "standby"
    PRIMARY = "primary"


class Cut(NamedTuple):
    """The journal behind `seq` is another history: archive it, cut it, and start the process again (R9).

    `snapshot` = the primary no longer has what is needed: archive everything and take its snapshot first.
    """

    seq: int
    snapshot: bool


class Ready(NamedTuple):
    """What may leave now. `to_standby` goes through the replication Router, `to_primary` through the Dealer."""

    send: list[tuple[bytes, bytes, bytes]]
    publish: list[tuple[bytes, bytes]]
    to_standby: list[tuple[bytes, bytes, bytes]]
    to_primary: list[tuple[bytes, bytes]]
    control: list[bytes]
    fetch: Fetch | None
    cut: Cut | None
    notes: list[str]
    files: list["Files"]


class Files(NamedTuple):
    """About a snapshot's file: a standby's question to this primary, or the primary's part for this standby.

    `message` is of the present term and between the present incarnations; answer it to `peer`.
    """

    message: m.SnapshotAsk | m.SnapshotPart
    payload: bytes
    peer: bytes


class Node:
    """Single-threaded; no method blocks. All `now_ns` are monotonic, all `wall_ns` are wall-clock time."""

    def __init__(
        self,
        replica: Replica,
        *,
        shard: str,
        node: str,
        promised: int,
        terms: Iterable[m.Term],
        oldest_seq: int,
        relaxed: bool = False,
        solo: bool = True,
        shrink_ns: int = SHRINK_NS,
        rules: Rules = ALL,
    ) -> None:
        """What recovery brought back is durable. `terms` = where each term ends in the journal, oldest first;
        `oldest_seq`: the records behind it are there.

        `relaxed` = the mode `replicated`: a record counts as soon as it is written on both. `solo` = False: no batches
        are taken while there is no standby. `shrink_ns` = how long a required standby may be silent.
        """
        self.replica = replica
        self.role = Role.WAITING
        self.promised = promised
        self.promise = promised
        self.incarnation = 0
        self.view: m.ShardView | None = None
        self.oldest_seq = oldest_seq
        self.synced_seq = replica.position.seq
        self.heard_ns = 0
        self.diverged = ""
        self._shard = shard
        self._node = node
        self._relaxed = relaxed
        self._solo = solo
        self._shrink_ns = shrink_ns
        self._rules = rules
        self._terms = Terms(terms)
        self._instruments: list[m.Instrument] = []
        self._now_ns = 0
        self._wall_ns = 0
        self._tick_ns = 0
        self._formed: list[tuple[bytes, Position]] = []
        # primary
        self._led_epoch = 0
        self._insync: InSync | None = None
        self._probation = Probation()
        self._standing: Standing | None = None
        self._trails = Trails()
        self._progress_ns = 0
        self._beat_ns = 0
        self._sync_first = False
        self._stepping: StepDown | None = None
        # standby
        self._intake = Intake(replica.position)
        self._join_ns = 0
        self._heard_commit_seq = 0
        self._owes_ack = False
        # what is to leave
        self._to_standby: list[tuple[bytes, bytes, bytes]] = []
        self._to_primary: list[tuple[bytes, bytes]] = []
        self._control: list[bytes] = []
        self._cut: Cut | None = None
        self._notes: list[str] = []
        self._files: list[Files] = []

    # --- what others may know ---------------------------------------------------------------------------------------

    @property
    def primary(self) -> m.Member | None:
        """Whom a standby's Dealer must be connected to."""
        return self.view.primary if self.view is not None and self.role is Role.STANDBY else None

    @property
    def serving(self) -> bool:
        """Leads, what opened its term is committed, and batches are taken."""
        return self.role is Role.PRIMARY and self.replica.serving and not self._hindrance

    @property
    def mode(self) -> str:
        """`solo`, `paired`, `joining` for a primary; `standby` or `waiting` else."""
        if self._insync is None:
            return self.role.value
        if self._insync.standby is not None:
            return "paired"
        return "joining" if self._standing is not None and not self._silent else "solo"

    @property
    def required(self) -> str:
        """Whose acknowledgement a commit waits for; "" = nobody's, or this node does not lead."""
        member = self._insync.required if self._insync is not None else None
        return member.node if member is not None else ""

    @property
    def _silent(self) -> bool:
        """The node that is required, or the one that may be, was not heard for too long."""
        return self._now_ns - self.heard_ns > self._shrink_ns

    @property
    def following(self) -> bool:
        """A standby whose journal goes on as its primary's does."""
        return self.role is Role.STANDBY and self._intake.joined

    @property
    def lag(self) -> int:
        """Commands that the standby has not acknowledged; -1 without one."""
        return self.replica.position.seq - self._standing.acked_seq if self._standing is not None else -1

    @property
    def formed(self) -> list[tuple[bytes, Position]]:
        """What `form` gave, each record with where the journal stands behind it."""
        return self._formed

    @property
    def last_term(self) -> int:
        """Term of the last record."""
        return self.replica.position.epoch

    @property
    def busy(self) -> bool:
        """`form` would give records without any further cue."""
        if self.role is Role.PRIMARY:
            return self.replica.busy and self._may_form
        return bool(self._intake) and self._cut is None

    @property
    def must_sync(self) -> bool:
        """The shell must make the journal durable now, whether or not it wrote to it in this turn."""
        behind = self.synced_seq < self.replica.position.seq
        return behind and (self._sync_first or self._durable_seq < self.replica.position.seq)

    @property
    def _durable_seq(self) -> int:
        """Up to where this node's own copy counts. R10: alone it counts when it is synced, in any mode."""
        alone = self._insync is None or self._insync.alone
        relaxed = self._relaxed and (self.role is Role.STANDBY or not alone or not self._rules.sync_solo)
        return self.replica.position.seq if relaxed or not self._rules.sync_before_ack else self.synced_seq

    @property
    def _may_form(self) -> bool:
        return self._stepping is None and self.replica.in_doubt < DOUBT_RECORDS_MAX

    @property
    def _hindrance(self) -> str:
        """Why no batch can be committed now; empty when it can."""
        if self._insync is None:
            return ""
        if not self._solo and self._insync.standby is None:
            return "it has no standby and may not go on alone"
        if self.replica.in_doubt and self._now_ns - self._progress_ns > STALL_NS:
            return "its standby does not answer and the coordinator has not decided"
        return ""

    # --- cues: the coordinator ---------------------------------------------------------------------------------------

    def on_registered(self, epoch: int, incarnation: int) -> None:
        """The coordinator knows this process; the shard's term is promised from now on (R7).

        Another incarnation than before is another session: what was learnt, led or joined in the old one is void.
        """
        if self.incarnation not in (0, incarnation):
            if self.role is Role.PRIMARY:
                self._step_back(f"registered anew as incarnation {incarnation}: stepping back")
            self.role = Role.WAITING
            self.view = None
            self._led_epoch = 0
            self._intake.reset(self.replica.position)
        self.incarnation = incarnation
        self.promise = max(self.promise, epoch)

    def on_instruments(self, instruments: list[m.Instrument]) -> None:
        """What this shard owns by the newest map."""
        self._instruments = instruments
        if self.role is Role.PRIMARY and self.replica.phase is Phase.SERVING:
            self.replica.define(instruments)

    def on_view(self, view: m.ShardView) -> None:
        """The shard's metadata; older ones are dropped."""
        if not self.incarnation or (self.view is not None and view.ver <= self.view.ver):
            return
        if (view.epoch < self.promise and self._rules.fence) or view.epoch > EPOCH_MAX:
            self._notes.append(f"view of term {view.epoch} dropped: term {self.promise} is promised")
            return
        self.promise = max(self.promise, view.epoch)
        before, self.view = self.view, view
        if (view.primary.node, view.primary.incarnation) == (self._node, self.incarnation):
            if view.epoch > self._led_epoch:
                self._lead(view)
            elif self._insync is not None:
                self._watch(self._insync, view)
        elif self.role is Role.PRIMARY and not self._rules.obey_refusal:
            assert self._insync is not None
            me = self._insync.view.primary
            self._insync.view = m.ShardView(view.shard, view.ver, self._led_epoch, me, [me], view.members)
        else:
            self._follow(before, view)

    def on_answer(self, answer: m.IsrAnswer) -> None:
        """The store decided about an in-sync set."""
        self.on_view(answer.view)
        if self._insync is not None:
            self._insync.on_answer(answer)
            self._review(self._insync)

    def on_step_down(self, request: m.StepDown) -> None:
        """Planned switch: form no more records; hand over when everything is acknowledged. Ignored when not apt."""
        insync = self._insync
        if insync is None or request.epoch != insync.view.epoch or self._stepping is not None:
            return
        if insync.standby is not None and session(insync.standby) == session(request.to):
            self._stepping = StepDown(request, self._now_ns)

    # --- cues: customers and time -------------------------------------------------------------------------------------

    def on_order(self, header: bytes, payload: bytes, peer: bytes, wall_ns: int) -> None:
        """A message from the orders Router."""
        self._wall_ns = wall_ns
        self.replica.on_message(header, payload, peer, wall_ns)

    def on_tick(self, wall_ns: int, now_ns: int, *, log_tick: bool) -> None:
        """Time passes; call it at least every 50 ms. `log_tick` = the next record carries a Tick."""
        gap_ns = now_ns - self._tick_ns
        if self._tick_ns and gap_ns > self._shrink_ns // 2:
            self.heard_ns = min(now_ns, self.heard_ns + gap_ns)  # this process stood still: nobody else is blamed
        self._tick_ns = self._now_ns = now_ns
        self._wall_ns = wall_ns
        if self._insync is not None:
            if log_tick and self._may_form:
                self.replica.on_tick(wall_ns)
            if self._standing is not None and now_ns - self._beat_ns >= LINK_BEAT_NS:
                self._append(self._standing, b"", self._standing.sent_seq)
            self._review(self._insync)
            self.replica.refuse(self._hindrance)
        elif self.role is Role.STANDBY:
            if self._intake.joined and now_ns - self.heard_ns > LINK_SILENCE_NS:
                self._intake.reset(self.replica.position)
            if not self._intake.joined:
                self._join()

    # --- cues: the other node -----------------------------------------------------------------------------------------

    def on_link(self, header: bytes, payload: bytes, peer: bytes, now_ns: int) -> None:
        """A message from the other node; `peer` names it at the Router, b"" for the Dealer."""
        self._now_ns = now_ns
        try:
            message = decode_replica(header)
        except WireError as error:
            self._notes.append(str(error))
            return
        if message.target != self.incarnation and self._rules.name_target:
            return
        if message.epoch < self.promise and self._rules.fence:
            if not isinstance(message, m.Fenced):
                self._reply(peer, m.Fenced(self.promise, self.incarnation, message.sender))
            return
        match message:
            case m.Fenced():
                self._on_fenced(message)
            case m.Join():
                self._on_join(message, peer)
            case m.Appended():
                self._on_appended(message, peer)
            case m.JoinAt():
                self._on_join_at(message)
            case m.Append():
                self._on_append(message, payload)
            case m.SnapshotAsk():
                if self._insync is not None and message.epoch == self._led_epoch:
                    self._files.append(Files(message, payload, peer))
            case m.SnapshotPart():
                if self._obeys(message) and self._cut is not None:
                    self._files.append(Files(message, payload, peer))
            case m.Diverged():
                if self._obeys(message):
                    self.diverged = message.detail
            case _:
                assert_never(message)

    def on_fetched(self, records: bytes, last_seq: int) -> None:
        """Answer to a Fetch: whole records, up to `last_seq`, that follow what was sent to the standby."""
        standing = self._standing
        if standing is not None and standing.fetched(records):
            self._append(standing, records, last_seq)

    def on_unreadable(self, oldest_seq: int) -> None:
        """A Fetch cannot be answered: records are only to be had behind `oldest_seq`. The standby will join again."""
        self.oldest_seq = oldest_seq
        self._standing = None

    # --- the turn -----------------------------------------------------------------------------------------------------

    def on_promised(self) -> None:
        """`promise` is durable."""
        self.promised = self.promise

    def form(self) -> list[bytes]:
        """Records to write now, in order."""
        assert not self._formed, "one write at a time"
        assert self.promised == self.promise, "a promise is durable before anything else"
        if self._cut is not None:
            return []
        if self.role is Role.PRIMARY:
            record = self.replica.form() if self._may_form else b""
            self._formed = [(record, self.replica.formed_position)] if record else []
        else:
            self._formed = self._intake.drain()
        return [record for record, _ in self._formed]

    def replicate(self) -> list[tuple[bytes, bytes, bytes]]:
        """Messages for the standby that may travel while the record is being synced."""
        standing = self._standing
        if self._formed and standing is not None:
            record, after = self._formed[0]
            if standing.open and standing.sent_seq == self.replica.position.seq:
                self._append(standing, record, after.seq)
        messages, self._to_standby = self._to_standby, []
        return messages

    def on_written(self) -> None:
        """What `form` gave lies in the journal: execute it. Poisoned when the engine fails."""
        for record, after in self._formed:
            if self.role is Role.PRIMARY:
                if not self.replica.in_doubt:
                    self._progress_ns = self._now_ns
                self.replica.on_written()
                self._trails.note(after, self.replica.engine.trail())
            else:
                self.replica.on_replicated(record, after)
                self._owes_ack = True
            self._terms.note(after)
        self._formed = []

    def on_synced(self, seq: int | None = None) -> None:
        """The journal is durable up to `seq`; None = everything that was written."""
        self.synced_seq = max(self.synced_seq, self.replica.position.seq if seq is None else seq)
        if self._sync_first and self._insync is not None and self.synced_seq == self.replica.position.seq:
            self._review(self._insync)

    def ready(self) -> Ready:
        """What may leave now; it is not returned again."""
        assert self.promised == self.promise, "a promise is durable before anything else"
        fetch = None
        if self._insync is not None:
            self._commit(self._insync)
            self._hand_over()
            fetch = self._standing.fetch(self.replica.position.seq) if self._standing is not None else None
        elif self.role is Role.STANDBY:
            self._commit_heard()
            self._acknowledge()
        inner = self.replica.ready()
        notes = [*inner.notes, *self._notes]
        ready = Ready(
            inner.send,
            inner.publish,
            self._to_standby,
            self._to_primary,
            self._control,
            fetch,
            self._cut,
            notes,
            self._files,
        )
        self._to_standby, self._to_primary, self._control, self._notes, self._files = [], [], [], [], []
        return ready

    # --- primary ------------------------------------------------------------------------------------------------------

    def _lead(self, view: m.ShardView) -> None:
        """R6: the whole log is truth; the term opens with EpochStart."""
        self._intake.reset(self.replica.position)
        self._stop_leading()
        self.role = Role.PRIMARY
        self._led_epoch = view.epoch
        self._insync = InSync(self._node, view, self._rules)
        self._probation = Probation()
        self.heard_ns = self._progress_ns = self._now_ns
        opens = self._rules.term_opens
        self.replica.begin_term(view.epoch, self.incarnation, self._instruments, self._wall_ns, opens=opens)
        self._notes.append(f"leads term {view.epoch} from seq {self.replica.position.seq}")

    def _stop_leading(self) -> None:
        self._insync = None
        self._standing = None
        self._stepping = None
        self._sync_first = False
        self._trails = Trails()

    def _step_back(self, why: str) -> None:
        self._notes.append(why)
        self._stop_leading()
        self.role = Role.WAITING
        self.replica.abdicate(silent=self._rules.doubt_is_silent)

    def _watch(self, insync: InSync, view: m.ShardView) -> None:
        before = insync.standby
        insync.on_view(view)
        if insync.standby not in (None, before):
            self.heard_ns = self._now_ns
        self._review(insync)

    def _on_join(self, message: m.Join, peer: bytes) -> None:
        insync, standing = self._insync, self._standing
        if insync is None or message.epoch != insync.view.epoch:
            return
        who: Session = (message.node, message.sender)
        member = next((member for member in insync.view.members if session(member) == who), None)
        if member is None or member.node == self._node:
            return
        last_seq = message.terms[-1].last_seq if message.terms else 0
        common = self._terms.common_seq(message.terms) if self._rules.cut_suffix else last_seq
        known = standing is not None and session(standing.member) == who
        if standing is not None and known and common < standing.acked_seq:
            return  # an old copy: it has acknowledged more since
        snapshot = common < self.oldest_seq
        self._heard(who)
        if common != last_seq or snapshot:
            self._standing = None if known else standing
        elif standing is not None and known:
            standing.peer = peer
            standing.restart(common)
        else:
            self._standing = Standing(peer, member, common)
        self._reply(peer, m.JoinAt(insync.view.epoch, self.incarnation, message.sender, common, snapshot, last_seq))

    def _on_appended(self, message: m.Appended, peer: bytes) -> None:
        insync, standing = self._insync, self._standing
        if insync is None or standing is None or message.epoch != insync.view.epoch:
            return
        if message.sender != standing.member.incarnation and self._rules.name_target:
            return
        if message.last_seq > self.replica.position.seq or not self._agrees(message, peer):
            return
        self._heard(session(standing.member))
        standing.peer = peer
        standing.acked(message.last_seq)
        self._review(insync)

    def _heard(self, who: Session) -> None:
        """A sign of life of the node that is required, or of one that may be."""
        standby = self._insync.standby if self._insync is not None else None
        if standby is None or session(standby) == who:
            if self._now_ns - self.heard_ns > self._shrink_ns // 2:
                self._probation.interrupted(self._now_ns)
            self.heard_ns = self._now_ns

    def _agrees(self, message: m.Appended, peer: bytes) -> bool:
        """R13: a standby that made something else of the same log is told to stop, and counts no more."""
        found = self._trails.disagreement(message) if self._rules.compare_logs else ""
        if found:
            self.diverged = found
            self._notes.append(found)
            self._reply(peer, m.Diverged(self._led_epoch, self.incarnation, message.sender, message.last_seq, found))
            self._standing = None
        return not found

    def _commit(self, insync: InSync) -> None:
        """W7: committed = durable here and acknowledged by whom the maximal view requires."""
        seq, required, standing = self._durable_seq, insync.required, self._standing
        if required is not None:
            there = standing is not None and session(standing.member) == session(required)
            seq = min(seq, standing.acked_seq if standing is not None and there else 0)
        if seq > self.replica.committed_seq:
            self._progress_ns = self._now_ns
        self.replica.release(seq if self._rules.release_after_commit else self.replica.position.seq)

    def _review(self, insync: InSync) -> None:
        """Who should be in the in-sync set, and is the store asked for it?"""
        standing, now_ns = self._standing, self._now_ns
        silent = self._silent
        me = insync.view.primary
        question = insync.repeat(now_ns)
        if insync.asked is not None or self._stepping is not None:
            pass
        elif insync.standby is not None:
            if silent and self._solo:
                # What was acknowledged by both must be durable here before this node may be the only one (R3).
                self._sync_first = self.synced_seq < self.replica.position.seq
                dropped = session(insync.standby)
                question = None if self._sync_first else insync.ask([me], now_ns)
                if question is not None:
                    self._probation.dropped(dropped, now_ns)
        elif standing is None or silent or standing.sent_seq < self.replica.position.seq:
            insync.forget()
        elif not self._probation.passed(session(standing.member), now_ns):
            insync.forget()  # what it acknowledges meanwhile is welcome, and nobody waits for it
        else:
            self._commit(insync)
            insync.require(standing.member)
            if standing.acked_seq >= self.replica.committed_seq:
                question = insync.ask([me, standing.member], now_ns)
        if question is not None:
            self._control.append(question)

    def _hand_over(self) -> None:
        """A planned switch: say that the standby has everything, or give it up."""
        stepping, standing, seq = self._stepping, self._standing, self.replica.position.seq
        if stepping is None:
            return
        if stepping.over(self._now_ns):
            self._stepping = None
        elif standing is not None and standing.acked_seq == seq == self.replica.committed_seq:
            drained = stepping.drained(self._node, self.incarnation, seq, self._now_ns)
            self._control += [drained] if drained is not None else []

    def _append(self, standing: Standing, records: bytes, last_seq: int) -> None:
        self._beat_ns = self._now_ns
        header = m.Append(
            self._led_epoch,
            self.incarnation,
            standing.member.incarnation,
            standing.sent_seq,
            self.replica.committed_seq,
        )
        self._to_standby.append((standing.peer, encode(header), records))
        standing.sent(last_seq, len(records))

    def _on_fenced(self, message: m.Fenced) -> None:
        if self._insync is not None and self._rules.obey_refusal and message.epoch > self._led_epoch:
            self.promise = max(self.promise, message.epoch)
            self._step_back(f"fenced by term {message.epoch}: stepping back")

    # --- standby ------------------------------------------------------------------------------------------------------

    def _follow(self, before: m.ShardView | None, view: m.ShardView) -> None:
        if self.role is Role.PRIMARY:
            self._step_back(f"term {view.epoch} is led by {view.primary.node or 'nobody'}: stepping back")
        self.role = Role.STANDBY if view.primary.incarnation else Role.WAITING
        if before is None or (before.epoch, before.primary) != (view.epoch, view.primary):
            self._intake.reset(self.replica.position)
            self._join_ns = 0
            if self.role is Role.STANDBY:
                self._join()

    def _join(self) -> None:
        """Say what this journal has. Also when something was lost on the way: the primary sends again from there."""
        view = self.view
        if view is None or (self._join_ns and self._now_ns - self._join_ns < JOIN_RETRY_NS):
            return
        self._join_ns = self._now_ns
        join = m.Join(view.epoch, self.incarnation, view.primary.incarnation, self._node, self._terms.newest())
        self._to_primary.append((encode(join), b""))

    def _obeys(self, message: m.JoinAt | m.Append | m.SnapshotPart | m.Diverged) -> bool:
        """R1: only the leader of the promised term is obeyed."""
        if not self._rules.fence:
            return True
        view = self.view
        if self.role is not Role.STANDBY or view is None or not message.epoch == view.epoch == self.promise:
            return False
        return message.sender == view.primary.incarnation or not self._rules.name_target

    def _on_join_at(self, message: m.JoinAt) -> None:
        if not self._obeys(message) or self._intake.joined or self.role is not Role.STANDBY:
            return
        if message.last_seq != self.replica.position.seq:
            return  # an answer to an old question
        self.heard_ns = self._now_ns
        if message.snapshot or message.cut_seq < self.replica.position.seq:
            self._cut = Cut(message.cut_seq, message.snapshot)
        elif message.cut_seq == self.replica.position.seq:
            self._intake.leader = (message.epoch, message.sender)
            self._owes_ack = True

    def _on_append(self, message: m.Append, records: bytes) -> None:
        if not self._obeys(message) or (not self._intake.joined and self._rules.fence):
            return
        self.heard_ns = self._now_ns
        self._intake.leader = (message.epoch, message.sender)
        self._owes_ack = True
        if message.prev_seq > self._intake.tail.seq:
            self._join()
            return
        try:
            self._intake.take(records)
        except ValueError as fault:
            self._notes.append(f"records of the primary do not follow: {fault}")
            return
        self._heard_commit_seq = max(self._heard_commit_seq, message.commit_seq)

    def _commit_heard(self) -> None:
        """What the primary said is committed and this journal has; joined, so it is the same."""
        seq = min(self._heard_commit_seq, self.replica.position.seq)
        self.replica.release(seq if self._rules.release_after_commit else self.replica.position.seq)

    def _acknowledge(self) -> None:
        position = self.replica.position
        if not self._owes_ack or not self._intake.joined or self._intake or self._durable_seq < position.seq:
            return
        self._owes_ack = False
        epoch, primary = self._intake.leader
        trail = self.replica.engine.trail()
        appended = m.Appended(epoch, self.incarnation, primary, position.seq, position.chain, trail)
        self._to_primary.append((encode(appended), b""))

    # --- both ---------------------------------------------------------------------------------------------------------

    def _reply(self, peer: bytes, message: m.ReplicaMessage) -> None:
        if peer:
            self._to_standby.append((peer, encode(message), b""))
        else:
            self._to_primary.append((encode(message), b""))
