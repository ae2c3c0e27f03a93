"""What selectors choose by, of the graded completions alone: verdicts, answers, execution results, scores.

Main functions: `graded`, `classes` (equal answers or equal execution results) and `scores`. Ungraded completions are
left out of every row. Not handled: choosing (`selectors.py`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from harness.errors import InputError, UnknownName
from harness.metrics.shapes import Ints
from harness.types import Floats, Outcomes, Results

Matrix = npt.NDArray[Any]

MEAN_LOGPROB = "mean logprob"
"""Name of the score that `mean_logprob` gives."""

OWN_INPUTS = "inputs"
"""The suite of the tasks' own test inputs: its values may be looked at, who passes its tests may not."""

SUBSETS = 200_000
"""Subsets drawn for a vote over all problems, 100 to 2000 each: their standard error is below 0.5 / sqrt(number)."""


class Drawing(TypedDict):
    """Arguments of the estimators that draw subsets."""

    subsets: int
    rng: list[int]


def drawing(results: Results) -> Drawing:
    """How many subsets of each problem's completions are drawn, and from which seeds."""
    seeds = [zlib.crc32(problem.id.encode()) for problem in results.problems_P]
    return {"subsets": min(2000, max(100, SUBSETS // max(len(seeds), 1))), "rng": seeds}


def score_names(results: Results) -> list[str]:
    """Scores that every graded completion has; of log-probabilities the mean per token, whenever lengths are known."""
    names = [MEAN_LOGPROB, *(name for name in results.scores if name != "logprob")]
    complete = [name for name in names if not n_missing(results, name)]
    if MEAN_LOGPROB not in complete and not n_missing(results, "logprob"):
        complete.insert(0, "logprob")
    return complete


def graded(results: Results) -> list[Floats]:
    """P rows of 1 (passed) and 0, without the ungraded completions."""
    return [row[known] for row, known in zip(results.passed_PG, is_graded(results), strict=True)]


def labels(results: Results) -> list[Ints]:
    """P rows of whole numbers, equal for equal answers of one problem, -1 for none; graded completions only."""
    rows = []
    for answers, known in zip(results.answer_PG, is_graded(results), strict=True):
        number: dict[str | None, int] = {answer: place for place, answer in enumerate(dict.fromkeys(answers))}
        number[None] = -1
        rows.append(np.array([number[answer] for answer in answers], dtype=np.int64)[known])
    return rows


def execution_labels(results: Results, suite: str) -> list[Ints]:
    """P rows of whole numbers, equal for programs that return equal values on every test of the suite.

    A program without a value on any of them (an error, a timeout) is like no other: it may be chosen, and nothing adds
    to it. So is each where the suite has no test of the problem.
    """
    rows = []
    for output_GC in graded_rows(results, suite_of(results, suite).output_PGC):
        programs, tests = output_GC.shape
        label = np.arange(programs, dtype=np.int64)
        whole = (output_GC >= 0).all(axis=1) & (tests > 0)
        if whole.any():
            label[whole] = programs + np.unique(output_GC[whole], axis=0, return_inverse=True)[1].ravel()
        rows.append(label)
    return rows


def suite_of(results: Results, name: str) -> Outcomes:
    """What the programs did on the tests of a suite."""
    if name not in results.suites:
        raise UnknownName("suite of the run", name, results.suites)
    return results.suites[name]


def scores(results: Results, name: str) -> list[Floats]:
    """P rows of one score of the graded completions; an error if any has none, as a gap is no low score."""
    missing = n_missing(results, name)
    if missing:
        raise InputError(
            f"score {name!r} is missing for {missing} graded completions (there are {_names(results)}): "
            "score the run first or choose another."
        )
    return [row[known] for row, known in zip(_column(results, name), is_graded(results), strict=True)]


def mean_logprob(results: Results) -> list[Floats]:
    """P rows of log-probability per token, in nats; NaN where it or the length is unknown."""
    return [
        np.array([c.logprob / c.n_tokens if c.logprob is not None and c.n_tokens else np.nan for c in group])
        for group in results.completions_PG
    ]


def classes(results: Results, suite: str | None) -> list[Ints]:
    """`execution_labels` of a suite, `labels` without one."""
    return labels(results) if suite is None else execution_labels(results, suite)


def shows_verdicts(suite: str, outcomes: Outcomes) -> bool:
    """Whether who passes these tests is (part of) the verdict that a selector has to guess."""
    return suite == OWN_INPUTS or any(test.source == "gold" for tests in outcomes.tests_PC for test in tests)


def graded_rows(results: Results, matrix_PGC: Sequence[Matrix]) -> list[Matrix]:
    """The rows of the graded completions of each problem's (G, C) matrix."""
    return [matrix[known] for matrix, known in zip(matrix_PGC, is_graded(results), strict=True)]


def _column(results: Results, name: str) -> Sequence[Floats]:
    if name == MEAN_LOGPROB:
        return mean_logprob(results)
    return results.scores.get(name) or [np.full(row.shape, np.nan) for row in results.passed_PG]


def n_missing(results: Results, name: str) -> int:
    """How many graded completions have no such score."""
    pairs = zip(_column(results, name), is_graded(results), strict=True)
    return sum(int(np.isnan(row[known]).sum()) for row, known in pairs)


def is_graded(results: Results) -> list[npt.NDArray[np.bool_]]:
    """P rows: which completions have a verdict."""
    return [~np.isnan(row) for row in results.passed_PG]


def _names(results: Results) -> str:
    return ", ".join(repr(name) for name in score_names(results)) or "none"
