"""Choosing in stages against the enumeration of every subset and every way that ties can fall."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.consensus import select_at_k
from harness.metrics.majority import maj_at_k
from harness.metrics.stages import n_at_k, prune_at_k
from harness.metrics.subsets import best_at_k, pass_at_k


def slow_n_at_k(correct, output, accepted, n, subset) -> Fraction:
    """Filter, cluster, take: the mean over every way to fill the last places with clusters of equal size."""
    clusters: dict = {}
    for i in subset:
        if accepted[i]:
            clusters.setdefault(tuple(output[i]) if (output[i] >= 0).any() else i, []).append(i)
    size = {name: len(members) if isinstance(name, tuple) else 0 for name, members in clusters.items()}
    wrong = {name: Fraction(sum(not correct[i] for i in of), len(of)) for name, of in clusters.items()}
    sizes = sorted(size.values(), reverse=True)
    n = min(n, len(sizes))
    if not n:
        return Fraction(0)
    sure = [name for name in size if size[name] > sizes[n - 1]]
    tied = [name for name in size if size[name] == sizes[n - 1]]
    fillings = list(itertools.combinations(tied, n - len(sure)))
    return 1 - sum(math.prod((wrong[c] for c in (*sure, *fill)), start=Fraction(1)) for fill in fillings) / len(
        fillings
    )


rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from([(0, 1), (0, -1), (1, 1), (-1, -1), (2, 0)]), st.booleans()),
    min_size=1,
    max_size=9,
)


@given(rows, st.integers(1, 5), st.booleans(), st.data())
def test_n_at_k_equals_enumeration(over_subsets, rows, n, filtered, data) -> None:
    correct, output, accepted = (
        [r[0] for r in rows],
        np.array([r[1] for r in rows]),
        [r[2] or not filtered for r in rows],
    )
    k = data.draw(st.integers(1, len(rows)))
    mean, se = n_at_k([correct], [output], k, n=n, accepted_PG=[accepted] if filtered else None)
    exact = over_subsets(len(rows), k, lambda s: slow_n_at_k(correct, output, accepted, n, s))
    assert mean[0, 0] == pytest.approx(float(exact), abs=1e-12)
    assert se[0, 0] == 0


def test_without_merging_n_at_k_is_a_random_choice_of_n() -> None:
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 2, (5, 10))
    distinct, silent, untested = np.arange(10)[:, None], np.full((10, 2), -1), np.zeros((10, 0), dtype=int)
    for output in (distinct, silent, untested):
        for k in (1, 3, 8, 10):
            for n in (1, 3, k, 20):
                mean, _ = n_at_k(correct, [output] * 5, k, n=n)
                np.testing.assert_allclose(mean, pass_at_k(10, correct.sum(axis=1), min(n, k)), atol=1e-12)


def test_one_submission_is_the_majority_of_behaviours() -> None:
    rng = np.random.default_rng(1)
    output, correct, ks = rng.integers(0, 3, (6, 9)), rng.integers(0, 2, (6, 9)), [1, 4, 9]
    mean, _ = n_at_k(correct, list(output[:, :, None]), ks, n=1)
    np.testing.assert_allclose(mean, maj_at_k(output, correct, ks), atol=1e-12)
    np.testing.assert_allclose(mean, select_at_k("mbr_exec", correct, list(output[:, :, None]), ks)[0], atol=1e-12)


def test_failing_on_the_same_tests_is_to_agree_whatever_negative_number_says_so() -> None:
    mean, _ = n_at_k([[1, 1, 0]], [[[3, -1], [3, -7], [3, 4]]], 3, n=1)
    assert mean[0, 0] == 1


def test_more_submissions_help_up_to_pass_at_k() -> None:
    rng = np.random.default_rng(2)
    output, correct = rng.integers(-1, 3, (20, 60, 2)), rng.integers(0, 2, (20, 60)) * (rng.random((20, 1)) < 0.3)
    curves = [n_at_k(correct, list(output), [10, 40], n=n, subsets=200)[0] for n in (1, 2, 5, 10, 40)]
    for fewer, more in itertools.pairwise(curves):
        assert (fewer <= more + 1e-12).all()
    assert (curves[-1] <= 1).all()
    assert (n_at_k(correct, list(output), [60], n=60)[0] <= pass_at_k(60, correct.sum(axis=1), 60) + 1e-12).all()


def test_filtering_by_a_test_that_only_right_programs_pass_leaves_one_question() -> None:
    """Is any of the k accepted?"""
    rng = np.random.default_rng(3)
    correct, output = rng.integers(0, 2, (8, 9)), rng.integers(-1, 2, (8, 9, 2))
    for n in (1, 4):
        mean, _ = n_at_k(correct, list(output), [2, 5], n=n, accepted_PG=correct)
        np.testing.assert_allclose(mean, pass_at_k(9, correct.sum(axis=1), [2, 5]), atol=1e-12)


def test_hundreds_of_equal_clusters_overflow_nothing() -> None:
    correct = (np.arange(1200) < 3).astype(float)[None]
    mean, _ = n_at_k(correct, [np.arange(1200)[:, None]], [1200], n=600)
    assert mean[0, 0] == pytest.approx(pass_at_k(1200, 3, 600)[0, 0])


def slow_prune(correct, cheap, tests, keep, subset) -> Fraction:
    """The mean over every order of the subset, equal cheap scores in the order given."""
    total, orders = Fraction(0), 0
    for order in itertools.permutations(subset):
        kept = sorted(order, key=lambda i: -cheap[i])[:keep]
        best = [i for i in kept if tests[i] == max(tests[j] for j in kept)]
        total += Fraction(sum(int(correct[i]) for i in best), len(best))
        orders += 1
    return total / orders


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=6),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
    st.data(),
)
def test_prune_equals_enumeration(over_subsets, rows, keep, random, data) -> None:
    correct, tests = [r[0] for r in rows], [r[1] for r in rows]
    cheap, cost = [i / 7 for i in range(len(rows))], [float(3**i) for i in range(len(rows))]
    random.shuffle(cheap)
    k = data.draw(st.integers(1, len(rows)))
    mean, se, spent = prune_at_k([correct], [cheap], [tests], k, keep=keep, cost_PG=[cost])
    exact = over_subsets(len(rows), k, lambda s: slow_prune(correct, cheap, tests, keep, s))
    kept = over_subsets(
        len(rows), k, lambda s: sum(map(int, (cost[i] for i in sorted(s, key=lambda i: -cheap[i])[:keep])))
    )
    assert mean[0, 0] == pytest.approx(float(exact), abs=1e-12)
    assert se[0, 0] == 0
    assert spent[0, 0] == pytest.approx(float(kept))


def test_ties_of_the_cheap_score_fall_at_random(over_subsets) -> None:
    rng = np.random.default_rng(4)
    P, n, k, keep = 60, 6, 5, 2
    cheap, tests, correct = rng.integers(0, 2, (P, n)), rng.integers(0, 3, (P, n)), rng.integers(0, 2, (P, n))
    cost = rng.integers(1, 9, (P, n)).astype(float)
    drawn, se, spent = prune_at_k(correct, cheap, tests, k, keep=keep, cost_PG=cost, rng=5)
    exact = np.array(
        [
            float(over_subsets(n, k, lambda s, p=p: slow_prune(correct[p], cheap[p], tests[p], keep, s)))
            for p in range(P)
        ]
    )
    np.testing.assert_allclose(drawn[se == 0], exact[:, None][se == 0], atol=1e-12)
    z = ((drawn - exact[:, None]) / np.where(se > 0, se, 1))[se > 0]
    assert z.size > P / 2
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert 0.75 < z.std() < 1.25
    constant = prune_at_k(correct, np.zeros((P, n)), tests, k, keep=keep, cost_PG=cost)[2]
    np.testing.assert_allclose(constant[:, 0], keep * cost.mean(axis=1))  # ties: a random two are run
    assert (spent <= cost.max(axis=1, keepdims=True) * keep).all()


def test_keeping_all_is_max_pass_and_keeping_one_is_the_cheap_score_alone() -> None:
    rng = np.random.default_rng(6)
    correct, cheap, passed = rng.integers(0, 2, (7, 30)), rng.random((7, 30)), rng.random((7, 30, 4)) < 0.5
    tests, ks = passed.sum(axis=2), [1, 5, 12]
    cost = rng.random((7, 30))
    all_kept, se, spent = prune_at_k(correct, cheap, tests, ks, keep=12, cost_PG=cost)
    np.testing.assert_allclose(all_kept, select_at_k("max_pass", correct, list(passed), ks)[0], atol=1e-12)
    assert (se == 0).all()
    np.testing.assert_allclose(spent, cost.mean(axis=1)[:, None] * ks)
    one, se, _ = prune_at_k(correct, cheap, tests, ks, keep=1)
    best = best_at_k(correct, cheap, ks)
    assert (np.abs(one - best) <= 5 * se + 1e-12).all()
    small, _, _ = prune_at_k(correct[:, :9], cheap[:, :9], tests[:, :9], [3], keep=1)
    np.testing.assert_allclose(small, best_at_k(correct[:, :9], cheap[:, :9], [3]), atol=1e-12)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=9), st.integers(1, 4)
)
def test_pruning_never_beats_pass_at_k(rows, keep) -> None:
    correct, cheap, tests = ([r[j] for r in rows] for j in range(3))
    ks = [1, len(rows)]
    mean, _, _ = prune_at_k([correct], [cheap], [tests], ks, keep=keep)
    assert (mean[0] <= pass_at_k(len(rows), sum(correct), ks)[0] + 1e-12).all()
    assert mean[0, 0] == pytest.approx(np.mean(correct))


def test_an_unknown_cost_is_not_nothing() -> None:
    correct, cheap, tests = [[1, 0, 1], [0, 1, 0]], [[3, 2, 1]] * 2, [[1, 1, 2]] * 2
    _, _, spent = prune_at_k(correct, cheap, tests, 2, keep=1, cost_PG=[[1.0, np.nan, 1.0], [1.0, 4.0, 2.0]])
    assert np.isnan(spent[0, 0])
    assert spent[1, 0] == pytest.approx((1 + 1 + 4) / 3)
    assert np.isnan(prune_at_k(correct, cheap, tests, 2, keep=1)[2]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: n_at_k([[1]], [[[1]]], 1, n=0), "n must be at least 1, not 0"),
        (lambda: n_at_k([[1]], [[[1]]], 2, n=1), "k=2 needs 2 samples; 1 problem has fewer"),
        (lambda: n_at_k([[1, 0]], [[[1], [2]]], 1, n=1, accepted_PG=[[1]]), "correct and accepted differ in shape"),
        (lambda: n_at_k([[1, 0]], [[[1], [2]]], 1, n=1, accepted_PG=[[1, 2]]), "accepted must be 0 or 1"),
        (lambda: n_at_k([[1, 0]], [[[1]]], 1, n=1), "correct and output differ in shape"),
        (lambda: prune_at_k([[1]], [[1]], [[1]], 1, keep=0), "keep must be at least 1, not 0"),
        (lambda: prune_at_k([[1]], [[np.nan]], [[1]], 1, keep=1), "cheap holds NaN"),
        (lambda: prune_at_k([[1, 0]], [[1, 2]], [[1]], 1, keep=1), "correct and tests_passed differ in shape"),
        (lambda: prune_at_k([[1, 0]], [[1, 2]], [[1, 1]], 1, keep=1, cost_PG=[[1]]), "correct and cost differ in"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
