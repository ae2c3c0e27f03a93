"""Intervals and p-values against scipy's, at the ends of the range, and in simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.metrics.inference import diff_ci, mean_ci, moments, ratio_ci


@given(st.lists(st.booleans(), min_size=2, max_size=300), st.sampled_from([0.8, 0.95, 0.99]))
def test_mean_ci_is_wilson_when_every_problem_is_one_answer(passed, level) -> None:
    interval = mean_ci(passed, level=level)
    wilson = stats.binomtest(sum(passed), len(passed)).proportion_ci(level, method="wilson")
    assert interval.low == pytest.approx(wilson.low, abs=1e-12)
    assert interval.high == pytest.approx(wilson.high, abs=1e-12)
    assert interval.method == "Wilson"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_mean_ci_holds_its_mean_and_stays_in_range(u) -> None:
    interval = mean_ci(u)
    assert 0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1
    assert interval.low < interval.high


def test_mean_ci_never_collapses_at_the_ends() -> None:
    solved = mean_ci(np.full(164, 0.9999))
    assert solved.high - solved.low > 0.005
    assert mean_ci(np.zeros(30)).high > 0.05
    assert mean_ci(np.ones(30)).low < 0.95


def test_clusters_of_one_are_no_clusters() -> None:
    u = np.random.default_rng(0).random(50)
    alone, clustered = mean_ci(u), mean_ci(u, np.arange(50))
    assert clustered.low == pytest.approx(alone.low, abs=2e-3)
    assert clustered.df == alone.df == 49
    assert clustered.method == "guarded Wilson, 50 clusters"


def test_clusters_that_repeat_one_problem_count_once() -> None:
    u = np.random.default_rng(0).random(40)
    once, repeated = mean_ci(u), mean_ci(np.repeat(u, 5), np.repeat(np.arange(40), 5))
    assert repeated.se == pytest.approx(once.se, rel=0.02)
    assert mean_ci(np.repeat(u, 5)).se < 0.5 * once.se


def test_diff_ci_without_the_guard_is_the_paired_t() -> None:
    d = np.random.default_rng(3).uniform(-1, 1, 60)
    theirs = stats.ttest_1samp(d, 0)
    mean, variance, df = moments(d, None, ends=(-1, 1), guard=0)
    assert mean / variance**0.5 == pytest.approx(theirs.statistic)
    assert df == theirs.df
    guarded = diff_ci(d)
    assert guarded.value == mean
    assert variance**0.5 <= guarded.se * 1.01
    assert guarded.se == pytest.approx(variance**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_ci([0.5, 1.5]), "not in"),
        (lambda: mean_ci([0.5, -0.5]), "not in"),
        (lambda: mean_ci([0.5]), "at least two"),
        (lambda: mean_ci([0.5, np.nan]), "1 value is not finite"),
        (lambda: mean_ci([[0.5, 0.5]]), "one number per problem"),
        (lambda: mean_ci([0.5, 0.2], ["a", "a"]), "at least two"),
        (lambda: mean_ci([0.5, 0.2], ["a"]), "1 cluster name for 2 problems"),
        (lambda: mean_ci([0.5, 0.2], level=95), "between 0 and 1"),
        (lambda: diff_ci([0.5, 1.2]), "not differences of fractions"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_ratio_ci_is_the_delta_method() -> None:
    rng = np.random.default_rng(4)
    denominator = rng.uniform(0, 1, 200)
    numerator = 0.6 * denominator + rng.normal(0, 0.1, 200)
    interval = ratio_ci(numerator, denominator)
    assert interval.value == pytest.approx(numerator.mean() / denominator.mean())
    # the ratio of 4000 redrawn benchmarks spreads as the standard error says
    place = rng.integers(0, 200, (4000, 200))
    redrawn = numerator[place].mean(axis=1) / denominator[place].mean(axis=1)
    assert interval.se == pytest.approx(redrawn.std(), rel=0.05)
    assert interval.low < 0.6 < interval.high


def test_nothing_to_take_a_share_of_is_refused() -> None:
    with pytest.raises(ValueError, match="0 on average"):
        ratio_ci([0.0, 0.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="2 numerators for 3 denominators"):
        ratio_ci([0.0, 0.0], [0.0, 0.0, 1.0])


@pytest.mark.parametrize("problems", range(2, 60))
@pytest.mark.parametrize("u", [0.0, 1.0])
def test_an_interval_holds_its_value_at_the_ends(problems: int, u: float) -> None:
    interval = mean_ci([u] * problems)
    assert interval.low <= interval.value <= interval.high
