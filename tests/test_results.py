"""Records to estimates: unbiased, nothing ungraded counted as wrong, nothing missing hidden."""

import math

import numpy as np
import pytest

from harness.errors import InputError
from harness.estimates import estimate
from harness.evaluate import check_ks
from harness.results import collect, counts, describe, to_json
from harness.types import Completion, Problem, Status, Verdict


def problem(name: str, task: str = "t") -> Problem:
    return Problem(id=name, task=task, prompt="", answer="1")


def records(outcomes: dict[str, str]):
    """`{"a": "10?"}`: problem a has one completion passed, one wrong, one ungraded."""
    completions, verdicts = [], {}
    for name, marks in outcomes.items():
        for index, mark in enumerate(marks):
            completions.append(Completion(problem_id=name, index=index, text="", scores={"reward": index + 0.5}))
            passed = {"1": True, "0": False, "?": None}[mark]
            status = {"1": Status.passed, "0": Status.wrong, "?": Status.sandbox_error}[mark]
            verdicts[name, index] = Verdict(problem_id=name, index=index, passed=passed, status=status)
    return completions, verdicts


def results_of(outcomes, problems=None, **options):
    problems = problems or [problem(name) for name in outcomes]
    return collect(problems, *records(outcomes), **options)


def test_pass_at_k_is_the_mean_over_subsets():
    final = estimate(results_of({"a": "1000", "b": "1100"}), [1, 2])
    assert final.estimates["t"]["pass@1"].value == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert final.estimates["t"]["pass@2"].value == pytest.approx((3 / 6 + 5 / 6) / 2)
    low, high = final.estimates["t"]["pass@1"].low, final.estimates["t"]["pass@1"].high
    assert low is not None
    assert low < 3 / 8 < high


def test_ungraded_completions_are_left_out_and_counted():
    final = estimate(results_of({"a": "1?", "b": "00"}), [1, 2])
    assert final.estimates["t"]["pass@1"].value == pytest.approx(1 / 2)
    assert final.estimates["t"]["pass@2"].value is None
    assert "1 problems have fewer than 2" in final.estimates["t"]["pass@2"].note
    assert counts(final)["t"]["ungraded"] == 1
    assert math.isnan(final.passed_PG[0][1])
    assert to_json(final)["problems"] == {
        "t": {
            "a": {"n": 1, "c": 1, "split": "test", "level": None, "tests": 0},
            "b": {"n": 2, "c": 0, "split": "test", "level": None, "tests": 0},
        }
    }


def test_problems_without_completions_make_a_run_partial():
    final = estimate(results_of({"a": "1", "c": "0"}, [problem("a"), problem("b"), problem("c")]), [1])
    assert counts(final)["t"]["problems"] == 2
    assert counts(final)["t"]["problems_expected"] == 3
    assert "2 of 3 problems (PARTIAL)" in describe(final)


def test_two_tasks_are_kept_apart():
    final = estimate(
        results_of(
            {"a": "1", "b": "1", "c": "0", "d": "0"}, [problem("a"), problem("b"), problem("c", "u"), problem("d", "u")]
        ),
        [1],
    )
    assert {task: metrics["pass@1"].value for task, metrics in final.estimates.items()} == {"t": 1.0, "u": 0.0}


def test_one_problem_has_a_value_and_no_interval():
    only = estimate(results_of({"a": "10"}), [1]).estimates["t"]["pass@1"]
    assert (only.value, only.low, only.high) == (0.5, None, None)
    assert only.note == "one problem: no interval"


def test_scores_are_columns_in_the_order_of_completions_and_n_cuts():
    final = results_of({"a": "101"}, n=2)
    np.testing.assert_array_equal(final.scores["reward"][0], [0.5, 1.5])
    np.testing.assert_array_equal(final.passed_PG[0], [1, 0])


def test_k_beyond_n_is_refused_with_the_numbers():
    check_ks([1, 2], {"a": 2, "b": 3, "c": 0})
    with pytest.raises(InputError, match=r"pass@4 needs 4 .* 2 of 3 problems have fewer \(a has 2\)"):
        check_ks([1, 4], {"a": 2, "b": 3, "c": 4})


def test_verdicts_that_came_along_are_compared():
    completions, verdicts = records({"a": "10"})
    theirs = [Completion(problem_id="a", index=i, text="", scores={"source_passed": 1.0}) for i in range(2)]
    final = collect([problem("a")], theirs, verdicts)
    assert counts(final)["t"]["source_disagreements"] == 1
    assert "source_passed" not in final.scores
    assert counts(collect([problem("a")], completions, verdicts))["t"]["source_disagreements"] is None
