"""Hosts on one machine: who hears whom, before, during and after a cut, and that nothing is left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drills import network as networks
from drills.network import Network, NetworkError, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"NETWORK NAMESPACES ARE NOT TESTED: {', '.join(missing())} missing"),
    pytest.mark.timeout(60),
]

PORT = 7_400
DEADLINE_S = 30
ANSWER_S, SILENCE_S = 20, 1
"""How long an answer may take on a busy machine, and how long silence is listened to."""

# Answers each line of a connection with the same line.
ECHO = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
server = Server((sys.argv[1], int(sys.argv[2])), Echo)
print("ready", flush=True)
server.serve_forever()
"""
# Says whether an echo comes back within some seconds.
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as line:
        line.sendall(b"x\\n")
        print("yes" if line.recv(2) == b"x\\n" else "no")
except OSError:
    print("no")
"""


def inside(network: Network, host: str) -> list[str]:
    return ["ip", "netns", "exec", network.namespace(host)] if host else []


@contextmanager
def echo(network: Network, host: str) -> Iterator[None]:
    """An echo at the door of a host."""
    words = [*inside(network, host), sys.executable, "-c", ECHO, network.address(host), str(PORT)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def hears(network: Network, asker: str, host: str, within_s: int = ANSWER_S) -> bool:
    """Whether `asker` ("" = outside) gets an answer from a host."""
    words = [*inside(network, asker), sys.executable, "-c", ASK, network.address(host), str(PORT), str(within_s)]
    return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=True).stdout == "yes\n"


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of all networks of a test. They stay taken until it ends: nobody beside it builds under one of them
    while it looks for what is left.
    """
    taken: list[int] = []
    held: list[int] = []
    claim = networks._claim

    def claim_and_hold() -> tuple[int, int]:
        number, lock = claim()
        taken.append(number)
        held.append(os.dup(lock))  # the lock is free when all copies of its descriptor are closed
        return number, lock

    monkeypatch.setattr(networks, "_claim", claim_and_hold)
    yield taken
    for lock in held:
        os.close(lock)


def left_of(number: int) -> list[str]:
    """What there is on this machine that bears a network's name."""
    mark = networks._name(number)
    links = {path.name for path in Path("/sys/class/net").iterdir()}
    spaces = {path.name for path in Path("/run/netns").iterdir()} if Path("/run/netns").exists() else set()
    return sorted(name for name in links | spaces if name == mark or name.startswith(f"{mark}-"))


def test_who_is_cut_off_hears_nothing_and_everybody_else_does(numbers: list[int]) -> None:
    with Network(("a", "b", "c")) as network, echo(network, "a"):
        assert [hears(network, asker, "a") for asker in ("b", "c", "")] == [True, True, True]
        network.cut("a", "b")
        assert not hears(network, "b", "a", SILENCE_S)
        assert [hears(network, asker, "a") for asker in ("c", "")] == [True, True]
        network.heal()
        assert hears(network, "b", "a")
        network.cut("a", "b", one_way=True)
        assert not hears(network, "b", "a", SILENCE_S), "a connection needs both directions"
        assert left_of(numbers[0]) != []
    assert left_of(numbers[0]) == []


def test_networks_do_not_meet() -> None:
    with Network(("a",)) as one, Network(("a",)) as other:
        assert one.address("a") != other.address("a")
        other.close()
        with echo(one, "a"):
            assert hears(one, "", "a")


def test_a_failure_half_way_leaves_nothing(numbers: list[int]) -> None:
    with pytest.raises(NetworkError, match=r"ip netns add .*-a"):
        Network(("a", "a"))
    assert left_of(numbers[0]) == []


def test_what_a_dead_process_left_is_removed_by_the_next() -> None:
    hosts = f"x{os.getpid()}", f"y{os.getpid()}"  # in no other network, whoever gets the number after it
    made = f"import os; from drills.network import Network; print(Network({hosts}).namespace(''), flush=True)"
    leave = f"{made}; os._exit(9)"
    dead = subprocess.run(
        [sys.executable, "-c", leave], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert dead.returncode == 9, dead.stderr
    with Network(("c",)) as network:
        spaces = sorted(path.name for path in Path("/run/netns").iterdir())
        assert network.namespace("c") in spaces
        assert [name for name in spaces if name in [f"{dead.stdout.strip()}{host}" for host in hosts]] == []


def test_a_name_that_the_kernel_would_not_take_is_refused() -> None:
    with pytest.raises(NetworkError, match="shard-twelve"):
        Network(("shard-twelve",))
