"""Published numbers from real completions and the verdicts that came with them: 50 MATH problems x 8 solutions with
reward-model scores, 660 GSM8K problems solved by four systems, 82 HumanEval problems x 100 programs."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from harness.metrics.inference import diff_ci, mean_ci, ratio_ci
from harness.metrics.majority import maj_at_k
from harness.metrics.significance import holm, p_value, sign_flip
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.verifier import gain_captured, pair_accuracy

KS = range(1, 9)


def read(path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def qwen(shared_data):
    """correct, reward, label: (50, 8) each."""
    rows = read(shared_data / "math_qwen_rm_first50.jsonl.gz")
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
    curve = [0.9375, 0.952857, 0.958214, 0.959714, 0.96, 0.96, 0.96, 0.96]
    np.testing.assert_allclose(best.mean(axis=0), curve, atol=5e-7)
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


def test_a_verifier_on_gsm8k_as_paired_comparisons(shared_data) -> None:
    rows = read(shared_data / "gsm8k_model_solutions_even.jsonl.gz")
    passed = {
        name: np.array([row[name]["is_correct"] for row in rows], dtype=float)
        for name in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    }
    solved = [u.mean() for u in passed.values()]
    np.testing.assert_allclose(solved, [0.21970, 0.38939, 0.31970, 0.56515], atol=5e-6)
    pairs = [
        ("6b_finetuning", "6b_verification"),
        ("175b_finetuning", "175b_verification"),
        ("175b_finetuning", "6b_verification"),
    ]
    d = [passed[treat] - passed[base] for base, treat in pairs]
    p = [p_value(diff_ci(x)) for x in d]
    np.testing.assert_allclose([x.mean() for x in d], [0.16970, 0.24545, 0.06970], atol=5e-6)
    assert p[0] < 1e-12
    assert p[1] < 1e-12
    assert p[2] == pytest.approx(stats.ttest_1samp(d[2], 0).pvalue, rel=0.01)
    assert holm(p)[2] == p[2] < 0.01
    assert all(sign_flip(x) < 0.01 for x in d)


def test_pass_at_k_of_codegen_on_humaneval(shared_data) -> None:
    rows = read(shared_data / "humaneval_codegen16b_even_verdicts.jsonl.gz")
    correct = Counter(row["task_id"] for row in rows if row["passed"])
    tasks = {row["task_id"] for row in rows}
    assert len(tasks) == 82
    assert len(rows) == 8200
    estimate = pass_at_k(100, [correct[task] for task in sorted(tasks)], [1, 10, 100]).mean(axis=0)
    np.testing.assert_allclose(100 * estimate, [23.4390, 54.2362, 79.2683], atol=5e-5)
