"""Flow 1: a task, completions, untrusted programs graded in isolation, unbiased metrics with intervals, a run folder.

`evaluate` is what `harness eval` and the Python API call; `grade_all` is the flow itself: completions are stored as
they are sampled and graded while others are still being sampled, and what a run folder holds is not done again.
Not handled here: comparing runs, training.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from harness import gold, manifest, registry
from harness.ahead import ahead
from harness.config import arguments_by_task, parse_arguments, parse_ks, parse_list
from harness.errors import HarnessError, InputError, UnknownName
from harness.grading.thinking import without_thinking
from harness.progress import Progress, silent
from harness.sandbox import open_sandbox
from harness.store import Run, identity, open_run
from harness.types import (
    HELD_OUT,
    Budget,
    Completion,
    Execution,
    Job,
    Limits,
    Manifest,
    Problem,
    Results,
    Sampler,
    Sandbox,
    Task,
)

TRAINING = "HARNESS_TRAINING"
"""Environment variable of processes that train: test problems cannot be loaded there."""
MOST_AHEAD = 1024
"""Completions that wait to be graded before the model has to wait."""


def evaluate(
    tasks: str | Sequence[str],
    model: str = "hf",
    *,
    model_args: str | Mapping[str, Any] | None = None,
    task_args: str | Mapping[str, Any] | None = None,
    k: str | int | Sequence[int] = 1,
    budget: Budget = Budget(),
    limits: Limits = Limits(),
    limit: float | None = None,
    samples: str | Sequence[str] = (),
    workers: int | None = None,
    tier: str = "auto",
    all_tests: bool = False,
    lines: bool = False,
    think_tags: str | Sequence[str] = "think",
    output_path: str | Path | None = None,
    progress: Progress = silent,
) -> Results:
    """Evaluates completions of a model on tasks, and leaves a run folder that the same call goes on with.

    Args:
        tasks: names of tasks (`harness ls task`), or `file.py:function`.
        model: where completions come from (`harness ls sampler`): `hf`, `replay`, or `file.py:function`.
        model_args: arguments of the model, `"path=samples.jsonl"` or a mapping.
        task_args: arguments of the tasks; with several tasks `"humaneval.path=..."`.
        k: the ks of pass@k; each needs at least k completions of every problem.
        budget: how completions are sampled, and how many.
        limits: what one program may use.
        limit: evaluate only so many problems (or this fraction, below 1) of each task: a fixed pseudo-random subset.
        samples: evaluate only these problem ids.
        workers: programs graded side by side; None: one per core.
        tier: how programs are isolated (`harness doctor`); "auto": the best that holds here.
        all_tests: run every test of a problem, not only those up to the first failure.
        lines: note which lines of a program each test ran; programs then take several times longer.
        think_tags: tags of the blocks in which a chat model thinks aloud: they are not read for an answer.
        output_path: the run folder; None: `runs/` and a name made of the model, the tasks and a hash of the settings.
        progress: told what happens while it happens.

    Raises:
        HarnessError: anything about the input that stands in the way, in one sentence.
    """
    names, ks = parse_list(tasks), parse_ks(k)
    if output_path is not None and not str(output_path):
        raise InputError("--output_path is empty: name a run folder.")
    by_task = arguments_by_task(parse_arguments(task_args, "--task_args"), names)
    loaded = load_tasks(names, by_task)
    model_arguments = parse_arguments(model_args, "--model_args")
    sampler: Sampler = registry.build("sampler", model, model_arguments)
    budget = _budget_for(sampler, model, budget)
    problems = [problem for task in loaded for problem in task.problems]
    expected = {name: n for name, n in sampler.counts(problems, budget).items() if n}
    wanted = choose(loaded, limit, parse_list(samples), among=expected)
    check_ks(ks, {name: n for name, n in expected.items() if name in wanted})
    with contextlib.ExitStack() as stack:
        sandbox, version = None, "none needed"
        if any(problem.tests for problem in problems):
            opened = open_sandbox(workers=workers, limits=limits, tier=tier, all_tests=all_tests, lines=lines)
            sandbox = stack.enter_context(contextlib.closing(opened))
            version = opened.version_for(problems)
        made = manifest.make(
            dict(zip(names, loaded, strict=True)),
            task_args=by_task,
            model=model,
            model_args=model_arguments,
            model_identity=sampler.identity,
            budget=budget,
            limits=limits if sandbox else Limits(),
            sandbox=version,
            replays=_replays(sampler),
            ks=ks,
            limit=limit,
            samples=parse_list(samples),
            think_tags=parse_list(think_tags),
            sampler=getattr(sampler, "facts", {}),
        )
        run = stack.enter_context(open_run(Path(output_path or default_folder(made, model)), made))
        for notice in run.notices:
            progress.note(notice)
        progress.note(f"run folder {run.path}, which has {len(run.verdicts)} graded completions already.")
        grade_all(run, loaded, sampler, sandbox, budget=budget, wanted=wanted, progress=progress)
        for notice in getattr(sampler, "notices", ()):
            progress.note(notice)
        if budget.n and max(expected.values()) < budget.n:
            progress.note(f"n is {budget.n}, and no problem has more than {max(expected.values())} completions.")
        return finish(run, problems, ks=ks, n=budget.n, wanted=wanted)


def grade_all(
    run: Run,
    tasks: Sequence[Task],
    sampler: Sampler,
    sandbox: Sandbox | None,
    *,
    budget: Budget,
    wanted: set[str],
    progress: Progress = silent,
) -> None:
    """Samples what the run lacks and grades what it has not graded; every record is stored as soon as it is there."""
    problems = [problem for task in tasks for problem in task.problems]
    think_tags = run.manifest.think_tags
    cpu_limits = gold.cpu_limits(run, tasks, sandbox, wanted=wanted, progress=progress) if sandbox else {}
    problem_of = {problem.id: _limited(problem, cpu_limits.get(problem.id)) for problem in problems}
    task_of = {problem.id: task for task in tasks for problem in task.problems}
    ungraded = [c for key, c in run.completions.items() if key not in run.verdicts and c.problem_id in wanted]
    promised = {name: n for name, n in sampler.counts(problems, budget).items() if name in wanted}
    progress.start(
        sum(promised.values()),
        *(sum(name in wanted for name, _ in records) for records in (run.completions, run.verdicts)),
    )

    def sampled() -> Iterator[Completion]:
        """In a thread of its own: what is sampled is stored at once, whatever waits to be graded."""
        for completion in sampler.sample(problems, budget, frozenset(run.completions), wanted):
            _check_completion(completion, run, wanted)
            run.add_completion(completion)
            yield completion
        have = Counter(name for name, _ in run.completions)
        short = [name for name, n in promised.items() if have[name] < n]
        if short:
            raise HarnessError(
                f"the model promised {promised[short[0]]} completions of {short[0]} and gave {have[short[0]]}: "
                "its counts and its sample disagree."
            )

    def store_verdict(completion: Completion, executions: Sequence[Execution]) -> None:
        task = task_of[completion.problem_id]
        run.add_verdict(executions, task.grade(problem_of[completion.problem_id], completion, executions))
        progress.graded()

    def jobs(completions: Iterable[Completion | None]) -> Iterator[Job | None]:
        for raw in completions:
            if raw is None:  # the model has nothing new yet
                yield None
                continue
            problem = problem_of[raw.problem_id]
            completion = task_of[problem.id].extract(problem, without_thinking(raw, think_tags))
            if problem.tests:
                yield Job(problem=problem, completion=completion)
            else:
                store_verdict(completion, ())

    def counted(completions: Iterable[Completion | None]) -> Iterator[Completion | None]:
        for completion in completions:
            if completion is not None:
                progress.sampled()
            yield completion

    # The sandbox finds out by itself when there is something to run; without one there is only the model to wait for.
    patience_s = 0.0 if sandbox else 0.1
    with ahead(sampled(), most=MOST_AHEAD, patience_s=patience_s) as arriving:
        wanting = jobs(itertools.chain(ungraded, counted(arriving)))
        for job, executions in sandbox.run(wanting) if sandbox else _no_programs(wanting):
            store_verdict(job.completion, executions)


def _limited(problem: Problem, cpu_s: float | None) -> Problem:
    return problem if cpu_s is None else msgspec.structs.replace(problem, cpu_s=cpu_s)


def _check_completion(completion: Completion, run: Run, wanted: set[str]) -> None:
    """A sampler that breaks its promise must not break a run."""
    key = (completion.problem_id, completion.index)
    if completion.problem_id not in wanted or key in run.completions:
        again = "again" if key in run.completions else "which was not asked for"
        raise HarnessError(f"the model gave completion {completion.index} of {completion.problem_id}, {again}.")


def _no_programs(jobs: Iterator[Job | None]) -> Iterator[tuple[Job, tuple[Execution, ...]]]:
    """Draws the jobs of tasks without programs: all is done when there are none."""
    for job in filter(None, jobs):
        raise AssertionError(f"{job.problem.id} has tests and there is no sandbox")
    yield from ()


def finish(run: Run, problems: Sequence[Problem], *, ks: Sequence[int], n: int | None, wanted: set[str]) -> Results:
    """All metrics of what the run holds, written to its results.json; beside it what is known of its grader."""
    from harness import estimates, results  # numpy and scipy: `harness --help` is to come at once

    completions = [c for c in run.completions.values() if c.problem_id in wanted]
    final = estimates.estimate(results.collect(problems, completions, run.verdicts, n=n), ks)
    run.write_results(results.to_json(final))
    run.copy_selftest()
    return final


def load_tasks(names: Sequence[str], arguments: Mapping[str, dict[str, Any]]) -> list[Task]:
    """The tasks by name; ids of problems must be unique over all of them."""
    if not names:
        raise InputError("no task was named: give --tasks, one of those that `harness ls task` lists.")
    tasks = [_load_task(name, arguments.get(name, {})) for name in names]
    seen: dict[str, str] = {}
    for task in tasks:
        for problem in task.problems:
            if seen.get(problem.id) == task.name:
                raise InputError(f"{task.name} has two problems with the id {problem.id}: ids must be unique.")
            if problem.id in seen:
                raise InputError(
                    f"{seen[problem.id]} and {task.name} both have a problem {problem.id}: run the tasks one by one."
                )
            seen[problem.id] = task.name
    return tasks


def tasks_of(made: Manifest) -> list[Task]:
    """The tasks that a manifest names, loaded again."""
    return load_tasks([task.spec for task in made.tasks], {task.spec: task.args for task in made.tasks})


def _load_task(name: str, arguments: Mapping[str, Any]) -> Task:
    task = registry.build("task", name, arguments)
    if not isinstance(task, Task):
        raise InputError(f"{name} gave a {type(task).__name__} where a harness.Task is wanted.")
    if not task.problems:
        raise InputError(f"the task {task.name} has no problems.")
    for problem in task.problems if os.environ.get(TRAINING) else ():
        if problem.split in HELD_OUT:
            raise InputError(
                f"problems of {task.name} are of its {problem.split} split: train on another (split=train)."
            )
    if "/" in task.name:
        raise InputError(f"the task {task.name!r} has a / in its name: choose another.")
    for problem in task.problems:
        if problem.task != task.name:
            raise InputError(f"problem {problem.id} says that its task is {problem.task!r}, in the task {task.name!r}.")
    return _with_stops(task)


def _budget_for(sampler: Sampler, model: str, budget: Budget) -> Budget:
    """The budget with its n; nothing else has a meaning where completions are not sampled but read."""
    if budget.n is not None and budget.n < 1:
        raise InputError(f"n={budget.n}: the number of completions per problem is at least 1.")
    if not _replays(sampler):
        return msgspec.structs.replace(budget, n=1 if budget.n is None else budget.n)
    kept = Budget(n=budget.n)
    for name, value in msgspec.structs.asdict(budget).items():
        if value != getattr(kept, name):
            raise InputError(
                f"{name}={value!r} with the model {model}, whose completions are sampled already: leave it out."
            )
    return kept


def _replays(sampler: Sampler) -> bool:
    return bool(getattr(sampler, "replays", False))


def _with_stops(task: Task) -> Task:
    if not task.stop:
        return task
    problems = (msgspec.structs.replace(p, stop=task.stop) if not p.stop else p for p in task.problems)
    return replace(task, problems=tuple(problems))


def choose(tasks: Sequence[Task], limit: float | None, samples: Sequence[str], *, among: Collection[str]) -> set[str]:
    """Ids of the problems to evaluate, of those that have completions (`among`): all, those named, or of each task a
    subset that depends on the ids alone."""
    if not among:
        raise InputError("the model has no completions of these tasks: there is nothing to evaluate.")
    if samples and limit is not None:
        raise InputError("--limit and --samples both choose problems: give one of them.")
    if samples:
        known = {problem.id for task in tasks for problem in task.problems}
        for name in samples:
            if name not in known:
                raise UnknownName("problem", name, known)
            if name not in among:
                raise InputError(f"the model has no completions of problem {name}.")
        return set(samples)
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and float(limit).is_integer())):
        raise InputError(f"--limit {limit:g} is neither a whole number from 1 nor a fraction below 1.")
    wanted: set[str] = set()
    for task in tasks:
        ids = [problem.id for problem in task.problems if problem.id in among]
        if limit is not None:
            ids.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
            ids = ids[: max(1, round(limit * len(ids))) if limit < 1 else int(limit)]
        wanted.update(ids)
    return wanted


def check_ks(ks: Sequence[int], counts: Mapping[str, int]) -> None:
    """Refuses k > n before any work: no unbiased estimate exists there (Chen et al. 2021, arXiv 2107.03374)."""
    k = max(ks)
    short = {problem: n for problem, n in counts.items() if 0 < n < k}
    if short:
        problem = min(short, key=lambda name: short[name])
        raise InputError(
            f"pass@{k} needs {k} completions of every problem, and {len(short)} of {len(counts)} problems have fewer "
            f"({problem} has {short[problem]}): lower --k or add completions."
        )


def default_folder(made: Manifest, model: str) -> Path:
    """`runs/<model>-<tasks>-<hash>`: the same settings give the same folder, which is then gone on with."""
    digest = hashlib.sha256(msgspec.json.encode(identity(made), order="deterministic")).hexdigest()[:8]
    stem = model.rpartition(":")[2]  # the function's name of file.py:function
    return Path("runs") / "-".join([stem, *(task.name for task in made.tasks), digest])
