"""A completion as some file has it, and the checks on fields that all formats share.

Not handled here: which of the task's problems a completion is for (`harness.samplers.matching`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from harness.errors import InputError
from harness.types import Form

Notes = Counter[tuple[str, str]]
"""How often something worth telling happened: (singular noun, rest of the sentence) -> times."""

TEXTS_OF_A_QUESTION = ("question", "problem")
"""Fields in which datasets keep the bare question, the same in a row of a file and in `Problem.meta`."""
OWN_IDS = ("task_id", "unique_id", "problem_id", "question_id")
"""Fields in which datasets keep an id of their own."""
VERDICTS = ("passed", "is_correct", "correct")
"""Fields in which a file says that a completion is right."""
LOGPROBS = ("logprob", "cumulative_logprob", "sum_logprob")
TOKEN_COUNTS = ("n_tokens", "output_tokens", "num_tokens", "completion_tokens")
STOP_REASONS = ("stop_reason", "finish_reason")
_COMMON = frozenset((*LOGPROBS, *TOKEN_COUNTS, *STOP_REASONS, *VERDICTS))
_STOPS: dict[str, Literal["stop", "length"]] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length", "max_length": "length",
}  # fmt: skip
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One completion in a file. At least one of `id`, `row` and `question` says which problem it is for."""

    place: str
    """File and line, for messages."""
    text: str
    form: Form = "continuation"
    id: str | int | None = None
    """The problem's id, or the last part of it."""
    row: int | None = None
    """Number of the problem in its dataset, from 0."""
    question: str | None = None
    """Text that contains the problem's question: checks `id` and `row`, or stands in for them."""
    index: int | None = None
    """Which completion of its problem it is, where the file says so; None: its place in the file."""
    logprob: float | None = None
    n_tokens: int | None = None
    stop_reason: Literal["stop", "length"] | None = None
    parent: int | None = None
    cost: float | None = None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a file, and what its reader needs to know besides."""

    row: dict[str, Any]
    place: str
    number: int
    """Of the row among the file's rows, from 0."""
    system: str | None
    notes: Notes


def text_of(value: Any, what: str, place: str) -> str:
    """`value` if it is a text, else an error."""
    if isinstance(value, str):
        return value
    raise InputError(f"{place}: {what} is {_a(value)} where a text is wanted.")


def texts_of(value: Any, what: str, place: str) -> list[str]:
    """`value` if it is a list of texts, else an error."""
    if not isinstance(value, list):
        raise InputError(f"{place}: {what} is {_a(value)} where a list of texts is wanted.")
    return [text_of(text, f"{what}[{i}]", place) for i, text in enumerate(value)]


def id_of(value: Any, what: str, place: str) -> str | int:
    """`value` if it can be an id."""
    if isinstance(value, str) or type(value) is int:
        return value
    raise InputError(f"{place}: {what} is {_a(value)} where an id (text or whole number) is wanted.")


def count_of(value: Any, what: str, place: str) -> int:
    """`value` if it is a whole number from 0 that others can store too."""
    if type(value) is int and 0 <= value < 1 << 31:
        return value
    raise InputError(f"{place}: {what} is {value!r:.40} where a whole number from 0 is wanted.")


def form_of(value: Any, place: str) -> Form:
    """`value` if it is one of the three forms."""
    if value in get_args(Form):
        form: Form = value
        return form
    raise InputError(f"{place}: form is {value!r:.40} where one of {', '.join(get_args(Form))} is wanted.")


def number_of(value: Any) -> float | None:
    """`value` as a float if it is a number (True is 1.0), else None."""
    try:
        return float(value) if isinstance(value, bool | int | float) else None
    except OverflowError:
        return math.inf


def first_of(row: Mapping[str, Any], names: Collection[str]) -> Any:
    """The first of the fields that is there and not null, else None."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    return None


def text_or_none(value: Any) -> str | None:
    """`value` if it is a text with something in it."""
    return value if isinstance(value, str) and value.strip() else None


def question_of(row: Mapping[str, Any]) -> str | None:
    """The bare question of a dataset's row, where it has one."""
    return text_or_none(first_of(row, TEXTS_OF_A_QUESTION))


def encodable(text: str) -> str:
    """The same object, or where it cannot be written as UTF-8 a copy in which lone surrogates are replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", text)
    return text


def finite(scores: Mapping[str, float | None], notes: Notes) -> dict[str, float]:
    """The scores that are numbers; a NaN or infinity is left out and noted, a None left out."""
    kept = {}
    for name, value in scores.items():
        if value is not None and math.isfinite(value):
            kept[encodable(name)] = value
        elif value is not None:
            notes["score", "left out: NaN or infinite"] += 1
    return kept


def common_fields(line: Line, reserved: Collection[str]) -> dict[str, Any]:
    """What any row may carry along: log-probability, length, stop reason, verdict; any other number is a score."""
    row = line.row
    logprob = number_of(first_of(row, LOGPROBS))
    n_tokens = first_of(row, TOKEN_COUNTS)
    stop = first_of(row, STOP_REASONS)
    scores = {name: number_of(value) for name, value in row.items()
              if name not in reserved and name not in _COMMON and not isinstance(value, bool)}  # fmt: skip
    verdict = first_of(row, VERDICTS)
    scores["source_passed"] = float(verdict) if isinstance(verdict, bool) else None
    return {
        "logprob": finite({"logprob": logprob}, line.notes).get("logprob"),
        "n_tokens": n_tokens if type(n_tokens) is int and 0 <= n_tokens < 1 << 31 else None,
        "stop_reason": _STOPS.get(stop) if isinstance(stop, str) else None,
        "scores": finite(scores, line.notes),
    }


def _a(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "a text"}
    return kinds.get(type(value), f"the number {value!r:.40}")
