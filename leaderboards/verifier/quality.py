"""How good a score is, and what choosing ever harder by it does. Main functions: `quality_of` and `pressure_of`.

Order within a problem is what best-of-k needs (`harness.metrics.verifier` says why); accuracy as a probability is what
a threshold needs. Under pressure the score of the chosen rises by construction, while its success rate need not: a
verifier has faults, and the best-scored of many is where they are (Gao et al. 2023, arXiv 2210.10760; figure 7 of Cobbe
et al. 2021, arXiv 2110.14168). Not handled: scores that a completion lacks (refused by `selectors.scores`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.metrics.inference import diff_ci, ratio_ci
from harness.metrics.significance import holm, p_value
from harness.metrics.subsets import best_at_k
from harness.metrics.verifier import calibration
from harness.selectable import graded, scores
from harness.types import Floats, Results

from ..experiment.measure import level
from ..experiment.report import Number
from .bootstrap import auroc, average_precision, pairs, ratio, resampled
from .report import Bin, Calibrated, Chosen, Pressure, Quality

BINS = 10
SIGNIFICANT = 0.05


def quality_of(results: Results, score: str, *, probability: bool) -> Quality:
    """Order within problems and over all, and calibration if the score is a probability."""
    correct, column = graded(results), scores(results, score)
    problems = len(correct)
    won_P, pairs_P = pairs(correct, column)
    mixed = pairs_P > 0
    share_P = np.divide(won_P, pairs_P, out=np.zeros(problems), where=mixed)
    right, every = (sum(each) for each in ((row.sum() for row in correct), (len(row) for row in correct)))
    return Quality(
        score=score,
        pairs=resampled(ratio(won_P, pairs_P), problems) if mixed.any() else None,
        pairs_by_problem=resampled(ratio(share_P, mixed.astype(np.float64)), problems) if mixed.any() else None,
        auroc=resampled(auroc(correct, column), problems) if 0 < right < every else None,
        average_precision=resampled(average_precision(correct, column), problems) if right else None,
        calibrated=_calibrated(correct, column) if probability else None,
    )


def _calibrated(correct: Sequence[Floats], probability: Sequence[Floats]) -> Calibrated:
    errors_P = np.array([((p - c) ** 2).sum() for c, p in zip(correct, probability, strict=True)])
    sizes_P = np.array([float(len(row)) for row in correct])
    found = calibration(correct, probability, bins=BINS)
    return Calibrated(
        brier=resampled(ratio(errors_P, sizes_P), len(correct)),
        ece=found.ece,
        ece_squared=found.ece_squared,
        bins=_bins(correct, probability, found.table_B3),
    )


def _bins(correct: Sequence[Floats], probability: Sequence[Floats], table_B3: Floats) -> tuple[Bin, ...]:
    """The bins of `calibration`, each with an interval over the problems that have completions in it."""
    sizes = table_B3[:, 2].astype(np.int64)
    place = np.empty(sizes.sum(), dtype=np.int64)  # bins are neighbours in score, and keep equal scores together
    place[np.argsort(np.concatenate(probability), kind="stable")] = np.repeat(np.arange(len(sizes)), sizes)
    problem = np.repeat(np.arange(len(correct)), [len(row) for row in correct])
    every = np.concatenate(correct)
    bins = []
    for number, (mean, accuracy, size) in enumerate(table_B3.tolist()):
        inside = place == number
        right_P = np.bincount(problem[inside], every[inside], len(correct))
        size_P = np.bincount(problem[inside], None, len(correct)).astype(np.float64)
        some = size_P > 0
        interval = ratio_ci(right_P[some], size_P[some]) if some.sum() > 1 else None
        sure = interval is None or interval.se < 1e-12  # all alike: no spread to go by
        right = Number(
            value=accuracy,
            low=None if sure or interval is None else max(0.0, interval.low),
            high=None if sure or interval is None else min(1.0, interval.high),
            se=None if sure or interval is None else interval.se,
            problems=int(some.sum()),
        )
        bins.append(Bin(score=mean, right=right, completions=int(size)))
    return tuple(bins)


def pressure_of(results: Results, score: str, ks: Sequence[int], *, probability: bool) -> Pressure | None:
    """Score and success rate of the best-scored of k, for each k; None for scores that are infinite."""
    correct, column = graded(results), scores(results, score)
    if not all(np.isfinite(row).all() for row in column):
        return None
    score_PK, right_PK = best_at_k(column, column, ks), best_at_k(correct, column, ks)
    inside = np.sqrt(np.mean([row.var() for row in column]))
    chosen = tuple(
        Chosen(
            k=k,
            score=float(score_PK[:, place].mean()),
            rise=float((score_PK[:, place] - score_PK[:, 0]).mean() / inside) if inside > 1e-12 else None,
            right=level(right_PK[:, place]),
            gap=difference(score_PK[:, place] - right_PK[:, place]) if probability else None,
        )
        for place, k in enumerate(ks)
    )
    best_k, fall = fall_of(right_PK, ks)
    return Pressure(score=score, chosen=chosen, best_k=best_k, fall=fall)


def fall_of(right_PK: Floats, ks: Sequence[int]) -> tuple[int | None, Number | None]:
    """The k from which choosing among more is worse, if any: the largest k against each other one, Holm over those."""
    falls = [right_PK[:, -1] - right_PK[:, place] for place in range(len(ks) - 1)]
    if not falls:
        return None, None
    adjusted = holm([p_value(diff_ci(d_P)) for d_P in falls])
    worse = [
        place for place, (d_P, p) in enumerate(zip(falls, adjusted, strict=True)) if d_P.mean() < 0 and p < SIGNIFICANT
    ]
    if not worse:
        return None, None
    top = max(worse, key=lambda place: (right_PK[:, place].mean(), -place))
    return ks[top], difference(falls[top])


def difference(d_P: Floats) -> Number:
    """The mean of a contrast, one per problem."""
    found = diff_ci(d_P)
    return Number(value=found.value, low=found.low, high=found.high, se=found.se, problems=len(d_P))
