"""Parts of figures that runs and sweeps have in common: lines from values per problem, and the panels that hold them.

- `line_of`, `change_of`: means or mean differences with 95% intervals over problems, at each x.
- `rules_by_k`: pass@k, maj@k and best-of-k of each problem, from one set of samples.
- `split_panel`, `k_axis`, `difficulty_panel`: train and test over iterations, an axis of k, bins by difficulty.

Each interval is for one x by itself: two that overlap can still differ on paired problems. Not handled: which runs are
drawn (`figures.py`, `experiment/figures.py`), and looks (`drawing.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from harness.metrics.inference import diff_ci, mean_ci
from harness.selectors import best_of, majority, oracle, score_names
from harness.types import Floats, Results

from .drawing import INK, Line, Style, band, name_ends, points, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PASS = "pass@k"
TICKS = ("0", "1–25", "26–50", "51–75", "76–100")
"""Names of the difficulty bins of `strata.EDGES` on an axis."""


def line_of(x: Sequence[float], u: Sequence[Floats]) -> Line:
    """Means and intervals over problems of fractions at each x; a single problem has no interval."""
    intervals = [mean_ci(u_P.clip(0, 1)) if len(u_P) > 1 else None for u_P in u]
    return Line(
        x,
        [100 * float(u_P.mean()) for u_P in u],
        [math.nan if interval is None else 100 * interval.low for interval in intervals],
        [math.nan if interval is None else 100 * interval.high for interval in intervals],
    )


def change_of(x: Sequence[float], d: Sequence[Floats]) -> Line:
    """Mean differences of fractions, paired by problem, with their intervals, at each x."""
    intervals = [diff_ci(d_P) for d_P in d]
    return Line(
        x,
        [100 * interval.value for interval in intervals],
        [100 * interval.low for interval in intervals],
        [100 * interval.high for interval in intervals],
    )


def rules_by_k(results: Results, ks: Sequence[int], *, scores: bool = True) -> dict[str, Floats]:
    """The ceiling, and every rule that chooses one of k completions, of each problem: (P, K) by name.

    maj@k is left out where there are programs, which have no answer to vote with; best-of-k by each score if not
    `scores`. Votes by score are always left out: they lie near best-of-k and would hide it.
    """
    chosen = {PASS: oracle(results, ks)}
    programs = any(problem.tests for problem in results.problems_P)
    if not programs and any(answer is not None for row in results.answer_PG for answer in row):
        chosen["maj@k"] = majority(results, ks)
    names = score_names(results) if scores else []
    return chosen | {f"best@k[{name}]": best_of(results, ks, score=name) for name in names}


def ks_up_to(n: int) -> list[int]:
    """All up to 16, then powers of two, n/2 and n."""
    return sorted({*range(1, min(n, 16) + 1), *(1 << i for i in range(n.bit_length())), max(n // 2, 1), n})


def k_axis(axes: Axes, longest: int) -> None:
    """k on a logarithmic axis: powers of two (of four, where there would be many), none that the last would touch."""
    powers = [k for k in (1 << i for i in range(0, longest.bit_length(), 1 if longest <= 256 else 2)) if k < longest]
    ticks = [k for k in powers if math.log(longest / k) > 0.1 * math.log(longest)] + [longest]
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, longest)
    axes.set_xticks(ticks, [str(k) for k in ticks])


def split_panel(axes: Axes, train: Line, test: Line) -> None:
    """Train and test over iterations, with the gap between them shaded."""
    axes.fill_between(train.x, train.value, test.value, color=INK, alpha=0.22, linewidth=0)
    for place, line in enumerate((train, test)):
        band(axes, line, style(place))


def split_names(train: Line, test: Line, gap: str) -> list[tuple[Line, str, Style]]:
    """What `name_ends` writes beside a `split_panel`: train, test, and the gap in words."""
    middle = Line(train.x, [(a + b) / 2 for a, b in zip(train.value, test.value, strict=True)], [], [])
    return [(train, "train", style(0)), (test, "test", style(1)), (middle, gap, Style(INK))]


def iteration_axis(axes: Axes, x: Sequence[float]) -> None:
    """Whole iterations, at most about twelve ticks."""
    axes.set_xticks(x[:: math.ceil(len(x) / 12)])
    axes.set_xlim(x[0], x[-1])


def difficulty_panel(
    axes: Axes, bins: Mapping[str, int], lines: Sequence[Line], names: Sequence[str], styles: Sequence[Style]
) -> None:
    """Lines with x = 0, 1, ... for the bins: the points of one bin stand side by side, each line has its name."""
    apart = min(0.12, 0.7 / len(lines))
    lines = [
        replace(line, x=[x + apart * (place - (len(lines) - 1) / 2) for x in line.x])
        for place, line in enumerate(lines)
    ]
    for line, each in zip(lines, styles, strict=True):
        points(axes, line, each)
    axes.set_xticks(range(len(bins)), [f"{tick}\n{size} problem{'s' * (size > 1)}" for tick, size in bins.items()])
    axes.set_xlim(lines[0].x[0] - 0.25, lines[-1].x[-1] + 0.15)
    axes.set_ylim(-3, 103)
    name_ends(axes, list(zip(lines, names, styles, strict=True)))


def lines_by_bin(
    means: Sequence[Mapping[str, float]], label_of: Mapping[str, str], labels: Sequence[str]
) -> tuple[dict[str, int], list[Line]]:
    """Problems in each bin that has any, and for each mapping of problem id to fraction the line over the bins.

    Args:
        means: one or more mappings; the problems that all have are drawn.
        label_of: bin by problem id.
        labels: the bins in order, as many as `TICKS`.
    """
    shared = sorted(set.intersection(*(set(each) for each in means)))
    bins = {
        tick: [name for name in shared if label_of[name] == label] for tick, label in zip(TICKS, labels, strict=True)
    }
    bins = {tick: ids for tick, ids in bins.items() if ids}
    lines = [line_of(range(len(bins)), [np.array([each[i] for i in ids]) for ids in bins.values()]) for each in means]
    return {tick: len(ids) for tick, ids in bins.items()}, lines
