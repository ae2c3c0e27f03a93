"""The folder of a sweep: which jobs it consists of, which of them are left, and whether it is of the sweep asked for.

    <out>/sweep.json                      what was asked for so far      <out>/<setting>/base/     the base model
    <out>/<setting>/<arm>/seed_<s>/       a trial (`harness.treat`)      .../seed_<s>.log          what it said

Main functions: `missing` and `merged`. Not handled: what is in a trial's folder.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError, RunMismatch
from harness.recipes import SPEED_ONLY
from harness.sweeps import Sweep


@dataclass(frozen=True)
class Job:
    """A trial, or the evaluation of a setting's base model."""

    setting: str
    arm: str | None = None
    """None: the base model."""
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.setting}, base model" if self.arm is None else f"{self.setting}, {self.arm}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Where it leaves what it makes."""
        return out / self.setting / ("base" if self.arm is None else f"{self.arm}/seed_{self.seed}")

    def log(self, out: Path) -> Path:
        """Where its process writes."""
        folder = self.folder(out)
        return folder.with_name(f"{folder.name}.log")

    def is_done(self, out: Path) -> bool:
        """Whether nothing is left to do."""
        return (self.folder(out) / ("evaluated.json" if self.arm is None else "trial_results.json")).is_file()


def trials(sweep: Sweep) -> list[Job]:
    """All trials: of every arm the first seed before any second one."""
    return [
        Job(setting, arm, seed) for seed in sweep.seeds for setting in sweep.settings for arm in sweep.arms_of(setting)
    ]


def missing(sweep: Sweep, out: Path) -> list[Job]:
    """What is left to do, in the order in which it is begun."""
    left = [job for job in trials(sweep) if not job.is_done(out)]
    needed = {job.setting for job in left}  # where its weights are has to be found again
    bases = [Job(setting) for setting in sweep.settings]
    return [*(job for job in bases if job.setting in needed or not job.is_done(out)), *left]


def merged(sweep: Sweep, out: Path) -> Sweep:
    """The sweep with what was begun before and is no longer asked for: a report doesn't leave out what was tried.

    Raises:
        RunMismatch: something would mean another thing than it did.
    """
    path = out / "sweep.json"
    if not path.is_file():
        return sweep
    try:
        before = msgspec.json.decode(path.read_bytes(), type=Sweep)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not of this version ({error}): choose another --output_path.") from error
    for difference in _differences(before, sweep):
        raise RunMismatch(
            f"{difference}, and {out} was begun with the former: give it another name, or choose another --output_path."
        )
    settings, arms, seeds = _left_out(before, sweep, out)
    return msgspec.structs.replace(
        sweep,
        settings={**sweep.settings, **{name: before.settings[name] for name in settings}},
        arms={**sweep.arms, **{name: before.arms[name] for name in arms}},
        seeds=(*sweep.seeds, *seeds),
    )


def left_out(sweep: Sweep, out: Path) -> list[str]:
    """What was begun in the folder and is not in the sweep, in words."""
    settings, arms, seeds = _left_out(merged(sweep, out), sweep, out)
    named = [*(f"the setting {name}" for name in settings), *(f"the arm {name}" for name in arms)]
    return [*named, *(f"seed {seed}" for seed in seeds)]


def _left_out(before: Sweep, now: Sweep, out: Path) -> tuple[list[str], list[str], list[int]]:
    """Settings, arms and seeds that have a folder and are no longer asked for."""
    return (
        [name for name in before.settings if name not in now.settings and (out / name).is_dir()],
        [name for name in before.arms if name not in now.arms and any(out.glob(f"*/{glob.escape(name)}"))],
        [seed for seed in before.seeds if seed not in now.seeds and any(out.glob(f"*/*/seed_{seed}"))],
    )


def _differences(before: Sweep, now: Sweep) -> Iterator[str]:
    """What both have, if it is not the same: "arms.rft.treatment.sample.n was 8 and is 16". Which settings an arm is
    for, what it is compared with, and what is only about speed may change."""
    for field in ("name", "keep"):
        if getattr(before, field) != getattr(now, field):
            yield f"{field} was {getattr(before, field)!r} and is {getattr(now, field)!r}"
    for kind in ("settings", "arms"):
        old, new = getattr(before, kind), getattr(now, kind)
        for name in (name for name in old if name in new):
            was, has = (_leaves(msgspec.to_builtins(each[name])) for each in (old, new))
            for key in sorted({*was, *has}):
                if key[0] not in ("only", "placebo") and key[-2:] not in SPEED_ONLY and was.get(key) != has.get(key):
                    values = " and is ".join(repr(each[key]) if key in each else "not given" for each in (was, has))
                    yield f"{kind}.{name}.{'.'.join(key)} was {values}"


def _leaves(value: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict) or not value:
        return {above: value}
    return {key: leaf for name, each in value.items() for key, leaf in _leaves(each, (*above, str(name))).items()}
