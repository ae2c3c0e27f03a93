"""Finished runs: `results_of` reads one, `rescore` grades it again, `convert_run` writes it in another format."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import manifest
from harness.config import parse_ks
from harness.convert import Graded, convert
from harness.errors import InputError
from harness.evaluate import finish, grade_all, load_tasks
from harness.progress import Progress, silent
from harness.results import collect
from harness.sandbox import open_sandbox
from harness.store import open_run, read_results, read_run, write_atomically
from harness.types import Budget, Completion, Key, Limits, Manifest, Problem, Results, Task, Test

_UNREAD = Test(id="unread", kind="script", input="")


def results_of(path: Path, *, with_tasks: bool = False) -> tuple[Manifest, Results]:
    """The arrays of a finished run, for metrics of your own.

    Problems have no more than an id, a task, a split, a level and the number of their tests, unless `with_tasks` loads
    the tasks that the run names.
    """
    made, summary = read_results(path)
    _, completions, verdicts, _ = read_run(path)
    if with_tasks:
        problems = [problem for task in tasks_of(made) for problem in task.problems]
    else:
        problems = [
            Problem(
                id=name,
                task=task,
                prompt="",
                split=counts["split"],
                level=counts["level"],
                tests=(_UNREAD,) * counts["tests"],
            )
            for task, by_problem in summary["problems"].items()
            for name, counts in by_problem.items()
        ]
    known = {problem.id for problem in problems}
    verdict_of = {(v.problem_id, v.index): v for v in verdicts}
    kept = [c for c in completions if c.problem_id in known and (c.problem_id, c.index) in verdict_of]
    return made, collect(problems, kept, verdict_of, n=made.budget.n)


class _Stored:
    """A sampler that has nothing to add to what the run folder holds."""

    def __init__(self, completions: Sequence[Completion]) -> None:
        self.identity = "stored"
        self._counts: dict[str, int] = {}
        for completion in completions:
            self._counts[completion.problem_id] = self._counts.get(completion.problem_id, 0) + 1

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        return self._counts

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        return iter(())


def rescore(
    path: Path,
    *,
    limits: Limits,
    workers: int | None = None,
    tier: str = "auto",
    k: str | None = None,
    progress: Progress = silent,
) -> tuple[Results, list[str]]:
    """Grades every completion of a run again with today's grader; gives the results and the changed verdicts in words.

    The old verdicts stay beside the new ones as verdicts.previous.jsonl.
    """
    old, completions, verdicts, results = read_run(path)
    tasks = tasks_of(old)
    ks = parse_ks(k) if k else _reported_ks(results)
    before = {(v.problem_id, v.index): v for v in verdicts}
    with contextlib.ExitStack() as stack:
        sandbox = None
        if any(problem.tests for task in tasks for problem in task.problems):
            sandbox = stack.enter_context(contextlib.closing(open_sandbox(workers=workers, limits=limits, tier=tier)))
        made = manifest.make(
            {record.spec: task for record, task in zip(old.tasks, tasks, strict=True)},
            task_args={record.spec: record.args for record in old.tasks},
            model=old.model,
            model_args=old.model_args,
            model_identity=old.model_identity,
            budget=old.budget,
            limits=limits,
            sandbox=sandbox.version if sandbox else "none needed",
        )
        for was, now in zip(old.tasks, made.tasks, strict=True):
            if was.problems_sha != now.problems_sha:
                progress.note(f"{now.name} has other problems than the run had: {was.revision} became {now.revision}.")
        _clear(path, made)
        run = stack.enter_context(open_run(path, made))
        wanted = {completion.problem_id for completion in completions}
        grade_all(run, tasks, _Stored(completions), sandbox, budget=old.budget, wanted=wanted, progress=progress)
        problems = [problem for task in tasks for problem in task.problems]
        final = finish(run, problems, ks=ks, n=old.budget.n, wanted=wanted)
        changes = [
            f"{name} completion {index}: {before[name, index].status} became {verdict.status}"
            for (name, index), verdict in sorted(run.verdicts.items())
            if (name, index) in before and before[name, index].passed != verdict.passed
        ]
    return final, changes


def _clear(path: Path, made: Manifest) -> None:
    """Puts the old verdicts aside; completions stay as they are, so that a kill loses nothing but verdicts."""
    if (path / "verdicts.jsonl").is_file():
        (path / "verdicts.jsonl").replace(path / "verdicts.previous.jsonl")
    for name in ("executions.jsonl", "results.json"):
        (path / name).unlink(missing_ok=True)
    write_atomically(path / "manifest.json", json.dumps(msgspec.to_builtins(made), indent=1) + "\n")


def _reported_ks(results: dict[str, Any] | None) -> tuple[int, ...]:
    names = {name for metrics in (results or {}).get("tasks", {}).values() for name in metrics}
    return tuple(sorted({int(name.partition("@")[2]) for name in names if name.startswith("pass@")})) or (1,)


def tasks_of(made: Manifest) -> list[Task]:
    """The tasks that a manifest names, loaded again."""
    return load_tasks([task.spec for task in made.tasks], {task.spec: task.args for task in made.tasks})


def convert_run(path: Path, *, to: str, output: Path, model: str) -> list[Path]:
    """Writes a finished run in another tool's format; gives the files that it wrote."""
    made, summary = read_results(path)
    _, completions, verdicts, _ = read_run(path)
    problem_of = {problem.id: problem for task in tasks_of(made) for problem in task.problems}
    verdict_of = {(v.problem_id, v.index): v for v in verdicts}
    records = [
        Graded(problem_of[c.problem_id], c, verdict_of[c.problem_id, c.index])
        for c in completions
        if (c.problem_id, c.index) in verdict_of
    ]
    if not records:
        raise InputError(f"{path} has no graded completions: there is nothing to convert.")
    return convert(records, summary, to=to, output=output, model=model)
