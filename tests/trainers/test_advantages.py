"""Advantages against enumeration: rewards of small groups, exact arithmetic where the formula has a closed form."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from harness.errors import InputError, UnknownName
from harness.trainers.advantages import (
    best_subset,
    group_advantages,
    leave_one_out,
    max_at_k_advantages,
    no_variance,
    normalise_then_sum,
    total_reward,
)

nan = np.nan


def test_group_advantages_by_hand():
    reward_PG = [[1, 0, 0, 1], [2, 4, 6, nan]]
    np.testing.assert_array_equal(group_advantages(reward_PG), [[0.5, -0.5, -0.5, 0.5], [-2, 0, 2, 0]])
    s = math.sqrt(1 / 3) + 1e-4  # n - 1
    expected = [[0.5 / s, -0.5 / s, -0.5 / s, 0.5 / s], [-2 / 2.0001, 0, 2 / 2.0001, 0]]
    np.testing.assert_allclose(group_advantages(reward_PG, scale="group"), expected, rtol=1e-12)
    s = np.std([1, 0, 0, 1, 2, 4, 6], ddof=1) + 1e-4
    expected = np.array([[0.5, -0.5, -0.5, 0.5], [-2, 0, 2, 0]]) / s
    np.testing.assert_allclose(group_advantages(reward_PG, scale="batch"), expected, rtol=1e-12)
    np.testing.assert_array_equal(group_advantages([1.0, 0.0]), [0.5, -0.5])


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_no_signal_is_exactly_zero(scale):
    same = [[0.1, 0.1, 0.1], [0.7, nan, nan], [nan, nan, nan]]
    assert np.mean([0.1] * 3) != 0.1, "rounding would leave something"
    np.testing.assert_array_equal(group_advantages(same, scale=scale), np.zeros((3, 3)))
    np.testing.assert_array_equal(leave_one_out(same), np.zeros((3, 3)))
    np.testing.assert_array_equal(max_at_k_advantages(same, 2), np.zeros((3, 3)))
    np.testing.assert_array_equal(no_variance(same), [True, True, True])
    np.testing.assert_array_equal(no_variance([[0, 1, nan], [1, 1, nan]]), [False, True])


def test_not_scored_is_not_zero():
    with_none, with_zero = [[1.0, 0.0, nan, 1.0]], [[1.0, 0.0, 0.0, 1.0]]
    assert group_advantages(with_none)[0, 1] != group_advantages(with_zero)[0, 1]
    for function in (group_advantages, leave_one_out):
        without = function([[1.0, 0.0, 1.0]])[0]
        np.testing.assert_allclose(function(with_none)[0], [without[0], without[1], 0, without[2]], rtol=1e-15)


def test_terms_of_which_some_were_not_measured():
    reward_PGR = [[[1.0, nan], [nan, nan], [0.5, 2.0]]]
    np.testing.assert_array_equal(total_reward(reward_PGR, [2.0, 0.5]), [[2.0, nan, 2.0]])


def test_normalise_then_sum_does_not_depend_on_the_unit_of_a_term():
    draw = np.random.default_rng(0)
    reward_PGR = draw.normal(size=(5, 4, 2))
    plain = normalise_then_sum(reward_PGR, [1.0, 1.0], epsilon=0)
    np.testing.assert_allclose(normalise_then_sum(reward_PGR * [1, 1000.0], [1, 1], epsilon=0), plain, rtol=1e-9)
    assert np.std(plain, ddof=1) == pytest.approx(1)
    assert not np.allclose(plain, group_advantages(reward_PGR.sum(-1), scale="group", epsilon=0))


def test_leave_one_out_is_reward_minus_the_mean_of_the_others():
    rewards = np.array([0.3, 1.0, 0.0, 0.25, 0.7])
    expected = [r - np.delete(rewards, i).mean() for i, r in enumerate(rewards)]
    np.testing.assert_allclose(leave_one_out(rewards), expected, rtol=1e-12)


@pytest.mark.parametrize("n", range(2, 9))
def test_max_at_k_against_enumeration(n):
    draw = np.random.default_rng(n)
    groups = [*draw.integers(0, 2, (3, n)), *draw.integers(0, 4, (2, n)), *(draw.integers(-64, 64, (3, n)) / 32)]
    for rewards, k in itertools.product(groups, range(2, n + 1)):
        exact = [Fraction(float(r)) for r in rewards]
        expected = []
        for i, r in enumerate(exact):
            subsets = list(itertools.combinations(exact[:i] + exact[i + 1 :], k - 1))
            expected.append(k * sum(max(r - max(s), Fraction(0)) for s in subsets) / len(subsets))
        np.testing.assert_allclose(
            max_at_k_advantages(rewards, k), [float(x) for x in expected], rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize(("n", "c", "k"), [(8, 3, 4), (16, 1, 8), (16, 9, 8), (64, 5, 16)])
def test_max_at_k_of_right_and_wrong(n, c, k):
    advantages = max_at_k_advantages([1.0] * c + [0.0] * (n - c), k)
    np.testing.assert_allclose(advantages[:c], k * math.comb(n - c, k - 1) / math.comb(n - 1, k - 1), rtol=1e-12)
    np.testing.assert_array_equal(advantages[c:], 0)


def test_max_at_1_is_leave_one_out():
    rewards = np.random.default_rng(1).normal(size=(3, 6))
    np.testing.assert_array_equal(max_at_k_advantages(rewards, 1), leave_one_out(rewards))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_max_at_k_is_an_unbiased_policy_gradient(k):
    """On a bandit with three arms and four draws, all 81 outcomes summed: the gradient of E[best of k] itself."""
    n, worth, logit = 4, np.array([0.0, 0.4, 1.0]), np.array([0.3, -0.2, 0.1])
    p = np.exp(logit) / np.exp(logit).sum()

    def value(p):
        return sum(np.prod(p[list(arms)]) * worth[list(arms)].max() for arms in itertools.product(range(3), repeat=k))

    estimate = np.zeros(3)
    for arms in itertools.product(range(3), repeat=n):
        score = np.eye(3)[list(arms)] - p  # (n, 3) gradient of log p(arm)
        advantages = max_at_k_advantages(worth[list(arms)], k)
        estimate += np.prod(p[list(arms)]) * (advantages[:, None] * score).mean(0)
    step = 1e-6
    exact = []
    for each in np.eye(3) * step:
        up, down = (np.exp(logit + sign * each) / np.exp(logit + sign * each).sum() for sign in (1, -1))
        exact.append((value(up) - value(down)) / (2 * step))
    np.testing.assert_allclose(estimate, exact, atol=1e-9)


def test_unscored_completions_are_in_no_subset():
    np.testing.assert_allclose(
        max_at_k_advantages([1.0, nan, 0.0, 0.5], 2)[[0, 2, 3]], max_at_k_advantages([1, 0, 0.5], 2)
    )
    np.testing.assert_array_equal(max_at_k_advantages([1.0, nan, nan, 0.5], 3), 0)


def test_gfpo_keeps_the_shortest():
    length_PG = [[5, 3, 9, 3], [1, nan, nan, 7]]
    kept = best_subset(-np.array(length_PG), 2)
    np.testing.assert_array_equal(kept, [[False, True, False, True], [True, False, False, True]])
    np.testing.assert_array_equal(best_subset(-np.array(length_PG[1]), 3), [True, False, False, True])
    reward = np.array([1.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(group_advantages(np.where(kept[0], reward, nan)), [0, 0.5, 0, -0.5])


def test_errors_say_what_to_do():
    with pytest.raises(UnknownName, match="did you mean 'group'"):
        group_advantages([[1, 2]], scale="groups")
    with pytest.raises(InputError, match="from 1 to the group size"):
        max_at_k_advantages([[1, 2]], 3)
    with pytest.raises(InputError, match="from 1 to the group size"):
        best_subset([[1, 2]], 0)
    with pytest.raises(InputError, match="infinite"):
        group_advantages([[1, np.inf]])
