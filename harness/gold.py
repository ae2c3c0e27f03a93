"""How long does a right program take? Each problem's CPU limit follows from its gold solution's own time.

Main functions: `cpu_limits` for a run folder, `measured` for whoever keeps the limits himself. A program may use
`Limits.gold_factor` times what the gold solution used, at least `Limits.min_cpu_s` and at most `Limits.cpu_s`: an
endless loop then costs half a second and not three, and a problem that needs long gets long. The limits are kept in the
run folder, so that a run that is gone on with judges alike.
Not handled: problems whose gold solution is missing, waits, or fails (told in a note): theirs is `Limits.cpu_s`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from harness.progress import Progress, silent
from harness.store import Run
from harness.types import Execution, Job, Limits, Sandbox, Status, Task

WAITING_S = 1.0
"""A gold solution that takes so long on the clock waits for something: CPU time says little about it."""
SHOWN = 3
"""Problems named in a note."""


def cpu_limits(
    run: Run, tasks: Sequence[Task], sandbox: Sandbox, *, wanted: Collection[str], progress: Progress = silent
) -> dict[str, float]:
    """CPU seconds by problem id, for those of the `wanted` problems that have tests and a gold solution."""
    found = measured(tasks, sandbox, limits=run.manifest.limits, known=run.cpu_limits, wanted=wanted, progress=progress)
    if found != run.cpu_limits:
        run.write_cpu_limits(found)
    return found


def measured(
    tasks: Sequence[Task],
    sandbox: Sandbox,
    *,
    limits: Limits,
    known: Mapping[str, float],
    wanted: Collection[str],
    progress: Progress = silent,
) -> dict[str, float]:
    """`known`, and the CPU seconds of those `wanted` problems that it lacks; empty where `limits` ask for none."""
    if not limits.gold_factor:
        return {}
    failed = []
    found = dict(known)
    for job, executions in sandbox.run(_gold_jobs(tasks, set(wanted) - found.keys())):
        seconds = limits.cpu_s
        if any(one.status != Status.passed for one in executions):
            failed.append(job.problem.id)
        elif max(one.wall_s or 0.0 for one in executions) < WAITING_S:
            seconds = _limit(limits, _cpu_s(job, executions))
        found[job.problem.id] = seconds
    if failed:
        more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        progress.note(f"the gold solution fails its own tests: {', '.join(failed[:SHOWN])}{more} (harness selftest).")
    return found


def _gold_jobs(tasks: Sequence[Task], wanted: set[str]) -> Iterator[Job]:
    for task in tasks:
        for problem in task.problems:
            if problem.id in wanted and problem.tests and problem.cpu_s is None:
                completion = task.gold(problem)
                if completion is not None:
                    yield Job(problem=problem, completion=task.extract(problem, completion))


def _cpu_s(job: Job, executions: Sequence[Execution]) -> float:
    """The most that one process of the program used: each test has its own, but the calls share one."""
    calls = [test.kind == "call" for test in job.problem.tests]
    seconds = [one.cpu_s or 0.0 for one in executions]
    together = sum(used for used, is_call in zip(seconds, calls, strict=True) if is_call)
    return max([together, *(used for used, is_call in zip(seconds, calls, strict=True) if not is_call)])


def _limit(limits: Limits, gold_s: float) -> float:
    """Rounded up to a tenth of a second: the measured time never repeats exactly."""
    tenths = -int(-10 * limits.gold_factor * gold_s // 1)
    return min(limits.cpu_s, max(limits.min_cpu_s, tenths / 10))
