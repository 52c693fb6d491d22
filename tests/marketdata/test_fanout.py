"""Who gets which frames: order, conflation, overflow. Frames are six bytes here so that a block can be cut again."""

from hypothesis import given
from hypothesis import strategies as st

from exchange.limits import FEED_QUEUE_BYTES_MAX, FEED_QUEUE_MESSAGES_MAX
from marketdata.core.fanout import Client, Fanout

FRAME = 6
TRADES, LEVEL2 = (0, "trades"), (0, "level2")


def cut(block: bytes) -> list[str]:
    return [block[at : at + FRAME].decode() for at in range(0, len(block), FRAME)]


def frame(letter: str, number: int) -> bytes:
    return f"{letter}{number:05}".encode()


def drain(fanout: Fanout) -> dict[int, list[str]]:
    fanout.spread()
    return {client.number: cut(fanout.take(client)) for client in fanout.waiting()}


STEPS = st.lists(st.sampled_from(["trade", "level2", "round", "read 1", "read 2", "join 2", "leave 2"]), max_size=60)


@given(STEPS)
def test_no_trade_is_lost_or_reordered_and_the_newest_level2_always_arrives(steps: list[str]) -> None:
    """Client 1 is there from the start; client 2 comes and goes. Either reads only when a step says so."""
    fanout = Fanout(("level2",))
    clients = {1: fanout.join(), 2: fanout.join()}
    got: dict[int, list[str]] = {1: [], 2: []}
    owed: dict[int, list[str]] = {1: [], 2: []}
    present = {1: True, 2: False}
    newest: dict[int, str] = {}
    for key in (TRADES, LEVEL2):
        fanout.subscribe(clients[1], key)
    for number, step in enumerate(steps):
        match step.split():
            case ["trade"]:
                fanout.publish(TRADES, frame("t", number))
                for client in (1, 2):
                    owed[client] += [f"t{number:05}"] if present[client] else []
            case ["level2"]:
                fanout.publish(LEVEL2, frame("l", number))
                newest.update({client: f"l{number:05}" for client in (1, 2) if present[client]})
            case ["round"]:
                fanout.spread()
            case ["join", _] if not present[2]:
                present[2] = True
                for key in (TRADES, LEVEL2):
                    assert fanout.subscribe(clients[2], key)
            case ["leave", _] if present[2]:
                fanout.spread()
                present[2] = False
                for key in (TRADES, LEVEL2):
                    assert fanout.unsubscribe(clients[2], key)
                newest.pop(2, None)
            case ["read", who]:
                read(fanout, clients[int(who)], got[int(who)])
    for number in (1, 2):
        fanout.spread()
        read(fanout, clients[number], got[number])
        assert [text for text in got[number] if text[0] == "t"] == owed[number]
        level2 = [text for text in got[number] if text[0] == "l"]
        assert level2 == sorted(level2)
        if number in newest:
            assert level2[-1] == newest[number]


def read(fanout: Fanout, client: Client, into: list[str]) -> None:
    fanout.spread()
    if client in fanout.waiting():
        into += cut(fanout.take(client))


def test_one_update_is_the_same_object_for_all() -> None:
    fanout = Fanout(())
    clients = [fanout.join() for _ in range(3)]
    for client in clients:
        fanout.subscribe(client, TRADES)
    update = frame("t", 1)
    fanout.publish(TRADES, update)
    fanout.spread()
    assert all(fanout.take(client) is update for client in clients)
    assert fanout.delivered == 3
    assert not fanout.due


def test_what_was_published_before_a_subscription_is_not_for_the_newcomer() -> None:
    fanout = Fanout(())
    early, late = fanout.join(), fanout.join()
    fanout.subscribe(early, TRADES)
    fanout.publish(TRADES, frame("t", 1))
    fanout.subscribe(late, TRADES)
    fanout.publish(TRADES, frame("t", 2))
    assert drain(fanout) == {early.number: ["t00001", "t00002"], late.number: ["t00002"]}


def test_an_answer_comes_after_what_was_queued_and_before_what_follows() -> None:
    fanout = Fanout(())
    client = fanout.join()
    fanout.subscribe(client, TRADES)
    fanout.publish(TRADES, frame("t", 1))
    fanout.spread()
    fanout.tell(client, frame("a", 2))
    fanout.publish(TRADES, frame("t", 3))
    assert drain(fanout) == {client.number: ["t00001", "a00002", "t00003"]}


def test_conflation_counts_what_it_spares() -> None:
    fanout = Fanout(("level2",))
    client = fanout.join()
    fanout.subscribe(client, LEVEL2)
    for number in range(3):
        fanout.publish(LEVEL2, frame("l", number))
        fanout.spread()
    assert drain(fanout) == {client.number: ["l00002"]}
    assert (fanout.skipped, fanout.delivered) == (2, 1)


def test_a_client_overflows_by_messages() -> None:
    fanout = Fanout(())
    client = fanout.join()
    fanout.subscribe(client, TRADES)
    for number in range(FEED_QUEUE_MESSAGES_MAX):
        fanout.publish(TRADES, frame("t", number))
    fanout.spread()
    assert not client.overflows
    fanout.publish(TRADES, frame("t", 0))
    fanout.spread()
    assert client.overflows


def test_a_client_overflows_by_bytes() -> None:
    fanout = Fanout(())
    client = fanout.join()
    fanout.tell(client, bytes(FEED_QUEUE_BYTES_MAX))
    assert not client.overflows
    fanout.tell(client, b"x")
    assert client.overflows
    fanout.take(client)
    assert not client.overflows


def test_conflated_frames_never_overflow() -> None:
    fanout = Fanout(("level2",))
    client = fanout.join()
    fanout.subscribe(client, LEVEL2)
    for number in range(2 * FEED_QUEUE_MESSAGES_MAX):
        fanout.publish(LEVEL2, frame("l", number))
        fanout.spread()
    assert not client.overflows


def test_repeated_subscriptions_and_departures_do_no_harm() -> None:
    fanout = Fanout(())
    client, other = fanout.join(), fanout.join()
    assert fanout.subscribe(client, TRADES)
    assert not fanout.subscribe(client, TRADES)
    fanout.subscribe(other, TRADES)
    fanout.publish(TRADES, frame("t", 1))
    fanout.leave(client)
    fanout.leave(client)
    assert not fanout.unsubscribe(client, TRADES)
    assert drain(fanout) == {other.number: ["t00001"]}
    fanout.leave(other)
    assert (fanout.channels, fanout.clients) == ({}, {})
    fanout.publish(TRADES, frame("t", 2))
    assert not fanout.due
