"""What a long run shows while it works: two bars with rates and time left, on standard error.

`bars(total)` is a context manager that gives a `Progress`; `silent` is the one that shows nothing (the Python API's
default). Not a terminal: nothing is drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Called by the flow as it goes."""

    start: Callable[[int, int, int], None] = _nothing
    """(completions in all, sampled already, graded already)."""
    sampled: Callable[[], None] = _nothing
    graded: Callable[[], None] = _nothing
    note: Callable[[str], None] = _nothing
    """A sentence for the user."""


silent = Progress()


@contextlib.contextmanager
def bars(note: Callable[[str], None]) -> Iterator[Progress]:
    """Two bars, completions sampled and graded, drawn on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        """Steps per second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="cyan")

    columns = [TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()]
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        sampled, graded = (display.add_task(name, total=None) for name in ("sampled", "graded"))

        def start(total: int, sampled_before: int, graded_before: int) -> None:
            display.update(sampled, total=total, completed=sampled_before)
            display.update(graded, total=total, completed=graded_before)

        yield Progress(
            start=start,
            sampled=lambda: display.advance(sampled),
            graded=lambda: display.advance(graded),
            note=note,
        )
