"""What cannot be in a sweep, found before any work: names, budgets, problems that leak from test to training.

Main functions: `faults`, each with the key where it is, and `check_problems`, which loads the tasks. Not handled: what
recipes and controls refuse by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from harness import registry
from harness.bases import Pretraining
from harness.config import Where, typed
from harness.errors import HarnessError, InputError, UnknownName
from harness.training import problems_of
from harness.trials import Evaluation, TaskUse
from harness.types import HELD_OUT, Task

if TYPE_CHECKING:  # which reads them from a file, and calls these
    from harness.sweeps import Arm, Sweep

Key: TypeAlias = tuple[str, ...]
Fault: TypeAlias = tuple[Key, str]
"""Where a mistake is, and what it is."""
RESERVED = {"settings": ("figures",), "arms": ("base",)}
"""Folders of a sweep that hold something else."""

T = TypeVar("T")


def place(key: Key, where: Where) -> str:
    """Where a key stands, or the nearest one around it."""
    while key and not where(key):
        key = key[:-1]
    return where(key)


def located(key: Key, where: Where, do: Callable[[], T]) -> T:
    """What `do` gives; an error of it is told with the line."""
    try:
        return do()
    except HarnessError as error:
        raise InputError(f"{place(key, where)}: {error}") from error


def faults(sweep: Sweep) -> Iterator[Fault]:
    """What contradicts itself, names what is not there, or cannot be estimated."""
    if "/" in sweep.name or sweep.name.startswith("."):
        yield ("name",), f"{sweep.name!r} cannot be the name of a folder: choose another"
    for kind, names in (("settings", sweep.settings), ("arms", sweep.arms)):
        if not names:
            yield (kind,), f"there are no {kind}: name at least one"
        for name in names:
            if "/" in name or name.startswith(".") or name in RESERVED[kind] or not name.strip():
                yield (kind, name), f"{name!r} cannot be the name of a folder here: choose another"
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
        yield ("seeds",), "give at least one seed, and each of them once"
    for name, setting in sweep.settings.items():
        for key, fault in _faults_of_evaluation(setting.evaluation):
            yield ("settings", name, "evaluation", *key), fault
    for name, arm in sweep.arms.items():
        yield from _faults_of_arm(sweep, name, arm)


def _faults_of_evaluation(plan: Evaluation) -> Iterator[Fault]:
    n, k = plan.budget.n or 1, max(plan.k, default=0)
    if not plan.on:
        yield ("on",), "nothing but training problems would be evaluated: add evaluation.on.test"
    for name in plan.on:
        if name == "train" or "/" in name:
            why = "training problems are evaluated anyway" if name == "train" else "it is to name a folder"
            yield ("on", name), f"an evaluation cannot be called {name!r} ({why}): choose another name"
    if min(plan.k, default=0) < 1:
        yield ("k",), "each k is a whole number from 1"
    if k > n:
        yield ("k",), f"pass@{k} needs at least {k} completions of each problem and budget.n is {n}: lower k or raise n"
    if n > 1 and plan.budget.temperature == 0:
        yield ("budget",), f"n is {n} with temperature 0, which draws the same text every time: set budget.temperature"
    if (plan.budget.n is not None and plan.budget.n < 1) or plan.budget.max_tokens < 1 or plan.budget.temperature < 0:
        yield ("budget",), "n and max_tokens are at least 1 and the temperature is not negative"


def _faults_of_arm(sweep: Sweep, name: str, arm: Arm) -> Iterator[Fault]:
    for setting in arm.only or ():
        if setting not in sweep.settings:
            yield ("arms", name, "only"), str(UnknownName("setting", setting, sweep.settings)).rstrip(".")
    if arm.placebo is not None and (arm.placebo not in sweep.arms or arm.placebo == name):
        others = [each for each in sweep.arms if each != name]
        yield ("arms", name, "placebo"), str(UnknownName("other arm", arm.placebo, others)).rstrip(".")
    validated = arm.treatment.improve.until == "validation" and arm.treatment.uses_rows
    for setting in sweep.settings if validated and arm.treatment.external is None else ():
        if name in sweep.arms_of(setting) and sweep.settings[setting].validation is None:
            yield (
                ("arms", name),
                f"{arm.treatment.name} stops by validation, and the setting {setting} has no validation problems: add "
                f"settings.{setting}.validation, or set improve.until to epochs",
            )


def check_problems(sweep: Sweep, where: Where) -> None:
    """Every task is there, takes its arguments, and no problem is both trained or selected on and evaluated."""
    loaded: dict[bytes, Task] = {}

    def problems(key: Key, use: TaskUse) -> Task:
        known = msgspec.json.encode(use, order="sorted")
        if known not in loaded:
            loaded[known] = located(key, where, lambda: problems_of(use))
        return loaded[known]

    for name, setting in sweep.settings.items():
        above = ("settings", name)
        for at, spec in (
            (("base",), setting.base),
            *((("teachers", each), spec) for each, spec in setting.teachers.items()),
        ):
            if not isinstance(spec, str):
                typed(spec, Pretraining, lambda key, at=(*above, *at): where((*at, *key)))  # type: ignore[misc]
        located((*above, "model"), where, functools.partial(registry.find, "sampler", setting.model))
        used = {(*above, "train"): setting.train}
        if setting.validation is not None:
            used[*above, "validation"] = setting.validation
        for arm in sweep.arms_of(name):
            if sweep.arms[arm].train:
                key = ("arms", arm, "train")
                used[key] = located(key, where, functools.partial(sweep.train_of, name, arm))
        evaluated = {on: problems((*above, "evaluation", "on", on), use) for on, use in setting.evaluation.on.items()}
        for key, use in used.items():
            _refuse_leaks(place(key, where), problems(key, use), evaluated)


def _refuse_leaks(at: str, task: Task, evaluated: Mapping[str, Task]) -> None:
    """`task` is trained or selected on."""
    for problem in task.problems:
        if problem.split in HELD_OUT:
            raise InputError(
                f"{at}: problems of {task.name} are of its {problem.split} split, which is for the report alone: take "
                "another one (split: train among its args)."
            )
    known = {problem.id for problem in task.problems}
    for name, other in evaluated.items():
        shared = sorted(known.intersection(problem.id for problem in other.problems))
        if shared:
            raise InputError(
                f"{at}: {len(shared)} of these problems are in the evaluation {name!r}, too ({shared[0]} is one): "
                "take another split."
            )
