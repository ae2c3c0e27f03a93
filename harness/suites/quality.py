"""How good are the tests of a suite? Against right solutions, against the run's verdicts, against mutants.

Main function: `quality`, for a suite that a run has been run on. A test is *valid* if the task's gold solution passes
it. A suite *accepts* a completion that passes all its tests of the problem: the true positive rate is the share of
right completions that it accepts, the false positive rate that of wrong ones; beside it the same for single tests. The
*mutation kill rate* is the share of wrong mutants of the gold solution (`mutants`) that fail one of the valid tests; a
mutant is wrong if it fails the task's own tests. Rates are first taken within a problem, then averaged over problems.

Not handled: intervals (the rows per problem are there for that), problems without a gold solution (None for what needs
one), completions that were not graded (left out).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from harness.errors import HarnessError, InputError
from harness.evaluate import tasks_of
from harness.finished import results_of
from harness.progress import Progress, silent
from harness.sandbox import open_sandbox
from harness.store import read_cpu_limits, read_manifest, write_atomically
from harness.suites.mutants import MOST, mutants
from harness.suites.records import Suite
from harness.suites.runs import Program, hash_of, run_all
from harness.suites.store import outcomes, read_record, read_suite, suite_folder
from harness.types import Completion, Execution, Job, Limits, Problem, Record, Results, Sandbox, Status

Bools = npt.NDArray[np.bool_]
ROOM = 5.0
"""CPU time of a mutant on the suite, in times of the gold solution's, where that is more than the limit."""


class Rates(Record, frozen=True, omit_defaults=False):
    """A test, or all tests together, as a judge of completions."""

    true_positive: float | None
    """Share of the right ones that pass; None: there is no right one, or no test."""
    false_positive: float | None
    """Share of the wrong ones that pass."""


class ProblemQuality(Record, frozen=True, omit_defaults=False):
    """The tests of one problem."""

    problem_id: str
    tests: int
    valid: int | None
    """How many of them the gold solution passes; None: there is none, or it fails the task's own tests."""
    right: int
    """Completions by verdict."""
    wrong: int
    accepts: Rates
    """Passing all tests."""
    accepts_valid: Rates
    """Passing all valid tests."""
    single: Rates
    """One test, on average."""
    single_valid: Rates
    mutants: int
    """That are wrong."""
    killed: int


class Quality(Record, frozen=True, omit_defaults=False):
    """A suite: means over its problems, and a row for each."""

    suite: str
    problems: int
    tests: int
    validity: float | None
    """Share of all tests that are valid, of problems with a gold solution."""
    validity_of_problems: float | None
    """The same share within a problem, averaged."""
    accepts: Rates
    accepts_valid: Rates
    single: Rates
    single_valid: Rates
    mutants: int
    kill_rate: float | None
    """Of all wrong mutants together."""
    kill_rate_of_problems: float | None
    seconds: float
    rows: tuple[ProblemQuality, ...]


def quality(
    run: Path,
    name: str,
    *,
    most_mutants: int = MOST,
    seed: int = 0,
    workers: int | None = None,
    tier: str = "auto",
    progress: Progress = silent,
) -> Quality:
    """Measures a suite that a run has outcomes on, and leaves it as quality.json beside them.

    Args:
        run: a finished run.
        name: of the suite.
        most_mutants: of each gold solution; 0: none, and kill rates are None.
        seed: which mutants.
        workers: programs run side by side; None: one per core.
        tier: how programs are isolated.
        progress: told of gold solutions that fail.
    """
    begun = time.monotonic()
    suite, limits = read_suite(run, name), read_record(run, name).limits
    _, results = results_of(run, with_tasks=True, with_suites=False)
    problems = {
        p.id: p for p in _limited(results.problems_P, read_cpu_limits(run / "limits.json")) if p.id in suite.tests
    }
    golds = _golds(run, problems)
    on_suite = {p: msgspec.structs.replace(each, tests=suite.tests[p]) for p, each in problems.items()}
    with contextlib.closing(open_sandbox(workers=workers, limits=limits, tier=tier, all_tests=True)) as sandbox:
        ran = {program.problem_id: program for program in run_all(list(golds.values()), on_suite, sandbox, limits)}
    for program in ran.values():
        _refuse_broken(program.done if program.broken is None else [program.broken])
    own = read_manifest(run / "manifest.json").limits
    with contextlib.closing(open_sandbox(workers=workers, limits=own, tier=tier)) as sandbox:
        failing = {p for p, _ in _failing(_gold_jobs(problems, golds), sandbox)}
        if failing:
            named = f"{', '.join(sorted(failing)[:3])} ({len(failing)} in all)"
            progress.note(f"the gold solutions of {named} fail their own tests: nothing is said by them.")
        right = {p: program for p, program in ran.items() if p not in failing}
        valid_of = {p: np.array([one.status == Status.passed for one in each.done]) for p, each in right.items()}
        mutated = {p: mutants(each.completion.program or "", most=most_mutants, seed=seed) for p, each in right.items()}
        wrong = _failing(_mutant_jobs(mutated, problems), sandbox)
        tests = {p: _valid_only(on_suite[p], mask, ran[p].cpu_s, limits) for p, mask in valid_of.items() if mask.any()}
        wrong_of = {p: [text for text in texts if (p, text) in wrong] for p, texts in mutated.items() if p in tests}
        killed = _failing(_mutant_jobs(wrong_of, tests), sandbox)
    rows = _rows(run, suite, results, valid_of, wrong, killed)
    found = _summary(name, rows, time.monotonic() - begun)
    text = json.dumps(msgspec.to_builtins(found), indent=1, ensure_ascii=False)
    write_atomically(suite_folder(run, name) / "quality.json", text + "\n")
    return found


def describe(found: Quality) -> str:
    """What was found, for people: one line for each number; `-` where it was not measured."""
    kills = f"{_percent(found.kill_rate)} of {found.mutants} mutants"
    rows = [
        ("tests", f"{found.tests} of {found.problems} problems"),
        ("valid", f"{_percent(found.validity)} of all, {_percent(found.validity_of_problems)} of a problem's"),
        ("killed by the valid ones", f"{kills}, {_percent(found.kill_rate_of_problems)} of a problem's"),
    ]
    for name, rates in (
        ("passing all tests", found.accepts),
        ("passing all valid tests", found.accepts_valid),
        ("passing a test", found.single),
        ("passing a valid test", found.single_valid),
    ):
        right, wrong = _percent(rates.true_positive), _percent(rates.false_positive)
        rows.append((name, f"{right} of right completions, {wrong} of wrong ones"))
    return "\n".join(f"{name:<24} {text}" for name, text in rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}%"


def read_quality(run: Path, name: str) -> Quality | None:
    """What `quality` found of a suite; None if it was not asked."""
    path = suite_folder(run, name) / "quality.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Quality)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not of this version ({error}): measure it again.") from error


def _limited(problems: Iterable[Problem], cpu_limits: Mapping[str, float]) -> Iterator[Problem]:
    for problem in problems:
        known = problem.cpu_s is not None or problem.id not in cpu_limits
        yield problem if known else msgspec.structs.replace(problem, cpu_s=cpu_limits[problem.id])


def _golds(run: Path, problems: Mapping[str, Problem]) -> dict[str, Program]:
    """The gold solution of each problem that has one."""
    found = {}
    for task in tasks_of(read_manifest(run / "manifest.json")):
        for problem in task.problems:
            gold = task.gold(problem) if problem.id in problems else None
            if gold is not None:
                completion = task.extract(problem, gold)
                found[problem.id] = Program(
                    problem_id=problem.id, hash=hash_of(completion.program), completion=completion, indexes=[0]
                )
    return found


def _gold_jobs(problems: Mapping[str, Problem], golds: Mapping[str, Program]) -> Iterator[Job]:
    return (Job(problem=problems[p], completion=program.completion) for p, program in golds.items())


def _mutant_jobs(mutated: Mapping[str, Sequence[str]], problems: Mapping[str, Problem]) -> Iterator[Job]:
    for name, texts in mutated.items():
        for index, text in enumerate(texts):
            completion = Completion(problem_id=name, index=index, text="", program=text)
            yield Job(problem=problems[name], completion=completion)


def _failing(jobs: Iterator[Job], sandbox: Sandbox) -> set[tuple[str, str]]:
    """Problem id and program of those that do not pass all tests."""
    found = set()
    for job, executions in sandbox.run(jobs):
        _refuse_broken(executions)
        if any(one.status != Status.passed for one in executions):
            found.add((job.problem.id, job.completion.program or ""))
    return found


def _refuse_broken(executions: Sequence[Execution]) -> None:
    broken = next((one for one in executions if one.status == Status.sandbox_error), None)
    if broken is not None:
        raise HarnessError(
            f"the sandbox failed on a program for {broken.problem_id} ({broken.detail}): measure the suite again."
        )


def _valid_only(problem: Problem, valid_C: Bools, gold_s: float | None, limits: Limits) -> Problem:
    """The problem with the valid tests, and time enough for whoever is about as fast as the gold solution."""
    tests = tuple(test for test, valid in zip(problem.tests, valid_C, strict=True) if valid)
    cpu_s = max(problem.cpu_s or limits.cpu_s, ROOM * (gold_s or 0.0))
    return msgspec.structs.replace(problem, tests=tests, cpu_s=cpu_s)


def _rows(
    run: Path,
    suite: Suite,
    results: Results,
    valid_of: Mapping[str, Bools],
    wrong: set[tuple[str, str]],
    killed: set[tuple[str, str]],
) -> Iterator[ProblemQuality]:
    found = outcomes(run, suite.name, results)
    for problem, verdict_G, passed_GC in zip(results.problems_P, results.passed_PG, found.passed_PGC, strict=True):
        if problem.id not in suite.tests:
            continue
        valid_C = valid_of.get(problem.id)
        known = ~np.isnan(verdict_G)
        right_G, graded_GC = verdict_G[known] == 1, passed_GC[known]
        none = np.zeros(len(suite.tests[problem.id]), np.bool_)
        valid_GC = graded_GC[:, none if valid_C is None else valid_C]
        yield ProblemQuality(
            problem_id=problem.id,
            tests=passed_GC.shape[1],
            valid=None if valid_C is None else int(valid_C.sum()),
            right=int(right_G.sum()),
            wrong=int((~right_G).sum()),
            accepts=_accepts(graded_GC, right_G),
            accepts_valid=_accepts(valid_GC, right_G),
            single=_single(graded_GC, right_G),
            single_valid=_single(valid_GC, right_G),
            mutants=sum(name == problem.id for name, _ in wrong),
            killed=sum(name == problem.id for name, _ in killed),
        )


def _accepts(passed_GC: Bools, right_G: Bools) -> Rates:
    return _rates(np.asarray(passed_GC.all(axis=1), np.float64), right_G, tests=passed_GC.shape[1])


def _single(passed_GC: Bools, right_G: Bools) -> Rates:
    share_G = passed_GC.mean(axis=1) if passed_GC.shape[1] else np.zeros(len(right_G))
    return _rates(share_G, right_G, tests=passed_GC.shape[1])


def _rates(share_G: npt.NDArray[np.float64], right_G: Bools, *, tests: int) -> Rates:
    """Means of what right and wrong completions get."""

    def mean(chosen_G: Bools) -> float | None:
        return float(share_G[chosen_G].mean()) if tests and chosen_G.any() else None

    return Rates(true_positive=mean(right_G), false_positive=mean(~right_G))


def _summary(name: str, rows: Iterable[ProblemQuality], seconds: float) -> Quality:
    found = tuple(rows)
    judged = [(row.valid, row.tests) for row in found if row.valid is not None]
    valid, tests = (sum(column) for column in zip(*judged, strict=True)) if judged else (0, 0)
    n_mutants, n_killed = sum(row.mutants for row in found), sum(row.killed for row in found)
    return Quality(
        suite=name,
        problems=len(found),
        tests=sum(row.tests for row in found),
        validity=valid / tests if tests else None,
        validity_of_problems=_mean(valid / tests for valid, tests in judged),
        accepts=_mean_rates(row.accepts for row in found),
        accepts_valid=_mean_rates(row.accepts_valid for row in found),
        single=_mean_rates(row.single for row in found),
        single_valid=_mean_rates(row.single_valid for row in found),
        mutants=n_mutants,
        kill_rate=n_killed / n_mutants if n_mutants else None,
        kill_rate_of_problems=_mean(row.killed / row.mutants for row in found if row.mutants),
        seconds=seconds,
        rows=found,
    )


def _mean_rates(each: Iterable[Rates]) -> Rates:
    rates = list(each)
    return Rates(
        true_positive=_mean(rate.true_positive for rate in rates),
        false_positive=_mean(rate.false_positive for rate in rates),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that were measured."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
