"""Variance parts against the truth of simulated benchmarks, and the detectable effect against the power it promises."""

import numpy as np
import pytest
from scipy import stats

from harness.metrics.inference import diff_ci
from harness.metrics.majority import maj_at_k
from harness.metrics.power import between_by_halves, mde, se_rerun, variance_parts
from harness.metrics.significance import p_value
from harness.metrics.subsets import pass_at_k


@pytest.mark.parametrize("k", [1, 3, 10])
def test_variance_within_a_problem_is_unbiased(k) -> None:
    """Exactly: its expectation over all counts of one problem is the variance of the pass@k estimate."""
    n, c = 20, np.arange(21)
    for p in (0.05, 0.3, 0.8):
        chance = stats.binom.pmf(c, n, p)
        estimate = pass_at_k(n, c, k)[:, 0]
        truth = chance @ (estimate - chance @ estimate) ** 2
        each = [variance_parts(n, [i, i], k)[0] for i in c]
        assert chance @ each == pytest.approx(truth, abs=1e-12)


def test_at_one_sample_it_is_the_binomial_variance() -> None:
    within, _ = variance_parts(10, [3, 3], 1)
    assert within == pytest.approx(0.3 * 0.7 / 9)


def test_parts_add_up_to_the_spread_and_find_the_true_one() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.6, 0.6, 4000)
    c = rng.binomial(20, p)
    within, between = variance_parts(20, c, 3)
    assert within + between == pytest.approx(pass_at_k(20, c, 3)[:, 0].var(ddof=1))
    assert between == pytest.approx(((1 - p) ** 3).var(), rel=0.05)
    assert se_rerun(within, 4000) == pytest.approx((within / 4000) ** 0.5)
    assert se_rerun(-1e-9, 10) == 0


def test_halves_find_the_variance_of_the_true_values_of_any_metric() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet([0.6, 0.6, 0.6], 1500)
    label = (rng.random((1500, 16))[:, :, None] > np.cumsum(p, axis=1)[:, None, :]).sum(axis=2)
    halves = [maj_at_k(label[:, s], label[:, s] == 0, 4)[:, 0] for s in (slice(0, 8), slice(8, 16))]
    many = (rng.random((1500, 64))[:, :, None] > np.cumsum(p, axis=1)[:, None, :]).sum(axis=2)
    truth = maj_at_k(many, many == 0, 4)[:, 0].var()
    assert between_by_halves(*halves) == pytest.approx(truth, rel=0.08)


def test_mde_is_the_published_table_and_what_it_promises() -> None:
    for problems, n, small, large in [(30, 1, 0.268, 0.272), (164, 16, 0.031, 0.036), (1319, 4, 0.020, 0.022)]:
        assert mde(problems, n, within=2 * 0.136, between=0.05**2) == pytest.approx(small, abs=6e-4)
        assert mde(problems, n, within=2 * 0.136, between=0.10**2) == pytest.approx(large, abs=6e-4)
    rng = np.random.default_rng(2)
    effect = mde(200, 8, within=2 * 0.25, between=0.1**2)
    found = 0
    for _ in range(400):
        delta = effect + rng.normal(0, 0.1, 200)
        base, treat = rng.binomial(8, 0.5, 200) / 8, rng.binomial(8, np.clip(0.5 + delta, 0, 1)) / 8
        found += p_value(diff_ci(treat - base)) < 0.05
    assert 0.73 < found / 400 < 0.88


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variance_parts([8, 3, 5], [1, 1, 1], 3), "needs 6 samples; 2 problems have fewer"),
        (lambda: between_by_halves([0.1, 0.2], [0.1, 0.2, 0.3]), "cannot be paired"),
        (lambda: mde(1, 4, within=0.1, between=0.1), "problems=1"),
        (lambda: mde(10, 4, within=-0.1, between=0.1), "within=-0.1"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
