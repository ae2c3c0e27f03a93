"""Rows of a benchmark: from a local file with the Hub's fields, or from the Hub at a pinned revision.

`load_rows` is the one place that imports `datasets`. A local file may be .jsonl, .json (a list), .parquet, or either of
the first two gzipped. Not handled: datasets that need a loading script (removed from `datasets` 4).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import InputError, MissingDependency

MAX_LINE_BYTES = 64 << 20
"""A longer line is refused: no completion or problem is that long, a wrong file may be."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number from 1 and text of every line that is not blank, of a plain or gzipped UTF-8 file."""
    if not path.exists():
        raise InputError(f"{path} does not exist: check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder where a file is wanted: name the file in it.")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file: name a file.")
    number = 0
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"{path}, line {number} is longer than {MAX_LINE_BYTES >> 20} MiB: is this the right file?"
                    )
                if line.strip():
                    yield number, line.decode("utf-8")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is not a whole gzip file ({error}, after line {number}): fetch it again.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number} is not UTF-8 ({error.reason}): save the file as UTF-8.") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read ({error.strerror}): check its permissions.") from error


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def parse_json(text: str, path: Path, line: int | None = None) -> Any:
    """The value of one JSON text of a file, or an error that names the place."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"{path}, line {line}," if line else f"{path}"
        raise InputError(f"{where} is not JSON ({error}): mend or remove it.") from error


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and row of a .jsonl, .json or .parquet file; a row is an object with named fields."""
    if path.suffix == ".parquet":
        rows: Iterator[tuple[int, Any]] = enumerate(read_parquet(path), 1)
    elif path.name.removesuffix(".gz").endswith(".json"):
        text = "".join(line for _, line in read_lines(path))
        value = parse_json(text, path)
        rows = enumerate(value if isinstance(value, list) else [value], 1)
    else:
        rows = ((number, parse_json(line, path, number)) for number, line in read_lines(path))
    empty = True
    for number, row in rows:
        empty = False
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number} is a {type(row).__name__}, not an object with named fields.")
        yield number, row
    if empty:
        raise InputError(f"{path} is empty: it holds no rows.")


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """All rows of a Parquet file, nested columns as lists and dicts."""
    return list(stream_parquet(path))


def stream_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file one by one, nested columns as lists and dicts."""
    pyarrow, parquet = _pyarrow(f"reading {path}")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}).") from error


def write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes rows with named fields as a Parquet file; a column's type is that of its values, None is null."""
    pyarrow, parquet = _pyarrow(f"writing {path}")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    parquet.write_table(pyarrow.table(columns), path)


def _pyarrow(what: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependency("pyarrow", "parquet", what) from error
    return pyarrow, parquet


def load_rows(
    hub: str, revision: str, *, config: str | None = None, split: str = "test", path: str | None = None
) -> tuple[list[dict[str, Any]], str]:
    """The rows of a benchmark in their order, and what to record as its revision.

    With `path`, the rows of that file and the SHA-256 of their content; else `datasets.load_dataset(hub, config)` at
    the commit `revision`, whose name is returned.
    """
    if path is not None:
        rows = [row for _, row in read_rows(Path(path))]
        digest = hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return rows, f"file sha256:{digest}"
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency("datasets", "datasets", f"loading {hub} from the Hub") from error
    try:
        table = datasets.load_dataset(hub, config, split=split, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{hub} could not be loaded from the Hub ({reason}): "
            "check the network, or give a local copy with --task_args path=FILE."
        ) from error
    return [dict(row) for row in table], f"{hub}@{revision}"


def require(row: dict[str, Any], fields: Sequence[str], where: str) -> None:
    """Raises unless the row has every field; the message lists what it has."""
    missing = [name for name in fields if name not in row]
    if missing:
        raise InputError(f"{where} has no field {missing[0]!r} (it has {', '.join(map(str, row)) or 'none'}).")


def require_texts(row: dict[str, Any], fields: Sequence[str], where: str) -> None:
    """Raises unless the row has every field, each a text."""
    require(row, fields, where)
    for name in fields:
        if not isinstance(row[name], str):
            raise InputError(f"{where}: {name!r} is a {type(row[name]).__name__}, not a text.")
