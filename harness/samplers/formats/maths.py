"""Sample files of maths benchmarks: Qwen2.5-Math's evaluation, OpenAI's model solutions for GSM8K.

| format | one row |
|---|---|
| `qwen_math` | {"idx", "question", "gt", "code": [text, ...], "pred", "score": [true, ...], "pred_score": [3.5, ...]} |
| `gsm8k_solutions` | {"question", "ground_truth", "6b_finetuning": {"solution", "is_correct"}, ...}, maybe "index" |

The extracted answers that a file brings (`pred`) are not used: a task extracts its own from the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.dataset import require
from harness.errors import InputError, UnknownName
from harness.samplers.formats.code import note_if_none
from harness.samplers.formats.found import Found, Line, finite, id_of, number_of, question_of, text_of, texts_of


def qwen_math(line: Line) -> Iterator[Found]:
    """A row of Qwen2.5-Math: all completions of a problem, their verdicts and a reward model's scores."""
    require(line.row, ["idx", "code"], line.place)
    idx = id_of(line.row["idx"], "idx", line.place)
    texts = texts_of(line.row["code"], "code", line.place)
    passed = _aligned(line, "score", len(texts))
    rewards = _aligned(line, "pred_score", len(texts))
    note_if_none(texts, line.notes)
    for i, text in enumerate(texts):
        scores = finite({"source_passed": passed[i], "pred_score": rewards[i]}, line.notes)
        yield Found(place=line.place, id=idx, question=question_of(line.row), text=text, scores=scores)


def gsm8k_solutions(line: Line) -> Iterator[Found]:
    """A row of OpenAI's GSM8K solutions: that of the system asked for."""
    systems = systems_of(line.row)
    if not systems:
        raise InputError(f"{line.place} has no field that holds an object with a `solution`: give the right format=.")
    if line.system is None:
        raise InputError(
            f"{line.place} has solutions of several systems: choose one with system=NAME of {', '.join(systems)}."
        )
    if line.system not in systems:
        raise UnknownName("system", line.system, systems)
    entry = line.row[line.system]
    correct = entry.get("is_correct")
    index = line.row.get("index")
    yield Found(
        place=line.place,
        row=line.number if index is None else None,
        id=None if index is None else id_of(index, "index", line.place),
        question=question_of(line.row),
        text=text_of(entry["solution"], f"{line.system}.solution", line.place),
        scores={"source_passed": float(correct)} if isinstance(correct, bool) else {},
    )


def systems_of(row: dict[str, Any]) -> list[str]:
    """Names of the fields that hold a system's solution."""
    return [name for name, value in row.items() if isinstance(value, dict) and "solution" in value]


def _aligned(line: Line, name: str, n: int) -> list[float | None]:
    """A list beside the completions; its entries may each be wrapped in a list of one."""
    values = line.row.get(name)
    if values is None:
        return [None] * n
    if not isinstance(values, list) or len(values) != n:
        raise InputError(f"{line.place}: {name} does not have the {n} entries of code.")
    return [number_of(value[0] if isinstance(value, list) and len(value) == 1 else value) for value in values]
