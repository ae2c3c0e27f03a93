"""What a run folder says of its scores and suites: `sources_of`, `suites_of`.

A score that came with the completions has no file of its own, and nothing is known of it but its name. Not handled: the
scores and the executions themselves (`harness.finished.results_of`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.columns import column_names, read_provenance
from harness.errors import InputError
from harness.suites.store import FOLDER, read_record
from harness.types import Outcomes, Results

from .report import Source, Tests

LONG = 12
"""Entries from which a mapping in quality.json is by problem, and not to be printed."""
SAID = ("suite", "problems", "tests")
"""What the table of suites has already."""


def sources_of(run: Path, names: Sequence[str]) -> tuple[Source, ...]:
    """The provenance of each score, in the order of the names."""
    known = set(column_names(run))
    return tuple(_source(run, name) if name in known else _unknown(name) for name in names)


def _source(run: Path, name: str) -> Source:
    said = read_provenance(run, name)
    return Source(
        score=name,
        scorer=said.scorer,
        suite=said.suite,
        seconds=said.seconds,
        probability=said.probability,
        warnings=said.warnings,
    )


def _unknown(name: str) -> Source:
    return Source(score=name, scorer=None, suite=None, seconds=None, probability=False, warnings=())


def suites_of(run: Path, results: Results) -> tuple[Tests, ...]:
    """Size, cost and quality of each suite."""
    found = []
    for name, outcomes in results.suites.items():
        record = read_record(run, name)
        sizes = [len(tests) for tests in outcomes.tests_PC]
        found.append(
            Tests(
                suite=name,
                source=record.source,
                problems=sum(size > 0 for size in sizes),
                tests=sum(sizes),
                most=max(sizes, default=0),
                programs=record.programs,
                seconds=record.seconds,
                cpu_s=_cpu_s(outcomes),
                made=dict(record.notes),
                quality=dict(_lines(_quality(run / FOLDER / name / "quality.json"))),
            )
        )
    return tuple(found)


def _cpu_s(outcomes: Outcomes) -> float | None:
    rows = [row for row, tests in zip(outcomes.cpu_s_PG, outcomes.tests_PC, strict=True) if tests]
    every = np.concatenate(rows) if rows else np.array([])
    return float(every.mean()) if every.size and np.isfinite(every).all() else None


def _quality(path: Path) -> Mapping[str, Any]:
    """What was measured of a suite's tests; nothing where nobody has."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): measure it anew.") from error
    if not isinstance(said, dict):
        raise InputError(f"{path} holds no JSON object: measure it anew.")
    return said


def _lines(said: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """What a JSON object says, one line for each number or word in it; lists, which are by problem, are left out."""
    for key, value in said.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, dict) and len(value) < LONG:
            yield from _lines(value, f"{name}, ")
        elif isinstance(value, dict | list) or name in SAID:
            continue
        elif value is None:
            yield name, "-"
        else:
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
