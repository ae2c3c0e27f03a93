"""What a self-test found: the types, the table for people, and the file that leaderboards quote.

Main functions: `describe`, `sentence`, `save`, `read`. `store.selftest_file` says where the file is kept, one for each
version of the sandbox. Not handled: findings of other machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from tabulate import tabulate

from harness.errors import InputError
from harness.store import write_atomically
from harness.types import Record

Error = Literal["false positive", "false negative", "ungraded"]
"""A wrong program passed; a right one did not; no verdict, or one that came too late."""


class Failure(Record, frozen=True):
    """One verdict that should have been another."""

    program: str
    error: Error
    status: str
    detail: str = ""


class Row(Record, frozen=True, omit_defaults=False):
    """The programs of one kind: gold solutions of a task, attacks of a class, or odd programs."""

    name: str
    programs: int
    """Without those that follow each attack, whose errors are counted in its row."""
    failures: tuple[Failure, ...]
    seconds: float


class Findings(Record, frozen=True, omit_defaults=False):
    """All that a self-test found."""

    sandbox: str
    """Version of the sandbox, as runs have it in their manifests; empty if only gold solutions were graded."""
    harness: str
    rows: tuple[Row, ...]


def failures(findings: Findings) -> list[Failure]:
    """Everything that went wrong, row by row."""
    return [failure for row in findings.rows for failure in row.failures]


def describe(findings: Findings) -> str:
    """A table with a row for each kind of programs, then a line for each wrong verdict."""
    errors: tuple[Error, ...] = ("false positive", "false negative", "ungraded")
    table = [
        [row.name, row.programs, *(_count([row], error) for error in errors), f"{row.seconds:.1f}"]
        for row in findings.rows
    ]
    header = ["", "programs", "false positives", "false negatives", "ungraded", "seconds"]
    lines = [tabulate(table, headers=header, tablefmt="github", disable_numparse=True)]
    for row in findings.rows:
        lines += [f"{row.name}: {each.program}: {each.error}: {_said(each)}" for each in row.failures]
    return "\n".join([*lines, f"Sandbox: {findings.sandbox}."] if findings.sandbox else lines)


def _said(failure: Failure) -> str:
    text = f"{failure.status}: {failure.detail}" if failure.detail else failure.status
    return "".join(letter if letter.isprintable() else "?" for letter in text)  # a program's words, on a terminal


def _count(rows: Sequence[Row], error: Error) -> int:
    return sum(failure.error == error for row in rows for failure in row.failures)


def sentence(findings: Findings) -> str:
    """What a leaderboard says of the grader: how many attacks and odd programs it got wrong."""
    attacks = [row for row in findings.rows if row.name.startswith("attacks: ")]
    odd = [row for row in findings.rows if row.name == "odd but correct"]
    tier = ", ".join(findings.sandbox.split(", ")[:2])
    text = (
        f"Grader self-test ({tier}): {_count(attacks, 'false positive')} of {sum(row.programs for row in attacks)} "
        f"attacks passed, {_count(odd, 'false negative')} of {sum(row.programs for row in odd)} odd but correct "
        "programs failed"
    )
    others = _count(attacks, "false negative") + _count([*attacks, *odd], "ungraded")
    return text + (f", {others} programs were misjudged after an attack or not judged." if others else ".")


def save(findings: Findings, path: Path) -> None:
    """Writes the file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(findings), indent=1).decode() + "\n")


def read(path: Path) -> Findings:
    """The findings in a file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Findings)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not of this version ({error}): delete it and run harness selftest.") from error
