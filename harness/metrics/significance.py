"""p-values: of one interval, of paired differences without a distribution, and corrected for many comparisons.

Declare the family before looking: all treatments x all tasks x the primary metric, not every k. `holm` is for claims
(it bounds the chance of any false one), `bh` for screening (it bounds the share of false ones).

Not handled: max-T resampling (0 to 2 points more power than Holm, measured), and comparisons over training seeds, which
are one number per seed (`seeds.py`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.metrics.inference import ROUNDING, Interval, one_per_problem
from harness.types import Floats

CELLS = 1 << 22
"""Signs drawn at once (32 MiB)."""


def p_value(interval: Interval, null: float = 0.0) -> float:
    """Two-sided Student p-value of value = null, from the interval's se and df; 1 where se is 0."""
    if interval.se == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(interval.value - null) / interval.se, interval.df))


def sign_flip(d_P: npt.ArrayLike, *, resamples: int = 9999, rng: int | np.random.Generator = 0) -> float:
    """Two-sided p-value of a zero mean paired difference, if each difference is as likely to be d as -d.

    Args:
        d_P: (P,) differences, paired by problem.
        resamples: random sign patterns; where there are fewer than that in all, every one is counted.
        rng: a seed or a generator.

    Raises:
        ValueError: fewer than two problems, NaN.

    The share of sign patterns whose |mean| is at least the observed one; with random patterns the observed one is
    counted in, so p is never 0. Problems that did not change have no say. Source: Fisher 1935, as
    `scipy.stats.permutation_test(permutation_type="samples")`, whose values it equals.
    """
    d = one_per_problem(d_P)
    d = d[np.abs(d) > ROUNDING]
    observed = abs(float(d.sum())) * (1 - 1e-12)  # an equal sum in another order may be smaller by a last digit
    if 2 ** min(len(d), 63) <= resamples:
        signs = 1 - 2 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
        return float((np.abs(signs @ d) >= observed).mean())
    generator = np.random.default_rng(rng)
    extreme, left = 0, resamples
    while left:
        rows = min(left, max(1, CELLS // len(d)))
        signs = 1 - 2 * generator.integers(0, 2, size=(rows, len(d)), dtype=np.int8)
        extreme += int((np.abs(signs @ d) >= observed).sum())
        left -= rows
    return (extreme + 1) / (resamples + 1)


def holm(p: npt.ArrayLike) -> Floats:
    """p-values adjusted for a family of M: (M,) -> (M,). A claim at level a where the result is <= a.

    The i-th smallest (i = 0, 1, ...) is multiplied by M - i, and none may be below one before it. Source: Holm 1979.
    """
    given = _family(p)
    order = np.argsort(given, kind="stable")
    factors = len(given) - np.arange(len(given))
    adjusted = np.empty_like(given)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * given[order]))
    return adjusted


def bh(p: npt.ArrayLike) -> Floats:
    """p-values adjusted to bound the false discovery rate (Benjamini & Hochberg 1995): (M,) -> (M,)."""
    return np.asarray(stats.false_discovery_control(_family(p)), dtype=np.float64)


def _family(p: npt.ArrayLike) -> Floats:
    given = np.asarray(p, dtype=np.float64)
    if given.ndim != 1 or given.size == 0 or not ((given >= 0) & (given <= 1)).all():
        raise ValueError("a family of p-values is a list of numbers in [0, 1]")
    return given
