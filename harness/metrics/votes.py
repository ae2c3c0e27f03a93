"""Weighted votes: the expected credit of the answer whose samples weigh most among k random ones of n.

The weight may be a verifier's score, a probability, or (with `log=True`) a sum of log-probabilities; LEVER (Ni et al.
2023, arXiv 2302.08468) is the vote with log p_LM + log p_verifier, samples under a verifier threshold having no vote
(label -1). A majority whose ties go to the highest summed score in [0, 1] is the vote with weights 1 + score / (k+1).

The winner depends on sums of real numbers, so there is no recursion over counts as for maj@k: the exact answer is a
subset-sum problem. Where there are few subsets all are scored; else many random ones, whose standard error is returned.
It is below 0.0112 / sqrt(P) for a benchmark of P problems with the default 2000 subsets, and needs adding to nothing:
the spread between problems already holds it.

Main function: `vote_at_k`. Not handled: weights that depend on k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from harness.metrics.blocks import TIE, means_at_k
from harness.metrics.shapes import Array, Ints, Ragged, check_enough, check_ks, ragged, sample_counts
from harness.metrics.subsets import Ks
from harness.types import Floats


class Ballots(NamedTuple):
    """The samples of one problem that take part in a vote."""

    label: Ints
    """(n,) answers numbered 0..A-1; A for samples without one."""
    weight: Floats
    """(n,) log-weights if the vote is in logs; 0 or -inf for samples without an answer."""
    credit: Floats
    """(n,)"""
    answers: int
    """A"""


def vote_at_k(
    label_PG: Ragged,
    weight_PG: Ragged,
    credit_PG: Ragged,
    ks: Ks,
    *,
    log: bool = False,
    subsets: int = 2000,
    rng: int | np.random.Generator | Sequence[int] = 0,
) -> tuple[Floats, Floats]:
    """Weighted vote of k samples: the answer with the largest summed weight, ties uniform, shows a random member.

    Args:
        label_PG: (P, n) or P rows of whole numbers, one per answer; negative is no answer and never votes.
        weight_PG: the same shape, at least 0; any finite number if `log`.
        credit_PG: the same shape: what showing this sample scores, usually 1 if correct.
        ks: K whole numbers.
        log: weights are natural logs, exponentiated after subtracting the largest of each subset.
        subsets: where C(n, k) is at most this, every subset is scored and the result exact; else about as many are
            drawn.
        rng: a seed, a generator, or one seed per problem (a hash of its id keeps a rerun on fewer problems identical).

    Returns:
        Estimates (P, K), and the standard error (P, K) of each that is due to the drawing; 0 where it is exact.

    Raises:
        ValueError: NaN, a negative weight without `log`, an infinite one, shapes that differ, k > n.

    `blocks.py` says how subsets are drawn.
    """
    ks_K = check_ks(ks)
    check_enough(sample_counts(label_PG), ks_K)
    rows = [ragged(name, x) for name, x in (("label", label_PG), ("weight", weight_PG), ("credit", credit_PG))]
    sizes = {tuple(map(len, column)) for column in rows}
    if len(sizes) != 1:
        raise ValueError("label, weight and credit differ in shape: each needs one number per sample")
    electors = [_elector(read_ballots(*columns, log=log), log=log) for columns in zip(*rows, strict=True)]
    return means_at_k([len(label) for label in rows[0]], electors, ks_K, subsets=subsets, rng=rng)


def read_ballots(label: Array, weight: Array, credit: Array, *, log: bool) -> Ballots:
    """Checks one problem's samples and numbers their answers."""
    if label.dtype.kind not in "iu":
        raise ValueError("label must be whole numbers, one per answer, negative for none")
    votes = label >= 0
    used = weight[votes].astype(np.float64)
    if not np.isfinite(used).all() or not np.isfinite(credit.astype(np.float64)).all():
        raise ValueError("weights of samples with an answer, and credits, must be finite")
    if not log and (used < 0).any():
        raise ValueError(f"a weight is {used.min():g}: weights are at least 0, unless they are logs (log=True)")
    names, numbers = np.unique(label[votes], return_inverse=True)
    numbered = np.full(label.shape, len(names), dtype=np.int64)
    numbered[votes] = numbers
    weights = np.full(label.shape, -np.inf if log else 0.0)
    weights[votes] = used
    return Ballots(numbered, weights, credit.astype(np.float64), len(names))


def _elector(ballots: Ballots, *, log: bool) -> Callable[[Ints], Floats]:
    """A function of subsets of sample places: the credit of each one's winner, (B, k) -> (B,)."""
    return lambda subset_BK: _elect(ballots, subset_BK, log=log)


def _elect(ballots: Ballots, subset_BK: Ints, *, log: bool) -> Floats:
    """Credit of the winner of each subset of sample places: (B, k) -> (B,)."""
    label, weight, credit, answers = ballots
    if not answers:
        return np.zeros(len(subset_BK))
    weights = weight[subset_BK]
    if log:
        top = weights.max(axis=1, keepdims=True)
        weights = np.exp(weights - np.where(np.isfinite(top), top, 0.0))
    rows = len(subset_BK)
    cell = (np.arange(rows)[:, None] * (answers + 1) + label[subset_BK]).ravel()

    def by_answer(values: Floats | None) -> Array:
        total = np.bincount(cell, None if values is None else values.ravel(), rows * (answers + 1))
        return total.reshape(rows, answers + 1)[:, :answers]

    voters, mass, worth = by_answer(None), by_answer(weights), by_answer(credit[subset_BK])
    wins = (voters > 0) & (mass >= (1 - TIE) * mass.max(axis=1, keepdims=True))
    score = (wins * worth / np.maximum(voters, 1)).sum(axis=1) / np.maximum(wins.sum(axis=1), 1)
    return np.asarray(score, dtype=np.float64)
