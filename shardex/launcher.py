"""Starts and stops clusters on this machine: `up`, `demo`, tests, benchmarks and replays all go through here.

Laws
    One supervisor a data directory: it holds the lock `<data>/lock` while it lives.
    Stopping never trusts a pid file; it looks at what lives (`cluster_processes`), asks, then TERM, then KILL.
    cluster.toml is written once; after that it belongs to whoever runs the cluster.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.config import Config, load, render
from exchange.domain import NS_PER_S
from exchange.errors import ConfigError, ShardexError, Unavailable
from exchange.keyfile import KEY_FILE, create_key
from exchange.sockets import IPC_PATH_MAX, open_private_directory
from shardex import ports, supervision
from shardex.control import Control
from shardex.defaults import REPLICAS_DEFAULT, SHARDS_DEFAULT, default_config

_SOCKET_NAME_MAX = 32
"""Room for the longest file name in the run directory: "supervisor.sock" and a process id, "orders." and a shard."""
_POLL_S = 0.05
_POLL_ENDED_S = 0.002
"""A killed process is gone in no time, mostly."""
_RESTARTS_MAX = 5
"""A daemon that was restarted so often before the cluster was ready will not become ready."""
_ASK_STOP_S = 25.0
"""Two groups of programs with supervisord's own bound on each, and some."""
_TERM_S = 5.0
_KILL_S = 5.0

Overrides = Mapping[str, Mapping[str, Any]]


class LaunchError(ShardexError):
    """The cluster cannot be started or stopped as asked."""


class NotRunning(ShardexError):
    """There is no running cluster where one is needed."""


def prepare(
    data: Path, *, shards: int | None = None, replicas: int | None = None, overrides: Overrides | None = None
) -> Config:
    """Create the data directory and its cluster.toml, or read the one that is there.

    A new cluster has SHARDS_DEFAULT shards of REPLICAS_DEFAULT nodes unless told otherwise.
    ConfigError when the directory is not private to this user, the file is wrong, or it names another number of shards
    than asked for: a cluster cannot be given more or fewer shards by starting it.
    """
    data = data.resolve()
    path = data / supervision.CONFIG_FILE
    open_private_directory(data)
    if not path.exists():
        count = SHARDS_DEFAULT if shards is None else shards
        nodes = REPLICAS_DEFAULT if replicas is None else replicas
        run = run_directory(data)
        config = default_config(data, run, shards=count, replicas=nodes, overrides=overrides or {})
        unfinished = path.with_suffix(".new")
        unfinished.write_text(render(config))
        load(unfinished)
        if config.cluster.transport == "tcp":
            create_key(data / KEY_FILE)
        unfinished.rename(path)
    elif overrides:
        raise ConfigError([f"{path} exists; edit it to change {', '.join(sorted(overrides))}"])
    config = load(path)
    if config.data != data:
        raise ConfigError([f"{path}: cluster.data is {config.data}, but the file lies in {data}"])
    if shards is not None and len(config.shards) != shards:
        raise ConfigError([f"{path} has {len(config.shards)} shards, not {shards}"])
    if replicas is not None and any(shard.replicas != replicas for shard in config.shards):
        raise ConfigError([f"{path} does not have {replicas} replicas of every shard; edit it to change that"])
    return config


def run_directory(data: Path) -> Path:
    """Where the sockets of a cluster live: in the data directory, or in /tmp where that path is too long."""
    run = data / "run"
    if len(str(run).encode()) + _SOCKET_NAME_MAX <= IPC_PATH_MAX:
        return run
    mark = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    return Path("/tmp") / f"shardex-{os.getuid()}-{mark}"  # noqa: S108 - short, and opened as ours alone or not at all


def read_config(data: Path) -> Config:
    """Configuration of an existing data directory; NotRunning when there is none."""
    path = data / supervision.CONFIG_FILE
    if not path.exists():
        raise NotRunning(f"{data} is no data directory: there is no {supervision.CONFIG_FILE} in it")
    return load(path)


class Running:
    """A cluster that a supervisor runs. Get one from `start` or `attach`."""

    def __init__(self, config: Config, process: psutil.Process) -> None:
        self.config = config
        self.supervisor = supervision.Supervisor(config.run)
        self._process = process

    @property
    def rest_url(self) -> str:
        """For example http://127.0.0.1:8080."""
        return f"http://{self.config.gateway.host}:{self.config.gateway.port}"

    @property
    def orders_url(self) -> str:
        """WebSocket order entry."""
        return f"ws://{self.config.gateway.host}:{self.config.gateway.port}/ws/orders"

    @property
    def feed_url(self) -> str:
        """WebSocket market data."""
        return f"ws://{self.config.marketdata.host}:{self.config.marketdata.port}"

    def alive(self) -> bool:
        """The supervisor lives."""
        return self._process.is_running() and supervision.lives(self._process.pid)

    def pid(self, name: str) -> int:
        """Process id of a daemon now; NotRunning when it has none."""
        for process in self.supervisor.processes():
            if process.name == name and process.pid:
                return process.pid
        raise NotRunning(f"daemon {name} of {self.config.data} is not running")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a daemon; returns the process id that it had.

        After SIGKILL the process has ended on return: a signal is not taken at once, and who looks next, `wait_ready`
        for example, must not find it alive and well.
        """
        pid = self.pid(name)
        process = next((one for one in supervision.cluster_processes(self.config.data) if one.pid == pid), None)
        if process is None:
            raise LaunchError(f"process {pid} is no longer daemon {name} of {self.config.data}")
        process.send_signal(number)
        if number == signal.SIGKILL:
            _wait_ended(process)
        return pid

    def wait_ready(self, timeout_s: float = 30.0, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Return when every daemon reports healthy and every shard takes orders, or when `cancelled` says so.

        LaunchError as soon as a daemon gives up or the supervisor dies, Unavailable when the time is up; both say who
        is to blame and what its log says.
        """
        deadline_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        with Control(self.config) as control:
            while not cancelled():
                missing = self._missing(control)
                if not missing:
                    return
                if monotonic_ns() > deadline_ns:
                    raise Unavailable(f"cluster is not ready after {timeout_s:g} s: {'; '.join(missing)}")
                time.sleep(_POLL_S)

    def stop(self) -> None:
        """As the function `stop`, and leave no zombie when the supervisor is our child."""
        stop(self.config)
        self._process.wait()

    def _missing(self, control: Control) -> list[str]:
        """What still keeps the cluster from being ready, a sentence each."""
        if not self.alive():
            raise LaunchError(f"the supervisor ended: {last_line(self.config, 'supervisor')}")
        try:
            processes = self.supervisor.processes()
        except Unavailable as fault:
            return [str(fault)]
        for process in processes:
            if process.gave_up or process.restarts >= _RESTARTS_MAX:
                log = last_line(self.config, process.name)
                raise LaunchError(f"{process.name} does not stay up (exit status {process.exit_status}): {log}")
        try:
            status = control.status(timeout_s=0.25)
        except Unavailable as fault:
            return [str(fault)]
        return troubles(processes, status)


def start(config: Config, *, detached: bool = False, ephemeral: bool = False) -> Running:
    """Start all daemons of a prepared cluster and return without waiting for them.

    Unless `detached`, the kernel stops everything when this process dies, however it dies. When everything has stopped,
    the sockets are removed, and the data as well if it is `ephemeral`. Orphans of a killed supervisor are ended first.
    LaunchError when the cluster runs already or one of its ports is taken.
    """
    lock = os.open(config.data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise LaunchError(f"a cluster runs in {config.data} already; `shardex down` stops it") from fault
        end_processes(config.data)
        _check_ports(config)
        open_private_directory(config.run)
        (config.data / supervision.LOGS).mkdir(exist_ok=True)
        conf = config.data / "supervisord.conf"
        conf.write_text(supervision.render(config))
        words = [sys.executable, "-P", "-m", "shardex.supervise", "--data", str(config.data), "--conf", str(conf)]
        words += ["--lock", str(lock), *([] if detached else ["--parent", str(os.getpid())])]
        words += ["--remove", str(config.run), *([str(config.data)] if ephemeral else [])]
        with (config.data / supervision.LOGS / "supervisor.out").open("wb") as output:
            process = psutil.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=config.data,
                pass_fds=[lock],
                start_new_session=True,
            )
    finally:
        os.close(lock)
    return Running(config, process)


def attach(data: Path) -> Running:
    """The running cluster of a data directory; NotRunning when it does not run."""
    config = read_config(data.resolve())
    process = supervision.supervisor_process(config.data)
    if process is None:
        raise NotRunning(f"no cluster runs in {data}")
    return Running(config, process)


def locate(data: Path | None, default: Path) -> Path:
    """Data directory to work on: the one given, else that of the only cluster this user runs, else `default`.

    LaunchError when several run and none is named.
    """
    if data is not None:
        return data.resolve()
    running = supervision.running_clusters()
    if len(running) > 1:
        raise LaunchError(f"several clusters run, name one with --data: {', '.join(map(str, running))}")
    return running[0] if running else default


def stop(config: Config) -> None:
    """End every process of a cluster and remove its sockets. Bounded; LaunchError names what survived."""
    try:
        supervision.Supervisor(config.run).shutdown()
        _wait_gone(config.data, _ASK_STOP_S)
    except Unavailable:
        pass  # it is gone or stuck; what follows needs no supervisor
    end_processes(config.data)
    shutil.rmtree(config.run, ignore_errors=True)


def end_processes(data: Path) -> int:
    """End whatever still lives of a cluster, TERM then KILL; returns how many. LaunchError when some survive."""
    left = supervision.cluster_processes(data)
    if not left:
        return 0
    _signal(left, signal.SIGTERM)
    _wait_gone(data, _TERM_S)
    _signal(supervision.cluster_processes(data), signal.SIGKILL)
    _wait_gone(data, _KILL_S)
    survivors = supervision.cluster_processes(data)
    if survivors:
        raise LaunchError(f"processes of {data} do not end: {', '.join(str(p.pid) for p in survivors)}")
    return len(left)


def last_line(config: Config, name: str) -> str:
    """Last line of a log, or of the supervisor's output when its log is empty; for error messages."""
    for file in (f"{name}.log", "supervisor.out"):
        path = config.data / supervision.LOGS / file
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        if lines:
            return lines[-1]
    return "it left no log"


def troubles(processes: list[supervision.ProcessInfo], status: m.ClusterStatus) -> list[str]:
    """What keeps a cluster from being well, a sentence each, from what supervisor and coordinator say of it.

    The coordinator notices the end of most processes by their silence only: its word counts for the process that it
    means. Its verdict is healthy while at least one shard takes orders: here every one has to.
    """
    daemons = {daemon.name: daemon for daemon in status.daemons}
    found = [_trouble(process, daemons.get(process.name)) for process in processes]
    found += [f"shard {shard.shard} does not take orders" for shard in status.shards if not shard.serving]
    found = [sentence for sentence in found if sentence]
    return found or ([] if status.health == "healthy" else [f"the cluster is {status.health}"])


def _trouble(process: supervision.ProcessInfo, daemon: m.DaemonStatus | None) -> str:
    """Why a daemon is not well, empty when it is: it lives, and the coordinator knows this very process as healthy."""
    if daemon is None:
        return f"{process.name} is unknown to the coordinator"
    if not supervision.lives(process.pid):
        return f"{process.name} is {process.state}, process {process.pid} has ended"
    if daemon.pid != process.pid:
        return f"{process.name} has not registered since its restart"
    if daemon.health == "healthy":
        return ""
    refused = daemon.stats.get("refused")
    return f"{process.name} is {daemon.health}" + (f" ({refused})" if refused else "")


def _check_ports(config: Config) -> None:
    doors = [("gateway", config.gateway.host, config.gateway.port)]
    doors.append(("marketdata", config.marketdata.host, config.marketdata.port))
    for section, host, port in doors:
        if port and not ports.is_free(host, port):
            raise LaunchError(f"port {port} of {host} ({section}.port) is held by {ports.holder(port)}")


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # checks that the pid was not given to another process
        except psutil.NoSuchProcess:
            continue


def _wait_ended(process: psutil.Process) -> None:
    """Until a process that was killed has ended; LaunchError when it has not within _KILL_S, stuck in the kernel."""
    deadline_ns = monotonic_ns() + int(_KILL_S * NS_PER_S)
    while process.is_running() and supervision.lives(process.pid):
        if monotonic_ns() > deadline_ns:
            raise LaunchError(f"process {process.pid} does not end")
        time.sleep(_POLL_ENDED_S)


def _wait_gone(data: Path, timeout_s: float) -> None:
    deadline_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
    while supervision.cluster_processes(data) and monotonic_ns() < deadline_ns:
        time.sleep(_POLL_S)
