"""maj@k, exactly: the expected credit of the most frequent answer among k random ones of a problem's n samples.

Let class a be the n_a samples with one answer, A_a their mean credit, and X_a how many of them a random k-subset holds
(multivariate hypergeometric). Ties are broken uniformly, which in expectation is also "the answer seen first". Then

    maj@k = sum_a A_a P(a wins),     P(a wins) = sum_t  int_0^1 P(X_a = t, and every other X_b < t, or X_b = t and b
                                                                  loses a toss of probability y) dy

since j tied rivals all lose with chance int y^j dy = 1 / (j+1). Given their sum, the X_b are independent
Binomial(n_b, theta) for any theta; theta = k/n makes the condition likely, and a Fourier sum over M angles phi on the
circle imposes it. With pmf_b the binomial probabilities and u = 1 - theta + theta e^(i phi),

    maj@k = 1 / (M P(S=k)) sum_phi e^(-i phi k) u^(n - sum n_a)
                           sum_t sum_q w_q sum_a A_a g_a prod_(b != a) (F_b + y_q g_b),
    g_b = pmf_b(t) e^(i phi t),    F_b = sum_(x < t) pmf_b(x) e^(i phi x).

Exact in y: below degree min(classes, k/t), Gauss-Legendre with half as many nodes. Exact in phi: M = O(sqrt n) angles
leave out less than 1e-18. sum_a ... prod is a recursion over classes in two states, winner not chosen yet and chosen.
No subtraction of like terms, so the error stays near 1e-15 sqrt(n). Above the size of the second-largest class only the
largest can win, and alone, which is a plain hypergeometric sum.

Cost per problem and k: O(sqrt n sum_t D_t Q_t) with D_t distinct class sizes >= t and Q_t nodes; problems of equal n go
through numpy together. Main function: `maj_at_k`. Not handled: weighted votes (`votes.py`), n above 10^4 (untested).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.metrics.shapes import Array, Ints, Ragged, check_enough, check_ks, equal_n, sample_counts
from harness.metrics.subsets import Ks, best_at_k
from harness.types import Floats

CELLS = 1 << 18
"""About how many complex numbers one step holds (4 MiB): larger leaves the processor's cache."""

ALIAS = 1e-18
"""Relative weight of the sums other than k that the Fourier sum may let in."""


class Classes(NamedTuple):
    """Answer classes of p problems with n samples each; the D distinct class sizes of a problem in falling order."""

    n: int
    size: Ints
    """(p, D), 0 where a problem has fewer distinct sizes."""
    many: Ints
    """(p, D) how many classes have that size."""
    credit: Floats
    """(p, D, 1) sum of the mean credits of these classes, or (p, D, n+1): by the number drawn from a class."""


def maj_at_k(label_PG: Ragged, credit_PG: Ragged, ks: Ks, *, score_PG: Ragged | None = None) -> Floats:
    """maj@k: the expected credit of the most frequent answer of k samples, ties uniform, for every k <= n.

    Args:
        label_PG: (P, n) or P rows of whole numbers: samples with the same answer have the same label. Negative is no
            answer: it never votes, and a subset without answers scores 0.
        credit_PG: the same shape: what showing this sample scores, usually 1 if correct. It may differ within a class
            (programs that agree on the public tests and not on the hidden ones).
        ks: K whole numbers.
        score_PG: if given, the winning class shows its best-scored member of those drawn, else a random one.

    Returns:
        (P, K). At k = n every unbiased estimate is one draw per problem: prefer k <= n/2.

    Raises:
        ValueError: NaN, labels that are not whole, shapes that differ, k > n for some problem.

    Source: self-consistency, Wang et al. 2022 (arXiv 2203.11171); the exact expectation is derived above.
    """
    ks_K = check_ks(ks)
    check_enough(sample_counts(label_PG), ks_K)
    columns = {"label": label_PG, "credit": credit_PG}
    if score_PG is not None:
        columns["score"] = score_PG
    maj_PK = np.zeros((len(label_PG), len(ks_K)))
    for places, (label, credit, *score) in equal_n(**columns):
        classes = answer_classes(label, credit, score[0] if score else None)
        for j, k in enumerate(ks_K.tolist()):
            maj_PK[places, j] = _plurality(classes, k)
    return maj_PK


def answer_classes(label_PG: Array, credit_PG: Array, score_PG: Array | None) -> Classes:
    """The classes of (p, n) labels, their sizes and what each is worth."""
    if label_PG.dtype.kind not in "iu":
        raise ValueError("label must be whole numbers, one per answer, negative for none")
    if not np.isfinite(credit_PG.astype(np.float64)).all():
        raise ValueError("credit holds an infinite number")
    p, n = label_PG.shape
    voter = label_PG.ravel() >= 0
    problem = np.repeat(np.arange(p), n)[voter]
    _, label = np.unique(label_PG.ravel()[voter], return_inverse=True)
    labels = label.max(initial=0) + 1
    classes, member = np.unique(problem * labels + label, return_inverse=True)
    size = np.bincount(member, minlength=len(classes))
    if score_PG is None:
        credit = np.bincount(member, credit_PG.ravel()[voter], len(classes))[:, None] / size[:, None]
    else:
        credit = _credit_by_drawn(member, size, credit_PG.ravel()[voter], score_PG.ravel()[voter], n)
    return _merge_equal_sizes(p, n, classes // labels, size, credit)


def _merge_equal_sizes(p: int, n: int, problem: Ints, size: Ints, credit: Floats) -> Classes:
    """Classes (A,) with credits (A, 1 or n+1) by problem and falling size; equal sizes are one, as they win equally."""
    merged, place = np.unique(problem * (n + 1) + n - size, return_inverse=True)
    problem, distinct = merged // (n + 1), n - merged % (n + 1)
    rank = np.arange(len(merged)) - np.searchsorted(problem, problem)  # 0 for the largest size of its problem
    shape = (p, int(rank.max(initial=-1)) + 1)
    sizes, many = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    credits = np.zeros((*shape, credit.shape[1]))
    sizes[problem, rank] = distinct
    many[problem, rank] = np.bincount(place, minlength=len(merged))
    np.add.at(credits, (problem[place], rank[place]), credit)
    return Classes(n, sizes, many, credits)


def _credit_by_drawn(member: Ints, size: Ints, credit: Array, score: Array, n: int) -> Floats:
    """(A, n+1): what a class's best-scored member is worth when t of the class were drawn; 0 where t is impossible."""
    best = np.zeros((len(size), n + 1))
    order = np.argsort(member, kind="stable")
    for a, rows in enumerate(np.split(order, np.cumsum(size))[:-1]):
        best[a, 1 : size[a] + 1] = best_at_k([credit[rows]], [score[rows]], np.arange(1, size[a] + 1))[0]
    return best


def _plurality(classes: Classes, k: int) -> Floats:
    """maj@k of each problem of a block. (p,)"""
    n, size, many, credit = classes
    if size.shape[1] == 0:
        return np.zeros(len(size))
    if k == 1:
        return np.asarray((_credit_of(credit, slice(1, 2))[:, :, 0] * size).sum(axis=1) / n)
    second = np.where(many[:, 0] > 1, size[:, 0], size[:, 1] if size.shape[1] > 1 else 0)
    won = np.zeros(len(size))
    # Problems whose race goes equally far share a step, so that little of it is spent on counts nobody reaches.
    step = max(1, CELLS // (n * len(_circle(n, k)[0])))
    order = np.argsort(second, kind="stable")
    for start in range(0, len(order), step):
        some = order[start : start + step]
        block, most = Classes(n, size[some], many[some], credit[some]), int(second[some].max())
        won[some] = _contested(block, most, k) + _alone(block, most, k)
    return won


def _credit_of(credit: Floats, drawn: slice) -> Floats:
    """Credits by the number drawn, (p, D, T), or (p, D, 1) where it makes no difference."""
    return credit[:, :, drawn] if credit.shape[2] > 1 else credit


def _alone(classes: Classes, most: int, k: int) -> Floats:
    """Credit won by the largest class with more than `most` votes, which no other class can reach. (p,)"""
    n, size, _, credit = classes
    t = np.arange(most + 1, min(k, int(size[:, 0].max())) + 1)
    sizes, place = np.unique(size[:, 0], return_inverse=True)
    drawn = np.asarray(stats.hypergeom.pmf(t, n, sizes[:, None], k))[place]
    return np.asarray((drawn * _credit_of(credit, slice(most + 1, most + 1 + len(t)))[:, 0]).sum(axis=1))


def _contested(classes: Classes, most: int, k: int) -> Floats:
    """Credit won with a top count of t = 1..`most`, which a rival can reach too; t goes in octaves. (p,)"""
    n, size, many, credit = classes
    angle, fourier = _circle(n, k)
    unit = 1 - k / n + k / n * np.exp(1j * angle)  # (L,) one sample's generating function
    sizes, place = np.unique(size, return_inverse=True)
    place = place.reshape(size.shape)
    pmf = np.asarray(stats.binom.pmf(np.arange(min(k, most) + 1), sizes[:, None], k / n))  # (S, T), 0 beyond the size
    term = pmf[:, :, None] * np.exp(1j * angle * np.arange(pmf.shape[1])[:, None])
    below = np.cumsum(term, axis=1) - term
    won = np.zeros(len(size))
    first = 1
    while first <= min(k, most):
        t = slice(first, min(2 * first, k + 1, most + 1))
        racing = int((size >= first).sum(axis=1).max())  # smaller classes never come to t votes: part of the rest
        rivals = int((many * (size >= first)).sum(axis=1).max())
        y, toss = _toss_nodes(-(-min(rivals, k // first) // 2))
        rest = n - (size * many)[:, :racing].sum(axis=1)
        chosen = (unit ** rest[:, None])[:, None, None, :]  # (p, Q, T, L) from here on
        undecided = np.zeros_like(chosen)
        for d in range(racing):
            tied = term[place[:, d], None, t]
            loses = below[place[:, d], None, t] + y[:, None, None] * tied
            wins = _credit_of(credit, t)[:, d, None, :, None] * tied
            undecided, chosen = undecided * loses + wins * chosen, chosen * loses
            twins = np.maximum(many[:, d] - 1, 0)
            if twins.any():
                others_lose = loses ** twins[:, None, None, None]
                undecided, chosen = undecided * others_lose, chosen * others_lose
        won += np.einsum("q,pqtl,l->p", toss, undecided, fourier).real
        first = t.stop
    return won


@functools.lru_cache(maxsize=256)
def _toss_nodes(nodes: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    y, weight = np.polynomial.legendre.leggauss(nodes)
    return (y + 1) / 2, weight / 2


@functools.lru_cache(maxsize=256)
def _circle(n: int, k: int) -> tuple[Floats, Array]:
    """Angles (L,) and weights (L,) of the Fourier sum that picks S = k for S ~ Binomial(n, k/n).

    An M-point sum lets in S = k + jM too; M is the least for which these weigh less than `ALIAS`. Angles phi and -phi
    have conjugate terms, and only the real part is used, so half the circle is enough.
    """
    pmf = stats.binom.pmf(np.arange(n + 1), n, k / n)
    alias = np.zeros(n + 1)  # by distance from k
    alias[: n - k + 1] += pmf[k:]
    alias[: k + 1] += pmf[k::-1]
    far = np.flatnonzero(alias[1:] < ALIAS * pmf[k]) + 1
    points = int(far[0]) if far.size else n + 1
    h = np.arange(points // 2 + 1)
    weight = np.where((h == 0) | (2 * h == points), 1.0, 2.0) / (points * pmf[k])
    return 2 * np.pi * h / points, weight * np.exp(-2j * np.pi * (h * k % points) / points)
