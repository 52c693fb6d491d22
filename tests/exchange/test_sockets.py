"""Bounded sockets: what is refused, how a peer that comes back is served, how a loop is woken."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from exchange.clock import monotonic_ns
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ConfigError
from exchange.limits import MESSAGE_BYTES_MAX
from exchange.sockets import (
    IPC_PATH_MAX,
    ClusterKey,
    Dealer,
    Publisher,
    Router,
    Socket,
    Subscriber,
    Waiter,
    attach,
    open_private_directory,
    use_cluster_key,
)

PATIENCE_NS = 30 * NS_PER_S
Open = Callable[[Any], Any]


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s"


@pytest.fixture
def open_() -> Iterator[Open]:
    """Passes a socket through and closes it at the end."""
    sockets: list[Socket] = []

    def keep(socket: Socket) -> Socket:
        sockets.append(socket)
        return socket

    yield keep
    for socket in sockets:
        socket.close()


def receive(socket: Any) -> tuple[bytes, ...]:
    """The next message, within the bound."""
    waiter = Waiter(socket)
    deadline_ns = monotonic_ns() + PATIENCE_NS
    while monotonic_ns() < deadline_ns:
        received: tuple[bytes, ...] | None = socket.receive()
        if received is not None:
            return received
        waiter.wait(50)
    raise AssertionError("no message in time")


def test_a_question_and_its_answer(endpoint: str, open_: Open) -> None:
    router, dealer = open_(Router()), open_(Dealer("gateway:g0"))
    router.bind(endpoint)
    dealer.connect(endpoint)
    assert dealer.receive() is None
    assert dealer.send(b"header", b"payload")
    assert receive(router) == (b"gateway:g0", b"header", b"payload")
    assert router.send(b"gateway:g0", b"answer")
    assert receive(dealer) == (b"answer", b"")


def test_a_peer_that_is_not_there_is_refused_not_dropped(endpoint: str, open_: Open) -> None:
    router = open_(Router())
    router.bind(endpoint)
    assert router.send(b"nobody", b"x") is False


def test_a_peer_that_is_full_is_refused_not_waited_for(endpoint: str, open_: Open) -> None:
    router, dealer = open_(Router(hwm=5)), open_(Dealer("slow", hwm=5))
    router.bind(endpoint)
    dealer.connect(endpoint)
    dealer.send(b"hello")
    receive(router)
    assert any(not router.send(b"slow", b"x" * 100_000) for _ in range(1_000))


def test_questions_queue_while_the_peer_is_away_up_to_the_mark(endpoint: str, open_: Open) -> None:
    dealer = open_(Dealer("early", hwm=3))
    dealer.connect(endpoint)
    assert [dealer.send(b"%d" % number) for number in range(5)] == [True, True, True, False, False]
    router = open_(Router())
    router.bind(endpoint)
    assert [receive(router)[1] for _ in range(3)] == [b"0", b"1", b"2"]


def test_a_dealer_that_must_be_connected_refuses_until_it_is(endpoint: str, open_: Open) -> None:
    dealer = open_(Dealer("careful", connected_only=True))
    dealer.connect(endpoint)
    assert dealer.send(b"too early") is False
    router = open_(Router())
    router.bind(endpoint)
    deadline_ns = monotonic_ns() + PATIENCE_NS
    while not dealer.send(b"now"):
        assert monotonic_ns() < deadline_ns
        Waiter(dealer).wait(10)
    assert receive(router) == (b"careful", b"now", b"")


def test_a_peer_that_comes_back_under_its_name_is_served(endpoint: str, open_: Open) -> None:
    router, first, second = open_(Router()), open_(Dealer("gateway:g0")), open_(Dealer("gateway:g0"))
    router.bind(endpoint)
    first.connect(endpoint)
    first.send(b"one")
    receive(router)
    second.connect(endpoint)
    second.send(b"two")
    assert receive(router) == (b"gateway:g0", b"two", b"")
    router.send(b"gateway:g0", b"answer")
    assert receive(second) == (b"answer", b"")
    assert first.receive() is None


def test_messages_of_another_shape_come_as_empty_ones(endpoint: str, open_: Open) -> None:
    router, raw = open_(Router()), zmq.Context.instance().socket(zmq.DEALER)
    router.bind(endpoint)
    raw.setsockopt(zmq.IDENTITY, b"raw")
    raw.connect(endpoint)
    for parts in ([b"one"], [b"one", b"two", b"three"], [b""], [b"header", b"payload"]):
        raw.send_multipart(parts)
    assert [receive(router) for _ in range(4)] == [(b"raw", b"", b"")] * 3 + [(b"raw", b"header", b"payload")]
    raw.close(0)


def test_a_message_beyond_the_ceiling_cuts_its_sender_off_and_nobody_else(endpoint: str, open_: Open) -> None:
    router, honest, raw = open_(Router()), open_(Dealer("honest")), zmq.Context.instance().socket(zmq.DEALER)
    router.bind(endpoint)
    honest.connect(endpoint)
    cut_off = raw.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    raw.connect(endpoint)
    raw.send_multipart([b"h", bytes(MESSAGE_BYTES_MAX + 1)])
    assert cut_off.poll(PATIENCE_NS // NS_PER_MS), "otherwise it may still be on its way when nothing has come"
    raw.disable_monitor()
    cut_off.close(0)
    honest.send(b"hello")
    assert receive(router) == (b"honest", b"hello", b"")
    assert router.receive() is None
    raw.close(0)


def test_a_publisher_reaches_whoever_listens(endpoint: str, open_: Open) -> None:
    publisher, one, two = open_(Publisher()), open_(Subscriber()), open_(Subscriber())
    publisher.bind(endpoint)
    one.connect(endpoint)
    two.connect(endpoint)
    for listener in (one, two):
        deadline_ns = monotonic_ns() + PATIENCE_NS
        while not listener.readable():
            assert monotonic_ns() < deadline_ns
            publisher.send(b"header", b"frame")
            Waiter(listener).wait(10)
        assert receive(listener) == (b"header", b"frame")


def test_an_endpoint_that_is_taken_or_too_long_is_refused(tmp_path: Path, open_: Open) -> None:
    use_cluster_key(ClusterKey.generate())
    first, second = open_(Router()), open_(Router())
    first.bind("tcp://127.0.0.1:*")
    taken = first._zmq.getsockopt_string(zmq.LAST_ENDPOINT)
    with pytest.raises(ConfigError, match=rf"endpoint {taken} cannot be bound"):
        second.bind(taken)
    with pytest.raises(ConfigError, match=f"has 201 bytes, at most {IPC_PATH_MAX}"):
        second.bind(f"ipc:///{'x' * 200}")
    with pytest.raises(ConfigError, match=r"choose a shorter cluster\.run"):
        second.connect(f"ipc:///{'ü' * 60}")


def test_a_private_directory_is_made_and_one_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    open_private_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    open_private_directory(tmp_path / "a" / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o750)
    with pytest.raises(ConfigError, match="mode 0700, it has mode 0750"):
        open_private_directory(tmp_path / "c")


async def test_a_loop_is_woken_for_every_message(endpoint: str, open_: Open) -> None:
    """The descriptor is edge-triggered: a burst, single messages and answers to sends must all be seen."""
    router, dealer = open_(Router()), open_(Dealer("d"))
    router.bind(endpoint)
    dealer.connect(endpoint)
    answers: list[bytes] = []

    def serve() -> bool:
        for _ in range(7):
            received = router.receive()
            if received is None:
                return False
            router.send(received[0], received[1])
        return True

    def collect() -> bool:
        while (received := dealer.receive()) is not None:
            answers.append(received[0])
        return False

    detach = [attach(router, serve), attach(dealer, collect)]
    async with asyncio.timeout(PATIENCE_NS / NS_PER_S):
        for burst in (1, 100, 1, 3):
            expected = len(answers) + burst
            for number in range(burst):
                dealer.send(b"%d" % number)
            while len(answers) < expected:
                await asyncio.sleep(0)
    for undo in detach:
        undo()
    dealer.send(b"after")
    assert receive(router) == (b"d", b"after", b"")
