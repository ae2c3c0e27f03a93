r"""Answers of tasks that have no convention of their own: `extract`, `grade` and `gold` for a `Task`.

The answer of a completion is its last `\boxed{}`, else what follows its last "answer is" or "####", else the text
itself where that is one short line, else its last number. Not handled: answers in prose.
"""

from __future__ import annotations

import re

import msgspec

from harness.grading.answers import extract_after, extract_boxed, extract_last_number, grade
from harness.grading.thinking import after_thinking
from harness.types import Completion, Problem

__all__ = ["extract", "gold", "grade"]

SHORT = 60
"""Characters of a line that is an answer as a whole."""
_MARKER = re.compile(r"answer\s+is|answer:|####", re.IGNORECASE)


def extract(problem: Problem, completion: Completion) -> Completion:
    """Fills `answer` from the text."""
    text = after_thinking(completion.text).strip()
    whole = text if len(text) <= SHORT and "\n" not in text else None
    answer = extract_boxed(text) or extract_after(text, _MARKER) or whole or extract_last_number(text)
    return msgspec.structs.replace(completion, answer=answer)


def gold(problem: Problem) -> Completion | None:
    """The reference answer as a completion."""
    return None if problem.answer is None else Completion(problem_id=problem.id, index=0, text=problem.answer)
