"""Large tests, large outputs and many tests: right verdicts, and a memory of parent and judge that has a bound.

The bounds, each with some room: the judge's own limit is `judge.MEMORY_BYTES`. It holds a problem's tests and one
output, a few copies of each, but no list of their words. The parent holds no more than a few copies of the problem that
is on its way. Many tests cost both a record each.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.sandbox import open_sandbox
from harness.sandbox.pool import Pool
from harness.types import Completion, Execution, Job, Limits, Problem, Status
from harness.types import Test as Case
from tests.conftest import FULL

MB = 1 << 20
OUTPUT = (50 if FULL else 20) * MB
KEPT = 32 * MB
"""Of the judge's memory, by the allocator, whatever the size."""
COPIES = 4
"""Of a problem's tests, in the parent and in the judge: as they are, as one message, and what it was made from."""
RECORD_BYTES = 2000
"""What a test costs the parent, and the judge: an execution, and a report on its way."""
ECHO = "import sys\nfor line in sys.stdin: sys.stdout.write(line)"


def memory(pid: int | str, name: str) -> int:
    """VmRSS or VmHWM (the most that there was) of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) << 10


class Growth:
    """The most memory that parent and judge have taken since this was made."""

    def __init__(self, box: Pool) -> None:
        each = box._workers[0]
        assert each is not None
        self.judge_pid = each.judge.pid
        Path("/proc/self/clear_refs").write_text("5")  # forgets the most that there was
        self.parent = memory("self", "VmRSS")
        self.judge = memory(self.judge_pid, "VmRSS")

    def of_parent(self) -> int:
        return memory("self", "VmHWM") - self.parent

    def of_judge(self) -> int:
        """Fails where the judge has died: then it had too much."""
        return memory(self.judge_pid, "VmHWM") - self.judge


@pytest.fixture
def box() -> Iterator[Pool]:
    """Limits for large outputs and long lists; one worker, so that there is one judge to look at."""
    limits = Limits(cpu_s=30, wall_s=120, output_bytes=OUTPUT * 5 // 4)
    with open_sandbox(workers=1, limits=limits) as pool:
        yield pool


def run(box: Pool, problem: Problem, *programs: str) -> list[list[Execution]]:
    """The executions of each program, in this order."""
    jobs = [
        Job(problem=problem, completion=Completion(problem_id=problem.id, index=i, text="", program=program))
        for i, program in enumerate(programs)
    ]
    found = {job.completion.index: list(executions) for job, executions in box.run(jobs)}
    return [found[i] for i in range(len(jobs))]


def stdio_problem(pairs: list[tuple[str, str]]) -> Problem:
    tests = tuple(
        Case(id=str(i), kind="stdio", input=given, expected=wanted) for i, (given, wanted) in enumerate(pairs)
    )
    return Problem(id="p", task="t", prompt="", tests=tests)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["123456789 ", "žluťoučký "], ids=["ascii", "letters of two bytes"])
def test_a_hundred_tests_of_a_megabyte(box: Pool, word: str) -> None:
    line = word * (100 // len(word.encode())) + "\n"
    body = line * (MB // len(line.encode()))
    texts = [f"{i}\n{body}" for i in range(100)]
    problem = stdio_problem([(text, text) for text in texts])
    size = 2 * sum(len(text.encode()) for text in texts)
    growth = Growth(box)
    right, wrong = run(box, problem, ECHO, f"{ECHO.replace('line)', 'line[:-2])')}\n# all but the last letter")
    assert [one.status for one in right] == [Status.passed] * 100, right[-1].detail
    assert [one.status for one in wrong] == [Status.wrong]
    assert growth.of_judge() < COPIES * size
    assert growth.of_parent() < COPIES * size


def printing(text: str, n: int) -> str:
    """A program that prints `text` n times, some at a time."""
    write = f"sys.stdout.write('{text}' * "
    return f"import sys\nfor _ in range({n // 100}): {write}100)\n{write}{n % 100})\n"


@pytest.mark.slow
@pytest.mark.parametrize("word", ["1", "123456", "x" * 10_000])
def test_outputs_of_many_megabytes(box: Pool, word: str) -> None:
    n = OUTPUT // (len(word) + 1)
    problem = stdio_problem([("", f"{word} " * n)])
    growth = Growth(box)
    found = run(
        box,
        problem,
        printing(f"{word} ", n),
        printing(f"{word} ", n) + "sys.stdout.write('\\n\\n')",
        printing(f"{word}\\n", n),
        printing(f"{word} ", n) + "sys.stdout.write('7')",
        printing(f"{word} ", n - 1),
        printing(f"{word} ", n + n // 2),
    )
    statuses = [one.status for (one,) in found]
    assert statuses == [Status.passed] * 3 + [Status.wrong] * 2 + [Status.output_limit], [
        one.detail for (one,) in found
    ]
    assert found[0][0].value_digest == found[2][0].value_digest != found[3][0].value_digest
    # expected and printed, as bytes and as text, and as they came; and what the allocator keeps whatever the size
    assert growth.of_judge() < 8 * OUTPUT + KEPT
    assert growth.of_parent() < COPIES * OUTPUT


@pytest.mark.slow
def test_tens_of_thousands_of_calls(box: Pool) -> None:
    n = 100_000 if FULL else 30_000
    tests = tuple(Case(id=str(i), kind="call", input=[i], expected=i * i) for i in range(n))
    problem = Problem(id="p", task="t", prompt="", entry_point="f", tests=tests)
    growth = Growth(box)
    right, wrong = run(box, problem, "def f(x): return x * x", f"def f(x): return x * x if x < {n - 1} else 0")
    assert {one.status for one in right} == {Status.passed}
    assert len(right) == len(wrong) == n
    assert [one.test_id for one in wrong if one.status != Status.passed] == [str(n - 1)]
    assert wrong[-1].status == Status.wrong
    assert growth.of_judge() < n * RECORD_BYTES + 16 * MB
    assert growth.of_parent() < 2 * n * RECORD_BYTES + 16 * MB  # two programs


@pytest.mark.slow
def test_many_runs_with_standard_input(box: Pool) -> None:
    n = 100_000 if FULL else 5_000
    problem = stdio_problem([(f"{i}\n", f"{i * i}\n") for i in range(n)])
    growth = Growth(box)
    (right,) = run(box, problem, "print(int(input()) ** 2)")
    assert len(right) == n
    assert {one.status for one in right} == {Status.passed}
    (wrong,) = run(box, problem, f"x = int(input())\nprint(x * x if x < {n // 10} else 0)")
    assert len(wrong) == n // 10 + 1
    assert wrong[-1].status == Status.wrong
    assert growth.of_judge() < n * RECORD_BYTES + 16 * MB
    assert growth.of_parent() < 2 * n * RECORD_BYTES + 16 * MB
