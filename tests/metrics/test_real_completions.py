"""Published numbers from real completions: 50 MATH problems x 8 solutions, with the verdicts and reward-model scores
that came with them."""

import gzip
import json

import numpy as np
import pytest

from harness.metrics.inference import mean_ci, ratio_ci
from harness.metrics.majority import maj_at_k
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.verifier import gain_captured, pair_accuracy

KS = range(1, 9)


@pytest.fixture(scope="module")
def qwen(shared_data):
    """correct, reward, label: (50, 8) each."""
    with gzip.open(shared_data / "math_qwen_rm_first50.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    correct = np.array([row["score"] for row in rows], dtype=float)
    reward = np.array([row["pred_score"] for row in rows])[:, :, 0]
    label = np.array([[row["pred"].index(answer) if answer else -1 for answer in row["pred"]] for row in rows])
    return correct, reward, label


def test_pass_at_k(qwen) -> None:
    correct, _, _ = qwen
    estimate = pass_at_k(8, correct.sum(axis=1), [1, 2, 4, 8]).mean(axis=0)
    np.testing.assert_allclose(estimate, [0.9375, 0.957143, 0.974, 0.98], atol=5e-7)
    interval = mean_ci(pass_at_k(8, correct.sum(axis=1), 1)[:, 0])
    assert interval.low < 0.9375 < interval.high


def test_best_of_8_by_the_reward_model(qwen) -> None:
    correct, reward, _ = qwen
    best = best_at_k(correct, reward, KS)
    assert best[:, -1].mean() == pytest.approx(0.96)
    assert best[:, 0].mean() == pytest.approx(0.9375)
    top = pass_at_k(8, correct.sum(axis=1), KS)
    assert (best <= top + 1e-12).all()
    captured = gain_captured(best, correct.mean(axis=1), top)
    assert captured[1] == pytest.approx(2 * pair_accuracy(correct, reward).by_pair - 1)
    share = ratio_ci(best[:, -1] - correct.mean(axis=1), top[:, -1] - correct.mean(axis=1))
    assert share.value == pytest.approx(captured[-1])


def test_maj_at_8(qwen) -> None:
    correct, _, label = qwen
    majority = maj_at_k(label, correct, KS)
    first_seen = []
    for answers, passed in zip(label.tolist(), correct, strict=True):
        first_seen.append(passed[answers.index(max(answers, key=answers.count))])
    assert np.mean(first_seen) == pytest.approx(0.96)
    counts = [sorted((row.tolist().count(a) for a in set(row.tolist())), reverse=True) for row in label]
    tied = sum(len(c) > 1 and c[0] == c[1] for c in counts)
    assert majority[:, -1].mean() == pytest.approx(0.96, abs=tied / 2 / 50)
    assert (majority <= pass_at_k(8, correct.sum(axis=1), KS) + 1e-12).all()
