"""Intervals of what is pooled over completions: problems are resampled, never completions. Main function: `resampled`.

A statistic is a function of how often each problem is counted: (B, P) weights to (B,) values. `pairs`, `auroc` and
`average_precision` are those of `harness.metrics.verifier` with such weights; with weights of 1 they are equal to them.
Intervals are BCa (Efron 1987), the acceleration from the jackknife over problems. Not handled: fewer than two problems,
and statistics that don't vary, which have no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.metrics.verifier import pair_accuracy
from harness.types import Floats

from ..experiment.report import Number

RESAMPLES = 1999
ROWS = 64
"""Resamples that are weighed at a time: memory is this times the number of completions."""

Statistic = Callable[[Floats], Floats]


def resampled(statistic: Statistic, problems: int, *, seed: int = 0, level: float = 0.95) -> Number:
    """A statistic of all problems with its BCa interval over problems.

    Resamples in which it is not defined (NaN) are left out; with one in ten or more of them there is no interval.
    """
    value = float(statistic(np.ones((1, problems)))[0])
    rng = np.random.default_rng(seed)
    drawn = _in_rows(statistic, rng.multinomial(problems, np.full(problems, 1 / problems), RESAMPLES))
    left_out = _in_rows(statistic, 1 - np.eye(problems))
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if len(drawn) <= 0.9 * RESAMPLES or np.ptp(drawn) < 1e-12 or np.ptp(left_out) < 1e-12:
        return Number(value=value, low=None, high=None, se=None, problems=problems)
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(drawn, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return Number(value=value, low=float(low), high=float(high), se=float(drawn.std(ddof=1)), problems=problems)


def _in_rows(statistic: Statistic, weights: npt.ArrayLike) -> Floats:
    rows = np.asarray(weights, dtype=np.float64)
    return np.concatenate([statistic(rows[at : at + ROWS]) for at in range(0, len(rows), ROWS)])


def ratio(numerator_P: Floats, denominator_P: Floats) -> Statistic:
    """Sum of the numerators over sum of the denominators, NaN where that is 0."""

    def statistic(weights: Floats) -> Floats:
        below = weights @ denominator_P
        return np.asarray(np.divide(weights @ numerator_P, below, out=np.full(below.shape, np.nan), where=below > 0))

    return statistic


def pairs(correct_PG: Sequence[Floats], score_PG: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Of each problem the pairs (right, wrong) that the score orders rightly, ties half, and all pairs. (P,), (P,)"""
    pairs_P = np.array([row.sum() * (len(row) - row.sum()) for row in correct_PG])
    won_P = np.zeros(len(pairs_P))
    for place in np.flatnonzero(pairs_P).tolist():
        won_P[place] = pairs_P[place] * pair_accuracy([correct_PG[place]], [score_PG[place]]).by_pair
    return won_P, pairs_P


def auroc(correct_PG: Sequence[Floats], score_PG: Sequence[Floats]) -> Statistic:
    """Area under the ROC curve, pooled; NaN where nothing is right or nothing is wrong."""
    sums = _by_score(correct_PG, score_PG)

    def statistic(weights: Floats) -> Floats:
        right, wrong = sums(weights)
        below = np.cumsum(wrong, axis=1) - wrong / 2
        every = right.sum(axis=1) * wrong.sum(axis=1)
        return np.asarray(
            np.divide((right * below).sum(axis=1), every, out=np.full(len(every), np.nan), where=every > 0)
        )

    return statistic


def average_precision(correct_PG: Sequence[Floats], score_PG: Sequence[Floats]) -> Statistic:
    """Area under precision against recall, pooled; NaN where nothing is right."""
    sums = _by_score(correct_PG, score_PG)

    def statistic(weights: Floats) -> Floats:
        right, wrong = (each[:, ::-1] for each in sums(weights))
        hits = np.cumsum(right, axis=1)
        accepted = hits + np.cumsum(wrong, axis=1)
        precision = np.divide(hits, accepted, out=np.zeros(hits.shape), where=accepted > 0)
        every = hits[:, -1]
        return np.asarray(
            np.divide((right * precision).sum(axis=1), every, out=np.full(len(every), np.nan), where=every > 0)
        )

    return statistic


def _by_score(correct_PG: Sequence[Floats], score_PG: Sequence[Floats]) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Weight of the right and of the wrong completions at each distinct score, rising: (B, P) to (B, S), (B, S)."""
    correct, score = np.concatenate(correct_PG), np.concatenate(score_PG)
    problem = np.repeat(np.arange(len(correct_PG)), [len(row) for row in correct_PG])
    order = np.argsort(score, kind="stable")
    correct, score, problem = correct[order], score[order], problem[order]
    starts = np.flatnonzero(np.append(True, score[1:] != score[:-1]))

    def sums(weights: Floats) -> tuple[Floats, Floats]:
        each = weights[:, problem]
        right = np.add.reduceat(each * correct, starts, axis=1)
        return right, np.add.reduceat(each, starts, axis=1) - right

    return sums
