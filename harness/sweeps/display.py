"""How a running sweep is shown: a live table on a terminal, a line per event elsewhere; both on standard error.

`display` is a context manager that gives the function `show` of `harness.sweep.run`. Not handled: the results.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.sweep import Line, Show

Estimate = Callable[[Sequence[Line], float], float | None]
"""Seconds that are left, from the jobs and the time; None: nothing is known."""


@contextlib.contextmanager
def display(estimate: Estimate) -> Iterator[Show]:
    """The function to call with the jobs of a sweep, often."""
    if not sys.stderr.isatty():
        yield _lines(estimate)
        return
    from rich.console import Console
    from rich.live import Live

    begun = time.monotonic()
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield lambda lines: live.update(_table(lines, summary(lines, begun, estimate)), refresh=True)


def _table(lines: Sequence[Line], caption: str) -> Any:
    """What runs and what has failed."""
    from rich.table import Table

    table = Table(box=None, caption=caption, caption_justify="left", padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("setting", "arm", "seed", "now", "completions", "time"):
        table.add_column(heading, justify="right" if heading in ("completions", "time") else "left", no_wrap=True)
    for line in lines:
        if line.status in ("running", "failed"):
            said = line.error if line.status == "failed" else line.said
            count = f"{line.completions:,} of {line.of:,}" if line.of and line.status == "running" else ""
            spent = (line.ended or time.monotonic()) - line.started if line.started else 0.0
            job = line.job
            names = [job.setting, job.arm or "(base)", "" if job.arm is None else str(job.seed)]
            table.add_row(*names, said, count, duration(spent), style="red" if line.status == "failed" else "")
    return table


def _lines(estimate: Estimate) -> Show:
    """A line when a job begins a phase, is done or fails."""
    begun, seen = time.monotonic(), dict[str, tuple[str, str]]()

    def show(lines: Sequence[Line]) -> None:
        for line in lines:
            now = (line.status, line.said)
            if now == seen.get(str(line.job)) or line.status == "waiting":
                continue
            ended = line.status != seen.get(str(line.job), ("",))[0] and line.status in ("done", "failed")
            seen[str(line.job)] = now
            if ended:
                what = f"failed: {line.error}" if line.status == "failed" else "done"
                what += f" ({summary(lines, begun, estimate)})"
            elif line.status == "running" and line.said:
                what = line.said
            else:
                continue
            print(f"[{duration(time.monotonic() - begun)}] {line.job}: {what}", file=sys.stderr, flush=True)

    return show


def summary(lines: Sequence[Line], begun: float, estimate: Estimate) -> str:
    """How many jobs are where, the time that has passed, and about how much is left."""
    counts = Counter(line.status for line in lines)
    parts = [f"{counts['done']} of {len(lines)} done"]
    parts += [f"{counts[status]} {status}" for status in ("running", "waiting", "failed") if counts[status]]
    parts.append(f"{duration(time.monotonic() - begun)} so far")
    left = estimate(lines, time.monotonic())
    if left is not None and counts["running"] + counts["waiting"]:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
