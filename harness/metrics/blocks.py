"""The mean of a rule's score over random k-subsets of n samples, for rules that have no closed form.

Where there are few subsets all are scored and the mean is exact; else many random ones, as the disjoint k-blocks of
random permutations. Each block is a uniform k-subset, so the mean is unbiased; blocks of one permutation share no
sample, which saves up to two thirds of the variance at small k. The standard error is over the independent
permutations.

Main functions: `means_at_k`, and `mean_over_subsets` for one problem and k. Not handled: k > n, which
`shapes.check_enough` refuses before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from harness.metrics.shapes import Ints
from harness.types import Floats

TIE = 1e-9
"""Sums closer than this share of the largest are a tie: the same sum in another order differs by a last digit."""

PERMUTATIONS = 16
"""The fewest random permutations, so that their spread gives a standard error."""


def mean_over_subsets(
    n: int, k: int, score: Callable[[Ints], Floats], *, subsets: int, rng: np.random.Generator, draw: bool = False
) -> tuple[float, float]:
    """The mean score of a random k-subset of range(n), and its standard error, which is 0 where it is exact.

    Args:
        n: samples.
        k: samples that a rule sees, at most n.
        score: subsets of places, (B, k) -> (B,).
        subsets: where C(n, k) is at most this, all are scored; else about as many are drawn.
        rng: draws the permutations.
        draw: never score all; for a `score` that breaks ties by the order in which the places come.
    """
    if not draw and math.comb(n, k) <= max(subsets, n):
        every = np.array(list(itertools.combinations(range(n), k)))
        return float(score(every).mean()), 0.0
    blocks = min(n // k, -(-subsets // PERMUTATIONS))
    permutations = max(PERMUTATIONS, -(-subsets // blocks))
    shuffled = rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
    scores = score(shuffled[:, : blocks * k].reshape(-1, k)).reshape(permutations, blocks)
    means = scores.mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / math.sqrt(permutations))


def means_at_k(
    size_P: Sequence[int],
    score_P: Sequence[Callable[[Ints], Floats]],
    ks_K: Ints,
    *,
    subsets: int,
    rng: int | np.random.Generator | Sequence[int],
    draw_P: Sequence[bool] | None = None,
) -> tuple[Floats, Floats]:
    """`mean_over_subsets` of each problem and k, one score per problem: means and standard errors, (P, K) each.

    `rng` is a seed, a generator, or one seed per problem. A number depends on nothing but its problem's seed and k.
    """
    seeds = seed_of_each(rng, len(size_P))
    mean_PK, se_PK = (np.zeros((len(size_P), len(ks_K))) for _ in range(2))
    for p, (n, score) in enumerate(zip(size_P, score_P, strict=True)):
        for j, k in enumerate(ks_K.tolist()):
            generator = np.random.default_rng([seeds[p], k])
            draw = draw_P is not None and draw_P[p]
            mean_PK[p, j], se_PK[p, j] = mean_over_subsets(n, k, score, subsets=subsets, rng=generator, draw=draw)
    return mean_PK, se_PK


def seed_of_each(rng: int | np.random.Generator | Sequence[int], problems: int) -> list[int]:
    """One whole number per problem, from which the generator of each problem and k is made."""
    if isinstance(rng, np.random.Generator):
        return [int(seed) for seed in rng.integers(1 << 63, size=problems)]
    if isinstance(rng, int):
        return [int(seed) for seed in np.random.default_rng(rng).integers(1 << 63, size=problems)]
    if len(rng) != problems:
        raise ValueError(f"{len(rng)} seeds for {problems} problems")
    return [int(seed) for seed in rng]
