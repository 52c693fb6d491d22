"""API keys: a file that only its owner reads, changed whole or not at all."""

import json
import stat
from pathlib import Path

import pytest

from exchange.errors import ConfigError
from shardex import keys, launcher


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "cluster"
    launcher.prepare(directory, shards=1)
    return directory


def test_a_key_is_added_listed_and_revoked(data: Path) -> None:
    name, key = keys.add(data, "alice", ["trade", "read"])
    other, _ = keys.add(data, "bob", ["read"])
    assert key.account == "alice"
    assert [(name, key.account, list(key.scopes)) for name, key in keys.read(data).items()] == [
        (name, "alice", ["read", "trade"]),
        (other, "bob", ["read"]),
    ]
    keys.revoke(data, name)
    assert list(keys.read(data)) == [other]


def test_the_file_is_private_and_has_the_agreed_shape(data: Path) -> None:
    name, key = keys.add(data, "alice", ["read"])
    path = data / "keys.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {name: {"account": "alice", "scopes": ["read"], "secret": key.secret}}


def test_keys_and_secrets_are_never_the_same_twice(data: Path) -> None:
    made = [keys.add(data, "alice", ["read"]) for _ in range(20)]
    assert len({name for name, _ in made} | {key.secret for _, key in made}) == 40


@pytest.mark.parametrize("account", ["", "a b", "x" * 33, "ålice", "a/b", "alice\n"])
def test_an_account_outside_the_alphabet_is_refused(data: Path, account: str) -> None:
    with pytest.raises(ConfigError, match="account"):
        keys.add(data, account, ["read"])
    assert keys.read(data) == {}


def test_an_unknown_scope_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="scope 'root' is not one of read, trade, ops"):
        keys.add(data, "alice", ["root"])


def test_revoking_a_key_that_is_not_there_changes_nothing(data: Path) -> None:
    name, _ = keys.add(data, "alice", ["read"])
    with pytest.raises(launcher.LaunchError, match="there is no key nobody"):
        keys.revoke(data, "nobody")
    assert list(keys.read(data)) == [name]


@pytest.mark.parametrize("text", ["", "[]", '{"k": {"account": "a"}}', "{" * 1000])
def test_a_broken_file_is_reported_and_not_overwritten(data: Path, text: str) -> None:
    path = data / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        keys.add(data, "alice", ["read"])
    assert path.read_text() == text
