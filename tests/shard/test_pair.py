"""Stories of two real nodes of one shard: one leads, one follows, and nothing that was acknowledged is ever missing."""

import shutil
import signal
import time
from collections.abc import Iterator
from itertools import count, pairwise
from typing import Literal

import pytest
from msgspec.structs import replace

from exchange import messages as m
from exchange.domain import NS_PER_S, Side, Status, TimeInForce
from exchange.process import EXIT_DEFECT, EXIT_IO
from exchange.wire import decode_frame, decode_frames
from shard.node_state import read_note
from shard.storage import PAIRED_SNAPSHOT_FACTOR
from shardex import journal
from tests.shard.pair import A, B, Pair, open_pair, resend, trade
from tests.shard.peers import Gateway, order, short_directory

SNAPSHOT_EVERY_BYTES = 30_000


@pytest.fixture
def small_pair() -> Iterator[Pair]:
    """Segments and snapshots come often, so that old journal goes."""
    with short_directory() as root:
        pair = Pair(root, segment_bytes=20_000, snapshot_every_bytes=SNAPSHOT_EVERY_BYTES)
        yield pair
        pair.close()


def followed(gateway: Gateway) -> dict[int, bytes]:
    """Every committed frame by its last seq."""
    header, payload = gateway.follow(0)
    assert isinstance(header, m.Frames)
    assert not header.more
    return {decode_frame(frame).last_seq: bytes(frame) for frame in decode_frames(payload)}


def test_two_nodes_become_a_pair_and_hold_the_same(pair: Pair) -> None:
    pair.start_both()
    trade(pair.door(), 1)
    pair.until_even()

    def well() -> bool:
        """Of one moment: a tick is always on its way, and now and then one waits for a disk."""
        first, second = pair.led.said(A), pair.led.said(B)
        assert first is not None
        assert second is not None
        return (
            (first.stats["mode"], first.stats["lag"], first.ready) == ("paired", 0, True)
            and (second.stats["role"], second.stats["mode"], second.ready) == ("standby", "standby", True)
            and 0 <= second.stats["hears_primary_ms"] < 1_000
        )

    pair.until(well)
    for node in (A, B):
        assert pair.stop(pair.lives.pop(node)) == 0
    longer, shorter = sorted([pair.records(A), pair.records(B)], key=len, reverse=True)
    assert all(longer[seq] == record for seq, record in shorter.items())
    assert len(longer) - len(shorter) <= 1


def test_a_killed_primary_takes_nothing_with_it(pair: Pair) -> None:
    pair.start_both()
    acknowledged = [trade(pair.door(), number) for number in range(5)]
    pair.kill_primary()
    assert pair.fail_over() == B
    for number, answers in enumerate(acknowledged):
        resend(pair.door(), number, answers)
    pair.start(A)
    pair.until_paired()
    trade(pair.door(), 9)
    pair.until_even()


def test_consumers_see_one_dense_stream_over_a_failover(pair: Pair) -> None:
    pair.start_both()
    heard = [pair.listener(node=A), pair.listener(node=B)]
    gateway = pair.door()
    for number in range(5):
        trade(gateway, number)
    pair.until(heard[0].pump)
    pair.kill_primary()
    pair.fail_over()
    last_seq = max(reply.seq for reply in trade(pair.door(), 6).values())

    pair.until(lambda: max((published.last_seq for published, _ in heard[1].pump()), default=0) >= last_seq)
    of_old = {published.last_seq: frame for published, frame in heard[0].pump()}
    committed = followed(pair.door())
    frames = [decode_frame(frame) for frame in committed.values()]
    assert all(after.first_seq == before.last_seq + 1 for before, after in pairwise(frames))
    assert of_old
    assert {seq: committed[seq] for seq in of_old} == of_old
    assert {frame.epoch for frame in frames} == {1, 2}


def test_a_primary_that_slept_through_its_end_answers_nothing_any_more(pair: Pair) -> None:
    pair.start_both()
    sleeper = pair.lives[A]
    gateway, listener = pair.door(), pair.listener(node=A)
    acknowledged = trade(gateway, 1)
    pair.until(listener.pump)
    pair.until_whole()
    pair.freeze(A)
    late = [gateway.send(*(order(10 * number + one) for one in range(10))) for number in (50, 51)]
    assert pair.fail_over() == B
    resend(pair.door(), 1, acknowledged)
    sleeper.send_signal(signal.SIGCONT)
    pair.led.unbury()
    pair.until_paired()
    gateway.pump()
    assert not [batch for batch in late if batch in gateway.answers]
    trade(pair.door(), 52)
    pair.until_even()
    heard = {published.last_seq: frame for published, frame in listener.pump()}
    committed = followed(pair.door())
    assert heard
    assert {seq: committed[seq] for seq in heard} == heard


def test_records_that_only_the_old_primary_has_are_cut_and_kept_as_evidence(pair: Pair) -> None:
    pair.start_both()
    orphan = pair.door()
    acknowledged = trade(orphan, 1)
    pair.until_whole()
    pair.led.unwilling = True
    pair.kill_node(B)
    batch = orphan.send(order(990), order(991))
    seq = max(pair.records(A))
    pair.until(lambda: max(pair.records(A)) > seq)
    pair.kill_node(A)
    lonely = pair.records(A)
    pair.start(B)
    pair.until_serving(B)
    pair.led.unwilling = False
    resend(pair.door(), 1, acknowledged)
    pair.start(A)
    pair.until_paired()
    assert pair.restarts == [A]
    said = orphan.said(batch)
    assert said is None or (isinstance(said, m.Refused) and said.reason == "FAILING_OVER")
    cut = pair.divergent(A)
    assert cut
    assert cut == {seq: record for seq, record in lonely.items() if seq >= min(cut)}
    pair.until_even()
    mine, theirs = pair.records(A), pair.records(B)
    assert mine[min(cut)] == theirs[min(cut)] != cut[min(cut)]
    assert journal.verify(pair.config.node_directory(A), lambda _done, _all: None).state is not journal.State.CORRUPT


def test_a_primary_goes_on_alone_only_when_that_is_recorded() -> None:
    with open_pair(shrink_ms=300) as pair:
        pair.start_both()
        gateway = pair.door()
        trade(gateway, 1)
        pair.until_whole()
        coordinator, pair.coordinator = pair.led, None
        pair.kill(pair.lives.pop(B))  # and nobody is told: it is found by its silence
        batch = gateway.send(order(500))
        pair.until(lambda: pair.deaf_for(400))
        said = gateway.said(batch)
        assert said is None or (isinstance(said, m.Refused) and said.reason == "FAILING_OVER")
        assert coordinator.isr == [A, B]
        pair.coordinator = coordinator
        assert isinstance(gateway.ask(order(500))[0], m.Executed)
        assert pair.led.isr == [A]
        pair.until(lambda: pair.mode(A) == "solo")
        pair.start(B)
        pair.until_paired()
        trade(gateway, 2)
        pair.until_even()


def test_a_lost_answer_about_the_set_is_learned_from_the_next_view(pair: Pair) -> None:
    pair.start_both()
    gateway = pair.door()
    pair.led.deaf = True
    pair.kill_node(B)
    batch = gateway.send(order(500))
    pair.until(lambda: pair.led.isr == [A])
    pair.led.deaf = False
    said = gateway.wait(batch)
    assert isinstance(said, list) or said.reason == "FAILING_OVER"
    assert isinstance(gateway.ask(order(500))[0], m.Executed)


def test_a_standby_without_its_directory_gets_every_record_again(pair: Pair) -> None:
    pair.start_both()
    acknowledged = [trade(pair.door(), number) for number in range(5)]
    pair.kill_node(B)
    shutil.rmtree(pair.config.node_directory(B))
    pair.start(B)
    pair.until_paired()
    pair.kill_primary()
    assert pair.fail_over() == B
    for number, answers in enumerate(acknowledged):
        resend(pair.door(), number, answers)


def test_a_standby_that_is_too_far_behind_takes_the_snapshot_of_its_primary(small_pair: Pair) -> None:
    pair = small_pair
    pair.start_both()
    pair.leave_behind(B)
    gateway = pair.door()
    acknowledged = {}
    last_seq = max(pair.records(B))
    while pair.oldest(A) <= last_seq:
        number = len(acknowledged)
        acknowledged[number] = trade(gateway, number, count=100)
    pair.start(B)
    pair.until_paired()
    assert B in pair.restarts
    assert "starting from the primary's snapshot" in pair.log_text()
    trade(gateway, 1_000)
    pair.until_even()
    pair.kill_primary()
    assert pair.fail_over() == B
    for number, answers in acknowledged.items():
        resend(pair.door(), number, answers, count=100)
    assert pair.divergent(B)


def test_of_a_pair_the_standby_takes_the_snapshots(small_pair: Pair) -> None:
    pair = small_pair
    pair.start_both()
    gateway = pair.door()
    numbers = count()

    def write(journal_bytes: int) -> None:
        """Trade until the primary's journal is at least so long."""
        while (said := pair.led.said(A)) is None or said.stats["journal_bytes"] < journal_bytes:
            trade(gateway, next(numbers), count=100)

    write(2 * SNAPSHOT_EVERY_BYTES)
    pair.until(lambda: pair.snapshots(B))
    assert not pair.snapshots(A)
    write(PAIRED_SNAPSHOT_FACTOR * SNAPSHOT_EVERY_BYTES)
    pair.until(lambda: pair.snapshots(A))
    pair.until_even()


def test_a_planned_switch_loses_no_answer(pair: Pair) -> None:
    pair.start_both()
    gateway = pair.door()
    before = trade(gateway, 1)
    pair.led.step_down()
    batch = gateway.send(order(500))
    pair.until_serving(B)
    said = gateway.wait(batch)
    assert isinstance(said, list) or said.reason in ("NOT_PRIMARY", "SHARD_DOWN", "FAILING_OVER")
    resend(pair.door(), 1, before)
    pair.until_paired()
    assert not pair.restarts
    trade(pair.door(), 2)
    pair.until_even()


def test_a_shard_that_may_not_be_alone_refuses_until_it_is_a_pair() -> None:
    with open_pair(solo="refuse") as pair:
        pair.start_coordinator()
        pair.start(A)
        pair.until(lambda: pair.mode(A) == "solo")
        gateway = pair.door()
        refused = gateway.wait(gateway.send(order(1)))
        assert isinstance(refused, m.Refused)
        assert refused.reason == "FAILING_OVER"
        assert "may not go on alone" in refused.detail
        pair.start(B)
        pair.until_paired()
        assert isinstance(gateway.ask(order(1))[0], m.Executed)


def test_answers_that_do_not_wait_for_the_disks_survive_kill_9_of_both() -> None:
    with open_pair(durability="replicated") as pair:
        pair.start_both()
        acknowledged = [trade(pair.door(), number) for number in range(5)]
        said = pair.led.said(A)
        assert said is not None
        assert said.stats["durability"] == "replicated"
        assert "answers do not wait for the disks" in pair.log_text()
        pair.kill_primary()
        pair.kill_node(B)
        pair.start(B)
        pair.until_serving(B)
        for number, answers in enumerate(acknowledged):
            resend(pair.door(), number, answers)
        pair.start(A)
        pair.until_paired()
        pair.until_even()


def test_the_notes_follow_when_the_disks_have_caught_up() -> None:
    with open_pair(durability="replicated") as pair:
        pair.start_both()
        last_seq = max(reply.seq for reply in trade(pair.door(), 1).values())
        for node in (A, B):
            pair.until(lambda node=node: read_note(pair.config.node_directory(node)) >= last_seq)


@pytest.mark.parametrize("durability", ["both", "replicated"])
@pytest.mark.parametrize("victim", [A, B])
def test_a_failed_disk_takes_one_node_only(victim: str, durability: Literal["both", "replicated"]) -> None:
    with open_pair(durability=durability) as pair:
        pair.start_both(launchers={victim: ["-m", "tests.shard.failing_sync"]})
        acknowledged = trade(pair.door(), 1)
        pair.until_whole()
        process = pair.lives.pop(victim)
        process.send_signal(signal.SIGUSR1)
        assert pair.ended(process) == EXIT_IO
        pair.led.bury(victim)
        if victim == A:
            assert pair.fail_over() == B
        resend(pair.door(), 1, acknowledged)
        pair.start(victim)
        pair.until_paired()
        trade(pair.door(), 2)
        pair.until_even()


def test_a_standby_that_computes_something_else_stops(pair: Pair) -> None:
    pair.start_both()
    trade(pair.door(), 1)
    pair.kill_node(B)
    pair.toml.write_text(pair.toml.read_text().replace("open_orders_max = 100000", "open_orders_max = 12"))
    process = pair.start(B)
    for number in range(2, 6):
        pair.door().ask(*(order(100 * number + one, Side.BUY, 50) for one in range(10)))
    assert pair.ended(process) == EXIT_DEFECT
    assert "the same log gave another outcome here" in pair.log_text()
    del pair.lives[B]
    pair.led.bury(B)
    pair.until(lambda: pair.led.isr == [A])
    assert isinstance(pair.door().ask(order(9_999))[0], m.Executed)


def test_a_clock_that_jumps_an_hour_ends_no_orders_not_even_over_a_failover(pair: Pair) -> None:
    launcher = ["-m", "tests.shard.jumping_clock"]
    pair.start_both(launchers={A: launcher, B: launcher})
    trade(pair.door(), 1)
    expire_ns = time.time_ns() + 1_800 * NS_PER_S
    dated = replace(order(500, price=7), time_in_force=TimeInForce.GTD, expire_ns=expire_ns)
    assert isinstance(pair.door().ask(dated)[0], m.Executed)

    def off_ms(node: str) -> int:
        said = pair.led.said(node)
        return int(said.stats["clock_off_ms"]) if said is not None else 0

    for node in (B, A):
        pair.lives[node].send_signal(signal.SIGUSR1)
        pair.until(lambda node=node: off_ms(node) > 3_500_000)
    later = max(reply.ts_ns for reply in trade(pair.door(), 2).values())
    assert later < expire_ns - 1_700 * NS_PER_S
    pair.kill_primary()
    assert pair.fail_over() == B
    assert off_ms(B) > 3_500_000
    assert max(reply.ts_ns for reply in trade(pair.door(), 3).values()) < expire_ns - 1_700 * NS_PER_S
    [open_] = pair.door().ask(m.QueryOrder("ann", 0, 0, dated.client_order_id))
    assert isinstance(open_, m.Order)
    assert open_.info.status == Status.NEW
    pair.lives[B].send_signal(signal.SIGUSR2)
    pair.until(lambda: off_ms(B) == 0)
