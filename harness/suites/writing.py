"""Writes the folder of a suite (`store.py`), so that a kill at any moment loses no more than a line.

Main function: `open_suite`, which starts a folder or goes on with it. One process at a time may write a suite. Not
handled: running programs (`suites`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from harness.errors import RunMismatch
from harness.store import lock, write_atomically
from harness.suites.records import Ran, Suite, SuiteRecord, Value, to_lines
from harness.suites.store import LETTERS, record_at, suite_folder, whole_lines
from harness.types import Key, Limits, Status

_encode = msgspec.json.Encoder().encode


@dataclass(kw_only=True)
class OpenSuite:
    """A suite's folder that is held, and what it has already."""

    path: Path
    record: SuiteRecord
    ran: dict[tuple[str, str], Ran] = field(default_factory=dict)
    """By problem id and program."""
    program_of: dict[Key, str] = field(default_factory=dict)
    _numbers: dict[str, dict[Value, int]] = field(default_factory=lambda: defaultdict(dict))
    _file: BinaryIO | None = None

    def add(
        self,
        problem_id: str,
        indexes: Sequence[int],
        program: str,
        *,
        statuses: Sequence[Status],
        values: Sequence[Value | None],
        cpu_s: float | None,
    ) -> None:
        """Stores what a program did: its status and its value on each test."""
        numbers = self._numbers[problem_id]
        fresh = [value for value in dict.fromkeys(values) if value is not None and value not in numbers]
        self._learn(problem_id, fresh)
        self._append(
            Ran(
                problem_id=problem_id,
                indexes=tuple(indexes),
                program=program,
                statuses="".join(LETTERS[status] for status in statuses),
                outputs=tuple(-1 if value is None else numbers[value] for value in values),
                values=tuple(fresh),
                cpu_s=cpu_s,
            )
        )

    def add_equal(self, known: Ran, indexes: Sequence[int]) -> None:
        """Stores that more completions have a program that was run already."""
        self._append(msgspec.structs.replace(known, indexes=tuple(indexes), values=()))

    def finish(self, seconds: float) -> None:
        """Notes that every program has been run."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        self.record = msgspec.structs.replace(
            self.record, programs=len(self.ran), seconds=self.record.seconds + seconds, finished=True
        )
        _write_record(self.path, self.record)

    def _append(self, ran: Ran) -> None:
        assert self._file is not None
        self._file.write(_encode(ran) + b"\n")
        self._file.flush()
        self._note(ran)

    def _note(self, ran: Ran) -> None:
        self.ran[ran.problem_id, ran.program] = ran
        self.program_of.update({(ran.problem_id, index): ran.program for index in ran.indexes})

    def _learn(self, problem_id: str, values: Sequence[Value]) -> None:
        numbers = self._numbers[problem_id]
        numbers.update({value: place for place, value in enumerate(values, len(numbers))})


@contextlib.contextmanager
def open_suite(run: Path, suite: Suite, *, sandbox: str, limits: Limits, again: bool = False) -> Iterator[OpenSuite]:
    """Starts the folder of a suite, or goes on with it if it has the same tests, sandbox and limits.

    `again`: what is there of a suite of this name is thrown away first.

    Raises:
        RunMismatch: other tests, another sandbox or other limits; or another process is at it.
        InputError: the name cannot be one of a folder, there are no tests, or a line is damaged.
    """
    path = suite_folder(run, suite.name)
    lines = to_lines(suite)
    record = SuiteRecord(
        name=suite.name,
        source=suite.source,
        tests_sha=hashlib.sha256(lines).hexdigest()[:16],
        problems=sum(map(bool, suite.tests.values())),
        tests=sum(map(len, suite.tests.values())),
        notes=dict(suite.notes),
        sandbox=sandbox,
        limits=limits,
    )
    with lock(path, proof="suite.json"):
        old = record_at(path) if (path / "suite.json").is_file() else None
        if again:
            for name in ("outcomes.jsonl", "tests.jsonl", "quality.json"):  # before suite.json says that it is another
                (path / name).unlink(missing_ok=True)
        elif old is not None:
            _agree(path, old, record)
            record = msgspec.structs.replace(record, seconds=old.seconds, finished=old.finished)
        if record != old:
            _write_record(path, record)
        write_atomically(path / "tests.jsonl", lines.decode())
        opened = OpenSuite(path=path, record=record)
        for ran in _recovered(path / "outcomes.jsonl"):
            opened._learn(ran.problem_id, ran.values)
            opened._note(ran)
        with (path / "outcomes.jsonl").open("ab") as opened._file:
            yield opened


def _agree(path: Path, old: SuiteRecord, new: SuiteRecord) -> None:
    differing = next((name for name in _SAME if getattr(old, name) != getattr(new, name)), None)
    if differing:
        raise RunMismatch(
            f"{path} holds {_SAME[differing]} ({getattr(old, differing)}, now {getattr(new, differing)}): "
            "give the suite another name, or replace it with again=True."
        )


_SAME = {"tests_sha": "other tests", "sandbox": "outcomes of another sandbox", "limits": "outcomes under other limits"}
"""What must agree for a suite to be gone on with, in words."""


def _write_record(path: Path, record: SuiteRecord) -> None:
    write_atomically(path / "suite.json", json.dumps(msgspec.to_builtins(record), indent=1, ensure_ascii=False) + "\n")


def _recovered(path: Path) -> Iterator[Ran]:
    """The whole records; a torn last line is cut off."""
    end = 0
    for ran, place in whole_lines(path):
        end = place
        yield ran
    if path.is_file() and end < path.stat().st_size:
        os.truncate(path, end)
