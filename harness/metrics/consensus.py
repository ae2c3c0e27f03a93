"""Choosing one of k programs from what they did on tests that may be wrong: MaxPass, CodeT, B4 and MBR-exec.

`max_pass`, `codet`, `b4` and `mbr_exec` score every program of one problem from its program x test matrix, the highest
being chosen; `select_at_k` is the chance that the chosen one of k is correct. In a k-subset the scores are those of the
subset alone: agreement is counted among its k programs, on all tests.

A *group* is the programs that a rule cannot tell apart: those that pass equally many tests (MaxPass), pass the very
same tests (CodeT, B4), return the same values (MBR-exec). Ties are uniform over the top groups, then over a group's
members. MaxPass, which counts no agreement, is best-of-k and exact; for the others see `blocks.py`. Without tests all
programs are alike, so that choosing is pass@1. A test that occurs twice counts twice.

Choosing in two steps, or more than one program, is in `stages.py`. Not handled: tests that did not run (a program has
passed a test or not), and weights of programs or tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from harness.metrics.blocks import TIE, means_at_k
from harness.metrics.matrices import by_group, check_programs, distinct_rows, outputs, passes, zeros_and_ones
from harness.metrics.shapes import Array, Ints, Ragged, check_enough, check_ks, sample_counts
from harness.metrics.subsets import Ks, best_at_k
from harness.types import Floats

RULES = ("max_pass", "codet", "b4", "mbr_exec")

BETA_0 = 1e4
ALPHA_XY = 1e3

Scores = Callable[[Ints], Floats]
"""How many programs of each group take part -> the score of each group: (B, A) -> (B, A), any number where none do."""


def max_pass(passed_GC: npt.ArrayLike) -> Floats:
    """The number of tests that a program passes: (G, C) -> (G,)."""
    count: Floats = passes(passed_GC).sum(axis=1, dtype=np.float64)
    return count


def codet(passed_GC: npt.ArrayLike) -> Floats:
    """sqrt(programs that pass the very same tests) x number of these tests: (G, C) -> (G,).

    Source: CodeT, Chen et al. 2022 (arXiv 2207.10397), with the square root of its experiments.
    """
    return _score(passes(passed_GC), _codet)


def b4(passed_GC: npt.ArrayLike, *, beta_0: float = BETA_0, alpha_xy: float = ALPHA_XY) -> Floats:
    """The log-posterior that exactly the programs of this group, and the tests that they pass, are right: -> (G,).

    Args:
        passed_GC: (G, C) which program passes which test.
        beta_0: that a wrong program passes a wrong test has the prior Beta(1, beta_0): the larger, the rarer.
        alpha_xy: that a program is right, and that a test is, have the prior Beta(alpha_xy, 1).

    Returns:
        log B(g + alpha_xy, G - g + 1) + log B(t + alpha_xy, C - t + 1) + log B(r + 1, (G - g) t - r + 1)
        + log B(w + 1, (G - g)(C - t) - w + beta_0), for a group of g programs that pass t tests, which the programs
        outside of it pass r times, and the other tests w times. That a wrong program passes a right test is uniform.

    Source: B4, Chen et al. 2024 (arXiv 2409.08692); the defaults are those of its experiments on HumanEval, whose
    beta_0 was chosen from 1e4 to 1e6.
    """
    return _score(passes(passed_GC), _b4(beta_0, alpha_xy))


def mbr_exec(output_GC: npt.ArrayLike) -> Floats:
    """The share of programs that return what this one does, itself included, averaged over tests: (G, C) -> (G,).

    `output_GC` has equal whole numbers for equal values of one test, and a negative one where there is no value: such a
    program agrees with nobody on that test, not even with itself, or failing together would be the safest choice.

    Source: MBR-exec, Shi et al. 2022 (arXiv 2204.11454), whose matching loss on one test input this is, with errors
    matching nothing as in the authors' code; over several tests it is averaged, and their log-probability of the
    program, which breaks ties, is left out. Agreement on all tests at once is `stages.n_at_k` with n = 1.
    """
    return _score(outputs(output_GC), _mbr_exec)


def select_at_k(
    rule: str,
    correct_PG: Ragged,
    matrix_PGC: Sequence[npt.ArrayLike],
    ks: Ks,
    *,
    beta_0: float = BETA_0,
    alpha_xy: float = ALPHA_XY,
    subsets: int = 2000,
    rng: int | np.random.Generator | Sequence[int] = 0,
) -> tuple[Floats, Floats]:
    """The chance that the program that a rule chooses among k is correct.

    Args:
        rule: one of `RULES`.
        correct_PG: (P, n) or P rows of 0 or 1: which programs are correct.
        matrix_PGC: for each problem (n, C): which tests each program passes; for "mbr_exec" the values as numbers.
        ks: K whole numbers.
        beta_0: of "b4" alone.
        alpha_xy: of "b4" alone.
        subsets: where C(n, k) is at most this, every subset is scored and the result exact; else about so many drawn.
        rng: a seed, a generator, or one seed per problem (a hash of its id keeps a rerun on fewer problems identical).

    Returns:
        Estimates (P, K), and the standard error (P, K) of each that is due to the drawing; 0 where it is exact.

    Raises:
        ValueError: an unknown rule, a matrix with another number of programs than `correct_PG` or with what is no
            outcome, `correct_PG` not 0 or 1, k > n.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}: there are {', '.join(RULES)}")
    ks_K = check_ks(ks)
    correct = zeros_and_ones("correct", correct_PG)
    check_enough(sample_counts(correct), ks_K)
    matrices: list[Array] = [(outputs if rule == "mbr_exec" else passes)(matrix) for matrix in matrix_PGC]
    check_programs(correct, matrix=matrices)
    if rule == "max_pass":
        best = best_at_k(correct, [max_pass(passed) for passed in matrices], ks_K)
        return best, np.zeros_like(best)
    scored = {"codet": _codet, "b4": _b4(beta_0, alpha_xy), "mbr_exec": _mbr_exec}[rule]
    choosers = [_chooser(row, matrix, scored) for row, matrix in zip(correct, matrices, strict=True)]
    return means_at_k([len(row) for row in correct], choosers, ks_K, subsets=subsets, rng=rng)


def _chooser(correct: Floats, matrix_GC: Array, scored: Callable[[Array], Scores]) -> Callable[[Ints], Floats]:
    """A function of subsets of places: the chance that the one chosen from each is correct, (B, k) -> (B,)."""
    row_AC, group = distinct_rows(matrix_GC)
    scores = scored(row_AC)

    def choose(subset_BK: Ints) -> Floats:
        count, right = by_group(subset_BK, group), by_group(subset_BK, group, correct)
        score = np.where(count > 0, scores(count), -np.inf)
        top = score.max(axis=1, keepdims=True)
        wins = score >= top - TIE * np.abs(top)
        chosen: Floats = (wins * right / np.maximum(count, 1)).sum(axis=1) / wins.sum(axis=1)
        return chosen

    return choose


def _score(matrix: Array, scored: Callable[[Array], Scores]) -> Floats:
    """The score of each program where all of them take part."""
    if not len(matrix):
        return np.zeros(0)
    row_AC, group = distinct_rows(matrix)
    every = by_group(np.arange(len(group))[None], group)
    score: Floats = scored(row_AC)(every)[0, group]
    return score


def _codet(passed_AC: Array) -> Scores:
    tests_A = passed_AC.sum(axis=1)
    return lambda count_BA: np.sqrt(count_BA) * tests_A


def _b4(beta_0: float, alpha_xy: float) -> Callable[[Array], Scores]:
    def scored(passed_AC: Array) -> Scores:
        passed = passed_AC.astype(np.float64)  # whole numbers below 2^53, multiplied without rounding
        tests, tests_A, shared_AA = passed.shape[1], passed.sum(axis=1), passed @ passed.T
        of_tests_A = betaln(tests_A + alpha_xy, tests - tests_A + 1)

        def score(count_BA: Ints) -> Floats:
            at = np.nonzero(count_BA)  # most groups are absent from a small subset
            count = count_BA[at].astype(np.float64)
            on_right_BA = count_BA @ shared_AA  # times that anyone passes a test of the group's
            all_passes_B = count_BA @ tests_A
            right = on_right_BA[at] - count * tests_A[at[1]]
            wrong = all_passes_B[at[0]] - on_right_BA[at]
            others = count_BA.sum(axis=1)[at[0]] - count
            trials = others * tests_A[at[1]]
            score_BA = np.zeros(count_BA.shape)
            score_BA[at] = (
                betaln(count + alpha_xy, others + 1)
                + of_tests_A[at[1]]
                + betaln(right + 1, trials - right + 1)
                + betaln(wrong + 1, others * tests - trials - wrong + beta_0)
            )
            return score_BA

        return score

    if not (np.isfinite([beta_0, alpha_xy]).all() and beta_0 > 0 and alpha_xy > 0):
        raise ValueError(f"beta_0 and alpha_xy must be positive numbers, not {beta_0} and {alpha_xy}")
    return scored


def _mbr_exec(output_AC: Array) -> Scores:
    agree_AA = np.array([((output_AC == row) & (row >= 0)).sum(axis=1) for row in output_AC], dtype=np.float64)
    tests = max(output_AC.shape[1], 1)
    return lambda count_BA: count_BA @ agree_AA / (tests * count_BA.sum(axis=1, keepdims=True))
