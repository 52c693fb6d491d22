"""Several hosts on one machine, and what can go wrong between them: network namespaces on one bridge, iptables.

Laws
    Needs Linux, root, `ip` and `iptables`; `missing` says what of that there is not.
    A network has a number, and all that is its own is called after it: bridge sx7, namespace and interface sx7-s0-a,
    addresses 10.77.7.x. The number is its own while it holds the lock of a file, which the kernel lets go when the
    process dies, however it dies. Whoever opens a network removes what such processes left behind.
    What is cut is dropped where it arrives: the sender notices nothing. Rules live in the namespaces and end with them;
    the machine's own firewall is never touched.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from exchange.config import COORDINATOR_NAME, RISKD_NAME, Config, Host
from exchange.errors import ShardexError

LOCKS = Path("/run/shardex-network")
NUMBER_MAX = 250
NAME_BYTES_MAX = 9
"""Of a host: together with "sx250-" the longest name that the kernel gives an interface."""
_PACKAGES = {"ip": "iproute2", "iptables": "iptables"}
_COMMAND_S = 10.0
_NEEDED = 1 << 21 | 1 << 12
"""CAP_SYS_ADMIN and CAP_NET_ADMIN of capabilities(7)."""


class NetworkError(ShardexError):
    """The kernel or a tool refused."""


def missing() -> list[str]:
    """What this machine or this user lacks, a few words each; empty when networks can be made."""
    lacks = []
    if os.geteuid() != 0:
        lacks.append("root")
    elif _capabilities() & _NEEDED != _NEEDED:
        lacks.append("the capabilities SYS_ADMIN and NET_ADMIN (a container may be run with --privileged)")
    return lacks + [f"{tool} (Debian: {package})" for tool, package in _PACKAGES.items() if not shutil.which(tool)]


class Network:
    """Hosts that reach each other and this process. Close it when all processes in it have ended.

    NetworkError from any method: the kernel or a tool refused. Also a context that closes it.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        """`hosts` = names of daemons; those that are not named stay outside."""
        lacks = missing()
        if lacks:
            raise NetworkError(f"network namespaces need {', '.join(lacks)}")
        too_long = [name for name in hosts if not 0 < len(name.encode()) <= NAME_BYTES_MAX]
        if too_long:
            raise NetworkError(f"name of a host must have 1 to {NAME_BYTES_MAX} bytes: {', '.join(too_long)}")
        self.hosts = tuple(hosts)
        self._lossy: dict[str, None] = {}
        self._number, self._lock = _claim()
        self.outside = _address(self._number, 1)
        """Address of this process, and of all that is in no namespace."""
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave nothing behind. Harmless when done already."""
        if self._lock >= 0:
            _remove(self._number)
            os.close(self._lock)
            self._lock = -1

    def places(self, config: Config) -> list[Host]:
        """[[hosts]] of a cluster on this network: who is no host of it listens outside."""
        inside = [Host(name=name, address=self.address(name), namespace=self.namespace(name)) for name in self.hosts]
        singles = [COORDINATOR_NAME, RISKD_NAME, config.marketdata.name]
        others = [name for name in (*singles, *(node for _, node in config.nodes())) if name not in self.hosts]
        return inside + [Host(name=name, address=self.outside) for name in others]

    def address(self, host: str) -> str:
        """Of one host."""
        return _address(self._number, 2 + self.hosts.index(host))

    def namespace(self, host: str) -> str:
        """In which its processes must be started."""
        return f"{_name(self._number)}-{host}"

    def cut(self, source: str, target: str, *, one_way: bool = False) -> None:
        """Nothing gets from one to the other any more, unless `one_way` either way."""
        self.lose(source, target)
        if not one_way:
            self.lose(target, source)

    def lose(self, source: str, target: str, *, share: float = 1.0) -> None:
        """From now on `target` does not get this share of the packets that `source` sends to it."""
        some = ["-m", "statistic", "--mode", "random", "--probability", f"{share:.3f}"] if share < 1 else []
        self._lossy[target] = None
        self._iptables(target, "-A", "INPUT", "-s", self.address(source), *some, "-j", "DROP")

    def divert(self, source: str, target: str, port: int, to_port: int) -> None:
        """Connections that `source` opens to this port of `target` go to `to_port` outside instead, to the end."""
        there = ["-d", self.address(target), "-p", "tcp", "--dport", str(port)]
        goal = ["-j", "DNAT", "--to-destination", f"{self.outside}:{to_port}"]
        self._iptables(source, "-t", "nat", "-A", "OUTPUT", *there, *goal)

    def heal(self) -> None:
        """Nothing is lost any more."""
        while self._lossy:
            target, _ = self._lossy.popitem()
            self._iptables(target, "-F", "INPUT")

    def _iptables(self, host: str, *words: str) -> None:
        _run("ip", "netns", "exec", self.namespace(host), "iptables", "-w", *words)

    def _build(self) -> None:
        bridge = _name(self._number)
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self.outside}/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for host in self.hosts:
            inside = self.namespace(host)
            _run("ip", "netns", "add", inside)
            _run("ip", "link", "add", inside, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _run("ip", "link", "set", inside, "master", bridge, "up")
            _run("ip", "-n", inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _run("ip", "-n", inside, "link", "set", "eth0", "up")
            _run("ip", "-n", inside, "link", "set", "lo", "up")


def _claim() -> tuple[int, int]:
    """A number that nobody has and its locked file; whatever is left of networks whose process died is removed."""
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    claimed = (0, -1)
    for number in range(1, NUMBER_MAX + 1):
        path = LOCKS / str(number)
        if claimed[0] and not path.exists():
            continue
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        _remove(number)
        if claimed[0] or _run("ip", "-o", "address", "show", "to", f"{_address(number, 0)}/24"):
            os.close(descriptor)
        else:
            claimed = (number, descriptor)
    if not claimed[0]:
        raise NetworkError(f"all networks from {_address(1, 0)}/24 to {_address(NUMBER_MAX, 0)}/24 are in use")
    return claimed


def _remove(number: int) -> None:
    """Everything that bears this number. An interface goes first: a namespace lives on while a process is in it."""
    own = _name(number)
    for line in _run("ip", "-o", "link", "show").splitlines():
        name = line.split(": ")[1].partition("@")[0]
        if name.startswith(f"{own}-"):
            _run("ip", "link", "delete", name)
    if Path(f"/sys/class/net/{own}").exists():
        _run("ip", "link", "delete", own)
    for line in _run("ip", "netns", "list").splitlines():
        if line.startswith(f"{own}-"):
            _run("ip", "netns", "delete", line.split()[0])


def _capabilities() -> int:
    """Bit mask of what this process may do."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def _name(number: int) -> str:
    return f"sx{number}"


def _address(number: int, host: int) -> str:
    return f"10.77.{number}.{host}"


def _run(*words: str) -> str:
    """Output of a command. NetworkError when it fails or hangs."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise NetworkError(f"{' '.join(words)}: {fault}") from fault
    if done.returncode:
        raise NetworkError(f"{' '.join(words)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
