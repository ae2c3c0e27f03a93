"""Figures of finished runs, each as SVG and as PNG at twice the size, for light and for dark pages.

- `curves`: pass@k, maj@k and best-of-k against k, all from one set of samples; a panel per run.
- `difficulty`: a base and other runs on problems that the base solves never, seldom, often.
- `iterations`: train and test over the iterations of a treatment, and the gap between them.
- `draw`: the first two for every task of some runs, which is what a report shows.

Each gives the list of files that it wrote.

Bands and bars are 95% intervals over problems (`mean_ci`), for each k, bin or iteration by itself: two that overlap can
still differ on paired problems. Not handled: tests of differences (`compare.py`), sweeps
(`experiment/figures.py`), what a panel holds (`panels.py`), and looks (`drawing.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import InputError
from harness.finished import results_of
from harness.metrics.gaps import gap_ci
from harness.results import groups, subset
from harness.selectors import graded, oracle
from harness.store import read_results
from harness.types import Floats, Results

from .drawing import BASE, CEILING, Line, band, name_ends, name_panels, percent_axis, save, sheet, short, style, title
from .panels import (
    PASS,
    difficulty_panel,
    iteration_axis,
    k_axis,
    ks_up_to,
    line_of,
    lines_by_bin,
    rules_by_k,
    split_names,
    split_panel,
)
from .strata import EDGES
from .strata import difficulty as difficulty_bins

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Part:
    """One task (or task/split) of one run."""

    run: str
    task: str
    fewest: int
    """Graded completions of the problem that has fewest."""
    size: str
    problems_sha: str
    results: Results


def curves(runs: Sequence[Path], output: Path, *, task: str | None = None) -> list[Path]:
    """pass@k (the ceiling), maj@k and best-of-k by each score against k = 1..n; a panel per run, with common axes.

    maj@k is left out where there are programs, which have no answer to vote with.

    Args:
        runs: run folders.
        output: the files' path without .svg and .png.
        task: which task (or task/split), if the runs have several.

    Raises:
        InputError: no such task, fewer than two problems, or fewer than two graded completions of one.
    """
    return _draw_curves(_choose(_load(runs), task), output)


def difficulty(base: Path, runs: Sequence[Path], output: Path, *, task: str | None = None) -> list[Path]:
    """Mean success of a base and of other runs by bins of the base's success, on the problems that all have.

    The bins are those of `strata.py`: measured on the base's completions with even numbers, while the base's points
    use those with odd ones, so that lucky problems don't look easy and then get worse. A bin of one problem has no
    interval, one of none is left out.

    Args:
        base: run folder; at least two completions of each problem.
        runs: run folders to set beside it.
        output: the files' path without .svg and .png.
        task: which task (or task/split), if the runs have several.

    Raises:
        InputError: no such task, other problems, fewer than two in common, too few completions.
    """
    if not runs:
        raise InputError("a figure by difficulty sets runs beside a base: name at least one more run.")
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
        task: which task of the run folders, if they have several; the figure's title.

    Raises:
        InputError: fewer than two iterations or problems, no fractions, or a run without both splits.
    """
    if len(series) < 2:
        raise InputError(f"a figure over iterations needs two or more of them, not {len(series)}.")
    pairs = {}
    for time in sorted(series):
        value = series[time]
        pair = _splits(value, task) if isinstance(value, Path) else value
        pairs[time] = [_fractions(u_P, f"iteration {time}, {name}") for name, u_P in zip(SPLITS, pair, strict=True)]
    lines = [line_of(list(pairs), [pair[split] for pair in pairs.values()]) for split in (0, 1)]
    return _draw_iterations(lines, list(pairs.values()), output, heading=task or "Train and test")


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
    if not paths:
        raise InputError("there is no run to draw: name at least one.")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [parts_of(path, name) for path, name in zip(paths, names, strict=True)]


def parts_of(path: Path, run: str) -> dict[str, Part]:
    """A run folder by task, or by task/split; `run` is the name that figures show."""
    manifest, results = results_of(path)
    counts = read_results(path)[1]["counts"]
    problems_sha = {task.name: task.problems_sha for task in manifest.tasks}
    parts = {}
    for name, places in groups(results).items():
        part = subset(results, places)
        task, sizes = part.problems_P[0].task, [len(row) for row in graded(part)]
        if min(sizes) == 0:
            raise InputError(
                f"{run} has a problem of {name} without any graded completion: grade it again (harness score)."
            )
        size = f"{len(sizes)} problems × {min(sizes)}" + (f"–{max(sizes)}" if max(sizes) > min(sizes) else "")
        size += " (PARTIAL)" if counts[task]["problems"] < counts[task]["problems_expected"] else ""
        parts[name] = Part(run, name, min(sizes), size, problems_sha[task], part)
    return parts


def _choose(loaded: Sequence[Mapping[str, Part]], task: str | None) -> list[Part]:
    """The part of each run that is about one task."""
    names = list(dict.fromkeys(name for parts in loaded for name in parts))
    if task is None:
        if len(names) != 1:
            raise InputError(f"the runs are about {', '.join(names) or 'no problem'}: name one task to draw.")
        task = names[0]
    if any(task not in parts for parts in loaded):
        raise InputError(f"not every run has completions for {task!r} (there are {', '.join(names)}).")
    return [parts[task] for parts in loaded]


def _splits(path: Path, task: str | None) -> tuple[Floats, Floats]:
    """pass@1 of each train and each test problem of a run folder."""
    [parts] = _load([path])
    tasks = {name.removesuffix("/train") for name in parts if name.endswith("/train")}
    both = [name for name in sorted(tasks) if f"{name}/test" in parts and task in (None, name)]
    if len(both) != 1:
        wanted = "one task" if task is None else repr(task)
        raise InputError(f"{path} has {len(both)} tasks with train and test problems: {wanted} with both is needed.")
    train, test = (oracle(parts[f"{both[0]}/{split}"].results, [1])[:, 0] for split in SPLITS)
    return train, test


def _fractions(u_P: npt.ArrayLike, where: str) -> Floats:
    u = np.asarray(u_P, dtype=np.float64)
    if u.ndim != 1 or len(u) < 2 or not ((u >= 0) & (u <= 1)).all():
        raise InputError(f"{where}: a band needs one fraction, from 0 to 1, for each of two or more problems.")
    return u


def lines_by_k(part: Part) -> dict[str, Line]:
    """The ceiling, and every rule that chooses one of k completions, by the name that the figure shows."""
    results, ks = part.results, ks_up_to(part.fewest)
    if part.fewest < 2 or len(results.problems_P) < 2:
        raise InputError(f"{part.run} has {part.size} of {part.task}: curves need two problems and two completions.")
    return {name: line_of(ks, list(u_PK.T)) for name, u_PK in rules_by_k(results, ks).items()}


def _draw_curves(parts: Sequence[Part], output: Path) -> list[Path]:
    lines = [lines_by_k(part) for part in parts]
    names = list(dict.fromkeys(name for panel in lines for name in panel if name != PASS))
    styles = {PASS: CEILING} | {name: style(place) for place, name in enumerate(names)}
    longest = max(part.fewest for part in parts)
    with sheet(len(parts), width=4.0 if len(parts) > 1 else 5.0) as (figure, panels):
        for axes, part, panel in zip(panels, parts, lines, strict=True):
            title(axes, part.run, f"{part.task}, {part.size}")
            for name, line in panel.items():
                band(axes, line, styles[name])
        k_axis(panels[0], longest)
        percent_axis(panels[0], [line for panel in lines for line in panel.values()])
        figure.supxlabel("k completions to choose one from")
        figure.supylabel("solved, %, with 95% bands")
        shown = {name: f"{name} (ceiling)" if name == PASS else name for name in styles}
        ends = [[(line, shown[name], styles[name]) for name, line in panel.items()] for panel in lines]
        name_panels(list(zip(panels, ends, strict=True)))
        return save(figure, output)


def _common(parts: Sequence[Part]) -> set[str]:
    """Problems that all have."""
    return set.intersection(*({problem.id for problem in part.results.problems_P} for part in parts))


def lines_by_difficulty(base: Part, runs: Sequence[Part]) -> tuple[dict[str, int], list[Line]]:
    """Problems in each bin that has any, and the lines of the base and the runs with x = 0, 1, ... for the bins."""
    for part in runs:
        if part.problems_sha != base.problems_sha:
            raise InputError(f"{part.run} and {base.run} have other problems of {base.task}: they cannot be compared.")
    label_of, odd = difficulty_bins(base.results)
    means = [_means(odd), *(_means(part.results) for part in runs)]
    shared = sorted(set.intersection(*(set(each) for each in means)))
    if len(shared) < 2:
        raise InputError(f"the runs have {len(shared)} problems of {base.task} in common: a figure needs two.")
    return lines_by_bin(means, label_of, [label for _, label in EDGES])


def _draw_difficulty(base: Part, runs: Sequence[Part], output: Path) -> list[Path]:
    bins, lines = lines_by_difficulty(base, runs)
    styles = [BASE, *(style(place) for place in range(len(runs)))]
    with sheet(width=6.2, height=3.4) as (figure, [axes]):
        title(axes, f"{base.task} by difficulty", f"{sum(bins.values())} problems, base: {base.run}")
        measured = f"solved in the even-numbered completions of {short(base.run)}, %"
        axes.set_xlabel(f"{measured}\n(its own points: in the odd-numbered ones)")
        axes.set_ylabel("solved, %, with 95% intervals")
        names = [part.run for part in (base, *runs)]
        difficulty_panel(axes, bins, lines, names, styles)
        return save(figure, output)


def _means(results: Results) -> dict[str, float]:
    """pass@1 by problem id, of problems with any graded completion."""
    pairs = zip(results.problems_P, graded(results), strict=True)
    return {problem.id: float(row.mean()) for problem, row in pairs if len(row)}


def _draw_iterations(
    lines: Sequence[Line], pairs: Sequence[Sequence[Floats]], output: Path, *, heading: str
) -> list[Path]:
    train, test = lines
    gap = gap_ci(*pairs[-1])
    with sheet(width=5.6, height=3.2) as (figure, [axes]):
        sizes = [sorted({len(pair[split]) for pair in pairs}) for split in (0, 1)]
        shown = [f"{s[0]}" if len(s) == 1 else f"{s[0]}–{s[-1]}" for s in sizes]
        title(axes, heading, f"{shown[0]} train and {shown[1]} test problems")
        split_panel(axes, train, test)
        iteration_axis(axes, train.x)
        percent_axis(axes, lines)
        axes.set_xlabel("iteration")
        axes.set_ylabel("pass@1, %, with 95% bands")
        value, low, high = (f"{100 * number:+.1f}".replace("-", "−") for number in (gap.value, gap.low, gap.high))
        name_ends(axes, split_names(train, test, f"gap {value} [{low}, {high}]"))
        return save(figure, output)
