"""Bytes damaged by chance at every door of the native engine: it says what the reference engine says, to the byte.

Most damage is refused; what is not must have the same effect on both. Records get their check sums set right again, so
that the damage reaches the decoder of the commands and the rules behind it.
"""

from collections.abc import Callable
from random import Random
from struct import pack
from zlib import crc32

import msgspec
import pytest

from exchange import messages as m
from exchange.wire import array_header, encode
from shard.core.engine import Engine, create_engine
from shard.core.record import HEAD_BYTES, encode_record
from tests.engine.flows import TIGHT_WINDOW, Flow

EDGES: list[object] = [
    0, 1, -1, -33, 127, 128, 255, 256, 8_191, 8_192, 65_535, 1 << 32, (1 << 53) - 1, 1 << 53, 10**15, 10**15 + 1,
    1 << 62, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, None, True, 1.0, "", "a", "a" * 33, "a" * 37,
    "\u00e9", "a b", b"a", [], [0], {},
]  # fmt: skip
LONG_HEADS = [b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xcf"]
"""Of an array, a text and an integer that are longer than what follows."""

pytestmark = pytest.mark.usefixtures("native")


def damaged(whole: bytes, dice: Random) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    spoilt = bytearray(whole)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        at = dice.randrange(len(spoilt) + 1)
        match dice.randrange(5):
            case 0 | 1:
                spoilt[at : at + 1] = dice.randbytes(1)
            case 2:
                del spoilt[at : at + dice.choice([1, 1, 4, 30])]
            case 3:
                spoilt[at:at] = spoilt[at : at + dice.choice([1, 9, 30])]
            case _:
                spoilt[at:at] = dice.choice(
                    [b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xcf", dice.randbytes(3)]
                )
    return bytes(spoilt)


def spoilt_values(command: m.Command, dice: Random) -> bytes:
    """A command as MessagePack with one element that is none of its business, or one too many or too few."""
    elements = msgspec.to_builtins(command)
    at = dice.randrange(len(elements))
    match dice.randrange(8):
        case 0:
            del elements[at]
        case 1:
            elements.insert(at, dice.choice(EDGES))
        case _:
            elements[at] = dice.choice(EDGES)
    return msgspec.msgpack.encode(elements)


def record_of(engine: Engine, payload: bytes, count: int) -> bytes:
    """A record that follows and whose check sums are right, whatever its payload is."""
    fields = (engine.epoch(), count, engine.seq() + 1, engine.ts() + 1, 0)
    head = pack("<HBBIIIQqQ", 0x5358, 1, 0, len(payload), *fields)
    body = head + pack("<II", crc32(head), 0) + payload
    sealed = body + pack("<I", crc32(body))
    return sealed + bytes(-len(sealed) % 8)


def told(door: Callable[..., object], *asked: object) -> object:
    """What a door answers; a refusal is only known to be one, since the sentences of two engines may differ."""
    try:
        return door(*asked)
    except ValueError as refusal:
        return ValueError if str(refusal) else "refused without a word"


def pair_after(flow: Flow) -> tuple[Engine, Engine]:
    native, reference = create_engine(flow.config), create_engine(flow.config, reference=True)
    for record in flow.records():
        native.apply(record)
        reference.apply(record)
    return native, reference


@pytest.mark.parametrize("seed", range(8))
def test_damaged_commands(seed: int) -> None:
    dice = Random(seed)
    flow = Flow(seed, 400, config=TIGHT_WINDOW)
    native, reference = pair_after(flow)
    commands = [command for batch in flow.batches for command in batch.commands]
    refused = 0
    for _ in range(500):
        count = dice.choice([1, 1, 3])
        encoded = [encode(command) for command in dice.choices(commands, k=count)]
        if dice.random() < 0.6:
            encoded[-1] = spoilt_values(dice.choice(commands), dice)
        payload = b"".join(encoded)
        if dice.random() < 0.4:
            payload = damaged(payload, dice)
        allowed = dice.choice([m.SHARD_COMMANDS, m.SHARD_COMMANDS, m.CUSTOMER_COMMANDS])
        listed = array_header(count) + payload
        assert told(native.admit, listed, allowed) == told(reference.admit, listed, allowed), listed
        record = record_of(native, payload, count)
        before = native.snapshot()
        outcome = told(native.apply, record)
        assert outcome == told(reference.apply, record), record
        if outcome is ValueError:
            refused += 1
            assert native.snapshot() == before
    assert 50 < refused < 450
    assert native.snapshot() == reference.snapshot()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_records(seed: int) -> None:
    dice = Random(seed)
    native, reference = pair_after(Flow(seed, 200, config=TIGHT_WINDOW))
    for _ in range(400):
        record = encode_record(
            epoch=native.epoch() + dice.choice([0, 0, 0, 0, 1, -1]) % 3,
            first_seq=native.seq() + dice.choice([1, 1, 1, 0, 2]),
            ts_ns=native.ts() + dice.choice([1, 1, 1, 0]),
            prev_chain=dice.getrandbits(64),
            commands=[encode(m.Tick())] * dice.choice([1, 2, 7]),
        )
        if dice.random() < 0.7:
            record = damaged(record, dice)
            if dice.random() < 0.5:
                fixed_head = record[: HEAD_BYTES - 8] + pack("<I", crc32(record[: HEAD_BYTES - 8]))
                record = fixed_head + record[len(fixed_head) :]
        assert told(native.apply, record) == told(reference.apply, record), record
    assert native.snapshot() == reference.snapshot()


@pytest.mark.parametrize("seed", range(8))
def test_damaged_snapshots(seed: int) -> None:
    dice = Random(seed)
    flow = Flow(seed, dice.choice([20, 150]), config=TIGHT_WINDOW)
    native, reference = pair_after(flow)
    commands = [
        command for batch in flow.batches for command in batch.commands if not isinstance(command, m.EpochStart)
    ]
    whole = native.snapshot()
    restored = 0
    for _ in range(300):
        snapshot = spoilt_snapshot(whole, dice) if dice.random() < 0.7 else damaged(whole, dice)
        before = native.snapshot()
        outcome = told(native.restore, snapshot)
        assert outcome == told(reference.restore, snapshot), snapshot
        assert native.snapshot() == (before if outcome is ValueError else snapshot)
        if outcome is not ValueError:
            restored += 1
            next_commands = dice.choices(commands, k=20)
            record = record_of(native, b"".join(map(encode, next_commands)), len(next_commands))
            assert told(native.apply, record) == told(reference.apply, record), (snapshot, record)
    assert restored < 300


def spoilt_snapshot(whole: bytes, dice: Random) -> bytes:
    """A snapshot with one value changed somewhere in its tree, in canonical form."""
    tree = msgspec.msgpack.decode(whole)
    branch = tree
    while True:
        at = dice.randrange(len(branch))
        if not isinstance(branch[at], list) or not branch[at] or dice.random() < 0.05:
            break
        branch = branch[at]
    old = branch[at]
    near = [old + 1, old - 1, old ^ 1] if isinstance(old, int) and not isinstance(old, bool) and old < 1 << 62 else []
    branch[at] = dice.choice(near + EDGES)
    try:
        return msgspec.msgpack.encode(tree)
    except OverflowError:
        return whole[: dice.randrange(len(whole))]
