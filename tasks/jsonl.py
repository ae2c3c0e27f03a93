"""Bring your own problems: a file in which each line is the JSON of a `Problem` (see `harness/types.py`).

A problem with `tests` is graded by running the program, one with an `answer` alone by comparing answers. A missing
`task` is the name given here, a missing `id` is `<task>/<row from 0>`, a missing test id its place in the list.

    {"id": "double/0", "prompt": "def double(x):\\n", "entry_point": "double", "answer": "    return 2 * x\\n",
     "tests": [{"kind": "call", "input": [3], "expected": 6}]}

Programs in other languages than Python (`"language": "c++"`; `harness doctor` lists them) have tests of the kind stdio:
text on standard input, text expected on standard output. A language of your own, a YAML file like those in
`harness/sandbox/languages`, is given as `--task_args language=FILE`, never by the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.dataset import read_rows
from harness.errors import InputError
from harness.grading import code, plain_answers
from harness.grading.programs import continued, standalone
from harness.sandbox import language as languages
from harness.types import Completion, Execution, Problem, Task, Verdict


def jsonl(path: str, name: str = "jsonl", language: str = "python") -> Task:
    """Your own problems, one JSON object a line (pass@k)."""
    rows = list(read_rows(Path(path)))
    problems = tuple(
        _problem(row, name, row_number, f"{path}, row {line}", language) for row_number, (line, row) in enumerate(rows)
    )
    digest = hashlib.sha256(msgspec.json.encode(problems)).hexdigest()[:16]
    return Task(
        name=name, problems=problems, extract=_extract, grade=_grade, gold=_gold, revision=f"file sha256:{digest}"
    )


def _problem(row: dict[str, Any], task: str, number: int, where: str, language: str) -> Problem:
    fields = {"task": task, "id": f"{task}/{number}", "language": language} | row
    if isinstance(row.get("tests"), list):
        fields["tests"] = [{"id": str(i)} | t if isinstance(t, dict) else t for i, t in enumerate(row["tests"])]
    try:
        problem = msgspec.convert(fields, Problem)
        msgspec.json.encode(problem)  # a lone surrogate is no text that can be stored
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise InputError(f"{where} is not a problem ({error}).") from error
    if not problem.tests and not (problem.answer or "").strip():
        raise InputError(
            f"{where} (problem {problem.id}) has neither tests nor an answer: there is nothing to grade by."
        )
    if problem.tests and problem.language != language and problem.language not in languages.names():
        known = ", ".join(sorted(languages.names()))
        raise InputError(f"{where} (problem {problem.id}): there is no language {problem.language!r}, only {known}.")
    if any(test.kind != "stdio" for test in problem.tests) and not languages.is_python(problem.language):
        raise InputError(
            f"{where} (problem {problem.id}): call and script tests are for Python: give programs in "
            f"{problem.language} tests of the kind stdio."
        )
    for test in problem.tests:
        if test.kind == "call" and (problem.entry_point is None or not isinstance(test.input, list)):
            raise InputError(
                f"{where} (problem {problem.id}): a call test needs the problem's entry_point and a list input."
            )
        if test.kind != "call" and not isinstance(test.input, str):
            raise InputError(f"{where} (problem {problem.id}): the input of a {test.kind} test is text.")
    return msgspec.structs.replace(problem, task=task)


def _extract(problem: Problem, completion: Completion) -> Completion:
    if not problem.tests:
        return plain_answers.extract(problem, completion)
    if _continues(problem):
        return continued(problem, completion)
    return standalone(problem, completion)


def _continues(problem: Problem) -> bool:
    """A prompt that holds the entry point's definition is the beginning of the program."""
    return problem.entry_point is not None and f"def {problem.entry_point}(" in problem.prompt


def _grade(problem: Problem, completion: Completion, executions: Sequence[Execution]) -> Verdict:
    if problem.tests:
        return code.verdict(problem, completion, executions)
    return plain_answers.grade(problem, completion, executions)


def _gold(problem: Problem) -> Completion | None:
    """The reference in the form in which the prompt asks for it."""
    reference = plain_answers.gold(problem)
    if reference is None or not problem.tests or _continues(problem):
        return reference
    return msgspec.structs.replace(reference, form="program")
