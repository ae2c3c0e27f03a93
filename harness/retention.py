"""Which checkpoints of a trial stay on the disk: `tidy` removes weights that nothing needs any more.

    all    every iteration's weights stay
    last   those of the newest iteration
    best   those of the iteration with the best score on validation problems and, until the trial is done, of the newest

`removable` decides, as a function of what is done; `tidy` carries it out. The newest weights stay until an iteration
that starts from them has been trained. Only weights are removed: a checkpoint keeps its configuration and tokenizer,
beside a removed.json that says what is gone and why; evaluations, rows and accounts stay, so that a trial that is gone
on with, or reported on, misses nothing. `require_room` compares what a phase may need with a limit and with the disk,
before it starts. Not handled: rounding of sizes by the file system; choosing by test problems, which is no choice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

from harness.errors import HarnessError, InputError, UnknownName
from harness.recipes import Treatment
from harness.store import write_atomically
from harness.types import Record, Trained

Keep: TypeAlias = Literal["all", "last", "best"]
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
"""Of a checkpoint and its adapter: what is removed of it."""
REMOVED = "removed.json"
LEFTOVERS = ("state", "epochs", ".checkpoint.new")
"""Folders of a training phase that are of no use once its account is written. A phase removes them itself, unless it is
killed at that very moment."""
STATE_BYTES = 3 * 4
"""Of a trained weight in a saved state: itself and the optimiser's two moments, in float32."""
ADAPTER_SHARE = 0.05
"""Of a model's weights, the most that an adapter is taken to have."""


class Iteration(Record, frozen=True):
    """How far one iteration of a trial is."""

    number: int
    """From 1."""
    trained: bool
    evaluated: bool
    has_weights: bool
    score: float | None = None
    """On validation problems."""


def removable(done: Sequence[Iteration], *, keep: Keep, iterations: int) -> list[int]:
    """The iterations whose weights nothing needs any more.

    Args:
        done: the iterations that were begun.
        keep: which weights stay in the end.
        iterations: how many the trial will have.

    Raises:
        InputError: the best of several is to stay and one of them has no score.
    """
    if keep not in get_args(Keep):
        raise UnknownName("way to keep checkpoints called", keep, get_args(Keep))
    if keep == "all":
        return []
    there = [one for one in done if one.evaluated and one.has_weights]
    stays = max((one.number for one in there), default=0) if keep == "last" else _best(there)
    trained = {one.number for one in done if one.trained}
    behind = {n for n in range(1, iterations + 1) if n == iterations or n + 1 in trained}
    return [one.number for one in there if one.number != stays and one.number in behind]


def _best(there: Sequence[Iteration]) -> int:
    """The earliest, among equals."""
    scores: dict[int, float] = {}
    for one in there:
        if one.score is None:
            raise InputError(
                f"the best checkpoint is to be kept and iteration {one.number} has no score on validation problems: "
                "give the trial validation problems, or keep the last one."
            )
        scores[one.number] = one.score
    return min(scores, key=lambda number: (-scores[number], number), default=0)


def tidy(trial: Path, *, keep: Keep, iterations: int) -> int:
    """Removes what `removable` names from a trial's folder, and what killed phases left behind. Gives bytes freed.

    Call it after each evaluation, and at the start: a kill in the middle of it is made good by the next call.

    Args:
        trial: a folder as `harness.treat` writes it.
        keep: "all", "last" or "best".
        iterations: how many the trial will have.
    """
    done = iterations_of(trial)
    freed = 0
    for one in done:
        phase = trial / f"iteration_{one.number}" / "train"
        if one.trained:
            for name in LEFTOVERS:
                freed += used_bytes(phase / name)
                shutil.rmtree(phase / name, ignore_errors=True)
            if (folder := _checkpoint(phase)) and (folder / REMOVED).is_file():  # begun before a kill
                freed += _remove_weights(folder)
    for number in removable(done, keep=keep, iterations=iterations):
        folder = _checkpoint(trial / f"iteration_{number}" / "train")
        assert folder is not None
        sizes = {path.relative_to(folder).as_posix(): path.lstat().st_size for path in _weights(folder)}
        why = f"keep: {keep}. It was evaluated, and no later iteration starts from it."
        write_atomically(folder / REMOVED, json.dumps({"why": why, "bytes": sizes}, indent=1) + "\n")
        freed += _remove_weights(folder)
    return freed


def iterations_of(trial: Path) -> list[Iteration]:
    """What a trial's folder holds, in order."""
    numbers = sorted(int(path.name.removeprefix("iteration_")) for path in trial.glob("iteration_[1-9]*"))
    return [
        Iteration(
            number=number,
            trained=(trial / f"iteration_{number}" / "train" / "trained.json").is_file(),
            evaluated=(trial / f"iteration_{number}" / "evaluated.json").is_file(),
            has_weights=_has_weights(trial / f"iteration_{number}" / "train"),
            score=_score(trial / f"iteration_{number}" / "evaluated.json"),
        )
        for number in numbers
    ]


def _score(path: Path) -> float | None:
    """pass@1 of the evaluation on validation problems, where there was one."""
    estimates = json.loads(path.read_bytes()).get("estimates", {}) if path.is_file() else {}
    values = [metrics["pass@1"]["value"] for metrics in estimates.get("validation", {}).values()]
    return float(values[0]) if values and values[0] is not None else None


def _checkpoint(phase: Path) -> Path | None:
    """The weights' folder of a finished phase, where it is the phase's own: a link to elsewhere is not."""
    account = phase / "trained.json"
    if not account.is_file():
        return None
    folder = phase / msgspec.json.decode(account.read_bytes(), type=Trained).checkpoint
    inside = folder.resolve().is_relative_to(phase.resolve()) and folder.resolve() != phase.resolve()
    return folder if inside and folder.is_dir() else None


def _has_weights(phase: Path) -> bool:
    folder = _checkpoint(phase)
    return folder is not None and not (folder / REMOVED).is_file() and any(_weights(folder))


def _weights(checkpoint: Path) -> list[Path]:
    return sorted(path for pattern in WEIGHTS for path in checkpoint.rglob(pattern))


def _remove_weights(checkpoint: Path) -> int:
    freed = 0
    for path in _weights(checkpoint):
        freed += path.lstat().st_size
        path.unlink()
    return freed


# --- room


def require_room(folder: Path, needed: int, *, limit: int | None, what: str) -> None:
    """Nothing, where `folder` may grow by so many bytes.

    Args:
        folder: of a trial, or of a sweep whose trials share the limit.
        needed: bytes, at most, that the phase will add for a while.
        limit: bytes that the folder may hold; None: what the disk has.
        what: the phase, for the sentence.

    Raises:
        HarnessError: there is no room, with what is used, what is needed and what to do.
    """
    used = used_bytes(folder)
    if limit is not None and used + needed > limit:
        raise HarnessError(
            f"{what} may need {_gb(needed)} and {folder} holds {_gb(used)} of the {_gb(limit)} that it may: raise the "
            "limit, or keep fewer checkpoints (keep: last), and give the same command again."
        )
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    if needed > free:
        raise HarnessError(
            f"{what} may need {_gb(needed)} and the disk of {folder} has {_gb(free)} free ({_gb(used)} are this "
            "folder's): make room, or keep fewer checkpoints (keep: last), and give the same command again."
        )


def training_bytes(init: Path, treatment: Treatment) -> int:
    """The most that training will have on the disk at once: checkpoints, and two states while one replaces the other.

    0 where `init` is no folder here: a model of the Hub, whose size is known once it is downloaded.
    """
    size = sum(path.stat().st_size for pattern in ("*.safetensors", "*.bin") for path in init.glob(pattern))
    if not size:
        return 0
    config = json.loads((init / "config.json").read_text(encoding="utf-8"))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    weights = size / (2 if "16" in dtype else 4)
    settings = treatment.on_policy or treatment.improve
    trained = weights * (ADAPTER_SHARE if settings.lora is not None else 1)
    validated = treatment.on_policy is None and treatment.improve.until == "validation"
    return int((2 if validated else 1) * size + 2 * STATE_BYTES * trained)


def used_bytes(folder: Path) -> int:
    """Of all files under a folder; 0 where there is none. Links count as links."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_symlink() or path.is_file():
                total += path.lstat().st_size
        except FileNotFoundError:  # removed meanwhile, by a phase that runs
            continue
    return total


def _gb(n: int) -> str:
    return f"{n / 1e9:.2f} GB"
