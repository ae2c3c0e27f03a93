"""What a process and everything below it use, read from /proc: for the benchmarks and the soak.

Main functions: `tree`, `cpu_seconds`. Not handled: processes of a container, which are not below this one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One line of /proc/*/stat, in units for people."""

    pid: int
    parent: int
    state: str
    cpu_s: float
    """Its own and that of its children that have ended and been waited for."""
    age_s: float
    rss_bytes: int


def tree(root: int) -> list[Process]:
    """`root` and its descendants, zombies included."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    children: dict[int, list[Process]] = {}
    found: list[Process] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()  # from the third field on: the second may hold spaces
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since the folder was listed
        process = Process(
            pid=int(path.parent.name),
            parent=int(fields[1]),
            state=fields[0],
            cpu_s=sum(map(int, fields[11:15])) / TICKS,
            age_s=uptime - int(fields[19]) / TICKS,
            rss_bytes=int(fields[21]) * PAGE,
        )
        children.setdefault(process.parent, []).append(process)
        if process.pid == root:
            found.append(process)
    for process in found:  # it grows while we go through it
        found.extend(children.get(process.pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """CPU time of `root`, of its descendants, and of those of them that have been waited for."""
    return sum(process.cpu_s for process in tree(root))
