"""Tests beside a task's own, run on every program of a finished run: values to vote with, tests to select by.

Main functions: `own_inputs` and `examples` make suites of what a task has, `written.generated` of what a model
wrote; `run_suite` runs one, `outcomes` gives what came of it. The files are those of `store.py`.

Not handled: script and stdio tests; languages other than Python; executions' details.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import HarnessError, InputError
from harness.evaluate import tasks_of
from harness.grading.thinking import without_thinking
from harness.progress import Progress, silent
from harness.sandbox import open_sandbox
from harness.store import read_cpu_limits, read_run
from harness.suites.literals import Call, distinct, parameters_of, read_doctests
from harness.suites.records import Suite, SuiteRecord
from harness.suites.runs import Program, batches, hash_of, run_all
from harness.suites.store import outcomes, read_record, read_suite, suite_names
from harness.suites.writing import OpenSuite, open_suite
from harness.types import Execution, Limits, Problem, Test

__all__ = [
    "LIMITS",
    "Suite",
    "SuiteRecord",
    "examples",
    "outcomes",
    "own_inputs",
    "problems_of",
    "read_record",
    "read_suite",
    "run_suite",
    "suite_names",
    "tests_of",
]

LIMITS = Limits(cpu_s=0.9, wall_s=5.0)
"""Of one process with all tests of a program, unless the run has a CPU limit for the problem."""


# --- suites of what a task has


def own_inputs(problems: Iterable[Problem]) -> Suite:
    """The call tests of the task itself, as they are.

    Values on their inputs are what execution-based votes go by (LEVER on MBPP); whether they are passed is the verdict
    and must not choose.
    """
    tests = {p.id: tuple(test for test in p.tests if test.kind == "call") for p in problems}
    return Suite(name="inputs", source="The inputs of the task's own tests.", tests=_some(tests))


def examples(problems: Iterable[Problem]) -> Suite:
    """The examples that a problem shows: `meta["examples"]`, pairs of arguments and value, or the prompt's doctests."""
    tests: dict[str, tuple[Test, ...]] = {}
    notes: Counter[str] = Counter()
    for problem in problems:
        if problem.entry_point is None:
            continue
        if "examples" in problem.meta:
            calls = [_example(problem.id, pair) for pair in problem.meta["examples"]]
        else:
            parameters = parameters_of(problem.prompt, problem.entry_point)
            found = read_doctests(problem.prompt, problem.entry_point, parameters=parameters)
            calls, notes = found.calls, notes + found.dropped
        tests[problem.id], _ = tests_of(calls, source="public")
    return Suite(name="examples", source="The examples in the prompts.", tests=_some(tests), notes=notes)


def tests_of(calls: Iterable[Call], *, source: str) -> tuple[tuple[Test, ...], tuple[int, ...]]:
    """A test of each different call, in the order of arrival, and how often it came."""
    different, counts = distinct(iter(calls))
    tests = (
        Test(id=str(place), kind="call", input=list(call.arguments), expected=call.expected, source=source)
        for place, call in enumerate(different)
    )
    return tuple(tests), tuple(counts)


def _some(tests: dict[str, tuple[Test, ...]]) -> dict[str, tuple[Test, ...]]:
    return {problem: each for problem, each in tests.items() if each}


def _example(problem_id: str, pair: Any) -> Call:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], list | tuple):
        raise InputError(f"an example of {problem_id} is {pair!r:.80}: it is to be [arguments, value].")
    return Call(arguments=tuple(pair[0]), expected=pair[1])


# --- running them


def problems_of(run: Path) -> list[Problem]:
    """The problems that a run has completions of, whole, as its tasks have them."""
    manifest, completions, _ = read_run(run)
    wanted = {completion.problem_id for completion in completions}
    return [problem for task in tasks_of(manifest) for problem in task.problems if problem.id in wanted]


def run_suite(
    run: Path,
    suite: Suite,
    *,
    workers: int | None = None,
    tier: str = "auto",
    limits: Limits = LIMITS,
    again: bool = False,
    progress: Progress = silent,
) -> None:
    """Runs every program of a finished run on all tests that the suite has of its problem.

    What is stored already is not run again, so that the same call goes on after a kill.

    Args:
        run: a run folder with results; the outcomes go to its `suites/NAME`.
        suite: problems that it has no test of are skipped.
        workers: programs run side by side; None: one per core.
        tier: how programs are isolated.
        limits: of a process with all tests of a program; the run's CPU limit of a problem, where it has one, stands in
            for `cpu_s`.
        again: throw away what there is of a suite of this name.
        progress: told of every completion.

    Raises:
        RunMismatch: the folder has another suite of that name, or a process is at it.
        HarnessError: the sandbox failed to run a program; the others are stored.
    """
    begun = time.monotonic()
    if not (run / "results.json").is_file():
        raise InputError(f"{run} is not finished: finish it first, by the command that began it.")
    problems, programs = _programs(run, suite)
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(
            contextlib.closing(open_sandbox(workers=workers, limits=limits, tier=tier, all_tests=True, values=True))
        )
        opened = stack.enter_context(open_suite(run, suite, sandbox=sandbox.version, limits=limits, again=again))
        missing = _missing(opened, programs)
        total = sum(len(each.indexes) for each in programs)
        done = total - sum(len(each.indexes) for each in missing)
        progress.start(total, total, done)
        failed: list[tuple[Program, Execution]] = []
        for batch in batches(missing, problems):
            for program in run_all(batch, problems, sandbox, limits):
                if program.broken is not None:
                    failed.append((program, program.broken))
                else:
                    _store(opened, program)
                for _ in program.indexes:
                    progress.graded()
        if failed:
            program, execution = failed[0]
            raise HarnessError(
                f"the sandbox failed on {len(failed)} programs of {run} in the suite {suite.name} "
                f"({program.problem_id} completion {program.indexes[0]}: {execution.detail}): run the suite again, "
                "and it goes on."
            )
        opened.finish(time.monotonic() - begun)


def _programs(run: Path, suite: Suite) -> tuple[dict[str, Problem], list[Program]]:
    """The problems with the suite's tests for their own, and every different program of each."""
    manifest, completions, _ = read_run(run)
    task_of = {problem.id: (task, problem) for task in tasks_of(manifest) for problem in task.problems}
    unknown = next((name for name in suite.tests if name not in task_of), None)
    if unknown is not None:
        raise InputError(f"the suite {suite.name} has tests of {unknown}, which no task of {run} has.")
    cpu_limits = read_cpu_limits(run / "limits.json")
    problems: dict[str, Problem] = {}
    found: dict[tuple[str, str], Program] = {}
    for raw in completions:
        tests = suite.tests.get(raw.problem_id)
        if not tests:
            continue
        if raw.problem_id not in task_of:
            raise InputError(
                f"{run} has completions of {raw.problem_id}, which its task no longer has: restore the task's file."
            )
        task, problem = task_of[raw.problem_id]
        if raw.problem_id not in problems:
            problems[raw.problem_id] = _with_tests(problem, tests, cpu_limits.get(problem.id))
        completion = task.extract(problem, without_thinking(raw, manifest.think_tags))
        key = (raw.problem_id, hash_of(completion.program))
        if key not in found:
            found[key] = Program(problem_id=raw.problem_id, hash=key[1], completion=completion, indexes=[])
        found[key].indexes.append(raw.index)
    return problems, list(found.values())


def _with_tests(problem: Problem, tests: tuple[Test, ...], cpu_s: float | None) -> Problem:
    if problem.entry_point is None or problem.language != "python":
        raise InputError(f"problem {problem.id} has no Python function to call: leave it out of the suite.")
    return msgspec.structs.replace(problem, tests=tests, cpu_s=cpu_s if problem.cpu_s is None else problem.cpu_s)


def _missing(opened: OpenSuite, programs: Iterable[Program]) -> list[Program]:
    """What was not run; completions that came since with a program that was are noted at once."""
    found = []
    for program in programs:
        fresh = [i for i in program.indexes if opened.program_of.get((program.problem_id, i)) != program.hash]
        known = opened.ran.get((program.problem_id, program.hash))
        if known is None:
            found.append(program)
        elif fresh:
            opened.add_equal(known, fresh)
    return found


def _store(opened: OpenSuite, program: Program) -> None:
    opened.add(
        program.problem_id,
        program.indexes,
        program.hash,
        statuses=[one.status for one in program.done],
        values=[
            None if one.value is None or one.value_digest is None else (one.value_digest, one.value)
            for one in program.done
        ],
        cpu_s=program.cpu_s,
    )
