"""The verdict on a completion from the executions of its program: passed if and only if it passed every test.

Main function: `verdict`. Statuses were decided by the sandbox's judge; here they are only put together. Not handled:
partial credit, and which tests count (the problem's tests all do).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.types import Completion, Execution, Problem, Status, Verdict


def verdict(problem: Problem, completion: Completion, executions: Sequence[Execution]) -> Verdict:
    """One verdict. `executions` are in the order of the problem's tests, up to where the sandbox stopped.

    The status is that of the first one not passed. A failure of the sandbox leaves the completion ungraded (None), not
    wrong; so do executions that don't match the tests one to one though all of them passed.
    """
    broken = next((one for one in executions if one.status == Status.sandbox_error), None)
    failed = broken or next((one for one in executions if one.status != Status.passed), None)
    if failed is not None:
        return _verdict(completion, None if broken else False, failed.status, failed.detail)
    if not problem.tests or [one.test_id for one in executions] != [test.id for test in problem.tests]:
        detail = f"{len(executions)} executions do not match the problem's {len(problem.tests)} tests"
        return _verdict(completion, None, Status.sandbox_error, detail)
    return _verdict(completion, True, Status.passed, "")


def _verdict(completion: Completion, passed: bool | None, status: Status, detail: str) -> Verdict:
    return Verdict(
        problem_id=completion.problem_id, index=completion.index, passed=passed, status=status, detail=detail
    )
