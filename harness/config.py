"""What a user asked for, from text to typed values: `key=value` lists and lists of names and numbers.

`parse_arguments` reads `--model_args` and its like. Values stay text here; `registry.build` converts them to what the
function's signature says. Recipes and sweeps in YAML will be read here too.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import InputError, UnknownName

_KEY = re.compile(r"[A-Za-z_.][\w./:-]*")
"""`path`, `humaneval.path`, `./my_task.py:mine.path`."""


def parse_arguments(text: str | Iterable[str] | Mapping[str, Any] | None, option: str) -> dict[str, Any]:
    """`"path=a.jsonl,n=3"`, or several such texts, as `{"path": "a.jsonl", "n": "3"}`; a mapping is returned as it is.

    A comma separates only where a `key=` follows, so that a value may hold commas.
    """
    if text is None:
        return {}
    if isinstance(text, Mapping):
        return dict(text)
    arguments: dict[str, Any] = {}
    for part in [text] if isinstance(text, str) else text:
        key = None
        for piece in part.split(","):
            name, equals, value = piece.partition("=")
            if equals and _KEY.fullmatch(name.strip()):
                key = name.strip()
                if key in arguments:
                    raise InputError(f"{option} gives {key} twice: leave one out.")
                arguments[key] = value
            elif key is not None:
                arguments[key] += "," + piece
            elif piece.strip():
                raise InputError(f"{option} {part!r} is not of the form key=value,key=value.")
    return arguments


def arguments_by_task(arguments: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Task arguments for each task: `TASK.key=value` is for one of them, `key=value` for the only one."""
    by_task: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    for key, value in arguments.items():
        task, dot, name = key.rpartition(".")
        if dot and task not in by_task:
            raise UnknownName("task in --task_args", task, tasks)
        if not dot and len(tasks) > 1:
            raise InputError(
                f"--task_args {key}=... with {len(tasks)} tasks: write {tasks[0]}.{key}=... to say for which."
            )
        by_task[task or tasks[0]][name] = value
    return by_task


def parse_list(text: str | Iterable[str]) -> list[str]:
    """`"a,b"` or `["a", "b"]` as a list without blanks."""
    parts = text.split(",") if isinstance(text, str) else text
    return [part.strip() for part in parts if part.strip()]


def parse_ks(text: str | int | Iterable[int]) -> tuple[int, ...]:
    """`"1,10,100"` as distinct ascending whole numbers from 1."""
    try:
        values = [int(part) for part in parse_list(text)] if isinstance(text, str) else list(_integers(text))
    except (TypeError, ValueError) as error:
        raise InputError(f"--k {text!r} is not a list of whole numbers: write --k 1,10,100.") from error
    if not values or min(values) < 1:
        raise InputError(f"--k {text!r}: each k is a whole number from 1.")
    return tuple(sorted(set(values)))


def _integers(value: int | Iterable[int]) -> Iterable[int]:
    return [operator.index(each) for each in ([value] if isinstance(value, int) else value)]
