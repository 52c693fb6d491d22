"""The shell of a node that stands before a record which it cannot run (rule R14): it says so, and waits for a word.

It leads nothing, follows nobody, opens no door but the one to the coordinator, and changes its journal only when
another node leads. Whatever releases it ends the process with EXIT_RESTART: recovery is the only start-up path.
"""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from exchange import messages as m
from exchange.clock import monotonic_ns, wall_ns
from exchange.domain import NS_PER_MS
from exchange.errors import WireError
from exchange.limits import NODE_BEAT_INTERVAL_NS
from exchange.membership import Membership
from exchange.process import EXIT_RESTART, Daemon
from exchange.sockets import Dealer, Waiter
from exchange.wire import decode_coordinator_outbound
from shard.bounded_log import BoundedLog
from shard.core.held import Release, release
from shard.core.journal import Position
from shard.core.replay import Held
from shard.enrolment import Enrolment, doubt
from shard.node_state import NodeState, SyncedNote, save_state
from shard.rejoin import cut_behind


class HeldServer:
    """`held` = where recovery stopped, `end` = where the journal ends."""

    def __init__(
        self, daemon: Daemon, shard: str, directory: Path, state: NodeState, note: SyncedNote, held: Held, end: Position
    ) -> None:
        self._log = daemon.log
        self._notes = BoundedLog(daemon.log)
        self._shard = shard
        self._name = daemon.name
        self._directory = directory
        self._state = state
        self._note = note
        self._held = held
        self._end = end
        self._exit: int | None = None
        self._enrolment = Enrolment(daemon.config, shard, daemon.name, state, poisoned_seq=held.seq)
        self._membership = Membership(self._register(), self._stats, beat_interval_ns=NODE_BEAT_INTERVAL_NS)
        self._control = Dealer(f"shard:{daemon.name}", hwm=1_000)
        self._control.connect(daemon.config.endpoint("control"))

    def run(self) -> int:
        """Wait until the word comes or a signal; returns the exit code. OSError when the disk fails."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        poison = self._held.poison
        self._log.critical("held before a poison command", seq=self._held.seq, epoch=poison.epoch, deaths=poison.deaths)
        waiter = Waiter(self._control)
        try:
            while self._exit is None:
                waiter.wait(NODE_BEAT_INTERVAL_NS // NS_PER_MS)
                self._read_control()
                self._membership.update(self._register())
                self._send(self._membership.on_tick(monotonic_ns()))
        finally:
            self._control.close()
            self._note.close()
        return self._exit

    def _read_control(self) -> None:
        while self._exit is None and (received := self._control.receive()) is not None:
            try:
                message = decode_coordinator_outbound(received[0])
            except WireError as error:
                self._notes.note(str(error), monotonic_ns())
            else:
                self._on_control(message)

    def _on_control(self, message: m.CoordinatorOutbound) -> None:
        match message:
            case m.Registered() if message.session == self._enrolment.session and not message.refused:
                why_not = doubt(message, self._state.promised_epoch)
                if why_not:
                    self._notes.note(why_not, monotonic_ns())
                    return
                self._save(promised_epoch=message.epoch, incarnation=message.incarnation)
            case m.ShardView() if message.shard == self._shard and self._membership.registered:
                self._on_view(message)
            case _:
                pass  # the membership's business, or another shard's
        self._send(self._membership.on_message(message, monotonic_ns()))
        if self._membership.over:
            self._log.warning("this session is over", answer=self._membership.refused)
            self._exit = EXIT_RESTART

    def _on_view(self, view: m.ShardView) -> None:
        """Remember it, then do what it allows."""
        state = self._state
        if view.ver < state.view_ver or view.epoch < state.promised_epoch:
            return
        if (view.ver, view.epoch) != (state.view_ver, state.promised_epoch):
            self._save(promised_epoch=view.epoch, view_ver=view.ver, skip=tuple(view.skip))
        position, poison = self._held.position, self._held.poison
        match release(view, node=self._name, seq=self._held.seq, deaths=poison.deaths):
            case Release.SKIP:
                self._log.warning("an operator had the command left out", seq=self._held.seq)
                self._exit = EXIT_RESTART
            case Release.REJOIN:
                self._log.warning("cutting what another primary's log may not have", after_seq=position.seq)
                cut_behind(self._directory, position.seq, self._note, wall_ns())
                self._exit = EXIT_RESTART
            case None:
                pass

    def _register(self) -> m.Register:
        return self._enrolment.message(self._state, last_epoch=self._end.epoch, last_seq=self._end.seq)

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        return False, {
            "shard": self._shard,
            "role": "held",
            "mode": "held",
            "epoch": self._state.promised_epoch,
            "seq": self._held.position.seq,
            "last_epoch": self._end.epoch,
            "last_seq": self._end.seq,
            "view": self._state.view_ver,
            "hears_primary_ms": -1,
            "poisoned_seq": self._held.seq,
            "deaths": self._held.poison.deaths,
        }

    def _send(self, messages: list[bytes]) -> None:
        for message in messages:
            self._control.send(message)

    def _save(self, **changes: Any) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        save_state(self._directory, self._state)

    def _on_signal(self, *_: object) -> None:
        self._exit = 0
