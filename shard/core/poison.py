"""Commands that an engine cannot run (rule R14): how they are found, and how they are left out. Pure.

Laws
    A record's bytes never change: journal, chain and standby keep what was written. Leaving a command out means that
    the engine is given the record with another command in its place, which only answers. Its neighbours run.
    Every replay gives the same stand-in for the same command, so nodes with the same list come to the same state.
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS
from exchange.wire import array_header, encode
from shard.core.engine import Engine
from shard.core.record import RecordHead, decode_head, decode_record, encode_batch

DEATHS_MAX = 3
"""A process that died so often of one record does not try it again, whatever it looks like beforehand."""
_PASSED_NS = 1
"""A deadline that every record is later than."""
_NOBODY = m.QueryOrder("-", ALL_INSTRUMENTS, (1 << 53) - 1)
"""Asks for an order that cannot be: the answer is UNKNOWN_ORDER, and nothing changes."""

_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.msgpack.Decoder(m.Command).decode


class Poison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record that ended the process: its term, where it begins and ends, and how often it did so."""

    epoch: int
    first_seq: int
    last_seq: int
    deaths: int = 1


class Poisoned(Exception):
    """The engine failed on a record that is in the journal: our own defect. The process must die."""

    def __init__(self, head: RecordHead, fault: BaseException) -> None:
        super().__init__(f"record of seq {head.first_seq} to {head.last_seq} in term {head.epoch}: {fault!r}")
        self._head = head

    def noted(self, before: Poison | None) -> Poison:
        """What is to be remembered of it, `before` = what was remembered until now."""
        head = self._head
        place = (head.epoch, head.first_seq, head.last_seq)
        again = before is not None and place == (before.epoch, before.first_seq, before.last_seq)
        return Poison(*place, deaths=before.deaths + 1 if before is not None and again else 1)


def apply(engine: Engine, record: bytes, skip: Sequence[int] = ()) -> bytes:
    """`Engine.apply` of a record that is in the journal, without the commands of `skip`.

    Poisoned when it fails in whatever way: what the engine holds after that is nothing that any log leads to.
    """
    try:
        return engine.apply(without(record, skip) if skip else record)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as fault:  # a panic of the native engine is no Exception
        raise Poisoned(decode_head(record), fault) from fault


def without(record: bytes, skip: Sequence[int]) -> bytes:
    """The record as the engine is to run it: stand-ins for the commands whose seq is in `skip`."""
    head = decode_head(record)
    left_out = [seq - head.first_seq for seq in skip if head.first_seq <= seq <= head.last_seq]
    if not left_out:
        return record
    commands = commands_of(record)
    for number in left_out:
        commands[number] = encode(stand_in(_decode(commands[number])))
    return _rewritten(head, commands)


def stand_in(command: m.Command) -> m.Command:
    """What runs in a command's place.

    A request with an id of its own is voided, as by Resolve: the id never takes effect, and every copy of the request
    hears so. A request without one is answered as if its deadline had passed. The rest is answered as if it had asked
    for an order that is not there. EpochStart stays: it does nothing but open a term.
    """
    match command:
        case m.Submit():
            return m.Resolve(command.account, command.instrument, command.client_order_id)
        case m.Replace() | m.Reduce() if command.client_order_id:
            return m.Resolve(command.account, command.instrument, command.client_order_id)
        case m.Cancel() | m.Replace() | m.Reduce():
            return replace(command, deadline_ns=_PASSED_NS)
        case m.EpochStart():
            return command
        case _:
            return _NOBODY


def culprit(record: bytes, runs: Callable[[bytes], bool]) -> int:
    """Seq of the first command without which the record would run up to there; 0 = all of it runs.

    `runs` = whether a record runs on an engine as it was before this one. Asked log2(commands) times at most.
    """
    if runs(record):
        return 0
    head, commands = decode_head(record), commands_of(record)
    good, bad = 0, len(commands)
    while bad - good > 1:
        middle = (good + bad) // 2
        if runs(_rewritten(head, commands[:middle])):
            good = middle
        else:
            bad = middle
    return head.first_seq + bad - 1


def commands_of(record: bytes) -> list[bytes]:
    """The encoded commands of a record."""
    head, payload = decode_record(record)
    return [bytes(command) for command in _split(array_header(head.count) + payload)]


def _rewritten(head: RecordHead, commands: Sequence[bytes]) -> bytes:
    return encode_batch(
        epoch=head.epoch,
        first_seq=head.first_seq,
        ts_ns=head.ts_ns,
        prev_chain=head.prev_chain,
        count=len(commands),
        payload=b"".join(commands),
    )
