"""Training in a process of its own: `train` starts it and waits, `main` is what that process does.

The process ends with its memory, a crash of it leaves everything else standing, and it is not told about test
problems: tasks refuse their test split where HARNESS_TRAINING is set. Status 75 says that it was told to stop and has
saved its state. Not handled: other machines.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from harness import processes
from harness.errors import HarnessError, InputError, Interrupted
from harness.evaluate import TRAINING, choose, evaluate, load_tasks
from harness.progress import Progress
from harness.rewards import needs_all_tests
from harness.sandbox import open_sandbox
from harness.trials import TaskUse, Trial, derived_seed
from harness.types import Row, Task, Trained

INTERRUPTED = 75
"""Exit status of a process that saved its state and can go on (EX_TEMPFAIL of sysexits.h)."""
TRAINER_ARGS = ("dtype", "device", "apply_chat_template", "system_instruction")
"""Arguments of the sampler that are the trainer's, too."""


def problems_of(use: TaskUse) -> Task:
    """The task with the problems that are asked for."""
    task = load_tasks([use.task], {use.task: use.args})[0]
    if use.limit is None:
        return task
    wanted = choose([task], use.limit, [], among={problem.id for problem in task.problems})
    return replace(task, problems=tuple(problem for problem in task.problems if problem.id in wanted))


def train(
    trial: Trial,
    rows: Sequence[Row],
    out: Path,
    *,
    init: str,
    iteration: int,
    workers: int | None = None,
    tier: str = "auto",
) -> Trained:
    """The account of one training phase, which is done first if it isn't yet."""
    if (out / "trained.json").is_file():
        return msgspec.json.decode((out / "trained.json").read_bytes(), type=Trained)
    out.mkdir(parents=True, exist_ok=True)
    job = {
        "trial": msgspec.to_builtins(trial),
        "rows": [msgspec.to_builtins(row) for row in rows],
        "init": init,
        "iteration": iteration,
        "workers": workers,
        "tier": tier,
    }
    (out / "job.json").write_text(json.dumps(job))
    with (out / "log.txt").open("ab") as log:
        status = processes.run("harness.training:main", str(out), output=log, environment={TRAINING: "1"})
    if status == INTERRUPTED:
        raise Interrupted(f"training in {out} was stopped and has saved its state: the same command goes on.")
    if status:
        last = (out / "log.txt").read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise HarnessError(f"training in {out} failed with status {status} ({last[0]}): {out / 'log.txt'} has it all.")
    return msgspec.json.decode((out / "trained.json").read_bytes(), type=Trained)


def main(folder: str) -> None:
    """The training process."""
    out = Path(folder)
    job = json.loads((out / "job.json").read_bytes())
    trial = msgspec.convert(job["trial"], type=Trial)
    common: dict[str, Any] = {
        "init": weights(job["init"]),
        "out": out,
        "seed": derived_seed(trial.seed, "train", job["iteration"]),
        "progress": Progress(note=lambda sentence: print(sentence, flush=True)),  # into log.txt
        **trainer_args(trial),
    }
    recipe = trial.treatment
    if recipe.on_policy is not None:
        _on_policy(trial, job, common)
        return
    rows = [msgspec.convert(row, type=Row) for row in job["rows"]]
    name = "dpo" if recipe.improve.loss == "dpo" else "sft"
    importlib.import_module(f"harness.trainers.{name}").train(
        rows, improve=recipe.improve, validate=_validation(trial, job, out), **common
    )


def trainer_args(trial: Trial) -> dict[str, Any]:
    """Those of the sampler's arguments that say how a model is to be used."""
    return {key: value for key, value in trial.model_args.items() if key in TRAINER_ARGS}


def _on_policy(trial: Trial, job: dict[str, Any], common: dict[str, Any]) -> None:
    task = problems_of(trial.train)
    needed = any(problem.tests for problem in task.problems)
    all_tests = needs_all_tests(trial.treatment.reward)
    sandbox = open_sandbox(workers=job["workers"], tier=job["tier"], all_tests=all_tests) if needed else None
    try:
        importlib.import_module("harness.trainers.grpo").train(
            task,
            on_policy=trial.treatment.on_policy,
            sample=trial.treatment.sample,
            reward=trial.treatment.reward,
            sandbox=sandbox,
            reference=weights(trial.base),
            **common,
        )
    finally:
        if sandbox is not None:
            sandbox.close()


def _validation(trial: Trial, job: dict[str, Any], out: Path) -> Any:
    """pass@1 on the validation problems of a checkpoint, or None where the recipe doesn't ask."""
    if trial.treatment.improve.until != "validation":
        return None
    use = trial.validation
    if use is None:
        raise InputError(f"{trial.treatment.name} stops by validation: give the trial validation problems.")

    def validate(checkpoint: Path) -> float:
        results = evaluate(
            use.task,
            trial.model,
            model_args={**trial.model_args, "pretrained": str(checkpoint)},
            task_args=use.args,
            budget=trial.evaluation.budget,
            limit=use.limit,
            workers=job["workers"],
            tier=job["tier"],
            output_path=out / "validation" / checkpoint.name,
        )
        (metrics,) = results.estimates.values()
        value = metrics["pass@1"].value
        if value is None:
            raise HarnessError(f"validation gave no pass@1 ({metrics['pass@1'].note}).")
        return value

    return validate


def weights(pretrained: str) -> Path:
    """The folder of a model that is named as the sampler's `pretrained`."""
    from harness.samplers.hf_model import resolve

    return resolve(pretrained, None)
