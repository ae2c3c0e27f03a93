"""HumanEval: 164 Python functions to complete from their docstring, each with a script of asserts.

Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374). MIT. Fields: task_id, prompt,
canonical_solution, test, entry_point; any file of that form will do. A completion excludes the prompt. The official
grader runs program and asserts in one process, 3 s; here the asserts run in the judge, with the prompt's helper
functions (32 `poly`, 38 `encode_cyclic`, 50 `encode_shift`) as the canonical solution has them, not the program.
"""

from __future__ import annotations

from typing import Any

from harness.dataset import load_rows, require_texts
from harness.grading.code import verdict
from harness.grading.programs import continued
from harness.types import Completion, Problem, Task, Test

HUB = "openai/openai_humaneval"
REVISION = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""As in the paper, section 3.1."""


def humaneval(path: str | None = None) -> Task:
    """164 Python functions to complete from their docstring (pass@k)."""
    rows, revision = load_rows(HUB, REVISION, config="openai_humaneval", path=path)
    problems = tuple(_problem(row, f"row {i} of humaneval") for i, row in enumerate(rows))
    return Task(
        name="humaneval",
        problems=problems,
        extract=continued,
        grade=verdict,
        gold=_gold,
        revision=revision,
        stop=STOP,
    )


def _problem(row: dict[str, Any], where: str) -> Problem:
    require_texts(row, ("task_id", "prompt", "canonical_solution", "test", "entry_point"), where)
    script = Test(
        id="check",
        kind="script",
        setup=row["prompt"] + row["canonical_solution"],
        input=f"{row['test']}\ncheck({row['entry_point']})\n",
    )
    return Problem(
        id=row["task_id"],
        task="humaneval",
        prompt=row["prompt"],
        entry_point=row["entry_point"],
        answer=row["canonical_solution"],
        tests=(script,),
    )


def _gold(problem: Problem) -> Completion:
    return Completion(problem_id=problem.id, index=0, text=problem.answer or "")
