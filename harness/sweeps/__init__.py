"""What a sweep is: settings (a base model and its problems) x arms (treatments and placebos) x seeds.

`sweep` reads one from a YAML file:

    name: demo
    settings:
      code:
        base: {pretrain: list_programs}                     # a folder, a name on the Hub, or one made from scratch
        train: {task: list_programs, args: {split: train}}
        evaluation: {on: {test: {task: list_programs, args: {split: test}}}, budget: {n: 16, temperature: 1.0}, k: [1]}
    arms:
      rest_em: {treatment: {recipe: rest_em, iterations: 3}}
      random reward: {of: rest_em, control: random_reward}
      small: {of: rest_em, train: {args: {problems: 60}}}   # `of`: what is not said is as in that arm
    seeds: [0, 1]

With `like: FILE`, or a study's name, a sweep starts from another one and says what differs; of the settings, and of the
arms, those that it names are in it, or all if it names none. Every mistake that can be found before any work is told in
a sentence, with its line. Not handled: running it (`sweep`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from harness import recipes
from harness.config import Where, read_yaml, typed
from harness.controls import control
from harness.errors import InputError, UnknownName
from harness.recipes import Treatment, recipe
from harness.retention import Keep
from harness.sweeps.checks import check_problems, faults, located, place
from harness.trials import Evaluation, TaskUse, Trial
from harness.types import Record


class Setting(Record, frozen=True):
    """A base model, what it is trained on, and how every checkpoint is evaluated; as in a trial."""

    base: str | dict[str, Any]
    """A folder, a model's name on the Hub, or a mapping for `harness.bases`."""
    train: TaskUse
    evaluation: Evaluation
    validation: TaskUse | None = None
    model: str = "hf"
    model_args: dict[str, Any] = msgspec.field(default_factory=dict)
    teachers: dict[str, str | dict[str, Any]] = msgspec.field(default_factory=dict)
    """Other models, each like `base`, by the name that a treatment has as its `source`."""


class Arm(Record, frozen=True):
    """A treatment, or a placebo of one."""

    treatment: Treatment
    """After the control, if there is one, has changed its field."""
    of: str | None = None
    """The arm from which it took what it did not say itself."""
    control: str | None = None
    placebo: str | None = None
    """The arm that it is compared with; None: see `placebos`."""
    only: tuple[str, ...] | None = None
    """The settings that it is for; None: all."""
    train: dict[str, Any] = msgspec.field(default_factory=dict)
    """What differs from the setting's `train`: {args: {problems: 60}}."""


class Sweep(Record, frozen=True):
    """Settings x arms x seeds."""

    name: str
    settings: dict[str, Setting]
    arms: dict[str, Arm]
    seeds: tuple[Annotated[int, Meta(ge=0)], ...] = (0,)
    parallel: Annotated[int, Meta(ge=1)] | None = None
    """Trials side by side; None: as many as there are GPUs, or else cores."""
    keep: Keep = "all"
    """Which checkpoints' weights stay, of each trial (`harness.retention`)."""

    def arms_of(self, setting: str) -> list[str]:
        """The arms of a setting."""
        return [name for name, arm in self.arms.items() if arm.only is None or setting in arm.only]

    def train_of(self, setting: str, arm: str) -> TaskUse:
        """The training problems of an arm in a setting."""
        use, changes = self.settings[setting].train, self.arms[arm].train
        args = {**use.args, **changes.get("args", {})}
        return typed({**msgspec.to_builtins(use), **changes, "args": args}, TaskUse, lambda key: "the arm's train")

    def placebos(self, setting: str, arm: str) -> list[str]:
        """What an arm is compared with beside the base: the arm that it names, else the controls made of it, else all
        controls of the setting. A control that names none has none."""
        here, named = self.arms_of(setting), self.arms[arm].placebo
        if named is not None:
            return [name for name in here if name == named]
        if self.arms[arm].control is not None:
            return []
        controls = [name for name in here if self.arms[name].control is not None]
        return [name for name in controls if self.arms[name].of == arm] or controls


class _ArmOfFile(Record, frozen=True):
    """An arm as the file says it."""

    treatment: str | dict[str, Any] | None = None
    of: str | None = None
    control: str | None = None
    placebo: str | None = None
    only: tuple[str, ...] | None = None
    train: dict[str, Any] | None = None


class _File(Record, frozen=True):
    settings: dict[str, Any]
    arms: dict[str, Any]
    name: str | None = None
    seeds: tuple[Annotated[int, Meta(ge=0)], ...] = (0,)
    parallel: Annotated[int, Meta(ge=1)] | None = None
    keep: Keep = "all"


def names() -> dict[str, str]:
    """The studies that can be run by name, each with the first line of its file."""
    return {name: path.read_text().partition("\n")[0].strip("# ") for name, path in sorted(_studies().items())}


def sweep(source: str | Path) -> Sweep:
    """The sweep that a YAML file describes, or the study of that name (`harness ls study`).

    Raises:
        InputError: anything in the file that cannot be, with its line; UnknownName names the nearest.
    """
    path = _find(str(source))
    data, where = _read(path)
    file = typed(data, _File, where)
    settings = {
        name: typed(_mapping(path, raw, name), Setting, _below(where, "settings", name))
        for name, raw in file.settings.items()
    }
    said = {
        name: typed(_mapping(path, raw, name), _ArmOfFile, _below(where, "arms", name))
        for name, raw in file.arms.items()
    }
    made = Sweep(
        name=file.name or path.stem,
        settings=settings,
        arms={name: _arm(name, said, where) for name in said},
        seeds=file.seeds,
        parallel=file.parallel,
        keep=file.keep,
    )
    for key, fault in faults(made):
        raise InputError(f"{place(key, where)}: {fault}.")
    check_problems(made, where)
    return made


def trial_of(
    sweep: Sweep, setting: str, arm: str, *, seed: int, base: str, teachers: Mapping[str, str] = MappingProxyType({})
) -> Trial:
    """One cell of a sweep as a trial; `base` and `teachers` are where the setting's models have turned out to be."""
    which, train = sweep.arms[arm], sweep.train_of(setting, arm)
    treatment = msgspec.structs.replace(
        which.treatment, source=teachers.get(which.treatment.source, which.treatment.source)
    )
    more = {"control": which.control, "seed": seed, "keep": sweep.keep}
    return _trial(sweep.settings[setting], treatment, train, base, **more)


def base_trial(sweep: Sweep, setting: str, *, base: str) -> Trial:
    """What an evaluation of the setting's base model has to know."""
    return _trial(sweep.settings[setting], Treatment(name="base"), sweep.settings[setting].train, base)


def _trial(setting: Setting, treatment: Treatment, train: TaskUse, base: str, **more: Any) -> Trial:
    return Trial(
        treatment=treatment,
        base=base,
        train=train,
        evaluation=setting.evaluation,
        validation=setting.validation,
        model=setting.model,
        model_args=setting.model_args,
        **more,
    )


# --- from the file


def _studies() -> dict[str, Path]:
    import harness

    folders = [Path(root) / "trainers" / "recipes" / "studies" for root in harness.__path__]
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if name not in _studies():
        raise UnknownName("study", name, _studies())
    return _studies()[name]


def _read(path: Path, seen: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Where]:
    """The keys of a file, with what it takes from the one that it is like, and where each of them stands."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: give a YAML file with settings, arms and seeds.")
    if path.resolve() in seen:
        raise InputError(f"{path} is like itself: give its key like another file.")
    data, where = read_yaml(path)
    like = data.pop("like", None)
    if like is None:
        return data, where
    origin = _find(str(like))
    before, where_before = _read(origin if str(like) in _studies() else path.parent / origin, (*seen, path.resolve()))
    made = recipes.merged(before, {"name": path.stem, **data})
    for kind in ("settings", "arms"):
        if isinstance(data.get(kind), dict):
            made[kind] = {name: made[kind][name] for name in data[kind]}
    return made, lambda key: where(key) or where_before(key)


def _mapping(path: Path, raw: Any, name: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise InputError(f"{path}: {name} holds no keys: write `key: value` lines below it.")
    return raw


def _below(where: Where, *above: str) -> Where:
    return lambda key: where((*above, *key))


def _arm(name: str, said: Mapping[str, _ArmOfFile], where: Where, after: tuple[str, ...] = ()) -> Arm:
    """An arm with all that it takes from the arm that it is `of`."""
    arm, key = said[name], ("arms", name)
    if arm.of is None:
        if arm.treatment is None:
            raise InputError(f"{place(key, where)}: the arm {name} has no treatment: give it one, or `of` another arm.")
        before = Arm(treatment=located((*key, "treatment"), where, lambda: recipe(arm.treatment or "")))
    else:
        before = _arm(_known_origin(name, arm.of, said, where, after), said, where, (*after, name))
    treatment = before.treatment
    if arm.of is not None and arm.treatment is not None:
        changes = {"recipe": arm.treatment} if isinstance(arm.treatment, str) else arm.treatment
        origin = {"recipe": msgspec.to_builtins(treatment)}
        treatment = located((*key, "treatment"), where, lambda: recipe({**origin, **changes}))
    if arm.control is not None:
        word = arm.control
        treatment = located((*key, "control"), where, lambda: control(word, treatment))
    return Arm(
        treatment=treatment,
        of=arm.of,
        control=arm.control,
        placebo=arm.placebo,
        only=before.only if arm.only is None else arm.only,
        train=before.train if arm.train is None else arm.train,
    )


def _known_origin(name: str, of: str, said: Mapping[str, _ArmOfFile], where: Where, after: tuple[str, ...]) -> str:
    at = place(("arms", name, "of"), where)
    if of not in said:
        raise UnknownName(f"arm in {at} called", of, said)
    if of == name or of in after:
        circle = " of ".join((*after[after.index(of) if of in after else 0 :], name, of))
        raise InputError(f"{at}: {circle} is a circle: give one of these arms a treatment.")
    return of
