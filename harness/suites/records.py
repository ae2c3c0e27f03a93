"""What a suite is: call tests by problem, the records about it, and its file, {"problem_id", "test", "count"} a line.

Arguments and values are stored as tagged JSON (`sandbox/plain`): a tuple stays a tuple, a set a set. Functions:
`to_lines`, `parse_tests`. Not handled: tests of other kinds than `call`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.sandbox import plain
from harness.types import Limits, Record, Test


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Call tests by problem id; a problem may have none."""

    name: str
    source: str
    """A sentence: where the tests come from."""
    tests: Mapping[str, tuple[Test, ...]]
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """How often each test was written; a problem without an entry: once."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """What was counted when it was made: texts read, asserts dropped by reason."""


class SuiteRecord(Record, frozen=True, omit_defaults=False):
    """What suite.json says."""

    name: str
    source: str
    tests_sha: str
    problems: int
    """That have tests."""
    tests: int
    notes: dict[str, int]
    sandbox: str
    limits: Limits
    programs: int = 0
    """Different programs that were run."""
    seconds: float = 0.0
    """Wall clock of all calls together that ran them."""
    finished: bool = False


Value = tuple[str, str]
"""Digest and text: 1 and True have one digest, for they are equal, and two texts."""


class Ran(Record, frozen=True):
    """What one program did on all tests of its problem."""

    problem_id: str
    indexes: tuple[int, ...]
    """The completions whose program it is."""
    program: str
    """A hash of it."""
    statuses: str
    """A letter for each test."""
    outputs: tuple[int, ...]
    """Number of the value that each test gave, -1 for none."""
    values: tuple[Value, ...] = ()
    """Those that no line before has, numbered on from those."""
    cpu_s: float | None = None


class _Line(Record, frozen=True):
    problem_id: str
    test: Test
    count: int = 1


_encode = msgspec.json.Encoder().encode


def to_lines(suite: Suite) -> bytes:
    """tests.jsonl of a suite; only call tests that can be sent, with ids of their own."""
    if not any(suite.tests.values()):
        raise InputError(f"the suite {suite.name} has no tests: there is nothing to run.")
    found = []
    for problem, tests in suite.tests.items():
        again = [name for name, n in Counter(test.id for test in tests).items() if n > 1]
        if again:
            raise InputError(f"the suite {suite.name} has two tests {again[0]!r} of {problem}: ids must differ.")
        counts = suite.counts.get(problem, (1,) * len(tests))
        for test, count in zip(tests, counts, strict=True):
            found.append(_encode(_Line(problem_id=problem, test=_encoded(suite.name, problem, test), count=count)))
    return b"".join(line + b"\n" for line in found)


def _encoded(suite: str, problem: str, test: Test) -> Test:
    if test.kind != "call" or not isinstance(test.input, list | tuple):
        raise InputError(f"test {test.id!r} of {problem} is no call test: a suite ({suite}) has call tests only.")
    try:
        arguments, expected = (plain.encode(value, strict=True) for value in (list(test.input), test.expected))
    except (plain.NotPlain, plain.TooLarge, TypeError) as error:
        raise InputError(f"test {test.id!r} of {problem} in the suite {suite} cannot be sent: {error}.") from error
    return msgspec.structs.replace(test, input=arguments, expected=expected)


def _decoded(test: Test) -> Test:
    return msgspec.structs.replace(test, input=plain.loads(test.input), expected=plain.loads(test.expected))


def parse_tests(path: Path, *, name: str, source: str, notes: Mapping[str, int]) -> Suite:
    """The suite whose tests are in a file."""
    tests: dict[str, list[Test]] = defaultdict(list)
    counts: dict[str, list[int]] = defaultdict(list)
    try:
        for line in path.read_bytes().splitlines():
            one = msgspec.json.decode(line, type=_Line)
            tests[one.problem_id].append(_decoded(one.test))
            counts[one.problem_id].append(one.count)
    except (OSError, msgspec.DecodeError, plain.Garbled) as error:
        raise InputError(f"{path} is damaged ({error}): run the suite again with again=True.") from error
    return Suite(
        name=name,
        source=source,
        tests={problem: tuple(each) for problem, each in tests.items()},
        counts={problem: tuple(each) for problem, each in counts.items() if set(each) != {1}},
        notes=notes,
    )
