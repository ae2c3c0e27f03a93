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

from harness.errors import InputError, RunMismatch
from harness.evaluate import evaluate
from harness.grading.thinking import without_thinking
from harness.progress import Progress, silent
from harness.rewards import Graded, needs_all_tests, score
from harness.rows import accumulated, select
from harness.store import lock, read_executions, read_run, write_atomically
from harness.training import problems_of, train
from harness.trials import Evaluated, TaskUse, Trial, derived_seed
from harness.types import Completion, Problem, Results, Row, Task, Trained


def treat(
    trial: Trial, out: Path, *, workers: int | None = None, tier: str = "auto", progress: Progress = silent
) -> list[Evaluated]:
    """The base model and the checkpoint of every iteration, evaluated; `out` holds all phases."""
    with lock(out, proof="trial.json"):
        _agree(out / "trial.json", trial)
        train_task = problems_of(trial.train)
        _refuse_leaks(trial, train_task)
        grading: dict[str, Any] = {"workers": workers, "tier": tier, "progress": progress}
        checkpoint, rows = trial.base, list[Row]()
        evaluated = [_evaluate(trial, checkpoint, out / "iteration_0", iteration=0, **grading)]
        for iteration in range(1, trial.treatment.iterations + 1):
            folder = out / f"iteration_{iteration}"
            started = time.monotonic()
            if trial.treatment.on_policy is None:
                kept = rows if trial.treatment.select.accumulate else []
                rows = accumulated(kept, _rows(trial, train_task, checkpoint, folder, iteration=iteration, **grading))
            init = trial.base if trial.treatment.init == "base" else checkpoint
            trained = train(trial, rows, folder / "train", init=init, iteration=iteration, workers=workers, tier=tier)
            checkpoint = str(folder / "train" / trained.checkpoint)
            progress.note(f"iteration {iteration}: trained in {time.monotonic() - started:.0f} s.")
            evaluated.append(
                _evaluate(trial, checkpoint, folder, iteration=iteration, trained=trained, n_rows=len(rows), **grading)
            )
    write_atomically(out / "trial_results.json", msgspec.json.encode(evaluated, order="sorted").decode() + "\n")
    return evaluated


def _agree(path: Path, trial: Trial) -> None:
    """A folder goes on with the trial that it began with, and with no other."""
    text = json.dumps(msgspec.to_builtins(trial), indent=1, sort_keys=True) + "\n"
    if path.is_file():
        before, now = json.loads(path.read_text()), json.loads(text)
        differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if differing:
            raise RunMismatch(f"{path.parent} holds another trial ({differing[0]} differs): choose another folder.")
        return
    write_atomically(path, text)


def _refuse_leaks(trial: Trial, train_task: Task) -> None:
    """Test problems must not be trained or selected on."""
    if any(problem.split == "test" for problem in train_task.problems):
        raise InputError(
            f"problems of {train_task.name} are of its test split: train on another one (split: train among its args)."
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


def _evaluate(
    trial: Trial,
    checkpoint: str,
    folder: Path,
    *,
    iteration: int,
    trained: Trained | None = None,
    n_rows: int | None = None,
    **grading: Any,
) -> Evaluated:
    """Scores on every split of a checkpoint, each in a run folder of its own."""
    plan, estimates = trial.evaluation, {}
    train_use = msgspec.structs.replace(trial.train, limit=min(plan.train_limit, trial.train.limit or plan.train_limit))
    for name, use in {"train": train_use, **plan.on}.items():
        results = evaluate(
            use.task,
            trial.model,
            model_args={**trial.model_args, "pretrained": checkpoint},
            task_args=use.args,
            k=plan.k,
            budget=plan.budget,
            limit=use.limit,
            output_path=folder / f"evaluation_{name}",
            **grading,
        )
        estimates[name] = _plain(results)
    return Evaluated(
        iteration=iteration,
        checkpoint=checkpoint,
        trained=trained,
        rows=n_rows,
        sampled_tokens=_sampled_tokens(folder / "sample", trained),
        estimates=estimates,
    )


def _sampled_tokens(sample: Path, trained: Trained | None) -> int | None:
    """Tokens that were sampled to train; None where a sampler doesn't count them."""
    inside = trained.sampled_tokens if trained else 0
    if not sample.is_dir():
        return inside
    counts = [completion.n_tokens for completion in read_run(sample)[1]]
    known = [count for count in counts if count is not None]
    return inside + sum(known) if len(known) == len(counts) else None


def _plain(results: Results) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = msgspec.to_builtins(results.estimates)
    return found


def _rows(trial: Trial, task: Task, policy: str, folder: Path, *, iteration: int, **grading: Any) -> list[Row]:
    """Training rows of one iteration: sampled, rewarded and selected, or read if that was done before."""
    path, recipe = folder / "rows.jsonl", trial.treatment
    if path.is_file():
        return [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]
    seed = derived_seed(trial.seed, iteration)
    scored = []
    if recipe.source != "none":
        sampler = {"policy": policy, "base": trial.base}.get(recipe.source, recipe.source)
        evaluate(
            trial.train.task,
            trial.model,
            model_args={**trial.model_args, "pretrained": sampler},
            task_args=trial.train.args,
            budget=msgspec.structs.replace(recipe.sample, seed=seed),
            limit=trial.train.limit,
            all_tests=needs_all_tests(recipe.reward),
            output_path=folder / "sample",
            **grading,
        )
        scored = score(graded(folder / "sample", task), recipe.reward)
    human = {} if recipe.select.human == "none" else demonstrations(task, trial.train)
    rows = select(scored, recipe.select, human=human, problems=task.problems, iteration=iteration, seed=seed)
    write_atomically(path, "".join(msgspec.json.encode(row).decode() + "\n" for row in rows))
    return rows


def graded(run: Path, task: Task) -> list[Graded]:
    """Every graded completion of a run folder, with what was extracted from it and how its programs ended."""
    made, completions, verdicts = read_run(run)
    problem_of = {problem.id: problem for problem in task.problems}
    verdict_of = {(verdict.problem_id, verdict.index): verdict for verdict in verdicts}
    executions = read_executions(run)

    def extracted(raw: Completion) -> Completion:
        """With its whole text: thinking is not read for an answer, and is trained on."""
        visible = without_thinking(raw, made.think_tags)
        return msgspec.structs.replace(task.extract(problem_of[raw.problem_id], visible), text=raw.text)

    return [
        Graded(
            problem=problem_of[raw.problem_id],
            completion=extracted(raw),
            verdict=verdict_of[raw.problem_id, raw.index],
            executions=executions.get((raw.problem_id, raw.index), ()),
        )
        for raw in completions
        if (raw.problem_id, raw.index) in verdict_of
    ]


def demonstrations(task: Task, use: TaskUse) -> dict[str, str]:
    """The dataset's own solution of every problem that has one, as a model is to write it after the prompt."""
    found = {}
    for problem in task.problems:
        gold = task.gold(problem)
        if gold is not None:
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
