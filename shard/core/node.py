"""One node of a replicated shard: who it is in this term, what it sends to the other node, what counts as committed. Pure.

A turn of the shell, in this order, which is the safety argument (rules R1-R10, W3-W8 of docs/PROTOCOL.md):

1. cues: `on_order`, `on_link`, `on_view`, `on_answer`, `on_tick`, ...
2. `promise`: when it is above what is durable, persist it before anything else of this turn (R1)
3. `form`: records to write; for a primary one that it made, for a standby those that it was sent. Write them, then send
   what `replicate` returns (it travels while the disk works), then `on_written` (executes), sync, `on_synced`
4. `ready`: what may leave now: answers, events, acknowledgements, requests to the coordinator, work on the journal

Roles
    WAITING   registered or not, no view of the shard yet
    STANDBY   another node leads: joins its log, appends, acknowledges
    PRIMARY   leads the term of the view: executes, commits when every required node has acknowledged
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple, assert_never

from exchange import messages as m
from exchange.domain import NS_PER_MS
from exchange.errors import WireError
from exchange.wire import decode_replica, encode
from shard.core.journal import Position, advance
from shard.core.outcome import event_frame
from shard.core.record import decode_head, decode_record
from shard.core.replay import apply
from shard.core.replica import Phase, Replica
from shard.core.rules import ALL, Rules

LINK_BEAT_NS = 50 * NS_PER_MS
LINK_SILENCE_NS = 300 * NS_PER_MS
"""A required standby that has not acknowledged for so long is asked to be dropped (T_shrink)."""
JOIN_RETRY_NS = 100 * NS_PER_MS
ASK_RETRY_NS = 100 * NS_PER_MS
STALL_REFUSE_NS = 500 * NS_PER_MS
"""A primary that could not commit for so long refuses new batches instead of letting them wait."""
DOUBT_RECORDS_MAX = 256
WINDOW_BYTES_MAX = 4 * 1024 * 1024
"""Records sent to a standby and not acknowledged; also what one fetch may read from the journal at once is below it."""
FETCH_BYTES_MAX = 1024 * 1024
TERMS_MAX = 64


class Role(Enum):
    WAITING = "waiting"
    STANDBY = "standby"
    PRIMARY = "primary"


class Fetch(NamedTuple):
    """Read whole records behind `after_seq`, at most `bytes_max` (at least one), and hand them to `on_fetched`."""

    after_seq: int
    bytes_max: int


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


class _Standing:
    """What a primary knows of its standby's present incarnation."""

    def __init__(self, peer: bytes, member: m.Member, seq: int, now_ns: int) -> None:
        self.peer = peer
        self.member = member
        self.sent_seq = seq
        self.acked_seq = seq
        self.heard_ns = now_ns
        self.window_bytes = 0
        self.fetching = False


class Node:
    """Single-threaded; no method blocks. `synced` = False for the mode in which a standby acknowledges what it wrote."""

    def __init__(
        self,
        replica: Replica,
        *,
        shard: str,
        node: str,
        promised: int,
        terms: Iterable[m.Term],
        oldest_seq: int,
        rules: Rules = ALL,
    ) -> None:
        self.replica = replica
        self.role = Role.WAITING
        self.promised = promised
        self.promise = promised
        self.incarnation = 0
        self.view: m.ShardView | None = None
        self.oldest_seq = oldest_seq
        self.commit_seq = 0
        self.diverged = ""
        self._shard = shard
        self._node = node
        self._rules = rules
        self._terms: list[m.Term] = list(terms)
        self._instruments: list[m.Instrument] = []
        self._now_ns = 0
        self._wall_ns = 0
        self._own_seq = replica.position.seq
        self._formed: list[tuple[bytes, Position]] = []
        self._primary_record = False
        # primary
        self._standing: _Standing | None = None
        self._adding: m.Member | None = None
        self._trails: deque[tuple[int, int]] = deque()
        self._request = 0
        self._asked: m.AskIsr | None = None
        self._asked_ns = 0
        self._doubt_since_ns = 0
        self._stepping: m.StepDown | None = None
        # standby
        self._joined = False
        self._join_ns = 0
        self._queue: deque[tuple[bytes, Position]] = deque()
        self._tail = replica.position
        self._heard_ns = 0
        # outputs
        self._beat_ns = 0
        self._to_standby: list[tuple[bytes, bytes, bytes]] = []
        self._to_primary: list[tuple[bytes, bytes]] = []
        self._control: list[bytes] = []
        self._cut: Cut | None = None
        self._notes: list[str] = []

    # --- what others may know ---------------------------------------------------------------------------------------

    @property
    def primary(self) -> m.Member | None:
        """Whom a standby's Dealer must be connected to."""
        return self.view.primary if self.view is not None and self.role is Role.STANDBY else None

    @property
    def serving(self) -> bool:
        """Leads, and what opened its term is committed."""
        return self.role is Role.PRIMARY and self.replica.serving and not self._stalled

    @property
    def mode(self) -> str:
        """`solo`, `paired`, `joining` for a primary; `standby` or `waiting` else."""
        if self.role is not Role.PRIMARY:
            return self.role.value
        if self._required:
            return "paired"
        return "joining" if self._standing is not None else "solo"

    @property
    def lag(self) -> int:
        """Commands that the standby has not acknowledged; -1 without one."""
        return self.replica.position.seq - self._standing.acked_seq if self._standing is not None else -1

    @property
    def hears_primary_ns(self) -> int:
        """When this standby last heard its primary."""
        return self._heard_ns

    @property
    def busy(self) -> bool:
        """`form` would give records without any further cue."""
        if self.role is Role.STANDBY:
            return bool(self._queue)
        return self.replica.busy and self.replica.in_doubt < DOUBT_RECORDS_MAX and self._stepping is None

    @property
    def last_term(self) -> int:
        """Term of the last record."""
        return self.replica.position.epoch

    @property
    def _required(self) -> list[m.Member]:
        """R2: the maximal view without this node: recorded in-sync set and what is being added."""
        if self.view is None or not self._rules.commit_needs_view:
            return []
        required = [member for member in self.view.isr if member.node != self._node]
        if self._adding is not None and self._adding not in required:
            required.append(self._adding)
        return required

    @property
    def _stalled(self) -> bool:
        return bool(self.replica.in_doubt) and self._now_ns - self._doubt_since_ns > STALL_REFUSE_NS

    # --- cues: the coordinator ---------------------------------------------------------------------------------------

    def on_registered(self, epoch: int, incarnation: int) -> None:
        """The coordinator knows this process; the shard's term is promised from now on (R7)."""
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
        before, self.view = self.view, view
        if view.epoch < self.promise and self._rules.fence:
            self._notes.append(f"view of term {view.epoch} is below the promised term {self.promise}")
            self.view = before
            return
        self.promise = max(self.promise, view.epoch)
        mine = (view.primary.node, view.primary.incarnation) == (self._node, self.incarnation)
        if mine and (before is None or before.epoch != view.epoch or self.role is not Role.PRIMARY):
            self._lead(view)
        elif not mine and (self._rules.obey_refusal or self.role is not Role.PRIMARY):
            self._follow(before)
        if self.role is Role.PRIMARY:
            self._review()

    def on_answer(self, answer: m.IsrAnswer) -> None:
        """The store decided about an in-sync set."""
        asked = self._asked
        self.on_view(answer.view)
        if asked is None or answer.request != asked.request:
            return
        self._asked = None
        self._adding = None
        if self.role is Role.PRIMARY:
            self._review()

    def on_step_down(self, request: m.StepDown) -> None:
        """Planned switch: form no more records; hand over when everything is acknowledged."""
        standing = self._standing
        if self.role is Role.PRIMARY and self.view is not None and request.epoch == self.view.epoch:
            if standing is not None and standing.member == request.to and request.to in self._required:
                self._stepping = request
                self._review()

    # --- cues: customers and time ---------------------------------------------------------------------------------------

    def on_order(self, header: bytes, payload: bytes, peer: bytes, wall_ns: int) -> None:
        """A message from the orders Router."""
        self._wall_ns = wall_ns
        self.replica.on_message(header, payload, peer, wall_ns)

    def on_tick(self, wall_ns: int, now_ns: int, *, log_tick: bool) -> None:
        """Time passes; `log_tick` = the next record carries a Tick."""
        self._now_ns, self._wall_ns = now_ns, wall_ns
        if log_tick and self.role is Role.PRIMARY and self.replica.in_doubt < DOUBT_RECORDS_MAX:
            self.replica.on_tick(wall_ns)
        if self.role is Role.PRIMARY:
            self._beat_standby()
            self._review()
        elif self.role is Role.STANDBY and not self._joined and now_ns - self._join_ns >= JOIN_RETRY_NS:
            self._join()

    # --- cues: the other node --------------------------------------------------------------------------------------------

    def on_link(self, header: bytes, payload: bytes, peer: bytes, now_ns: int) -> None:
        """A message from the other node; `peer` names it at the Router, b"" for the Dealer."""
        self._now_ns = now_ns
        try:
            message = decode_replica(header)
        except WireError as error:
            self._notes.append(str(error))
            return
        if self._rules.name_target and message.target != self.incarnation:
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
            case m.SnapshotAsk() | m.SnapshotPart():
                pass  # files: the shell's business
            case _:
                assert_never(message)

    def on_fetched(self, records: bytes, last_seq: int) -> None:
        """Answer to a Fetch: whole records that follow what was sent to the standby."""
        standing = self._standing
        if standing is None or not standing.fetching:
            return
        standing.fetching = False
        if records and last_seq > standing.sent_seq:
            self._append_to(standing, records, standing.sent_seq, last_seq)

    # --- the turn -----------------------------------------------------------------------------------------------------------

    def on_promised(self) -> None:
        """`promise` is durable."""
        self.promised = self.promise

    def form(self) -> list[bytes]:
        """Records to write now, in order."""
        assert not self._formed, "one write at a time"
        assert self.promised == self.promise, "a promise is durable before anything else"
        self._primary_record = False
        if self._cut is not None:
            return []
        if self.role is Role.STANDBY:
            self._formed = list(self._queue)
            self._queue.clear()
        elif self.role is Role.PRIMARY and self._stepping is None and self.replica.in_doubt < DOUBT_RECORDS_MAX:
            self.replica.held = bool(self._required)
            record = self.replica.form()
            if record:
                self._primary_record = True
                self._formed = [(record, self.replica.formed_position)]
        return [record for record, _ in self._formed]

    def replicate(self) -> list[tuple[bytes, bytes, bytes]]:
        """Messages for the standby that may travel while the record is being synced."""
        standing = self._standing
        if self._primary_record and standing is not None:
            record, after = self._formed[0]
            before = self.replica.position.seq
            if standing.sent_seq == before and standing.window_bytes < WINDOW_BYTES_MAX and not standing.fetching:
                self._append_to(standing, record, before, after.seq)
        messages, self._to_standby = self._to_standby, []
        return messages

    def on_written(self) -> None:
        """What `form` gave lies in the journal: execute it. Poisoned when the engine fails."""
        if self._primary_record:
            self.replica.on_written()
            after = self.replica.position
            if self._standing is not None:
                self._trails.append((after.seq, self.replica.engine.trail()))
            if not self.replica.in_doubt:
                self._doubt_since_ns = self._now_ns
        else:
            for record, after in self._formed:
                first_seq = self.replica.position.seq + 1
                outcome = apply(self.replica.engine, record, after)
                self.replica.position = after
                self.replica.ring.add(first_seq, after.seq, event_frame(outcome))
        for _, after in self._formed:
            self._note_term(after)

    def on_synced(self) -> None:
        """What `form` gave is durable here."""
        primary = self._primary_record
        self._formed = []
        self._primary_record = False
        self._own_seq = self.replica.position.seq
        if primary:
            self.replica.on_synced()
            self._commit()
        else:
            self._acknowledge()

    def ready(self) -> Ready:
        """What may leave now; it is not returned again."""
        inner = self.replica.ready()
        fetch = self._fetch()
        ready = Ready(
            inner.send,
            inner.publish,
            self._to_standby,
            self._to_primary,
            self._control,
            fetch,
            self._cut,
            [*inner.notes, *self._notes],
        )
        self._to_standby, self._to_primary, self._control, self._notes = [], [], [], []
        return ready

    # --- primary ----------------------------------------------------------------------------------------------------------------

    def _lead(self, view: m.ShardView) -> None:
        """R6: the whole log is truth; the term opens with EpochStart."""
        self._queue.clear()
        self._standing = None
        self._adding = None
        self._asked = None
        self._stepping = None
        self._trails.clear()
        self.role = Role.PRIMARY
        self.replica.begin_term(view.epoch, self.incarnation, self._instruments, self._wall_ns)
        self._doubt_since_ns = self._now_ns
        self._notes.append(f"leads term {view.epoch} from seq {self.replica.position.seq}")

    def _on_join(self, message: m.Join, peer: bytes) -> None:
        view = self.view
        if self.role is not Role.PRIMARY or view is None or message.epoch != view.epoch:
            return
        member = next(
            (one for one in view.members if (one.node, one.incarnation) == (message.node, message.sender)), None
        )
        if member is None or member.node == self._node:
            return
        common = self._common(message.terms)
        last_seq = message.terms[-1].last_seq if message.terms else 0
        snapshot = common < self.oldest_seq
        if not self._rules.cut_suffix:
            common = last_seq
        joined = common == last_seq and not snapshot
        self._trails.clear()
        self._standing = _Standing(peer, member, common, self._now_ns) if joined else None
        self._reply(peer, m.JoinAt(view.epoch, self.incarnation, message.sender, common, snapshot))

    def _common(self, theirs: list[m.Term]) -> int:
        """Last record end that both journals have: within one term, one is a prefix of the other."""
        mine = {term.epoch: term for term in self._terms}
        for term in reversed(theirs):
            own = mine.get(term.epoch)
            if own is not None:
                if own.last_seq == term.last_seq and own.chain != term.chain:
                    self._notes.append(f"term {term.epoch} ends in two ways at seq {own.last_seq}")
                    continue
                return min(own.last_seq, term.last_seq)
        return 0

    def _on_appended(self, message: m.Appended, peer: bytes) -> None:
        standing = self._standing
        if self.role is not Role.PRIMARY or standing is None or message.sender != standing.member.incarnation:
            return
        standing.heard_ns = self._now_ns
        standing.peer = peer
        if message.last_seq > standing.sent_seq:
            return
        if message.last_seq > standing.acked_seq:
            standing.acked_seq = message.last_seq
            if standing.acked_seq == standing.sent_seq:
                standing.window_bytes = 0
        if (
            message.last_seq < standing.sent_seq
            and message.last_seq == standing.acked_seq
            and not standing.window_bytes
        ):
            standing.sent_seq = message.last_seq
        self._compare_trail(message)
        self._commit()

    def _compare_trail(self, message: m.Appended) -> None:
        """R13: the same log must give the same outcomes."""
        while self._trails and self._trails[0][0] < message.last_seq:
            self._trails.popleft()
        if self._trails and self._trails[0][0] == message.last_seq and self._trails[0][1] != message.trail:
            self.diverged = (
                f"at seq {message.last_seq} the standby's trail is {message.trail}, ours {self._trails[0][1]}"
            )
            self._notes.append(self.diverged)

    def _commit(self) -> None:
        """W7: committed = durable here and acknowledged by every required node."""
        seq = self._own_seq
        for member in self._required:
            standing = self._standing
            seq = min(seq, standing.acked_seq if standing is not None and standing.member == member else 0)
        if seq > self.commit_seq:
            self.commit_seq = seq
            self._doubt_since_ns = self._now_ns
        self.replica.held = bool(self._required)
        self.replica.release(self._own_seq if not self._required else self.commit_seq)

    def _review(self) -> None:
        """Who should be in the in-sync set, and is the store asked for it?"""
        self._commit()
        view, standing = self.view, self._standing
        assert view is not None
        if self._stepping is not None and standing is not None and standing.acked_seq == self.replica.position.seq:
            if not self.replica.in_doubt and self._asked is None:
                self._hand_over(view, self._stepping)
            return
        me = [member for member in view.isr if member.node == self._node]
        others = [member for member in view.isr if member.node != self._node]
        if self._asked is not None:
            if self._now_ns - self._asked_ns >= ASK_RETRY_NS:
                self._asked_ns = self._now_ns
                self._control.append(encode(self._asked))
            return
        silent = standing is None or self._now_ns - standing.heard_ns > LINK_SILENCE_NS
        if others and (silent or standing is None or standing.member not in others):
            if self._now_ns - max(self._doubt_since_ns, standing.heard_ns if standing else 0) > LINK_SILENCE_NS:
                self._ask(me)
                if not self._rules.shrink_recorded_first:
                    self.view = m.ShardView(view.shard, view.ver, view.epoch, view.primary, me, view.members)
                    self._commit()
        elif not others and standing is not None and not silent and standing.acked_seq == self.replica.position.seq:
            if self._rules.require_before_add:
                self._adding = standing.member
            self._ask([*me, standing.member])

    def _ask(self, isr: list[m.Member]) -> None:
        assert self.view is not None
        self._request += 1
        self._asked = m.AskIsr(self._shard, self._request, self.view.epoch, self._node, self.incarnation, isr)
        self._asked_ns = self._now_ns
        self._control.append(encode(self._asked))

    def _hand_over(self, view: m.ShardView, request: m.StepDown) -> None:
        seq = self.replica.position.seq
        if self._now_ns - self._asked_ns >= ASK_RETRY_NS:
            self._asked_ns = self._now_ns
            self._control.append(
                encode(m.Drained(self._shard, view.epoch, self._node, self.incarnation, request.to, seq))
            )

    def _beat_standby(self) -> None:
        standing = self._standing
        if standing is not None and self._now_ns - self._beat_ns >= LINK_BEAT_NS:
            self._beat_ns = self._now_ns
            self._append_to(standing, b"", standing.sent_seq, standing.sent_seq)

    def _append_to(self, standing: _Standing, records: bytes, prev_seq: int, last_seq: int) -> None:
        assert self.view is not None
        header = m.Append(self.view.epoch, self.incarnation, standing.member.incarnation, prev_seq, self.commit_seq)
        self._to_standby.append((standing.peer, encode(header), records))
        standing.sent_seq = last_seq
        standing.window_bytes += len(records)

    def _fetch(self) -> Fetch | None:
        standing = self._standing
        if (
            self.role is not Role.PRIMARY
            or standing is None
            or standing.fetching
            or standing.sent_seq >= self.replica.position.seq
            or standing.window_bytes >= WINDOW_BYTES_MAX
        ):
            return None
        standing.fetching = True
        return Fetch(standing.sent_seq, FETCH_BYTES_MAX)

    # --- standby -------------------------------------------------------------------------------------------------------------------

    def _follow(self, before: m.ShardView | None) -> None:
        view = self.view
        assert view is not None
        if self.role is Role.PRIMARY:
            self._notes.append(f"term {view.epoch} is led by {view.primary.node}: stepping back")
            self.replica.abdicate()
            self._standing = None
            self._adding = None
            self._asked = None
            self._stepping = None
            self._formed = []
        self.role = Role.STANDBY
        if before is None or (before.epoch, before.primary) != (view.epoch, view.primary):
            self._joined = False
            self._queue.clear()
            self._tail = self.replica.position
            self._join()

    def _join(self) -> None:
        view = self.view
        if view is None or not view.epoch:
            return
        self._join_ns = self._now_ns
        self._queue.clear()
        self._tail = self.replica.position
        join = m.Join(view.epoch, self.incarnation, view.primary.incarnation, self._node, self._terms[-TERMS_MAX:])
        self._to_primary.append((encode(join), b""))

    def _from_primary(self, message: m.JoinAt | m.Append) -> bool:
        view = self.view
        return (
            self.role is Role.STANDBY
            and view is not None
            and message.epoch == view.epoch
            and (message.sender == view.primary.incarnation or not self._rules.name_target)
        )

    def _on_join_at(self, message: m.JoinAt) -> None:
        if not self._from_primary(message) or self._joined:
            return
        self._heard_ns = self._now_ns
        if message.snapshot or message.cut_seq < self.replica.position.seq:
            self._cut = Cut(message.cut_seq, message.snapshot)
            return
        if message.cut_seq == self.replica.position.seq:
            self._joined = True
            self._acknowledge()

    def _on_append(self, message: m.Append, records: bytes) -> None:
        if not self._from_primary(message) or not self._joined:
            return
        self._heard_ns = self._now_ns
        if message.prev_seq > self._tail.seq:
            self._joined = False  # something was lost on the way: find the common point again
            return
        try:
            self._take(records)
        except ValueError as fault:
            self._notes.append(f"records of the primary do not follow: {fault}")
            self._joined = False
            return
        self.commit_seq = max(self.commit_seq, min(message.commit_seq, self._own_seq))
        if not self._queue:
            self._acknowledge()

    def _take(self, records: bytes) -> None:
        """Queue those records that follow what is queued. ValueError leaves what was good in the queue."""
        offset = 0
        while offset < len(records):
            head = decode_head(records[offset : offset + 48])
            record = records[offset : offset + head.record_bytes]
            offset += head.record_bytes
            if head.last_seq <= self._tail.seq:
                continue
            decode_record(record)
            after = advance(self._tail, head, record)
            self._queue.append((record, after))
            self._tail = after

    def _acknowledge(self) -> None:
        view, position = self.view, self.replica.position
        if self.role is Role.STANDBY and self._joined and view is not None:
            primary = view.primary.incarnation
            appended = m.Appended(
                view.epoch, self.incarnation, primary, position.seq, position.chain, self.replica.engine.trail()
            )
            self._to_primary.append((encode(appended), b""))

    def _on_fenced(self, message: m.Fenced) -> None:
        if self.role is Role.PRIMARY and self._rules.obey_refusal and self.view is not None:
            if message.epoch > self.view.epoch:
                self._notes.append(f"fenced by term {message.epoch}: stepping back")
                self.promise = max(self.promise, message.epoch)
                self.replica.abdicate()
                self._standing = None
                self._adding = None
                self._asked = None
                self._stepping = None
                self.role = Role.WAITING

    # --- both ------------------------------------------------------------------------------------------------------------------------

    def _note_term(self, after: Position) -> None:
        term = m.Term(after.epoch, after.seq, after.chain)
        if self._terms and self._terms[-1].epoch == after.epoch:
            self._terms[-1] = term
        else:
            self._terms.append(term)

    def _reply(self, peer: bytes, message: m.ReplicaMessage) -> None:
        if peer:
            self._to_standby.append((peer, encode(message), b""))
        else:
            self._to_primary.append((encode(message), b""))
