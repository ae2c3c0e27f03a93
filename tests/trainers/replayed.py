"""Runs of problems and completions that a test writes down."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness


def replayed(
    folder: Path, name: str, problems: Sequence[Mapping[str, Any]], completions: Sequence[Mapping[str, Any]]
) -> Path:
    """The run folder `name`, made of rows of the task `jsonl` and of completions for them."""
    for kind, rows in (("problems", problems), ("completions", completions)):
        (folder / f"{name}.{kind}").write_text("".join(json.dumps(row) + "\n" for row in rows))
    harness.evaluate(
        "jsonl",
        "replay",
        model_args={"path": str(folder / f"{name}.completions")},
        task_args={"path": str(folder / f"{name}.problems")},
        output_path=folder / name,
    )
    return folder / name
