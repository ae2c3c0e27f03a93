"""How good is a score that is to tell correct samples from wrong ones?

What best-of-k needs is the order *within* a problem: `pair_accuracy`, which fixes the gain captured at k = 2 exactly
(2 x pair accuracy - 1). A pooled `auroc` also rewards knowing which problems are easy, and can be .89 for a score that
selects no better than chance. For accepting or refusing samples across problems there are `average_precision` and
`fpr_at`; for scores meant as probabilities `brier` first, then `calibration`.

All take correct and score as (P, n) arrays or P rows, and pool over problems unless they say otherwise. Not handled:
intervals. Resample problems (`scipy.stats.bootstrap` over their indices), never samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.metrics.shapes import Array, Ragged, equal_n, ragged
from harness.types import Floats


class PairAccuracy(NamedTuple):
    """Share of (correct, wrong) pairs of one problem that a score orders rightly, ties half."""

    by_pair: float
    """Every pair counts the same."""
    by_problem: float
    """Every problem counts the same."""
    problems: int
    """Problems with both correct and wrong samples: the others have no pair."""


class Thresholds(NamedTuple):
    """What accepting every score >= threshold gives, at each of the S distinct scores in falling order; all (S,)."""

    threshold: Floats
    tpr: Floats
    fpr: Floats
    precision: Floats


class Calibration(NamedTuple):
    """How far scores are from success rates, over B bins of equally many samples."""

    ece: float
    """sum of w |accuracy - mean score|. Biased up: .038 at 1000 samples for a perfect score."""
    ece_squared: float
    """sum of w [(accuracy - mean score)^2 - its noise]: unbiased for independent samples, so it may be below 0."""
    table_B3: Floats
    """(B, 3): mean score, accuracy, number of samples."""


def auroc(correct_PG: Ragged, score_PG: Ragged) -> float:
    """P(score of a correct sample > of a wrong one), ties half, pooled over problems.

    (sum of the ranks of the correct - c (c+1) / 2) / (c w) for c correct and w wrong: Mann & Whitney 1947.

    Raises:
        ValueError: no correct or no wrong sample, NaN, shapes that differ.
    """
    correct, score = _pooled(correct_PG, score_PG)
    c, w = int(correct.sum()), int((~correct).sum())
    if not c or not w:
        raise ValueError(f"an AUROC needs correct and wrong samples; there are {c} and {w}")
    return float(_pairs_won(correct[None], score[None])[0]) / (c * w)


def pair_accuracy(correct_PG: Ragged, score_PG: Ragged) -> PairAccuracy:
    """The AUROC inside each problem, averaged over pairs and over problems.

    Raises:
        ValueError: no problem with both correct and wrong samples, NaN, shapes that differ.
    """
    won, pairs = [], []
    for _, (correct, score) in equal_n(correct=correct_PG, score=score_PG):
        c = _is_correct(correct).sum(axis=1)
        won.append(_pairs_won(_is_correct(correct), score))
        pairs.append(c * (correct.shape[1] - c))
    won_P, pairs_P = np.concatenate(won), np.concatenate(pairs)
    mixed = pairs_P > 0
    if not mixed.any():
        raise ValueError("no problem has both correct and wrong samples: there is nothing to order")
    by_problem = won_P[mixed] / pairs_P[mixed]
    return PairAccuracy(float(won_P.sum() / pairs_P.sum()), float(by_problem.mean()), int(mixed.sum()))


def _pairs_won(correct_PG: Array, score_PG: Array) -> Floats:
    """Pairs (correct, wrong) of each row whose correct one scores higher, ties half: (P, n), (P, n) -> (P,)."""
    ranks = stats.rankdata(score_PG, axis=1)
    c = correct_PG.sum(axis=1)
    return np.asarray((ranks * correct_PG).sum(axis=1) - c * (c + 1) / 2, dtype=np.float64)


def thresholds(correct_PG: Ragged, score_PG: Ragged) -> Thresholds:
    """The whole trade-off of accepting scores above a threshold, pooled; fpr is NaN where no sample is wrong.

    Choose a threshold on one set of problems and report it on another.

    Raises:
        ValueError: no correct sample, NaN, shapes that differ.
    """
    correct, score = _pooled(correct_PG, score_PG)
    positives, negatives = int(correct.sum()), int((~correct).sum())
    if not positives:
        raise ValueError("thresholds need at least one correct sample")
    order = np.argsort(-score, kind="stable")
    correct, score = correct[order], score[order]
    last = np.append(score[1:] != score[:-1], True)  # equal scores are accepted together
    accepted = np.flatnonzero(last) + 1
    hits = np.cumsum(correct)[last]
    false_alarms = (accepted - hits) / negatives if negatives else np.full(len(hits), np.nan)
    return Thresholds(score[last], hits / positives, false_alarms, hits / accepted)


def average_precision(correct_PG: Ragged, score_PG: Ragged) -> float:
    """Area under precision against recall, as the sum over distinct scores of (rise in recall) x precision."""
    curve = thresholds(correct_PG, score_PG)
    return float((np.diff(curve.tpr, prepend=0) * curve.precision).sum())


def fpr_at(correct_PG: Ragged, score_PG: Ragged, *, tpr: float) -> tuple[float, float]:
    """(threshold, false-positive rate) of the strictest threshold that accepts a share `tpr` of the correct samples."""
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is a share in (0, 1], not {tpr}")
    curve = thresholds(correct_PG, score_PG)
    place = int(np.searchsorted(curve.tpr, tpr - 1e-12))
    return float(curve.threshold[place]), float(curve.fpr[place])


def brier(correct_PG: Ragged, probability_PG: Ragged) -> float:
    """Mean of (probability - correct)^2, pooled: proper, and unbiased at any sample size (Brier 1950)."""
    correct, probability = _pooled(correct_PG, probability_PG)
    return float(((_probabilities(probability) - correct) ** 2).mean())


def calibration(correct_PG: Ragged, probability_PG: Ragged, *, bins: int = 15) -> Calibration:
    """Mean score against success rate in bins of equally many samples, equal scores kept together; pooled.

    The noise taken off each squared distance is accuracy (1 - accuracy) / (n_b - 1); a bin of one sample has no
    estimate of it and is left out of `ece_squared` alone. Many samples of one problem are not independent and leave
    `ece_squared` too high. Source: Kumar et al. 2019 (arXiv 1909.10155).

    Raises:
        ValueError: probabilities outside [0, 1], NaN, shapes that differ, fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"calibration needs at least one bin, not {bins}")
    correct, score = _pooled(correct_PG, probability_PG)
    _probabilities(score)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    in_bin = np.searchsorted(edges, score, side="right")
    _, place, count = np.unique(in_bin, return_inverse=True, return_counts=True)
    mean_score = np.bincount(place, score) / count
    accuracy = np.bincount(place, correct) / count
    weight = count / count.sum()
    distance = accuracy - mean_score
    known = count > 1
    noise = accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
    squared = float((weight * (distance**2 - noise))[known].sum())
    return Calibration(float((weight * np.abs(distance)).sum()), squared, np.c_[mean_score, accuracy, count])


def gain_captured(best_PK: npt.ArrayLike, one_P: npt.ArrayLike, top_PK: npt.ArrayLike) -> Floats:
    """(best-of-k - pass@1) / (pass@k - pass@1), a ratio of means over problems; NaN where pass@k = pass@1.

    Args:
        best_PK: (P, K) what the selector scores.
        one_P: (P,) pass@1.
        top_PK: (P, K) pass@k, the most that any selector can score.

    Returns:
        (K,). For an interval give the per-problem differences of one k to `inference.ratio_ci`.
    """
    best, one, top = (np.asarray(x, dtype=np.float64) for x in (best_PK, one_P, top_PK))
    if best.shape != top.shape or best.ndim != 2 or one.shape != best.shape[:1]:
        raise ValueError(f"best {best.shape} and top {top.shape} must be (P, K) and one {one.shape} (P,)")
    gain, room = best.mean(axis=0) - one.mean(), top.mean(axis=0) - one.mean()
    return np.asarray(np.divide(gain, room, out=np.full(room.shape, np.nan), where=room > 1e-12))


def _pooled(correct_PG: Ragged, score_PG: Ragged) -> tuple[npt.NDArray[np.bool_], Floats]:
    """All samples in one row: (N,) correct, (N,) score."""
    correct, score = ragged("correct", correct_PG), ragged("score", score_PG)
    if [len(row) for row in correct] != [len(row) for row in score]:
        raise ValueError("correct and score differ in shape: each needs one number per sample")
    return _is_correct(np.concatenate(correct)), np.concatenate(score).astype(np.float64)


def _is_correct(correct: Array) -> npt.NDArray[np.bool_]:
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct must be 0 or 1")
    return correct.astype(np.bool_)


def _probabilities(score: Floats) -> Floats:
    if (score < 0).any() or (score > 1).any():
        raise ValueError(f"scores from {score.min():g} to {score.max():g} are not probabilities")
    return score
