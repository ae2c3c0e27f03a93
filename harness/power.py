"""Which difference can an evaluation detect? `describe_power` says it before any work is done.

The smallest true difference of pass@1 between two arms on the same problems that a paired test at 5% finds in 80% of
cases (Miller 2024, arXiv 2411.00640). It rests on two numbers: the variance of one completion within a problem, p(1-p)
on average (0.136 if success rates are spread like Beta(.6, .6); or measured in a run), and how much the true difference
varies between problems, given here for two values. Not handled: other metrics, training seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config import arguments_by_task, parse_list
from harness.errors import InputError
from harness.evaluate import load_tasks
from harness.store import read_results

WITHIN = 0.136
"""Mean of p(1-p) for p ~ Beta(.6, .6): between a task that is all luck (0.25) and one that is all skill (0)."""
BETWEEN_SD = (0.05, 0.10)
"""Standard deviations over problems of the true difference."""


def describe_power(tasks: str, task_args: Mapping[str, Any], *, n: int, like: Path | None = None) -> str:
    """A table of detectable differences for n and for other numbers of completions per problem."""
    from tabulate import tabulate

    from harness.metrics.power import mde

    names = parse_list(tasks)
    rows, sentences = [], []
    for task in load_tasks(names, arguments_by_task(task_args, names)):
        within, source = (WITHIN, "assumed") if like is None else (within_of(like, task.name), f"measured in {like}")
        problems = len(task.problems)
        if problems < 2:
            raise InputError(f"{task.name} has one problem: nothing can be detected with fewer than two.")
        for each in sorted({1, 4, 16, 64, n}):
            found = [mde(problems, each, within=2 * within, between=sd**2) for sd in BETWEEN_SD]
            rows.append([task.name, problems, each, *(f"{100 * value:.1f}" for value in found)])
            if each == n:
                low, high = (f"{100 * value:.1f}" for value in found)
                sentences.append(
                    f"{task.name}, {problems} problems x {n}: a difference of {low} to {high} points of pass@1 or more "
                    f"is detected in 80% of cases, with a variance within problems of {within:.3f} per arm ({source})."
                )
    headers = ["task", "problems", "n", *(f"points, if effects vary by {100 * sd:.0f}" for sd in BETWEEN_SD)]
    note = "Paired, two-sided 5%, 80% power."
    return "\n".join([*sentences, "", tabulate(rows, headers=headers, disable_numparse=True), "", note])


def within_of(path: Path, task: str) -> float:
    """Mean over a task's problems of the unbiased estimate of p(1-p), c (n-c) / (n (n-1)); at most 1/4."""
    _, results = read_results(path)
    if task not in results["problems"]:
        raise InputError(f"{path} is no run of {task}: give --like a run of the same task.")
    counts = results["problems"][task].values()
    usable = [(each["n"], each["c"]) for each in counts if each["n"] >= 2]
    if not usable:
        raise InputError(f"{path} has one completion per problem: the spread within problems needs at least two.")
    return min(0.25, float(sum(c * (n - c) / (n * (n - 1)) for n, c in usable) / len(usable)))
