"""What is known of a checkpoint: `appraise` evaluates it on every split and says how far it has gone from the base.

An evaluation is a run folder. Beside the scores stand the number of distinct correct solutions, the drift from the base
model, and (`rewards`) the mean reward of what was sampled to evaluate: a policy that has learnt to fool its reward
shows there. `graded` reads a run folder for rewards. Not handled: choosing between checkpoints.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness.distinct import distinct_correct
from harness.evaluate import evaluate, load_tasks
from harness.grading.thinking import without_thinking
from harness.rewards import Graded, score
from harness.store import read_cpu_limits, read_executions, read_run, write_atomically
from harness.training import trainer_args, weights
from harness.trials import Evaluated, TaskUse, Trial
from harness.types import Completion, Problem, Results, Task


def appraise(trial: Trial, made: Evaluated, folder: Path, **grading: Any) -> Evaluated:
    """The account of a checkpoint, with what it scores; the base model's is without rewards: treatments share it.

    Args:
        trial: which splits, how many completions, which sampler.
        made: the account so far: which checkpoint, how it was trained.
        folder: for the run folders and, once all is done, evaluated.json. What was finished before is only read, and
            needs no weights.
        grading: `workers`, `tier` and `progress`, as `harness.evaluate` takes them.
    """
    path = folder / "evaluated.json"
    if path.is_file():
        return msgspec.json.decode(path.read_bytes(), type=Evaluated)
    started = time.monotonic()
    estimates, distinct = {}, dict[str, float | None]()
    for name, use in uses(trial).items():
        grading["progress"].note(f"iteration {made.iteration}: evaluating on {name}.")
        run = folder / f"evaluation_{name}"
        estimates[name] = _plain(_run(trial, made.checkpoint, use, run, **grading))
        distinct[name] = distinct_correct(graded(run, _task(use)))
    evaluated = msgspec.structs.replace(
        made,
        estimates=estimates,
        distinct=distinct,
        rewards=rewards(trial, folder) if made.iteration else {},
        drift=_drift(trial, made.checkpoint, folder),
        seconds={**made.seconds, "evaluate": time.monotonic() - started},
    )
    write_atomically(path, encoded(evaluated))
    return evaluated


def uses(trial: Trial) -> dict[str, TaskUse]:
    """What every checkpoint is evaluated on, by name; a part of the training problems is among it."""
    most = trial.evaluation.train_limit
    train = msgspec.structs.replace(trial.train, limit=min(most, trial.train.limit or most))
    chosen_by = {} if trial.validation is None or trial.keep != "best" else {"validation": trial.validation}
    return {"train": train, **chosen_by, **trial.evaluation.on}


def encoded(record: Any) -> str:
    """JSON with a line's end, keys in a fixed order."""
    return msgspec.json.encode(record, order="sorted").decode() + "\n"


def rewards(trial: Trial, folder: Path) -> dict[str, dict[str, float | None]]:
    """The mean of the treatment's reward and of its terms over the completions of each evaluation in `folder`.

    None: a term could not be measured for some completion (programs are not run on every test to evaluate).
    """
    found = {}
    for name, use in uses(trial).items():
        scored = score(graded(folder / f"evaluation_{name}", _task(use)), trial.treatment.reward)
        columns = {term: [one.terms[term] for one in scored] for term in trial.treatment.reward.terms}
        columns["reward"] = [one.reward for one in scored]
        found[name] = {term: _mean(values) for term, values in columns.items()}
    return found


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _run(trial: Trial, checkpoint: str, use: TaskUse, run: Path, **grading: Any) -> Results:
    return evaluate(
        use.task,
        trial.model,
        model_args={**trial.model_args, "pretrained": checkpoint},
        task_args=use.args,
        k=trial.evaluation.k,
        budget=trial.evaluation.budget,
        limit=use.limit,
        output_path=run,
        **grading,
    )


def _plain(results: Results) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = msgspec.to_builtins(results.estimates)
    return found


def _task(use: TaskUse) -> Task:
    return load_tasks([use.task], {use.task: use.args})[0]


def _drift(trial: Trial, checkpoint: str, folder: Path) -> dict[str, float | None]:
    """How far the policy went from the base on training problems; nothing where it was not sampled as it is."""
    plan = trial.evaluation
    as_it_is = (plan.budget.temperature, plan.budget.top_p, plan.budget.top_k) == (1, 1, 0)
    if not plan.drift or not as_it_is or trial.model not in ("hf", "vllm"):
        return {}
    task = _task(uses(trial)["train"])
    found: dict[str, float | None] = importlib.import_module("harness.trainers.drift").drift(
        weights(checkpoint),
        weights(trial.base),
        read_run(folder / "evaluation_train")[1],
        {problem.id: problem.context + problem.prompt for problem in task.problems},
        most=plan.drift,
        **trainer_args(trial),
    )
    return found


def graded(run: Path, task: Task, *, n: int | None = None) -> list[Graded]:
    """Every graded completion of a run folder, with what was extracted from it and how its programs ended.

    With `n` only the first n of each problem: a folder may have been sampled further by another treatment.
    """
    made, completions, verdicts = read_run(run)
    limits = read_cpu_limits(run / "limits.json")
    problem_of = {problem.id: _limited(problem, limits) for problem in task.problems}
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
        if (raw.problem_id, raw.index) in verdict_of and (n is None or raw.index < n)
    ]


def _limited(problem: Problem, limits: Mapping[str, float]) -> Problem:
    """With the CPU limit that the run gave it."""
    return msgspec.structs.replace(problem, cpu_s=limits[problem.id]) if problem.id in limits else problem
