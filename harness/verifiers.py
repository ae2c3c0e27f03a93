"""Scores for the completions of a finished run: `rate(run, scorer, args=...)` adds a column that selectors choose by.

    rate(run, "mean_logprob", args={})
    rate(run, "verifier", args={"path": "verifiers/lever"}, name="lever")
    rate(run, "judge", args={"model": "org/name", "base_url": "http://localhost:8000/v1"})
    rate(run, "precomputed", args={"path": "scores.jsonl"}, name="reward_model")

Every graded completion is scored once and stored at once: the same call goes on where it stopped, and scores what has
been added to the run since. An ungraded one is not: no metric counts it. Beside the column stands where it comes from
(`columns.Provenance`), with a warning where a verifier judges what it should not: another model's completions, or
problems that it has learnt from. Not handled: making a suite's executions (`suites/`), training (`trainers/`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import registry
from harness.columns import Provenance, open_column, refuse_other, write_provenance
from harness.errors import InputError
from harness.evaluate import tasks_of
from harness.finished import results_of
from harness.grading.thinking import without_thinking
from harness.progress import Progress, silent
from harness.scorers import Facts, Scorable, facts_of
from harness.store import lock
from harness.suites.store import executions_on, outcomes, read_record
from harness.types import Execution, Key, Manifest, Results, Test

__all__ = ["Scorable", "rate"]

BATCH = 128
"""Completions that a scorer gets at a time, about: few enough to lose little, enough to fill a model's batches."""
NOTED_S = 5.0
"""The seconds that scoring took are written so often, for the case of a sudden end."""


def rate(
    run: Path,
    scorer: str,
    *,
    args: Mapping[str, Any],
    name: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Scores every graded completion of a finished run; gives the file that says where the scores come from.

    Args:
        run: run folder.
        scorer: a registered name (`harness ls scorer`) or `file.py:function`.
        args: the scorer's arguments.
        name: of the column; None: the scorer's.
        progress: told what happens while it happens, warnings among it.

    Raises:
        InputError: an argument that cannot be, a suite that the run's programs were not run on, or a score that is no
            number.
        RunMismatch: the column holds other scores, or somebody else is writing the run.
    """
    function = registry.find("scorer", scorer)
    bound = registry.bind("scorer", scorer, args)
    keywords: dict[str, Any] = bound.keywords  # type: ignore[attr-defined]  # bind gives a partial
    column = _checked(name or scorer.rpartition(":")[2].rpartition("/")[2])
    made, results = results_of(run, with_tasks=True, with_suites=False)
    if column in results.scores and not (run / "scores" / f"{column}.json").is_file():
        raise InputError(f"the completions of {run} came with a score {column!r}: choose another name.")
    facts = facts_of(function, keywords)
    provenance = Provenance(
        scorer=scorer,
        args=msgspec.to_builtins(keywords),
        sha=facts.sha,
        probability=facts.probability,
        suite=facts.suite,
        suite_sha=None if facts.suite is None else read_record(run, facts.suite).tests_sha,
        trained_on=facts.trained_on,
    )
    doubts = _doubts(made, results, facts)
    for sentence in doubts:
        progress.note(sentence)
    with lock(run):
        before = refuse_other(run, column, provenance)
        scorables = list(_scorables(run, made, results, facts.suite))
        with open_column(run, column) as (found, add):
            progress.start(sum(map(len, scorables)), sum(map(len, scorables)), len(found))
            written = begun = time.monotonic()

            def account() -> Path:
                unmeasured = sum(score is None for score in found.values())
                return write_provenance(
                    run,
                    column,
                    msgspec.structs.replace(
                        provenance,
                        seconds=before.seconds + time.monotonic() - begun,
                        unmeasured=unmeasured,
                        warnings=(*doubts, *_gaps(unmeasured, len(found))),
                    ),
                )

            account()
            at_once = getattr(function, "at_once", "some")
            for batch in _batches(scorables, found, at_once):
                for key, score in _scored(scorer, bound, batch):
                    if key not in found:
                        add(key, score)
                        progress.graded()
                if time.monotonic() - written > NOTED_S:
                    written = time.monotonic()
                    account()
        return account()


def _checked(name: str) -> str:
    """A name that can be a file's and stand in `best@8[name]`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name) or name == "logprob":
        raise InputError(f"{name!r} cannot name a column of scores: use letters, digits and _.+-, and not logprob.")
    return name


def _doubts(made: Manifest, results: Results, facts: Facts) -> list[str]:
    """Why a verifier's scores here may be worth less than where it was trained."""
    if facts.trained_on is None:
        return []
    sentences = []
    trained = facts.trained_on.generator
    generators = (trained,) if isinstance(trained, str) else trained
    if made.model_identity not in generators:
        sentences.append(
            f"the verifier was trained on completions of another model ({', '.join(g[:12] for g in generators)}) than "
            f"this run's ({made.model_identity[:12]})."
        )
    learnt = set(facts.trained_on.problems)
    seen = [problem.id for problem in results.problems_P if problem.id in learnt]
    if seen:
        sentences.append(
            f"the verifier was trained on {len(seen)} of these {len(results.problems_P)} problems ({seen[0]} among "
            "them): how it does on them says nothing of problems that it has not seen."
        )
    return sentences


def _gaps(unmeasured: int, total: int) -> list[str]:
    if not unmeasured:
        return []
    return [f"{unmeasured} of {total} completions have no score: the scorer could not measure them."]


def _scorables(run: Path, made: Manifest, results: Results, suite: str | None) -> Iterator[list[Scorable]]:
    """The graded completions of each problem, as the task extracts them."""
    extract = {task.name: task.extract for task in tasks_of(made)}
    tests_PC: Sequence[tuple[Test, ...]] = ((),) * len(results.problems_P)
    executions: dict[Key, tuple[Execution, ...]] = {}
    if suite is not None:
        tests_PC, executions = outcomes(run, suite, results).tests_PC, executions_on(run, suite, results)
    rows = zip(results.problems_P, results.completions_PG, results.verdicts_PG, tests_PC, strict=True)
    for problem, completions, verdicts, tests in rows:
        group = []
        for raw, verdict in zip(completions, verdicts, strict=True):
            if verdict.passed is None:
                continue
            visible = extract[problem.task](problem, without_thinking(raw, made.think_tags))
            group.append(
                Scorable(
                    problem=problem,
                    completion=msgspec.structs.replace(visible, text=raw.text),
                    executions=executions.get((problem.id, raw.index), ()),
                    tests=tests,
                )
            )
        yield group


def _batches(groups: Iterable[Sequence[Scorable]], found: Mapping[Key, Any], at_once: str) -> Iterator[list[Scorable]]:
    """What is to be scored together; a problem's completions are together only for who asks for that."""
    batch: list[Scorable] = []
    for group in groups:
        left = [one for one in group if (one.problem.id, one.completion.index) not in found]
        batch += group if left and at_once == "problem" else left
        if len(batch) >= BATCH and at_once != "run":
            yield batch
            batch = []
    if batch:
        yield batch


def _scored(
    scorer: str, function: Callable[[Sequence[Scorable]], Iterable[float | None]], batch: Sequence[Scorable]
) -> Iterator[tuple[Key, float | None]]:
    """Each completion of a batch with its score, as the scorer gives them."""
    given = iter(function(batch))
    for number, one in enumerate(batch):
        where = f"completion {one.completion.index} of {one.problem.id}"
        try:
            value = next(given)
        except StopIteration:
            raise InputError(f"the scorer {scorer} gave {number} scores for {len(batch)} completions.") from None
        try:
            score = None if value is None else float(value)
        except (TypeError, ValueError):
            score = math.nan
        if score is not None and not math.isfinite(score):
            raise InputError(f"the scorer {scorer} gave {value!r} for {where}: a number, or None for not measured.")
        yield (one.problem.id, one.completion.index), score
    for _ in given:
        raise InputError(f"the scorer {scorer} gave more than {len(batch)} scores for as many completions.")
