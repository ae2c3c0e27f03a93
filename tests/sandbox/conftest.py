"""One sandbox for many tests, and short ways to run a program in it."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.sandbox import open_sandbox
from harness.sandbox.pool import Pool
from harness.types import Completion, Execution, Job, Limits, Problem, Test

Run = Callable[..., Execution]


@pytest.fixture(scope="session")
def box(tier: str) -> Iterator[Pool]:
    """A sandbox of one worker with short limits."""
    with open_sandbox(workers=1, limits=Limits(cpu_s=1, wall_s=3, memory_bytes=1 << 30), tier=tier) as pool:
        yield pool


@pytest.fixture(scope="session")
def make_job() -> Callable[..., Job]:
    """make_job(program, *tests, entry_point=...)."""

    def make(program: str | None, *tests: Test, entry_point: str | None = "f", index: int = 0, id: str = "p") -> Job:
        problem = Problem(id=id, task="t", prompt="", entry_point=entry_point, tests=tests)
        return Job(problem=problem, completion=Completion(problem_id=id, index=index, text="", program=program))

    return make


@pytest.fixture(scope="session")
def script(box: Pool, make_job: Callable[..., Job]) -> Run:
    """script(program, test source, setup=..., entry_point=...): the execution of one script test."""

    def run(program: str | None, source: str, *, setup: str = "", entry_point: str | None = "f") -> Execution:
        job = make_job(program, Test(id="0", kind="script", input=source, setup=setup), entry_point=entry_point)
        ((_, (execution,)),) = list(box.run([job]))
        return execution

    return run


@pytest.fixture(scope="session")
def call(box: Pool, make_job: Callable[..., Job]) -> Run:
    """call(program, arguments, expected): the execution of one call test of `f`."""

    def run(program: str, arguments: list[Any], expected: Any) -> Execution:
        job = make_job(program, Test(id="0", kind="call", input=arguments, expected=expected))
        ((_, (execution,)),) = list(box.run([job]))
        return execution

    return run


@pytest.fixture(scope="session")
def stdio(box: Pool, make_job: Callable[..., Job]) -> Run:
    """stdio(program, input, expected output): the execution of one stdio test."""

    def run(program: str, given: str, expected: str) -> Execution:
        job = make_job(program, Test(id="0", kind="stdio", input=given, expected=expected), entry_point=None)
        ((_, (execution,)),) = list(box.run([job]))
        return execution

    return run


@pytest.fixture(scope="session")
def humaneval(shared_data: Path) -> dict[str, tuple[Problem, str]]:
    """Problem and gold program by id."""
    found = {}
    with gzip.open(shared_data / "HumanEval.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            gold = row["prompt"] + row["canonical_solution"]
            source = f"{row['test']}\ncheck({row['entry_point']})\n"
            test = Test(id="0", kind="script", input=source, setup=gold)
            problem = Problem(
                id=row["task_id"], task="humaneval", prompt=row["prompt"], entry_point=row["entry_point"], tests=(test,)
            )
            found[row["task_id"]] = (problem, gold)
    return found
