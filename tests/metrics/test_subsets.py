"""pass@k, pass^k, G-pass@k and best-of-k against the enumeration of every subset."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.subsets import all_at_k, best_at_k, g_pass_at_k, pass_at_k, rank_weights

SMALL = [(n, c) for n in range(1, 9) for c in range(n + 1)]
EXACT = 1e-12


def test_pass_at_k_is_the_published_formula_up_to_n_8() -> None:
    for n, c in SMALL:
        for k in range(1, n + 1):
            exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
            assert pass_at_k(n, c, k)[0, 0] == pytest.approx(float(exact), rel=1e-15, abs=1e-15)


def test_counts_metrics_equal_enumeration_for_all_n_to_8(over_subsets) -> None:
    for n, c in SMALL:
        for k in range(1, n + 1):
            assert pass_at_k(n, c, k)[0, 0] == pytest.approx(
                float(over_subsets(n, k, lambda s, c=c: any(i < c for i in s))), abs=EXACT
            )
            assert all_at_k(n, c, k)[0, 0] == pytest.approx(
                float(over_subsets(n, k, lambda s, c=c: all(i < c for i in s))), abs=EXACT
            )
            for tau in (0.1, 0.25, 0.5, 0.75, 1.0):
                wanted = math.ceil(Fraction(str(tau)) * k)
                exact = over_subsets(n, k, lambda s, c=c, wanted=wanted: sum(i < c for i in s) >= wanted)
                assert g_pass_at_k(n, c, k, tau=tau)[0, 0] == pytest.approx(float(exact), abs=EXACT)


def test_pass_at_k_at_large_n_keeps_every_digit() -> None:
    for n, c, k in [(1000, 1, 1), (1000, 3, 500), (10_000, 1, 10_000), (10_000, 17, 64), (10_000, 9_000, 3)]:
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert pass_at_k(n, c, k)[0, 0] == pytest.approx(float(exact), rel=1e-14)


def test_pass_at_k_shape_and_unequal_n() -> None:
    estimate_PK = pass_at_k([2, 4, 4, 2], [1, 1, 4, 0], [1, 2])
    np.testing.assert_allclose(estimate_PK, [[0.5, 1], [0.25, 0.5], [1, 1], [0, 0]], rtol=1e-15)
    assert pass_at_k(1, [1, 0, 1], 1).tolist() == [[1.0], [0.0], [1.0]]


def test_g_pass_of_a_rounded_share_asks_for_the_whole_number_meant() -> None:
    assert g_pass_at_k(25, 14, 25, tau=0.56)[0, 0] == 1.0
    assert g_pass_at_k(25, 13, 25, tau=0.56)[0, 0] == 0.0


def best_of(value: list[Fraction], score: list[float], subset: tuple[int, ...]) -> Fraction:
    top = max(score[i] for i in subset)
    tied = [value[i] for i in subset if score[i] == top]
    return sum(tied, Fraction(0)) / len(tied)


@pytest.mark.slow
def test_best_at_k_equals_enumeration_for_every_tie_pattern_to_n_5(over_subsets) -> None:
    for n in range(1, 6):
        value = [Fraction(i * i % 7, 3) for i in range(n)]
        for ranks in itertools.product(range(n), repeat=n):
            score = [float(r) for r in ranks]
            got = best_at_k([[float(v) for v in value]], [score], range(1, n + 1))[0]
            want = [float(over_subsets(n, k, lambda s: best_of(value, score, s))) for k in range(1, n + 1)]  # noqa: B023
            np.testing.assert_allclose(got, want, atol=EXACT)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([-math.inf, 0.0, 0.5, 1.0, 2.0])), min_size=1, max_size=12),
    st.data(),
)
def test_best_at_k_equals_enumeration_to_n_12(over_subsets, samples, data) -> None:
    k = data.draw(st.integers(1, len(samples)))
    value, score = [Fraction(v) for v, _ in samples], [s for _, s in samples]
    exact = over_subsets(len(samples), k, lambda s: best_of(value, score, s))
    got = best_at_k([[float(v) for v in value]], [score], k)[0, 0]
    assert got == pytest.approx(float(exact), abs=EXACT)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=12), min_size=1, max_size=6))
def test_pass_at_k_is_best_of_k_of_an_oracle_and_max_at_k(correct) -> None:
    ks = [1, 2, 3]
    rows = [np.array(row, dtype=float) for row in correct]
    n, c = [len(row) for row in rows], [int(row.sum()) for row in rows]
    np.testing.assert_allclose(best_at_k(rows, rows, ks), pass_at_k(n, c, ks), atol=EXACT)
    np.testing.assert_allclose(best_at_k(rows, [-row for row in rows], ks), all_at_k(n, c, ks), atol=EXACT)


@given(st.lists(st.tuples(st.booleans(), st.floats(-5, 5)), min_size=1, max_size=12))
def test_no_selector_beats_pass_at_k_and_one_sample_is_the_mean(samples) -> None:
    correct, score = [[float(c) for c, _ in samples]], [[s for _, s in samples]]
    ks = list(range(1, len(samples) + 1))
    best = best_at_k(correct, score, ks)
    ceiling = pass_at_k(len(samples), int(sum(correct[0])), ks)
    assert (best <= ceiling + EXACT).all()
    assert best[0, 0] == pytest.approx(np.mean(correct[0]))
    assert ceiling[0, 0] == pytest.approx(np.mean(correct[0]))


def test_best_at_k_depends_on_the_order_of_scores_only() -> None:
    rng = np.random.default_rng(1)
    correct, score = rng.random((5, 9)) < 0.4, rng.normal(size=(5, 9))
    ks = [1, 3, 9]
    np.testing.assert_array_equal(best_at_k(correct, score, ks), best_at_k(correct, np.exp(score), ks))


def test_unequal_n_gives_what_each_problem_gives_alone() -> None:
    rng = np.random.default_rng(2)
    value = [rng.random(n) for n in (4, 7, 4, 5)]
    score = [rng.integers(0, 3, len(v)) for v in value]
    together = best_at_k(value, score, [1, 2, 4])
    alone = np.vstack([best_at_k([v], [s], [1, 2, 4]) for v, s in zip(value, score, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-14)


def test_rank_weights_sum_to_one_at_large_n() -> None:
    weights = rank_weights(2000, [1, 7, 1000, 2000])
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert (weights >= 0).all()


def test_k_above_n_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="k=16 needs 16 samples; 3 problems have fewer"):
        pass_at_k([10, 16, 5, 15], [0, 0, 0, 0], [1, 16])
    with pytest.raises(ValueError, match="k=3 needs 3 samples; 1 problem has fewer"):
        best_at_k([[0.0, 1.0]], [[0.0, 1.0]], [3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(4, 2, 0), "k must be at least 1, not 0"),
        (lambda: pass_at_k(4, 2, [1.5]), "whole numbers"),
        (lambda: pass_at_k(4, 2, []), "whole numbers"),
        (lambda: pass_at_k(4, 2.5, 1), "c must be whole"),
        (lambda: pass_at_k(4, float("nan"), 1), "c must be whole"),
        (lambda: pass_at_k([4, 4], [1, 5], 1), "problem 1 has 5 correct of 4 samples"),
        (lambda: pass_at_k(4, -1, 1), "c must lie in 0..n"),
        (lambda: g_pass_at_k(4, 2, 2, tau=0.0), "tau"),
        (lambda: best_at_k([[0.0, float("nan")]], [[0.0, 1.0]], 1), "value holds NaN"),
        (lambda: best_at_k([[0.0, 1.0]], [[0.0, float("nan")]], 1), "score holds NaN"),
        (lambda: best_at_k([[0.0, math.inf]], [[0.0, 1.0]], 1), "infinite"),
        (lambda: best_at_k([[0.0, 1.0]], [[0.0, 1.0, 2.0]], 1), "differ in shape"),
        (lambda: best_at_k([[0.0, 1.0], []], [[0.0, 1.0], []], 1), "k=1 needs 1 samples; 1 problem has fewer"),
        (lambda: best_at_k(np.zeros(3), np.zeros(3), 1), "list of 1-D arrays"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
