"""What a trial is: one treatment of one base model with one seed, on which problems, evaluated how.

`trial` reads one from a YAML file:

    treatment: {recipe: rest_em, iterations: 2}   # or the name alone
    control: random_reward                        # or nothing
    base: ./base-model
    train: {task: gsm8k, args: {split: train}, limit: 1000}
    evaluation: {on: {test: {task: gsm8k}}, budget: {n: 16, temperature: 1.0}, k: [1, 8]}

Not handled: many trials together (a sweep).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from harness.config import read_yaml, typed
from harness.controls import control
from harness.errors import InputError
from harness.recipes import Treatment, recipe
from harness.retention import Keep
from harness.types import Budget, Record, Trained


class TaskUse(Record, frozen=True):
    """A task with its arguments, or the first `limit` problems of it in a fixed pseudo-random order."""

    task: str
    args: dict[str, Any] = msgspec.field(default_factory=dict)
    limit: float | None = None


class Evaluation(Record, frozen=True):
    """How every checkpoint is evaluated."""

    on: dict[str, TaskUse] = msgspec.field(default_factory=dict)
    """By name: "test", "transfer", ...; "train" is added."""
    budget: Budget = Budget(n=8, temperature=1.0, max_tokens=512)
    k: tuple[int, ...] = (1,)
    train_limit: int = 200
    """Training problems that are evaluated for the gap to test."""
    drift: int = 256
    """Completions on which the divergence from the base model is measured; 0: it isn't."""


class Trial(Record, frozen=True):
    """One treatment of one base model with one seed."""

    treatment: Treatment
    """After the control, if there is one, has changed its field."""
    base: str
    """Folder of the model, or its name on the Hub."""
    train: TaskUse
    evaluation: Evaluation
    validation: TaskUse | None = None
    control: str | None = None
    """Which placebo the treatment is (`harness ls control`)."""
    seed: int = 0
    model: str = "hf"
    """The sampler of every phase but those inside a trainer."""
    model_args: dict[str, Any] = msgspec.field(default_factory=dict)
    """Its arguments but `pretrained`: dtype, apply_chat_template, ..."""
    keep: Keep = "all"
    """Whose weights stay (`harness.retention`): those of all iterations, the last, or the best on validation."""
    disk_gb: float | None = None
    """Most that the trial's folder may hold; None: what the disk has."""


class Evaluated(Record, frozen=True, omit_defaults=False):
    """One checkpoint of a trial: where it is, how it was made, what it scores."""

    iteration: int
    checkpoint: str
    trained: Trained | None
    rows: int | None
    sampled_tokens: int | None
    """Sampled in order to train; evaluation is not in it."""
    estimates: dict[str, dict[str, dict[str, Any]]] = msgspec.field(default_factory=dict)
    """By evaluation's name, task and metric, as in results.json."""
    reward_calls: int = 0
    """Completions that were rewarded in order to train."""
    rewards: dict[str, dict[str, float | None]] = msgspec.field(default_factory=dict)
    """Mean over completions of the treatment's reward ("reward") and of each of its terms, by evaluation's name."""
    distinct: dict[str, float | None] = msgspec.field(default_factory=dict)
    """Distinct correct solutions that a problem has, by evaluation's name (`harness.distinct`)."""
    drift: dict[str, float | None] = msgspec.field(default_factory=dict)
    """How far the policy went (`trainers/drift.py`): "kl_to_base" in nats per completion, "kl_per_token" and "entropy"
    in nats per token, "tokens" per completion."""
    seconds: dict[str, float] = msgspec.field(default_factory=dict)
    """Wall clock by phase: sample, train, evaluate."""


def derived_seed(seed: int, *names: object) -> int:
    """A seed for one phase, so that no two phases share their random draws."""
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def trial(path: Path, *, seed: int | None = None) -> Trial:
    """The trial that a YAML file describes; `seed` in place of the file's.

    Raises:
        InputError: anything in the file that cannot be, with its line; UnknownName names the nearest key.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}: give a YAML file that says what to train and how to evaluate it.")
    data, where = read_yaml(path)
    if "treatment" not in data:
        raise InputError(f"{path} has no treatment: name a recipe (`harness ls recipe`).")
    treatment = recipe(data["treatment"])
    if data.get("control") is not None:
        treatment = control(str(data["control"]), treatment)
    data["treatment"] = msgspec.to_builtins(treatment)
    if seed is not None:
        data["seed"] = seed
    made = typed(data, Trial, where)
    if not made.evaluation.on:
        raise InputError(f"{path} evaluates on no problems but those of training: add evaluation.on.test.")
    if treatment.improve.until == "validation" and treatment.uses_rows and made.validation is None:
        raise InputError(f"{path}: {treatment.name} stops by validation, so it needs validation problems.")
    if made.keep == "best" and made.validation is None:
        raise InputError(f"{path} keeps the best checkpoint (keep: best), so it needs validation problems.")
    return made
