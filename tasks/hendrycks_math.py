r"""MATH and MATH-500: competition problems whose answers are LaTeX. `hendrycks_math` and `math_500` are the tasks.

Hendrycks et al. 2021, "Measuring Mathematical Problem Solving With the MATH Dataset", arXiv:2103.03874; 7500 train and
5000 test problems, MIT licence; the original Hub entry was taken down in January 2025 and
`EleutherAI/hendrycks_math` is a copy, one config per subject. MATH-500 is 500 of the *test*
problems, chosen by Lightman et al. 2023, arXiv:2305.20050; Hub `HuggingFaceH4/MATH-500`. Revisions below.

Traps: the answer is the last `\boxed` or `\fbox` of the solution, with balanced braces, and some write `\boxed 5`;
levels may be "Level ?"; MATH-500 has levels as numbers. The other 12 000 problems, the usual training set beside
MATH-500, contain 4500 of the 5000 test problems: never report `hendrycks_math` on a model trained on them.

An answer is what the last closed box holds, else what follows "the answer is"; there is no guess from the last number,
since a reply that was cut off would then pass by luck. Few-shot examples are the first `num_fewshot` train rows of the
subject (algebra when all subjects are asked for); a problem that is an example itself is left out.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from harness.dataset import load_rows, require_texts
from harness.errors import InputError, UnknownName
from harness.grading.answers import cut_run_on, extract_after, extract_boxed, grade
from harness.grading.thinking import after_thinking
from harness.prompts import worked_examples
from harness.types import Completion, Problem, Task

HUB = "EleutherAI/hendrycks_math"
REVISION = "21a5633873b6a120296cce3e2df9d5550074f4a3"
HUB_500 = "HuggingFaceH4/MATH-500"
REVISION_500 = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
INSTRUCTION = r"Solve the problem, and put the final answer in \boxed{}."
STOP = ("\nProblem:", "\n\nProblem")

_NEXT_PROBLEM = re.compile(r"^[ \t]*Problem[ \t]*:", re.MULTILINE)
_ANSWER_IS = re.compile(r"\banswer[*_\s]{0,9}(?:is|:|=)", re.IGNORECASE)


def hendrycks_math(
    path: str | None = None,
    split: str = "test",
    subject: str | None = None,
    num_fewshot: int = 0,
    fewshot_path: str | None = None,
) -> Task:
    """MATH from the Hub, or from a local file with the fields `problem` (or `question`) and `solution`.

    Ids are `hendrycks_math/<subject>/<row>` from the Hub, so that they don't depend on `subject`, and
    `hendrycks_math/<row>` from a file without `unique_id`.
    """
    if subject is not None and subject not in SUBJECTS:
        raise UnknownName("subject of MATH", subject, SUBJECTS)
    if path is not None:
        rows, revision = load_rows(HUB, REVISION, split=split, path=path)
        named = [(f"hendrycks_math/{place}", row) for place, row in enumerate(rows)]
        named = [(name, row) for name, row in named if subject is None or _subject(row) == subject]
        if not named:
            raise InputError(f"{path} has no row of the subject {subject!r} in a field `type` or `subject`.")
    else:
        named = []
        for config in (subject,) if subject else SUBJECTS:
            rows, revision = load_rows(HUB, REVISION, config=config, split=split)
            named += [(f"hendrycks_math/{config}/{place}", row) for place, row in enumerate(rows)]
    examples = _examples(num_fewshot, fewshot_path, subject)
    return _task("hendrycks_math", named, split=split, examples=examples, revision=revision)


def math_500(path: str | None = None, num_fewshot: int = 0, fewshot_path: str | None = None) -> Task:
    """MATH-500 from the Hub, or from a local file with the fields `problem` (or `question`) and `answer`."""
    rows, revision = load_rows(HUB_500, REVISION_500, path=path)
    named = [(f"math_500/{place}", row) for place, row in enumerate(rows)]
    for name, row in named:
        require_texts(row, ("answer",), f"row {name}")
    return _task("math_500", named, split="test", examples=_examples(num_fewshot, fewshot_path), revision=revision)


def _task(
    name: str, rows: list[tuple[str, dict[str, Any]]], *, split: str, examples: list[tuple[str, str]], revision: str
) -> Task:
    context = worked_examples(examples, instruction=INSTRUCTION)
    taken = {prompt for prompt, _ in examples}
    problems = (_problem(name, row, row_id, split=split, context=context) for row_id, row in rows)
    return Task(
        name=name,
        problems=tuple(problem for problem in problems if problem.prompt not in taken),
        extract=extract,
        grade=grade,
        gold=gold,
        revision=revision,
        stop=STOP,
    )


def _examples(count: int, path: str | None, subject: str | None = None) -> list[tuple[str, str]]:
    """Prompt and solution of the first rows of the train split."""
    if not count:
        return []
    rows, _ = load_rows(HUB, REVISION, config=subject or SUBJECTS[0], split="train", path=path)
    if len(rows) < count:
        raise InputError(f"MATH has {len(rows)} examples here and num_fewshot is {count}: ask for fewer.")
    for place, row in enumerate(rows[:count]):
        require_texts(row, ("solution",), f"MATH example {place}")
    return [(_prompt(row, f"MATH example {place}"), row["solution"]) for place, row in enumerate(rows[:count])]


def _prompt(row: dict[str, Any], where: str) -> str:
    return f"Problem:\n{_question(row, where)}\n\nSolution:"


def _question(row: dict[str, Any], where: str) -> str:
    name = "problem" if "problem" in row else "question"
    require_texts(row, (name,), where)
    return str(row[name])


def _problem(task: str, row: dict[str, Any], row_id: str, *, split: str, context: str) -> Problem:
    solution = row.get("solution")
    if solution is not None:
        require_texts(row, ("solution",), f"row {row_id}")
    answer = row.get("answer") if task == "math_500" or not solution else extract_boxed(solution)
    if not answer or not str(answer).strip():
        raise InputError(
            f"row {row_id} has no answer: its solution needs a \\boxed{{...}}, or the row a field `answer`."
        )
    level = row.get("level")
    return Problem(
        id=str(row.get("unique_id") or row_id),
        task=task,
        split=split,
        prompt=_prompt(row, f"row {row_id}"),
        context=context,
        answer=str(answer),
        level=f"Level {level}" if isinstance(level, int) else level,
        meta={"subject": _subject(row), "question": _question(row, f"row {row_id}"), "solution": solution},
    )


def _subject(row: dict[str, Any]) -> str | None:
    """In the form of the configs' names: "Counting & Probability" is counting_and_probability."""
    name = str(row.get("type") or row.get("subject") or "")
    return name.lower().replace("&", "and").replace(" ", "_") if name else None


def extract(problem: Problem, completion: Completion) -> Completion:
    """Fills `answer` with the LaTeX of the final answer."""
    text = after_thinking(completion.text)
    if completion.form == "continuation":
        text = cut_run_on(text, _NEXT_PROBLEM)
    answer = extract_boxed(text)
    if answer is None and (field := extract_after(text, _ANSWER_IS)) is not None:
        answer = _mathematics(field)
    return msgspec.structs.replace(completion, answer=answer)


def _mathematics(field: str) -> str:
    r"""What stands first between dollars, `\(` or `\[`, else the first sentence."""
    if dollars := re.search(r"(?<!\\)\$+([^$]+?)(?<!\\)\$|\\[(\[](.+?)\\[)\]]", field):
        return (dollars[1] or dollars[2]).strip()
    return re.split(r"\.\s", field, maxsplit=1)[0].strip()


def gold(problem: Problem) -> Completion:
    """The dataset's own solution, or the answer in a box where there is none."""
    text = problem.meta["solution"] or f"\\boxed{{{problem.answer}}}"
    return Completion(problem_id=problem.id, index=0, text=text)
