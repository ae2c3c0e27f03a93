"""Exact subset estimators: what k fresh samples would score, from n >= k samples of each problem.

Each is the expectation, over a uniformly random k-subset of a problem's n samples, of what a selector would score on
that subset: a U-statistic. A random k-subset of n independent samples is k independent samples, so it is unbiased, and
the counts (or the order statistics) being complete and sufficient, no unbiased estimate has less variance.

- `pass_at_k`: one of k is correct. `all_at_k` (pass^k): all are. `g_pass_at_k`: at least a share of them.
- `best_at_k`: the best of k under a score; with value = score it is max@k.
- Votes are in `majority.py` (maj@k) and `votes.py` (weighted).

Not handled: k > n (refused, see `shapes.check_enough`), and samples drawn by a stopping rule (see `sequential.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.metrics.shapes import Array, Ints, Ragged, check_enough, check_ks, equal_n, sample_counts
from harness.types import Floats

Ks = Sequence[int] | Ints | int


def pass_at_k(n_P: npt.ArrayLike, c_P: npt.ArrayLike, ks: Ks) -> Floats:
    """pass@k: the chance that at least one of k samples is correct, 1 - C(n-c, k) / C(n, k).

    Args:
        n_P: (P,) samples of each problem, or one number for all.
        c_P: (P,) how many of them are correct.
        ks: K whole numbers.

    Returns:
        (P, K) fractions in [0, 1], one unbiased estimate per problem and k.

    Raises:
        ValueError: k > n for some problem, c outside 0..n, k < 1, or counts that are not whole.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1, as the tail of a hypergeometric distribution, which scipy
    evaluates to 2e-16 where the usual product over n-c+1..n has lost 3e-13 at n = 10^4.
    """
    ks_K = check_ks(ks)
    return _at_least(n_P, c_P, ks_K, np.ones_like(ks_K))


def all_at_k(n_P: npt.ArrayLike, c_P: npt.ArrayLike, ks: Ks) -> Floats:
    """pass^k: the chance that all of k samples are correct, C(c, k) / C(n, k). Arguments as `pass_at_k`. (P, K)

    Source: Yao et al. 2024, tau-bench (arXiv 2406.12045).
    """
    ks_K = check_ks(ks)
    return _at_least(n_P, c_P, ks_K, ks_K)


def g_pass_at_k(n_P: npt.ArrayLike, c_P: npt.ArrayLike, ks: Ks, *, tau: float) -> Floats:
    """G-pass@k: the chance that at least ceil(tau k) of k samples are correct. Arguments as `pass_at_k`. (P, K)

    `tau` in (0, 1]: 1 is pass^k, anything up to 1/k is pass@k.
    Source: Liu et al. 2024 (arXiv 2412.13147).
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau is a share in (0, 1], not {tau}")
    ks_K = check_ks(ks)
    rounding = 1e-9  # 0.56 x 25 is 14.000000000000002, and asks for 14 samples, not for 15
    return _at_least(n_P, c_P, ks_K, np.array([math.ceil(tau * k - rounding) for k in ks_K.tolist()]))


def _at_least(n_P: npt.ArrayLike, c_P: npt.ArrayLike, ks_K: Ints, wanted_K: Ints) -> Floats:
    """P(H >= wanted) for H ~ Hypergeometric(n, c, k): (P,), (P,), (K,), (K,) -> (P, K)."""
    n_P, c_P = (_counts(name, counts) for name, counts in (("n", n_P), ("c", c_P)))
    n_P, c_P = np.broadcast_arrays(n_P, c_P)
    odd = np.flatnonzero((c_P < 0) | (c_P > n_P))
    if odd.size:
        raise ValueError(f"problem {odd[0]} has {c_P[odd[0]]} correct of {n_P[odd[0]]} samples: c must lie in 0..n")
    check_enough(n_P, ks_K)
    # Problems share few distinct (n, c): at n = 10^4 one value takes scipy 40 us, so each is worked out once.
    pairs, place_P = np.unique(n_P * (n_P.max(initial=0) + 1) + c_P, return_inverse=True)
    n, c = np.divmod(pairs, n_P.max(initial=0) + 1)
    tail = stats.hypergeom.sf(wanted_K - 1, n[:, None], c[:, None], ks_K)
    return np.asarray(tail, dtype=np.float64)[place_P]


def _counts(name: str, counts: npt.ArrayLike) -> Ints:
    """Whole numbers as (P,); booleans and whole floats are welcome, fractions are not."""
    given = np.atleast_1d(np.asarray(counts))
    whole = given.astype(np.int64) if given.dtype.kind in "biuf" and np.isfinite(given).all() else None
    if whole is None or whole.ndim != 1 or not np.array_equal(whole, given):
        raise ValueError(f"{name} must be whole numbers, one per problem")
    return whole


def rank_weights(n: int, ks: Ks) -> Floats:
    """The chance that the i-th best of n samples is the best of k drawn: w_i = C(n-i, k-1) / C(n, k).

    Args:
        n: samples.
        ks: K whole numbers <= n.

    Returns:
        (K, n), best rank first; each row sums to 1.

    By the recurrence w_1 = k/n, w_(i+1) / w_i = (n-i-k+1) / (n-i): a cumulative product of factors in [0, 1], so all
    are positive and the relative error is O(n eps).
    Source: the weights of max@k policy gradients, Walder & Karkhanis 2025 (arXiv 2505.15201).
    """
    ks_K = check_ks(ks)
    check_enough(np.array([n]), ks_K)
    i = np.arange(1, n)
    ratios = np.clip((n - i - ks_K[:, None] + 1) / (n - i), 0, None)
    return np.cumprod(np.hstack([ks_K[:, None] / n, ratios]), axis=1, dtype=np.float64)


def best_at_k(value_PG: Ragged, score_PG: Ragged, ks: Ks) -> Floats:
    """best-of-k: the expected value of the top-scored of k samples, ties uniform: sum_i w_i v_(i).

    v_(i) are the values from the best score down, averaged within equal scores, w_i the `rank_weights`. A tie on ranks
    s+1..e is on top with chance [C(n-s, k) - C(n-e, k)] / C(n, k), the sum of its w_i, and shows its mean.

    Args:
        value_PG: (P, n) or P rows: what a sample is worth, for instance 1 if correct.
        score_PG: the same shape: what the selector sees. -inf is chosen only if nothing else was drawn.
        ks: K whole numbers.

    Returns:
        (P, K). value = score is max@k, value = score = correct is pass@k, score = -correct is pass^k.

    Raises:
        ValueError: NaN, shapes that differ, an infinite value, k > n for some problem.
    """
    ks_K = check_ks(ks)
    check_enough(sample_counts(value_PG), ks_K)
    best_PK = np.empty((len(value_PG), len(ks_K)))
    for places, (value, score) in equal_n(value=value_PG, score=score_PG):
        best_PK[places] = values_by_rank(value, score) @ rank_weights(value.shape[1], ks_K).T
    return best_PK


def values_by_rank(value_PG: Array, score_PG: Array) -> Floats:
    """Values from the best score down, averaged within equal scores: (P, n), (P, n) -> (P, n)."""
    if not np.isfinite(value_PG).all():
        raise ValueError("value holds an infinite number: only scores may be infinite")
    order = np.argsort(-score_PG.astype(np.float64), axis=1, kind="stable")
    value = np.take_along_axis(value_PG.astype(np.float64), order, axis=1)
    score = np.take_along_axis(score_PG, order, axis=1)
    starts = np.ones(score.shape, dtype=bool)
    starts[:, 1:] = score[:, 1:] != score[:, :-1]
    tie = np.cumsum(starts.ravel()) - 1  # numbered through all problems, so that no tie crosses from one to the next
    mean = np.bincount(tie, weights=value.ravel()) / np.bincount(tie)
    averaged: Floats = mean[tie].reshape(value.shape)
    return averaged
