"""Base models: `base(spec)` gives the folder of one, and makes it first where it is to be trained from scratch.

A spec is a folder, a model's name on the Hub, or a mapping `{pretrain: TASK, seed: 0, ...}` (`Pretraining`): a tiny
model that learns from the demonstrations of a generated world (`harness ls task`), in less than a minute. Those are
kept in the user's cache folder, so that each is made once; two processes don't make the same one together. Training
runs in a process of its own, `main`.

Not handled: removing models that are no longer wanted (delete the folder), GPUs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from harness import processes, registry
from harness.config import typed
from harness.errors import HarnessError, InputError
from harness.progress import Progress, silent
from harness.types import Record

FORMAT = 2
"""Raised when the same spec comes to give another model."""

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]


class Pretraining(Record, frozen=True, omit_defaults=False):
    """A base model from scratch (`trainers/pretrain.py`)."""

    pretrain: str
    """The task whose split `pretrain` has the demonstrations."""
    problems: Count | None = None
    """How many demonstrations; None: as many as the task gives."""
    seed: int = 0
    """Of the demonstrations, the first weights and the order."""
    epochs: Positive = 2.5
    batch_rows: Count = 16
    learning_rate: Positive = 1e-2
    """Of Muon; AdamW has 0.3 of it."""
    width: Count = 128
    layers: Count = 2
    vocabulary: Count = 384


def base(spec: str | Path | Mapping[str, Any], *, progress: Progress = silent) -> Path:
    """The folder of a base model; a folder or a name on the Hub is given back as it is.

    Raises:
        UnknownName: a key that `Pretraining` has not; names the nearest.
        InputError: a value that cannot be, or a task without demonstrations to learn from.
        HarnessError: training failed.
    """
    if isinstance(spec, str | Path):
        return Path(spec)
    if "pretrain" not in spec:
        raise InputError(f"the base {dict(spec)} says nothing of its making: give a folder, or {{pretrain: TASK}}.")
    settings = typed(spec, Pretraining, lambda key: "" if len(key) > 1 else "the base")
    folder = _folder(settings)
    if folder.is_dir():
        return folder
    with _alone(folder, progress):
        if not folder.is_dir():  # else another process has made it meanwhile
            _make(settings, folder, progress)
    return folder


def _folder(settings: Pretraining) -> Path:
    """Where a model of these settings is kept: a changed world is another model."""
    task = registry.build("task", settings.pretrain, {"split": "pretrain", "problems": 1})
    parts = [FORMAT, task.revision, msgspec.to_builtins(settings)]
    key = hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:12]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "treatment-harness", "bases", f"{task.name}-{key}")


@contextlib.contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Waits for whoever makes the same model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            progress.note(f"another process trains the base model {folder.name}: waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(settings: Pretraining, folder: Path, progress: Progress) -> None:
    started = time.monotonic()
    progress.note(f"training a base model on demonstrations of {settings.pretrain}, once: less than a minute.")
    log = folder.with_name(f"{folder.name}.log")
    with log.open("wb") as output:
        status = processes.run("harness.bases:main", msgspec.to_builtins(settings), str(folder), output=output)
    if status:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise HarnessError(f"training the base model failed with status {status} ({last[0]}): {log} has it all.")
    progress.note(f"the base model is in {folder}, after {time.monotonic() - started:.0f} s.")


def main(spec: dict[str, Any], folder: str) -> None:
    """The training process."""
    settings = msgspec.convert(spec, type=Pretraining)
    importlib.import_module("harness.trainers.pretrain").pretrain(
        demonstrations(settings), Path(folder), settings=settings, progress=Progress(note=print)
    )


def demonstrations(settings: Pretraining) -> list[tuple[str, str]]:
    """Pairs (prompt, completion) of the task's split `pretrain`."""
    arguments = {"split": "pretrain", "problems": settings.problems, "seed": settings.seed}
    if settings.problems is None:
        del arguments["problems"]
    task = registry.build("task", settings.pretrain, arguments)
    pairs = [(p.context + p.prompt, p.meta["demonstration"]) for p in task.problems if "demonstration" in p.meta]
    if not pairs:
        raise InputError(f"the task {settings.pretrain} has no demonstrations: pretrain on list_programs, say.")
    return pairs
