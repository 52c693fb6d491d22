"""Operators' commands: to which shards, as what, and which word comes back for each."""

from typing import Any

import msgspec
import pytest

from coordinator.core.administration import ANSWER_WITHIN_NS, REQUESTS_MAX, Administration, Output, ToShard
from coordinator.core.outbox import Send
from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, Reject, State
from exchange.errors import WireError
from exchange.wire import decode_coordinator_outbound, decode_shard_inbound, encode

ME = b"cli:42"
HALT = m.SetState(ALL_INSTRUMENTS, State.HALT, "alice")
DONE = m.Done(3, 10, 5)
UNKNOWN = m.Rejected(3, 11, 5, False, Reject.UNKNOWN_INSTRUMENT, 9, 0, 0)


def entry(shard: str, epoch: int = 3) -> m.ShardEntry:
    return m.ShardEntry(shard, epoch, shard, 1, f"ipc:///{shard}" if epoch else "", "ipc:///e", epoch > 0)


MAP = m.ShardMap(5, [entry("s0"), entry("s1", 4), entry("s2", 0)], [])


def administer(*commands: Any, shard: str = "", actor: str = "alice") -> m.Administer:
    return m.Administer(actor, shard, msgspec.Raw(encode(list(commands))))


def batches(outputs: list[Output]) -> list[tuple[str, m.Batch, bytes]]:
    found = []
    for output in outputs:
        assert isinstance(output, ToShard)
        header = decode_shard_inbound(output.header)
        assert isinstance(header, m.Batch)
        found.append((output.endpoint, header, output.payload))
    return found


def results(outputs: list[Output]) -> dict[str, str]:
    [answer] = outputs
    assert isinstance(answer, Send)
    assert answer.peer == ME
    message = decode_coordinator_outbound(answer.payload)
    assert isinstance(message, m.Administered)
    return message.results


@pytest.fixture
def administration() -> Administration:
    return Administration(77)


def test_a_command_for_all_goes_to_every_shard_that_was_ever_up(administration: Administration) -> None:
    sent = batches(administration.on_administer(ME, administer(HALT), MAP, 0))
    payload = encode([HALT])
    assert sent == [
        ("ipc:///s0", m.Batch("coordinator", 77, 1, 3, 1), payload),
        ("ipc:///s1", m.Batch("coordinator", 77, 2, 4, 1), payload),
    ]
    assert administration.on_answer(m.Answers(1, 3), encode([DONE])) == []
    said = results(administration.on_answer(m.Refused(2, 5, "WRONG_EPOCH", "epoch is 5, not 4"), b""))
    assert said == {"s0": "done", "s1": "WRONG_EPOCH: epoch is 5, not 4", "s2": "the shard has never been up"}


def test_a_command_for_one_shard_goes_there_alone(administration: Administration) -> None:
    two = administer(HALT, m.SetPositionLimit("bob", 9, 100, "alice"), shard="s1")
    assert [endpoint for endpoint, _, _ in batches(administration.on_administer(ME, two, MAP, 0))] == ["ipc:///s1"]
    said = results(administration.on_answer(m.Answers(1, 4), encode([DONE, UNKNOWN])))
    assert said == {"s1": "command 1: UNKNOWN_INSTRUMENT (value 9, bound 0)"}


def test_a_sweep_is_done(administration: Administration) -> None:
    administration.on_administer(ME, administer(m.MassCancel("", 0), shard="s0"), MAP, 0)
    assert results(administration.on_answer(m.Answers(1, 3), encode([m.Swept(3, 1, 1, 12)]))) == {"s0": "done"}


def test_a_shard_that_is_silent_has_an_unknown_outcome(administration: Administration) -> None:
    administration.on_administer(ME, administer(HALT), MAP, 0)
    administration.on_answer(m.Answers(1, 3), encode([DONE]))
    assert administration.on_tick(ANSWER_WITHIN_NS - 1) == []
    said = results(administration.on_tick(ANSWER_WITHIN_NS))
    assert said["s0"] == "done"
    assert said["s1"] == "no answer within 2 s: it may or may not have been carried out"
    assert administration.on_answer(m.Answers(2, 4), encode([DONE])) == []
    assert administration.on_tick(2 * ANSWER_WITHIN_NS) == []


def test_an_unknown_shard_is_named(administration: Administration) -> None:
    said = results(administration.on_administer(ME, administer(HALT, shard="s9"), MAP, 0))
    assert said == {"s9": "there is no shard 's9'; shards are s0, s1, s2"}


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [(b"\xc1", "malformed"), (b"", "malformed"), (encode([DONE, DONE]), "gave 2 replies to 1 commands")],
)
def test_a_shard_that_answers_nonsense_is_no_success(
    administration: Administration, payload: bytes, sentence: str
) -> None:
    administration.on_administer(ME, administer(HALT, shard="s0"), MAP, 0)
    assert sentence in results(administration.on_answer(m.Answers(1, 3), payload))["s0"]


@pytest.mark.parametrize(
    ("peer", "message", "rule"),
    [
        (b"gateway:g0", administer(HALT), "may not do what operators do"),
        (b"cl", administer(HALT), "may not do what operators do"),
        (ME, administer(), "0 commands"),
        (ME, administer(*[HALT] * 1_025), "1025 commands"),
        (ME, administer(HALT, m.Tick()), "command 1 is a Tick"),
        (ME, administer(m.Cancel("bob", 0, 1)), "command 0 is a Cancel"),
        (ME, administer(m.DefineInstrument(0, "X", 1, 1, 1, 1, 0, 0, 0, 0, -1)), "command 0 is a DefineInstrument"),
        (ME, administer(HALT, actor="mallory"), "command 0 names 'alice'"),
        (ME, m.Administer("alice", "", msgspec.Raw(b"\x07")), "commands"),
        (ME, m.Administer("alice", "", msgspec.Raw(encode([[99]]))), "commands"),
    ],
)
def test_what_is_not_an_operator_s_is_refused(
    administration: Administration, peer: bytes, message: m.Administer, rule: str
) -> None:
    with pytest.raises(WireError, match=rule):
        administration.on_administer(peer, message, MAP, 0)
    assert administration.on_tick(ANSWER_WITHIN_NS) == []


def test_requests_that_wait_have_a_ceiling(administration: Administration) -> None:
    for _ in range(REQUESTS_MAX):
        assert len(administration.on_administer(ME, administer(HALT, shard="s0"), MAP, 0)) == 1
    said = results(administration.on_administer(ME, administer(HALT, shard="s0"), MAP, 0))
    assert "try again" in said["s0"]
    assert len(administration.on_tick(ANSWER_WITHIN_NS)) == REQUESTS_MAX


def test_a_stream_at_the_wrong_door_is_refused(administration: Administration) -> None:
    with pytest.raises(WireError, match="follows nobody"):
        administration.on_answer(m.Image("s0", 0, 5), b"")
