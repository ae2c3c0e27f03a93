"""Choosing among k programs in stages: filter, cluster and submit several; or prune cheaply, then run the tests.

Main functions: `n_at_k` (AlphaCode's n@k) and `prune_at_k`. Estimators and their standard errors are as in `blocks.py`,
over random k-subsets of a problem's n programs. Not handled: a second program from the same cluster (where there are
fewer clusters than n, fewer are submitted), and prunings in more than one step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.metrics.blocks import means_at_k
from harness.metrics.matrices import by_group, check_programs, distinct_rows, outputs, zeros_and_ones
from harness.metrics.shapes import Array, Ints, Ragged, check_enough, check_ks, ragged, sample_counts
from harness.metrics.subsets import Ks, best_at_k, values_by_rank
from harness.types import Floats


def n_at_k(
    correct_PG: Ragged,
    output_PGC: Sequence[npt.ArrayLike],
    ks: Ks,
    *,
    n: int,
    accepted_PG: Ragged | None = None,
    subsets: int = 2000,
    rng: int | np.random.Generator | Sequence[int] = 0,
) -> tuple[Floats, Floats]:
    """n@k: the chance that one of n submissions, chosen from k programs by filter and cluster, is correct.

    Of the k, the accepted are kept, clustered by equal outputs on all tests, and from each of the n largest clusters a
    random program is submitted; ties in size are uniform. Where none is accepted, nothing is submitted.

    Args:
        correct_PG: (P, G) or P rows of 0 or 1: which programs are correct.
        output_PGC: for each problem (G, C): equal whole numbers for equal values of one test, negative for none. To
            fail on the same tests is to agree, as a generated input may be one that right programs refuse; but a
            program without a single value is in no cluster and comes after all of them.
        ks: K whole numbers.
        n: submissions, at least 1. Where it is k and no two programs agree, n@k is pass@k.
        accepted_PG: 0 or 1: which programs pass the public tests; None: all are kept.
        subsets: as in `consensus.select_at_k`.
        rng: as there.

    Returns:
        Estimates (P, K), and the standard error (P, K) of each that is due to the drawing; 0 where it is exact.

    Raises:
        ValueError: n < 1, and as `consensus.select_at_k`.

    Source: AlphaCode, Li et al. 2022 (arXiv 2203.07814).
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}: it is the number of submissions")
    ks_K = check_ks(ks)
    correct = zeros_and_ones("correct", correct_PG)
    check_enough(sample_counts(correct), ks_K)
    matrices = [outputs(matrix) for matrix in output_PGC]
    accepted = (
        [np.ones_like(row) for row in correct] if accepted_PG is None else zeros_and_ones("accepted", accepted_PG)
    )
    check_programs(correct, output=matrices, accepted=accepted)
    submit = [_submitter(*columns, n) for columns in zip(correct, matrices, accepted, strict=True)]
    return means_at_k([len(row) for row in correct], submit, ks_K, subsets=subsets, rng=rng)


def prune_at_k(
    correct_PG: Ragged,
    cheap_PG: Ragged,
    tests_passed_PG: Ragged,
    ks: Ks,
    *,
    keep: int,
    cost_PG: Ragged | None = None,
    subsets: int = 2000,
    rng: int | np.random.Generator | Sequence[int] = 0,
) -> tuple[Floats, Floats, Floats]:
    """Of k programs the `keep` best by a cheap score are run on the tests, and the one that passes most is chosen.

    Args:
        correct_PG: (P, n) or P rows of 0 or 1: which programs are correct.
        cheap_PG: the same shape: the score that prunes, highest kept; ties uniform.
        tests_passed_PG: the same shape: how many tests each passes; ties uniform.
        ks: K whole numbers.
        keep: programs that are run, at least 1. With keep >= k nothing is pruned and the estimate is exact.
        cost_PG: the same shape: what running the tests on each costs, for instance CPU seconds; NaN where unknown.
        subsets: as in `consensus.select_at_k`.
        rng: as there.

    Returns:
        Estimates (P, K), their standard errors (P, K) from the drawing, and the expected cost (P, K) of the programs
        that are run, which is exact; NaN where a problem's costs are unknown. What the cheap score costs is not in it.

    Raises:
        ValueError: keep < 1, NaN but in the cost, shapes that differ, k > n.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}: nothing could be chosen")
    ks_K = check_ks(ks)
    correct = zeros_and_ones("correct", correct_PG)
    check_enough(sample_counts(correct), ks_K)
    cheap, tests = ragged("cheap", cheap_PG), ragged("tests_passed", tests_passed_PG)
    cost = [np.full(len(row), np.nan) if cost_PG is None else np.asarray(cost_PG[p]) for p, row in enumerate(correct)]
    check_programs(correct, cheap=cheap, tests_passed=tests, cost=cost)
    rows = list(zip(correct, cheap, tests, strict=True))
    mean_PK, se_PK = best_at_k(correct, tests, ks_K), np.zeros((len(correct), len(ks_K)))
    pruned = ks_K > keep
    if pruned.any():
        mean_PK[:, pruned], se_PK[:, pruned] = means_at_k(
            [len(row) for row in correct],
            [_pruner(*columns, keep) for columns in rows],
            ks_K[pruned],
            subsets=subsets,
            rng=rng,
            draw_P=[_ties_matter(*columns) for columns in rows],
        )
    return mean_PK, se_PK, np.array([_cost(c, s, ks_K, keep) for c, s in zip(cost, cheap, strict=True)])


def _submitter(correct: Floats, output_GC: Ints, accepted: Floats, n: int) -> Callable[[Ints], Floats]:
    """A function of subsets of places: the chance that one of n submissions from each is correct, (B, k) -> (B,)."""
    row_AC, cluster = distinct_rows(output_GC)
    silent = ~(output_GC >= 0).any(axis=1)
    cluster[silent] = len(row_AC) + np.arange(silent.sum())  # each by itself
    speaks = np.zeros(cluster.max(initial=0) + 1, dtype=bool)
    speaks[cluster[~silent]] = True

    def submit(subset_BK: Ints) -> Floats:
        size = by_group(subset_BK, cluster, accepted)
        share = by_group(subset_BK, cluster, accepted * correct) / np.maximum(size, 1)
        rank = np.where(size > 0, size * speaks, -1.0)  # a cluster without values comes last, none at all never
        return 1 - _all_wrong(rank, 1 - share, n)

    return submit


def _all_wrong(rank_BA: Floats, wrong_BA: Floats, n: int) -> Floats:
    """The chance that the n clusters of highest rank, ties uniform, all show a wrong program: (B, A), (B, A) -> (B,).

    Of t clusters tied for the last r places, each r-subset is as likely: the mean over them of the product of `wrong`
    is built up cluster by cluster, so that no binomial overflows. With m(i, j) the mean over j-subsets of the first i,
    m(i, j) = (j / i) wrong_i m(i-1, j-1) + (1 - j / i) m(i-1, j).
    """
    present = rank_BA >= 0
    last = -np.sort(-rank_BA, axis=1)[:, min(n, rank_BA.shape[1]) - 1, None]  # rank of the n-th
    sure = present & (rank_BA > last)
    tied = present & (rank_BA == last)
    places_B = np.minimum(n - sure.sum(axis=1), tied.sum(axis=1))
    mean_BJ = np.zeros((len(rank_BA), int(places_B.max(initial=0)) + 1))
    mean_BJ[:, 0] = 1.0
    j = np.arange(mean_BJ.shape[1])
    for a in np.flatnonzero(tied.any(axis=0)):
        rows = np.flatnonzero(tied[:, a])
        seen = tied[rows, : a + 1].sum(axis=1)[:, None]
        before = mean_BJ[rows]
        taken = np.zeros_like(before)
        taken[:, 1:] = before[:, :-1] * wrong_BA[rows, a, None]
        mean_BJ[rows] = np.where(j <= seen, (j * taken + (seen - j) * before) / seen, 0.0)
    product: Floats = np.where(sure, wrong_BA, 1.0).prod(axis=1) * mean_BJ[np.arange(len(mean_BJ)), places_B]
    return product


def _pruner(correct: Floats, cheap: Array, tests: Array, keep: int) -> Callable[[Ints], Floats]:
    """A function of subsets of places: the chance that the one chosen from each is correct, (B, k) -> (B,).

    Equal cheap scores go to the earlier place: a random one, if the places come in random order.
    """
    falling = np.unique(-cheap.astype(np.float64), return_inverse=True)[1]

    def choose(subset_BK: Ints) -> Floats:
        order = np.argsort(falling[subset_BK], axis=1, kind="stable")[:, :keep]
        kept = np.take_along_axis(subset_BK, order, axis=1)
        wins = tests[kept] == tests[kept].max(axis=1, keepdims=True)
        chosen: Floats = (wins * correct[kept]).sum(axis=1) / wins.sum(axis=1)
        return chosen

    return choose


def _ties_matter(correct: Floats, cheap: Array, tests: Array) -> bool:
    """Programs with the same cheap score differ in what would come of keeping them."""
    outcomes = np.unique(np.stack([cheap, tests, correct]), axis=1)
    return bool(outcomes.shape[1] > len(np.unique(cheap)))


def _cost(cost: Array, cheap: Array, ks_K: Ints, keep: int) -> Floats:
    """Expected summed cost of the kept, (K,): the i-th best program is drawn with chance k / n, and then kept if fewer
    than `keep` of the k - 1 others come from the i - 1 better ones."""
    n = len(cost)
    if np.isnan(cost.astype(np.float64)).any():
        return np.full(len(ks_K), np.nan)
    others = max(n - 1, 1)  # scipy has no urn without balls
    kept_KG = ks_K[:, None] / n * stats.hypergeom.cdf(keep - 1, others, np.arange(n), ks_K[:, None] - 1)
    expected: Floats = kept_KG @ values_by_rank(cost[None], cheap[None])[0]
    return expected
