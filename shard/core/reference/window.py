"""The window of client order ids of the reference engine (PROTOCOL 1.2 and 1.3): what an id has already led to.

An entry is the final answer under (instrument, client order id) of one account. The entry of a Submit that was accepted
also holds its order: it cannot be evicted while the order is open and remembers the order's final state after that.
"""

from collections import OrderedDict
from dataclasses import dataclass
from zlib import crc32

import msgspec

from exchange.messages import Executed, Reduce, Rejected, Replace, Submit
from shard.core.reference.book import Order

SUBMIT, REPLACE, REDUCE, TOMBSTONE = 1, 3, 4, 13
"""Kinds of entry: the tag of the command that made it. The one of Resolve is a tombstone."""

Key = tuple[int, str]
"""Instrument and client order id."""

_MULTIPLIER = 0x9E3779B97F4A7C15
_U64 = (1 << 64) - 1


@dataclass(slots=True, eq=False)
class Entry:
    """One remembered answer, and for an accepted Submit its order."""

    op: int
    instrument: int
    client_order_id: str
    hash: int
    client_ns: int
    answer: Executed | Rejected
    order: Order | None = None

    def again(self) -> Executed | Rejected:
        """The first answer, marked as a repetition."""
        return msgspec.structs.replace(self.answer, duplicate=True)

    @property
    def holds_order(self) -> bool:
        return self.op == SUBMIT and isinstance(self.answer, Executed)

    @property
    def held(self) -> bool:
        """Whether the entry must stay because its order is open."""
        return self.order is not None and self.order.is_open


class Window:
    """Entries of one account, oldest first; `bound_ns` is the greatest instant that an evicted entry stood for."""

    __slots__ = ("bound_ns", "entries")

    def __init__(self, bound_ns: int = 0) -> None:
        self.entries: OrderedDict[Key, Entry] = OrderedDict()
        self.bound_ns = bound_ns

    def add(self, entry: Entry) -> None:
        self.entries[entry.instrument, entry.client_order_id] = entry

    def evict_oldest(self) -> Entry | None:
        """Evict the oldest entry that is not held, moving the held ones before it to the back; None = all are held."""
        for _ in range(len(self.entries)):
            key, entry = next(iter(self.entries.items()))
            if not entry.held:
                return self._evict(key, entry)
            self.entries.move_to_end(key)
        return None

    def age(self, before_ns: int, budget: int) -> tuple[list[Entry], int]:
        """Evict from the front what is older than `before_ns`, moving held entries to the back.

        At most `budget` entries are touched. Returns the evicted ones and what is left of the budget.
        """
        evicted: list[Entry] = []
        for _ in range(len(self.entries)):
            key, entry = next(iter(self.entries.items()))
            if budget == 0 or entry.answer.ts_ns >= before_ns:
                break
            budget -= 1
            if entry.held:
                self.entries.move_to_end(key)
            else:
                evicted.append(self._evict(key, entry))
        return evicted, budget

    def _evict(self, key: Key, entry: Entry) -> Entry:
        del self.entries[key]
        self.bound_ns = max(self.bound_ns, entry.client_ns, entry.answer.ts_ns)
        return entry


def payload_hash(command: Submit | Replace | Reduce) -> int:
    """64-bit hash of the business fields: equal hashes under one id are the same request repeated."""
    if isinstance(command, Submit):
        word = (
            SUBMIT << 48
            | command.instrument << 32
            | command.side << 24
            | command.kind << 20
            | command.time_in_force << 16
            | command.flags << 8
            | command.self_trade
        )
        return _fold(word, command.price, command.quantity, command.expire_ns)
    target = command.order_id or crc32(command.target_id.encode())
    if isinstance(command, Replace):
        word = REPLACE << 48 | command.instrument << 32 | command.basis
        return _fold(word, target, command.price, command.quantity)
    return _fold(REDUCE << 48 | command.instrument << 32, target, command.quantity)


def _fold(*words: int) -> int:
    """Fibonacci hashing (Knuth, TAOCP 3, 6.4), chained, with the high half folded into the low one."""
    state = 0
    for word in words:
        mixed = (state ^ (word & _U64)) * _MULTIPLIER & _U64
        state = mixed ^ mixed >> 32
    return state
