"""Our own format: {"problem_id", "text"} and whatever else a `Completion` has; what `harness convert` writes too.

`completions.jsonl` of a run folder is in this format. In a flat table (Parquet) a column `score.NAME` is a score.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.dataset import require
from harness.errors import InputError
from harness.samplers.formats.found import (
    Found,
    Line,
    common_fields,
    count_of,
    finite,
    form_of,
    id_of,
    number_of,
    text_of,
)

SCORE_COLUMN = "score."
_NAMES = ("problem_id", "index", "text", "form", "parent", "cost", "scores", "task", "split", "level", "status",
          "answer", "detail", "program")  # fmt: skip


def plain(line: Line) -> Iterator[Found]:
    """One completion a row; only `problem_id` and `text` are required."""
    row, place = line.row, line.place
    require(row, ["problem_id", "text"], place)
    fields = common_fields(line, _NAMES)
    given = row.get("scores") or {}
    if not isinstance(given, dict) or any(number_of(value) is None for value in given.values() if value is not None):
        raise InputError(f"{place}: scores is not an object of numbers by name.")
    own = {name.removeprefix(SCORE_COLUMN): value for name, value in fields["scores"].items()}
    # `passed` is the newest word on a completion, a score source_passed may be what an earlier file said
    fields["scores"] = finite({name: number_of(value) for name, value in given.items()}, line.notes) | own
    cost = finite({"cost": number_of(row.get("cost"))}, line.notes).get("cost")
    yield Found(
        place=place,
        id=id_of(row["problem_id"], "problem_id", place),
        text=text_of(row["text"], "text", place),
        form="continuation" if row.get("form") is None else form_of(row["form"], place),
        index=None if row.get("index") is None else count_of(row["index"], "index", place),
        parent=None if row.get("parent") is None else count_of(row["parent"], "parent", place),
        cost=cost,
        **fields,
    )
