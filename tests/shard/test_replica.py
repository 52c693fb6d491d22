"""Stories about one replica: what is executed, what is refused, and that nothing leaves before it is durable."""

import pytest

from exchange import messages as m
from exchange.domain import Side
from exchange.limits import BATCH_BYTES_MAX, INBOX_BATCHES_MAX, RECORD_COMMANDS_MAX
from exchange.wire import decode_frame, encode
from shard.core.poison import Poisoned
from shard.core.record import HEAD_BYTES, decode_head
from shard.core.senders import SENDERS_MAX, Senders
from tests.shard.stage import BTC, ETH, Stage, commands_of, order


def test_without_a_term_batches_are_refused_and_nothing_is_logged() -> None:
    stage = Stage(serving=False)
    stage.batch(order(1))
    stage.replica.on_tick(5_000)
    assert stage.turn() == ["ann: refused SHARD_DOWN shard s0 waits for the coordinator"]
    assert stage.journal == []
    assert not stage.replica.serving


def test_a_term_begins_with_epoch_start_then_the_instruments_then_orders() -> None:
    stage = Stage(serving=False)
    stage.replica.begin_term(3, 7, [BTC, ETH], 50)
    stage.batch(order(1))
    assert not stage.replica.serving
    assert stage.turn() == ["ann: NEW", "published 1-4"]
    assert stage.logged() == [["EpochStart", "DefineInstrument", "DefineInstrument", "Submit"]]
    assert commands_of(stage.journal[0])[0] == m.EpochStart(3, "s0", 7)
    assert decode_head(stage.journal[0]).epoch == 3
    assert stage.replica.serving


def test_nothing_leaves_before_the_record_is_durable() -> None:
    stage = Stage()
    stage.batch(order(1))
    assert stage.replica.form()
    assert stage.said(stage.replica.ready()) == []
    stage.replica.on_written()
    assert stage.said(stage.replica.ready()) == []
    assert stage.replica.committed_seq == 2
    stage.replica.release(3)
    assert stage.said(stage.replica.ready()) == ["ann: NEW", "published 3-3"]
    assert stage.said(stage.replica.ready()) == []
    assert stage.replica.committed_seq == 3


def test_a_follower_waits_for_an_image_while_a_record_is_in_doubt_because_the_engine_is_ahead() -> None:
    stage = Stage(ring_frames=1)
    stage.batch(order(1))
    stage.follow(-1)
    stage.replica.form()
    stage.replica.on_written()
    assert stage.said(stage.replica.ready()) == []
    stage.replica.release(3)
    assert stage.said(stage.replica.ready())[1:] == ["md: image 3", "published 3-3"]


def test_batches_of_one_turn_ride_in_one_record_and_each_peer_gets_its_own_answers() -> None:
    stage = Stage()
    stage.batch(order(1), order(2), peer="ann", number=5)
    stage.batch(order(3, Side.SELL, account="bob"), peer="bob", number=9)
    stage.replica.on_tick(2_000)
    assert stage.turn() == ["ann: NEW NEW", "bob: FILLED", "published 3-6"]
    assert stage.logged()[1:] == [["Tick", "Submit", "Submit", "Submit"]]


def test_the_bytes_of_the_gateway_are_the_bytes_of_the_record() -> None:
    stage = Stage()
    spelled = b"\xdd\x00\x00\x00\x01" + encode(order(1)) + b""
    stage.message(encode(m.Batch("g", 1, 1, 0, 1)), spelled)
    stage.batch(order(2))
    assert stage.turn() == ["ann: NEW", "ann: NEW", "published 3-4"]
    payload = encode(order(1)) + encode(order(2))
    assert stage.journal[1][HEAD_BYTES : HEAD_BYTES + len(payload)] == payload


@pytest.mark.parametrize(
    ("payload", "count", "detail"),
    [
        (b"", 1, ""),
        (b"\xc1", 1, ""),
        (encode([]), 0, "batch announces 0 commands, it has 0; allowed are 1 to 1024"),
        (encode([order(1)]), 2, "batch announces 2 commands, it has 1; allowed are 1 to 1024"),
        (encode([order(1), order(2)]) + b"\x90", 2, ""),
        (encode({"a": 1}), 1, ""),
        (encode([[1, "ann"]]), 1, ""),
        (encode([order(1), m.Tick()]), 2, "command 1: tag 9 (Tick) is not allowed here"),
        (encode([m.EpochStart(9, "s0", 9)]), 1, "command 0: tag 10 (EpochStart) is not allowed here"),
        (encode([m.SetState(0, 2, "me")]), 1, "command 0: tag 6 (SetState) is not allowed here"),
        (encode([m.MassCancel("")]), 1, ""),
        (bytes(BATCH_BYTES_MAX + 1), 1, "batch of 262145 bytes exceeds 262144"),
    ],
)
def test_a_malformed_batch_is_refused_whole(payload: bytes, count: int, detail: str) -> None:
    stage = Stage()
    stage.message(encode(m.Batch("g", 1, 4, 0, count)), payload)
    (line,) = stage.turn()
    assert line.startswith("ann: refused MALFORMED ")
    assert detail in line
    assert len(stage.journal) == 1


@pytest.mark.parametrize(
    "header", [b"", b"\xc1", b"\x93", b"\xff" * 100, encode(m.Tick()), encode([1, 2]), b"\x91" * 999]
)
def test_an_undecodable_header_is_a_note_and_nothing_else(header: bytes) -> None:
    stage = Stage()
    stage.message(header, encode([order(1)]))
    (line,) = stage.turn()
    assert line.startswith("note peer b'ann': message to a shard: ")
    assert len(stage.journal) == 1


def test_only_the_coordinator_gives_operator_commands() -> None:
    stage = Stage()
    stage.batch(m.SetState(0, 2, "ops"), peer="coordinator")
    stage.batch(order(1))
    assert stage.turn() == ["coordinator: Done", "ann: HALT", "published 3-4"]


def test_a_batch_for_another_term_is_not_executed() -> None:
    stage = Stage()
    stage.batch(order(1), epoch=2)
    stage.batch(order(2), epoch=1)
    refused = "ann: refused NOT_PRIMARY shard s0 is in term 1, the batch is meant for term 2"
    assert stage.turn() == [refused, "ann: NEW", "published 3-3"]


def test_a_new_term_refuses_what_waits_for_the_old_one_and_keeps_the_rest() -> None:
    stage = Stage()
    stage.batch(order(1), epoch=1, peer="old")
    stage.batch(order(2), epoch=0, peer="any")
    stage.replica.begin_term(2, 2, [BTC], 9_000)
    assert stage.turn() == [
        "old: refused NOT_PRIMARY shard s0 is in term 2, the batch is meant for term 1",
        "any: NEW",
        "published 3-4",
    ]
    assert stage.logged()[1:] == [["EpochStart", "Submit"]]


def test_two_terms_before_a_turn_leave_one_epoch_start() -> None:
    stage = Stage()
    stage.replica.begin_term(2, 2, [BTC], 9_000)
    stage.replica.begin_term(3, 3, [BTC], 9_000)
    stage.turn()
    assert stage.logged()[1:] == [["EpochStart"]]
    assert stage.engine.epoch() == 3


def test_numbers_that_no_term_can_have_change_nothing() -> None:
    stage = Stage()
    with pytest.raises(ValueError, match="epoch"):
        stage.replica.begin_term(1 << 32, 2, [BTC], 9_000)
    stage.batch(order(1))
    assert stage.turn() == ["ann: NEW", "published 3-3"]
    assert stage.replica.epoch == 1


def test_a_full_inbox_says_overloaded() -> None:
    stage = Stage()
    for number in range(INBOX_BATCHES_MAX):
        stage.batch(order(number), number=number)
    stage.batch(order(1), number=INBOX_BATCHES_MAX)
    refused = f"ann: refused OVERLOADED shard s0 has {INBOX_BATCHES_MAX} batches waiting"
    assert stage.said(stage.replica.ready()) == [refused]


def test_a_record_never_exceeds_its_ceiling_and_a_batch_is_never_split() -> None:
    stage = Stage()
    stage.batch(*(order(number) for number in range(RECORD_COMMANDS_MAX)))
    stage.batch(*(order(number) for number in range(RECORD_COMMANDS_MAX, RECORD_COMMANDS_MAX + 600)))
    stage.batch(*(order(number) for number in range(2_000, 2_600)))
    stage.replica.on_tick(2_000)
    stage.turn()
    assert [decode_head(record).count for record in stage.journal[1:]] == [1, RECORD_COMMANDS_MAX, 600, 600]


def test_time_is_what_the_shell_says_and_never_goes_back() -> None:
    stage = Stage()
    for stage.now_ns, expected in ((5_000, 5_000), (5_000, 5_001), (10, 5_002), (6_000, 6_000)):
        stage.batch(order(stage.now_ns + expected))
        stage.turn()
        assert decode_head(stage.journal[-1]).ts_ns == expected


def test_instruments_are_logged_when_they_are_new_or_differ() -> None:
    stage = Stage()
    stage.replica.define([BTC])
    assert not stage.replica.busy
    wider = m.Instrument(0, "BTCUSD", "BTC", "USD", 2, 0, 5, 1, 1, 10**9, 1, 10**9, 0, 0, -1, "s0")
    stage.replica.define([wider, ETH])
    stage.turn()
    assert stage.logged()[1:] == [["DefineInstrument", "DefineInstrument"]]


def test_an_instrument_that_cannot_be_is_noted_and_not_logged() -> None:
    stage = Stage()
    broken = m.Instrument(2, "no good", "NO", "GOOD", 2, 0, 0, 1, 1, 10**9, 1, 10**9, 0, 0, -1, "s0")
    renamed = m.Instrument(0, "XRPUSD", "XRP", "USD", 2, 0, 1, 1, 1, 10**9, 1, 10**9, 0, 0, -1, "s0")
    stage.replica.define([broken, renamed])
    published, impossible, conflict = stage.turn()
    assert published == "published 3-3"
    assert impossible.startswith("note instrument 'no good' of the shard map cannot be defined: ")
    assert conflict == "note own command of seq 3: code 29, value 0"


def test_draining_finishes_what_was_taken_and_refuses_the_rest() -> None:
    stage = Stage()
    stage.batch(order(1))
    stage.replica.drain()
    stage.batch(order(2))
    assert stage.turn() == ["ann: refused SHARD_DOWN shard s0 is shutting down", "ann: NEW", "published 3-3"]
    assert not stage.replica.serving


def test_a_record_that_kills_the_engine_is_never_acknowledged() -> None:
    stage = Stage()
    stage.batch(order(1))
    record = stage.replica.form()
    stage.engine.apply(record)
    with pytest.raises(Poisoned, match="record of seq 3 to 3 in term 1: ValueError"):
        stage.replica.on_written()
    assert stage.said(stage.replica.ready()) == []


def test_followers_get_frames_while_the_ring_holds_them_and_else_an_image_with_recent_trades() -> None:
    stage = Stage(ring_frames=2)
    for number in range(2):
        stage.batch(order(2 * number), order(2 * number + 1, Side.SELL, account="bob"))
        stage.turn()
    stage.follow(2, peer="near")
    stage.follow(6, peer="abreast")
    stage.follow(0, peer="far")
    stage.follow(99, peer="ahead")
    ready = stage.replica.ready()
    assert stage.said(ready) == ["near: frames 3-6", "abreast: frames 7-6", "far: image 6", "ahead: image 6"]
    image = decode_frame(ready.send[2][2])
    assert [row.trade_id for row in image.trades] == [1, 2]
    assert [(row.account, row.position) for row in image.positions] == [("ann", 20), ("bob", -20)]


def test_equal_cues_give_equal_journals() -> None:
    journals = []
    for _ in range(2):
        stage = Stage()
        for number in range(5):
            stage.now_ns += 10
            stage.batch(order(number), order(number + 100, Side.SELL, account="bob"))
            stage.turn()
        journals.append((stage.journal, stage.engine.digest(), stage.engine.trail()))
    assert journals[0] == journals[1]


def late(stage: Stage, number: int, *, incarnation: int, batch: int, peer: str = "g0") -> str:
    """What a gateway's process is told about an order."""
    stage.message(encode(m.Batch(peer, incarnation, batch, 0, 1)), encode([order(number)]), peer=peer)
    return next(line for line in stage.turn() if line.startswith(peer))


def test_what_a_dead_gateway_has_left_on_the_way_is_refused_once_its_successor_was_heard() -> None:
    stage = Stage()
    assert late(stage, 1, incarnation=5, batch=100) == "g0: NEW"
    assert late(stage, 2, incarnation=5, batch=101) == "g0: NEW"
    assert late(stage, 3, incarnation=9, batch=900) == "g0: NEW"
    over = "g0: refused SUPERSEDED incarnation 5 of the sender is over"
    assert late(stage, 4, incarnation=5, batch=102) == over
    assert late(stage, 4, incarnation=5, batch=102) == over
    assert late(stage, 4, incarnation=9, batch=901) == "g0: NEW", "a refused copy has used up nothing"
    assert late(stage, 3, incarnation=9, batch=900) == "g0: NEW again", "it may repeat what it sent before"
    assert late(stage, 5, incarnation=5, batch=103, peer="g1") == "g1: NEW", "names are told apart"


def test_a_gateway_whose_incarnations_begin_anew_is_not_shut_out() -> None:
    stage = Stage()
    assert late(stage, 1, incarnation=50, batch=100) == "g0: NEW"
    assert late(stage, 2, incarnation=3, batch=200) == "g0: NEW"
    assert late(stage, 2, incarnation=3, batch=200) == "g0: NEW again"
    assert late(stage, 3, incarnation=3, batch=201) == "g0: NEW"


def test_only_so_many_senders_are_remembered() -> None:
    senders = Senders()
    for number in range(SENDERS_MAX + 1):
        assert not senders.is_over(b"g%d" % number, 5, 10)
    assert not senders.is_over(b"g0", 4, 9), "forgotten"
    assert senders.is_over(b"g%d" % SENDERS_MAX, 4, 9)
