"""What a verifier reads of a completion, and the labelled completions that it learns from.

    prompt + program, then a line for each test of the suite, f(3)=9 or f(3)=error, then "right?"

`text_of` writes that text, from the parts that `inputs` names, the same in training and in scoring; `labelled` collects
completions with their verdicts from finished runs, and `split` keeps a share of the problems for validation. The
verdict, the expected values of tests and whether the task's own were passed are never in a text: of those only the
value is, as in LEVER (Ni et al. 2023, arXiv 2302.08468). Completions of tasks without programs have no execution part.

Deviations from LEVER: of other tests (the prompt's examples, a model's) the text also says whether the value is as
expected, " ok" or " no", unless `agreement` is off; a text that is too long loses its beginning, whatever the task; all
errors are one word; gold programs are not added. Not handled: few-shot examples before a prompt, which every text would
repeat (`context`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from harness import suites
from harness.errors import InputError
from harness.evaluate import tasks_of
from harness.finished import results_of
from harness.grading.thinking import without_thinking
from harness.scorers import Scorable
from harness.types import HELD_OUT, Completion, Problem, Status, Test

INPUTS = ("prompt", "program", "execution")
END = "right?"
"""What the read-out comes after."""
ERROR = "error"
GOLD = "gold"
"""Source of a task's own tests: whether they are passed is the verdict, and never in a text."""
MOST_CHARACTERS = 2000
"""Of the execution part."""
VALIDATION = 0.2
"""Share of the problems."""

_SPACE = re.compile(r"(?<=,) ")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One completion to learn from. Equal texts of one problem with equal labels are one."""

    problem_id: str
    text: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What there is to learn from."""

    rows: tuple[Labelled, ...]
    inputs: tuple[str, ...]
    """The parts that the texts have; "execution" only where there are programs."""
    suite: str | None
    """Whose executions are in the texts."""
    generator: str | tuple[str, ...]
    """`model_identity` of the runs; several if they differ."""


def text_of(problem: Problem, completion: Completion, lines: Sequence[str], *, inputs: Sequence[str]) -> str:
    """The text of a completion.

    Args:
        problem: with its prompt.
        completion: as the task extracted it: of a chat reply, the program alone is read where there is one.
        lines: what its program did (`execution_lines`).
        inputs: which parts the text has, of `INPUTS`.
    """
    parts = []
    if "prompt" in inputs:
        parts.append(problem.prompt)
    if "program" in inputs:
        reply = completion.form != "continuation"
        own = completion.program if reply and completion.program is not None else completion.text
        parts.append(f"\n{own}" if reply and parts else own)
    if "execution" in inputs and lines:
        shown = "\n".join(f"# {line}" for line in lines)
        parts.append(f"\n{shown[:MOST_CHARACTERS]}")
    return f"{''.join(parts)}\n{END}"


def execution_lines(
    problem: Problem, tests: Sequence[Test], values: Sequence[str | None], passed: Sequence[bool], *, agreement: bool
) -> list[str]:
    """A line for each test in their order: the call and its value, or `error`; with `agreement`, whether it is as said.

    Spaces after commas are left out: they are a third of the tokens of a list.

    Args:
        problem: whose function is called.
        tests: of a suite.
        values: what the program returned, as text; None: no value.
        passed: whether each was as expected. Of the task's own tests (source "gold") this is not read.
        agreement: add " ok" or " no" where the test is not the task's own but an example in the prompt, say.
    """
    name = problem.entry_point or "f"
    lines = []
    for test, value, right in zip(tests, values, passed, strict=True):
        mark = (" ok" if right else " no") if agreement and test.source != GOLD else ""
        shown = ERROR if value is None else _dense(value)
        lines.append(f"{name}({_dense(', '.join(map(repr, test.input)))})={shown}{mark}")
    return lines


def _dense(text: str) -> str:
    return _SPACE.sub("", text)


def text_of_scorable(one: Scorable, *, inputs: Sequence[str], agreement: bool) -> str:
    """The same text, of what a scorer is given."""
    lines = []
    if "execution" in inputs:
        values = [execution.value for execution in one.executions]
        passed = [execution.status == Status.passed for execution in one.executions]
        lines = execution_lines(one.problem, one.tests, values, passed, agreement=agreement)
    return text_of(one.problem, one.completion, lines, inputs=inputs)


def labelled(runs: Sequence[Path], *, inputs: Sequence[str], suite: str | None, agreement: bool) -> Examples:
    """The graded completions of finished runs as texts with labels, those of a problem together.

    Args:
        runs: run folders, of problems that may be trained on.
        inputs: of `INPUTS`.
        suite: whose executions are shown; the runs' programs must have been run on it.
        agreement: as for `execution_lines`.

    Raises:
        InputError: a held-out problem, an unknown part, no suite where one is needed, or only one kind of label.
    """
    wanted = tuple(name for name in INPUTS if name in inputs)
    if len(wanted) != len(inputs) or not {"prompt", "program"}.intersection(wanted):
        raise InputError(
            f"inputs {list(inputs)} are not different ones of {list(INPUTS)}, program or prompt among them."
        )
    if not runs:
        raise InputError("a verifier learns from finished runs, and none was given.")
    found: dict[Labelled, None] = {}
    generators: dict[str, None] = {}
    has_programs = False
    for run in runs:
        made, results = results_of(run, with_tasks=True, with_suites=False)
        held_out = next((p for p in results.problems_P if p.split in HELD_OUT), None)
        if held_out is not None:
            raise InputError(
                f"{run} has completions of {held_out.id}, of the {held_out.split} split: verifiers learn from others "
                "(split=train)."
            )
        generators[made.model_identity] = None
        programs = any(problem.tests for problem in results.problems_P)
        has_programs |= programs
        shown = None
        if programs and "execution" in wanted:
            if suite is None:
                raise InputError("inputs name execution and there is no suite: name one that the runs were run on.")
            shown = suites.outcomes(run, suite, results)
        extract = {task.name: task.extract for task in tasks_of(made)}
        for place, problem in enumerate(results.problems_P):
            group = zip(results.completions_PG[place], results.verdicts_PG[place], strict=True)
            for number, (raw, verdict) in enumerate(group):
                if verdict.passed is None:
                    continue
                lines: list[str] = []
                if shown is not None:
                    lines = execution_lines(
                        problem,
                        shown.tests_PC[place],
                        shown.value_PGC[place][number],
                        shown.passed_PGC[place][number].tolist(),
                        agreement=agreement,
                    )
                completion = extract[problem.task](problem, without_thinking(raw, made.think_tags))
                text = text_of(problem, _whole(completion, raw), lines, inputs=wanted)
                found[Labelled(problem_id=problem.id, text=text, passed=verdict.passed)] = None
    if len({row.passed for row in found}) < 2:
        raise InputError(
            f"{', '.join(map(str, runs))}: {len(found)} different completions, none of them "
            f"{'right' if found and not next(iter(found)).passed else 'wrong'}: a verifier needs both."
        )
    executed = has_programs and "execution" in wanted
    names = tuple(generators)
    return Examples(
        rows=tuple(sorted(found, key=lambda row: (row.problem_id, row.text, row.passed))),
        inputs=wanted if executed else tuple(name for name in wanted if name != "execution"),
        suite=suite if executed else None,
        generator=names[0] if len(names) == 1 else names,
    )


def _whole(completion: Completion, raw: Completion) -> Completion:
    """With the text as it was sampled, as a scorer gets it."""
    return msgspec.structs.replace(completion, text=raw.text)


def split(rows: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Those to train on and those to validate on: whole problems, by a hash of their ids.

    Raises:
        InputError: one of the two would be empty, or without right or without wrong completions.
    """
    train: list[Labelled] = []
    validation: list[Labelled] = []
    for row in rows:
        (validation if _is_validation(row.problem_id) else train).append(row)
    for name, part in (("training", train), ("validation", validation)):
        if len({row.passed for row in part}) < 2:
            raise InputError(
                f"of {len({row.problem_id for row in rows})} problems those for {name} have no right or no wrong "
                "completions: sample more problems."
            )
    return train, validation


def _is_validation(problem_id: str) -> bool:
    place = int.from_bytes(hashlib.sha256(f"verifier {problem_id}".encode()).digest()[:4], "big")
    return place < VALIDATION * (1 << 32)


def by_problem(rows: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    """The rows of each problem."""
    found: dict[str, list[Labelled]] = {}
    for row in rows:
        found.setdefault(row.problem_id, []).append(row)
    return found


def weights(rows: Sequence[Labelled]) -> list[float]:
    """So that a weighted sum over rows is the mean over problems of the mean over a problem's rows."""
    groups = by_problem(rows)
    return [1 / (len(groups) * len(groups[row.problem_id])) for row in rows]


def loss(rows: Sequence[Labelled], logits: Sequence[float]) -> float:
    """Mean over problems of the mean cross entropy of a problem's completions, in nats."""
    each = np.logaddexp(0, np.where([row.passed for row in rows], -1, 1) * np.asarray(logits))
    return float(np.dot(each, weights(rows)))


def ragged(rows: Sequence[Labelled], numbers: Sequence[float]) -> Iterator[tuple[list[bool], list[float]]]:
    """For each problem its labels and its numbers, as the metrics take them."""
    groups: Mapping[str, tuple[list[bool], list[float]]] = {row.problem_id: ([], []) for row in rows}
    for row, number in zip(rows, numbers, strict=True):
        groups[row.problem_id][0].append(row.passed)
        groups[row.problem_id][1].append(number)
    yield from groups.values()
