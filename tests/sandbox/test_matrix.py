"""Every program x test: with `all_tests` nothing is left out, and what each test gave, took and ran is kept."""

from collections.abc import Iterator
from typing import Any

import pytest

from harness.sandbox import open_sandbox
from harness.sandbox.pool import Pool
from harness.types import Limits
from harness.types import Test as Case

CALLS = [Case(id=str(n), kind="call", input=[n], expected=n * n) for n in range(5)]
ODD = """
import os, time
def f(x):
    if x == 1:
        return x + 1
    if x == 2:
        raise ValueError
    if x == 3:
        os._exit(0)
    end = time.process_time() + 0.05
    while time.process_time() < end: pass
    return [x * x][0]
"""


@pytest.fixture(scope="module")
def whole() -> Iterator[Pool]:
    with open_sandbox(workers=1, limits=Limits(cpu_s=1, wall_s=3), all_tests=True, lines=True) as pool:
        yield pool


def run(pool: Pool, make_job: Any, program: str, *tests: Case) -> Any:
    ((_, executions),) = list(pool.run([make_job(program, *tests)]))
    return executions


def test_every_test_has_an_outcome_though_one_ends_the_process(whole: Pool, make_job: Any) -> None:
    found = run(whole, make_job, ODD, *CALLS)
    assert [one.test_id for one in found] == ["0", "1", "2", "3", "4"]
    assert [one.status for one in found] == ["passed", "wrong", "runtime_error", "runtime_error", "passed"]


def test_each_test_has_its_cpu_time_and_its_lines(whole: Pool, make_job: Any) -> None:
    found = run(whole, make_job, ODD, *CALLS)
    assert found[0].cpu_s is not None
    assert 0.04 < found[0].cpu_s < 0.5
    assert found[1].cpu_s is not None
    assert found[1].cpu_s < 0.04
    top = {2, 3}
    assert set(found[0].lines) - top == {4, 6, 8, 10, 11, 12}
    assert set(found[1].lines) == top | {4, 5}


@pytest.mark.parametrize(
    ("program", "test", "lines"),
    [
        ("x = 1\nif x == 2:\n    x = 3\nprint(x)", Case(id="0", kind="stdio", input="", expected="1"), {1, 2, 4}),
        ("def f(x):\n    return x\n", Case(id="0", kind="script", input="assert candidate(1) == 1"), {1, 2}),
        ("def f(x):\n    return x\n", Case(id="0", kind="script", input="pass"), {1}),
        ("def f(:", Case(id="0", kind="script", input="pass"), set()),
    ],
)
def test_lines_of_every_kind_of_test(whole: Pool, make_job: Any, program: str, test: Case, lines: set[int]) -> None:
    (found,) = run(whole, make_job, program, test)
    assert set(found.lines) == lines


def test_lines_that_the_program_has_not_are_not_believed(whole: Pool, make_job: Any) -> None:
    program = (
        "import sys\ndef f(x):\n    sys.settrace(None)\n    return x\nsys._getframe(2).f_locals['lines'].add(999)\n"
    )
    (found,) = run(whole, make_job, program, Case(id="0", kind="call", input=[1], expected=1))
    assert found.status == "passed"
    assert set(found.lines) <= set(range(1, 7))


def test_equal_values_and_outputs_have_equal_digests(whole: Pool, make_job: Any) -> None:
    give = [Case(id="0", kind="call", input=[1], expected=None)]
    values = ["[1, 2.0, 'a']", "[1.0, 2, 'a']", "(1, 2, 'a')", "[1, 2, 'b']"]
    digests = [run(whole, make_job, f"def f(x): return {value}", *give)[0].value_digest for value in values]
    assert len(set(digests[:3])) == 1
    assert digests[3] != digests[0]
    show = [Case(id="0", kind="stdio", input="", expected="")]
    shown = [run(whole, make_job, f"print({text!r})", *show)[0].value_digest for text in ("1 2", "1\n2 ", "12")]
    assert shown[0] == shown[1] != shown[2]


def test_nothing_is_traced_unless_asked_for(make_job: Any) -> None:
    with open_sandbox(workers=1) as pool:
        (found,) = run(
            pool, make_job, "import sys\nprint(sys.gettrace())", Case(id="0", kind="stdio", input="", expected="None")
        )
    assert found.status == "passed"
    assert found.lines is None
