"""The checker's own test: a true history is clean, and each kind of lie is found, by the invariant that forbids it."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from drills.checker.history import Capture, Outcome
from exchange import messages as m
from exchange.domain import NS_PER_MS, NS_PER_S, Side
from shard.core.engine import create_engine
from tests.drills.judge import judge
from tests.drills.story import A, B, Record, World, clean, encoded, next_term, note, order

replace = msgspec.structs.replace
Lie = Callable[[World], None]


def test_a_true_history_is_clean_and_everything_of_it_was_looked_at(tmp_path: Path) -> None:
    world = clean().world
    report = judge(world, tmp_path, gap_max_ms=1_000)
    assert report.lines()[-1] == "clean"
    assert not report.findings
    coverage = report.coverage
    finals = [call for call in world.calls if call.outcome.seq]
    assert (coverage.answers, coverage.unchecked_answers) == (len(finals), 0)
    assert coverage.snapshots == 2
    assert coverage.captured == len(world.captures)
    assert coverage.terms == {"s0": 2}


# --- lies about the log -------------------------------------------------------------------------------------------


def drop_the_last_record(world: World) -> None:
    world.log.pop()
    world.captures = [capture for capture in world.captures if capture.last_seq <= _end(world)]


def swap_two_seqs(world: World) -> None:
    cancel, entry = world.log[-2].commands
    world.log[-2].commands = [entry, cancel]
    world.captures.clear()


def other_fields_in_the_log(world: World) -> None:
    (entry,) = world.log[-1].commands
    assert isinstance(entry, m.Submit)
    world.log[-1].commands = [replace(entry, quantity=1)]
    world.captures.clear()


def a_seq_is_left_out(world: World) -> None:
    world.log[-1].first_seq = _end(world) + 1


def the_term_goes_back(world: World) -> None:
    world.log[-1].epoch = 1


def a_term_without_its_beginning(world: World) -> None:
    start = next(record for record in world.log if record.epoch == 2)
    start.commands = [m.Tick(), *start.commands[1:]]


def a_term_begins_twice(world: World) -> None:
    world.log.append(Record(2, world.log[-1].ts_ns + 1, [m.EpochStart(2, B, 2)]))


def time_goes_back(world: World) -> None:
    world.log[-1].ts_ns = world.log[-2].ts_ns


def the_chain_is_broken(world: World) -> None:
    world.log[-1].prev_chain = 7


def written_by_the_wrong_node(world: World) -> None:
    start = next(record for record in world.log if record.epoch == 2)
    start.commands = [m.EpochStart(2, A, 2), *start.commands[1:]]


def a_bit_flips_in_the_middle(world: World) -> None:
    def flip(data: Path) -> None:
        path = sorted((data / "shards" / A).glob("*.segment"))[0]
        content = bytearray(path.read_bytes())
        content[700] ^= 1
        path.write_bytes(content)

    world.after_write.append(flip)


def a_file_ends_too_early(world: World) -> None:
    def shorten(data: Path) -> None:
        path = sorted((data / "shards" / A).glob("*.segment"))[0]
        path.write_bytes(path.read_bytes()[:1000])

    world.after_write.append(shorten)


def what_was_synced_is_gone(world: World) -> None:
    world.synced_seq = 10_000


def two_histories_in_one_term(world: World) -> None:
    world.own[A] = Record(2, world.log[-1].ts_ns, [order("other", Side.BUY, 1)])
    world.versions[-1] = replace(world.versions[-1], isr=((B, 2),))


def in_sync_with_another_history(world: World) -> None:
    world.own[A] = Record(3, world.log[-1].ts_ns, [m.EpochStart(3, A, 3)])
    world.promised[A] = 3


# --- lies of clients' gateways ------------------------------------------------------------------------------------


def not_executed_but_it_was(world: World) -> None:
    _deny(world, 503, "SHARD_DOWN")


def denied_but_it_was_executed(world: World) -> None:
    _deny(world, 400, "LOT_SIZE")


def another_fill(world: World) -> None:
    world.answer("b1", filled=3)


def a_ghost_fill(world: World) -> None:
    world.answer("b6", status="FILLED", filled=2)


def another_byte(world: World) -> None:
    world.answer("a5", reply_crc=world.calls[world.call("a5")].outcome.reply_crc ^ 1)


def an_accepted_order_was_rejected(world: World) -> None:
    world.answer("a6", status="", reason="QUANTITY_MIN", order_id=0, reply_crc=-1)


def answered_in_a_term_that_lost_it(world: World) -> None:
    world.answer("b6", epoch=1)


def answered_beyond_the_log(world: World) -> None:
    world.answer("b6", seq=_end(world) + 5)


def answered_twice_with_two_seqs(world: World) -> None:
    world.answer("a1", nth=1, seq=world.calls[world.call("b6")].outcome.seq, epoch=2, duplicate=False)


def called_after_a_later_one_was_answered(world: World) -> None:
    early, late = world.call("a1"), world.calls[-1]
    world.calls[early] = replace(world.calls[early], call_ns=late.return_ns + 1, return_ns=late.return_ns + 2)


def a_stale_read(world: World) -> None:
    read = world.call("b5", op="query")
    after = world.calls[-1].return_ns
    world.calls[read] = replace(world.calls[read], call_ns=after + NS_PER_MS, return_ns=after + 2 * NS_PER_MS)


def nobody_was_served_for_a_minute(world: World) -> None:
    for number in range(len(world.calls) - 3, len(world.calls)):
        call = world.calls[number]
        world.calls[number] = replace(call, return_ns=call.return_ns + 60 * NS_PER_S)


# --- lies about who may lead, and what may leave ------------------------------------------------------------------


def promoted_from_outside_the_set(world: World) -> None:
    world.versions[1] = replace(world.versions[1], isr=((A, 1),))


def terms_go_back_in_the_store(world: World) -> None:
    world.versions.insert(3, world.versions[1])


def written_after_a_higher_promise(world: World) -> None:
    world.traces[A] = [_note("start"), _note("promise", 2), _note("write", 1, 20)]


def acknowledged_after_a_higher_promise(world: World) -> None:
    world.traces[B] = [_note("start"), _note("promise", 3), _note("ack", 2, 20)]


def never_promised(world: World) -> None:
    world.promised[B] = 1


def released_before_the_other_had_it(world: World) -> None:
    world.traces[B] = [_note("start"), _note("sync", 2, 23), _note("release", 2, 23, A, 4)]
    world.traces[A] = [_note("start"), _note("ack", 2, 22)]


def released_alone_with_two_in_the_set(world: World) -> None:
    world.traces[B] = [_note("start"), _note("sync", 2, 23), _note("release", 2, 23, "", 4)]


def released_before_it_was_durable(world: World) -> None:
    world.traces[B] = [_note("start"), _note("sync", 2, 22), _note("release", 2, 23, "", 3)]


def released_and_then_lost_by_a_failover(world: World) -> None:
    world.traces[A] = [_note("start"), _note("sync", 1, 999), _note("release", 1, 20, "", 1)]


# --- lies of the event stream -------------------------------------------------------------------------------------


def a_gap_without_an_image(world: World) -> None:
    del world.captures[6]


def an_image_of_another_state(world: World) -> None:
    number = next(n for n, capture in enumerate(world.captures) if capture.image)
    world.captures[number] = replace(world.captures[number], frame_crc=1)


def an_event_beyond_commit(world: World) -> None:
    end = _end(world)
    world.captures.append(Capture("early", "s0", 2, end + 1, end + 1, end, False, 7))


def an_event_is_retracted(world: World) -> None:
    world.captures[4] = replace(world.captures[4], frame_crc=world.captures[4].frame_crc ^ 1)


def an_event_of_a_term_that_lost_it(world: World) -> None:
    number = next(n for n, capture in enumerate(world.captures) if capture.epoch == 2)
    world.captures[number] = replace(world.captures[number], epoch=1)


# --- damaged states -----------------------------------------------------------------------------------------------


def a_snapshot_of_another_state(world: World) -> None:
    (seq,) = world.snapshots[A]
    world.snapshots[A][seq] = _other_state(world, seq)


def a_snapshot_that_is_damaged(world: World) -> None:
    def damage(data: Path) -> None:
        (path,) = (data / "shards" / A).glob("*.snapshot")
        path.write_bytes(path.read_bytes()[:-1])

    world.after_write.append(damage)


LIES: list[tuple[Lie, set[str]]] = [
    (drop_the_last_record, {"I3"}),
    (swap_two_seqs, {"I3"}),
    (other_fields_in_the_log, {"I3"}),
    (a_seq_is_left_out, {"I2"}),
    (the_term_goes_back, {"I2"}),
    (a_term_without_its_beginning, {"I2"}),
    (a_term_begins_twice, {"I2"}),
    (time_goes_back, {"I2"}),
    (the_chain_is_broken, {"I2"}),
    (written_by_the_wrong_node, {"I2"}),
    (a_bit_flips_in_the_middle, {"I2"}),
    (a_file_ends_too_early, {"I2"}),
    (what_was_synced_is_gone, {"I3"}),
    (two_histories_in_one_term, {"I1"}),
    (in_sync_with_another_history, {"I1", "I2"}),
    (not_executed_but_it_was, {"I7"}),
    (denied_but_it_was_executed, {"I7"}),
    (another_fill, {"I5"}),
    (a_ghost_fill, {"I5"}),
    (another_byte, {"I5"}),
    (an_accepted_order_was_rejected, {"I5"}),
    (answered_in_a_term_that_lost_it, {"I3"}),
    (answered_beyond_the_log, {"I3"}),
    (answered_twice_with_two_seqs, {"I3", "I6"}),
    (called_after_a_later_one_was_answered, {"I6"}),
    (a_stale_read, {"I6"}),
    (nobody_was_served_for_a_minute, {"I16"}),
    (promoted_from_outside_the_set, {"I8"}),
    (terms_go_back_in_the_store, {"I8"}),
    (written_after_a_higher_promise, {"I9"}),
    (acknowledged_after_a_higher_promise, {"I9"}),
    (never_promised, {"I9"}),
    (released_before_the_other_had_it, {"I10"}),
    (released_alone_with_two_in_the_set, {"I10"}),
    (released_before_it_was_durable, {"I10"}),
    (released_and_then_lost_by_a_failover, {"I8"}),
    (a_gap_without_an_image, {"I13"}),
    (an_image_of_another_state, {"I13"}),
    (an_event_beyond_commit, {"I13"}),
    (an_event_is_retracted, {"I13"}),
    (an_event_of_a_term_that_lost_it, {"I13"}),
    (a_snapshot_of_another_state, {"I11"}),
    (a_snapshot_that_is_damaged, {"I11"}),
]


@pytest.mark.parametrize(("lie", "broken"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_is_found_by_the_invariant_that_forbids_it(tmp_path: Path, lie: Lie, broken: set[str]) -> None:
    world = clean().world
    lie(world)
    report = judge(world, tmp_path, gap_max_ms=10_000)
    assert set(report.counts) == broken, report.lines()


def test_a_cluster_that_changes_hands_while_it_is_looked_at_is_clean(tmp_path: Path) -> None:
    """Between one file and the next a release finds its acknowledgement, and the other node leads another term."""
    world = clean().world
    seq = _end(world)
    world.traces = {A: [_note("ack", 2, seq)], B: [_note("sync", 0, seq + 1), _note("release", 2, seq, required=A)]}
    seen: list[str] = []

    def go_on(what: str, done: int, total: int) -> None:
        if what not in seen:
            seen.append(what)
            if what == "reading the trace of s0-b":  # that of s0-a was read already
                note(tmp_path, A, _note("ack", 2, seq + 1))
                note(tmp_path, B, _note("release", 2, seq + 1, required=A))
            if what == "reading s0-a":
                next_term(world, tmp_path)

    report = judge(world, tmp_path, progress=go_on)
    assert {"reading the trace of s0-b", "reading s0-a"} <= set(seen)
    assert report.lines()[-1] == "clean", report.lines()
    assert report.coverage.terms == {"s0": 3}


def _end(world: World) -> int:
    return sum(len(record.commands) for record in world.log)


def _other_state(world: World, seq: int) -> bytes:
    """What the state would be at `seq`, had the last command before it been another."""
    engine, at, chain = create_engine(world.ceilings), 0, 0
    for plan in world.log:
        commands = plan.commands
        if at + len(commands) == seq:
            commands = [*commands[:-1], order("other", Side.BUY, 1)]
        record, chain = encoded(Record(plan.epoch, plan.ts_ns, commands), at, chain)
        engine.apply(record)
        at += len(commands)
        if at == seq:
            break
    return engine.snapshot()


def _deny(world: World, http: int, reason: str) -> None:
    number = world.call("a6")
    world.calls[number] = replace(world.calls[number], outcome=Outcome(http, reason))


def _note(kind: str, epoch: int = 0, seq: int = 0, required: str = "", ver: int = 0) -> dict[str, object]:
    _note.now += 1  # type: ignore[attr-defined]
    return {"kind": kind, "at_ns": _note.now, "epoch": epoch, "seq": seq, "required": required, "ver": ver}  # type: ignore[attr-defined]


_note.now = 0  # type: ignore[attr-defined]
