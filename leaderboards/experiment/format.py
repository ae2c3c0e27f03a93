"""Numbers of a sweep's report as text: percent, points and signs as in `compare.py`, a dash where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable

from harness.results import percent

from .report import Number


def level_text(number: Number | None) -> str:
    """`43.3 [39.1, 47.5]` percent."""
    if number is None:
        return "-"
    interval = "" if number.low is None else f" [{percent(number.low, 1)}, {percent(number.high, 1)}]"
    return percent(number.value, 1) + interval


def value_text(number: Number | None) -> str:
    """`43.3` percent."""
    return "-" if number is None else percent(number.value, 1)


def change_text(number: Number | None) -> str:
    """`+6.1 [+3.9, +8.3]` percentage points."""
    if number is None:
        return "-"
    interval = "" if number.low is None or number.high is None else f" [{points(number.low)}, {points(number.high)}]"
    return points(number.value) + interval


def points(difference: float) -> str:
    """`+6.1` percentage points; what rounds to nothing is `+0.0`."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def p_text(p: float) -> str:
    """`0.002`, `< 0.0001`."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def number_text(value: float | None, digits: int = 2) -> str:
    """A plain number."""
    return "-" if value is None else f"{value:.{digits}f}"


def count_text(value: float | None) -> str:
    """`840`, `12.3 k`, `1.20 M`: tokens, calls."""
    if value is None:
        return "-"
    for size, unit, digits in ((1e9, " G", 2), (1e6, " M", 2), (1e4, " k", 1)):
        if value >= size:
            return f"{value / min(size, 1e3 if unit == ' k' else size):.{digits}f}{unit}"
    return f"{value:.0f}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = list(words)
    return f"{', '.join(first)} and {last}" if first else last


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
