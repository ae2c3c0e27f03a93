"""Verdicts from executions."""

import pytest

from harness.grading.code import verdict
from harness.types import Completion, Execution, Problem, Status
from harness.types import Test as Case

TESTS = tuple(Case(id=str(i), kind="stdio", input="", expected="") for i in range(3))
PROBLEM = Problem(id="p", task="t", prompt="", tests=TESTS)
COMPLETION = Completion(problem_id="p", index=4, text="")


def executions(*statuses: str) -> list[Execution]:
    return [
        Execution(problem_id="p", index=4, test_id=str(i), status=Status(status), detail=f"detail {i}")
        for i, status in enumerate(statuses)
    ]


@pytest.mark.parametrize(
    ("statuses", "passed", "status", "detail"),
    [
        (("passed",) * 3, True, "passed", ""),
        (("passed", "wrong"), False, "wrong", "detail 1"),
        (("timeout",), False, "timeout", "detail 0"),
        (("passed", "memory", "wrong"), False, "memory", "detail 1"),
        (("wrong", "sandbox_error"), None, "sandbox_error", "detail 1"),
        (("passed", "passed", "sandbox_error"), None, "sandbox_error", "detail 2"),
        (("passed", "passed"), None, "sandbox_error", "2 executions"),
        ((), None, "sandbox_error", "0 executions"),
        (("passed",) * 4, None, "sandbox_error", "4 executions"),
    ],
)
def test_passed_means_every_test(statuses: tuple[str, ...], passed: bool | None, status: str, detail: str) -> None:
    found = verdict(PROBLEM, COMPLETION, executions(*statuses))
    assert (found.passed, found.status) == (passed, status)
    assert found.detail.startswith(detail)
    assert (found.problem_id, found.index) == ("p", 4)


def test_a_problem_without_tests_is_never_passed() -> None:
    found = verdict(Problem(id="p", task="t", prompt=""), COMPLETION, [])
    assert found.passed is None


def test_one_execution_does_not_count_for_two_tests() -> None:
    repeated = executions("passed")[0]
    assert verdict(PROBLEM, COMPLETION, [repeated] * 3).passed is None
