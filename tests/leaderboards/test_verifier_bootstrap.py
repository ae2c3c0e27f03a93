"""Intervals over problems of what is pooled over completions: equal to scipy's, and to the metrics that they are of."""

import numpy as np
import pytest
from scipy import stats

from harness.leaderboards.verifier import bootstrap
from harness.leaderboards.verifier.bootstrap import auroc, average_precision, pairs, ratio, resampled
from harness.metrics import verifier as metrics


@pytest.fixture(scope="module")
def ragged():
    """Problems with 1 to 9 completions, equal scores among them."""
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 10, 30)
    correct = [rng.integers(0, 2, n).astype(float) for n in sizes]
    return correct, [np.round(row + rng.normal(0, 1, len(row)), 1) for row in correct]


def test_weighted_statistics_count_problems_as_often_as_the_weights_say(ragged):
    correct, score = ragged
    weights = np.random.default_rng(1).integers(0, 4, (5, len(correct)))
    for row in weights:
        again = [[each for each, times in zip(rows, row, strict=True) for _ in range(times)] for rows in ragged]
        found = [float(each(correct, score)(row[None].astype(float))[0]) for each in (auroc, average_precision)]
        assert found == pytest.approx([metrics.auroc(*again), metrics.average_precision(*again)])
        found = float(ratio(*pairs(correct, score))(row[None].astype(float))[0])
        assert found == pytest.approx(metrics.pair_accuracy(*again).by_pair)


def test_intervals_are_scipys_bca_over_problems(ragged):
    correct, score = ragged
    number = resampled(auroc(correct, score), len(correct))

    def of(places):
        return metrics.auroc([correct[i] for i in places], [score[i] for i in places])

    wanted = stats.bootstrap(
        (np.arange(len(correct)),), of, vectorized=False, n_resamples=2999, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (number.low, number.high) == pytest.approx((wanted.low, wanted.high), abs=0.015)
    assert number.low < number.value < number.high
    assert resampled(auroc(correct, correct), len(correct)).low is None  # nothing varies: no interval
    lonely = [np.array([1.0, 0.0])] + [np.ones(2)] * 9
    assert resampled(ratio(*pairs(lonely, lonely)), 10).low is None  # one problem has all the pairs


def test_skewed_numbers_have_skewed_intervals(monkeypatch):
    """Where the plain percentile interval is wrong: few numbers, one of them large."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 9999)
    x = np.random.default_rng(7).exponential(size=25) ** 2
    number = resampled(ratio(x, np.ones(25)), 25)
    wanted = stats.bootstrap((x,), np.mean, n_resamples=9999, rng=np.random.default_rng(2))
    found = wanted.confidence_interval
    plain = np.quantile(wanted.bootstrap_distribution, [0.025, 0.975])
    assert (number.low, number.high) == pytest.approx((found.low, found.high), rel=0.05)
    assert number.low > 1.1 * plain[0]
    assert number.high > 1.1 * plain[1]
