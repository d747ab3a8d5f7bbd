"""The host's cores and memory, or those of the container: what its cgroup allows, where that is less.

psutil tells of the whole host also inside a container, so the cgroup is asked first (version 2: `cpu.max`,
`memory.max`, and what is used of them). The limit of any group above counts too: the tightest is taken.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from sluicegate.schemas.health.readings import HostReading

CGROUPS = Path("/sys/fs/cgroup")
OVER_S = 10.0
"""Use of the processors is told over so long: a shorter span says more about the instant than about the host."""


class Host:
    """Remembers the processors' counts of the last OVER_S. One thread uses it."""

    def __init__(self, cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> None:
        self._groups = list(_groups(cgroups, own))
        self._busy: list[tuple[float, float, float | None]] = []
        self._boot_id = boot_id()

    def read(self) -> HostReading:
        """What is known now. `free_cores` needs OVER_S of looks, and is None until then."""
        cores, group = self._cores()
        total, available = self._memory()
        return HostReading(
            boot_id=self._boot_id,
            uptime_s=_uptime_s(),
            cores=cores,
            free_cores=self._free_cores(cores, group),
            memory_total_bytes=total,
            memory_available_bytes=available,
        )

    def _cores(self) -> tuple[float | None, Path | None]:
        """How many there are to be had, and the group that limits them."""
        best: float | None = None
        try:
            best = float(len(os.sched_getaffinity(0)))
        except (AttributeError, OSError):
            best = float(os.cpu_count() or 0) or None
        limiting = None
        for group in self._groups:
            words = _words(group / "cpu.max")
            if len(words) == 2 and words[0] != "max" and int(words[1]):
                quota = int(words[0]) / int(words[1])
                if best is None or quota < best:
                    best, limiting = quota, group
        return best, limiting

    def _free_cores(self, cores: float | None, group: Path | None) -> float | None:
        """Of the host those that were idle, and no more than the group has left."""
        now, times = time.monotonic(), psutil.cpu_times()
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        used_s = None if group is None else _usage_s(group)
        self._busy.append((now, idle_s, used_s))
        while len(self._busy) > 2 and now - self._busy[1][0] >= OVER_S:
            self._busy.pop(0)
        began, idle_before, used_before = self._busy[0]
        span_s = now - began
        if cores is None or span_s < OVER_S:
            return None
        free = min(cores, max(0.0, (idle_s - idle_before) / span_s))
        if used_s is not None and used_before is not None:
            free = min(free, max(0.0, cores - (used_s - used_before) / span_s))
        return round(free, 2)

    def _memory(self) -> tuple[int | None, int | None]:
        memory = psutil.virtual_memory()
        total, available = memory.total, memory.available
        for group in self._groups:
            words = _words(group / "memory.max")
            used = _words(group / "memory.current")
            if not words or words[0] == "max" or not used:
                continue
            most = int(words[0])
            # What the kernel can drop at once is not in use, as in the host's own `available`.
            left = most - max(0, int(used[0]) - _droppable(group))
            total, available = min(total, most), min(available, max(0, left))
        return total, available


def boot_id() -> str | None:
    """The kernel's id of this boot; None where it has none."""
    words = _words(Path("/proc/sys/kernel/random/boot_id"))
    return words[0] if words else None


def _uptime_s() -> float | None:
    words = _words(Path("/proc/uptime"))
    return float(words[0]) if words else None


def _groups(cgroups: Path, own: Path) -> Iterator[Path]:
    """The group of this process and those above it, as they are seen from here; none where there is no version 2."""
    for line in _lines(own):
        if line.startswith("0::"):
            path = cgroups / line[3:].strip("/")
            while path.is_relative_to(cgroups):
                yield path
                path = path.parent


def _droppable(group: Path) -> int:
    return sum(
        int(words[1])
        for words in map(str.split, _lines(group / "memory.stat"))
        if words and words[0] in ("inactive_file", "slab_reclaimable")
    )


def _usage_s(group: Path) -> float | None:
    for words in map(str.split, _lines(group / "cpu.stat")):
        if words and words[0] == "usage_usec":
            return int(words[1]) / 1e6
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
