"""Rows of a file whatever its container: lines of JSON, one JSON value, Parquet; plain or gzipped.

`open_rows` streams the rows, `first_value` looks at the beginning to recognise a format. A container is told by
content: a file whose first line is a whole JSON object holds one row a line, any other JSON file is one value. Not
handled: CSV, zip archives.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from harness.dataset import parse_json, read_lines, stream_parquet
from harness.errors import InputError

Container = Literal["lines", "value", "parquet"]


def container_of(path: Path) -> Container:
    """How a file holds its rows."""
    if path.suffix == ".parquet":
        return "parquet"
    first = next(read_lines(path), None)
    if first is None:
        raise InputError(f"{path} is empty: it holds no completions.")
    if ".jsonl" in path.suffixes:
        return "lines"
    try:
        value = parse_json(first[1], path)
    except InputError:  # the first line of a longer value
        return "value"
    return "lines" if isinstance(value, dict) else "value"


def first_value(path: Path) -> Any:
    """What recognises a file: its first row, or the whole value where that is not a list of rows."""
    if container_of(path) == "value":
        value = read_value(path)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return value[0]
        return value
    return next(open_rows(path))[1]


def read_value(path: Path) -> Any:
    """The one JSON value of a file."""
    return parse_json("".join(line for _, line in read_lines(path)), path)


def open_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (file and line, for messages) and row of every row; a file without rows is an error."""
    container = container_of(path)
    rows: Iterator[tuple[str, Any]]
    if container == "lines":
        rows = ((f"{path}, line {number}", parse_json(line, path, number)) for number, line in read_lines(path))
    elif container == "parquet":
        rows = ((f"{path}, row {number}", row) for number, row in enumerate(stream_parquet(path), 1))
    else:
        value = read_value(path)
        rows = ((f"{path}, entry {i}", row) for i, row in enumerate(value if isinstance(value, list) else [value], 1))
    empty = True
    for place, row in rows:
        empty = False
        if not isinstance(row, dict):
            raise InputError(f"{place} is a {type(row).__name__} where an object with named fields is wanted.")
        yield place, row
    if empty:
        raise InputError(f"{path} is empty: it holds no completions.")


def folder_programs(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """(Name of the problem's folder, program) of an EvalPlus folder in order of number, and how many files are no such.

    The order is that of the problems' names, numbers in them by value: HumanEval_2 before HumanEval_10.
    """
    inside = [path for path in folder.glob("*/*") if path.is_file()]
    programs = [path for path in inside if path.suffix == ".py"]
    programs.sort(key=lambda path: (_by_number(path.parent.name), _by_number(path.stem)))
    others = len(inside) - len(programs) + sum(path.is_file() for path in folder.glob("*"))
    return [(path.parent.name, path) for path in programs], others


def list_folder(folder: Path) -> str:
    """A few names in a folder, for messages."""
    names = [path.name for path in islice(sorted(folder.iterdir()), 4)]
    return ", ".join(names) if names else "nothing"


def read_program(path: Path) -> str:
    """The text of a program file, line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}): save the file as UTF-8.") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read ({error.strerror}): check its permissions.") from error


def _by_number(name: str) -> tuple[str, int, str]:
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1, name
