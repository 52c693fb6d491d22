"""What the launcher knows about supervisord: its configuration file, its socket, and the processes of a cluster."""

import http.client
import os
import shlex
import socket
import sys
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from exchange.config import Config
from exchange.errors import ConfigError, Unavailable
from exchange.process import EXIT_CONFIG, EXIT_DEFECT, EXIT_IO

CONFIG_FILE = "cluster.toml"
SOCKET_FILE = "supervisor.sock"
LOGS = "logs"
FINAL_EXITS = (0, EXIT_CONFIG, EXIT_IO, EXIT_DEFECT)
"""Exit codes after which a daemon is not started again by itself: it would only end again, or must not go on."""
_STOP_WAIT_S = 10
_RPC_TIMEOUT_S = 3.0
_PORTLESS = ("coordinator", "c0"), ("riskd", "r0")


@dataclass(frozen=True)
class Program:
    """One daemon: its module, its name in the cluster, and its group. Groups stop in reverse order of `_GROUPS`."""

    role: str
    name: str
    group: str


_GROUPS = ("core", "edge")
"""The edge stops first, so that it can finish what it has sent to the shards."""


def programs(config: Config) -> list[Program]:
    """All daemons of a cluster."""
    found = [Program(role, name, "core") for role, name in _PORTLESS]
    found += [Program("shard", node, "core") for _, node in config.nodes()]
    found.append(Program("marketdata", config.marketdata.name, "core"))
    found.append(Program("gateway", config.gateway.name, "edge"))
    if config.marketmaker.enabled:
        found.append(Program("marketmaker", config.marketmaker.name, "edge"))
    return found


def render(config: Config) -> str:
    """supervisord.conf of a cluster. ConfigError when a path cannot be written in that format."""
    path = config.data / CONFIG_FILE
    for place in (config.data, config.run):
        if not str(place).isprintable() or any(mark in str(place) for mark in (" ;", '"')):
            raise ConfigError([f"directory {str(place)!r} may hold no control character, no quote and no ' ;'"])
    sections = [
        _section("unix_http_server", file=config.run / SOCKET_FILE, chmod="0700"),
        _section(
            "supervisord",
            nodaemon="true",
            silent="true",
            directory=config.data,
            logfile=config.data / LOGS / "supervisor.log",
            logfile_maxbytes="10MB",
            logfile_backups=2,
            pidfile=config.run / "supervisor.pid",
            childlogdir=config.data / LOGS,
            identifier=config.cluster.name,
        ),
        _factory("supervisor", "supervisor.rpcinterface:make_main_rpcinterface"),
        _factory("shardex", "shardex.supervise:make_interface"),
    ]
    found = programs(config)
    for priority, group in enumerate(_GROUPS):
        members = ",".join(program.name for program in found if program.group == group)
        sections.append(_section(f"group:{group}", programs=members, priority=priority))
    namespaces = {host.name: host.namespace for host in config.hosts if host.namespace}
    sections += [_program(program, path, config.data, namespaces.get(program.name, "")) for program in found]
    return "\n".join(sections)


def _program(program: Program, path: Path, data: Path, namespace: str) -> str:
    # -P: the working directory is the data directory and must not shadow a module.
    words = [sys.executable, "-P", "-m", program.role, "--config", str(path), "--name", program.name]
    if namespace:
        words = ["ip", "netns", "exec", namespace, *words]
    return _section(
        f"program:{program.name}",
        command=shlex.join(words),
        directory=data,
        startsecs=0,
        autorestart="unexpected",
        exitcodes=",".join(map(str, FINAL_EXITS)),
        stopwaitsecs=_STOP_WAIT_S,
        redirect_stderr="true",
        stdout_logfile=data / LOGS / f"{program.name}.log",
        stdout_logfile_maxbytes="10MB",
        stdout_logfile_backups=3,
    )


def _factory(name: str, place: str) -> str:
    return f"[rpcinterface:{name}]\nsupervisor.rpcinterface_factory = {place}\n"


def _section(name: str, **options: object) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in options.items()]
    return "\n".join([f"[{name}]", *lines, ""])


@dataclass(frozen=True)
class ProcessInfo:
    """One program as supervisord sees it. `state` is one of its words: RUNNING, EXITED, FATAL, …"""

    name: str
    pid: int
    state: str
    exit_status: int
    restarts: int

    @property
    def gave_up(self) -> bool:
        """It has ended and is not started again by itself. (Who was killed is EXITED too, for a moment.)"""
        return self.state == "FATAL" or (self.state == "EXITED" and self.exit_status in FINAL_EXITS)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_RPC_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


class Supervisor:
    """Calls to a running supervisord. Every call opens its own connection and raises Unavailable within 3 s."""

    def __init__(self, run: Path) -> None:
        self._path = run / SOCKET_FILE

    def processes(self) -> list[ProcessInfo]:
        """All programs, in the order of the configuration file."""
        return [
            ProcessInfo(row["name"], row["pid"], row["statename"], row["exitstatus"], max(row["starts"] - 1, 0))
            for row in self._call("shardex.processes")
        ]

    def start(self, name: str) -> None:
        """Start a program that has ended; returns at once."""
        self._call("supervisor.startProcess", self._spec(name), False)

    def stop(self, name: str) -> None:
        """Ask a program to end, and do not start it again; returns at once."""
        self._call("supervisor.stopProcess", self._spec(name), False)

    def shutdown(self) -> None:
        """Ask it to stop all programs and itself."""
        self._call("supervisor.shutdown")

    def _spec(self, name: str) -> str:
        rows = self._call("supervisor.getAllProcessInfo")
        return next((f"{row['group']}:{name}" for row in rows if row["name"] == name), name)

    def _call(self, method: str, *arguments: Any) -> Any:
        # A proxy whose connection failed once may hang on the next call, so each call has its own.
        try:
            with xmlrpc.client.ServerProxy("http://localhost", _Transport(self._path)) as proxy:
                return getattr(proxy, method)(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as fault:
            raise Unavailable(f"supervisor at {self._path} does not answer {method}: {fault}") from fault


def lives(pid: int) -> bool:
    """There is such a process and it is not a zombie."""
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def supervisor_process(data: Path) -> psutil.Process | None:
    """The supervisor that runs the cluster of `data`, if there is one."""
    return next((process for process, of in _supervisors() if of == data), None)


def running_clusters() -> list[Path]:
    """Data directories of all clusters that this user runs on this machine, sorted."""
    return sorted(data for _, data in _supervisors())


def cluster_processes(data: Path) -> list[psutil.Process]:
    """Every living process of the cluster of `data`: its supervisor and its daemons, also orphaned ones.

    A process is ours when it belongs to this user and either names the data directory in its arguments the way the
    launcher writes them, or bears a daemon's title and works in the data directory. No pid file is believed.
    """
    found = []
    for process in psutil.process_iter():
        words = _words(process)
        line = " ".join(words)
        started_by_us = ["--config", str(data / CONFIG_FILE)] in [words[i : i + 2] for i in range(len(words))]
        titled = line.startswith("shardex ") and _works_in(process, data)
        if started_by_us or titled or _supervised_directory(words) == str(data):
            found.append(process)
    return found


def _supervisors() -> list[tuple[psutil.Process, Path]]:
    found = []
    for process in psutil.process_iter():
        directory = _supervised_directory(_words(process))
        if directory is not None:
            found.append((process, Path(directory)))
    return found


def _supervised_directory(words: list[str]) -> str | None:
    """Data directory in the arguments or in the title of a supervisor."""
    line = " ".join(words)
    if line.startswith("shardex supervisor "):
        return line.removeprefix("shardex supervisor ").strip()
    if words[1:4] == ["-P", "-m", "shardex.supervise"] and "--data" in words[:-1]:
        return words[words.index("--data") + 1]
    return None


def _words(process: psutil.Process) -> list[str]:
    """Arguments of a living process of this user, else nothing."""
    try:
        if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
            return []
        return process.cmdline()
    except psutil.Error:
        return []


def _works_in(process: psutil.Process, directory: Path) -> bool:
    try:
        return Path(process.cwd()) == directory
    except psutil.Error:
        return False
