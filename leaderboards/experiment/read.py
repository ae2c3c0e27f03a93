"""A sweep folder as its report sees it: settings, arms, seeds, finished iterations. Main function: `read_sweep`.

Only what `harness sweep` has left on disk is read, finished or not: sweep.json, each trial's own records, and the run
folders of its evaluations. Checkpoints of one setting are comparable only if nothing but the completions differs: other
problems, prompts or budgets than the base's are refused (`refuse_other_problems`), another grader, sandbox or limit is
said (`differing_graders`). Not handled: what the numbers mean (`measure.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import InputError
from harness.store import read_manifest, read_results
from harness.sweeps import Sweep
from harness.trials import Evaluated, Trial
from harness.types import Manifest

TRAIN = "train"
"""The evaluation of training problems, which every setting has."""

Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Step:
    """One evaluated checkpoint."""

    account: Evaluated
    folder: Path
    """Holds a run folder evaluation_<name> for each name of `Setting.names`."""


@dataclass(frozen=True)
class Attempt:
    """One arm with one seed."""

    seed: int
    trial: Trial | None
    """None: not begun."""
    base: Step | None
    """Iteration 0. Its account may hold the base's reward as this arm rewards."""
    steps: tuple[Step, ...]
    """Iterations 1, 2, ... as far as they are evaluated."""
    error: str | None
    """Why it failed, in a sentence."""


@dataclass(frozen=True)
class Arm:
    """One treatment or control in one setting."""

    name: str
    control: str | None
    """The word of `harness.controls` that made it one."""
    of: str | None
    """The arm whose treatment it starts from."""
    against: tuple[str, ...]
    """The arms that it is compared with beside the base; none for a control."""
    attempts: tuple[Attempt, ...]

    @property
    def iterations(self) -> int | None:
        """How many it is to have; None: no seed has begun."""
        plans = [attempt.trial.treatment.iterations for attempt in self.attempts if attempt.trial]
        return max(plans, default=None)


@dataclass(frozen=True)
class Setting:
    """One base model and its problems."""

    name: str
    base: Step | None
    base_error: str | None
    """Why the base could not be evaluated."""
    test: str
    """The evaluation that is reported on."""
    others: tuple[str, ...]
    """Transfer and whatever else checkpoints are evaluated on."""
    ks: tuple[int, ...]
    arms: tuple[Arm, ...]
    base_spec: str
    """The base model as the sweep names it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every evaluation's name."""
        return (TRAIN, self.test, *self.others)


@dataclass(frozen=True)
class SweepFolder:
    """Everything that is there."""

    name: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]


def is_sweep(path: Path) -> bool:
    """Whether a folder is one of `harness sweep`."""
    return (path / "sweep.json").is_file()


def read_sweep(path: Path) -> SweepFolder:
    """What a sweep folder holds.

    Raises:
        InputError: no sweep folder, a damaged record, or evaluations that cannot be compared.
    """
    if not is_sweep(path):
        raise InputError(f"{path} is not a sweep folder: it has no sweep.json.")
    plan = _decoded(path / "sweep.json", Sweep)
    settings = tuple(_setting(path / name, plan) for name in plan.settings)
    for setting in settings:
        refuse_other_problems(setting)
    return SweepFolder(plan.name, plan.seeds, settings)


def _setting(folder: Path, plan: Sweep) -> Setting:
    use = plan.settings[folder.name]
    on = [name for name in use.evaluation.on if name != TRAIN]
    if not on:
        raise InputError(f"{folder.parent / 'sweep.json'}: {folder.name} is evaluated on no problems but training's.")
    test = "test" if "test" in on else on[0]
    base = _step(folder / "base", (TRAIN, *on))
    return Setting(
        name=folder.name,
        base=base,
        base_error=_error(folder / "base"),
        test=test,
        others=tuple(name for name in on if name != test),
        ks=tuple(sorted(use.evaluation.k)),
        arms=tuple(
            Arm(
                name=arm,
                control=plan.arms[arm].control,
                of=plan.arms[arm].of,
                against=tuple(plan.placebos(folder.name, arm)),
                attempts=tuple(
                    _attempt(folder / arm / f"seed_{s}", s, base, (TRAIN, *on), source=_source(plan, folder.name, arm))
                    for s in plan.seeds
                ),
            )
            for arm in plan.arms_of(folder.name)
        ),
        base_spec=_spec(use.base),
    )


def _spec(base: Any) -> str:
    """`pretrain: list_programs`, or a folder or name."""
    return ", ".join(f"{key}: {value}" for key, value in base.items()) if isinstance(base, dict) else str(base)


def _source(plan: Sweep, setting: str, arm: str) -> str:
    """Where an arm's completions come from, as the sweep file says it: a trial has a teacher's folder instead."""
    name, teachers = plan.arms[arm].treatment.source, plan.settings[setting].teachers
    return f"{name} ({_spec(teachers[name])})" if name in teachers else name


def _attempt(folder: Path, seed: int, base: Step | None, names: Sequence[str], *, source: str) -> Attempt:
    trial = _decoded(folder / "trial.json", Trial) if (folder / "trial.json").is_file() else None
    if trial is not None:
        trial = msgspec.structs.replace(trial, treatment=msgspec.structs.replace(trial.treatment, source=source))
    own = folder / "iteration_0"
    of_base = _step(own, names) or base
    steps = []
    for iteration in range(1, trial.treatment.iterations + 1 if trial else 1):
        step = _step(folder / f"iteration_{iteration}", names)
        if step is None:
            break
        steps.append(step)
    if of_base and (folder / "trial_results.json").is_file():  # it has the rewards as well, which are the arm's own
        accounts = {each.iteration: each for each in _decoded(folder / "trial_results.json", list[Evaluated])}
        of_base, *steps = (Step(accounts.get(i, step.account), step.folder) for i, step in enumerate([of_base, *steps]))
    return Attempt(seed, trial, of_base, tuple(steps), _error(folder))


def _error(folder: Path) -> str | None:
    failed = folder / "failed.json"
    return str(_decoded(failed, dict[str, Any])["error"]) if failed.is_file() else None


def _step(folder: Path, names: Sequence[str]) -> Step | None:
    """A checkpoint whose evaluations are all finished."""
    account = folder / "evaluated.json"
    runs = [run_folder(folder, name) / "results.json" for name in names]
    if not account.is_file() or not all(run.is_file() for run in runs):
        return None
    return Step(_decoded(account, Evaluated), folder)


def run_folder(step: Path, name: str) -> Path:
    """The run folder of one evaluation."""
    return step / f"evaluation_{name}"


def _decoded(path: Path, kind: type[Decoded]) -> Decoded:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is damaged ({error}): remove it and run the sweep again.") from error


def manifest_of(step: Step, name: str) -> Manifest:
    """What produced an evaluation."""
    return read_manifest(run_folder(step.folder, name) / "manifest.json")


def size_of(step: Step, name: str) -> str:
    """`150 problems x 16 completions` that were graded."""
    _, summary = read_results(run_folder(step.folder, name))
    sizes = [each["n"] for rows in summary["problems"].values() for each in rows.values()]
    fewest, most = min(sizes), max(sizes)
    return f"{len(sizes)} problems x {fewest}{f'-{most}' if most > fewest else ''} completions"


def steps_of(setting: Setting) -> Iterator[tuple[str, Step]]:
    """Every checkpoint but the base's, with the name of its arm."""
    for arm in setting.arms:
        yield from ((arm.name, step) for attempt in arm.attempts for step in attempt.steps)


def refuse_other_problems(setting: Setting) -> None:
    """Differences are paired by problem, so every checkpoint must have had the base's problems, prompts and budget.

    Training problems may be an arm's own (fewer of them, say): they are paired where they are the same.
    """
    if setting.base is None:
        return
    for name in setting.names[1:]:
        expected = _asked(manifest_of(setting.base, name))
        for arm, step in steps_of(setting):
            asked = _asked(manifest_of(step, name))
            for what, value in asked.items():
                if value != expected[what]:
                    raise InputError(
                        f"{setting.name}, {arm}: {run_folder(step.folder, name)} has other {what} than the base's "
                        "evaluation: remove that run folder and run the sweep again."
                    )


def _asked(manifest: Manifest) -> dict[str, object]:
    return {
        "problems": sorted(task.problems_sha for task in manifest.tasks),
        "prompts": sorted(task.prompts_sha for task in manifest.tasks),
        "budgets": manifest.budget,
    }


def differing_graders(setting: Setting) -> list[str]:
    """Arms that were graded otherwise than the base, in words: on another machine, or by another version."""
    if setting.base is None:
        return []
    expected, found = manifest_of(setting.base, setting.test), dict[str, None]()
    for arm, step in steps_of(setting):
        made = manifest_of(step, setting.test)
        for what in ("grader", "sandbox", "limits"):
            if getattr(made, what) != getattr(expected, what):
                found[f"{arm} was graded with another {what.removesuffix('s')} than the base"] = None
    return list(found)
