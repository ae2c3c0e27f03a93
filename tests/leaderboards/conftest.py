"""Sweep folders as `harness sweep` leaves them, made of replayed completions: real run folders, no training; and
verifier reports with or without figures."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import harness
from harness.controls import control
from harness.leaderboards import verifier
from harness.leaderboards.verifier.report import VerifierReport
from harness.recipes import Treatment, recipe
from harness.sweeps import Arm, Setting, Sweep, trial_of
from harness.trials import Evaluated, Evaluation, TaskUse
from harness.types import Budget, Trained

SPLITS = ("train", "test", "transfer")
BASE = Evaluated(
    iteration=0,
    checkpoint="a-base",
    trained=None,
    rows=None,
    sampled_tokens=None,
    distinct={"test": 2.0, "train": 2.1},
    drift={"kl_to_base": 0.0, "entropy": 0.9, "tokens": 20.0},
)


@dataclass
class Made:
    """One arm to make."""

    shifts: Sequence[tuple[float, float, float]]
    """How much better it is than the base, in logits, on train, test and transfer, by iteration."""
    treatment: Treatment | None = None
    of: str | None = None
    control: str | None = None
    tokens: int = 20_000
    rewards: Sequence[float] = ()
    """On train: of the base, then by iteration."""
    distinct: float = 2.0
    entropy: float = 0.8
    failed: dict[int, str] = field(default_factory=dict)
    """Seeds that failed after the first iteration, and why."""
    finished: int | None = None
    """Iterations that the others have finished; None: all."""


@dataclass
class World:
    """What all checkpoints of a setting have in common."""

    out: Path
    n: int
    ks: Sequence[int]
    ease: dict[str, Any]
    """Of each problem, in logits, by split."""
    rng: np.random.Generator


@pytest.fixture(params=["numbers", pytest.param("figures", marks=pytest.mark.slow)])
def verifier_report(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., tuple[str, VerifierReport]]:
    """Makes the page and the numbers of a run's verifier report: slowly as `write` leaves them, quickly without the
    figures, which take most of its time."""

    def made(
        run: Path, *, ks: Sequence[int] | None = None, baseline: str = verifier.DEFAULT
    ) -> tuple[str, VerifierReport]:
        if request.param == "figures":
            page, numbers, *_ = verifier.write(run, tmp_path / "report" / "page.md", ks=ks, baseline=baseline)
            return page.read_text(), verifier.read_report(numbers)
        found = verifier.measure(run, ks=ks, baseline=baseline)
        read = msgspec.json.decode(msgspec.json.encode(found), type=VerifierReport)
        return verifier.tables.markdown(found, {}, run), read

    return made


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """Makes a sweep folder."""
    return build_sweep


def build_sweep(
    out: Path,
    arms: dict[str, dict[str, Any]],
    *,
    settings: Sequence[str] = ("maths",),
    seeds: Sequence[int] = (0, 1),
    problems: int = 24,
    n: int = 8,
    ks: Sequence[int] = (1, 4),
    luck: int = 0,
) -> Path:
    """Arms by their fields of `Made`. Completions are right with a chance of their own per problem, drawn anew for each
    checkpoint and `luck`."""
    out.mkdir(parents=True)
    all_made = {name: Made(**fields) for name, fields in arms.items()}
    sweep = plan(out, all_made, settings=settings, seeds=seeds, n=n, ks=ks)
    (out / "sweep.json").write_bytes(msgspec.json.encode(sweep))
    for split in SPLITS:
        rows = [{"id": f"{split}/{i}", "prompt": "?", "answer": "7", "split": split} for i in range(problems)]
        (out / f"{split}.problems").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draws = [np.random.default_rng([7, place]).normal(-0.3, 1.5, problems) for place in range(3)]
    ease = {split: draw - 0.7 * (split == "transfer") for split, draw in zip(SPLITS, draws, strict=True)}
    for number, setting in enumerate(settings):
        world = World(out, n, ks, ease, np.random.default_rng([luck, number]))
        step(out / setting / "base", world, (0, 0, 0), BASE)
        for name, made in all_made.items():
            for seed in seeds:
                folder = out / setting / name / f"seed_{seed}"
                folder.mkdir(parents=True)
                trial = trial_of(sweep, setting, name, seed=seed, base="a-base")
                (folder / "trial.json").write_bytes(msgspec.json.encode(trial))
                attempt(folder, world, made, seed)
    return out


def plan(
    out: Path, arms: dict[str, Made], *, settings: Sequence[str], seeds: Sequence[int], n: int, ks: Sequence[int]
) -> Sweep:
    """What sweep.json says."""
    uses = {split: TaskUse(task="jsonl", args={"path": str(out / f"{split}.problems")}) for split in SPLITS}
    on = {split: uses[split] for split in SPLITS[1:]}
    setting = Setting(base="a-base", train=uses["train"], evaluation=Evaluation(on=on, budget=Budget(n=n), k=tuple(ks)))
    return Sweep(
        name="small",
        settings=dict.fromkeys(settings, setting),
        arms={name: Arm(treatment=treatment(name, arms), of=m.of, control=m.control) for name, m in arms.items()},
        seeds=tuple(seeds),
    )


def treatment(name: str, arms: dict[str, Made]) -> Treatment:
    """The arm's own, or that of the arm it is of under the control, with as many iterations as it has."""
    made = arms[name]
    origin = made.treatment or (treatment(made.of, arms) if made.of else recipe("rest_em"))
    changed = control(made.control, origin) if made.control and not made.treatment else origin
    return msgspec.structs.replace(changed, iterations=len(made.shifts))


def attempt(folder: Path, world: World, made: Made, seed: int) -> None:
    """A trial, as far as it got; seeds differ a little in how well they did."""
    done = 1 if seed in made.failed else len(made.shifts) if made.finished is None else made.finished
    accounts = [with_rewards(BASE, made)]
    for iteration, shift in enumerate(made.shifts[:done], 1):
        account = Evaluated(
            iteration=iteration,
            checkpoint=f"iteration_{iteration}/train/checkpoint",
            trained=Trained(checkpoint="checkpoint", steps=10, trained_tokens=made.tokens // 2),
            rows=200,
            sampled_tokens=made.tokens,
            reward_calls=640,
            distinct={"test": made.distinct, "train": made.distinct},
            drift={"kl_to_base": 0.4 * iteration, "entropy": made.entropy, "tokens": 19.0},
            seconds={"sample": 3.0, "train": 5.0, "evaluate": 2.0},
        )
        luck = 0.15 * (-1) ** seed
        step(folder / f"iteration_{iteration}", world, [each + luck for each in shift], account)
        accounts.append(with_rewards(account, made))
    if seed in made.failed:
        (folder / "failed.json").write_text(json.dumps({"error": made.failed[seed]}))
    elif done == len(made.shifts):
        (folder / "trial_results.json").write_bytes(msgspec.json.encode(accounts))


def with_rewards(account: Evaluated, made: Made) -> Evaluated:
    """trial_results.json has them, evaluated.json hasn't."""
    reward = made.rewards[account.iteration] if made.rewards else None
    return msgspec.structs.replace(account, rewards={} if reward is None else {"train": {"reward": reward}})


def step(folder: Path, world: World, shift: Sequence[float], account: Evaluated) -> None:
    """A checkpoint's run folders and its account."""
    folder.mkdir(parents=True)
    for split, better in zip(SPLITS, shift, strict=True):
        chance = 1 / (1 + np.exp(-(world.ease[split] + better)))
        right = world.rng.random((len(chance), world.n)) < chance[:, None]
        lines = [
            {"problem_id": f"{split}/{i}", "text": "7" if passed else f"-{place % 3}"}
            for i, row in enumerate(right)
            for place, passed in enumerate(row, 1)
        ]
        (folder / f"{split}.completions").write_text("".join(json.dumps(line) + "\n" for line in lines))
        harness.evaluate(
            "jsonl",
            "replay",
            model_args={"path": str(folder / f"{split}.completions")},
            task_args={"path": str(world.out / f"{split}.problems")},
            k=list(world.ks),
            output_path=folder / f"evaluation_{split}",
        )
    (folder / "evaluated.json").write_bytes(msgspec.json.encode(account))
