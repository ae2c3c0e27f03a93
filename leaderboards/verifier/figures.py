"""Figures of a verifier report, each as SVG and PNG: `draw`.

`selection` (success against k, pass@k above), `reliability` (for scores that are probabilities), `claimed` (what such a
score says of the chosen, and the truth) and `pressure` (success against score, for all scores). Numbers and intervals
are those of the report. Not handled: looks (`drawing.py`), other selectors than the first few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import (
    CEILING,
    INK,
    Line,
    Named,
    Style,
    band,
    name_ends,
    name_panels,
    percent_axis,
    points,
    save,
    sheet,
    style,
    title,
)
from ..experiment.report import Number
from ..panels import k_axis
from .report import Part, Pressure
from .words import SUITE_RULES, label, ordered, parts_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 3
"""Selectors up to which their bands have edges."""
GENERATED = "generated"
"""The suite that rules on tests are for."""
MOST = 7
"""Selectors that one figure can hold beside the ceiling."""


def draw(part: Part, folder: Path) -> dict[str, list[Path]]:
    """The figures that the part has numbers for: files by name."""
    stem = part.name.replace("/", "_").replace(" ", "_")
    written = {}
    for name, paths in (
        ("selection", _selection(part, folder / f"{stem}_selection")),
        ("reliability", _reliability(part, folder / f"{stem}_reliability")),
        ("claimed", _claimed(part, folder / f"{stem}_claimed")),
        ("pressure", _pressure(part, folder / f"{stem}_pressure")),
    ):
        if paths:
            written[name] = paths
    return written


def drawn(part: Part) -> list[str]:
    """The selectors that are drawn: the baselines, then the best; votes only where there is room, as they lie near
    best-of-k and would hide it, and second suites of a rule."""
    return _by_interest(part)[:MOST]


def _by_interest(part: Part) -> list[str]:
    """Each group best first; a rule on several suites is in the first group with one of them."""
    suites: dict[str, str] = {}
    for each in part.selectors:
        rule, suite = parts_of(each.name)
        if rule in SUITE_RULES and suites.get(rule) != GENERATED:
            suites[rule] = suite or ""

    def group(name: str) -> int:
        rule, argument = parts_of(name)
        if name in part.baselines:
            return 0
        if rule == "vote":
            return 3
        again = suites[rule] != argument if rule in SUITE_RULES else rule == "maj"
        return 2 if again else 1

    return sorted((each.name for each in ordered(part)), key=group)


def styles_of(part: Part) -> dict[str, Style]:
    """A selector's style in every figure; a score has that of best-of-k by it."""
    return {name: style(place) for place, name in enumerate(_by_interest(part))}


def line_of(x: Sequence[float], numbers: Sequence[Number]) -> Line:
    """In percent."""
    ends = [(np.nan, np.nan) if n.low is None or n.high is None else (100 * n.low, 100 * n.high) for n in numbers]
    return Line(x, [100 * n.value for n in numbers], [low for low, _ in ends], [high for _, high in ends])


def _selection(part: Part, output: Path) -> list[Path]:
    ks = list(part.ks)
    if not part.selectors or len(ks) < 2:
        return []
    ceiling = line_of(ks, [part.ceiling[k] for k in ks])
    levels = {each.name: {1: part.one, **each.levels} for each in part.selectors}
    lines = {name: line_of(ks, [levels[name][k] for k in ks]) for name in drawn(part)}
    styles = styles_of(part)
    with sheet(width=6.4, height=3.6) as (figure, [axes]):
        title(axes, part.name, f"{part.problems} problems × {part.completions[0]}")
        band(axes, ceiling, CEILING)
        for name, line in lines.items():
            (band if len(lines) <= FEW else _shade)(axes, line, styles[name])
        k_axis(axes, ks[-1])
        percent_axis(axes, [ceiling, *lines.values()])
        axes.set_xlabel("k completions to choose one from")
        axes.set_ylabel("the chosen is right, %, with 95% bands")
        names: list[Named] = [(line, label(name), styles[name]) for name, line in lines.items()]
        name_ends(axes, [(ceiling, "pass@k (ceiling)", CEILING), *names])
        return save(figure, output)


def _shade(axes: Axes, line: Line, style: Style) -> None:
    """A band without edges, of which more can lie on one another."""
    axes.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.07, linewidth=0)
    axes.plot(line.x, line.value, color=style.colour, linestyle=style.dashes, linewidth=style.width)


def _reliability(part: Part, output: Path) -> list[Path]:
    tables = {each.score: each.calibrated.bins for each in part.quality if each.calibrated}
    tables = {name: bins for name, bins in list(tables.items())[:4] if len(bins) > 1}
    if not tables:
        return []
    styles = styles_of(part)
    with sheet(len(tables), width=3.6, height=3.4) as (figure, panels):
        for axes, (name, bins) in zip(panels, tables.items(), strict=True):
            size = sum(each.completions for each in bins)
            title(axes, name, f"{part.name}, {size} completions in {len(bins)} bins")
            axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 3)))
            points(
                axes,
                line_of([100 * each.score for each in bins], [each.right for each in bins]),
                styles[f"best[{name}]"],
            )
            axes.set_xlim(-3, 103)
            axes.set_ylim(-3, 103)
            axes.set_aspect("equal")
        figure.supxlabel("what the score says, %")
        figure.supylabel("right, %, with 95% intervals")
        return save(figure, output)


def _claimed(part: Part, output: Path) -> list[Path]:
    panels_of = [each for each in part.pressure if each.chosen[0].gap is not None][:4]
    if not panels_of or len(part.ks) < 2:
        return []
    styles = styles_of(part)
    said = {each.score: Line(part.ks, [100 * c.score for c in each.chosen], [], []) for each in panels_of}
    right = {each.score: line_of(part.ks, [c.right for c in each.chosen]) for each in panels_of}
    with sheet(len(panels_of), width=3.8 if len(panels_of) > 1 else 5.0) as (figure, panels):
        ends: list[list[Named]] = []
        for axes, each in zip(panels, panels_of, strict=True):
            title(axes, each.score, f"{part.name}, {part.problems} problems")
            line, claim, colours = right[each.score], said[each.score], styles[f"best[{each.score}]"]
            axes.fill_between(part.ks, claim.value, line.value, color=INK, alpha=0.15, linewidth=0)
            axes.plot(part.ks, claim.value, color=INK, linewidth=1.6, linestyle=(0, (5, 1.5)))
            band(axes, line, colours)
            ends.append([(claim, "says", Style(INK)), (line, "is right", colours)])
        k_axis(panels[0], part.ks[-1])
        percent_axis(panels[0], [*right.values(), *(Line(x.x, x.value, x.value, x.value) for x in said.values())])
        figure.supxlabel("k completions of which the best-scored is chosen")
        figure.supylabel("the chosen, %, with 95% bands")
        name_panels(list(zip(panels, ends, strict=True)))
        return save(figure, output)


def _pressure(part: Part, output: Path) -> list[Path]:
    """Success against the rise of the score: a point per k."""
    shown: Mapping[str, Pressure] = {
        each.score: each for each in part.pressure[:MOST] if all(chosen.rise is not None for chosen in each.chosen)
    }
    if not shown or len(part.ks) < 2:
        return []
    lines = {
        name: line_of([chosen.rise or 0.0 for chosen in each.chosen], [chosen.right for chosen in each.chosen])
        for name, each in shown.items()
    }
    styles = {name: styles_of(part)[f"best[{name}]"] for name in lines}
    with sheet(width=6.0, height=3.4) as (figure, [axes]):
        title(axes, part.name, f"a point per k: {', '.join(map(str, part.ks))}")
        for name, line in lines.items():
            points(axes, line, styles[name])
        percent_axis(axes, list(lines.values()))
        axes.set_xlabel("rise of the chosen's score, standard deviations within a problem")
        axes.set_ylabel("the chosen is right, %, with 95% intervals")
        name_ends(axes, [(line, name, styles[name]) for name, line in lines.items()])
        return save(figure, output)
