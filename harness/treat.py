"""Flow 2: a treatment, sample -> reward -> select -> improve -> evaluate, as often as its recipe says.

`treat` is what `harness train` calls. Each phase leaves a folder that says by itself whether it is finished, so the
same call goes on wherever another one was stopped. Training runs in a process of its own (`harness.training`), which
gets rows and training problems and refuses test problems. Test problems are evaluated here, and nothing is chosen by
them. Not handled: several treatments side by side (a sweep).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.appraisal import appraise, encoded, graded, rewards
from harness.errors import InputError, RunMismatch
from harness.evaluate import evaluate
from harness.external import improve
from harness.progress import Progress, silent
from harness.recipes import SPEED_ONLY
from harness.retention import require_room, tidy, training_bytes
from harness.rewards import needs_all_tests, score
from harness.rows import accumulated, select
from harness.store import lock, read_run, turn, write_atomically
from harness.training import problems_of, train, weights
from harness.trials import Evaluated, TaskUse, Trial, derived_seed
from harness.types import HELD_OUT, Problem, Row, Task, Trained


def treat(
    trial: Trial,
    out: Path,
    *,
    shared: Path | None = None,
    workers: int | None = None,
    tier: str = "auto",
    progress: Progress = silent,
) -> list[Evaluated]:
    """The base model and the checkpoint of every iteration, evaluated; `out` holds all phases.

    Args:
        trial: the treatment, the base model, the problems, the seed.
        out: folder; one that the same trial began is gone on with.
        shared: folder for what concerns the base model alone, its evaluation and what was sampled from it: trials of
            one base model and one evaluation may share it, side by side.
        workers: programs graded side by side; None: one per core.
        tier: how programs are isolated.
        progress: told what happens while it happens.
    """
    with lock(out, proof="trial.json"):
        _agree(out / "trial.json", trial)
        task = problems_of(trial.train)
        _refuse_leaks(trial, task)
        grading: dict[str, Any] = {"workers": workers, "tier": tier, "progress": progress}
        of_base = shared or out / "iteration_0"
        base = evaluate_base(trial, of_base, **grading)
        evaluated = [msgspec.structs.replace(base, rewards=rewards(trial, of_base))]
        checkpoint, rows = trial.base, list[Row]()
        tidy(out, keep=trial.keep, iterations=trial.treatment.iterations)
        for iteration in range(1, trial.treatment.iterations + 1):
            folder = out / f"iteration_{iteration}"
            started = time.monotonic()
            sample = _sample(trial, checkpoint, folder, iteration=iteration, shared=shared, **grading)
            rows = _rows(trial, task, sample, folder, iteration=iteration, earlier=rows)
            seconds = {"sample": time.monotonic() - started}
            init = trial.base if trial.treatment.init == "base" else checkpoint
            _require_room(trial, out, init, iteration)
            trained = _improve(trial, rows, folder / "train", init=init, iteration=iteration, **grading)
            checkpoint = str(folder / "train" / trained.checkpoint)
            seconds["train"] = time.monotonic() - started - seconds["sample"]
            made = _account(trial, iteration, checkpoint, trained, rows=rows, sample=sample, seconds=seconds)
            evaluated.append(appraise(trial, made, folder, **grading))
            tidy(out, keep=trial.keep, iterations=trial.treatment.iterations)
    write_atomically(out / "trial_results.json", encoded(evaluated))
    return evaluated


def evaluate_base(trial: Trial, folder: Path, **grading: Any) -> Evaluated:
    """The base model's account; trials that share `folder` wait for the first one to make it."""
    made = Evaluated(iteration=0, checkpoint=trial.base, trained=None, rows=None, sampled_tokens=None)
    with turn(folder):
        return appraise(trial, made, folder, **grading)


def _agree(path: Path, trial: Trial) -> None:
    """A folder goes on with the trial that it began with, and with no other; what is only about speed may change."""
    text = json.dumps(msgspec.to_builtins(trial), indent=1, sort_keys=True) + "\n"
    begun = path.read_text() if path.is_file() else text
    before, now = (_decisive(json.loads(each)) for each in (begun, text))
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differing:
        raise RunMismatch(f"{path.parent} holds another trial ({differing[0]} differs): choose another folder.")
    if begun != text or not path.is_file():
        write_atomically(path, text)


def _decisive(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial's record without the settings of `SPEED_ONLY`."""
    treatment = dict(trial["treatment"])
    for part, name in SPEED_ONLY:
        if isinstance(treatment.get(part), dict):
            treatment[part] = {each: value for each, value in treatment[part].items() if each != name}
    return {**trial, "treatment": {name: part for name, part in treatment.items() if part != {}}}


def _refuse_leaks(trial: Trial, train_task: Task) -> None:
    """Test problems must not be trained or selected on."""
    for problem in train_task.problems:
        if problem.split in HELD_OUT:
            raise InputError(
                f"problems of {train_task.name} are of its {problem.split} split: train on another one (split: train "
                "among its args)."
            )
    known = {problem.id for problem in train_task.problems}
    if trial.validation is not None:
        known |= {problem.id for problem in problems_of(trial.validation).problems}
    for name, use in trial.evaluation.on.items():
        shared = sorted(known & {problem.id for problem in problems_of(use).problems})
        if shared:
            raise InputError(
                f"{len(shared)} problems of the evaluation {name!r} are trained or selected on, {shared[0]} among "
                "them: choose another split."
            )


def _sample(
    trial: Trial, policy: str, folder: Path, *, iteration: int, shared: Path | None, **grading: Any
) -> Path | None:
    """The run folder of the completions that rows are to be made of; None: the treatment samples none beforehand."""
    recipe = trial.treatment
    if recipe.source == "none" or not recipe.uses_rows:
        return None
    source = {"policy": policy, "base": trial.base}.get(recipe.source, recipe.source)
    budget = msgspec.structs.replace(recipe.sample, seed=derived_seed(trial.seed, iteration))
    all_tests = needs_all_tests(recipe.reward)
    of_this_trial = recipe.source == "policy" and iteration > 1
    sample = folder / "sample"
    if shared is not None and not of_this_trial:
        without_n = msgspec.structs.replace(budget, n=None)  # more samples go on from fewer
        what = (source, without_n, trial.train, all_tests)
        sample = shared / f"sample_{derived_seed(trial.seed, iteration, *what):08x}"
    if (folder / "rows.jsonl").is_file():
        return sample
    grading["progress"].note(f"iteration {iteration}: sampling.")
    with turn(sample.parent / f".{sample.name}"):
        evaluate(
            trial.train.task,
            trial.model,
            model_args={**trial.model_args, "pretrained": source},
            task_args=trial.train.args,
            budget=budget,
            limit=trial.train.limit,
            all_tests=all_tests,
            output_path=sample,
            **grading,
        )
    return sample


def _rows(
    trial: Trial, task: Task, sample: Path | None, folder: Path, *, iteration: int, earlier: Sequence[Row]
) -> list[Row]:
    """Training rows of one iteration: rewarded and selected, or read if that was done before."""
    path, recipe = folder / "rows.jsonl", trial.treatment
    kept = earlier if recipe.select.accumulate else []
    if path.is_file():
        return accumulated(kept, [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()])
    if not recipe.uses_rows:
        return []
    scored = score(graded(sample, task, n=recipe.sample.n), recipe.reward) if sample else []
    human = {} if recipe.select.human == "none" else demonstrations(task, trial.train)
    seed = derived_seed(trial.seed, iteration)
    rows = select(scored, recipe.select, human=human, problems=task.problems, iteration=iteration, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(msgspec.json.encode(row).decode() + "\n" for row in rows))
    return accumulated(kept, rows)


def _improve(trial: Trial, rows: Sequence[Row], out: Path, *, init: str, iteration: int, **grading: Any) -> Trained:
    """New weights in `out`, by our trainers or by a command of the user's."""
    grading["progress"].note(f"iteration {iteration}: training.")
    if trial.treatment.external is not None:
        return improve(trial, rows, out, init=init, iteration=iteration, **grading)
    workers, tier = grading["workers"], grading["tier"]
    return train(trial, rows, out, init=init, iteration=iteration, workers=workers, tier=tier)


def _account(
    trial: Trial,
    iteration: int,
    checkpoint: str,
    trained: Trained,
    *,
    rows: Sequence[Row],
    sample: Path | None,
    seconds: dict[str, float],
) -> Evaluated:
    """What a checkpoint cost."""
    n = trial.treatment.sample.n or 1
    counts = [one.n_tokens for one in read_run(sample)[1] if one.index < n] if sample else []
    known = [count for count in counts if count is not None]  # a sampler may not count them
    inside = trained.sampled_tokens
    return Evaluated(
        iteration=iteration,
        checkpoint=checkpoint,
        trained=trained,
        rows=len(rows) if trial.treatment.uses_rows else None,
        sampled_tokens=None if inside is None or len(known) < len(counts) else inside + sum(known),
        reward_calls=trained.reward_calls + len(counts),
        seconds=seconds,
    )


def _require_room(trial: Trial, out: Path, init: str, iteration: int) -> None:
    limit = None if trial.disk_gb is None else int(trial.disk_gb * 1e9)
    needed = training_bytes(weights(init), trial.treatment)
    require_room(out, needed, limit=limit, what=f"training of iteration {iteration}")


def demonstrations(task: Task, use: TaskUse) -> dict[str, str]:
    """A person's solution of every problem that has one, as a model is to write it after the prompt.

    That is `meta["demonstration"]`, which may be wrong, where a task tells it from the dataset's right solution.
    """
    found = {}
    for problem in task.problems:
        gold = task.gold(problem)
        if "demonstration" in problem.meta:
            found[problem.id] = str(problem.meta["demonstration"])
        elif gold is not None:
            found[problem.id] = _after_prompt(problem, gold.text)
    if not found:
        raise InputError(f"the task {use.task} has no solutions of its own: set select.human to none.")
    return found


def _after_prompt(problem: Problem, text: str) -> str:
    """A gold program repeats the prompt that it goes on from; the model doesn't."""
    return text[len(problem.prompt) :] if text.startswith(problem.prompt) else text


def table(evaluated: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """One row per checkpoint for printing: metrics in percent by evaluation."""
    rows = []
    for each in evaluated:
        row: dict[str, Any] = {"iteration": each.iteration, "rows": each.rows}
        for name, tasks in each.estimates.items():
            for metrics in tasks.values():
                for metric, estimate in metrics.items():
                    if metric.startswith("pass@") and estimate["value"] is not None:
                        row[f"{name} {metric}"] = 100 * estimate["value"]
        if each.trained is not None:
            row |= {"sampled tokens": each.sampled_tokens, "trained tokens": each.trained.trained_tokens}
        rows.append(row)
    return rows
