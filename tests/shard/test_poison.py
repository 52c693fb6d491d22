"""A command that the engine cannot run: found, held, left out; and never run twice into the same hole."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from exchange import failpoints
from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, OrderEvent, Reject, Side, State
from exchange.errors import ConfigError
from exchange.wire import array_header, decode_frame, decode_replies, encode
from shard.brittle import Panic
from shard.core.engine import create_engine, native_available
from shard.core.held import Release, release
from shard.core.outcome import decode_outcome
from shard.core.poison import DEATHS_MAX, Poison, Poisoned, culprit, stand_in, without
from shard.core.record import decode_head, encode_record
from shard.core.replay import Held
from shard.node_state import load_state, save_state
from tests.shard.disk import Disk, recovered
from tests.shard.pair import A, B, Pair, resend, trade
from tests.shard.peers import Place
from tests.shard.peers import order as real_order
from tests.shard.stage import CEILINGS, Stage, commands_of, order

ENGINES = [True, *([False] if native_available() else [])]
DEFINE = m.DefineInstrument(0, "BTCUSD", 1, 1, 1, 10**9, 1, 10**9, 0, 0, -1)
REPLACE = m.Replace("ann", "r-1", 0, 0, "id-1", 101, 5, 0)
REDUCE = m.Reduce("ann", "r-2", 0, 0, "id-1", 3)
EVERY_COMMAND: list[tuple[m.Command, Reject | None]] = [
    (order(2), Reject.VOIDED),
    (REPLACE, Reject.VOIDED),
    (REDUCE, Reject.VOIDED),
    (replace(REPLACE, client_order_id=""), Reject.EXPIRED),
    (replace(REDUCE, client_order_id=""), Reject.EXPIRED),
    (m.Cancel("ann", 0, 0, "id-1"), Reject.EXPIRED),
    (m.MassCancel("ann"), Reject.UNKNOWN_ORDER),
    (m.SetState(ALL_INSTRUMENTS, State.CLOSED, "ops"), Reject.UNKNOWN_ORDER),
    (replace(DEFINE, index=1, symbol="ETHUSD"), Reject.UNKNOWN_ORDER),
    (m.SetPositionLimit("ann", 0, 0, "ops"), Reject.UNKNOWN_ORDER),
    (m.Tick(), Reject.UNKNOWN_ORDER),
    (m.QueryOrder("ann", 0, 0, "id-1"), Reject.UNKNOWN_ORDER),
    (m.QueryOpen("ann"), Reject.UNKNOWN_ORDER),
    (m.Resolve("ann", 0, "id-9"), Reject.UNKNOWN_ORDER),
    (m.ArmDeadMan("ann", 0, 1), Reject.UNKNOWN_ORDER),
    (m.EpochStart(1, "s0", 1), None),
]


def record(first_seq: int, *commands: m.Command, ts_ns: int = 0) -> bytes:
    """A record of term 1 that an engine takes at this seq."""
    encoded = [encode(command) for command in commands]
    return encode_record(epoch=1, first_seq=first_seq, ts_ns=ts_ns or 10 + first_seq, prev_chain=7, commands=encoded)


OPENING = record(1, m.EpochStart(1, "s0", 1), DEFINE, order(1))


def replies_to(outcome: bytes) -> list[m.Reply]:
    replies, _ = decode_outcome(outcome)
    return decode_replies(array_header(len(replies)) + b"".join(replies))


# --- leaving out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ENGINES)
@pytest.mark.parametrize(("command", "code"), EVERY_COMMAND)
def test_a_command_that_is_left_out_only_answers_and_its_neighbours_run(
    command: m.Command, code: Reject | None, reference: bool
) -> None:
    engine, plain = (create_engine(CEILINGS, reference=reference) for _ in range(2))
    engine.apply(OPENING)
    plain.apply(OPENING)
    original = record(4, order(7), command, order(8, Side.SELL, 200))
    outcome = engine.apply(without(original, [5]))
    [_, answer, _] = replies_to(outcome)
    if code is None:
        assert answer == m.Done(1, 5, 14)
    else:
        assert isinstance(answer, m.Rejected)
        assert (answer.code, answer.seq, answer.duplicate) == (code, 5, False)
    plain.apply(record(4, order(7), m.Tick(), order(8, Side.SELL, 200)))
    assert engine.book(0) == plain.book(0)
    assert engine.orders() == plain.orders() == 3
    rows = decode_frame(decode_outcome(outcome)[1]).orders
    assert [(row.seq, row.kind) for row in rows if row.kind != OrderEvent.REJECTED] == [
        (4, OrderEvent.ACCEPTED),
        (6, OrderEvent.ACCEPTED),
    ]


@pytest.mark.parametrize("reference", ENGINES)
def test_the_id_of_what_was_left_out_is_void_for_ever(reference: bool) -> None:
    engine = create_engine(CEILINGS, reference=reference)
    engine.apply(OPENING)
    [first] = replies_to(engine.apply(without(record(4, order(2)), [4])))
    [again] = replies_to(engine.apply(record(5, order(2))))
    assert isinstance(first, m.Rejected)
    assert again == replace(first, duplicate=True)
    assert engine.orders() == 1


@pytest.mark.skipif(not native_available(), reason="one engine only")
@pytest.mark.parametrize(("command", "code"), EVERY_COMMAND)
def test_both_engines_leave_out_alike(command: m.Command, code: Reject | None) -> None:
    del code
    engines = [create_engine(CEILINGS, reference=reference) for reference in (True, False)]
    for one in (OPENING, without(record(4, order(7), command), [5])):
        first, second = (engine.apply(one) for engine in engines)
        assert first == second
    assert engines[0].snapshot() == engines[1].snapshot()


def test_a_record_without_such_a_command_is_untouched() -> None:
    untouched = record(4, order(1), order(2))
    assert without(untouched, [3, 6]) is untouched


def test_what_stands_in_keeps_head_and_neighbours() -> None:
    changed = without(record(4, order(1), order(2), order(3)), [4, 6])
    before, head = decode_head(record(4, order(1), order(2), order(3))), decode_head(changed)
    assert replace(head, payload_bytes=0) == replace(before, payload_bytes=0)
    assert commands_of(changed) == [stand_in(order(1)), order(2), stand_in(order(3))]


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_the_first_command_that_fails_is_found(count: int) -> None:
    whole = record(5, *(order(number) for number in range(count)))
    for bad in range(count):
        asked: list[int] = []

        def runs(part: bytes, bad: int = bad, asked: list[int] = asked) -> bool:
            asked.append(decode_head(part).count)
            return decode_head(part).count <= bad

        assert culprit(whole, runs) == 5 + bad
        assert len(asked) <= 1 + count.bit_length()
    assert culprit(whole, lambda part: True) == 0


def test_deaths_are_counted_for_one_record_only() -> None:
    defect = Poisoned(decode_head(record(5, order(1), order(2))), ValueError("x"))
    once = defect.noted(None)
    assert once == Poison(1, 5, 6)
    assert defect.noted(once) == Poison(1, 5, 6, deaths=2)
    assert defect.noted(Poison(2, 5, 6)) == Poison(1, 5, 6)


# --- a primary --------------------------------------------------------------------------------------------------------


def test_a_check_that_fails_refuses_the_batch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()

    def panics(payload: bytes, allowed: int) -> int:
        raise Panic(f"{len(payload)} {allowed}")

    with monkeypatch.context() as broken:
        broken.setattr(stage.engine, "admit", panics)
        stage.batch(order(1))
    first, note = stage.turn()
    assert first == "ann: refused MALFORMED the engine failed to check it"
    assert note.startswith("note batch 1 of b'ann' could not be checked: Panic(")
    stage.batch(order(1))
    assert stage.turn()[0] == "ann: NEW"


def test_an_interrupt_from_the_keyboard_is_no_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()

    def interrupted(record: bytes) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage.engine, "apply", interrupted)
    stage.batch(order(1))
    stage.replica.form()
    with pytest.raises(KeyboardInterrupt):
        stage.replica.on_written()


# --- recovery ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def brittle() -> Iterator[None]:
    """Engines that recovery makes fail on `id-bad`."""
    failpoints.arm("apply:poison_id-bad")
    yield
    failpoints.arm("")


BAD = replace(order(0), client_order_id="id-bad")


def poisoned_disk(directory: Path) -> Disk:
    """A journal whose last record holds the command that kills: seq 6 of 5 to 7."""
    disk = Disk(directory)
    disk.trade(1)
    disk.write_only(order(50), BAD, order(51))
    return disk


def die(directory: Path) -> None:
    """Recovery runs into it, and it is noted."""
    state = load_state(directory)
    assert state is not None
    with pytest.raises(Poisoned, match="record of seq 5 to 7 in term 1: Panic") as defect:
        recovered(directory)
    save_state(directory, replace(state, poison=defect.value.noted(state.poison)))


@pytest.mark.usefixtures("brittle")
def test_what_was_noted_is_not_run_into_again(tmp_path: Path) -> None:
    disk = poisoned_disk(tmp_path)
    die(tmp_path)
    for _ in range(3):
        with pytest.raises(Held) as held:
            recovered(tmp_path)
        assert (held.value.position, held.value.seq) == (disk.replica.position, 6)


@pytest.mark.usefixtures("brittle")
def test_without_the_command_everything_else_of_the_log_is_there(tmp_path: Path) -> None:
    disk = poisoned_disk(tmp_path)
    die(tmp_path)
    state = load_state(tmp_path)
    assert state is not None
    save_state(tmp_path, replace(state, skip=(6,)))
    life = recovered(tmp_path)
    assert life.position.seq == 7
    assert life.engine.orders() == disk.engine.orders() + 2
    again = Disk(tmp_path)
    again.batch(BAD, order(50))
    assert again.turn()[0] == "ann: VOIDED NEW again"


@pytest.mark.usefixtures("brittle")
def test_an_engine_that_can_run_it_goes_on(tmp_path: Path) -> None:
    poisoned_disk(tmp_path)
    die(tmp_path)
    failpoints.arm("")
    assert recovered(tmp_path).position.seq == 7


def test_who_died_too_often_is_held_even_if_it_would_run(tmp_path: Path) -> None:
    poisoned_disk(tmp_path)
    state = load_state(tmp_path)
    assert state is not None
    save_state(tmp_path, replace(state, poison=Poison(1, 5, 7, deaths=DEATHS_MAX)))
    with pytest.raises(Held) as held:
        recovered(tmp_path)
    assert held.value.seq == 7


def test_the_failpoint_has_one_form() -> None:
    for text in ("apply:exit", "apply:poison_", "apply:poison_a b", "w5-sent:poison_x"):
        with pytest.raises(ConfigError, match="apply:poison_TEXT"):
            failpoints.arm(text)
    assert failpoints.poison() == ""


# --- waiting for a word -----------------------------------------------------------------------------------------------


def view(primary: str, *isr: str, skip: tuple[int, ...] = ()) -> m.ShardView:
    members = {node: m.Member(node, number, "") for number, node in enumerate((A, B), 1)}
    nobody = m.Member("", 0, "")
    return m.ShardView(
        "s0", 9, 3, members.get(primary, nobody), [members[node] for node in isr], list(members.values()), list(skip)
    )


@pytest.mark.parametrize(
    ("told", "deaths", "allowed"),
    [
        (view("", A), 1, None),
        (view("", A, skip=(5,)), 1, None),
        (view("", A, skip=(5, 6)), 1, Release.SKIP),
        (view(B, B, skip=(6,)), DEATHS_MAX, Release.SKIP),
        (view(B, B), 1, Release.REJOIN),
        (view(B, A, B), 1, None),
        (view(B, B), DEATHS_MAX, None),
        (view("", B), 1, None),
        (view(A, A), 1, None),
    ],
)
def test_a_held_node_waits_for_a_skip_or_for_another_primary(
    told: m.ShardView, deaths: int, allowed: Release | None
) -> None:
    assert release(told, node=A, seq=6, deaths=deaths) is allowed


# --- two real nodes ---------------------------------------------------------------------------------------------------


FAILPOINT = "apply:poison_id-77"


def poison(pair: Pair) -> int:
    """An order that a brittle engine cannot run; the number of its batch."""
    return pair.door().send(real_order(77))


def test_a_primary_whose_machine_fails_is_replaced_and_comes_back_without_the_record(pair: Pair) -> None:
    pair.start_both(failpoints={A: FAILPOINT})
    acknowledged = trade(pair.door(), 1)
    first = pair.lives[A]
    pair.until_whole()
    poison(pair)
    pair.until(lambda: first.poll() is not None)
    pair.mend(A)
    pair.led.bury(A)
    assert pair.fail_over() == B
    pair.until_paired()
    resend(pair.door(), 1, acknowledged)
    [reply] = pair.door().ask(real_order(77))
    assert isinstance(reply, m.Executed)
    trade(pair.door(), 2)
    pair.until_even()


def test_a_standby_that_cannot_run_what_its_primary_can_gives_up_after_some_deaths(pair: Pair) -> None:
    pair.start_both(failpoints={B: FAILPOINT})
    acknowledged = trade(pair.door(), 1)
    [reply] = pair.door().ask(real_order(77))
    assert isinstance(reply, m.Executed)

    def given_up() -> bool:
        said = pair.led.said(B)
        return said is not None and said.stats.get("deaths") == DEATHS_MAX

    pair.until(given_up)
    restarts = len(pair.restarts)
    held = pair.led.said(B)
    assert held is not None
    assert (held.ready, held.stats["role"], held.stats["poisoned_seq"]) == (False, "held", reply.seq)
    resend(pair.door(), 1, acknowledged)
    trade(pair.door(), 2)
    assert pair.led.isr == [A]
    assert len(pair.restarts) == restarts


def test_a_frozen_pair_goes_on_without_the_command(pair: Pair) -> None:
    pair.start_both(failpoints={A: FAILPOINT, B: FAILPOINT})
    acknowledged = trade(pair.door(), 1)
    lives = dict(pair.lives)
    pair.until_whole()
    poison(pair)
    # Without new starts: s0-b may be the first of the two to end, and would come back as one that cannot lead.
    Place.until(pair, lambda: lives[A].poll() is not None)
    pair.led.bury(A)
    pair.led.fail_over()
    pair.until(lambda: lives[B].poll() is not None or pair.mode(B) == "solo")
    if lives[B].poll() is None:
        poison(pair)  # it had not received the record: the gateway sends the order again
        pair.until(lambda: lives[B].poll() is not None)
    pair.led.bury(B)
    pair.until(lambda: pair.led.group.frozen_seq)
    pair.led.skip(pair.led.group.frozen_seq)
    pair.until_serving(B)
    pair.until_paired()
    resend(pair.door(), 1, acknowledged)
    [reply] = pair.door().ask(real_order(77))
    assert isinstance(reply, m.Rejected)
    assert (reply.code, reply.duplicate) == (Reject.VOIDED, True)
    trade(pair.door(), 2)
    pair.until_even()
