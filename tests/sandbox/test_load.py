"""Verdicts do not depend on load: a right program passes every time while every core has other things to do."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from harness.sandbox import open_sandbox
from harness.types import Completion, Job, Limits, Problem, Status
from tests.conftest import FULL

BUSY = "while True: pass"


@pytest.fixture
def full_load() -> Iterator[None]:
    """Two busy processes on every core that this one may use."""
    n = 2 * len(os.sched_getaffinity(0))
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(n)]
    try:
        yield
        assert [process.poll() for process in processes] == [None] * n
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("full_load")
@pytest.mark.parametrize("name", ["HumanEval/0", "HumanEval/32"])  # seven short calls; a hundred drawn at random
def test_a_gold_solution_passes_every_time(humaneval: dict[str, tuple[Problem, str]], tier: str, name: str) -> None:
    n = 1000 if FULL or name == "HumanEval/0" else 250
    problem, gold = humaneval[name]
    problem = msgspec.structs.replace(problem, cpu_s=Limits().min_cpu_s)  # the least that any problem gets
    jobs = [
        Job(problem=problem, completion=Completion(problem_id=name, index=i, text="", program=f"{gold}\n# {i}"))
        for i in range(n)
    ]
    with open_sandbox(workers=2 * len(os.sched_getaffinity(0)) + 1, tier=tier) as box:
        found = [(job.completion.index, done[0]) for job, done in box.run(jobs)]
    assert Counter(one.status for _, one in found) == {Status.passed: n}, [
        one.detail for _, one in found if one.status != Status.passed
    ]
    assert sorted(index for index, _ in found) == list(range(n))
    assert len({(one.cpu_s, one.wall_s) for _, one in found}) > 0.99 * n  # each of them ran
