"""Sample files of code benchmarks: HumanEval, EvalPlus, BigCode, LiveCodeBench.

| format | one row | form |
|---|---|---|
| `humaneval` | {"task_id", "completion"}; the evaluator's own output adds "result" and "passed" | continuation |
| `evalplus` | {"task_id", "solution"} or "completion"; FOLDER/HumanEval_0/0.py; `*_eval_results.json` | program |
| `bigcode` | [[program, ...], ...] in the order of the dataset | program |
| `livecodebench` | {"question_id", "code_list"}; `*_eval_all.json` adds "graded_list" | program |

Not handled: EvalPlus results of before 2024, which hold verdicts and no programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.dataset import require
from harness.errors import InputError
from harness.samplers.formats.files import folder_programs, list_folder, read_program, read_value
from harness.samplers.formats.found import Found, Line, Notes, common_fields, finite, id_of, text_of, texts_of

_NAMES = ("task_id", "completion", "solution", "completion_id", "sample_id", "index", "id")


def humaneval(line: Line) -> Iterator[Found]:
    """A row of HumanEval or EvalPlus: one completion, to be put after the prompt, or one whole `solution`."""
    require(line.row, ["task_id"], line.place)
    task_id = id_of(line.row["task_id"], "task_id", line.place)
    fields = common_fields(line, _NAMES)
    if line.row.get("solution") is not None:
        text = text_of(line.row["solution"], "solution", line.place)
        yield Found(place=line.place, id=task_id, text=text, form="program", **fields)
    else:
        require(line.row, ["completion"], line.place)
        text = text_of(line.row["completion"], "completion", line.place)
        yield Found(place=line.place, id=task_id, text=text, **fields)


def livecodebench(line: Line) -> Iterator[Found]:
    """A row of LiveCodeBench: all programs of a problem, with verdicts where it was evaluated."""
    require(line.row, ["question_id", "code_list"], line.place)
    question_id = id_of(line.row["question_id"], "question_id", line.place)
    programs = texts_of(line.row["code_list"], "code_list", line.place)
    graded = line.row.get("graded_list")
    if graded is not None and (not isinstance(graded, list) or len(graded) != len(programs)):
        raise InputError(f"{line.place}: graded_list does not have the {len(programs)} entries of code_list.")
    note_if_none(programs, line.notes)
    for i, program in enumerate(programs):
        verdict = graded[i] if graded is not None else None
        scores = {"source_passed": float(verdict)} if isinstance(verdict, bool) else {}
        yield Found(place=line.place, id=question_id, text=program, form="program", scores=scores)


def bigcode(path: Path) -> Iterator[Found]:
    """BigCode's generations.json: a list of programs for every problem, in the order of the dataset."""
    value = read_value(path)
    if not isinstance(value, list):
        raise InputError(f"{path} is not a list of lists of programs, as BigCode's generations are.")
    for row, programs in enumerate(value):
        place = f"{path}, entry {row + 1}"
        for program in texts_of(programs, "the entry", place):
            yield Found(place=place, row=row, text=program, form="program")


def evalplus_results(path: Path, notes: Notes) -> Iterator[Found]:
    """EvalPlus's *_eval_results.json: programs with their verdicts on the base and the additional tests."""
    value = read_value(path)
    by_task = value.get("eval") if isinstance(value, dict) else None
    if not isinstance(by_task, dict) or not by_task:
        raise InputError(f"{path} has no object `eval` with programs by task, as EvalPlus's results have.")
    for task_id, entries in by_task.items():
        place = f"{path}, eval[{task_id!r}]"
        if not isinstance(entries, list):
            raise InputError(f"{place} holds verdicts and no programs: replay the samples file that it was made from.")
        note_if_none(entries, notes)
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InputError(f"{place}[{i}] is a {type(entry).__name__} where an object is wanted.")
            require(entry, ["solution"], f"{place}[{i}]")
            text = text_of(entry["solution"], "solution", f"{place}[{i}]")
            scores = {"source_passed": _status(entry.get("base_status")),
                      "source_passed_plus": _status(entry.get("plus_status"))}  # fmt: skip
            yield Found(place=f"{place}[{i}]", id=task_id, text=text, form="program", scores=finite(scores, notes))


def evalplus_folder(folder: Path, notes: Notes) -> Iterator[Found]:
    """FOLDER/HumanEval_0/0.py, 1.py, ...: whole programs, in order of their numbers."""
    programs, others = folder_programs(folder)
    if not programs:
        raise InputError(
            f"{folder} holds no PROBLEM/NUMBER.py as EvalPlus's folders do (it holds {list_folder(folder)}): "
            "name the file to be read."
        )
    if others:
        notes["file", "of the folder not read, as not PROBLEM/NUMBER.py"] += others
    for name, path in programs:
        yield Found(place=str(path), id=name, text=read_program(path), form="program")


def note_if_none(completions: list[Any], notes: Notes) -> None:
    """A problem whose list of completions is empty is told."""
    if not completions:
        notes["row", "without a single completion"] += 1


def _status(value: Any) -> float | None:
    return None if value is None else float(value in ("pass", "success"))
