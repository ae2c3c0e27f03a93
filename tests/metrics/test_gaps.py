"""Train against test: Welch's test, difference in differences, slopes, and gaps at equal difficulty."""

import numpy as np
import pytest
from scipy import stats

from harness.metrics.gaps import did_ci, gap_ci, matched_gap, slopes, standardised_gap, welch
from harness.metrics.inference import diff_ci, moments


def test_welch_without_the_guard_is_scipys() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.random(40), 0.3 * rng.random(90)
    a, b = (moments(x, None, ends=(0, 1), guard=0) for x in (train, test))
    variance, df = welch([(a.variance, a.df), (b.variance, b.df)])
    theirs = stats.ttest_ind(train, test, equal_var=False)
    assert (a.mean - b.mean) / variance**0.5 == pytest.approx(theirs.statistic)
    assert df == pytest.approx(theirs.df)
    guarded = gap_ci(train, test)
    assert guarded.value == pytest.approx(a.mean - b.mean)
    assert guarded.se == pytest.approx(variance**0.5, rel=0.05)


def test_did_is_the_gap_of_paired_differences_and_gains_from_the_pairing() -> None:
    rng = np.random.default_rng(1)
    base_train, base_test = rng.random(300), rng.random(150)
    treat_train = np.clip(base_train + 0.1 + rng.normal(0, 0.02, 300), 0, 1)
    treat_test = np.clip(base_test + 0.1 + rng.normal(0, 0.02, 150), 0, 1)
    did = did_ci(treat_train, base_train, treat_test, base_test)
    paired = gap_ci(treat_train - base_train, treat_test - base_test, ends=(-1, 1))
    assert (did.value, did.low, did.high) == (paired.value, paired.low, paired.high)
    unpaired = (gap_ci(treat_train, treat_test).se ** 2 + gap_ci(base_train, base_test).se ** 2) ** 0.5
    assert did.se < unpaired / 3
    assert did.low < 0 < did.high


def test_clusters_reach_the_gap() -> None:
    rng = np.random.default_rng(6)
    train, test = np.repeat(rng.random(30), 4), rng.random(50)
    clustered = gap_ci(train, test, cluster_train=np.repeat(np.arange(30), 4))
    assert clustered.se > 1.3 * gap_ci(train, test).se


def test_slopes_are_least_squares_and_drop_problem_effects() -> None:
    rng = np.random.default_rng(2)
    u_TP = rng.random((5, 7))
    times = [0, 1, 2, 4, 8]
    fitted = [stats.linregress(times, u_TP[:, p]).slope for p in range(7)]
    np.testing.assert_allclose(slopes(u_TP, times), fitted)
    np.testing.assert_allclose(slopes(u_TP + rng.random(7)), slopes(u_TP), atol=1e-12)
    rising = np.linspace(0.2, 0.6, 5)[:, None] + rng.normal(0, 0.02, (5, 50))
    interval = diff_ci(slopes(rising))
    assert interval.low < 0.1 < interval.high


def test_standardised_gap_by_hand() -> None:
    train, test = [1.0, 0.8, 0.4, 0.4, 0.9], [0.5, 0.7, 0.2, 0.2, 0.4, 0.4, 0.0]
    interval, share = standardised_gap(train, test, ["e", "e", "h", "h", "x"], ["e", "e", "h", "h", "h", "h", "y"])
    assert interval.value == pytest.approx(2 / 6 * (0.9 - 0.6) + 4 / 6 * (0.4 - 0.3))
    assert share == pytest.approx(6 / 7)
    easy, hard = gap_ci(train[:2], test[:2]), gap_ci(train[2:4], test[2:6])
    assert interval.se**2 == pytest.approx((2 / 6 * easy.se) ** 2 + (4 / 6 * hard.se) ** 2)
    one_bin, whole = standardised_gap(train, test, [0] * 5, [0] * 7)
    assert whole == 1
    plain = gap_ci(train, test)
    assert (one_bin.value, one_bin.low, one_bin.high) == pytest.approx((plain.value, plain.low, plain.high))


def confounded(rng, problems: int, *, easier: float, n_base: int):
    """An outcome that depends on difficulty alone, and base counts: the true matched gap is 0."""
    p = rng.beta(1.2 + easier, 1.2, problems)
    return rng.binomial(16, p**1.5) / 16, rng.binomial(n_base, p)


def test_matched_gap_removes_a_difference_in_difficulty_that_bins_leave() -> None:
    rng = np.random.default_rng(3)
    matched, binned, raw = [], [], []
    for _ in range(20):
        train, c_train = confounded(rng, 600, easier=2.0, n_base=4)
        test, c_test = confounded(rng, 400, easier=0.0, n_base=4)
        matched.append(matched_gap(train, test, c_train, c_test, n_base=4, resamples=2).value)
        binned.append(standardised_gap(train, test, c_train, c_test)[0].value)
        raw.append(train.mean() - test.mean())
    assert np.mean(raw) > 0.2
    assert np.mean(binned) > 0.04
    assert abs(np.mean(matched)) < 0.012


def test_matched_gap_finds_a_gap_and_brackets_it() -> None:
    rng = np.random.default_rng(4)
    train, c_train = confounded(rng, 500, easier=1.0, n_base=16)
    test, c_test = confounded(rng, 500, easier=0.0, n_base=16)
    interval = matched_gap(train + 0.1, test, c_train, c_test, n_base=16, resamples=199)
    assert interval.low < 0.1 < interval.high
    assert interval.high - interval.low < 0.1
    assert interval == matched_gap(train + 0.1, test, c_train, c_test, n_base=16, resamples=199)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gap_ci([0.5], [0.5, 0.2]), "at least two"),
        (lambda: did_ci([0.5, 0.2], [0.5], [0.1, 0.2], [0.1, 0.2]), "at least two"),
        (lambda: did_ci([0.5, 0.2], [0.5, 0.1, 0.1], [0.1, 0.2], [0.1, 0.2]), "train: 2 treated and 3 base"),
        (lambda: slopes([[0.5, 0.5]]), "two distinct iterations"),
        (lambda: slopes([[0.5], [0.5]], [1, 2, 3]), "3 iterations are named and 2 are given"),
        (lambda: slopes([[0.5], [np.nan]]), "finite"),
        (lambda: standardised_gap([0.5, 0.1], [0.5, 0.1], ["a", "a"], ["b", "b"]), "no bin holds"),
        (lambda: standardised_gap([0.5, 0.1], [0.5, 0.1], ["a"], ["b", "b"]), "one bin"),
        (lambda: matched_gap([0.5, 0.1], [0.5, 0.1], [1, 5], [1, 2], n_base=4), "between 0 and n_base=4"),
        (lambda: matched_gap([0.5, 0.1], [0.5, 0.1], [1, 2, 3], [1, 2], n_base=4), "2 problems need 2 base counts"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
