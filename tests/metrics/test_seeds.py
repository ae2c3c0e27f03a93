"""Intervals over training seeds: limits that must hold, and coverage where problem-level intervals fail."""

import numpy as np
import pytest
from scipy import stats

from harness.metrics.inference import diff_ci
from harness.metrics.seeds import seeds_ci


def trainings(rng, seeds: int, problems: int, *, seed_sd: float, logit_P):
    """Success rates of one arm: a luck of its own per seed, 4 samples per problem. (S, P)"""
    luck = rng.normal(0, seed_sd, (seeds, 1))
    return rng.binomial(4, 1 / (1 + np.exp(-(logit_P + luck)))) / 4


def test_on_these_problems_it_is_the_two_sample_t_over_seed_means() -> None:
    rng = np.random.default_rng(0)
    base, treat = rng.random((4, 30)), rng.random((6, 30)) + 0.1
    ours = seeds_ci(base, treat, new_problems=False)
    theirs = stats.ttest_ind(treat.mean(axis=1), base.mean(axis=1), equal_var=False)
    assert ours.value / ours.se == pytest.approx(theirs.statistic)
    assert ours.df == pytest.approx(theirs.df)


def test_new_problems_make_it_no_narrower() -> None:
    rng = np.random.default_rng(1)
    base, treat = rng.random((5, 40)), rng.random((5, 40)) + rng.normal(0, 0.3, 40)
    assert seeds_ci(base, treat).se > seeds_ci(base, treat, new_problems=False).se


def test_its_variance_counts_noise_once() -> None:
    """Problems gain unequally and one sample is noisy: the squared error must average the variance of the estimate."""
    rng = np.random.default_rng(3)
    values, squares = [], []
    for _ in range(600):
        gain = rng.normal(0, 0.2, 60)
        base, treat = rng.normal(0, 0.5, (3, 60)), gain + rng.normal(0, 0.5, (3, 60))
        interval = seeds_ci(base, treat)
        values.append(interval.value)
        squares.append(interval.se**2)
    assert np.mean(squares) == pytest.approx(np.var(values), rel=0.15)


def test_it_covers_where_the_problem_level_interval_does_not() -> None:
    rng = np.random.default_rng(2)
    covered, naive, repeats = 0, 0, 400
    for _ in range(repeats):
        logit_P = rng.normal(0, 1.5, 100)
        base, treat = (trainings(rng, 5, 100, seed_sd=0.3, logit_P=logit_P) for _ in range(2))
        both = seeds_ci(base, treat), diff_ci(treat.mean(axis=0) - base.mean(axis=0))
        covered += both[0].low < 0 < both[0].high
        naive += both[1].low < 0 < both[1].high
    assert 0.92 < covered / repeats < 0.985
    assert naive / repeats < 0.75


@pytest.mark.parametrize(
    ("base", "treat", "message"),
    [
        (np.zeros((1, 5)), np.zeros((3, 5)), "at least 2 seeds"),
        (np.zeros((2, 5)), np.zeros((2, 6)), "base has 5 problems and treat 6"),
        (np.zeros((2, 5)), np.full((2, 5), np.nan), "not finite"),
        (np.zeros(5), np.zeros(5), "shape"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(base, treat, message) -> None:
    with pytest.raises(ValueError, match=message):
        seeds_ci(base, treat)
