"""Scorers: a number for each completion, higher for better. What all have in common, and those that need no model.

A scorer is a function of a list of `Scorable`, with whatever arguments it is given, that yields a number for each, in
order, or None where it could not be measured. The same one reranks and filters (`harness.verifiers.rate` makes it a
column of a run) and rewards (the term `verifier`). One of your own is five lines in a file, `my_scorers.py:short`:

    from collections.abc import Iterator, Sequence
    from harness.scorers import Scorable

    def short(batch: Sequence[Scorable]) -> Iterator[float]:
        \"\"\"Shorter is better.\"\"\"
        yield from (-float(len(one.completion.text)) for one in batch)

It sees some completions at a time, unless it is marked with `scores` to see all of a problem or of a run. With an
argument `suite` it is given what the programs did on the tests of that suite.

Main functions: `scores` marks one, `facts_of` is what it says of itself, `account` reads a verifier's folder. Not
handled here: the judge (`judge_model.py`), how verifiers learn (`trainers/verifier.py`), running (`verifiers.py`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from harness.errors import InputError, MissingDependency
from harness.types import Completion, Execution, Key, Problem, Test

AtOnce = Literal["some", "problem", "run"]
Function = TypeVar("Function", bound=Callable[..., Iterable[float | None]])


@dataclass(frozen=True, kw_only=True)
class Scorable:
    """A completion with what a scorer may look at; never its verdict."""

    problem: Problem
    completion: Completion
    """Its `text` as it was sampled, thoughts included; `program` and `answer` as the task extracted them."""
    executions: tuple[Execution, ...] = ()
    """Of the program on the tests of the scorer's suite, in the order of `tests`; none where it has no suite."""
    tests: tuple[Test, ...] = ()
    """The suite's tests of this problem: one for each execution."""


class TrainedOn(msgspec.Struct, frozen=True):
    """Whose completions of which problems a verifier has learnt from."""

    generator: str | tuple[str, ...]
    """`model_identity` of the runs' manifests; several where it has learnt from several models."""
    problems: tuple[str, ...]
    """Ids of those that it was trained or chosen on."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a scorer with its arguments says of itself; it becomes the provenance of its columns."""

    sha: str | None = None
    """Hash of the weights or of the file; None: there is nothing but the code."""
    probability: bool = False
    """The scores are probabilities that the completion is right."""
    suite: str | None = None
    """The suite whose executions it looks at."""
    trained_on: TrainedOn | None = None


class Account(msgspec.Struct, frozen=True):
    """What verifier.json says, as far as it is needed here; the rest is the trainer's."""

    kind: str
    inputs: tuple[str, ...]
    """Of "prompt", "program" and "execution"."""
    suite: str | None
    sha: str
    generator: str | tuple[str, ...]
    problems: tuple[str, ...]


def scores(*, at_once: AtOnce = "some", facts: Callable[..., Facts] | None = None) -> Callable[[Function], Function]:
    """Marks a scorer that sees all completions of a problem (or of a run) at once, or says more of itself.

    `facts` is called with the scorer's arguments.
    """

    def mark(function: Function) -> Function:
        vars(function).update(at_once=at_once, facts=facts)
        return function

    return mark


def facts_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Facts:
    """What a scorer says of itself: by its own function, by the verifier's folder at `path`, or nothing but `suite`."""
    own = getattr(function, "facts", None)
    if own is not None:
        found: Facts = own(**arguments)
        return found
    path = arguments.get("path")
    if isinstance(path, str | Path) and (Path(path) / "verifier.json").is_file():
        read = account(Path(path))
        return Facts(
            sha=read.sha,
            probability=True,
            suite=read.suite if "execution" in read.inputs else None,
            trained_on=TrainedOn(generator=read.generator, problems=read.problems),
        )
    return Facts(suite=arguments.get("suite"))


def account(folder: Path) -> Account:
    """What a trained verifier's folder says of it."""
    path = folder / "verifier.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a verifier: it has no verifier.json; train one first.")
    return _account(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)  # a reward term asks for every group
def _account(path: Path, mtime_ns: int) -> Account:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Account)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no account of a verifier ({error}): train it again.") from error


def execution_lines(one: Scorable) -> list[str]:
    """What the program did, a line for each test: `f(1, 'a') = 3`, or the status where there is no value."""
    lines = []
    for test, execution in zip(one.tests, one.executions, strict=True):
        outcome = f"= {execution.value}" if execution.value is not None else f"-> {execution.status}"
        shown = ", ".join(map(repr, test.input)) if test.kind == "call" else test.id
        lines.append(f"{one.problem.entry_point or 'f'}({shown}) {outcome}")
    return lines


def mean_logprob(batch: Sequence[Scorable]) -> Iterator[float | None]:
    """The model's own log-probability per token, in nats."""
    for one in batch:
        total, length = one.completion.logprob, one.completion.n_tokens
        yield None if total is None or not length else total / length


def sum_logprob(batch: Sequence[Scorable]) -> Iterator[float | None]:
    """The model's own log-probability of the whole completion, in nats."""
    yield from (one.completion.logprob for one in batch)


def verifier(batch: Sequence[Scorable], *, path: str, device: str | None = None) -> Iterator[float | None]:
    """A trained verifier's probability that the completion is right: LEVER, a classifier or a probe (path=FOLDER).

    `device` is a torch device; None: "cuda" where there is one.
    """
    try:
        trained = importlib.import_module("harness.trainers.verifier")
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "torch", "hf", "the scorer verifier") from error
    yield from trained.verifier(batch, path=path, device=device)


def _file_facts(*, path: str, column: str = "score", probability: bool = False) -> Facts:
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {path}: give path=FILE, a jsonl with problem_id, index and {column}.")
    return Facts(sha=hashlib.sha256(file.read_bytes()).hexdigest(), probability=probability)


@scores(at_once="run", facts=_file_facts)
def precomputed(
    batch: Sequence[Scorable], *, path: str, column: str = "score", probability: bool = False
) -> Iterator[float | None]:
    """Numbers from a jsonl file, a row for each completion: problem_id (or task_id), index, score.

    Args:
        batch: all completions that have no score yet.
        path: the file. Rows of completions that are not asked for are ignored; a null is not measured.
        column: the field with the number.
        probability: the numbers are probabilities that the completion is right.

    Raises:
        InputError: completions without a row, two rows for one, or a row that is not of this form.
    """
    rows = _rows(Path(path), column)
    wanted = {(one.problem.id, one.completion.index) for one in batch}
    missing = wanted - rows.keys()
    if missing:
        name, index = min(missing)
        others = len(rows.keys() - wanted)
        raise InputError(
            f"{path} has no row for {len(missing)} of {len(wanted)} completions (the first is {name}, index {index}) "
            f"and {others} rows for others: bring ids and indices in line with the run's."
        )
    yield from (rows[one.problem.id, one.completion.index] for one in batch)


def _rows(path: Path, column: str) -> dict[Key, float | None]:
    """Scores by completion."""
    rows: dict[Key, float | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = (str(row["problem_id"] if "problem_id" in row else row["task_id"]), int(row["index"]))
            value = None if row[column] is None else float(row[column])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number} is not {{problem_id, index, {column}}} ({type(error).__name__}: {error})."
            ) from error
        if value is not None and not math.isfinite(value):
            raise InputError(f"{path}, line {number}: {column} is {value}; write null where it was not measured.")
        if key in rows:
            raise InputError(f"{path}, line {number} is a second row for {key[0]}, index {key[1]}: leave one of them.")
        rows[key] = value
    return rows
