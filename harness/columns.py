"""Score columns of a run folder: a number for each completion, and beside it what it comes from.

    RUN/scores/NAME.jsonl   {"problem_id", "index", "score"} a line, appended as they come; null: not measured
    RUN/scores/NAME.json    `Provenance`

A line counts once it ends in a newline: a torn last one is dropped. Main functions: `read_columns` gives the arrays
that selectors take, `open_column` adds to one. Not handled: making scores (`verifiers.py`), and locks: who writes holds
the run's.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError, RunMismatch
from harness.scorers import TrainedOn
from harness.store import write_atomically
from harness.types import Floats, Key, Record, Results

FOLDER = "scores"
MOVING = frozenset(
    {"api_key_env", "base_url", "batch_size", "concurrency", "device", "max_retries", "path", "requests_per_minute"}
    | {"timeout_s", "tokens_per_minute", "weights"}
)
"""Arguments that say where something is and how fast it is asked: they may change where a hash says what it is."""
CHANGED = {"sha": "the verifier, the file or the judge has changed", "suite_sha": "the suite's tests have changed"}
"""In words, where the values are hashes."""


class Score(Record, frozen=True):
    """One line of a column."""

    problem_id: str
    index: int
    score: float | None


class Provenance(Record, frozen=True, omit_defaults=False):
    """Where a column comes from."""

    scorer: str
    """How the user named it: a registered name or `file.py:function`."""
    args: dict[str, Any]
    sha: str | None
    """Hash of the verifier's weights, of the file or of the judge's identity; None: there is nothing but the code."""
    probability: bool
    """The scores are probabilities that the completion is right."""
    suite: str | None
    """The suite whose executions were looked at."""
    suite_sha: str | None
    """Hash of that suite's tests."""
    trained_on: TrainedOn | None
    seconds: float = 0.0
    """Wall clock of scoring, over all calls."""
    unmeasured: int = 0
    """Completions that the scorer gave no number for."""
    warnings: tuple[str, ...] = ()
    """Reasons not to trust the numbers, in sentences."""


def column_names(run: Path) -> list[str]:
    """The columns that a run folder holds."""
    return sorted(path.stem for path in (run / FOLDER).glob("*.json"))


def read_provenance(run: Path, name: str) -> Provenance:
    """Where a column comes from."""
    path = run / FOLDER / f"{name}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Provenance)
    except FileNotFoundError as error:
        raise InputError(f"{run} has no scores {name!r}: score it first.") from error
    except msgspec.DecodeError as error:
        raise InputError(
            f"{path} is damaged ({error}): remove it and {name}.jsonl, and score the run again."
        ) from error


def read_columns(run: Path, results: Results) -> dict[str, tuple[Floats, ...]]:
    """Every column as (P)(G) numbers aligned with `results`; NaN where a completion has none.

    Raises:
        InputError: a damaged file, or a column with the name of a score that came with the completions.
    """
    import numpy as np

    columns = {}
    for name in column_names(run):
        if name in results.scores:
            raise InputError(
                f"{run / FOLDER}/{name}.jsonl has the name of a score that came with the completions: rename it and "
                f"{name}.json."
            )
        found = read_scores(run / FOLDER / f"{name}.jsonl")
        columns[name] = tuple(
            np.array([_or_nan(found.get((c.problem_id, c.index))) for c in group], dtype=np.float64)
            for group in results.completions_PG
        )
    return columns


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def read_scores(path: Path) -> dict[Key, float | None]:
    """Every whole line of a column's file by completion."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[Key, float | None], int]:
    """Scores by completion, and the bytes of the whole lines."""
    found: dict[Key, float | None] = {}
    whole = 0
    if not path.is_file():
        return found, whole
    decode = msgspec.json.Decoder(Score).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{path}, line {number} is damaged ({error}): remove that line.") from error
            found[row.problem_id, row.index] = row.score
            whole += len(line)
    return found, whole


def write_provenance(run: Path, name: str, provenance: Provenance) -> Path:
    """Replaces NAME.json in one step."""
    path = run / FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(provenance), indent=1).decode() + "\n")
    return path


def refuse_other(run: Path, name: str, provenance: Provenance) -> Provenance:
    """What the column says already, or `provenance` where there is none; another scorer's column is not added to."""
    if not (run / FOLDER / f"{name}.json").is_file():
        return provenance
    old = read_provenance(run, name)
    before, now = _identity(old), _identity(provenance)
    for field, value in now.items():
        if before[field] != value:
            changed = CHANGED.get(field, f"{field} was {before[field]!r}, is now {value!r}")
            raise RunMismatch(
                f"{run / FOLDER}/{name}.json holds other scores ({changed}): choose another name, or remove them."
            )
    return old


def _identity(provenance: Provenance) -> dict[str, Any]:
    """What makes a column another one."""
    moving = MOVING if provenance.sha else frozenset()
    args = {name: value for name, value in provenance.args.items() if name not in moving}
    rest = {name: getattr(provenance, name) for name in ("suite", "suite_sha", "sha")}
    return {"scorer": provenance.scorer, "args": args} | rest


@contextlib.contextmanager
def open_column(run: Path, name: str) -> Iterator[tuple[dict[Key, float | None], Callable[[Key, float | None], None]]]:
    """What a column holds, without a torn last line, and a function that adds to it, line by line."""
    path = run / FOLDER / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    found, whole = _read(path)
    if path.is_file() and whole < path.stat().st_size:
        os.truncate(path, whole)
    encode = msgspec.json.Encoder().encode
    with path.open("ab") as file:

        def add(key: Key, score: float | None) -> None:
            found[key] = score
            file.write(encode(Score(problem_id=key[0], index=key[1], score=score)) + b"\n")
            file.flush()

        yield found, add
        os.fsync(file.fileno())
