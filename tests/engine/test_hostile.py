"""Hostile bytes at every door of an engine: a ValueError with a sentence, and nothing has changed."""

from collections.abc import Callable, Iterator
from random import Random
from struct import pack
from zlib import crc32

import msgspec
import pytest

from exchange import messages as m
from exchange.wire import encode
from shard.core.engine import Engine, create_engine
from shard.core.record import encode_record
from tests.engine.conftest import NewStage
from tests.engine.flows import ROOMY, TIGHT_BOOK, Flow
from tests.engine.stage import BUY, SELL, Stage, cancel, define, order, reduce

ALL = m.SHARD_COMMANDS
NOT_INTEGERS = [1.0, True, None, "1", b"1", [1], {}, 1 << 63, -(1 << 63) - 1]


def refuses(act: Callable[[], object], engine: Engine) -> str:
    """The refusal's sentence; the engine must be as it was."""
    before = engine.snapshot(), engine.trail(), engine.image()
    with pytest.raises(ValueError) as refusal:
        act()
    assert (engine.snapshot(), engine.trail(), engine.image()) == before
    assert str(refusal.value)
    return str(refusal.value)


def packed(value: object) -> bytes:
    """MessagePack by hand where the encoder would refuse: integers beyond 64 bits become floats."""
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        assert isinstance(value, int)
        return msgspec.msgpack.encode(float(value))


def command(*fields: object) -> bytes:
    """An array of one command."""
    return b"\x91" + bytes([0x90 | len(fields)]) + b"".join(map(packed, fields))


# --- admit ------------------------------------------------------------------------------------------------------------

SUBMIT = (1, "ann", "c1", 0, 0, 0, 0, 0, 1, 100, 10, 0, 0, 0)
DEFINE = (7, 0, "BTC-USD", 1, 1, 1, 10, 0, 100, 0, 0, -1)
VALID: list[tuple[object, ...]] = [
    SUBMIT,
    SUBMIT[:11],
    (1, "a" * 32, "Z" * 36, 8191, 1, 1, 4, 1, 4, -(1 << 63), (1 << 63) - 1, 1 << 62, 1 << 62, 1 << 62),
    (1, "A.z_0:@-", "a.Z:/_-9", 0, 0, 0, 0, 0, 0, 0, 0),
    (2, "ann", 0, 0),
    (2, "ann", 0, 2**53 - 1, "c1", 5),
    (3, "ann", "", 0, 0, "c1", 1, 2, 1),
    (4, "ann", "", 0, 5, "", 3, 1, 2),
    (5, "ann"),
    (5, "", 65_535),
    (6, 65_535, 3, "!~"),
    DEFINE,
    (7, 8191, "A" * 20, 10**15, 10**15, 10**15, 10**15, 10**15, 10**15, 10_000, 10**15, 1 << 62),
    (8, "ann", 0, -1, "x"),
    (9,),
    (10, 0, "n" * 64, -(1 << 63)),
    (10, (1 << 32) - 1, "n", (1 << 63) - 1),
    (11, "ann", 65_535, 0, "c1"),
    (12, "ann"),
    (12, "ann", 0, 2**53 - 1, 1),
    (13, "ann", 0, "c1"),
    (14, "ann", 65_535, 1 << 62),
]


def spoiled(fields: tuple[object, ...], **changes: object) -> tuple[object, ...]:
    spoilt = list(fields)
    for position, value in changes.items():
        spoilt[int(position[1:])] = value
    return tuple(spoilt)


INVALID: list[tuple[object, ...]] = [
    (),
    (0,),
    (15,),
    (-1,),
    ("1",),
    (1.0, *SUBMIT[1:]),
    SUBMIT[:10],
    (*SUBMIT, 0),
    (9, 1),
    (10, 1, "n"),
    *(spoiled(SUBMIT, _1=name) for name in ("", "a" * 33, "a b", "ä", "a\n", "a/b", "a+b", 7, b"ann")),
    *(spoiled(SUBMIT, _2=id_) for id_ in ("", "c" * 37, "c 1", "c1\n", "c@1", None)),
    *(spoiled(SUBMIT, _3=index) for index in (-1, 8192, 65_535)),
    *(spoiled(SUBMIT, _4=side) for side in (-1, 2)),
    *(spoiled(SUBMIT, _5=kind) for kind in (-1, 2)),
    *(spoiled(SUBMIT, _6=tif) for tif in (-1, 5)),
    *(spoiled(SUBMIT, _7=flags) for flags in (-1, 2)),
    *(spoiled(SUBMIT, _8=mode) for mode in (-1, 5)),
    *((*SUBMIT[:at], instant, *SUBMIT[at + 1 :]) for at in (11, 12, 13) for instant in (-1, (1 << 62) + 1)),
    *((*SUBMIT[:at], value, *SUBMIT[at + 1 :]) for at in range(3, 14) for value in NOT_INTEGERS),
    (2, "ann", 0, 2**53),
    (2, "ann", 0, -1),
    (2, "ann", 0, 0, "c" * 37),
    (3, "ann", "", 0, 0, "", 1, 1, 2),
    (5, "ann", 8192),
    (5, "ann", 65_534),
    (6, 0, 4, "ops"),
    (6, 0, 1, ""),
    (6, 0, 1, "a b"),
    (6, 0, 1, "o" * 65),
    (6, 0, 1, "\x7f"),
    *(spoiled(DEFINE, _2=symbol) for symbol in ("", "btc", "A" * 21, "A B", "A/B")),
    *((*DEFINE[:at], value, *DEFINE[at + 1 :]) for at in range(3, 7) for value in (0, 10**15 + 1)),
    *((*DEFINE[:at], value, *DEFINE[at + 1 :]) for at in (7, 8, 10) for value in (-1, 10**15 + 1)),
    *(spoiled(DEFINE, _9=collar) for collar in (-1, 10_001)),
    *(spoiled(DEFINE, _11=limit) for limit in (-2, (1 << 62) + 1)),
    spoiled(DEFINE, _5=11),
    spoiled(DEFINE, _7=101),
    (8, "ann", 0, -2, "ops"),
    (8, "ann", 65_535, 1, "ops"),
    (10, -1, "n", 0),
    (10, 1 << 32, "n", 0),
    (11, "ann", 0, 2**53),
    (12, "ann", 0, 2**53),
    (12, "ann", 0, 0, 0),
    (12, "ann", 0, 0, 1_001),
    (13, "ann", 65_535, "c1"),
    (13, "ann", 0, ""),
    (14, "ann", 0, -1),
    (14, "ann", 0, (1 << 62) + 1),
]


@pytest.mark.parametrize("fields", VALID, ids=repr)
def test_what_follows_the_rules_is_admitted(stage: Stage, fields: tuple[object, ...]) -> None:
    assert stage.engine.admit(command(*fields), ALL) == 1


@pytest.mark.parametrize("fields", INVALID, ids=repr)
def test_what_breaks_a_rule_is_not(stage: Stage, fields: tuple[object, ...]) -> None:
    payload = command(*fields)
    refuses(lambda: stage.engine.admit(payload, ALL), stage.engine)
    record = sealed(payload[1:], first_seq=2, ts_ns=2)
    refuses(lambda: stage.engine.apply(record), stage.engine)


def test_a_refusal_names_command_field_and_value(stage: Stage) -> None:
    good, bad = order("ann/1", BUY, 1, 1), order("ann/2", BUY, 1, 1, tif=7)
    payload = msgspec.msgpack.encode([good, good, bad])
    sentence = refuses(lambda: stage.engine.admit(payload, ALL), stage.engine)
    assert "command 2" in sentence
    assert "time_in_force" in sentence
    assert "7" in sentence


def test_only_allowed_tags_are_admitted(stage: Stage) -> None:
    for fields in VALID:
        tag = fields[0]
        assert isinstance(tag, int)
        refuses(lambda fields=fields, tag=tag: stage.engine.admit(command(*fields), ALL & ~(1 << tag)), stage.engine)
    everybody = command(5, "")
    refuses(lambda: stage.engine.admit(everybody, m.CUSTOMER_COMMANDS), stage.engine)
    assert stage.engine.admit(everybody, m.OPERATOR_COMMANDS) == 1


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (b"\x90", 0),
        (b"\xdc\x00\x01\x91\x09", 1),
        (b"\xdd\x00\x00\x00\x01\xdc\x00\x01\xcf\x00\x00\x00\x00\x00\x00\x00\x09", 1),
        (b"\x91\x94\x02\xd9\x03ann\xd3\x00\x00\x00\x00\x00\x00\x00\x00\xcc\x05", 1),
        (b"\x91\x94\x02\xda\x00\x03ann\xd0\x00\xcd\x00\x05", 1),
        (b"\x91\x94\x02\xdb\x00\x00\x00\x03ann\xd1\x00\x00\xce\x00\x00\x00\x05", 1),
    ],
)
def test_any_form_of_integers_texts_and_arrays_is_understood(stage: Stage, payload: bytes, count: int) -> None:
    assert stage.engine.admit(payload, ALL) == count


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x91",
        b"\x09",
        b"\x80",
        b"\x91\x91\x09\x00",
        b"\x91\x09",
        b"\x91\x81\x09\x00",
        b"\x92\x91\x09",
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\x91\xc1",
        b"\x91" * 100_000,
        b"\x91\x94\x02\xa3\xff\xfe\xfd\x00\x05",
        b"\x91\x94\x02\xdb\xff\xff\xff\xffann\x00\x05",
        b"\x91\x94\x02\xc4\x03ann\x00\x05",
    ],
)
def test_bytes_that_are_no_array_of_commands(stage: Stage, payload: bytes) -> None:
    refuses(lambda: stage.engine.admit(payload, ALL), stage.engine)


# --- apply ------------------------------------------------------------------------------------------------------------


def sealed(
    payload: bytes,
    *,
    count: int = 1,
    first_seq: int = 1,
    ts_ns: int = 1,
    epoch: int = 0,
    magic: int = 0x5358,
    fmt: int = 1,
    flags: int = 0,
    size: int | None = None,
    reserved: int = 0,
    padding: bytes = b"\0",
) -> bytes:
    """A record with right checksums around whatever it is given."""
    head = pack(
        "<HBBIIIQqQ", magic, fmt, flags, len(payload) if size is None else size, epoch, count, first_seq, ts_ns, 0
    )
    body = head + pack("<II", crc32(head), reserved) + payload
    record = body + pack("<I", crc32(body))
    return record + padding * (-len(record) % 8)


TICK = b"\x91\x09"


@pytest.mark.parametrize(
    "record",
    [
        b"",
        sealed(TICK)[:47],
        sealed(TICK)[:-8],
        sealed(TICK) + b"\0" * 8,
        sealed(TICK, magic=0x5359),
        sealed(TICK, fmt=2),
        sealed(TICK, flags=1),
        sealed(TICK, reserved=1),
        sealed(TICK, padding=b"\1"),
        sealed(TICK, size=3),
        sealed(TICK, size=1 << 31),
        sealed(b"", count=0),
        sealed(TICK * 2, count=1),
        sealed(TICK, count=2),
        sealed(TICK, count=(1 << 32) - 1),
        sealed(TICK * 1_025, count=1_025),
        sealed(b"\x94\x02\xdb\x00\x04\x00\x00" + b"a" * (1 << 18) + b"\x00\x05"),
        sealed(TICK, first_seq=0),
        sealed(TICK, first_seq=2),
        sealed(TICK, first_seq=(1 << 64) - 1),
        sealed(TICK, ts_ns=0),
        sealed(TICK, ts_ns=-1),
        sealed(TICK, ts_ns=(1 << 62) + 1),
        sealed(TICK, epoch=1),
        sealed(encode(m.EpochStart(2, "n", 0)), epoch=1),
        sealed(TICK + encode(m.EpochStart(1, "n", 0)), epoch=1, count=2),
        sealed(encode(m.EpochStart(1, "n", 0)) + encode(m.EpochStart(2, "n", 0)), epoch=1, count=2),
    ],
    ids=lambda record: f"{len(record)} bytes {record[:60].hex()}",
)
def test_a_record_that_is_not_well_formed_or_does_not_follow(new_stage: NewStage, record: bytes) -> None:
    engine = new_stage().engine
    refuses(lambda: engine.apply(record), engine)
    engine.apply(sealed(TICK))
    assert engine.seq() == 1


def test_a_record_of_an_older_term_or_time_does_not_follow(stage: Stage) -> None:
    stage.run(m.EpochStart(5, "node", 1), epoch=5, ts_ns=100)
    refuses(lambda: stage.engine.apply(stage.record(m.Tick(), epoch=4)), stage.engine)
    refuses(lambda: stage.engine.apply(stage.record(m.EpochStart(4, "node", 1), epoch=4)), stage.engine)
    refuses(lambda: stage.engine.apply(stage.record(m.Tick(), ts_ns=100)), stage.engine)
    refuses(lambda: stage.engine.apply(stage.journal[-1]), stage.engine)
    assert stage.tell(m.Tick()) == ["-> done"]


def test_one_bad_command_spoils_its_whole_record(stage: Stage) -> None:
    commands = [encode(order("ann/1", BUY, 1, 1)), encode(order("ann/2", BUY, 1, 1, tif=7))]
    record = encode_record(epoch=0, first_seq=2, ts_ns=2, prev_chain=0, commands=commands)
    assert "command 1" in refuses(lambda: stage.engine.apply(record), stage.engine)


def test_any_flipped_bit_of_a_record_is_noticed(stage: Stage) -> None:
    record = stage.record(order("ann/1", BUY, 10, 100), cancel("ann/1"))
    for at in range(len(record) * 8):
        if 32 * 8 <= at < 40 * 8:
            continue  # prev_chain belongs to the journal; flipping it breaks head_crc, which the next line covers
        garbled = bytearray(record)
        garbled[at // 8] ^= 1 << at % 8
        with pytest.raises(ValueError):
            stage.engine.apply(bytes(garbled))
    assert stage.engine.seq() == 1


# --- restore ----------------------------------------------------------------------------------------------------------


def busy_stage(new_stage: NewStage) -> Stage:
    """A state in which every section of a snapshot has rows."""
    stage = new_stage()
    stage.setup(define(position_limit=50), define(3, "ETH-USD", collar_bps=100, reference_price=100))
    stage.setup(
        order("ann/1", BUY, 5, 100),
        order("ann/2", BUY, 5, 99, tif=4, expire_ns=10**6),
        order("bob/1", SELL, 3, 100),
        order("bob/2", SELL, 7, 110),
        order("ann/3", BUY, 2, 100, instrument=3),
        reduce("ann/1", 1, id_="r1"),
        m.SetPositionLimit("cid", 0, 9, "ops"),
        m.ArmDeadMan("ann", 65_535, 10**6),
        m.ArmDeadMan("bob", 3, 10**6),
    )
    stage.tell(order("bob/bad", SELL, 0, 100), m.Resolve("ann", 0, "void"), m.SetState(3, 2, "ops"))
    stage.setup(
        cancel("ann/2"),
        order("bob/3", BUY, 9, 110, tif=1),
        order("cid/1", BUY, 2, 110),
        order("cid/2", SELL, 9, kind=1, tif=2),
        reduce("bob/2", 99, id_="r2"),
    )
    return stage


def mutations(value: object) -> Iterator[object]:
    """Copies of a decoded snapshot, each with one thing changed."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            for changed in mutations(item):
                yield [*value[:at], changed, *value[at + 1 :]]
        yield [*value, 0]
        if value:
            yield value[:-1]
            yield [*value, value[-1]]
        if len(value) > 1:
            yield [value[1], value[0], *value[2:]]
    elif isinstance(value, int):
        yield from (-1, value + 1, value - 1, 1 << 53, 1 << 63, "x", None, 1.5, [])
    elif isinstance(value, str):
        yield from ("", value + "x", "x" * 40, "\n", 7)


def test_no_spoilt_snapshot_does_harm(new_stage: NewStage) -> None:
    """Refused with a sentence, or, where the change is as good a state as any, taken exactly as it is written."""
    stage = busy_stage(new_stage)
    engine = stage.engine
    before = engine.snapshot()
    refused = taken = 0
    for changed in mutations(msgspec.msgpack.decode(before)):
        snapshot = msgspec.msgpack.encode(changed)
        if snapshot == before:
            continue
        if verdict(engine, snapshot):
            refused += 1
            assert engine.snapshot() == before
        else:
            taken += 1
            assert engine.snapshot() == snapshot
            engine.apply(stage.record(m.Tick(), m.MassCancel(""), order("eve/1", BUY, 5, 100)))
            engine.restore(before)
    assert refused > 1_000
    assert taken > 50


@pytest.mark.usefixtures("native")
def test_both_engines_refuse_the_same_snapshots() -> None:
    stage = busy_stage(lambda config=ROOMY: Stage(reference=True, config=config))
    reference, native = create_engine(stage.config, reference=True), create_engine(stage.config)
    differ = []
    for changed in mutations(msgspec.msgpack.decode(stage.engine.snapshot())):
        snapshot = msgspec.msgpack.encode(changed)
        verdicts = [verdict(engine, snapshot) for engine in (reference, native)]
        if (verdicts[0] == "") != (verdicts[1] == ""):
            differ.append((verdicts, changed))
    assert differ == []


def verdict(engine: Engine, snapshot: bytes) -> str:
    """Why the snapshot is refused; "" when it is not."""
    try:
        engine.restore(snapshot)
    except ValueError as refusal:
        return str(refusal) or "without a word"
    return ""


@pytest.mark.parametrize("garbage", [b"", b"\x90", b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\x9c" * 12])
def test_garbage_is_no_snapshot(new_stage: NewStage, garbage: bytes) -> None:
    engine = busy_stage(new_stage).engine
    refuses(lambda: engine.restore(garbage), engine)


def test_a_snapshot_must_fit_the_ceilings(new_stage: NewStage) -> None:
    snapshot = busy_stage(new_stage).engine.snapshot()
    for changed in ({"orders_max": 1}, {"accounts_max": 1}, {"ids_max": 3}):
        engine = new_stage(msgspec.structs.replace(ROOMY, **changed)).engine
        refuses(lambda engine=engine: engine.restore(snapshot), engine)


def test_only_the_shortest_form_is_a_snapshot(stage: Stage) -> None:
    before = stage.engine.snapshot()
    assert before[:2] == b"\x9c\x01"
    refuses(lambda: stage.engine.restore(b"\x9c\xcc\x01" + before[2:]), stage.engine)
    refuses(lambda: stage.engine.restore(before + b"\x00"), stage.engine)
    refuses(lambda: stage.engine.restore(before[:-1]), stage.engine)


# --- configuration, and random bytes everywhere -----------------------------------------------------------------------


def test_a_configuration_out_of_range_is_refused(new_stage: NewStage) -> None:
    for name in ROOMY.__struct_fields__:
        for value in (-1, (1 << 62) + 1) if name == "ids_window_ns" else (0, -1, 1 << 31):
            with pytest.raises(ValueError, match=name):
                new_stage(msgspec.structs.replace(ROOMY, **{name: value}))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("seed", range(6))
def test_both_engines_judge_garbled_payloads_alike(seed: int) -> None:
    """Real batches with a few bytes changed: both admit, with the same count, or both refuse."""
    dice = Random(seed)
    flow = Flow(seed, 600, config=TIGHT_BOOK)
    native, reference = create_engine(flow.config), create_engine(flow.config, reference=True)
    admitted = refused = 0
    for batch in flow.batches:
        for start in range(0, len(batch.commands), 3):
            payload = bytearray(msgspec.msgpack.encode(list(batch.commands[start : start + 3])))
            for _ in range(dice.randrange(3)):
                payload[dice.randrange(len(payload))] = dice.choice([dice.randrange(256), 0x91, 0xA1, 0xCF, 0xD3, 0xC0])
            verdicts = [admission(engine, bytes(payload)) for engine in (native, reference)]
            assert verdicts[0] == verdicts[1], payload.hex()
            admitted, refused = admitted + (verdicts[0] is not None), refused + (verdicts[0] is None)
    assert admitted > 20
    assert refused > 20


def admission(engine: Engine, payload: bytes) -> int | None:
    try:
        return engine.admit(payload, ALL)
    except ValueError:
        return None
