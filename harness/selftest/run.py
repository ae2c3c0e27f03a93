"""Runs the collections and gold solutions through sandboxes, and says which verdicts are not what they should be.

Main functions: `selftest`, and `run_programs` for collections. Each worker is a sandbox of its own here, so that what
follows an attack is graded by the very processes that the attack ran in. Not handled: a sandbox that is in use already.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Literal, get_args

import harness
from harness.grading.code import verdict
from harness.sandbox import open_sandbox
from harness.selftest.findings import Error, Failure, Findings, Row
from harness.selftest.gold import run_gold
from harness.selftest.programs import Kind, Program, collection
from harness.types import Completion, Job, Limits, Sandbox, Verdict

LIMITS = Limits(cpu_s=1, wall_s=2, memory_bytes=512 << 20)
"""Of attacks and odd programs: short, because many attacks run until a limit stops them."""
LATE_S = 30.0
"""A verdict that takes longer, with the limits above, is none."""

Part = Literal["gold", "attacks", "odd"]
Result = tuple[Program, tuple[Failure, ...], float]
"""A program, what went wrong with it or after it, and seconds."""


def selftest(
    *,
    tasks: str = "",
    task_args: Mapping[str, Any] | None = None,
    only: Part | None = None,
    limits: Limits = Limits(),
    workers: int | None = None,
    tier: str = "auto",
) -> Findings:
    """Gold solutions of `tasks` under `limits`, and attacks and odd programs under LIMITS; or `only` one of the three.

    `workers` programs run side by side (one per core if None). Raises SandboxUnavailable, as `open_sandbox` does, and
    InputError for tasks without gold solutions.
    """
    rows: list[Row] = []
    if tasks and only in (None, "gold"):
        rows += _gold_rows(tasks, task_args or {}, limits, workers, tier)
    version = ""
    if only != "gold":  # which may need no sandbox at all
        with contextlib.ExitStack() as stack:
            sandboxes = [
                stack.enter_context(contextlib.closing(open_sandbox(workers=1, limits=LIMITS, tier=tier)))
                for _ in range(workers or len(os.sched_getaffinity(0)))
            ]
            version = sandboxes[0].version
            for name in ("attacks", "odd"):
                if only in (None, name):
                    rows += _rows(run_programs(collection(name), sandboxes))
    return Findings(sandbox=version, harness=harness.__version__, rows=tuple(rows))


def run_programs(programs: Iterable[Program], sandboxes: Sequence[Sandbox]) -> Iterator[Result]:
    """Every program with its failures, in order; each sandbox, which must have one worker, takes one at a time."""
    idle: SimpleQueue[Sandbox] = SimpleQueue()
    for sandbox in sandboxes:
        idle.put(sandbox)

    def run(program: Program) -> Result:
        sandbox, started = idle.get(), time.monotonic()
        try:
            found = tuple(_failures(program, sandbox))
        finally:
            idle.put(sandbox)
        return program, found, time.monotonic() - started

    with ThreadPoolExecutor(len(sandboxes)) as threads:
        yield from threads.map(run, programs)


def _failures(program: Program, sandbox: Sandbox) -> Iterator[Failure]:
    """Runs a program, what it left for another, and then the programs that show that the worker is unharmed."""
    started = time.monotonic()
    found = _run(sandbox, program, [program.text])
    yield from _misjudged(program.name, found, wanted=program.kind == "odd")
    took = time.monotonic() - started
    if took > LATE_S:
        yield Failure(program=program.name, error="ungraded", status="late", detail=f"judged after {took:.0f} s")
    if program.then is not None:
        yield from _misjudged(f"second part of {program.name}", _run(sandbox, program, [program.then]), wanted=False)
    if program.right is not None and program.wrong is not None:
        right, wrong = _run(sandbox, program, [program.right, program.wrong])
        yield from _misjudged(f"right program after {program.name}", [right], wanted=True)
        yield from _misjudged(f"wrong program after {program.name}", [wrong], wanted=False)


def _run(sandbox: Sandbox, program: Program, texts: Sequence[str]) -> list[Verdict]:
    problem = program.problem
    completions = [Completion(problem_id=problem.id, index=i, text="", program=text) for i, text in enumerate(texts)]
    verdicts: dict[int, Verdict] = {}
    for job, executions in sandbox.run(Job(problem=problem, completion=completion) for completion in completions):
        verdicts[job.completion.index] = verdict(problem, job.completion, executions)
    return [verdicts[i] for i in range(len(texts))]


def _misjudged(name: str, verdicts: Sequence[Verdict], *, wanted: bool) -> Iterator[Failure]:
    """The verdicts that are not what is `wanted`."""
    for each in verdicts:
        if each.passed is not wanted:
            error: Error = "ungraded" if each.passed is None else "false positive" if each.passed else "false negative"
            yield Failure(program=name, error=error, status=str(each.status), detail=each.detail)


def _rows(results: Iterable[Result]) -> list[Row]:
    """Results by kind of program."""
    by_kind: dict[str, list[Result]] = {kind: [] for kind in get_args(Kind)}
    for result in results:
        by_kind[result[0].kind].append(result)
    return [
        Row(
            name="odd but correct" if kind == "odd" else f"attacks: {kind}",
            programs=len(found),
            failures=tuple(failure for _, failures, _ in found for failure in failures),
            seconds=round(sum(seconds for *_, seconds in found), 3),
        )
        for kind, found in by_kind.items()
        if found
    ]


def _gold_rows(
    tasks: str, task_args: Mapping[str, Any], limits: Limits, workers: int | None, tier: str
) -> Iterator[Row]:
    started = time.monotonic()
    for task, verdicts in run_gold(tasks, task_args, limits, workers=workers, tier=tier):
        without = len(task.problems) - len(verdicts)
        failures = (failure for each in verdicts for failure in _misjudged(each.problem_id, [each], wanted=True))
        yield Row(
            name=f"gold: {task.name}" + (f" ({without} problems have none)" if without else ""),
            programs=len(verdicts),
            failures=tuple(failures),
            seconds=round(time.monotonic() - started, 3),
        )
        started = time.monotonic()
