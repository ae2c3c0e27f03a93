"""A suite of tests beside a task's own, and what a run's programs did on it, as files of the run folder.

    RUN/suites/NAME/  suite.json    what made it: source, hash of the tests, sandbox, limits, seconds
                      tests.jsonl   {"problem_id", "test", "count"}, arguments and values as tagged JSON (sandbox/plain)
                      outcomes.jsonl  one line per different program: a letter and a number of the value for each test

Main functions: `read_suite`, `outcomes`, `executions_on`, `suite_names`; `writing.py` makes such folders. A torn
last line is no line. A value stands in a line once per problem, and its number is its place among them. Not handled:
executions' details, output, lines.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.errors import InputError
from harness.suites.records import Ran, Suite, SuiteRecord, Value, parse_tests
from harness.types import Execution, Key, Outcomes, Results, Status

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FOLDER",
    "LETTERS",
    "Ran",
    "executions_on",
    "outcomes",
    "read_record",
    "read_suite",
    "record_at",
    "suite_folder",
    "suite_names",
    "whole_lines",
]

FOLDER = "suites"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LETTERS = {
    Status.passed: "p",
    Status.wrong: "w",
    Status.compile_error: "c",
    Status.runtime_error: "r",
    Status.timeout: "t",
    Status.memory: "m",
    Status.output_limit: "o",
    Status.tampered: "x",
}
"""Of the statuses that a stored program can have; one that the sandbox failed to run is never stored."""


def suite_names(run: Path) -> list[str]:
    """The finished suites of a run."""
    found = sorted(path.parent for path in (run / FOLDER).glob("*/suite.json"))
    return [path.name for path in found if record_at(path).finished]


def read_record(run: Path, name: str) -> SuiteRecord:
    """What made a suite, and how long it took."""
    return record_at(_existing(run, name))


def read_suite(run: Path, name: str) -> Suite:
    """The tests of a suite as they are stored."""
    path = _existing(run, name)
    record = record_at(path)
    return parse_tests(path / "tests.jsonl", name=name, source=record.source, notes=record.notes)


def outcomes(run: Path, name: str, results: Results) -> Outcomes:
    """What the programs of `results` did on a suite, in their order.

    Raises:
        InputError: there is no such suite, it is not finished, or completions came after it was run.
    """
    import numpy as np  # the command line is to start without it

    path = _existing(run, name)
    if not record_at(path).finished:
        raise InputError(f"the suite {name} of {run} is not finished: run it again, and it goes on.")
    suite = read_suite(run, name)
    row_of, values_of = _rows(path)
    passed, outputs, texts, seconds = [], [], [], []
    for problem, completions in zip(results.problems_P, results.completions_PG, strict=True):
        n_tests = len(suite.tests.get(problem.id, ()))
        rows = [row_of.get((problem.id, c.index)) for c in completions] if n_tests else []
        if None in rows:
            raise InputError(
                f"{run} has completions of {problem.id} that were not run on the suite {name}: "
                "run the suite again, and it goes on."
            )
        known = [row for row in rows if row is not None]
        shape = (len(completions), n_tests)
        passed.append(np.array([[each == "p" for each in row.statuses] for row in known], np.bool_).reshape(shape))
        outputs.append(np.array(_renumbered(known, values_of[problem.id]), np.int64).reshape(shape))
        texts.append(_texts(known, values_of[problem.id]) if n_tests else ((),) * len(completions))
        seconds.append(_seconds(known, len(completions)))
    return Outcomes(
        tests_PC=tuple(suite.tests.get(problem.id, ()) for problem in results.problems_P),
        passed_PGC=tuple(passed),
        output_PGC=tuple(outputs),
        value_PGC=tuple(texts),
        cpu_s_PG=tuple(seconds),
    )


def executions_on(run: Path, name: str, results: Results) -> dict[Key, tuple[Execution, ...]]:
    """The executions of each completion on a suite, as far as they are stored: test, status and value."""
    found = outcomes(run, name, results)
    row_of, values_of = _rows(_existing(run, name))
    status_of = {letter: status for status, letter in LETTERS.items()}
    executions: dict[Key, tuple[Execution, ...]] = {}
    for completions, tests in zip(results.completions_PG, found.tests_PC, strict=True):
        for one in completions if tests else ():
            row, values = row_of[one.problem_id, one.index], values_of[one.problem_id]
            executions[one.problem_id, one.index] = tuple(
                Execution(
                    problem_id=one.problem_id,
                    index=one.index,
                    test_id=test.id,
                    status=status_of[letter],
                    value=None if place < 0 else values[place][1],
                    value_digest=None if place < 0 else values[place][0],
                )
                for test, letter, place in zip(tests, row.statuses, row.outputs, strict=True)
            )
    return executions


def _rows(path: Path) -> tuple[dict[Key, Ran], dict[str, list[Value]]]:
    """The last line of each completion, and the values of each problem by number."""
    row_of: dict[Key, Ran] = {}
    values_of: dict[str, list[Value]] = defaultdict(list)
    for ran, _ in whole_lines(path / "outcomes.jsonl"):
        values_of[ran.problem_id] += ran.values
        row_of.update({(ran.problem_id, index): ran for index in ran.indexes})
    return row_of, values_of


def _renumbered(rows: Sequence[Ran], values: Sequence[Value]) -> list[list[int]]:
    """A number for each digest in the order in which completions give them, whichever was run first; -1: no value."""
    number_of: dict[str, int] = {}

    def number(place: int) -> int:
        return -1 if place < 0 else number_of.setdefault(values[place][0], len(number_of))

    return [[number(place) for place in row.outputs] for row in rows]


def _texts(rows: Sequence[Ran], values: Sequence[Value]) -> tuple[tuple[str | None, ...], ...]:
    """The values of each completion; equal programs share one tuple."""
    made: dict[str, tuple[str | None, ...]] = {}
    for row in rows:
        if row.program not in made:
            made[row.program] = tuple(None if place < 0 else values[place][1] for place in row.outputs)
    return tuple(made[row.program] for row in rows)


def _seconds(rows: Sequence[Ran], n: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.array([math.nan if row.cpu_s is None else row.cpu_s for row in rows] or [math.nan] * n, np.float64)


def suite_folder(run: Path, name: str) -> Path:
    """Where a suite of a run is, or would be."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be the name of a suite: use letters, digits, _, . and -.")
    return run / FOLDER / name


def _existing(run: Path, name: str) -> Path:
    path = suite_folder(run, name)
    if not (path / "suite.json").is_file():
        raise InputError(f"{run} has no suite {name!r} (there are {', '.join(suite_names(run)) or 'none'}).")
    return path


def record_at(path: Path) -> SuiteRecord:
    """What suite.json in a suite's folder says."""
    try:
        return msgspec.json.decode((path / "suite.json").read_bytes(), type=SuiteRecord)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}/suite.json is not of this version ({error}): remove the folder.") from error


def whole_lines(path: Path) -> Iterator[tuple[Ran, int]]:
    """Every whole record of outcomes.jsonl, and where its line ends; a torn last line is none."""
    if not path.is_file():
        return
    end = 0
    decode = msgspec.json.Decoder(Ran).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                yield decode(line), end
            except msgspec.DecodeError as error:
                raise InputError(
                    f"{path}, line {number} is damaged ({error}): run the suite again with again=True."
                ) from error
