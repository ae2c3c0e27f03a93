"""Finished runs: `results_of` reads one, `rescore` grades it again, `convert_run` writes it in another format."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from harness import manifest
from harness.columns import read_columns
from harness.config import parse_ks
from harness.convert import Graded, convert
from harness.errors import InputError
from harness.evaluate import finish, grade_all, tasks_of
from harness.progress import Progress, silent
from harness.results import collect
from harness.sandbox import open_sandbox
from harness.store import lock, open_run, read_results, read_run
from harness.suites.store import outcomes, suite_names
from harness.types import Budget, Completion, Key, Limits, Manifest, Problem, Results, Test, Verdict

_UNREAD = Test(id="unread", kind="script", input="")


def results_of(path: Path, *, with_tasks: bool = False, with_suites: bool = True) -> tuple[Manifest, Results]:
    """The arrays of a finished run, of just the completions that its results.json is about.

    Problems have no more than an id, a task, a split, a level and the number of their tests, unless `with_tasks` loads
    the tasks that the run names. What the programs did on further suites takes a while to read; without `with_suites`
    it isn't.
    """
    made, summary = read_results(path)
    _, completions, verdicts = read_run(path)
    reported = {name: (task, fields) for task, rows in summary["problems"].items() for name, fields in rows.items()}
    if with_tasks:
        problems = [p for task in tasks_of(made) for p in task.problems if p.id in reported]
        _refuse_unknown(path, reported, problems)
    else:
        problems = [_stub(name, task, fields) for name, (task, fields) in reported.items()]
    verdict_of = {(v.problem_id, v.index): v for v in verdicts}
    kept = [c for c in completions if c.problem_id in reported and (c.problem_id, c.index) in verdict_of]
    results = collect(problems, kept, verdict_of, n=made.budget.n)
    results = replace(results, scores={**results.scores, **read_columns(path, results)})
    if with_suites:
        results = replace(results, suites={name: outcomes(path, name, results) for name in suite_names(path)})
    return made, results


def _stub(name: str, task: str, fields: dict[str, Any]) -> Problem:
    tests = (_UNREAD,) * fields["tests"]
    return Problem(id=name, task=task, prompt="", split=fields["split"], level=fields["level"], tests=tests)


def _refuse_unknown(path: Path, ids: Iterable[str], problems: Iterable[Problem]) -> None:
    known = {problem.id for problem in problems}
    for name in ids:
        if name not in known:
            raise InputError(
                f"{path} has completions of {name}, which its task no longer has: restore the task's file."
            )


class _Stored:
    """A sampler that gives the completions of a run."""

    identity = "stored"

    def __init__(self, completions: Sequence[Completion]) -> None:
        self._completions = completions

    def counts(self, problems: Sequence[Problem], budget: Budget) -> dict[str, int]:
        return Counter(completion.problem_id for completion in self._completions)

    def sample(
        self,
        problems: Sequence[Problem],
        budget: Budget,
        done: Collection[Key] = (),
        wanted: Collection[str] | None = None,
    ) -> Iterator[Completion]:
        return iter(self._completions)


def rescore(
    path: Path,
    *,
    limits: Limits | None = None,
    workers: int | None = None,
    tier: str = "auto",
    k: str | None = None,
    progress: Progress = silent,
) -> tuple[Results, list[str]]:
    """Grades every completion of a finished run again with today's grader.

    Gives the results and the changed verdicts in words. Limits and ks are the run's own unless given. The folder is not
    touched before all is graded; then the old verdicts stay beside the new ones as verdicts.previous.jsonl.
    """
    old, completions, verdicts = read_run(path)
    if not (path / "results.json").is_file():
        raise InputError(f"{path} is not finished: finish it first, by the command that began it.")
    tasks = tasks_of(old)
    problems = [problem for task in tasks for problem in task.problems]
    wanted = {completion.problem_id for completion in completions}
    _refuse_unknown(path, wanted, problems)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(path))
        sandbox, version = None, old.sandbox
        if any(problem.tests for problem in problems):
            opened = open_sandbox(workers=workers, limits=limits or old.limits, tier=tier)
            sandbox = stack.enter_context(contextlib.closing(opened))
            version = opened.version_for(problems)
        made = manifest.make(
            {record.spec: task for record, task in zip(old.tasks, tasks, strict=True)},
            task_args={record.spec: record.args for record in old.tasks},
            model=old.model,
            model_args=old.model_args,
            model_identity=old.model_identity,
            budget=old.budget,
            limits=limits or old.limits,
            sandbox=version,
            replays=old.replays,
            ks=parse_ks(k) if k else old.ks or (1,),
            limit=old.limit,
            samples=old.samples,
            think_tags=old.think_tags,
            sampler=old.sampler,
        )
        for was, now in zip(old.tasks, made.tasks, strict=True):
            if was.problems_sha != now.problems_sha:
                progress.note(f"{now.name} has other problems than the run had: {was.revision} became {now.revision}.")
        beside = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path, prefix=".score-")))
        run = stack.enter_context(open_run(beside / "run", msgspec.structs.replace(made, started=old.started)))
        grade_all(run, tasks, _Stored(completions), sandbox, budget=old.budget, wanted=wanted, progress=progress)
        final = finish(run, problems, ks=made.ks, n=old.budget.n, wanted=wanted)
        _swap(run.path, path)
    return final, _changes(verdicts, run.verdicts)


def _swap(new: Path, old: Path) -> None:
    """Puts new records in the place of the old, whose verdicts are kept aside."""
    (old / "verdicts.jsonl").replace(old / "verdicts.previous.jsonl")
    for name in ("executions.jsonl", "verdicts.jsonl", "results.json", "manifest.json"):
        (new / name).replace(old / name)
    for name in ("limits.json", "selftest.json"):
        if (new / name).is_file():
            (new / name).replace(old / name)


def _changes(before: Iterable[Verdict], after: Mapping[Key, Verdict]) -> list[str]:
    """The verdicts that are no longer what they were, in words."""
    return [
        f"{old.problem_id} completion {old.index}: {old.status} became {after[old.problem_id, old.index].status}"
        for old in before
        if after[old.problem_id, old.index].passed != old.passed
    ]


def convert_run(path: Path, *, to: str, output: Path, model: str) -> list[Path]:
    """Writes a finished run in another tool's format; gives the files that it wrote."""
    made, summary = read_results(path)
    extract = {task.name: task.extract for task in tasks_of(made)}
    _, results = results_of(path, with_tasks=True, with_suites=False)
    records = [
        Graded(problem, extract[problem.task](problem, completion), verdict)
        for problem, completions, verdicts in zip(
            results.problems_P, results.completions_PG, results.verdicts_PG, strict=True
        )
        for completion, verdict in zip(completions, verdicts, strict=True)
    ]
    return convert(records, summary, to=to, output=output, model=model)
