"""Stories of one real shard process: it dies, comes back, stops, meets full disks, strangers, absent coordinators."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import asdict, replace

from exchange import messages as m
from exchange.domain import Side
from exchange.process import EXIT_CONFIG, EXIT_IO, EXIT_POISON
from exchange.wire import decode_coordinator_inbound, decode_frame, decode_frames, encode
from shard.core.journal import SEGMENT_HEAD_BYTES, Entry, consume, scan
from shard.core.record import decode_head, encode_record
from shard.journal_file import open_segments, segment_paths
from shard.snapshot_file import snapshot_paths
from shardex import journal
from tests.shard.peers import Place, limit_file_size, order, short_directory

FAILING_SYNC = ["-m", "tests.shard.failing_sync"]


@pytest.fixture
def place() -> Iterator[Place]:
    with short_directory() as root:
        place = Place(root)
        yield place
        place.close()


@pytest.fixture
def small_place() -> Iterator[Place]:
    """A place where segments and snapshots come often."""
    with short_directory() as root:
        place = Place(root, segment_bytes=20_000, snapshot_every_bytes=60_000)
        yield place
        place.close()


def silent(_done: int, _total: int) -> None:
    return


def replayed(place: Place) -> journal.Replayed:
    return journal.replay(place.directory, reference=False, progress=silent)


def verified(place: Place) -> journal.Verdict:
    return journal.verify(place.directory, silent)


def records_end(path: Path) -> int:
    """Where the records of a segment end, read head by head."""
    content = path.read_bytes()
    offset = SEGMENT_HEAD_BYTES
    while content[offset : offset + 2] == b"\x58\x53":
        offset += decode_head(content, offset).record_bytes
    return offset


def test_what_was_acknowledged_survives_kill_9(place: Place) -> None:
    process = place.serve()
    gateway = place.gateway()
    answered = [reply for number in range(20) for reply in gateway.ask(order(number), order(1_000 + number, Side.SELL))]
    place.kill(process)
    before = replayed(place)
    assert before.state in (journal.State.OK, journal.State.TORN)  # TORN: killed in the middle of writing a tick
    assert before.seq >= answered[-1].seq
    place.serve()
    gateway = place.gateway("g1")
    again = [reply for number in range(20) for reply in gateway.ask(order(number), order(1_000 + number, Side.SELL))]
    for first, second in zip(answered, again, strict=True):
        assert isinstance(first, m.Executed)
        assert isinstance(second, m.Executed)
        assert second.duplicate
        assert (second.seq, second.order_id, second.fills) == (first.seq, first.order_id, first.fills)


def test_killed_again_and_again_under_load_it_loses_nothing_and_runs_nothing_twice(small_place: Place) -> None:
    place = small_place
    orders = 0
    acknowledged: dict[str, m.Executed] = {}
    for life in range(3):
        process = place.serve()
        gateway = place.gateway(f"g{life}")
        sent: dict[int, list[m.Submit]] = {}
        for _ in range(60):
            batch = [order(orders + number, Side(number % 2), 100 + number % 3) for number in range(32)]
            orders += len(batch)
            sent[gateway.send(*batch)] = batch
        gateway.wait_for_answers(30)
        place.kill(process)
        gateway.pump()
        for number, replies in gateway.answers.items():
            for command, reply in zip(sent[number], replies, strict=True):
                assert isinstance(reply, m.Executed)
                acknowledged[command.client_order_id] = reply
    place.serve()
    gateway = place.gateway("last")
    effective: set[int] = set()
    for start in range(0, orders, 32):
        batch = [order(start + number, Side(number % 2), 100 + number % 3) for number in range(32)]
        for command, reply in zip(batch, gateway.ask(*batch), strict=True):
            assert isinstance(reply, m.Executed)
            assert reply.order_id not in effective
            effective.add(reply.order_id)
            first = acknowledged.get(command.client_order_id)
            if first is not None:
                assert reply.duplicate
                assert (reply.seq, reply.order_id, reply.fills) == (first.seq, first.order_id, first.fills)
    assert place.stop(place.processes[-1]) == 0
    result = replayed(place)
    assert result.comparisons
    assert all(comparison.equal for comparison in result.comparisons)
    assert verified(place).state is journal.State.OK


def test_a_tail_that_was_garbled_after_the_kill_is_cut_exactly(place: Place) -> None:
    process = place.serve()
    gateway = place.gateway()
    gateway.ask(*(order(number) for number in range(50)))
    place.kill(process)
    path = segment_paths(place.directory)[-1]
    end = records_end(path)
    before = verified(place)
    with path.open("r+b") as file:
        file.seek(end)
        file.write(random.Random(7).randbytes(5_000))
    assert verified(place).state is journal.State.TORN
    place.serve()
    assert path.stat().st_size == end
    assert f'"seq": {before.last_seq}' in place.log_text().split("torn tail cut")[0].splitlines()[-1]
    replies = place.gateway("g1").ask(*(order(number) for number in range(50)))
    assert all(isinstance(reply, m.Executed) and reply.duplicate for reply in replies)


@pytest.mark.parametrize("place_of_damage", ["first record", "last acknowledged record"])
def test_damage_to_what_was_acknowledged_stops_the_start(place: Place, place_of_damage: str) -> None:
    process = place.serve()
    acknowledged_seq = place.gateway().ask(*(order(number) for number in range(50)))[-1].seq
    place.kill(process)
    path = segment_paths(place.directory)[-1]
    offset = SEGMENT_HEAD_BYTES + 50
    if place_of_damage == "last acknowledged record":
        # Ticks may follow, and the very last record may not have been durable when the process died.
        entries: list[Entry] = []
        consume(scan(open_segments(place.directory)), entries.append)
        last = next(entry for entry in entries if entry.position.seq >= acknowledged_seq)
        offset = last.offset + len(last.record) - 10
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5")
    before = path.read_bytes()
    assert place.ended(place.start_shard()) == EXIT_IO
    assert path.read_bytes() == before
    assert "nothing was cut" in place.log_text()
    assert verified(place).state is journal.State.CORRUPT


def test_a_record_that_the_engine_cannot_execute_is_run_into_once_and_then_waited_before(place: Place) -> None:
    process = place.serve()
    place.gateway().ask(order(1))
    place.kill(process)
    path = segment_paths(place.directory)[-1]
    end = records_end(path)
    entries: list[Entry] = []
    consume(scan(open_segments(place.directory)), entries.append)
    last = entries[-1].position
    poison = encode_record(
        epoch=last.epoch,
        first_seq=last.seq + 1,
        ts_ns=last.ts_ns + 1,
        prev_chain=last.chain,
        commands=[encode([1, "ann", "x", 0, 9, 0, 0, 0, 1, 100, 10])],
    )
    with path.open("r+b") as file:
        file.seek(end)
        file.write(poison)
    assert place.ended(place.start_shard()) == EXIT_POISON
    seq = last.seq + 1
    assert f"record of seq {seq} to {seq} in term {last.epoch}" in place.log_text()
    coordinator = place.coordinator
    assert coordinator is not None
    held = place.start_shard()
    place.until(lambda: coordinator.registered[-1].poisoned_seq == seq)
    place.until(lambda: coordinator.beats[-1].stats["role"] == "held")
    assert coordinator.group.frozen_seq == seq
    assert place.stop(held) == 0
    assert path.read_bytes()[end : end + len(poison)] == poison


def test_sigterm_answers_what_was_taken_and_leaves_a_clean_mark(place: Place) -> None:
    process = place.serve()
    gateway = place.gateway()
    gateway.ask(*(order(number) for number in range(50)))
    assert place.stop(process) == 0
    state = place.state()
    assert state.clean_seq == verified(place).last_seq
    assert [int(path.stem) for path in snapshot_paths(place.directory)] == [state.clean_seq]
    place.log.write_text("")
    place.serve()
    assert '"records": 0' in place.log_text()
    assert place.state().clean_seq == -1
    assert place.gateway("g1").ask(m.QueryOpen("ann"))[0].infos  # type: ignore[union-attr]


def test_snapshots_are_taken_while_it_serves_and_old_journal_goes(small_place: Place) -> None:
    place = small_place
    process = place.serve()
    gateway = place.gateway()
    for burst in range(20):  # more than two snapshots need, without waiting for ticks
        gateway.ask(*(order(1_000 * burst + number, Side(number % 2)) for number in range(400)))
        assert verified(place).state in (journal.State.OK, journal.State.IN_PROGRESS)
    place.until(lambda: int(segment_paths(place.directory)[0].stem) > 0)
    assert len(snapshot_paths(place.directory)) <= 3
    place.kill(process)
    result = replayed(place)
    assert result.from_seq > 0
    assert result.comparisons
    assert all(comparison.equal for comparison in result.comparisons)
    place.serve()
    replies = place.gateway("g1").ask(*(order(number, Side(number % 2)) for number in range(400)))
    assert all(isinstance(reply, m.Executed) and reply.duplicate for reply in replies)


def test_without_pruning_the_whole_journal_stays_beside_the_snapshots() -> None:
    with short_directory() as root:
        place = Place(root, segment_bytes=20_000, snapshot_every_bytes=60_000, prune=False)
        try:
            process = place.serve()
            gateway = place.gateway()
            for burst in range(20):  # more than two snapshots need, without waiting for ticks
                gateway.ask(*(order(1_000 * burst + number, Side(number % 2)) for number in range(400)))
            place.until(lambda: len(snapshot_paths(place.directory)) >= 2)
            place.kill(process)
            assert segment_paths(place.directory)[0].stem == "0" * 20
        finally:
            place.close()


def test_a_failed_sync_ends_the_process_unanswered_and_is_never_tried_again(place: Place) -> None:
    coordinator = place.start_coordinator()
    process = place.start_shard(FAILING_SYNC)
    place.until(lambda: any(beat.ready for beat in coordinator.beats))
    gateway, listener = place.gateway(), place.listener()
    answered = gateway.ask(order(1))
    place.until(listener.pump)
    process.send_signal(signal.SIGUSR1)
    assert place.ended(process) == EXIT_IO
    assert "disk failed, stopping" in place.log_text()
    suspect_seq = place.state().suspect_seq
    assert suspect_seq >= answered[0].seq
    assert max(published.last_seq for published, _ in listener.pump()) <= suspect_seq
    assert verified(place).last_seq > suspect_seq
    place.serve()
    assert replayed_epoch_start(place) == suspect_seq + 1
    again = place.gateway("g1").ask(order(1))[0]
    assert isinstance(again, m.Executed)
    assert again.duplicate


def replayed_epoch_start(place: Place) -> int:
    """Seq of the newest EpochStart."""
    return max(
        int(command["seq"])
        for record in journal.dump(place.directory)
        for command in record["commands"]
        if command["command"] == "EpochStart"
    )


def test_a_full_disk_ends_the_process_unanswered(place: Place) -> None:
    process = place.serve()
    gateway = place.gateway()
    limit_file_size(process, 100_000)
    sent = {}
    for start in range(0, 40_000, 100):
        batch = [order(start + number) for number in range(100)]
        sent[gateway.send(*batch)] = batch
        if start == 0:
            gateway.wait_for_answers(1)
    assert place.ended(process) == EXIT_IO
    gateway.pump()
    gateway.close()
    assert 0 < len(gateway.answers) < len(sent)
    assert place.state().suspect_seq >= max(replies[-1].seq for replies in gateway.answers.values())
    place.serve()
    again = place.gateway("g1")
    for number, replies in gateway.answers.items():
        for first, second in zip(replies, again.ask(*sent[number]), strict=True):
            assert isinstance(second, m.Executed)
            assert second.duplicate
            assert second.seq == first.seq


def test_a_second_process_is_refused_with_a_sentence(place: Place) -> None:
    first = place.serve()
    second = place.start_shard()
    assert place.ended(second) == EXIT_CONFIG
    assert f"is in use by process {first.pid}" in place.log_text()
    assert isinstance(place.gateway().ask(order(1))[0], m.Executed)


def test_a_name_that_is_not_configured_is_refused(place: Place) -> None:
    command = [sys.executable, "-m", "shard", "--config", str(place.toml), "--name", "s7"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == EXIT_CONFIG
    assert "--name 's7' is not one of the configured nodes: s0-a" in result.stderr


def test_without_a_coordinator_it_waits_and_says_so(place: Place) -> None:
    place.start_shard()
    gateway = place.gateway()
    refused = gateway.wait(gateway.send(order(1)))
    assert isinstance(refused, m.Refused)
    assert (refused.reason, refused.detail) == ("SHARD_DOWN", "shard s0 waits for the coordinator")
    place.until(lambda: "waiting for the coordinator" in place.log_text())
    coordinator = place.start_coordinator()
    place.until(lambda: any(beat.ready for beat in coordinator.beats))
    assert isinstance(gateway.ask(order(1))[0], m.Executed)


def test_a_coordinator_that_goes_away_takes_nothing_with_it(place: Place) -> None:
    place.serve()
    assert place.coordinator is not None
    gateway = place.gateway()
    gateway.ask(order(1))
    place.sockets.remove(place.coordinator.socket)
    place.coordinator.close()
    place.coordinator = None
    assert isinstance(gateway.ask(order(2))[0], m.Executed)
    back = place.start_coordinator(epoch=1)
    place.until(lambda: any(beat.ready and beat.stats["epoch"] == 2 for beat in back.beats))
    assert back.registered[0].promised_epoch == 1
    assert back.registered[0].last_seq >= 4
    assert gateway.ask(order(3), epoch=2)[0].epoch == 2
    refused = gateway.wait(gateway.send(order(4), epoch=1))
    assert isinstance(refused, m.Refused)
    assert refused.reason == "NOT_PRIMARY"


def test_an_older_term_is_not_accepted(place: Place) -> None:
    coordinator = place.start_coordinator(epoch=4)
    place.serve()
    gateway = place.gateway()
    coordinator.forget()
    place.until(lambda: "the coordinator is behind" in place.log_text())
    assert gateway.ask(order(1), epoch=5)[0].epoch == 5
    assert place.state().promised_epoch == 5


def test_a_newer_map_defines_its_instruments(place: Place) -> None:
    place.serve()
    assert place.coordinator is not None
    gateway = place.gateway()
    assert isinstance(gateway.ask(order(1, instrument=2))[0], m.Rejected)
    first = place.coordinator.instruments[0]
    added = m.Instrument(2, "XRPUSD", "XRP", *[getattr(first, name) for name in first.__struct_fields__[3:]])
    place.coordinator.instruments.append(added)
    place.coordinator.map_version += 1
    place.until(lambda: isinstance(gateway.ask(order(1, instrument=2))[0], m.Executed))


def test_events_are_complete_whether_heard_or_followed(place: Place) -> None:
    process = place.serve()
    gateway, listener = place.gateway(), place.listener()
    place.until(listener.pump)
    for number in range(10):
        gateway.ask(order(number), order(1_000 + number, Side.SELL))
    last_seq = gateway.ask(order(5_000))[0].seq
    place.until(lambda: listener.pump()[-1][0].last_seq >= last_seq)
    for (before, _), (after, frame) in pairwise(listener.heard):
        assert after.previous_seq == before.last_seq
        assert decode_frame(frame).last_seq == after.last_seq
    header, payload = gateway.follow(0)
    assert isinstance(header, m.Frames)
    frames = {decode_frame(frame).last_seq: bytes(frame) for frame in decode_frames(payload)}
    assert all(frames[published.last_seq] == frame for published, frame in listener.heard[:-1])
    place.kill(process)
    place.serve()
    header, payload = place.gateway("g1").follow(0)
    assert isinstance(header, m.Frames)
    again = {decode_frame(frame).last_seq: bytes(frame) for frame in decode_frames(payload)}
    assert {seq: again[seq] for seq in frames} == frames


def test_who_missed_too_much_gets_an_image_with_recent_trades(place: Place) -> None:
    process = place.serve()
    place.gateway().ask(order(1), order(2, Side.SELL))
    assert place.stop(process) == 0
    place.serve()
    gateway = place.gateway("g1")
    gateway.ask(order(3), order(4, Side.SELL), order(5))
    header, payload = gateway.follow(1)
    assert isinstance(header, m.Image)
    image = decode_frame(payload)
    assert image.last_seq == header.seq
    assert [(row.price, row.quantity) for row in image.levels] == [(100, 10)]
    assert [row.taker_client_order_id for row in image.trades] == ["id-4"]


def hostile_messages() -> list[list[bytes]]:
    dice = random.Random(11)
    batch = encode(m.Batch("g", 1, 1, 0, 1))
    submit = encode([order(1)])
    return [
        [],
        [b""],
        [b"", b""],
        [b"", b"", b"", b""],
        [batch],
        [batch, submit, submit],
        [encode(m.Batch("g", 1, 1, 0, 1 << 40)), submit],
        [encode(m.Batch("g", 1, -1, -1, -1)), submit],
        [encode(m.Batch("g" * 100_000, 1, 1, 0, 1)), b"\xdd\xff\xff\xff\xff"],
        [batch, b"\x91" * 100_000],
        [batch, b"\xdf\xff\xff\xff\xff"],
        [batch, encode([float(1)])],
        [batch, encode([[1, "ann", "x", 0, 9, 0, 0, 0, 1, 100, 10]])],
        [encode(m.Answers(1, 1)), submit],
        [encode(m.Follow("x", -(1 << 63))), b""],
        [encode(m.Follow("x", (1 << 64) - 1)), b""],
        [encode(m.Follow("x", 0)), b"surplus"],
        *([dice.randbytes(dice.randrange(200)), dice.randbytes(dice.randrange(2_000))] for _ in range(200)),
        *([batch, submit[:cut]] for cut in range(len(submit))),
    ]


def test_strangers_cannot_hurt_it(place: Place) -> None:
    process = place.serve()
    coordinator = place.coordinator
    assert coordinator is not None
    stranger = place.gateway("stranger")
    for message in hostile_messages():
        assert stranger.socket._send_parts(message or [b""])
    stranger.skip_to_batch(1_000)  # an answer to this one says that everything before it was read
    assert isinstance(stranger.ask(order(78))[0], m.Executed)
    assert isinstance(place.gateway().ask(order(77))[0], m.Executed)
    assert process.poll() is None
    assert len(place.log_text().splitlines()) < 200


@pytest.mark.parametrize(
    ("answer", "noted"),
    [
        (b"", "noted"),
        (b"\xc1" * 50, "noted"),
        (m.Registered(1, 1 << 40), "the coordinator registers incarnation 1 in term 1099511627776"),
        (m.Registered(-5, 1), "the coordinator registers incarnation -5 in term 1"),
    ],
)
def test_a_coordinator_that_talks_nonsense_is_not_believed(
    place: Place, answer: bytes | m.Registered, noted: str
) -> None:
    coordinator = place.start_coordinator()
    process = place.start_shard()
    place.coordinator = None
    peer, header, _ = place.until(coordinator.socket.receive)
    if isinstance(answer, m.Registered):
        register = decode_coordinator_inbound(header)
        assert isinstance(register, m.Register)
        answer = encode(replace(answer, session=register.session))
    coordinator.socket.send(peer, answer)
    coordinator.socket.send(peer, encode(m.ShardMap(1, [], [])))
    place.until(lambda: noted in place.log_text())
    gateway = place.gateway()
    refused = gateway.wait(gateway.send(order(1)))
    assert isinstance(refused, m.Refused)
    assert refused.reason == "SHARD_DOWN"
    assert process.poll() is None


def test_a_node_says_under_which_settings_it_runs(place: Place) -> None:
    place.serve()
    coordinator = place.coordinator
    assert coordinator is not None
    ceilings = {name: str(value) for name, value in asdict(place.config.engine_config()).items()}
    assert coordinator.registered[-1].must_equal == {"protocol": "1", "durability": "both", **ceilings}
