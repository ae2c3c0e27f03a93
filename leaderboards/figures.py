"""Figures of finished runs, each as SVG and as PNG at twice the size, for light and for dark pages.

- `curves`: pass@k, maj@k and best-of-k against k, all from one set of samples; a panel per run.
- `difficulty`: a base and other runs on problems that the base solves never, seldom, often.
- `iterations`: train and test over the iterations of a treatment, and the gap between them.
- `draw`: the first two for every task of some runs, which is what a report shows.

Bands and bars are 95% intervals over problems (`mean_ci`), for each k, bin or iteration by itself. The background is
transparent, and every colour has a contrast of at least 3 with white and with a dark page. Lines are named at their
ends and differ in dashes or markers too, so that nothing hangs on colour. The same runs give the same bytes on one
version of matplotlib, whatever the user's own settings. Not handled: votes by score, which are near best-of-k and
would hide it, and tests of differences (`compare.py`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness.errors import InputError
from harness.finished import results_of
from harness.metrics.gaps import gap_ci
from harness.metrics.inference import mean_ci
from harness.results import groups, spread_of, subset
from harness.selectors import best_of, graded, majority, oracle, score_names
from harness.types import Floats, Results

from .strata import EDGES
from .strata import difficulty as difficulty_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#7b8089"
"""Text, axes and the ceiling: contrast 4.0 on white, 4.8 on #0d1117."""
COLOURS = ("#3e94ea", "#d9731a", "#7929ff", "#177245")
"""Contrast 3.2 to 6.0 on both pages. Under the three kinds of colour blindness (Machado et al. 2009, full severity) any
two of them, and each and INK, stay 16 CIE94 units apart."""
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D")
SMALL, LINE = 8.5, 11.0
"""Text size and line height in points."""


@dataclass(frozen=True)
class Part:
    """One task (or task/split) of one run."""

    run: str
    task: str
    size: str
    problems_sha: str
    results: Results

    @property
    def fewest(self) -> int:
        """Graded completions of the problem that has fewest."""
        return min(len(row) for row in graded(self.results))


@dataclass(frozen=True)
class Line:
    """Points with intervals, in percent; NaN where there is none."""

    x: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def curves(runs: Sequence[Path], output: Path, *, task: str | None = None) -> list[Path]:
    """pass@k (the ceiling), maj@k and best-of-k by each score against k = 1..n; a panel per run, with common axes.

    maj@k is left out where correct completions have no answer to vote with, as programs have none.

    Args:
        runs: run folders.
        output: the files' path without .svg and .png.
        task: which task (or task/split), if the runs have several.

    Returns:
        The files that it wrote.

    Raises:
        InputError: no such task, fewer than two problems, or fewer than two graded completions of one.
    """
    return _draw_curves(_choose(_load(runs), task), output)


def difficulty(base: Path, runs: Sequence[Path], output: Path, *, task: str | None = None) -> list[Path]:
    """Mean success of the base and of other runs by bins of the base's success, on the problems that all have.

    The bins are those of `strata.py`: measured on the base's completions with even numbers, while the base's points
    use those with odd ones, so that lucky problems don't look easy and then get worse. A bin of one problem has no
    interval, one of none is left out.

    Args:
        base: run folder; at least two completions of each problem.
        runs: run folders to set beside it.
        output: the files' path without .svg and .png.
        task: which task (or task/split), if the runs have several.

    Returns:
        The files that it wrote.

    Raises:
        InputError: no such task, other problems, fewer than two in common, too few completions.
    """
    parts = _choose(_load([base, *runs]), task)
    return _draw_difficulty(parts[0], parts[1:], output)


def iterations(
    series: Mapping[int, tuple[npt.ArrayLike, npt.ArrayLike] | Path], output: Path, *, task: str | None = None
) -> list[Path]:
    """Mean pass@1 on train and on test over iterations, with the gap between them shaded.

    Args:
        series: by iteration (0 is the base), pass@1 of each train and of each test problem as fractions, (P,) and
            (Q,), or a run folder that holds both splits.
        output: the files' path without .svg and .png.
        task: which task of the run folders, if they have several; the title if there are none.

    Returns:
        The files that it wrote.

    Raises:
        InputError: fewer than two iterations, or a run without both splits.
    """
    if len(series) < 2:
        raise InputError(f"a figure over iterations needs two or more of them, not {len(series)}.")
    times = sorted(series)
    pairs = [_splits(value, task) if isinstance(value := series[time], Path) else value for time in times]
    for time, values in zip(times, pairs, strict=True):
        for name, u_P in zip(("train", "test"), values, strict=True):
            u = np.asarray(u_P, dtype=np.float64)
            if u.ndim != 1 or len(u) < 2 or not ((u >= 0) & (u <= 1)).all():
                raise InputError(f"iteration {time}, {name}: a band needs a fraction for each of two or more problems.")
    return _draw_iterations(times, pairs, output, title=task or "")


def draw(runs: Sequence[Path], folder: Path) -> list[Path]:
    """`curves` and `difficulty` of each task for the runs that have enough completions; gives the files.

    A run needs two completions of every problem for curves and four for difficulty, where the first run that has them
    is the base.
    """
    loaded = _load(runs)
    written: list[Path] = []
    for task in dict.fromkeys(task for parts in loaded for task in parts):
        parts = [parts[task] for parts in loaded if task in parts and len(parts[task].results.problems_P) > 1]
        name = task.replace("/", "_")
        if several := [part for part in parts if part.fewest >= 2]:
            written += _draw_curves(several, folder / f"curves_{name}")
        many = [part for part in parts if part.fewest >= 4]
        many = [part for part in many if part.problems_sha == many[0].problems_sha]
        if len(many) > 1 and len(_common(many)) > 1:
            written += _draw_difficulty(many[0], many[1:], folder / f"difficulty_{name}")
    if not written:
        raise InputError("no run has two problems with two graded completions each: there is nothing to draw.")
    return written


def _load(paths: Sequence[Path]) -> list[dict[str, Part]]:
    """Each run by task, or by task/split."""
    if not paths:
        raise InputError("there is no run to draw: name at least one.")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_parts(path, name) for path, name in zip(paths, names, strict=True)]


def _parts(path: Path, run: str) -> dict[str, Part]:
    manifest, results = results_of(path)
    _, summary = read_results(path)
    problems_sha = {task.name: task.problems_sha for task in manifest.tasks}
    parts = {}
    for name, places in groups(results).items():
        part = subset(results, places)
        task, sizes = part.problems_P[0].task, [len(row) for row in graded(part)]
        if min(sizes) == 0:
            raise InputError(f"{run} has a problem of {name} without any graded completion: grade it again first.")
        count = summary["counts"][task]
        size = f"{len(sizes)} × {min(sizes)}" + (f"–{max(sizes)}" if max(sizes) > min(sizes) else "")
        size += " (PARTIAL)" if count["problems"] < count["problems_expected"] else ""
        parts[name] = Part(run, name, size, problems_sha[task], part)
    return parts


def _choose(loaded: Sequence[Mapping[str, Part]], task: str | None) -> list[Part]:
    """The part of each run that is about one task."""
    names = list(dict.fromkeys(name for parts in loaded for name in parts))
    if task is None:
        if len(names) != 1:
            raise InputError(f"the runs are about {', '.join(names) or 'nothing'}: name one task to draw.")
        task = names[0]
    if any(task not in parts for parts in loaded):
        raise InputError(f"not every run has completions for {task!r} (there are {', '.join(names)}).")
    return [parts[task] for parts in loaded]


def _splits(path: Path, task: str | None) -> tuple[Floats, Floats]:
    """pass@1 of each train and each test problem of a run folder."""
    [parts] = _load([path])
    tasks = {name.rpartition("/")[0] for name in parts if name.endswith("/train")}
    both = sorted(name for name in tasks if f"{name}/test" in parts and task in (None, name))
    if len(both) != 1:
        raise InputError(f"{path} has {len(both)} tasks with train and test problems: choose a task that has both.")
    train, test = (oracle(parts[f"{both[0]}/{split}"].results, [1])[:, 0] for split in ("train", "test"))
    return train, test


def _line(x: Sequence[float], u: Sequence[Floats]) -> Line:
    """Means and intervals of the problems' fractions at each x; one problem has no interval."""
    intervals = [mean_ci(u_P.clip(0, 1)) if len(u_P) > 1 else None for u_P in u]
    return Line(
        x,
        [100 * float(u_P.mean()) for u_P in u],
        [math.nan if i is None else 100 * i.low for i in intervals],
        [math.nan if i is None else 100 * i.high for i in intervals],
    )


def _ks(n: int) -> list[int]:
    """All up to 16, then powers of two, n/2 and n."""
    powers = {1 << i for i in range(n.bit_length())}
    return sorted({*range(1, min(n, 16) + 1), *powers, max(n // 2, 1), n})


def _curves_of(part: Part) -> dict[str, Line]:
    """Every rule that chooses one of k completions, and the ceiling, by the name that the figure shows."""
    results, fewest = part.results, part.fewest
    if fewest < 2 or len(results.problems_P) < 2:
        raise InputError(f"{part.run} has {part.size} graded completions of {part.task}: curves need 2 × 2 or more.")
    ks = _ks(fewest)
    chosen = {"pass@k": oracle(results, ks)}
    pairs = [pair for row in zip(results.passed_PG, results.answer_PG, strict=True) for pair in zip(*row, strict=True)]
    if all(answer is not None for passed, answer in pairs if passed == 1) and any(answer for _, answer in pairs):
        chosen["maj@k"] = majority(results, ks)
    chosen |= {f"best@k[{score}]": best_of(results, ks, score=score) for score in score_names(results)}
    return {name: _line(ks, list(u_PK.T)) for name, u_PK in chosen.items()}


def _common(parts: Sequence[Part]) -> list[str]:
    """Problems that all have, in the first one's order."""
    ids = [{problem.id for problem in part.results.problems_P} for part in parts]
    return [problem.id for problem in parts[0].results.problems_P if all(problem.id in each for each in ids)]


def _draw_curves(parts: Sequence[Part], output: Path) -> list[Path]:
    lines = [_curves_of(part) for part in parts]
    names = list(dict.fromkeys(name for panel in lines for name in panel if name != "pass@k"))
    longest = max(part.fewest for part in parts)
    with _look():
        figure, panels = _sheet(len(parts))
        for axes, part, panel in zip(panels, parts, lines, strict=True):
            _title(axes, part.run, f"{part.task}, {part.size}")
            for name, line in panel.items():
                _band(axes, line, names.index(name) if name in names else None)
            axes.set_xscale("log", base=2)
            axes.set_xlim(1, longest)
        ticks = [1 << i for i in range(longest.bit_length())]
        ticks += [longest] if longest >= 1.3 * ticks[-1] else []
        panels[0].set_xticks(ticks, [str(k) for k in ticks], minor=False)
        panels[0].xaxis.set_minor_locator(_no_ticks())
        figure.supxlabel("k completions to choose from", size=SMALL)
        figure.supylabel("solved, %", size=SMALL)
        for axes, panel in zip(panels, lines, strict=True):
            colours = {name: INK if name == "pass@k" else COLOURS[names.index(name) % len(COLOURS)] for name in panel}
            _name_ends(
                figure,
                axes,
                [
                    (line.x[-1], line.value[-1], "pass@k, the ceiling" if name == "pass@k" else name, colours[name])
                    for name, line in panel.items()
                ],
            )
        return _save(figure, output)
