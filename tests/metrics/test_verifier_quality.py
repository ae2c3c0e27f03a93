"""Measures of a score against their definitions, pair by pair and threshold by threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.verifier import (
    auroc,
    average_precision,
    brier,
    calibration,
    fpr_at,
    gain_captured,
    pair_accuracy,
    thresholds,
)

one_sample = st.tuples(st.booleans(), st.integers(0, 4))
problem = st.lists(one_sample, min_size=3, max_size=6)


def columns(problems):
    correct = [np.array([c for c, _ in samples]) for samples in problems]
    return correct, [np.array([s / 4 for _, s in samples]) for samples in problems]


def pairs_of(correct, score) -> list[float]:
    """1, 1/2 or 0 for every (correct, wrong) pair."""
    good, bad = score[correct], score[~correct]
    return [float(g > b) + 0.5 * float(g == b) for g in good for b in bad]


@given(st.lists(problem, min_size=1, max_size=6))
def test_auroc_and_pair_accuracy_count_pairs(problems) -> None:
    correct, score = columns(problems)
    pooled = pairs_of(np.concatenate(correct), np.concatenate(score))
    if pooled:
        assert auroc(correct, score) == pytest.approx(np.mean(pooled))
    inside = [pairs_of(c, s) for c, s in zip(correct, score, strict=True)]
    mixed = [pairs for pairs in inside if pairs]
    if mixed:
        ours = pair_accuracy(correct, score)
        assert ours.by_pair == pytest.approx(np.mean(np.concatenate(mixed)))
        assert ours.by_problem == pytest.approx(np.mean([np.mean(pairs) for pairs in mixed]))
        assert ours.problems == len(mixed)


def test_gain_captured_at_two_is_twice_the_pair_accuracy_less_one() -> None:
    rng = np.random.default_rng(0)
    correct, score = rng.random((30, 7)) < rng.random((30, 1)), rng.integers(0, 4, (30, 7))
    best, top = best_at_k(correct, score, [2]), pass_at_k(7, correct.sum(axis=1), [2])
    captured = gain_captured(best, correct.mean(axis=1), top)
    assert captured[0] == pytest.approx(2 * pair_accuracy(correct, score).by_pair - 1)


def test_gain_captured_of_an_oracle_is_one_and_of_nothing_to_gain_is_unknown() -> None:
    correct = np.array([[1, 0, 0], [1, 1, 0]])
    top = pass_at_k(3, correct.sum(axis=1), [1, 2, 3])
    np.testing.assert_allclose(gain_captured(top, correct.mean(axis=1), top), [np.nan, 1, 1])


def test_knowing_only_which_problems_are_easy_is_no_selection() -> None:
    rng = np.random.default_rng(1)
    difficulty = rng.random((300, 1))
    correct = rng.random((300, 8)) < difficulty
    score = np.broadcast_to(difficulty, correct.shape)
    assert auroc(correct, score) > 0.75
    assert pair_accuracy(correct, score).by_pair == 0.5


@given(st.lists(one_sample, min_size=2, max_size=30).filter(lambda samples: any(c for c, _ in samples)))
def test_thresholds_and_average_precision_by_definition(samples) -> None:
    (correct,), (score,) = columns([samples])
    curve = thresholds([correct], [score])
    assert curve.threshold.tolist() == sorted(set(score.tolist()), reverse=True)
    area, recall_before = 0.0, 0.0
    for place, threshold in enumerate(curve.threshold):
        accepted = score >= threshold
        recall, precision = correct[accepted].sum() / correct.sum(), correct[accepted].mean()
        assert curve.tpr[place] == pytest.approx(recall)
        assert curve.precision[place] == pytest.approx(precision)
        if (~correct).any():
            assert curve.fpr[place] == pytest.approx((accepted & ~correct).sum() / (~correct).sum())
        area += (recall - recall_before) * precision
        recall_before = recall
    assert average_precision([correct], [score]) == pytest.approx(area)


def test_fpr_at_takes_the_strictest_threshold_that_is_enough() -> None:
    correct, score = [[1, 1, 0, 1, 0, 1]], [[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]
    assert fpr_at(correct, score, tpr=0.5) == (0.8, 0.0)
    assert fpr_at(correct, score, tpr=0.75) == (0.6, 0.5)
    assert fpr_at(correct, score, tpr=1.0) == (0.4, 1.0)


def test_brier_and_calibration_by_hand() -> None:
    correct, score = [[1, 0, 1, 1]], [[0.8, 0.2, 0.8, 0.4]]
    assert brier(correct, score) == pytest.approx((0.04 + 0.04 + 0.04 + 0.36) / 4)
    result = calibration(correct, score, bins=1)
    assert result.ece == pytest.approx(0.75 - 0.55)
    assert result.ece_squared == pytest.approx(0.2**2 - 0.75 * 0.25 / 3)
    np.testing.assert_allclose(result.table_B3, [[0.55, 0.75, 4]])


def test_a_calibrated_score_has_a_biased_ece_and_an_unbiased_square() -> None:
    rng = np.random.default_rng(2)
    results = []
    for _ in range(300):
        score = rng.random((1, 1000))
        results.append(calibration(rng.random((1, 1000)) < score, score))
    assert np.mean([r.ece for r in results]) == pytest.approx(0.038, abs=0.004)
    assert abs(np.mean([r.ece_squared for r in results])) < 2e-4


def test_equal_scores_share_a_bin() -> None:
    score = np.repeat([0.1, 0.5, 0.9], [50, 50, 50])[None]
    table = calibration(score > 0.4, score, bins=15).table_B3
    np.testing.assert_allclose(table[:, [0, 2]], [[0.1, 50], [0.5, 50], [0.9, 50]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([[1, 1]], [[0.1, 0.2]]), "there are 2 and 0"),
        (lambda: pair_accuracy([[1, 1], [0, 0]], [[0.1, 0.2], [0.1, 0.2]]), "no problem has both"),
        (lambda: thresholds([[0, 0]], [[0.1, 0.2]]), "at least one correct"),
        (lambda: auroc([[1, 0]], [[0.1, np.nan]]), "score holds NaN"),
        (lambda: auroc([[1, 0.5]], [[0.1, 0.2]]), "0 or 1"),
        (lambda: auroc([[1, 0]], [[0.1]]), "differ in shape"),
        (lambda: brier([[1, 0]], [[0.1, 3.5]]), "not probabilities"),
        (lambda: calibration([[1, 0]], [[0.1, 0.2]], bins=0), "at least one bin"),
        (lambda: fpr_at([[1, 0]], [[0.1, 0.2]], tpr=0), "tpr"),
        (lambda: gain_captured([[0.5]], [0.5, 0.5], [[0.5]]), "must be"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
