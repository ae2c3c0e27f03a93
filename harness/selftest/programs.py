"""The two collections of programs with a known verdict: `attacks.yaml` (never right) and `odd.yaml` (always right).

`collection` reads one. Not handled: programs in other languages than Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from harness.types import Problem, Record, Test

Kind = Literal["verdict", "hang", "harm", "leak", "odd"]
"""What an attack tries (see attacks.yaml), or "odd" for a program that is right."""
ENTRY_POINT = "f"
"""Of a program whose tests stand beside it."""


class Program(Record, frozen=True):
    """A program of a collection with all that is needed to grade it."""

    name: str
    kind: Kind
    problem: Problem
    text: str
    then: str | None = None
    """Run right after it on the same worker, and wrong too."""
    right: str | None = None
    """A program that solves the problem, and one that does not: what follows an attack."""
    wrong: str | None = None


class _Problem(Record, frozen=True):
    """A problem as it is written in a file."""

    kind: Literal["script", "call", "stdio"]
    tests: list[Any]
    entry_point: str | None = None
    setup: str = ""
    right: str | None = None
    wrong: str | None = None


class _Row(Record, frozen=True):
    """A program as it is written in a file; exactly one of `problem`, `test`, `calls` and `pairs` is there."""

    name: str
    program: str
    class_: Kind = msgspec.field(name="class", default="odd")
    problem: str | None = None
    test: str | None = None
    calls: list[Any] | None = None
    pairs: list[Any] | None = None
    then: str | None = None


class _Collection(Record, frozen=True):
    problems: dict[str, _Problem]
    programs: list[_Row]


def collection(name: Literal["attacks", "odd"]) -> list[Program]:
    """The programs of a collection, in the order of its file."""
    path = Path(__file__).with_name(f"{name}.yaml")
    found = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _Collection)
    problems = {key: _problem(key, written) for key, written in found.problems.items()}
    return [_program(row, found, problems) for row in found.programs]


def _program(row: _Row, found: _Collection, problems: dict[str, Problem]) -> Program:
    written = found.problems[row.problem] if row.problem else _own_problem(row)
    problem = problems[row.problem] if row.problem else _problem(row.name, written)
    return Program(
        name=row.name,
        kind=row.class_,
        problem=problem,
        text=row.program,
        then=row.then,
        right=written.right,
        wrong=written.wrong,
    )


def _own_problem(row: _Row) -> _Problem:
    if row.test is not None:
        return _Problem(kind="script", tests=[row.test], entry_point=ENTRY_POINT)
    if row.calls is not None:
        return _Problem(kind="call", tests=row.calls, entry_point=ENTRY_POINT)
    return _Problem(kind="stdio", tests=row.pairs or [])


def _problem(name: str, written: _Problem) -> Problem:
    pairs = [(test, None) if written.kind == "script" else test for test in written.tests]
    tests = tuple(
        Test(id=str(number), kind=written.kind, input=given, expected=expected, setup=written.setup)
        for number, (given, expected) in enumerate(pairs)
    )
    return Problem(id=name, task="selftest", prompt="", entry_point=written.entry_point, tests=tests)
