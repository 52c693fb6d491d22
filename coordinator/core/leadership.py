"""Who leads one shard, and when that changes. Pure; `coordinator.core.group` says which changes are permitted.

Laws
    Every change is one compare-and-set of the shard's record, and is told only after it is durable.
    A primary whose process has ended is replaced at once. One that is merely silent is suspect after a while; while its
    standby says that it hears the primary, it is the way to us that is cut: it serves on, and the change waits HOLD_NS.
    Nobody outside the in-sync set ever leads by itself, and a shard that changes hands too often is left to operators.
    Whatever is asked of a primary has an end: it is told to go on when a switch is not to be.
"""

from msgspec import Struct
from msgspec.structs import replace

from coordinator.core import group as groups
from coordinator.core import records
from coordinator.core.group import NOBODY, Denied, Group, Node, Session
from coordinator.core.health import NODE, Health, node_place
from coordinator.core.outbox import Outbox
from coordinator.core.rules import ALL, Rules
from coordinator.core.suspicion import Suspicion, number
from exchange import messages as m
from exchange.domain import NS_PER_S

SWITCH_WITHIN_NS = 2 * NS_PER_S
ENDED_SESSIONS_MAX = 64


class Policy(Struct, frozen=True):
    """What the configuration says. `relaxed` = the mode `replicated`."""

    failovers_max: int = 3
    failovers_window_ns: int = 600 * NS_PER_S
    relaxed: bool = False


DEFAULT = Policy()


class _Switch(Struct, frozen=True):
    """A planned switch under way; `peer` = the operator who waits for its end, b"" = nobody."""

    peer: bytes
    epoch: int
    to: Session
    deadline_ns: int


class Leadership:
    """One shard and its configured `nodes`. `serving` = the primary of the present term says that it serves."""

    def __init__(
        self,
        shard: str,
        nodes: list[str],
        group: Group,
        *,
        policy: Policy,
        health: Health,
        outbox: Outbox,
        rules: Rules = ALL,
    ) -> None:
        self.shard = shard
        self.nodes = nodes
        self.group = group
        self.serving = False
        self._policy = policy
        self._health = health
        self._outbox = outbox
        self._rules = rules
        self._key = records.SHARD_PREFIX + shard
        self._behind = False
        self._suspicion = Suspicion(health)
        self._switch: _Switch | None = None
        self._ended: list[str] = []
        self._logs: dict[Session, groups.Log] = {}

    # --- what others may know ---------------------------------------------------------------------------------------

    @property
    def ver(self) -> int:
        """Version of the shard's record."""
        return self._outbox.ver(self._key)

    @property
    def entry(self) -> m.ShardEntry:
        """The shard map's word on this shard."""
        group = self.group
        node, incarnation = group.primary
        if not group.epoch:
            return m.ShardEntry(self.shard, 0, "", 0, "", "", False)
        endpoints = group.nodes[node].endpoints if node else {}
        orders, events = endpoints.get("orders", ""), endpoints.get("events", "")
        return m.ShardEntry(self.shard, group.epoch, node, incarnation, orders, events, self.serving)

    def leads(self, entry: m.ShardEntry) -> bool:
        """An entry of an older map names the present term."""
        return (entry.epoch, entry.node, entry.incarnation) == (self.group.epoch, *self.group.primary)

    @property
    def view(self) -> m.ShardView:
        """The record as its nodes are told."""
        group = self.group
        members = [self._member(group.current(node)) for node in sorted(group.nodes)]
        isr = [self._member(session) for session in group.isr]
        skip = [skipped.seq for skipped in group.skip]
        return m.ShardView(self.shard, self.ver, group.epoch, self._member(group.primary), isr, members, skip)

    @property
    def well(self) -> bool:
        """There are as many copies as there should be, and failures are dealt with."""
        group = self.group
        troubled = group.flapping or group.frozen_seq or self._behind
        return len(group.isr) >= len(self.nodes) and not troubled

    def status(self, now_ns: int) -> m.ShardStatus:
        """What operators see."""
        group = self.group
        heirs = self._suspicion.heirs(group, now_ns)
        living = [node for node in self.nodes if not self._health.silent(node_place(node), now_ns)]
        flags = {
            "SOLO": len(group.isr) == 1,
            "NO_FAILOVER": bool(group.epoch) and (not heirs or group.flapping or group.frozen_seq > 0 or self._behind),
            "FLAPPING": group.flapping,
            "UNCLEAN": group.unclean,
            "METADATA_BEHIND": self._behind,
            "LOGS_AWAITED": group.weighing,
            "FROZEN": group.frozen_seq > 0,
            "CLOCK": any(self._health.stats(node_place(node)).get("clock_off_ms", 0) != 0 for node in living),
        }
        return m.ShardStatus(
            self.shard,
            group.epoch,
            self.ver,
            group.primary[0],
            [node for node, _ in group.isr],
            self.nodes,
            self.serving,
            [flag for flag, shown in flags.items() if shown],
            group.frozen_seq,
            [skipped.seq for skipped in group.skip],
        )

    # --- cues: nodes ------------------------------------------------------------------------------------------------

    def refusal(self, message: m.Register, now_ns: int) -> str:
        """Why this process may not come as this node; empty when it may."""
        if self.is_over(message.session):
            return f"{message.name!r} of shard {self.shard!r} was started again: session {message.session} is over"
        known = self.group.nodes.get(message.name)
        if known is not None and known.journal_uuid == message.uuid:
            self._compare(message.name, message.view_ver, message.promised_epoch)
        if self._behind or message.view_ver > self.ver or message.promised_epoch > self.group.epoch:
            return (
                f"METADATA_BEHIND: {message.name!r} of shard {self.shard!r} has seen version {message.view_ver} and "
                f"promised epoch {message.promised_epoch}, the control store is at {self.ver} and {self.group.epoch}: "
                "it went back in time; restore its newest copy"
            )
        if known is not None and known.session_uuid == message.session:
            return ""
        if self.must_wait(message.name, now_ns):
            return ""  # what may be refused to an only copy is not refused before it is known to be one
        return self._unequal(message, now_ns) or groups.refusal(
            self.group,
            self.shard,
            message.name,
            journal_uuid=message.uuid,
            promised_epoch=message.promised_epoch,
            alive=self._alive(now_ns),
        )

    def is_over(self, session: str) -> bool:
        """A newer process has taken this one's place."""
        return session in self._ended

    def must_wait(self, name: str, now_ns: int) -> bool:
        """A new session of this node cannot be taken yet: it may have to lead, and it is not known whether others live.

        Not only of the set: one that is not, and lives, may know that the store went back in time.
        """
        group = self.group
        if group.current(name) not in group.isr:
            return False
        others = [group.current(node) for node in group.nodes if node != name]
        return any(self._health.undecided(node_place(node), incarnation, now_ns) for node, incarnation in others)

    def register(self, message: m.Register, incarnation: int, now_ns: int) -> None:
        """A new session of a node begins."""
        known = self.group.nodes.get(message.name)
        if known is not None:
            self._ended = [*self._ended[1 - ENDED_SESSIONS_MAX :], known.session_uuid]
        endpoints = dict(message.endpoints)
        node = Node(
            incarnation,
            message.uuid,
            message.session,
            message.pid,
            endpoints,
            message.poisoned_seq,
            dict(message.must_equal),
        )
        before = self.group
        changed = groups.register(
            before,
            message.name,
            node,
            self._alive(now_ns),
            lossy=message.lossy,
            relaxed=self._policy.relaxed,
            rules=self._rules,
        )
        if message.poisoned_seq:
            self._outbox.note(f"{self.shard}: {message.name} died of seq {message.poisoned_seq} and is held before it")
        if changed.frozen_seq and changed.frozen_seq != before.frozen_seq:
            self._outbox.note(f"{self.shard}: FROZEN: nobody who could lead can run seq {changed.frozen_seq}")
        if changed.primary != NOBODY and before.primary[0] not in ("", changed.primary[0]):
            changed = replace(changed, failovers_ns=(*self._recent(now_ns), now_ns))
            self._outbox.note(f"{self.shard}: {message.name} starts again, {changed.primary[0]} leads {changed.epoch}")
        self._keep(changed)

    def on_beat(self, peer: bytes, message: m.Beat, now_ns: int) -> None:
        """A heartbeat of a known session came; `Health` has taken it already."""
        stats = self._health.stats(node_place(message.name))
        session = message.name, message.incarnation
        seen_ver = number(stats, "view")
        self._compare(message.name, seen_ver, number(stats, "epoch"))
        if session == self.group.primary:
            leads = stats.get("role") == "primary" and number(stats, "epoch") == self.group.epoch
            self.serving = message.ready and leads
            if self.serving and self.group.served_epoch != self.group.epoch:
                self._keep(replace(self.group, served_epoch=self.group.epoch))
        if self.group.weighing and seen_ver == self.ver:
            self._logs[session] = number(stats, "last_epoch"), number(stats, "last_seq")
        if seen_ver < self.ver:
            self._outbox.send(peer, self.view)

    def on_gone(self, node: str, now_ns: int) -> None:
        """The process of a node has ended; `Health` knows it."""
        group = self.group
        if group.primary[0] == node:
            if not self._behind:
                self._watch_primary(now_ns)
        elif group.primary != NOBODY:
            self._outbox.send(_peer(group.primary[0]), m.Ended(self.shard, self._member(group.current(node))))

    def on_ask(self, peer: bytes, message: m.AskIsr) -> None:
        """A primary asks for another in-sync set. A refusal is for ever, so there is none while the store is behind:
        when it has been put right, a copy of the question that is still on its way would be granted.
        """
        if self._behind:
            self._outbox.note(f"{self.shard}: {message.node} is not answered: METADATA_BEHIND")
            return
        try:
            changed = groups.change_isr(
                self.group,
                ver=self.ver,
                asked_ver=message.ver,
                epoch=message.epoch,
                asker=(message.node, message.incarnation),
                isr=tuple((member.node, member.incarnation) for member in message.isr),
                rules=self._rules,
            )
        except Denied as why:
            self._outbox.note(f"{self.shard}: in-sync set stays: {why}")
            self._outbox.send(peer, m.IsrAnswer(message.request, message.incarnation, False, self.view))
            return
        if changed != self.group:
            self._outbox.note(f"{self.shard}: in sync are {', '.join(node for node, _ in changed.isr)}")
        self._keep(changed)
        self._outbox.send(peer, m.IsrAnswer(message.request, message.incarnation, True, self.view))

    def on_drained(self, peer: bytes, message: m.Drained, now_ns: int) -> None:
        """A primary has handed over. When nobody waits for that any more, it is told to go on."""
        switch, to = self._switch, (message.to.node, message.to.incarnation)
        asker = message.node, message.incarnation
        if switch is None or (message.epoch, asker, to) != (switch.epoch, self.group.primary, switch.to):
            self._outbox.send(peer, self.view)
            return
        try:
            self._undisturbed()
            if not self._alive(now_ns)(to):
                raise Denied(f"{to[0]} is no longer alive")
            changed = groups.promote(self.group, to)
        except Denied as why:
            self._end_switch(str(why))
            return
        if not switch.peer:
            changed = replace(changed, failovers_ns=(*self._recent(now_ns), now_ns))
        else:
            changed = replace(changed, failovers_ns=(), flapping=False)
        self._outbox.note(f"{self.shard}: {asker[0]} has handed over, {to[0]} leads term {changed.epoch}")
        self._keep(changed)

    # --- cues: operators --------------------------------------------------------------------------------------------

    def on_switch(self, peer: bytes, now_ns: int) -> None:
        """Have the primary hand over to its standby; `peer` is told how it ends."""
        group = self.group
        heirs = self._suspicion.heirs(group, now_ns)
        try:
            self._undisturbed()
            if self._switch is not None:
                raise Denied("a switch is under way already")
            if group.primary == NOBODY:
                raise Denied("nobody leads it")
            if not (self.serving and self._alive(now_ns)(group.primary)):
                raise Denied(f"{group.primary[0]} does not serve: there is nothing to hand over")
            if not heirs:
                names = ", ".join(node for node, _ in group.isr)
                raise Denied(f"no standby is alive and in sync, only {names}")
        except Denied as why:
            self._answer(peer, f"shard {self.shard}: {why}")
            return
        self._switch = _Switch(peer, group.epoch, heirs[0], now_ns + SWITCH_WITHIN_NS)
        request = m.StepDown(self.shard, group.epoch, self._member(heirs[0]))
        self._outbox.send(_peer(group.primary[0]), request)

    def on_elect(self, peer: bytes, message: m.Elect, now_ns: int) -> None:
        """An operator's choice of a primary."""
        group, session = self.group, self.group.current(message.node)
        try:
            self._undisturbed()
            if session == group.primary != NOBODY and not group.flapping:
                raise Denied(f"{message.node} leads already")
            if session == group.primary != NOBODY:
                changed = group
            else:
                changed = groups.elect(group, message.node, accept_loss=message.accept_loss)
            if not self._alive(now_ns)(session):
                raise Denied(f"{message.node} is not alive")
        except Denied as why:
            self._answer(peer, f"shard {self.shard}: {why}")
            return
        outside = session not in group.isr or group.weighing
        how = "acknowledged orders may be lost: UNCLEAN" if outside else "from the in-sync set"
        self._outbox.note(f"{self.shard}: {message.actor} made {message.node} the primary, {how}")
        self._keep(replace(changed, failovers_ns=(), flapping=False))
        self._answer(peer, "")

    def on_skip(self, peer: bytes, message: m.Skip) -> None:
        """An operator has a command left out that nobody can run."""
        try:
            self._undisturbed()
            changed = groups.skip(self.group, message.seq, actor=message.actor, why=message.why)
        except Denied as why:
            self._answer(peer, f"shard {self.shard}: {why}")
            return
        self._outbox.note(f"{self.shard}: {message.actor} has seq {message.seq} left out: {message.why}")
        self._keep(changed)
        self._answer(peer, "")

    def on_clock(self, peer: bytes, now_ns: int) -> None:
        """Have the primary believe its wall clock."""
        primary = self.group.primary
        if not (self.serving and self._alive(now_ns)(primary)):
            self._answer(peer, f"shard {self.shard}: nobody serves it whose clock could be believed")
            return
        self._outbox.send(_peer(primary[0]), m.TakeClock(self.shard, self.group.epoch))
        self._answer(peer, "")

    # --- cues: time -------------------------------------------------------------------------------------------------

    def on_tick(self, now_ns: int, stood_ns: int) -> None:
        """Time passes; `stood_ns` of it this process stood still. Everything that has arrived must have been taken: who
        is judged by silence was heard out."""
        if stood_ns:
            self._suspicion.stood_still(stood_ns)
            if self._switch is not None:
                self._switch = replace(self._switch, deadline_ns=self._switch.deadline_ns + stood_ns)
        if self._switch is not None and now_ns >= self._switch.deadline_ns:
            seconds = SWITCH_WITHIN_NS // NS_PER_S
            self._end_switch(f"{self.group.primary[0]} did not drain within {seconds} s: it goes on")
        if self.group.epoch and not self._behind:
            self._weigh()
            self._watch_primary(now_ns)
            self._watch_disk(now_ns)

    def _weigh(self) -> None:
        changed = groups.weigh(self.group, self._logs)
        if changed is not self.group:
            self._outbox.note(f"{self.shard}: of all logs that of {changed.primary[0]} goes furthest: UNCLEAN")
            self._keep(changed)

    def _watch_primary(self, now_ns: int) -> None:
        """Replace a primary that is gone."""
        if not self._suspicion.is_lost(self.group, now_ns):
            return
        self.serving = False
        try:
            changed = groups.fail_over(self.group, self._alive(now_ns), rules=self._rules)
        except Denied:
            return
        if self.group.flapping:
            return
        recent = self._recent(now_ns)
        if len(recent) >= self._policy.failovers_max:
            seconds = self._policy.failovers_window_ns // NS_PER_S
            often = f"{len(recent)} failovers within {seconds} s"
            self._outbox.note(f"{self.shard}: FLAPPING: {often}, from now on only operators move it")
            self._keep(replace(self.group, flapping=True))
            return
        why = "has ended" if self._suspicion.has_ended(self.group) else "is silent"
        old, new = self.group.primary[0], changed.primary[0]
        self._outbox.note(f"{self.shard}: {old} {why}, {new} leads term {changed.epoch}")
        self._keep(replace(changed, failovers_ns=(*recent, now_ns)))

    def _watch_disk(self, now_ns: int) -> None:
        """Planned switch away from a slow disk."""
        better = self._suspicion.faster_disk(self.group, now_ns)
        allowed = not self.group.flapping and len(self._recent(now_ns)) < self._policy.failovers_max
        if better is not None and self.serving and allowed and self._switch is None:
            self._suspicion.forget()
            self._outbox.note(f"{self.shard}: the disk of {self.group.primary[0]} is slow: switching to {better[0]}")
            self.on_switch(b"", now_ns)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _keep(self, changed: Group) -> None:
        """The one way to another record: written, then told to every node."""
        before = self.group
        if changed == before:
            return
        self.group = changed
        self._outbox.write(self._key, changed)
        self._logs = {}
        if (changed.epoch, changed.primary) != (before.epoch, before.primary):
            self.serving = False
            self._suspicion.forget()
            switch, self._switch = self._switch, None
            if switch is not None:
                done = changed.primary == switch.to
                why = f"shard {self.shard}: {changed.primary[0]} took over meanwhile"
                self._answer(switch.peer, "" if done else why)
        for node in self.nodes:
            if _peer(node) in self._outbox.peers:
                self._outbox.send(_peer(node), self.view)

    def _end_switch(self, why: str) -> None:
        """The switch is not to be: the primary goes on."""
        switch, self._switch = self._switch, None
        if switch is not None:
            self._outbox.note(f"{self.shard}: no switch: {why}")
            self._answer(switch.peer, f"shard {self.shard}: {why}")
            self._outbox.send(_peer(self.group.primary[0]), self.view)

    def _answer(self, peer: bytes, refused: str) -> None:
        if peer:
            self._outbox.send(peer, m.Operated(refused))

    def _compare(self, name: str, seen_ver: int, promised_epoch: int) -> None:
        """One of our own nodes knows more than the store: no decision on such a ground."""
        if (seen_ver > self.ver or promised_epoch > self.group.epoch) and not self._behind:
            self._behind = True
            self._outbox.note(
                f"METADATA_BEHIND: {name} has seen version {seen_ver} of shard {self.shard} and promised epoch "
                f"{promised_epoch}, the control store is at {self.ver} and {self.group.epoch}: nothing is decided now"
            )

    def _unequal(self, message: m.Register, now_ns: int) -> str:
        """How a node differs from a living one of its shard in what makes the same log give the same state."""
        for name, known in sorted(self.group.nodes.items()):
            if name == message.name or self._health.silent(node_place(name), now_ns):
                continue
            for setting in sorted(message.must_equal.keys() & known.must_equal.keys()):
                ours, theirs = message.must_equal[setting], known.must_equal[setting]
                if ours != theirs:
                    return (
                        f"{message.name!r} of shard {self.shard!r}: its {setting} is {ours}, that of {name}, which "
                        f"lives, is {theirs}: stop both nodes, make their cluster.toml equal, start both"
                    )
        return ""

    def _undisturbed(self) -> None:
        """Denied while the store is known to be behind."""
        if self._behind:
            raise Denied("METADATA_BEHIND: the control store went back in time, nothing can be decided")

    def _alive(self, now_ns: int) -> groups.Alive:
        return lambda session: self._health.alive(node_place(session[0]), session[1], now_ns)

    def _member(self, session: Session) -> m.Member:
        """A session and its replication door; of one that is over only its name."""
        known = self.group.current(session[0]) == session != NOBODY
        endpoint = self.group.nodes[session[0]].endpoints.get("replica", "") if known else ""
        return m.Member(session[0], session[1], endpoint)

    def _recent(self, now_ns: int) -> tuple[int, ...]:
        """Failovers within the window; those of a clock that has begun anew since do not count."""
        since_ns = now_ns - self._policy.failovers_window_ns
        return tuple(ns for ns in self.group.failovers_ns if since_ns < ns <= now_ns)


def _peer(node: str) -> bytes:
    return f"{NODE}:{node}".encode()
