"""Problems in strata: by level, by metadata, or by how often the base model solves them. Main function: `strata_of`.

Difficulty is measured on the base's completions with even numbers, and the base is then compared by those with odd
ones: the same completions in both places would let lucky problems look easy and then get worse (regression to the
mean).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from tabulate import tabulate

from harness.errors import InputError
from harness.metrics.inference import mean_ci
from harness.results import groups, percent, subset
from harness.selectors import graded, oracle
from harness.types import Floats, Results

EDGES = (
    (0.0, "0 never solved"),
    (0.25, "1 up to 25%"),
    (0.5, "2 up to 50%"),
    (0.75, "3 up to 75%"),
    (1.0, "4 above 75%"),
)
"""Upper end of each difficulty bin and its name; the last takes all the rest."""


def strata_of(base: Results, by: str) -> tuple[Mapping[str, str], Results]:
    """Stratum by problem id, and the base's results to compare with (without the completions that made the strata)."""
    if by == "difficulty":
        return difficulty(base)
    labels = {}
    for problem in base.problems_P:
        value = problem.level if by == "level" else problem.meta.get(by)
        if value is None:
            known = sorted({key for p in base.problems_P for key in p.meta} | {"difficulty"})
            raise InputError(f"problem {problem.id} has no {by!r} to break down by (there are {', '.join(known)}).")
        labels[problem.id] = str(value)
    return labels, base


def _bin(passed: Floats) -> str:
    """The difficulty bin of the graded completions that measure it."""
    if not passed.size:
        return "- not graded"
    return next((name for end, name in EDGES[:-1] if passed.mean() <= end), EDGES[-1][1])


def table(runs: Sequence[tuple[str, Results]], ks: Sequence[int], by: str) -> str:
    """pass@k of every run in every stratum, with intervals; the strata, each times its share, sum to the whole."""
    rows: list[list[object]] = []
    for name, results in runs:
        labels, _ = strata_of(results, by)
        for group, places in groups(results).items():
            strata: dict[str, list[int]] = defaultdict(list)
            for place in places:
                strata[labels[results.problems_P[place].id]].append(place)
            for label, part in sorted(strata.items()):
                share = f"{100 * len(part) / len(places):.1f}"
                rows.append([name, group, label, len(part), share, *_cells(subset(results, part), ks)])
            rows.append([name, group, "all", len(places), "", *_cells(subset(results, places), ks)])
    headers = ["run", "task", by, "problems", "share", *(f"pass@{k}" for k in ks)]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _cells(part: Results, ks: Sequence[int]) -> list[str]:
    """pass@k with its interval, a dash where a problem has fewer than k graded completions."""
    cells = []
    for k in ks:
        if min(len(row) for row in graded(part)) < k:
            cells.append("-")
            continue
        u_P = oracle(part, [k])[:, 0]
        interval = mean_ci(u_P) if len(u_P) > 1 else None
        ends = f" [{percent(interval.low)}, {percent(interval.high)}]" if interval else ""
        cells.append(percent(float(u_P.mean())) + ends)
    return cells


def difficulty(base: Results) -> tuple[Mapping[str, str], Results]:
    """Bins of the success rate on even-numbered completions, and the results of the odd-numbered ones."""
    if any(len(group) < 2 for group in base.completions_PG):
        raise InputError("difficulty is measured on half of the base's completions: each problem needs at least two.")
    labels = {}
    for problem, passed in zip(base.problems_P, base.passed_PG, strict=True):
        labels[problem.id] = _bin(passed[::2][np.isfinite(passed[::2])])
    odd = replace(
        base,
        completions_PG=tuple(group[1::2] for group in base.completions_PG),
        verdicts_PG=tuple(group[1::2] for group in base.verdicts_PG),
        passed_PG=tuple(row[1::2] for row in base.passed_PG),
        answer_PG=tuple(group[1::2] for group in base.answer_PG),
        scores={name: tuple(row[1::2] for row in column) for name, column in base.scores.items()},
        suites={},
    )
    return labels, odd
