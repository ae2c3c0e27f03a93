"""Where the variance comes from, what a rerun would change, and what a comparison can detect.

The variance of a per-problem estimate has two parts: *within*, the noise of sampling n completions, and *between*, the
spread of the problems' true values. `se` over problems holds both and answers "new problems like these"; `se_rerun`
holds the first and answers "these problems again". The two questions are never mixed.

- `variance_parts`: both parts for pass@k, exactly unbiased, from the counts.
- `between_by_halves`: the second part for any metric, from two disjoint halves of the samples.
- `mde`: the smallest paired difference that P problems x n samples will find.

Not handled: the variance between training seeds (`seeds.py`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.metrics.inference import one_per_problem
from harness.metrics.shapes import check_ks, counted


def variance_parts(n_P: npt.ArrayLike, c_P: npt.ArrayLike, k: int) -> tuple[float, float]:
    """Variance (within, between) of a problem's pass@k estimate, each unbiased.

    Args:
        n_P: (P,) samples of each problem, or one number for all.
        c_P: (P,) how many are correct.
        k: at most n/2.

    Returns:
        within, the mean over problems of U^2 - C(n-c, 2k) / C(n, 2k) with U = C(n-c, k) / C(n, k), and between, the
        variance of U minus within. Noise can make between negative: show 0.

    Raises:
        ValueError: 2k > n for some problem, fewer than two problems.

    E U^2 is the variance plus (1-p)^2k, whose unbiased estimate is the second term. At k = 1 it is p(1-p) / (n-1).
    """
    check_ks(k)
    n, c = np.broadcast_arrays(np.atleast_1d(np.asarray(n_P)), np.atleast_1d(np.asarray(c_P)))
    short = int((n < 2 * k).sum())
    if short:
        have = counted(short, "problem has", "problems have")
        raise ValueError(f"the variance of pass@{k} within a problem needs {2 * k} samples; {have} fewer")
    missed = one_per_problem(stats.hypergeom.pmf(0, n, c, k))
    within = float((missed**2 - stats.hypergeom.pmf(0, n, c, 2 * k)).mean())
    return within, float(missed.var(ddof=1)) - within


def between_by_halves(a_P: npt.ArrayLike, b_P: npt.ArrayLike) -> float:
    """Variance of the problems' true values of any metric, unbiased: the covariance of two estimates of each problem
    from disjoint halves of its samples, which are independent given the problem. (P,), (P,) -> a number."""
    a, b = one_per_problem(a_P), one_per_problem(b_P)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} problems cannot be paired")
    return float(np.cov(a, b)[0, 1])


def se_rerun(within: float, problems: int) -> float:
    """Standard error of the mean over these very problems, samples drawn anew: sqrt(within / P); noise below 0 is 0."""
    return math.sqrt(max(within, 0.0) / problems)


def mde(problems: int, n: int, *, within: float, between: float, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest true mean difference that a paired comparison finds with chance `power`.

    (z_level + z_power) sqrt((between + within / n) / P).

    Args:
        problems: P, the same in both arms.
        n: samples per problem and arm.
        within: variance of one sample, the mean of p(1-p), summed over the two arms (for other metrics n x the within
            variance).
        between: variance over problems of the true difference.
        level: of the test.
        power: chance of detection.

    Raises:
        ValueError: numbers outside their range.

    Source: Miller 2024 (arXiv 2411.00640).
    """
    if problems < 2 or n < 1 or within < 0 or between < 0 or not 0 < level < 1 or not 0 < power < 1:
        raise ValueError(
            f"mde needs problems >= 2, n >= 1, variances >= 0 and shares in (0, 1), "
            f"not {problems=}, {n=}, {within=}, {between=}, {level=}, {power=}"
        )
    z = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power))
    return z * math.sqrt((between + within / n) / problems)
