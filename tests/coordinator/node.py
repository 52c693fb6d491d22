"""A node of a shard that leads, follows and hands over, and keeps no orders: a process for stories of the coordinator.

`python -m tests.coordinator.node --config FILE --name NODE [--hears MS] [--deaf]`. A standby tells its primary that it
is there, and is added. --hears: as a standby it claims that it heard its primary so many milliseconds ago. --deaf: as
a primary it does not hand over.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import setproctitle

from exchange import config as configuration
from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS
from exchange.limits import NODE_BEAT_INTERVAL_NS
from exchange.membership import Membership
from exchange.process import title
from exchange.sockets import Dealer, Router, Waiter
from exchange.wire import decode_coordinator_outbound, encode

ASK_NS = 50 * NS_PER_MS
HEARD_NS = 200 * NS_PER_MS


class Node:
    def __init__(self, config: configuration.Config, name: str, *, hears_ms: int, deaf: bool) -> None:
        shard = {node: shard for shard, node in config.nodes()}[name]
        endpoints = {what: config.endpoint(f"{what}.{name}") for what in ("orders", "events", "replica")}
        session = f"{name}-{os.getpid()}"
        self._state = config.data / f"{name}.promised"
        promised = int(self._state.read_text()) if self._state.exists() else 0
        register = m.Register("shard", name, os.getpid(), name, 0, promised, endpoints, shard, session)
        self._name = name
        self._hears_ms = hears_ms
        self._deaf = deaf
        self._view: m.ShardView | None = None
        self._asked_ns = 0
        self._membership = Membership(register, self._stats, beat_interval_ns=NODE_BEAT_INTERVAL_NS)
        self._socket = Dealer(f"shard:{name}")
        self._socket.connect(config.endpoint("control"))
        self._door = Router()
        self._door.bind(endpoints["replica"])
        self._link: tuple[m.Member, Dealer] | None = None
        self._heard_ns: dict[str, int] = {}

    def run(self) -> None:
        """Until it is killed."""
        waiter = Waiter(self._socket)
        while True:
            waiter.wait(10)
            now_ns = monotonic_ns()
            while (received := self._socket.receive()) is not None:
                self._take(decode_coordinator_outbound(received[0]), now_ns)
            for message in self._membership.on_tick(now_ns):
                self._socket.send(message)
            while (call := self._door.receive()) is not None:
                self._heard_ns[call[1].decode()] = now_ns
            if self._view is not None and now_ns - self._asked_ns >= ASK_NS:
                self._asked_ns = now_ns
                if self._leads(self._view):
                    self._ask(self._view, now_ns)
                else:
                    self._call(self._view.primary)

    def _take(self, message: m.CoordinatorOutbound, now_ns: int) -> None:
        for answer in self._membership.on_message(message, now_ns):
            self._socket.send(answer)
        match message:
            case m.Registered() if not message.refused:
                self._promise(message.epoch)
            case m.ShardView():
                self._see(message)
            case m.IsrAnswer():
                self._see(message.view)
            case m.StepDown() if not self._deaf:
                mine = self._membership.incarnation
                self._socket.send(encode(m.Drained(message.shard, message.epoch, self._name, mine, message.to, 0)))
            case _:
                pass

    def _see(self, view: m.ShardView) -> None:
        if self._view is None or view.ver > self._view.ver:
            self._view = view
            self._promise(view.epoch)

    def _promise(self, epoch: int) -> None:
        unfinished = self._state.with_suffix(".new")
        unfinished.write_text(str(epoch))
        unfinished.rename(self._state)

    def _ask(self, view: m.ShardView, now_ns: int) -> None:
        """Add whoever is there."""
        there = [member for member in view.members if self._is_there(member, now_ns)]
        if any(member not in view.isr for member in there):
            leader = view.primary
            asked = m.AskIsr(view.shard, 1, view.ver, view.epoch, leader.node, leader.incarnation, [leader, *there])
            self._socket.send(encode(asked))

    def _is_there(self, member: m.Member, now_ns: int) -> bool:
        heard_ns = self._heard_ns.get(f"{member.node}:{member.incarnation}")
        return heard_ns is not None and now_ns - heard_ns < HEARD_NS

    def _call(self, primary: m.Member) -> None:
        """Tell the primary that this node is there."""
        if self._link is None or self._link[0] != primary:
            if self._link is not None:
                self._link[1].close()
            self._link = primary, Dealer(f"{self._name}:{self._membership.incarnation}")
            self._link[1].connect(primary.endpoint)
        self._link[1].send(f"{self._name}:{self._membership.incarnation}".encode())

    def _leads(self, view: m.ShardView) -> bool:
        return (view.primary.node, view.primary.incarnation) == (self._name, self._membership.incarnation)

    def _stats(self) -> tuple[bool, Mapping[str, Any]]:
        view = self._view
        if view is None:
            return False, {"view": 0}
        leads = self._leads(view)
        hears_ms = -1 if leads else self._hears_ms
        role = "primary" if leads else "standby"
        return True, {"role": role, "epoch": view.epoch, "view": view.ver, "hears_primary_ms": hears_ms}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--hears", type=int, default=-1)
    parser.add_argument("--deaf", action="store_true")
    arguments = parser.parse_args()
    config = configuration.load(arguments.config)
    setproctitle.setproctitle(title(config, "shard", arguments.name))
    Node(config, arguments.name, hears_ms=arguments.hears, deaf=arguments.deaf).run()


if __name__ == "__main__":
    main()
