"""The file of API keys, `<data>/keys.json`, 0600: {key: {"account", "scopes", "secret"}}. A gateway
reads it again when it changes.

Every change replaces the whole file atomically, under a lock, so that neither a gateway nor a second command ever sees
half of one.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import msgspec

from exchange.errors import ConfigError
from gateway.core.auth import Key, Scope, parse_keys
from shardex.launcher import LaunchError, read_config

SCOPES: tuple[Scope, ...] = get_args(Scope)
_FILE = "keys.json"
_KEY_BYTES = 12
_SECRET_BYTES = 32


def read(data: Path) -> dict[str, Key]:
    """All keys, oldest first. ConfigError for a broken file, NotRunning when `data` is no cluster's directory."""
    read_config(data)
    path = data / _FILE
    return parse_keys(path.read_bytes()) if path.exists() else {}


def add(data: Path, account: str, scopes: list[str]) -> tuple[str, Key]:
    """Create a key with fresh random parts. ConfigError names a wrong account or scope."""
    for scope in scopes:
        if scope not in SCOPES:
            raise ConfigError([f"scope {scope!r} is not one of {', '.join(SCOPES)}"])
    granted = tuple(scope for scope in SCOPES if scope in scopes)
    name, key = secrets.token_hex(_KEY_BYTES), Key(account, granted, secrets.token_hex(_SECRET_BYTES))
    with _changing(data) as keys:
        keys[name] = key
    return name, key


def revoke(data: Path, name: str) -> None:
    """Take a key away; LaunchError when there is none of that name."""
    with _changing(data) as keys:
        if keys.pop(name, None) is None:
            raise LaunchError(f"there is no key {name} in {data / _FILE}")


@contextmanager
def _changing(data: Path) -> Iterator[dict[str, Key]]:
    """The keys, to be changed; written back when the body ends without an exception."""
    path = data / _FILE
    read_config(data)  # a key belongs to a cluster: no lock file elsewhere
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read(data)
        yield keys
        text = msgspec.json.format(msgspec.json.encode(keys))
        parse_keys(text)
        _replace(path, text)
    finally:
        os.close(lock)


def _replace(path: Path, text: bytes) -> None:
    unfinished = path.with_suffix(".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text + b"\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
