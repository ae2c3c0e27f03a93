"""Which of a task's problems a completion in a file is for: `register` the problems, then `match` each completion.

In this order: the problem's whole id, also with _ for / (EvalPlus's folders); the text of the question; the unique
problem whose id ends in /ID; the row number, which is the problem `<task>/<row>` or, where a task has ids of its own,
the row-th problem; a text in which one problem's question or prompt occurs. Where a file has texts of questions, a
match by part of an id or by row must agree with them: a file of another split or order is matched by its texts or
refused, never misread. Not handled: fuzzy matching of texts.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import InputError
from harness.samplers.formats.found import Found, question_of
from harness.types import Problem


@dataclass(frozen=True)
class Register:
    """The problems of a run by everything that may name them."""

    problems: tuple[Problem, ...]
    by_name: dict[str, str]
    by_ending: dict[str, list[str]]
    by_question: dict[str, list[str]]
    prompts: dict[str, str]
    """White space made equal, here and in `texts`."""
    texts: dict[str, str]
    """The bare question of each problem, or its prompt where it has none."""


def register(problems: Sequence[Problem]) -> Register:
    """Looks every name up once."""
    by_name = {problem.id.replace("/", "_"): problem.id for problem in problems}
    by_name |= {problem.id: problem.id for problem in problems}
    by_ending: dict[str, list[str]] = defaultdict(list)
    by_question: dict[str, list[str]] = defaultdict(list)
    prompts, texts = {}, {}
    for problem in problems:
        parts = problem.id.split("/")
        for i in range(1, len(parts)):
            by_ending["/".join(parts[i:])].append(problem.id)
        question = question_of(problem.meta)
        prompts[problem.id] = _spaced(problem.prompt)
        texts[problem.id] = _spaced(question or problem.prompt)
        for text in {_spaced(text) for text in (question, problem.prompt, problem.context + problem.prompt) if text}:
            by_question[text].append(problem.id)
    return Register(tuple(problems), by_name, by_ending, by_question, prompts, texts)


def match(problems: Register, found: Found) -> str:
    """Id of the problem that a completion is for; an error names the place and what is near."""
    if isinstance(found.id, str) and found.id in problems.by_name:
        return problems.by_name[found.id]
    asked = _spaced(found.question) if found.question else None
    same_text = problems.by_question.get(asked, []) if asked else []
    if len(same_text) == 1:
        return same_text[0]
    if found.id is not None:
        candidates = problems.by_ending.get(str(found.id), [])
    else:
        candidates = _by_row(problems, found.row) if found.row is not None else []
    agreeing = [name for name in candidates if asked is None or _agrees(problems, name, asked)]
    if len(agreeing) == 1:
        return agreeing[0]
    within = [name for name, text in problems.texts.items() if text and text in asked] if asked else []
    if len(within) == 1:
        return within[0]
    raise InputError(_complaint(problems, found, candidates, agreeing or same_text or within))


def _agrees(problems: Register, name: str, asked: str) -> bool:
    """Whether a problem may be the one asked: its question occurs in the file's text, or that text in its prompt."""
    text = problems.texts[name]
    return text in asked or asked in problems.prompts[name]


def _by_row(problems: Register, row: int) -> list[str]:
    tasks = dict.fromkeys(problem.task for problem in problems.problems)
    numbered = [f"{task}/{row}" for task in tasks if f"{task}/{row}" in problems.by_name]
    if numbered or len(tasks) > 1 or not 0 <= row < len(problems.problems):
        return numbered
    problem = problems.problems[row]
    made_from_row = problem.id.startswith(f"{problem.task}/") and problem.id.rpartition("/")[2].isdecimal()
    return [] if made_from_row else [problem.id]


def _complaint(problems: Register, found: Found, candidates: list[str], several: list[str]) -> str:
    named = "row" if found.id is None else "problem"
    name = found.row if found.id is None else found.id
    if len(several) > 1:
        return f"{found.place}: {named} {name!r} may be {several[0]} or {several[1]}: give whole ids or one task only."
    if candidates:
        return (
            f"{found.place}: {named} {name!r} asks another question than {candidates[0]} does: "
            "is the file for this split of the dataset?"
        )
    if name is None:
        return f"{found.place}: no problem of the task asks the question of this row: is the file for this dataset?"
    if found.id is None:
        return (
            f"{found.place}: the file has more rows than the task has problems (row {name} of "
            f"{len(problems.problems)}, from 0): is it for this dataset?"
        )
    names = [problem.id for problem in problems.problems]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    hint = f"the nearest is {near[0]!r}" if near else "the task has none"
    return f"{found.place}: there is no problem {name!r:.80} among the {len(names)} problems of the task; {hint}."


def _spaced(text: str) -> str:
    return " ".join(text.split())
