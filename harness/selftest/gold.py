"""Does the grader say yes to what is right? `run_gold` grades every gold solution of tasks.

Not handled: problems without a gold solution, of which it only leaves the number to be seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from harness.config import arguments_by_task, parse_list
from harness.errors import InputError
from harness.evaluate import load_tasks
from harness.sandbox import open_sandbox
from harness.types import Job, Limits, Task, Verdict


def run_gold(
    tasks: str, task_args: Mapping[str, Any], limits: Limits, *, workers: int | None = None, tier: str = "auto"
) -> Iterator[tuple[Task, list[Verdict]]]:
    """Each task with the verdicts of its gold solutions, in the order of its problems."""
    names = parse_list(tasks)
    for task in load_tasks(names, arguments_by_task(task_args, names)):
        verdicts: dict[str, Verdict] = {}
        jobs: list[Job] = []
        for problem in task.problems:
            completion = task.gold(problem)
            if completion is None:
                continue
            completion = task.extract(problem, completion)
            if problem.tests:
                jobs.append(Job(problem=problem, completion=completion))
            else:
                verdicts[problem.id] = task.grade(problem, completion, ())
        if jobs:
            with contextlib.closing(open_sandbox(workers=workers, limits=limits, tier=tier)) as sandbox:
                for job, executions in sandbox.run(jobs):
                    verdicts[job.problem.id] = task.grade(job.problem, job.completion, executions)
        if not verdicts:
            raise InputError(f"{task.name} has no gold solutions: there is nothing to test.")
        yield task, [verdicts[problem.id] for problem in task.problems if problem.id in verdicts]
