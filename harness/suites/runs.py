"""Programs on all tests of a suite, where one endless test is not to fail the others.

Main function: `run_all`. All tests of a program run in one process. One that the process spends its CPU time on costs
itself alone: the tests after it get a fresh process, FRESH times in all, and whatever is then left counts as a timeout.
A test counts as slow only if it was so by itself: one that came late in a busy process gets a fresh one too.
Not handled: storing what came of it (`suites`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from harness.types import Completion, Execution, Job, Limits, Problem, Sandbox, Status, Test

FRESH = 3
"""Processes that a program gets after its first."""
MOST_CALLS = 100_000
"""Calls whose executions are in memory at a time."""


@dataclass(kw_only=True)
class Program:
    """A program and what it has done so far."""

    problem_id: str
    hash: str
    completion: Completion
    """One that it was extracted from."""
    indexes: list[int]
    """All completions of the problem with this program."""
    done: list[Execution] = field(default_factory=list)
    """Of the first tests."""
    cpu_s: float | None = 0.0
    """None: not all of it was measured."""
    processes: int = 0
    broken: Execution | None = None
    """Where the sandbox failed."""


def hash_of(program: str | None) -> str:
    """A short name for a program, or for none."""
    if program is None:
        return "none"
    return hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def batches(programs: Iterable[Program], problems: Mapping[str, Problem]) -> Iterator[list[Program]]:
    """The programs in lists of MOST_CALLS or a little more."""
    batch: list[Program] = []
    calls = 0
    for program in programs:
        batch.append(program)
        calls += len(problems[program.problem_id].tests)
        if calls >= MOST_CALLS:
            yield batch
            batch, calls = [], 0
    if batch:
        yield batch


def run_all(
    programs: list[Program], problems: dict[str, Problem], sandbox: Sandbox, limits: Limits
) -> Iterator[Program]:
    """Every program once it has done all that it will do: in rounds, each with a fresh process for what is left."""
    left = programs
    rest: dict[tuple[str, int], Problem] = {}
    while left:
        program_of = {(each.problem_id, each.completion.index): each for each in left}
        left = []
        for job, executions in sandbox.run(_jobs(program_of.values(), problems, rest)):
            program = program_of[job.problem.id, job.completion.index]
            tests = problems[program.problem_id].tests
            _add(program, executions, tests, job.problem.cpu_s or limits.cpu_s)
            if program.broken is not None or len(program.done) == len(tests):
                yield program
            else:
                left.append(program)


def _jobs(
    programs: Iterable[Program], problems: dict[str, Problem], rest: dict[tuple[str, int], Problem]
) -> Iterator[Job]:
    for program in programs:
        problem, place = problems[program.problem_id], len(program.done)
        if place and (problem.id, place) not in rest:  # one object for all, or tests travel to the judge each time
            rest[problem.id, place] = msgspec.structs.replace(problem, tests=problem.tests[place:])
        yield Job(problem=rest[problem.id, place] if place else problem, completion=program.completion)


def _add(program: Program, executions: Sequence[Execution], tests: tuple[Test, ...], cpu_s: float) -> None:
    """Adds what one job brought: up to the test that its process spent its time on, if there is one."""
    program.processes += 1
    program.broken = next((one for one in executions if one.status == Status.sandbox_error), None)
    late = next((place for place, one in enumerate(executions) if one.status == Status.timeout), None)
    seconds = [one.cpu_s for one in executions[:late]]
    if late is not None and program.processes <= FRESH:
        alone = sum(filter(None, seconds)) < cpu_s / 2
        executions = executions[: late + alone]
    program.done += executions
    n_left = len(tests) - len(program.done)
    if n_left and (late is None or program.processes > FRESH) and program.broken is None:
        program.done += [executions[-1]] * n_left  # a program that could not be started, or a judge that had enough
    if late is not None:
        seconds.append(cpu_s)
    known = [each for each in seconds if each is not None]
    whole = program.cpu_s is not None and len(known) == len(seconds)
    program.cpu_s = (program.cpu_s or 0.0) + sum(known) if whole else None
