"""tcp between daemons: encrypted, for holders of the cluster's key alone."""

import time
from pathlib import Path

import pytest
import zmq

from exchange import keyfile, sockets
from exchange.config import Config, load, render
from exchange.errors import ConfigError
from shardex import ports
from shardex.defaults import default_config

BOUND_S = 30.0


REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


def receive(router: sockets.Router) -> tuple[bytes, bytes, bytes] | None:
    """The next message within a bound."""
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end:
        received = router.receive()
        if received is not None:
            return received
        time.sleep(0.005)
    return None


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    base = ports.choose("127.0.0.1")
    overrides = {"cluster": {"transport": "tcp", "port_base": min(base, 60_000)}}
    config = default_config(data, data / "run", shards=2, overrides=overrides)
    path = data / "cluster.toml"
    path.write_text(render(config))
    return load(path)


def test_every_door_has_a_port_of_its_own(config: Config) -> None:
    doors = ["control", "risk", "market"]
    doors += [f"{kind}.{node}" for kind in ("orders", "events", "replica") for _, node in config.nodes()]
    endpoints = [config.endpoint(door) for door in doors]
    assert len(dict.fromkeys(endpoints)) == len(doors)
    assert all(endpoint.startswith("tcp://127.0.0.1:") for endpoint in endpoints)


def test_a_holder_of_the_key_is_heard_and_others_are_not(config: Config) -> None:
    keyfile.create_key(config.data / keyfile.KEY_FILE)
    keyfile.open_transport(config)
    endpoint = config.endpoint("control")
    router = sockets.Router()
    router.bind(endpoint)
    context = zmq.Context()
    strangers = []
    try:
        friend = sockets.Dealer("friend")
        friend.connect(endpoint)
        assert friend.send(b"hello", b"there")
        assert receive(router) == (b"friend", b"hello", b"there")
        server_key = (config.data / keyfile.KEY_FILE).read_bytes().split()[0]
        for public, secret in (zmq.curve_keypair(), (None, None)):
            stranger = context.socket(zmq.DEALER)
            stranger.linger = 0
            if public is not None:
                stranger.curve_publickey, stranger.curve_secretkey = public, secret
                stranger.curve_serverkey = server_key
            refusals = stranger.get_monitor_socket(REFUSED | zmq.EVENT_DISCONNECTED)
            stranger.connect(endpoint)
            stranger.send_multipart([b"I am", b"the coordinator"])
            strangers.append(stranger)
            assert refusals.poll(int(BOUND_S * 1_000)), "it has been at the door"
            stranger.disable_monitor()
            refusals.close(0)
        assert router.receive() is None
        assert friend.send(b"still", b"here")
        assert receive(router) == (b"friend", b"still", b"here")
        friend.close()
    finally:
        for stranger in strangers:
            stranger.close()
        context.term()
        router.close()


def test_the_key_must_be_private_and_whole(config: Config) -> None:
    path = config.data / keyfile.KEY_FILE
    with pytest.raises(ConfigError, match="needs the cluster's key"):
        keyfile.open_transport(config)
    keyfile.create_key(path)
    before = path.read_bytes()
    keyfile.create_key(path)
    assert path.read_bytes() == before
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0600, it has 0644"):
        keyfile.open_transport(config)
    path.chmod(0o600)
    path.write_bytes(before[:30])
    with pytest.raises(ConfigError, match="40 characters"):
        keyfile.open_transport(config)
