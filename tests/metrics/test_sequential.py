"""Stopping rules: exact expectations by path counting, and coverage of an interval that is looked at all the time."""

import math

import numpy as np
import pytest

from harness.metrics.sequential import confidence_sequence, path_counts, unbiased_pass_at_k
from harness.metrics.subsets import pass_at_k


def fixed(c: int, f: int) -> bool:
    return False


def three_successes(c: int, f: int) -> bool:
    return c == 3


def unanimous_at_8(c: int, f: int) -> bool:
    return c + f == 8 and (c == 0 or f == 0)


def test_a_fixed_number_of_samples_gives_the_usual_pass_at_k() -> None:
    for k in (1, 3, 10):
        estimate = unbiased_pass_at_k(fixed, 10, k=k)
        usual = pass_at_k(10, np.arange(11), k)[:, 0]
        assert [estimate[c, 10 - c] for c in range(11)] == pytest.approx(usual.tolist(), abs=1e-12)


@pytest.mark.parametrize(("rule", "k"), [(fixed, 4), (three_successes, 4), (unanimous_at_8, 4), (unanimous_at_8, 8)])
def test_it_is_unbiased_under_any_rule(rule, k) -> None:
    estimate, paths = unbiased_pass_at_k(rule, 32, k=k), path_counts(rule, 32)
    for p in (0.02, 0.1, 0.5, 0.9):
        chance = {(c, f): ways * p**c * (1 - p) ** f for (c, f), ways in paths.items()}
        assert math.fsum(chance.values()) == pytest.approx(1)
        expected = math.fsum(chance[point] * estimate[point] for point in chance)
        assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-10)


def test_a_rule_that_may_stop_too_early_is_refused() -> None:
    with pytest.raises(ValueError, match="stops after 2 failures, before k=4"):
        unbiased_pass_at_k(lambda c, f: f == 2, 32, k=4)
    with pytest.raises(ValueError, match=r"must lie in 1\.\.8"):
        unbiased_pass_at_k(fixed, 8, k=9)


def test_confidence_sequence_holds_at_every_look() -> None:
    rng = np.random.default_rng(0)
    n = np.arange(1, 501)
    for p in (0.1, 0.5):
        c = np.cumsum(rng.random((300, 500)) < p, axis=1)
        low, high = confidence_sequence(c, n)
        missed = ((low > p) | (high < p)).any(axis=1).mean()
        assert missed < 0.06
        assert (low <= c / n).all()
        assert (high >= c / n).all()
    assert (high - low)[:, 163].mean() / 2 == pytest.approx(0.13, abs=0.005)


def test_confidence_sequence_at_the_ends() -> None:
    low, high = confidence_sequence([0, 10, 0], [10, 10, 0])
    assert low[0] == 0
    assert high[1] == 1
    assert (low[2], high[2]) == (0, 1)
    with pytest.raises(ValueError, match="c must lie"):
        confidence_sequence(3, 2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        confidence_sequence(1, 2, level=95)
