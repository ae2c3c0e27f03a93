"""GSM8K: grade-school word problems with a whole number as answer. `gsm8k` is the task.

Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168. MIT licence. 7473 train and 1319
test problems; Hub `openai/gsm8k`, config `main`, at the revision below.

Traps: numbers have thousands commas, in golds too; solutions carry calculator annotations `<<3+4=7>>`; OpenAI's own
model solutions end in "A: 18" and the dataset's in "#### 18"; base models run on into a next "Question:", whose
answer must not be taken. A chat reply may use "####" as a heading. The few wrong golds are left as they are.

An answer is the last of "#### 18", "A: 18", "the answer is 18" and a box, else the last number of the text.
Few-shot examples are the first `num_fewshot` rows of the train split, annotations included; a problem that is an
example itself is left out.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from harness.dataset import load_rows, require_texts
from harness.errors import InputError
from harness.grading.answer_forms import as_number, normalise
from harness.grading.answers import (
    cut_run_on,
    extract_boxed,
    extract_last_number,
    first_number,
    grade,
    rest_of_line,
)
from harness.grading.thinking import after_thinking
from harness.prompts import worked_examples
from harness.types import Completion, Problem, Task

HUB = "openai/gsm8k"
REVISION = "740312add88f781978c0658806c59bc2815b9866"
STOP = ("Question:", "\n\nQuestion")
MAX_FIELDS = 20
"""So many of the last markers are looked at: a text of nothing but markers must not take for ever."""

_NEXT_QUESTION = re.compile(r"^[ \t]*(?:Question|Q)[ \t]*:", re.MULTILINE)
_FIELD = re.compile(
    r"####(?=[\s*$(\\{−-]{0,20}(?:[0-9.]|(?<=\\)(?:boxed|[dt]?frac)))"
    r"(?!\s{0,20}[0-9]+[.)]\s+\S)"  # not the heading "#### 2. Then add"
    r"|^[ \t*]*A[ \t]*:"
    r"|\banswer[*_\s]{0,9}(?:is|:|=|$)"
    r"|(?=\\boxed|\\fbox)",
    re.IGNORECASE | re.MULTILINE,
)


def gsm8k(path: str | None = None, split: str = "test", num_fewshot: int = 0, fewshot_path: str | None = None) -> Task:
    """GSM8K from the Hub, or from a local file with the fields `question` and `answer`."""
    rows, revision = load_rows(HUB, REVISION, config="main", split=split, path=path)
    examples: list[dict[str, Any]] = []
    if num_fewshot:
        pool, _ = load_rows(HUB, REVISION, config="main", split="train", path=fewshot_path)
        examples = pool[:num_fewshot]
        if len(examples) < num_fewshot:
            raise InputError(f"gsm8k has {len(examples)} examples and num_fewshot is {num_fewshot}: ask for fewer.")
    for place, row in enumerate(examples):
        require_texts(row, ("question", "answer"), f"gsm8k example {place}")
    context = worked_examples((_prompt(row["question"]), row["answer"]) for row in examples)
    taken = {row["question"] for row in examples}
    problems = tuple(
        problem
        for place, row in enumerate(rows)
        if (problem := _problem(row, place, split, context)).meta["question"] not in taken
    )
    return Task(name="gsm8k", problems=problems, extract=extract, grade=grade, gold=gold, revision=revision, stop=STOP)


def _prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def _problem(row: dict[str, Any], place: int, split: str, context: str) -> Problem:
    require_texts(row, ("question", "answer"), f"gsm8k row {place}")
    _, marker, final = row["answer"].rpartition("####")
    if not marker or as_number(normalise(final)) is None:
        raise InputError(f'gsm8k row {place} has no number after "####" in its answer: {row["answer"][-60:]!r}.')
    return Problem(
        id=f"gsm8k/{place}",
        task="gsm8k",
        split=split,
        prompt=_prompt(row["question"]),
        context=context,
        answer=normalise(final),
        meta={"question": row["question"], "solution": row["answer"]},
    )


def extract(problem: Problem, completion: Completion) -> Completion:
    """Fills `answer` with the number that the text gives."""
    text = after_thinking(completion.text)
    if completion.form == "continuation":
        text = cut_run_on(text, _NEXT_QUESTION)
    return msgspec.structs.replace(completion, answer=_final_number(text))


def _final_number(text: str) -> str | None:
    fields = [match.end() for match in _FIELD.finditer(text)][-MAX_FIELDS:]
    for start in reversed(fields):
        field = rest_of_line(text, start)
        if field is not None and (number := _number(field)) is not None:
            return number
    return extract_last_number(text)


def _number(field: str) -> str | None:
    """The number of a field: all of it, what is in its box, or the first one after the last equals sign."""
    boxed = extract_boxed(field)
    for candidate in (boxed or field, (boxed or field).rpartition("=")[2]):
        form = normalise(candidate.strip(" *_"))
        if as_number(form) is not None:
            return form
        if (number := first_number(candidate)) is not None and candidate.rpartition("=")[2] == candidate:
            return number
    return None


def gold(problem: Problem) -> Completion:
    """The dataset's own solution."""
    return Completion(problem_id=problem.id, index=0, text=problem.meta["solution"])
