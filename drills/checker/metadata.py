"""What the control store recorded about each shard, version by version."""

from pathlib import Path
from typing import NamedTuple

from coordinator.core import records
from coordinator.core.group import NOBODY, Group, Session
from coordinator.store.sqlite import read_history

CONTROL = "control"


class Version(NamedTuple):
    """One version of a shard's record; `at_ns` is wall-clock time."""

    ver: int
    at_ns: int
    group: Group


class Metadata:
    """History of all shards. StoreError when it cannot be read."""

    def __init__(self, data: Path) -> None:
        self.versions: dict[str, list[Version]] = {}
        for recorded in read_history(data / CONTROL):
            if recorded.key.startswith(records.SHARD_PREFIX):
                shard = recorded.key.removeprefix(records.SHARD_PREFIX)
                group = records.decode(recorded.key, recorded.value, Group)
                self.versions.setdefault(shard, []).append(Version(recorded.ver, recorded.at_ns, group))

    def newest(self, shard: str) -> Group | None:
        """The shard's record as it stands; None when nothing is known of it."""
        versions = self.versions.get(shard)
        return versions[-1].group if versions else None

    def leaders(self, shard: str) -> dict[int, list[Session]]:
        """Who was recorded as the primary of each term."""
        found: dict[int, list[Session]] = {}
        for version in self.versions.get(shard, []):
            group = version.group
            known = found.setdefault(group.epoch, [])
            if group.primary != NOBODY and group.primary not in known:
                known.append(group.primary)
        return found
