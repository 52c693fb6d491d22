"""Randomised model of the rules by which an account's limit is split over shards (risk leases).

riskd grants rights out of one limit to three shards. Its durable ledger holds per shard what it ever granted and knows
to be released; a shard's replicated state holds what it applied, released and uses. Messages are delayed,
reordered, duplicated and lost. riskd can crash before a grant is sent and can lose its disk: then it takes a new epoch
and grants nothing until it has heard from every shard. Totals are cumulative: every message may come twice or late.

Checked after every step
    L1  sum of exposure <= sum of rights held <= limit, over all shards
"""

import random
from enum import Enum
from typing import NamedTuple

LIMIT = 100
SHARDS = 3


class Removed(Enum):
    """The rule that a run leaves out."""

    NONE = "none"
    CUMULATIVE = "messages carry totals, not increments"
    PERSIST_BEFORE_SEND = "a grant is durable before it is sent"
    LOG_BEFORE_TELL = "a release is in the shard's log before riskd hears of it"
    EPOCH = "grants of an older riskd are refused"
    LEARNING = "a riskd that lost its disk hears from all shards before it grants"


class Grant(NamedTuple):
    epoch: int
    shard: int
    total: int
    increment: int


class Release(NamedTuple):
    shard: int
    total: int
    increment: int


class Hello(NamedTuple):
    """riskd of a new epoch to a shard."""

    epoch: int
    shard: int


class Report(NamedTuple):
    """What a shard has applied and released."""

    epoch: int
    shard: int
    granted: int
    released: int


Message = Grant | Release | Hello | Report


class Shard:
    """Replicated state of one shard."""

    def __init__(self) -> None:
        self.granted = 0
        self.released = 0
        self.used = 0
        self.epoch = 1

    @property
    def held(self) -> int:
        return self.granted - self.released


class Model:
    """One run: `step` until it returns what is wrong."""

    def __init__(self, seed: int, removed: Removed) -> None:
        self._dice = random.Random(seed)
        self._removed = removed
        self._epoch = 1
        self._granted = [0] * SHARDS
        self._known_released = [0] * SHARDS
        self._shards = [Shard() for _ in range(SHARDS)]
        self._network: list[Message] = []
        self._heard: dict[int, Report] = {}
        self._grants = True

    def step(self) -> str:
        """Something happens; a sentence when L1 is broken, else nothing."""
        action = self._dice.randrange(12)
        place = self._dice.randrange(SHARDS)
        if action <= 1 and self._grants:
            self._grant(place)
        elif action <= 4 and self._network:
            self._deliver()
        elif action <= 7:
            self._accept(self._shards[place])
        elif action == 8:
            shard = self._shards[place]
            shard.used -= min(shard.used, self._dice.randint(0, 15))
        elif action == 9:
            self._release(place)
        elif action == 10 and self._dice.random() < 0.2:
            self._lose_disk()
        elif action == 11 and not self._grants:
            self._network += [Hello(self._epoch, shard) for shard in range(SHARDS)]
        return self._check()

    def _grant(self, place: int) -> None:
        quantity = self._dice.randint(1, 40)
        free = LIMIT - sum(self._granted) + sum(self._known_released)
        if quantity > free:
            return
        total = self._granted[place] + quantity
        crashes = self._removed is Removed.PERSIST_BEFORE_SEND and self._dice.random() < 0.3
        if not crashes:
            self._granted[place] = total
        self._network.append(Grant(self._epoch, place, total, quantity))

    def _accept(self, shard: Shard) -> None:
        quantity = self._dice.randint(1, 15)
        if shard.used + quantity <= shard.held:
            shard.used += quantity

    def _release(self, place: int) -> None:
        shard = self._shards[place]
        unused = shard.held - shard.used
        if unused <= 0:
            return
        quantity = self._dice.randint(1, unused)
        total = shard.released + quantity
        if self._removed is not Removed.LOG_BEFORE_TELL:
            shard.released = total
        self._network.append(Release(place, total, quantity))

    def _lose_disk(self) -> None:
        self._epoch += 1
        self._heard = {}
        self._grants = self._removed is Removed.LEARNING
        if self._grants:
            self._granted = [shard.granted for shard in self._shards]
            self._known_released = [shard.released for shard in self._shards]
        self._network += [Hello(self._epoch, shard) for shard in range(SHARDS)]

    def _deliver(self) -> None:
        message = self._dice.choice(self._network)
        if self._dice.random() < 0.5:
            self._network.remove(message)
        increments = self._removed is Removed.CUMULATIVE
        match message:
            case Grant():
                shard = self._shards[message.shard]
                if message.epoch < shard.epoch and self._removed is not Removed.EPOCH:
                    return
                applied = shard.granted + message.increment if increments else max(shard.granted, message.total)
                shard.granted = applied
            case Release():
                known = self._known_released[message.shard]
                known = known + message.increment if increments else max(known, message.total)
                self._known_released[message.shard] = known
            case Hello():
                shard = self._shards[message.shard]
                if message.epoch >= shard.epoch or self._removed is Removed.EPOCH:
                    shard.epoch = max(shard.epoch, message.epoch)
                    self._network.append(Report(message.epoch, message.shard, shard.granted, shard.released))
            case Report():
                self._learn(message)

    def _learn(self, report: Report) -> None:
        if report.epoch != self._epoch or self._grants:
            return
        self._heard[report.shard] = report
        if len(self._heard) == SHARDS:
            self._granted = [self._heard[shard].granted for shard in range(SHARDS)]
            self._known_released = [self._heard[shard].released for shard in range(SHARDS)]
            self._grants = True
            self._heard = {}

    def _check(self) -> str:
        used = sum(shard.used for shard in self._shards)
        held = sum(shard.held for shard in self._shards)
        if used > LIMIT:
            return f"exposure {used} is above the limit {LIMIT}"
        return f"rights {held} are above the limit {LIMIT}" if held > LIMIT else ""


def run(seed: int, removed: Removed = Removed.NONE, steps: int = 400) -> str:
    """What is wrong after at most `steps`; empty when nothing is."""
    model = Model(seed, removed)
    for number in range(steps):
        fault = model.step()
        if fault:
            return f"seed {seed}, step {number}: {fault}"
    return ""
