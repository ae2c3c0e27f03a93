"""Figures of a sweep, those of the ReST-EM paper (arXiv 2312.06585) and one of compute; each as SVG and PNG.

`draw` writes for a setting: `iterations` (train and test by iteration, a panel per arm: its figure 4), `change` (test
and transfer against the base by iteration: 2 and 3), `curves` (pass@k and maj@k before and after: 5), `difficulty` (who
gains: 8, right) and `compute` (pass@1 against tokens). An arm has one colour and marker in all of them. Values are
means over seeds, intervals over problems. Not handled: looks (`drawing.py`), panels that runs have too (`panels.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.finished import results_of
from harness.selectors import graded
from harness.types import Floats, Results

from ..drawing import BASE as BASE_STYLE
from ..drawing import INK, Line, Style, band, name_ends, name_panels, percent_axis, points, save, sheet, style, title
from ..panels import (
    PASS,
    change_of,
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
from ..strata import EDGES
from ..strata import difficulty as difficulty_bins
from .format import plural
from .format import points as points_text
from .read import TRAIN, Setting, Step, run_folder
from .report import Number, SettingReport
from .values import BASE, Pool, paired
from .words import tokens

Pools = Mapping[str, Sequence[Pool]]


def draw(setting: Setting, report: SettingReport, pools: Pools, folder: Path) -> list[Path]:
    """The figures that the finished iterations allow; gives their files."""
    begun = {arm.name: pools[arm.name] for arm in setting.arms if len(pools[arm.name]) > 1}
    finals = {arm.name: pools[arm.name][-1] for arm in report.arms if arm.final}
    styles = {arm.name: style(place) for place, arm in enumerate(setting.arms)}
    written: list[Path] = []
    if begun:
        written += _iterations(setting, report, begun, folder / f"{setting.name}_iterations")
        written += _changes(setting, begun, styles, folder / f"{setting.name}_change")
        written += _compute(report, styles, folder / f"{setting.name}_compute")
    if finals and BASE in pools:
        written += _curves(setting, pools[BASE][0], finals, styles, folder / f"{setting.name}_curves")
        written += _difficulty(setting, pools[BASE][0], finals, styles, folder / f"{setting.name}_difficulty")
    return written


def _minus(text: str) -> str:
    """A true minus sign, which in a figure is as wide as a plus."""
    return text.replace("-", "−")


def _iterations(setting: Setting, report: SettingReport, begun: Pools, output: Path) -> list[Path]:
    """A panel per arm: train and test with the gap shaded."""
    panels = {}
    for name, pools in begun.items():
        means = [[pool.mean(f"{split} pass@1") for pool in pools] for split in (TRAIN, setting.test)]
        if all(mean and len(mean) > 1 for split in means for mean in split):
            x = [pool.iteration for pool in pools]
            panels[name] = [line_of(x, [np.array(list((mean or {}).values())) for mean in split]) for split in means]
    if not panels:
        return []
    arms = {arm.name: arm for arm in report.arms}
    with sheet(len(panels), width=3.7, height=2.6) as (figure, axes_of):
        for axes, (name, (train, test)) in zip(axes_of, panels.items(), strict=True):
            last = arms[name].stages[-1]
            moved = last.change.get(f"{setting.test} pass@1")
            title(axes, name, _minus(f"{setting.test} {points_text(moved.value)} pp" if moved else ""))
            split_panel(axes, train, test)
        longest = max((train.x for train, _ in panels.values()), key=len)
        iteration_axis(axes_of[0], longest)
        percent_axis(axes_of[0], [line for lines in panels.values() for line in lines])
        figure.supxlabel("iteration (0: base)")
        figure.supylabel("pass@1, %, with 95% bands")
        gaps = {name: arms[name].stages[-1].gap for name in panels}
        shown = {name: _minus(f"gap {points_text(gap.value)}") if gap else "gap" for name, gap in gaps.items()}
        ends = [split_names(train, test, shown[name]) for name, (train, test) in panels.items()]
        name_panels(list(zip(axes_of, ends, strict=True)))
        return save(figure, output)


def _changes(setting: Setting, begun: Pools, styles: Mapping[str, Style], output: Path) -> list[Path]:
    """A panel for test and for each other evaluation: every arm's change against the base, paired by problem."""
    panels = {}
    for evaluation in (setting.test, *setting.others):
        lines = {name: line for name, pools in begun.items() if (line := _change(pools, f"{evaluation} pass@1"))}
        if lines:
            panels[evaluation] = _apart(lines)
    if not panels:
        return []
    with sheet(len(panels), width=3.9, height=3.0) as (figure, axes_of):
        for axes, (evaluation, lines) in zip(axes_of, panels.items(), strict=True):
            title(axes, evaluation, f"{setting.name}, change of pass@1 against base")
            axes.axhline(0, color=INK, linewidth=1.0)
            for name, line in lines.items():
                points(axes, line, styles[name])
        last = max(pools[-1].iteration for pools in begun.values())
        axes_of[0].set_xticks(range(1, last + 1))
        axes_of[0].set_xlim(0.55, last + 0.45)
        figure.supxlabel("iteration")
        figure.supylabel("pp, with 95% intervals")
        ends = [[(line, name, styles[name]) for name, line in lines.items()] for lines in panels.values()]
        name_panels(list(zip(axes_of, ends, strict=True)))
        return save(figure, output)


def _change(pools: Sequence[Pool], metric: str) -> Line | None:
    base = pools[0].mean(metric)
    pairs = [(pool.iteration, paired(base, mean)) for pool in pools[1:] if base and (mean := pool.mean(metric))]
    if not pairs or any(len(before) < 2 for _, (before, _) in pairs):
        return None
    return change_of([x for x, _ in pairs], [after - before for _, (before, after) in pairs])


def _apart(lines: Mapping[str, Line]) -> dict[str, Line]:
    """The points of one iteration side by side."""
    step = min(0.12, 0.6 / len(lines))
    shifts = {name: step * (place - (len(lines) - 1) / 2) for place, name in enumerate(lines)}
    return {name: replace(line, x=[x + shifts[name] for x in line.x]) for name, line in lines.items()}


def _compute(report: SettingReport, styles: Mapping[str, Style], output: Path) -> list[Path]:
    """pass@1 on test against sampled and trained tokens, all arms from the base."""
    metric = f"{report.test} pass@1"
    assert report.base is not None
    used = {arm.name: [tokens(stage) for stage in arm.stages] for arm in report.arms if arm.stages}
    counted = {name: [each for each in x if each is not None] for name, x in used.items() if None not in x}
    if not counted:
        return []
    most = max(x[-1] for x in counted.values())
    size, unit = (1e6, "millions") if most >= 1e6 else (1e3, "thousands")
    stages = {arm.name: [stage.scores[metric] for stage in arm.stages] for arm in report.arms}
    lines = {name: _level_line([each / size for each in x], stages[name]) for name, x in counted.items()}
    base = _level_line([0.0], [report.base.scores[metric]])
    with sheet(width=5.6, height=3.2) as (figure, [axes]):
        for name, line in lines.items():
            colour, dashes = styles[name].colour, styles[name].dashes
            axes.plot([0, line.x[0]], [base.value[0], line.value[0]], color=colour, linestyle=dashes, linewidth=0.7)
            points(axes, line, styles[name])
        points(axes, base, BASE_STYLE)
        title(axes, f"{report.name}, {report.test}", f"{plural(len(lines), 'arm')}, a point per iteration")
        percent_axis(axes, [base, *lines.values()])
        axes.set_xlim(-0.03 * most / size, 1.03 * most / size)
        axes.set_xlabel(f"sampled and trained tokens, {unit} (0: base)")
        axes.set_ylabel("pass@1, %, with 95% intervals")
        name_ends(axes, [(line, name, styles[name]) for name, line in lines.items()])
        return save(figure, output)


def _level_line(x: Sequence[float], numbers: Sequence[Number]) -> Line:
    low, high = (
        [np.nan if end is None else 100 * end for end in ends]
        for ends in ([n.low for n in numbers], [n.high for n in numbers])
    )
    return Line(x, [100 * number.value for number in numbers], low, high)


def _curves(
    setting: Setting, base: Pool, finals: Mapping[str, Pool], styles: Mapping[str, Style], output: Path
) -> list[Path]:
    """A panel per arm: pass@k, and maj@k where there are answers, of the base (grey) and of the last checkpoint."""
    read = {
        name: [_test_results(step, setting) for step in pool.steps] for name, pool in {BASE: base, **finals}.items()
    }
    fewest = min(len(row) for each in read.values() for results in each for row in graded(results))
    if fewest < 2:
        return []
    ks = ks_up_to(fewest)
    lines = {name: dict(_rules(each, ks)) for name, each in read.items()}
    with sheet(len(finals), width=3.7, height=2.7) as (figure, axes_of):
        for axes, (name, pool) in zip(axes_of, finals.items(), strict=True):
            title(axes, name, f"iteration {pool.iteration}, {setting.test}")
            for who, colour in ((BASE, INK), (name, styles[name].colour)):
                for rule, line in lines[who].items():
                    band(axes, line, _rule_style(rule, colour))
        k_axis(axes_of[0], fewest)
        percent_axis(axes_of[0], [line for each in lines.values() for line in each.values()])
        figure.supxlabel("k completions")
        figure.supylabel("solved, %, with 95% bands")
        ends = [
            [
                (line, f"{'base ' if who == BASE else ''}{rule}", _rule_style(rule, colour))
                for who, colour in ((BASE, INK), (name, styles[name].colour))
                for rule, line in lines[who].items()
            ]
            for name in finals
        ]
        name_panels(list(zip(axes_of, ends, strict=True)))
        return save(figure, output)


def _rule_style(rule: str, colour: str) -> Style:
    return Style(colour) if rule == PASS else Style(colour, dashes=(0, (5, 1.5)))


def _test_results(step: Step, setting: Setting) -> Results:
    return results_of(run_folder(step.folder, setting.test))[1]


def _rules(by_seed: Sequence[Results], ks: Sequence[int]) -> Iterator[tuple[str, Line]]:
    """pass@k and maj@k, averaged over seeds problem by problem."""
    each = [rules_by_k(results, ks, scores=False) for results in by_seed]
    ids = [[problem.id for problem in results.problems_P] for results in by_seed]
    shared = sorted(set.intersection(*(set(names) for names in ids)))
    for rule in each[0]:
        if len(shared) > 1 and all(rule in found for found in each):
            rows: list[Floats] = []
            for found, names in zip(each, ids, strict=True):
                place = {name: i for i, name in enumerate(names)}
                rows.append(found[rule][[place[name] for name in shared]])
            mean_PK = np.mean(rows, axis=0)
            yield rule, line_of(ks, list(mean_PK.T))


def _difficulty(
    setting: Setting, base: Pool, finals: Mapping[str, Pool], styles: Mapping[str, Style], output: Path
) -> list[Path]:
    """Last checkpoints on test problems that the base solves never, seldom, often."""
    results, metric = _test_results(base.steps[0], setting), f"{setting.test} pass@1"
    if min(len(row) for row in graded(results)) < 4:
        return []
    label_of, odd = difficulty_bins(results)
    rows = zip(odd.problems_P, graded(odd), strict=True)
    means = {BASE: {problem.id: float(row.mean()) for problem, row in rows if len(row)}}
    means |= {name: mean for name, pool in finals.items() if (mean := pool.mean(metric))}
    bins, lines = lines_by_bin(list(means.values()), label_of, [label for _, label in EDGES])
    with sheet(width=6.2, height=3.4) as (figure, [axes]):
        title(axes, f"{setting.name}, {setting.test} by difficulty", f"{sum(bins.values())} problems")
        axes.set_xlabel(
            "solved in the even-numbered completions of base, %\n(its own points: in the odd-numbered ones)"
        )
        axes.set_ylabel("solved, %, with 95% intervals")
        difficulty_panel(axes, bins, lines, list(means), [BASE_STYLE, *(styles[name] for name in list(means)[1:])])
        return save(figure, output)
