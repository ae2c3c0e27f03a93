"""A small simulation of coverage and of the type-I error; tests/benchmarks/coverage.py is the large one."""

import numpy as np
import pytest

from harness.metrics.gaps import did_ci
from harness.metrics.inference import diff_ci, mean_ci
from harness.metrics.significance import p_value, sign_flip
from harness.metrics.subsets import pass_at_k

REPEATS = 600


@pytest.mark.parametrize(
    ("alpha", "beta", "problems", "n", "k"),
    [
        (0.6, 0.6, 100, 8, 1),
        (0.6, 0.6, 100, 8, 4),
        (0.1, 1.9, 164, 10, 1),
        (1.9, 0.1, 100, 32, 8),
        (0.3, 0.7, 50, 1, 1),
    ],
)
def test_the_interval_of_a_mean_covers(alpha, beta, problems, n, k) -> None:
    rng = np.random.default_rng(problems + k)
    truth = 1 - np.prod([(beta + j) / (alpha + beta + j) for j in range(k)])
    covered = 0
    for _ in range(REPEATS):
        c = rng.binomial(n, rng.beta(alpha, beta, problems))
        interval = mean_ci(pass_at_k(n, c, k)[:, 0])
        covered += interval.low <= truth <= interval.high
    assert 0.925 <= covered / REPEATS <= 0.985


def test_clusters_are_covered_only_when_named() -> None:
    rng = np.random.default_rng(1)
    named = unnamed = 0
    for _ in range(REPEATS):
        cluster = np.repeat(np.arange(40), rng.integers(1, 10, 40))
        u = rng.binomial(8, rng.beta(0.6, 0.6, 40)[cluster]) / 8
        both = mean_ci(u, cluster), mean_ci(u)
        named += both[0].low <= 0.5 <= both[0].high
        unnamed += both[1].low <= 0.5 <= both[1].high
    assert 0.92 <= named / REPEATS <= 0.98
    assert unnamed / REPEATS < 0.8


@pytest.mark.parametrize(("problems", "n"), [(164, 1), (164, 10), (50, 4)])
def test_paired_comparisons_of_equals_reject_one_in_twenty(problems, n) -> None:
    rng = np.random.default_rng(n)
    t, flips = 0, 0
    for _ in range(REPEATS):
        p = rng.beta(0.6, 0.6, problems)
        d = (rng.binomial(n, p) - rng.binomial(n, p)) / n
        t += p_value(diff_ci(d)) < 0.05
        flips += sign_flip(d, resamples=199, rng=rng) < 0.05
    assert 0.025 <= t / REPEATS <= 0.07
    assert 0.015 <= flips / REPEATS <= 0.07


def test_differences_in_differences_cover() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(REPEATS):
        arms = []
        for problems in (300, 100):
            p = rng.beta(0.6, 0.6, problems)
            arms += [rng.binomial(4, p + 0.1 * (1 - p)) / 4, rng.binomial(4, p) / 4]
        interval = did_ci(*arms)
        covered += interval.low <= 0 <= interval.high
    assert 0.925 <= covered / REPEATS <= 0.98
