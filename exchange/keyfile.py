"""The cluster's key in `<data>/cluster.key`: who can read it is a daemon of the cluster."""

import os
from pathlib import Path

from exchange.config import Config
from exchange.errors import ConfigError
from exchange.sockets import ClusterKey, use_cluster_key

KEY_FILE = "cluster.key"
_Z85_KEY_BYTES = 40


def create_key(path: Path) -> None:
    """Write a fresh key, readable by this user alone; an existing one stays."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"\n".join(ClusterKey.generate()) + b"\n")


def open_transport(config: Config) -> None:
    """Make this process able to speak the cluster's transport. ConfigError when its key is missing, open or damaged."""
    if config.cluster.transport == "ipc":
        return
    path = config.data / KEY_FILE
    try:
        mode = path.stat().st_mode & 0o777
        parts = path.read_bytes().split()
    except OSError as fault:
        raise ConfigError([f"{path}: {fault.strerror}; transport tcp needs the cluster's key"]) from fault
    if mode & 0o077:
        raise ConfigError([f"{path} must have mode 0600, it has {mode:04o}"])
    if [len(part) for part in parts] != [_Z85_KEY_BYTES, _Z85_KEY_BYTES]:
        raise ConfigError([f"{path} must hold a public and a secret key of {_Z85_KEY_BYTES} characters each"])
    use_cluster_key(ClusterKey(*parts))
