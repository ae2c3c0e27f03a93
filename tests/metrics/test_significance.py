"""p-values against scipy's, enumeration and hand calculation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from harness.metrics.inference import Interval, diff_ci
from harness.metrics.significance import bh, holm, p_value, sign_flip


def test_p_value_is_where_the_interval_ends() -> None:
    d = np.random.default_rng(0).uniform(-0.5, 0.7, 80)
    p = p_value(diff_ci(d))
    edge = diff_ci(d, level=1 - p)
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)
    assert p_value(diff_ci(d), null=diff_ci(d).low) == pytest.approx(0.05)
    assert p_value(Interval(0.0, 0.0, 0.0, 0.0, 1, "")) == 1


@pytest.mark.parametrize("seed", range(5))
def test_sign_flip_counts_every_pattern_when_there_are_few(seed) -> None:
    d = np.random.default_rng(seed).integers(-3, 4, 10) / 8
    sums = [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product((-1, 1), repeat=10)]
    assert sign_flip(d) == np.mean(np.abs(sums) >= abs(d.sum()))


def test_sign_flip_equals_scipy_within_the_noise_of_drawing() -> None:
    d = np.random.default_rng(1).normal(0.1, 0.5, 60)
    theirs = stats.permutation_test(
        (d, np.zeros_like(d)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    ).pvalue
    assert sign_flip(d) == pytest.approx(theirs, abs=0.02)
    assert sign_flip(d) == sign_flip(d, rng=0)
    assert sign_flip(d) == pytest.approx(p_value(diff_ci(np.clip(d, -1, 1))), abs=0.03)


def test_sign_flip_ignores_problems_that_did_not_change_and_is_never_zero() -> None:
    d = np.array([0.5, 0.25, -0.25])
    assert sign_flip(np.concatenate([d, np.zeros(500)])) == sign_flip(d)
    assert sign_flip(np.zeros(5)) == 1
    assert sign_flip(np.full(200, 0.3), resamples=99) == pytest.approx(0.01)


def test_holm_by_hand_and_against_bonferroni() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    p = np.random.default_rng(0).random(50)
    assert (holm(p) <= np.minimum(1, 50 * p) + 1e-15).all()
    assert (holm(p) >= p).all()
    assert (np.diff(holm(p)[np.argsort(p)]) >= 0).all()


def test_bh_by_hand() -> None:
    np.testing.assert_allclose(bh([0.01, 0.04, 0.03, 0.005]), [0.02, 0.04, 0.04, 0.02])


@pytest.mark.parametrize("adjust", [holm, bh])
@pytest.mark.parametrize("p", [[], [1.2], [-0.1], [np.nan], [[0.1]]])
def test_what_is_no_family_of_p_values_is_refused(adjust, p) -> None:
    with pytest.raises(ValueError, match="numbers in"):
        adjust(p)


def test_rounding_is_no_difference() -> None:
    d = np.full(20, 2e-17)
    assert sign_flip(d) == 1.0
    assert sign_flip([*d, 0.5, 0.5]) == sign_flip([0.5, 0.5]) == 0.5
