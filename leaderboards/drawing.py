"""How our figures look, and how they are written: the only place that imports matplotlib.

`with sheet(panels) as (figure, axes)` gives empty axes; `band` and `points` draw a `Line` on them, `name_ends` (for
several panels `name_panels`) writes each line's name at its end, `save` writes SVG and PNG. The background is
transparent, and every colour has a contrast of at least 3 with a white and with a dark page. Lines differ in dashes or
markers and carry their names, so that nothing hangs on colour alone. The same input gives the same bytes on one version
of matplotlib, whatever the user's own settings. Not handled: what is drawn (`figures.py`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

from harness.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#767b84"
"""Text, axes and ceilings: contrast 4.2 on white, 4.5 on #0d1117, which is nearly the most that one grey can have."""
COLOURS = ("#3e94ea", "#d9731a", "#7929ff", "#177245")
"""Contrast 3.1 to 6.0 on both pages. To every kind of colour-blind eye (Machado et al. 2009, full severity) any two of
them, and each of them and INK, are at least 16 CIE94 units apart. The tests compute both."""
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "v")
TEXT = 8.5
"""Size in points; a line of text takes 11."""
FAR = 40
"""Points between a line's end and its name from which the leader between them is dotted."""

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "figure.labelsize": TEXT,
    "font.size": TEXT,
    "grid.alpha": 0.3,
    "grid.color": INK,
    "grid.linewidth": 0.5,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, searchable, readable to a screen reader
    "svg.hashsalt": "treatment-harness",
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.color": INK,
    "ytick.left": False,
}


@dataclass(frozen=True)
class Line:
    """Points with intervals, in percent; NaN where there is none."""

    x: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Style:
    """How one line is told from the others."""

    colour: str
    dashes: str | tuple[int, tuple[float, ...]] = "solid"
    marker: str = "o"
    width: float = 1.6


Named = tuple[Line, str, Style]
"""A line with what is written at its end."""

CEILING = Style(INK, width=2.4)
BASE = Style(INK, marker="D")


def style(place: int) -> Style:
    """The style of the line with this number, from 0: twelve colours and dashes, after which they repeat."""
    return Style(
        COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)], MARKERS[place % len(MARKERS)]
    )


@contextlib.contextmanager
def sheet(count: int = 1, *, width: float = 4.0, height: float = 2.9) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with `count` panels of common axes, at most two in a row; sizes of a panel in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = math.ceil(count / columns)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[count:]:
            axes.remove()
        panels = list(grid.flat[:count])
        for axes in panels:
            axes.tick_params(labelbottom=True)
        yield figure, panels


def title(axes: Axes, first: str, second: str) -> None:
    """Two lines above a panel, from its left edge: what it shows, and of what."""
    axes.set_title(short(first, 36), loc="left", size=TEXT + 1.5, weight="bold", pad=19)
    axes.annotate(short(second, 50), (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", size=TEXT)


def band(axes: Axes, line: Line, style: Style) -> None:
    """A line in its interval, which has edges so that it can be followed under others."""
    axes.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.1, linewidth=0)
    for edge in (line.low, line.high):
        axes.plot(line.x, edge, color=style.colour, alpha=0.6, linewidth=0.6, linestyle=style.dashes)
    axes.plot(line.x, line.value, color=style.colour, linestyle=style.dashes, linewidth=style.width)


def points(axes: Axes, line: Line, style: Style) -> None:
    """A marker with its interval at each x, and a thin line to lead the eye."""
    below, above = np.subtract(line.value, line.low), np.subtract(line.high, line.value)
    axes.errorbar(line.x, line.value, yerr=[below, above], color=style.colour, fmt="none", elinewidth=1.3)
    axes.plot(
        line.x,
        line.value,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=0.7,
        marker=style.marker,
        markersize=5,
    )


def percent_axis(axes: Axes, lines: Sequence[Line]) -> None:
    """From a little below the lowest band to a little above the highest, within 0 to 100."""
    numbers = np.array([number for line in lines for ends in (line.value, line.low, line.high) for number in ends])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    margin = 0.04 * max(high - low, 5)
    axes.set_ylim(max(low - margin, -2), min(high + margin, 102))


def name_ends(axes: Axes, names: Sequence[Named]) -> None:
    """Each line's name right of its end, moved up or down as little as possible so that none covers another."""
    name_panels([(axes, names)])


def name_panels(panels: Sequence[tuple[Axes, Sequence[Named]]]) -> None:
    """`name_ends` of several panels of one figure, which is laid out only once."""
    figure = panels[0][0].get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout decides how far apart the ends are
    for axes, names in panels:
        _name_ends(figure, axes, names)


def _name_ends(figure: Figure, axes: Axes, names: Sequence[Named]) -> None:
    from matplotlib.transforms import ScaledTranslation

    ends = sorted(((line.value[-1], line.x[-1], text, style) for line, text, style in names), key=lambda end: end[:3])
    pixel = figure.dpi / 72
    wanted = np.array([axes.transData.transform((x, y))[1] for y, x, _, _ in ends])
    apart = 11 * pixel * np.arange(len(ends))
    places = isotonic_regression(wanted - apart).x + apart
    places = np.minimum(places, axes.bbox.y1 + apart - apart[-1])  # the title is above
    right = max(x for _, x, _, _ in ends)
    leader = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)}
    dotted = {"linestyle": (0, (1, 3)), "shrinkB": 5}  # so that it isn't taken for the line going on
    beside = axes.transData + ScaledTranslation(10 / 72, 0, figure.dpi_scale_trans)
    for (y, x, text, style), place in zip(ends, places, strict=True):
        far = axes.transData.transform((right, y))[0] - axes.transData.transform((x, y))[0] > FAR * pixel
        axes.annotate(
            short(text),
            (x, y),
            (right, axes.transData.inverted().transform((0, place))[1]),
            textcoords=beside,
            color=style.colour,
            va="center",
            arrowprops=leader | {"color": style.colour} | (dotted if far else {}),
            annotation_clip=False,
        )


def short(name: str, most: int = 28) -> str:
    """A name without its middle if it is so long that it would leave no room for the figure."""
    kept = (most - 1) // 2
    return name if len(name) <= most else f"{name[:kept]}…{name[-kept:]}"


def save(figure: Figure, output: Path) -> list[Path]:
    """Writes output.svg and output.png, at 192 pixels an inch (twice the size); gives their paths."""
    stem = output.with_suffix("") if output.suffix in (".svg", ".png") else output
    svg, png = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        figure.savefig(png, dpi=192, metadata={"Software": None})
    except OSError as error:
        raise InputError(f"{stem} cannot be written ({error.strerror}): choose another place for figures.") from error
    return [svg, png]
