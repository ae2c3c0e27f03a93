"""From one number per problem to an interval or a p-value.

Every metric here is one unbiased number per problem, and everything linear in them (a difference of checkpoints, a
slope over iterations) is again one number per problem. So two inferences are enough: the mean of a fraction
(`mean_ci`) and the mean of a contrast (`diff_ci`), to which a ratio of means reduces too (`ratio_ci`). `gaps.py` has
the difference of two means, `seeds.py` that of two trainings, `significance.py` p-values.

The problems are the sample: intervals speak of new problems like these, and the spread over problems already holds the
noise of sampling completions. P problems x n completions are never pooled as if independent (measured coverage of such
intervals: 17 to 90% instead of 95%).

**The guard.** A benchmark that a model almost always solves shows no variance at all, and t or bootstrap intervals
shrink to nothing (measured coverage down to 25%). So every variance is taken with `GUARD` = 0.1 of a pseudo-problem at
each end of the range; the mean is not touched. 0.1 was chosen by simulation and held on 56 other configurations: never
below 94% for means of fractions. tests/benchmarks/coverage.py measures it again.

Not handled: coverage when the answer hangs on two or three problems. No method has it; report how many changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.metrics.shapes import Array, counted
from harness.types import Floats

GUARD = 0.1
"""Pseudo-problems put at each end of the range when a variance is taken."""

ROUNDING = 1e-9
"""Fractions that differ by less are the same, computed in another order; and by so much one may leave [0, 1]."""


@dataclass(frozen=True)
class Interval:
    """A number with its uncertainty over problems; `df` are the degrees of freedom of `se`."""

    value: float
    low: float
    high: float
    se: float
    df: float
    method: str


class Moments(NamedTuple):
    """Mean, guarded squared standard error of the mean, and its degrees of freedom."""

    mean: float
    variance: float
    df: int


def mean_ci(u_P: npt.ArrayLike, cluster: npt.ArrayLike | None = None, *, level: float = 0.95) -> Interval:
    """Mean of one fraction per problem, over problems like these: guarded clustered Wilson.

    Wilson's interval around the mean, at the number of coin tosses that would have the observed variance,
    n_eff = max(P or clusters, m'(1-m') / v'), with m' and v' the guarded mean and squared standard error. Where every
    u is 0 or 1 and there are no clusters this is Wilson's interval itself; elsewhere the quantile is Student's.

    Args:
        u_P: (P,) fractions in [0, 1], for instance one column of `pass_at_k`.
        cluster: (P,) names of what problems share (a template, a source); those are then the independent units.
        level: coverage.

    Raises:
        ValueError: fewer than two problems or clusters, NaN, or a value outside [0, 1].

    Source: Wilson 1927; the effective size as in Korn & Graubard 1998; the guard is ours (module docstring). Clusters
    as in Miller 2024 (arXiv 2411.00640), times C / (C-1).
    """
    u = one_per_problem(u_P)
    if (u < -ROUNDING).any() or (u > 1 + ROUNDING).any():
        raise ValueError(f"values from {u.min():g} to {u.max():g} are not in [0, 1]: use diff_ci for contrasts")
    u = u.clip(0, 1)
    mean, variance, df = moments(u, cluster, ends=(0, 1))
    guarded = (float(u.sum()) + GUARD) / (len(u) + 2 * GUARD)
    tosses = max(df + 1, guarded * (1 - guarded) / variance)  # a fraction has at most the variance of a coin
    binary = cluster is None and bool(np.isin(u, (0, 1)).all())
    z = quantile(level, math.inf if binary else df)
    shrink = 1 + z**2 / tosses
    middle = (mean + z**2 / (2 * tosses)) / shrink
    half = z / shrink * math.sqrt(mean * (1 - mean) / tosses + z**2 / (4 * tosses**2))
    name = "Wilson" if binary else "guarded Wilson"
    method = name if cluster is None else f"{name}, {df + 1} clusters"
    low, high = max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))  # rounding at 0 and 1
    return Interval(mean, low, high, math.sqrt(variance), df, method)


def diff_ci(d_P: npt.ArrayLike, cluster: npt.ArrayLike | None = None, *, level: float = 0.95) -> Interval:
    """Mean of one contrast per problem in [-1, 1], such as u(B) - u(A) on the same problem: guarded paired t.

    Args:
        d_P: (P,) differences, paired by problem.
        cluster: (P,) names of what problems share.
        level: coverage.

    Raises:
        ValueError: fewer than two problems or clusters, NaN, or a value outside [-1, 1].

    Student's one-sample interval with the guard at -1 and 1. Not Wilcoxon or the sign test: they ask whether the
    typical problem improved, and when few problems lose much and many gain little they reject a true zero mean in 17
    and 63% of cases.
    """
    d = one_per_problem(d_P)
    if (np.abs(d) > 1 + ROUNDING).any():
        raise ValueError(f"values from {d.min():g} to {d.max():g} are not differences of fractions, in [-1, 1]")
    d = np.where(np.abs(d) < ROUNDING, 0.0, d)  # equal fractions, computed in another order
    mean, variance, df = moments(d, cluster, ends=(-1, 1))
    method = "guarded paired t" if cluster is None else f"guarded paired t, {df + 1} clusters"
    interval = student(mean, variance, df, level=level, method=method)
    return replace(interval, low=max(-1.0, interval.low), high=min(1.0, interval.high))


def ratio_ci(numerator_P: npt.ArrayLike, denominator_P: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """mean(numerator) / mean(denominator) over problems, such as the gain a verifier captures: delta method.

    One number per problem is left after linearising, e_i = (num_i - r den_i) / mean(den), and its mean gets a t
    interval. A mean of ratios would divide by the zeros of problems where nothing can be gained.

    Args:
        numerator_P: (P,) for instance best-of-k minus pass@1 of each problem.
        denominator_P: (P,) for instance pass@k minus pass@1.
        level: coverage; measured 92% at P = 30 for a nominal 95%, right from P = 164.

    Raises:
        ValueError: fewer than two problems, NaN, lengths that differ, or a mean denominator of 0.
    """
    numerator, denominator = one_per_problem(numerator_P), one_per_problem(denominator_P)
    if len(numerator) != len(denominator):
        raise ValueError(f"{len(numerator)} numerators for {len(denominator)} denominators: give both of each problem")
    scale = float(denominator.mean())
    if abs(scale) < ROUNDING:
        raise ValueError("the denominator is 0 on average: there is nothing to take a share of")
    ratio = float(numerator.mean()) / scale
    residual = (numerator - ratio * denominator) / scale
    variance = float(residual.var(ddof=1)) / len(residual)
    return student(ratio, variance, len(residual) - 1, level=level, method="ratio of means, delta method")


def moments(x_P: Array, cluster: npt.ArrayLike | None, *, ends: tuple[float, float], guard: float = GUARD) -> Moments:
    """Mean and guarded squared standard error of the mean, robust to clusters where given.

    v' = C' / (C'-1) x [ sum of squared residuals + sum over ends of guard (end - m')^2 ] / P'^2, where ' counts the
    pseudo-problems in. Without clusters C' = P' and the residuals are x - m'; with them each residual is the sum of
    x - mean over one cluster. df is one less than the number of problems or clusters.
    """
    x = one_per_problem(x_P)
    total = len(x) + 2 * guard
    middle = (x.sum() + guard * sum(ends)) / total
    if cluster is None:
        units, squares = len(x), ((x - middle) ** 2).sum()
    else:
        residual = cluster_sums(x - x.mean(), cluster)
        units, squares = len(residual), (residual**2).sum()
    squares += guard * sum((end - middle) ** 2 for end in ends)
    guarded = units + 2 * guard
    return Moments(float(x.mean()), float(squares * guarded / (guarded - 1) / total**2), units - 1)


def cluster_sums(x_P: Array, cluster: npt.ArrayLike) -> Floats:
    """Sum of x over each cluster: (P,), (P,) names -> (C,), at least two."""
    names = np.asarray(cluster)
    if names.shape != x_P.shape:
        raise ValueError(f"{counted(names.size, 'cluster name', 'cluster names')} for {x_P.size} problems")
    found, place = np.unique(names, return_inverse=True)
    if len(found) < 2:
        raise ValueError("an interval over clusters needs at least two of them")
    return np.bincount(place, weights=x_P).astype(np.float64)


def student(mean: float, variance: float, df: float, *, level: float, method: str) -> Interval:
    """mean -+ t_df sqrt(variance)."""
    half = quantile(level, df) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, math.sqrt(variance), df, method)


def quantile(level: float, df: float) -> float:
    """Two-sided Student quantile; the normal one at df = inf."""
    if not 0 < level < 1:
        raise ValueError(f"level is a coverage between 0 and 1, not {level}")
    return float(stats.t.ppf((1 + level) / 2, df))


def one_per_problem(x_P: npt.ArrayLike) -> Floats:
    """x as (P,) finite numbers, P at least 2."""
    x = np.asarray(x_P, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"one number per problem is wanted, not an array of shape {x.shape}")
    if len(x) < 2:
        raise ValueError(f"an interval over problems needs at least two of them, not {len(x)}")
    if not np.isfinite(x).all():
        raise ValueError(f"{counted(int((~np.isfinite(x)).sum()), 'value is', 'values are')} not finite")
    return x
