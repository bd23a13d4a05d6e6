"""CPU time of processes, their children included."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes and all below them have used so far, those that have ended included."""
    return sum(map(_used, _families(pids)))


def fine_cpu_seconds(pids: Iterable[int]) -> float:
    """The same of those that live, to the microsecond where the kernel tells it: `cpu_seconds` counts in hundredths of
    a second, too coarse for a little work."""
    total = 0.0
    for process in _families(pids):
        fine = 0.0
        with suppress(OSError, ValueError, IndexError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                fine += int((thread / "schedstat").read_text().split()[0]) / 1e9
        total += fine or _used(process)
    return total


def resident_kib(pid: int) -> float:
    """Memory of one process that is in RAM, in KiB."""
    return float(psutil.Process(pid).memory_info().rss) / 1024


def _families(pids: Iterable[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            yield from (parent, *parent.children(recursive=True))


def _used(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + ended)
