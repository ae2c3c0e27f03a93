"""Weighted votes against the enumeration of every subset, and the drawn ones against their own standard error."""

import math
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.majority import maj_at_k
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.votes import vote_at_k


def weighted_vote(label, weight, credit, subset) -> Fraction:
    """What the vote scores on one subset, in exact arithmetic."""
    members = defaultdict(list)
    for i in subset:
        if label[i] >= 0:
            members[label[i]].append(i)
    mass = {a: sum((weight[i] for i in group), Fraction(0)) for a, group in members.items()}
    winners = [group for a, group in members.items() if mass[a] == max(mass.values())]
    means = [sum((credit[i] for i in group), Fraction(0)) / len(group) for group in winners]
    return sum(means, Fraction(0)) / len(means) if means else Fraction(0)


samples = st.lists(
    st.tuples(st.integers(-1, 4), st.fractions(0, 3, max_denominator=4), st.sampled_from([0, 1, Fraction(1, 2)])),
    min_size=1,
    max_size=12,
)


def floats(values) -> list[list[float]]:
    return [[float(value) for value in values]]


@given(samples, st.data())
def test_small_votes_equal_enumeration(over_subsets, samples, data) -> None:
    label, weight, credit = ([s[j] for s in samples] for j in range(3))
    k = data.draw(st.integers(1, len(label)))
    mean, se = vote_at_k([label], floats(weight), floats(credit), k)
    exact = over_subsets(len(label), k, lambda s: weighted_vote(label, weight, credit, s))
    assert mean[0, 0] == pytest.approx(float(exact), abs=1e-12)
    assert se[0, 0] == 0


def test_log_weights_are_weights_at_any_scale() -> None:
    rng = np.random.default_rng(0)
    label, credit, log_weight = rng.integers(-1, 4, (3, 9)), rng.random((3, 9)), rng.normal(size=(3, 9))
    plain, _ = vote_at_k(label, np.exp(log_weight), credit, [1, 3, 9])
    for shift in (0, -5000, 5000):
        logs, _ = vote_at_k(label, log_weight + shift, credit, [1, 3, 9], log=True)
        np.testing.assert_allclose(logs, plain, atol=1e-12)


def test_drawn_subsets_agree_with_all_of_them_within_their_standard_error() -> None:
    rng = np.random.default_rng(1)
    label, weight, credit = rng.integers(-1, 5, (40, 14)), rng.random((40, 14)), rng.integers(0, 2, (40, 14))
    ks = [3, 5, 7]
    exact, none = vote_at_k(label, weight, credit, ks, subsets=4000)
    drawn, se = vote_at_k(label, weight, credit, ks, subsets=300, rng=3)
    assert (none == 0).all()
    assert (se > 0).any()
    z = (drawn - exact)[se > 0] / se[se > 0]
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert 0.85 < z.std() < 1.15


def test_equal_weights_are_the_majority_and_large_scores_are_best_of_k() -> None:
    rng = np.random.default_rng(2)
    label, passed = rng.integers(0, 4, (5, 9)), rng.integers(0, 2, (5, 9)).astype(float)
    ks = [1, 2, 4, 9]
    np.testing.assert_allclose(
        vote_at_k(label, np.ones((5, 9)), passed, ks)[0], maj_at_k(label, passed, ks), atol=1e-12
    )
    own_answer = np.tile(np.arange(9), (5, 1))
    score = rng.random((5, 9))
    np.testing.assert_allclose(vote_at_k(own_answer, score, passed, ks)[0], best_at_k(passed, score, ks), atol=1e-12)


def test_majority_with_ties_to_the_highest_score_is_a_vote_with_near_equal_weights() -> None:
    # two answers with two samples each: of all four drawn, the answer with the larger sum of scores wins
    mean, _ = vote_at_k([[0, 0, 1, 1]], [[1 + s / 5 for s in (0.9, 0.1, 0.6, 0.5)]], [[0.0, 0.0, 1.0, 1.0]], [4])
    assert mean[0, 0] == 1


def test_equal_sums_in_another_order_are_a_tie() -> None:
    assert 0.1 + 0.2 != 0.3
    mean, _ = vote_at_k([[0, 0, 1]], [[0.1, 0.2, 0.3]], [[1.0, 1.0, 0.0]], 3)
    assert mean[0, 0] == 0.5


def test_reruns_and_subsets_of_problems_draw_the_same() -> None:
    rng = np.random.default_rng(4)
    label, weight, credit = rng.integers(0, 5, (4, 30)), rng.random((4, 30)), rng.integers(0, 2, (4, 30))
    seeds = [11, 22, 33, 44]
    first, _ = vote_at_k(label, weight, credit, [4, 8], rng=seeds)
    again, _ = vote_at_k(label[2:], weight[2:], credit[2:], [8], rng=seeds[2:])
    np.testing.assert_array_equal(first[2:, 1:], again)
    other, _ = vote_at_k(label, weight, credit, [4, 8], rng=np.random.default_rng(9))
    assert not np.array_equal(first, other)


@given(samples)
def test_the_vote_never_beats_pass_at_k(samples) -> None:
    label, weight = [s[0] for s in samples], [s[1] for s in samples]
    passed = [float(s[2] == 1 and s[0] >= 0) for s in samples]
    ks = sorted({1, (len(label) + 1) // 2, len(label)})
    mean, _ = vote_at_k([label], floats(weight), [passed], ks)
    assert (mean[0] <= pass_at_k(len(label), int(sum(passed)), ks)[0] + 1e-12).all()
    assert mean[0, 0] == pytest.approx(np.mean(passed))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vote_at_k([[0, 1]], [[0.5, 0.5]], [[0, 1]], 3), "k=3 needs 3 samples; 1 problem has fewer"),
        (lambda: vote_at_k([[0, 1]], [[0.5, -0.5]], [[0, 1]], 1), "a weight is -0.5"),
        (lambda: vote_at_k([[0, 1]], [[0.5, -np.inf]], [[0, 1]], 1, log=True), "finite"),
        (lambda: vote_at_k([[0, 1]], [[0.5, np.nan]], [[0, 1]], 1), "weight holds NaN"),
        (lambda: vote_at_k([[0, 1]], [[0.5]], [[0, 1]], 1), "differ in shape"),
        (lambda: vote_at_k([[0.0, 1.0]], [[0.5, 0.5]], [[0, 1]], 1), "label must be whole"),
        (lambda: vote_at_k([[0, 1]], [[0.5, 0.5]], [[0, 1]], 1, rng=[1, 2]), "2 seeds for 1 problems"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
