"""Preparing a data directory, and what supervisord is told about it. Whole clusters run in tests/e2e."""

import configparser
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from exchange.config import load
from exchange.errors import ConfigError
from exchange.sockets import IPC_PATH_MAX
from shardex import launcher, ports, supervision


def test_a_new_directory_gets_a_configuration_that_daemons_accept(tmp_path: Path) -> None:
    config = launcher.prepare(tmp_path / "cluster", shards=3, overrides={"gateway": {"profile": "load"}})
    assert config == load(tmp_path / "cluster" / "cluster.toml")
    assert [shard.name for shard in config.shards] == ["s0", "s1", "s2"]
    assert config.gateway.profile == "load"
    bases = [instrument.base for instrument in config.instrument_list()]
    assert bases == ["AAPL", "MSFT", "GOOG", "AMZN", "TSLA", "NVDA", "BTC", "ETH"]
    assert {instrument.shard for instrument in config.instrument_list()} == {"s0", "s1", "s2"}


def test_bitcoin_takes_the_recorded_flow_of_a_real_venue(tmp_path: Path) -> None:
    config = launcher.prepare(tmp_path / "cluster")
    bitcoin = next(i for i in config.instrument_list() if i.symbol == "BTCUSD")
    assert (bitcoin.tick, bitcoin.lot, bitcoin.collar_bps) == (1, 1, 0)
    assert bitcoin.price_min <= 1
    assert bitcoin.price_max >= 999_999_999
    assert bitcoin.quantity_max >= 13_880_000_000_000


def test_the_file_is_written_once_and_then_belongs_to_its_reader(tmp_path: Path) -> None:
    data = tmp_path / "cluster"
    launcher.prepare(data)
    path = data / "cluster.toml"
    edited = path.read_text().replace("port = 8080", "port = 9090")
    path.write_text(edited)
    assert launcher.prepare(data).gateway.port == 9090
    assert path.read_text() == edited


def test_a_running_order_of_other_size_is_refused(tmp_path: Path) -> None:
    launcher.prepare(tmp_path / "cluster", shards=2)
    with pytest.raises(ConfigError, match=r"has 2 shards, not 3"):
        launcher.prepare(tmp_path / "cluster", shards=3)
    with pytest.raises(ConfigError, match=r"exists; edit it to change gateway"):
        launcher.prepare(tmp_path / "cluster", overrides={"gateway": {"port": 1}})


def test_a_bad_override_leaves_no_configuration_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.port must be 0 to 65535"):
        launcher.prepare(tmp_path / "cluster", overrides={"gateway": {"port": 70_000}})
    assert not (tmp_path / "cluster" / "cluster.toml").exists()


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(ConfigError, match="mode 0700, it has mode 0755"):
        launcher.prepare(tmp_path / "open")


def test_a_directory_is_the_same_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "real", target_is_directory=True)
    launcher.prepare(tmp_path / "real")
    assert launcher.prepare(tmp_path / "alias").data == tmp_path / "real"
    assert launcher.locate(tmp_path / "alias", tmp_path) == tmp_path / "real"


def test_a_moved_directory_is_refused(tmp_path: Path) -> None:
    launcher.prepare(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(ConfigError, match=r"cluster\.data is .*here, but the file lies in .*there"):
        launcher.prepare(tmp_path / "there")


@pytest.mark.parametrize("depth", [1, 40])
def test_socket_paths_fit_however_long_the_data_path_is(tmp_path: Path, depth: int) -> None:
    data = tmp_path.joinpath(*["deep"] * depth)
    run = launcher.run_directory(data)
    assert len(str(run / "orders.abcdefghijklmnop")) <= IPC_PATH_MAX
    assert launcher.run_directory(data) == run
    assert launcher.run_directory(data / "other") != run


def test_supervisord_is_told_about_every_daemon(tmp_path: Path) -> None:
    data = tmp_path / "100% real"
    config = launcher.prepare(data, overrides={"marketmaker": {"enabled": True}})
    parser = configparser.ConfigParser(inline_comment_prefixes=(" ;",))
    parser.read_string(supervision.render(config))
    commands = {
        section.removeprefix("program:"): shlex.split(parser[section]["command"])
        for section in parser.sections()
        if section.startswith("program:")
    }
    assert list(commands) == ["c0", "r0", "s0-a", "s0-b", "s1-a", "s1-b", "m0", "g0", "mm0"]
    words = [sys.executable, "-P", "-m", "shard", "--config", f"{data}/cluster.toml", "--name", "s1-a"]
    assert commands["s1-a"] == words
    assert parser["program:s1-a"]["exitcodes"] == "0,78,74,70"


@pytest.mark.parametrize("name", ["a ;b", 'a"b', "a\nb"])
def test_a_path_that_supervisord_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    config = launcher.prepare(tmp_path / name)
    with pytest.raises(ConfigError, match="may hold no control character"):
        supervision.render(config)


def test_a_port_in_use_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = launcher.prepare(tmp_path / "cluster", overrides={"gateway": {"port": port}})
        with pytest.raises(launcher.LaunchError, match=rf"port {port} of 127.0.0.1 .* held by .*pid {os.getpid()}"):
            launcher.start(config)
        assert ports.choose("127.0.0.1") != port
    assert supervision.cluster_processes(config.data) == []


def test_only_processes_of_the_cluster_count_as_its_own(tmp_path: Path) -> None:
    data = tmp_path / "cluster"
    config_path = data / "cluster.toml"
    launcher.prepare(data)
    sleep = "import sys, time; print(flush=True); time.sleep(60)"
    ours = _spawn(sleep, "--config", str(config_path), cwd=tmp_path)
    strangers = [
        _spawn(sleep, "--config", str(tmp_path / "cluster.toml"), cwd=tmp_path),
        _spawn(sleep, str(config_path), cwd=data),
    ]
    try:
        assert [process.pid for process in supervision.cluster_processes(data)] == [ours.pid]
        assert launcher.end_processes(data) == 1
        assert ours.wait(10) == -signal.SIGTERM
        assert all(psutil.pid_exists(process.pid) and process.poll() is None for process in strangers)
        assert launcher.end_processes(data) == 0
    finally:
        for process in [ours, *strangers]:
            process.kill()
            process.wait()


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "cluster"
    launcher.prepare(data)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = _spawn(stubborn, "--config", str(data / "cluster.toml"), cwd=tmp_path)
    try:
        assert launcher.end_processes(data) == 1
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def _spawn(code: str, *words: str, cwd: Path) -> subprocess.Popen[bytes]:
    """A Python process that has printed its first line, hence is past its start."""
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=cwd, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process
