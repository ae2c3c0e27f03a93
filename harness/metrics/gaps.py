"""Differences between disjoint sets of problems: train and test, levels, slopes, and both at equal difficulty.

- `gap_ci`: mean(train) - mean(test).
- `did_ci`: what training changed on train minus what it changed on test (difference in differences).
- `slopes`: one slope over iterations per problem, for `diff_ci` (is test still rising?) or `gap_ci` (is the gap?).
- `standardised_gap`: the gap within bins, weighted by test's share of each bin.
- `matched_gap`: the gap at equal difficulty, where difficulty is the base model's own success.

Two traps of difficulty matching. The base samples that measure difficulty must not be those in a treatment-base
difference (regression to the mean); and bins on c/n of few samples compare unequals, as the same c/n means an easier
problem in an easier set: they leave 54, 37, 18, 11% of the confounding at 2, 4, 16, 64 samples. `matched_gap` corrects
for that. Not handled: confounders other than difficulty, and the luck of one training run (`seeds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.metrics.inference import Interval, moments, one_per_problem, student
from harness.metrics.shapes import Array
from harness.types import Floats

Ends = tuple[float, float]


def gap_ci(
    train_P: npt.ArrayLike,
    test_P: npt.ArrayLike,
    *,
    cluster_train: npt.ArrayLike | None = None,
    cluster_test: npt.ArrayLike | None = None,
    level: float = 0.95,
    ends: Ends = (0.0, 1.0),
) -> Interval:
    """mean(train) - mean(test) over disjoint problems: Welch's t with guarded variances.

    Args:
        train_P: (P,) one number per training problem.
        test_P: (Q,) one number per test problem.
        cluster_train: (P,) names of what training problems share.
        cluster_test: (Q,) the same for test.
        level: coverage.
        ends: the range of the numbers, for the guard: (0, 1) for fractions, (-1, 1) for differences and slopes.

    Raises:
        ValueError: fewer than two problems or clusters in a set, NaN.

    Source: Welch 1947; guard as in `inference.py`.
    """
    train = moments(one_per_problem(train_P), cluster_train, ends=ends)
    test = moments(one_per_problem(test_P), cluster_test, ends=ends)
    variance, df = welch([(train.variance, train.df), (test.variance, test.df)])
    return student(train.mean - test.mean, variance, df, level=level, method="guarded Welch t")


def did_ci(
    treat_train_P: npt.ArrayLike,
    base_train_P: npt.ArrayLike,
    treat_test_P: npt.ArrayLike,
    base_test_P: npt.ArrayLike,
    *,
    level: float = 0.95,
) -> Interval:
    """(treatment - base on train) - (treatment - base on test), paired by problem within each set: `gap_ci` of the
    differences. Ignoring the pairing makes the interval 1.2 to 3.3 times too wide.

    Args:
        treat_train_P: (P,) the treated checkpoint on training problems, fractions.
        base_train_P: (P,) the base checkpoint on the same problems in the same order.
        treat_test_P: (Q,) the treated checkpoint on test problems.
        base_test_P: (Q,) the base checkpoint on them.
        level: coverage.
    """
    train = _paired("train", treat_train_P, base_train_P)
    test = _paired("test", treat_test_P, base_test_P)
    return gap_ci(train, test, level=level, ends=(-1.0, 1.0))


def _paired(name: str, treat_P: npt.ArrayLike, base_P: npt.ArrayLike) -> Floats:
    treat, base = one_per_problem(treat_P), one_per_problem(base_P)
    if treat.shape != base.shape:
        raise ValueError(f"{name}: {len(treat)} treated and {len(base)} base problems cannot be paired")
    return treat - base


def slopes(u_TP: npt.ArrayLike, iterations: Sequence[float] | None = None) -> Floats:
    """Least-squares slope over iterations of each problem: (T, P) -> (P,), in change per iteration.

    sum_t (t - mean t) u_t / sum_t (t - mean t)^2. Effects of the problem cancel, and what is correlated between
    iterations is absorbed, as one problem is one number. `iterations` are the T times, by default 0, 1, ...

    Raises:
        ValueError: fewer than two distinct iterations, NaN, or another number of times than of rows.
    """
    u = np.asarray(u_TP, dtype=np.float64)
    if u.ndim != 2 or not np.isfinite(u).all():
        raise ValueError("slopes need a finite (iterations, problems) array")
    time = np.arange(len(u), dtype=np.float64) if iterations is None else np.asarray(iterations, dtype=np.float64)
    if time.shape != (len(u),):
        raise ValueError(f"{time.size} iterations are named and {len(u)} are given")
    centred = time - time.mean()
    if not centred.any():
        raise ValueError("a slope needs at least two distinct iterations")
    return np.asarray(centred @ u / (centred @ centred))


def standardised_gap(
    train_P: npt.ArrayLike,
    test_P: npt.ArrayLike,
    bin_train: npt.ArrayLike,
    bin_test: npt.ArrayLike,
    *,
    level: float = 0.95,
    ends: Ends = (0.0, 1.0),
) -> tuple[Interval, float]:
    """sum_b w_b (mean train in b - mean test in b), with w the shares of test among the bins that both sets fill.

    Args:
        train_P: (P,) one number per training problem.
        test_P: (Q,) one number per test problem.
        bin_train: (P,) bin of each training problem, for instance its level.
        bin_test: (Q,) bin of each test problem.
        level: coverage.
        ends: the range of the numbers.

    Returns:
        The interval, and the share of test problems in a common bin (one that both sets fill with at least two):
        below 1, the gap is not about all of test.

    Raises:
        ValueError: no common bin, lengths that differ, NaN.
    """
    train, test = one_per_problem(train_P), one_per_problem(test_P)
    bins_train, bins_test = np.asarray(bin_train), np.asarray(bin_test)
    if bins_train.shape != train.shape or bins_test.shape != test.shape:
        raise ValueError("every problem needs one bin")
    counts = {name: int((bins_test == name).sum()) for name in np.unique(bins_test).tolist()}
    common = {name: count for name, count in counts.items() if count > 1 and (bins_train == name).sum() > 1}
    if not common:
        raise ValueError("no bin holds at least two problems of both sets")
    in_common = sum(common.values())
    value, parts = 0.0, []
    for name, count in common.items():
        weight = count / in_common
        a = moments(train[bins_train == name], None, ends=ends)
        b = moments(test[bins_test == name], None, ends=ends)
        value += weight * (a.mean - b.mean)
        parts += [(weight**2 * part.variance, part.df) for part in (a, b)]
    variance, df = welch(parts)
    method = f"standardised to test over {len(common)} bins, guarded Welch t"
    return student(value, variance, df, level=level, method=method), in_common / len(test)


def welch(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Variance of a sum of independent parts, and its Welch-Satterthwaite degrees of freedom, from (variance, df)s."""
    total = sum(variance for variance, _ in parts)
    if total <= 0:
        return 0.0, 1.0
    return total, total**2 / sum(variance**2 / df for variance, df in parts)


def matched_gap(
    train_P: npt.ArrayLike,
    test_P: npt.ArrayLike,
    c_train_P: npt.ArrayLike,
    c_test_P: npt.ArrayLike,
    *,
    n_base: int,
    degree: int = 3,
    level: float = 0.95,
    resamples: int = 999,
    rng: int | np.random.Generator = 0,
) -> Interval:
    """mean(train) - mean(test) at equal difficulty: analysis of covariance on the base model's success rate.

    Args:
        train_P: (P,) one number per training problem, for instance treatment - base.
        test_P: (Q,) the same per test problem.
        c_train_P: (P,) correct among `n_base` samples of the base model, none of them used in `train_P`.
        c_test_P: (Q,) the same for test.
        n_base: base samples per problem; 16 or more.
        degree: of the polynomial in the base success rate.
        level: coverage.
        resamples: bootstrap draws of problems, each refitting everything.
        rng: a seed or a generator.

    Raises:
        ValueError: NaN, lengths that differ, counts outside 0..n_base.

    The success rate of a problem is replaced by its posterior mean under a beta prior fitted to its *own* set
    (regression calibration, Carroll et al. 2006), which undoes the bias of noisy c/n (module docstring); the interval
    is the percentile bootstrap over problems.
    """
    train, test = one_per_problem(train_P), one_per_problem(test_P)
    c_train, c_test = (_base_counts(c, len(x), n_base) for c, x in ((c_train_P, train), (c_test_P, test)))

    def gap(y: Array, z: Array, c_y: Array, c_z: Array) -> float:
        rate = np.concatenate([_posterior_mean(c_y, n_base), _posterior_mean(c_z, n_base)])
        is_train = np.concatenate([np.ones(len(y)), np.zeros(len(z))])
        design = np.column_stack([is_train, np.vander(rate, degree + 1)])
        return float(np.linalg.lstsq(design, np.concatenate([y, z]), rcond=None)[0][0])

    generator = np.random.default_rng(rng)
    redrawn = np.empty(resamples)
    for draw in range(resamples):
        i, j = generator.integers(len(train), size=len(train)), generator.integers(len(test), size=len(test))
        redrawn[draw] = gap(train[i], test[j], c_train[i], c_test[j])
    low, high = np.quantile(redrawn, [(1 - level) / 2, (1 + level) / 2])
    value, se = gap(train, test, c_train, c_test), float(redrawn.std(ddof=1))
    return Interval(value, float(low), float(high), se, math.inf, f"difficulty-matched, {resamples} bootstrap draws")


def _base_counts(c: npt.ArrayLike, problems: int, n_base: int) -> Floats:
    counts = one_per_problem(c)
    if len(counts) != problems or (counts < 0).any() or (counts > n_base).any():
        raise ValueError(f"{problems} problems need {problems} base counts between 0 and n_base={n_base}")
    return counts


def _posterior_mean(c_P: Floats, n: int) -> Floats:
    """Mean success rate of each problem given c of n, under a beta prior with the set's mean and variance. (P,)

    The variance of c/n is v + (mean (1-mean) - v) / n for a true variance v; the prior weighs s = mean (1-mean) / v - 1
    samples. v and s are kept away from 0, where the set shows less spread than chance or only zeros and ones.
    """
    rate = c_P / n
    mean = float(rate.mean())
    spread = mean * (1 - mean)
    variance = (float(rate.var(ddof=1)) - spread / n) / (1 - 1 / n) if n > 1 else 0.0
    prior = max(spread / max(variance, 1e-4) - 1, 0.05)
    return (c_P + prior * mean) / (n + prior)
