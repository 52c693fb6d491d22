"""Where a benchmark ran: without this a figure means nothing."""

import os
import platform
import subprocess
from pathlib import Path
from time import perf_counter_ns

import psutil
from msgspec import Struct

from exchange.domain import NS_PER_US

_SYNCS = 100


class Machine(Struct, frozen=True, kw_only=True):
    """The machine, the code and the disk under the journals."""

    cores: int
    processor: str
    memory_gib: float
    kernel: str
    python: str
    file_system: str
    fdatasync_us: float
    """Median of 64-byte appends with fdatasync, just now."""
    busy_percent: float
    """Processors taken by others in the second before the start: figures of a machine that is not quiet are too low."""
    commit: str
    changed: bool
    """The working tree differs from the commit."""


def describe(directory: Path) -> Machine:
    """The machine, with the disk that holds `directory`."""
    return Machine(
        cores=psutil.cpu_count() or 1,
        processor=_processor(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        file_system=_file_system(directory),
        fdatasync_us=_fdatasync_us(directory / "fdatasync"),
        busy_percent=psutil.cpu_percent(interval=1.0),
        commit=_git("rev-parse", "--short", "HEAD"),
        changed=bool(_git("status", "--porcelain")),
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _file_system(directory: Path) -> str:
    """Type of the mount with the longest path that holds the directory."""
    holding = [part for part in psutil.disk_partitions(all=True) if directory.resolve().is_relative_to(part.mountpoint)]
    return max(holding, key=lambda part: len(part.mountpoint)).fstype if holding else "unknown"


def _fdatasync_us(path: Path) -> float:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        spent = []
        for _ in range(_SYNCS):
            start = perf_counter_ns()
            os.write(descriptor, bytes(64))
            os.fdatasync(descriptor)
            spent.append(perf_counter_ns() - start)
    finally:
        os.close(descriptor)
        path.unlink()
    return sorted(spent)[_SYNCS // 2] / NS_PER_US


def _git(*words: str) -> str:
    root = Path(__file__).parent.parent
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip()
