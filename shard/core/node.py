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
from exchange.wire import decode_replica
from shard.core.copy import Copy, Post
from shard.core.following import Cut, Following
from shard.core.journal import Position
from shard.core.leading import Leading
from shard.core.replica import Phase, Replica
from shard.core.rules import ALL, Rules
from shard.core.standing import Fetch
from shard.core.terms import Terms

SHRINK_NS = 300 * NS_PER_MS
EPOCH_MAX = (1 << 32) - 1


class Role(Enum):
    WAITING = "waiting"
    STANDBY = "standby"
    PRIMARY = "primary"


class Files(NamedTuple):
    """About a snapshot's file: a standby's question to this primary, or the primary's part for this standby.

    `message` is of the present term and between the present incarnations; answer it to `peer`.
    """

    message: m.SnapshotAsk | m.SnapshotPart
    payload: bytes
    peer: bytes


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
    files: list[Files]


class Node:
    """Single-threaded; no method blocks. All `now_ns` are monotonic, all `wall_ns` are wall-clock time.

    `promise` = the highest term that this node has heard of with its view or registration, `promised` = what of it is
    durable.
    """

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
        self.promised = promised
        self.promise = promised
        self.view: m.ShardView | None = None
        self._shard = shard
        self._relaxed = relaxed
        self._solo = solo
        self._shrink_ns = shrink_ns
        self._rules = rules
        self._copy = Copy(replica, node, Terms(terms), oldest_seq)
        self._post = Post()
        self._leading: Leading | None = None
        self._following = Following(self._copy, self._post, relaxed=relaxed, rules=rules)
        self._led_epoch = 0
        self._instruments: list[m.Instrument] = []
        self._wall_ns = 0
        self._tick_ns = 0
        self._formed: list[tuple[bytes, Position]] = []
        self._files: list[Files] = []

    # --- what others may know -----------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """What this node is in the term that it knows."""
        if self._leading is not None:
            return Role.PRIMARY
        return Role.STANDBY if self._following.view is not None else Role.WAITING

    @property
    def incarnation(self) -> int:
        """The session that the coordinator has given this process; 0 = none yet."""
        return self._copy.incarnation

    @property
    def synced_seq(self) -> int:
        """The journal is durable up to here."""
        return self._copy.synced_seq

    @property
    def oldest_seq(self) -> int:
        """The records behind it are in the journal."""
        return self._copy.oldest_seq

    @oldest_seq.setter
    def oldest_seq(self, seq: int) -> None:
        self._copy.oldest_seq = seq

    @property
    def primary(self) -> m.Member | None:
        """Whom a standby's Dealer must be connected to."""
        return self._following.view.primary if self._following.view is not None else None

    @property
    def heard_ns(self) -> int:
        """When the other node was last heard."""
        return (self._leading or self._following).heard_ns

    @property
    def following(self) -> bool:
        """A standby whose journal goes on as its primary's does."""
        return self.role is Role.STANDBY and self._following.intake.joined

    @property
    def serving(self) -> bool:
        """Leads, what opened its term is committed, and batches are taken."""
        return self._leading is not None and self.replica.serving and not self._leading.hindrance

    @property
    def mode(self) -> str:
        """`solo`, `paired`, `joining` for a primary; `standby` or `waiting` else."""
        return self._leading.mode if self._leading is not None else self.role.value

    @property
    def required(self) -> str:
        """Whose acknowledgement a commit waits for; "" = nobody's, or this node does not lead."""
        member = self._leading.insync.required if self._leading is not None else None
        return member.node if member is not None else ""

    @property
    def lag(self) -> int:
        """Commands that the standby has not acknowledged; -1 without one."""
        return self._leading.lag if self._leading is not None else -1

    @property
    def diverged(self) -> str:
        """How the same log came to another outcome on the two nodes; empty when that was not seen in this term."""
        return self._leading.diverged if self._leading is not None else self._following.diverged

    def clock_off_ns(self, wall_ns: int) -> int:
        """How far the wall clock is from log time, when that is more than log time follows (R15); else 0."""
        return self.replica.clock.off_ns(wall_ns, self.replica.position.ts_ns)

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
        if self._leading is not None:
            return self.replica.busy and self._leading.may_form
        return bool(self._following.intake) and self._following.cut is None

    @property
    def must_sync(self) -> bool:
        """The shell must make the journal durable now, whether or not it wrote to it in this turn."""
        if self.synced_seq == self._copy.seq:
            return False
        match self.role:
            case Role.PRIMARY:
                assert self._leading is not None
                return self._leading.sync_first or self._leading.durable_seq < self._copy.seq
            case Role.STANDBY:
                return self._following.durable_seq < self._copy.seq
            case Role.WAITING:
                return self._rules.sync_before_ack

    # --- cues: the coordinator ----------------------------------------------------------------------------------------

    def on_registered(self, epoch: int, incarnation: int) -> None:
        """The coordinator knows this process; the shard's term is promised from now on (R7).

        Another incarnation than before is another session: what was learnt, led or joined in the old one is void.
        """
        if self.incarnation not in (0, incarnation):
            self._step_back(f"registered anew as incarnation {incarnation}")
            self._following.leave()
            self.view = None
            self._led_epoch = 0
        self._copy.incarnation = incarnation
        self.promise = max(self.promise, epoch)

    def on_instruments(self, instruments: list[m.Instrument]) -> None:
        """What this shard owns by the newest map."""
        self._instruments = instruments
        if self._leading is not None and self.replica.phase is Phase.SERVING:
            self.replica.define(instruments)

    def on_view(self, view: m.ShardView) -> None:
        """The shard's metadata; older ones are dropped."""
        if not self.incarnation or (self.view is not None and view.ver <= self.view.ver):
            return
        if (view.epoch < self.promise and self._rules.fence) or view.epoch > EPOCH_MAX:
            self._post.notes.append(f"view of term {view.epoch} dropped: term {self.promise} is promised")
            return
        self.promise = max(self.promise, view.epoch)
        self.view = view
        self.replica.skip = view.skip
        if (view.primary.node, view.primary.incarnation) == (self._copy.node, self.incarnation):
            if view.epoch > self._led_epoch:
                self._lead(view)
            elif self._leading is not None:
                self._leading.on_view(view)
        elif self._leading is not None and not self._rules.obey_refusal:
            self._leading.insync.usurp(view)
        else:
            self._follow(view)

    def on_answer(self, answer: m.IsrAnswer) -> None:
        """The store decided about an in-sync set."""
        self.on_view(answer.view)
        if self._leading is not None:
            self._leading.on_answer(answer)

    def on_step_down(self, request: m.StepDown) -> None:
        """Planned switch: form no more records; hand over when everything is acknowledged. Ignored when not apt."""
        if self._leading is not None:
            self._leading.on_step_down(request)

    def on_ended(self, hint: m.Ended) -> None:
        """The other node's process is known to have ended."""
        if self._leading is not None:
            self._leading.on_ended(hint)

    def on_take_clock(self, request: m.TakeClock) -> None:
        """An operator says that this machine's wall clock is right. Ignored when not apt."""
        if self._leading is not None and request.epoch == self._leading.epoch:
            self._post.notes.append("log time follows the wall clock, as an operator wants")
            self.replica.clock.believe()

    # --- cues: customers and time -------------------------------------------------------------------------------------

    def on_uptime(self, uptime_ns: int) -> None:
        """How long the machine has run: bounds how far log time follows the wall clock (R15). Call it in every turn."""
        if self._rules.bound_time:
            self.replica.clock.uptime_ns = uptime_ns

    def on_order(self, header: bytes, payload: bytes, peer: bytes, wall_ns: int) -> None:
        """A message from the orders Router."""
        self._wall_ns = wall_ns
        self.replica.on_message(header, payload, peer, wall_ns)

    def on_tick(self, wall_ns: int, now_ns: int, *, log_tick: bool) -> None:
        """Time passes; call it at least every 50 ms. `log_tick` = the next record carries a Tick."""
        stood_ns = now_ns - self._tick_ns if self._tick_ns else 0
        self._tick_ns = self._post.now_ns = now_ns
        self._wall_ns = wall_ns
        part = self._leading or self._following
        if stood_ns > self._shrink_ns // 2:
            part.heard_ns = min(now_ns, part.heard_ns + stood_ns)  # this process stood still: nobody else is blamed
        part.on_tick()
        if self._leading is not None and log_tick and self._leading.may_form:
            self.replica.on_tick(wall_ns)

    # --- cues: the other node -----------------------------------------------------------------------------------------

    def on_link(self, header: bytes, payload: bytes, peer: bytes, now_ns: int) -> None:
        """A message from the other node; `peer` names it at the Router, b"" for the Dealer."""
        self._post.now_ns = now_ns
        try:
            message = decode_replica(header)
        except WireError as error:
            self._post.notes.append(str(error))
            return
        if message.target != self.incarnation and self._rules.name_target:
            return
        if message.epoch < self.promise and self._rules.fence:
            if not isinstance(message, m.Fenced):
                self._post.reply(peer, m.Fenced(self.promise, self.incarnation, message.sender))
            return
        match message:
            case m.Join() | m.Appended() | m.SnapshotAsk() | m.Fenced():
                if self._leading is not None:
                    self._hear_standby(self._leading, message, payload, peer)
            case m.JoinAt() | m.Append() | m.SnapshotPart() | m.Diverged():
                if self._following.obeys(message, self.promise):
                    self._hear_primary(message, payload, peer)
            case _:
                assert_never(message)

    def on_fetched(self, records: bytes, last_seq: int) -> None:
        """Answer to a Fetch: whole records, up to `last_seq`, that follow what was sent to the standby."""
        if self._leading is not None:
            self._leading.on_fetched(records, last_seq)

    def on_unreadable(self, oldest_seq: int) -> None:
        """A Fetch cannot be answered: records are only to be had behind `oldest_seq`. The standby will join again."""
        self.oldest_seq = oldest_seq
        if self._leading is not None:
            self._leading.on_unreadable()

    # --- the turn -----------------------------------------------------------------------------------------------------

    def on_promised(self) -> None:
        """`promise` is durable."""
        self.promised = self.promise

    def form(self) -> list[bytes]:
        """Records to write now, in order."""
        assert not self._formed, "one write at a time"
        assert self.promised == self.promise, "a promise is durable before anything else"
        if self._following.cut is not None:
            return []
        if self._leading is not None:
            record = self.replica.form() if self._leading.may_form else b""
            self._formed = [(record, self.replica.formed_position)] if record else []
        else:
            self._formed = self._following.intake.drain()
        return [record for record, _ in self._formed]

    def replicate(self) -> list[tuple[bytes, bytes, bytes]]:
        """Messages for the standby that may travel while the record is being synced."""
        if self._leading is not None and self._formed:
            self._leading.send(*self._formed[0])
        messages, self._post.to_standby = self._post.to_standby, []
        return messages

    def on_written(self) -> None:
        """What `form` gave lies in the journal: execute it. Poisoned when the engine fails."""
        for record, after in self._formed:
            if self._leading is not None:
                self._leading.on_executing()
                self.replica.on_written()
                self._leading.on_executed(after)
            else:
                self.replica.on_replicated(record, after)
                self._following.on_executed()
            self._copy.terms.note(after)
        self._formed = []

    def on_synced(self, seq: int | None = None) -> None:
        """The journal is durable up to `seq`; None = everything that was written."""
        copy = self._copy
        copy.synced_seq = max(copy.synced_seq, copy.seq if seq is None else seq)
        if self._leading is not None and self._leading.sync_first and copy.synced_seq == copy.seq:
            self._leading.review()

    def ready(self) -> Ready:
        """What may leave now; it is not returned again."""
        assert self.promised == self.promise, "a promise is durable before anything else"
        fetch = None
        if self._leading is not None:
            fetch = self._leading.ready()
            self.replica.refuse(self._leading.hindrance)
        if self.role is Role.STANDBY:
            self._following.ready()
        inner, post = self.replica.ready(), self._post
        ready = Ready(
            inner.send,
            inner.publish,
            post.to_standby,
            post.to_primary,
            post.control,
            fetch,
            self._following.cut,
            [*inner.notes, *post.notes],
            self._files,
        )
        post.to_standby, post.to_primary, post.control, post.notes, self._files = [], [], [], [], []
        return ready

    # --- one term after the other -------------------------------------------------------------------------------------

    def _lead(self, view: m.ShardView) -> None:
        """R6: the whole log is truth; the term opens with EpochStart."""
        self._following.leave()
        self._led_epoch = view.epoch
        self._leading = Leading(
            self._copy,
            self._post,
            view,
            relaxed=self._relaxed,
            solo=self._solo,
            shrink_ns=self._shrink_ns,
            rules=self._rules,
        )
        opens = self._rules.term_opens
        self.replica.begin_term(view.epoch, self.incarnation, self._instruments, self._wall_ns, opens=opens)
        self._post.notes.append(f"leads term {view.epoch} from seq {self._copy.seq}")

    def _follow(self, view: m.ShardView) -> None:
        self._step_back(f"term {view.epoch} is led by {view.primary.node or 'nobody'}")
        if view.primary.incarnation:
            self._following.on_view(view)
        else:
            self._following.leave()

    def _step_back(self, why: str) -> None:
        """Whoever leads leads no more."""
        if self._leading is not None:
            self._leading = None
            self._post.notes.append(f"{why}: stepping back")
            self.replica.abdicate(silent=self._rules.doubt_is_silent)

    def _hear_standby(
        self, leading: Leading, message: m.Join | m.Appended | m.SnapshotAsk | m.Fenced, payload: bytes, peer: bytes
    ) -> None:
        match message:
            case m.Join():
                leading.on_join(message, peer)
            case m.Appended():
                leading.on_appended(message, peer)
            case m.SnapshotAsk():
                if message.epoch == leading.epoch:
                    self._files.append(Files(message, payload, peer))
            case m.Fenced():
                if message.epoch > leading.epoch and self._rules.obey_refusal:
                    self.promise = max(self.promise, message.epoch)
                    self._step_back(f"fenced by term {message.epoch}")
            case _:
                assert_never(message)

    def _hear_primary(
        self, message: m.JoinAt | m.Append | m.SnapshotPart | m.Diverged, payload: bytes, peer: bytes
    ) -> None:
        match message:
            case m.JoinAt():
                self._following.on_join_at(message)
            case m.Append():
                self._following.on_append(message, payload)
            case m.SnapshotPart():
                if self._following.cut is not None:
                    self._files.append(Files(message, payload, peer))
            case m.Diverged():
                self._following.diverged = message.detail
            case _:
                assert_never(message)
