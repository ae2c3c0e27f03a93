"""Everybody's sample files: `detect` names the format of a file, `read` streams its completions.

A format is recognised by the fields of the file's first row, by this rule, first match wins: an EvalPlus results object
(`eval`), BigCode's list of lists, then the fields in the order of `FORMATS`. Containers (lines, one value, Parquet,
gzip) don't matter. A folder is a run of ours if it holds completions.jsonl, else EvalPlus's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownName
from harness.samplers.formats import code, frameworks, maths
from harness.samplers.formats.files import first_value, open_rows
from harness.samplers.formats.found import Found, Line, Notes
from harness.samplers.formats.plain import plain

RUN_FILE = "completions.jsonl"


@dataclass(frozen=True)
class Format:
    """How one format is recognised and read, a row at a time."""

    fields: tuple[str, ...]
    """What the first row must have; the alternatives follow in `or_fields`."""
    read: Callable[[Line], Iterator[Found]]
    about: str
    or_fields: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "plain": Format(("problem_id", "text"), plain, "{problem_id, text}, also completions.jsonl of a run"),
    "lm_eval": Format(("doc_id", "resps"), frameworks.lm_eval, "lm-evaluation-harness samples_*.jsonl"),
    "lighteval": Format(
        ("doc", "model_response"), frameworks.lighteval, "lighteval details_*.parquet", ("predictions", "full_prompt")
    ),
    "livecodebench": Format(("question_id", "code_list"), code.livecodebench, "LiveCodeBench {question_id, code_list}"),
    "evalplus": Format(("task_id", "solution"), code.humaneval, "EvalPlus {task_id, solution}, folder or results"),
    "humaneval": Format(("task_id", "completion"), code.humaneval, "HumanEval {task_id, completion}"),
    "qwen_math": Format(("idx", "code"), maths.qwen_math, "Qwen2.5-Math {idx, question, code}"),
    "verifiers": Format(("prompt", "completion", "reward"), frameworks.verifiers, "verifiers results.jsonl"),
    "gsm8k_solutions": Format(("question", "ground_truth"), maths.gsm8k_solutions, "OpenAI's GSM8K solutions"),
}
NAMES: dict[str, str] = {name: form.about for name, form in FORMATS.items()} | {
    "bigcode": "BigCode generations.json [[program, ...], ...]"
}
"""Every format that can be read, with a line on each."""


def locate(path: Path) -> Path:
    """The file or folder to read: a run folder of ours stands for the completions in it."""
    if not path.exists():
        raise InputError(f"{path} does not exist: check the path.")
    return path / RUN_FILE if (path / RUN_FILE).is_file() else path


def detect(path: Path) -> str:
    """Name of the format of a file or folder, or an error that lists the formats."""
    if path.is_dir():
        return "evalplus"
    value = first_value(path)
    if isinstance(value, list):
        if not value:
            raise InputError(f"{path} is empty: it holds no completions.")
        if all(isinstance(programs, list) for programs in value):
            return "bigcode"
    elif isinstance(value, dict):
        if isinstance(value.get("eval"), dict):
            return "evalplus"
        for name, form in FORMATS.items():
            if any(fields and value.keys() >= set(fields) for fields in (form.fields, form.or_fields)):
                return name
    what = f"fields {', '.join(map(repr, value)) or 'none'}" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise InputError(
        f"{path} is in no format that can be recognised ({what:.200}): give format= one of {', '.join(NAMES)}."
    )


def check_name(name: str) -> None:
    """Raises unless there is such a format."""
    if name not in NAMES:
        raise UnknownName("sample format", name, NAMES)


def read(path: Path, format_name: str, *, system: str | None = None, notes: Notes) -> Iterator[Found]:
    """Streams the completions of a file or folder in its order; what is skipped is counted in `notes`."""
    if path.is_dir() and format_name == "evalplus":
        return code.evalplus_folder(path, notes)
    if format_name == "bigcode":
        return code.bigcode(path)
    if format_name == "evalplus" and _is_evalplus_results(path):
        return code.evalplus_results(path, notes)
    return _rows(path, FORMATS[format_name].read, system, notes)


def _rows(path: Path, read_row: Callable[[Line], Iterator[Found]], system: str | None, notes: Notes) -> Iterator[Found]:
    for number, (place, row) in enumerate(open_rows(path)):
        yield from read_row(Line(row=row, place=place, number=number, system=system, notes=notes))


def _is_evalplus_results(path: Path) -> bool:
    value: Any = first_value(path)
    return isinstance(value, dict) and "eval" in value
