"""A command of the user's in place of our trainers: `improve` runs it and takes the model that it leaves behind.

    external: {command: "python my_trainer.py --init {prev} --train {train} --out {out} --seed {seed}", timeout_s: 3600}

What the command finds (`harness.command.PLACEHOLDERS` has all placeholders):

    {train}   a line per row: problem_id, prompt, completion, weight, complete (false: cut off, learn no end from it),
              rejected (of a pair), reward, source ("sampled" or "human"). With `data: problems` a line per problem:
              problem_id, prompt, stop, answer, entry_point, language, tests, level, meta.
              Both have messages where the model has a chat template: it is for the command to apply.
    {val}     the validation problems, as above
    {budget}  {"seconds": ..., "sampled_tokens": ... or null, "sample": {"n", "temperature", "max_tokens", ...}}
    HARNESS_SCORING_URL   our rewards, by `harness.scoring.score(problem_ids, completions)` or plain HTTP
    HARNESS_TRAINING=1    so that our tasks refuse their test problems

What it must leave: exit status 0 and in {out} a model (safetensors, config.json, tokenizer) that can be loaded, and if
it likes `trained.json` with fields of `harness.types.Trained`: steps, trained_tokens, sampled_tokens, history ... What
it doesn't say of those is not known, and a note says so. Anything else fails the arm, with the last line of its log.

A phase that is finished is not run again. After an interruption the command is started with an empty {out}, or, where
the recipe says `resumes: true`, with {out} as it was. Not handled: adapters that are not merged, several machines, a
script that changes between two runs of one trial.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import command, delivered, scoring
from harness.delivered import Reading, reading_of
from harness.errors import HarnessError, InputError
from harness.evaluate import TRAINING
from harness.progress import Progress, silent
from harness.recipes import External, Reward
from harness.service import Service
from harness.store import write_atomically
from harness.training import problems_of
from harness.trials import Trial, derived_seed
from harness.types import HELD_OUT, Problem, Row, Task, Trained

MODEL = "checkpoint"
"""The folder {out}, in the phase's."""
LAST_LINE = 300
"""Characters of the log that an error quotes."""
BY_US = frozenset({"checkpoint", "reward_calls"})
"""Fields of `Trained` that are not the command's to say."""


def improve(
    trial: Trial,
    rows: Sequence[Row],
    out: Path,
    *,
    init: str,
    iteration: int,
    workers: int | None = None,
    tier: str = "auto",
    progress: Progress = silent,
) -> Trained:
    """The account of one training phase, which the treatment's command does first if it isn't done yet.

    Args:
        trial: its treatment has an `external`.
        rows: to train on; not used by a command that is given problems.
        out: folder of the phase; the model will be in `checkpoint`, the command's output in `log.txt`.
        init: folder or name of the model to start from.
        iteration: from 1.
        workers: programs that the scoring service runs side by side; None: one per core.
        tier: how they are isolated.
        progress: told what is worth a note.

    Raises:
        InputError: the command cannot be started with this trial.
        HarnessError: the command failed, ran into a limit, or left no model.
    """
    external = trial.treatment.external
    if external is None:
        raise InputError(f"{trial.treatment.name} has no external command: harness.training is for it.")
    if (out / "trained.json").is_file():
        return msgspec.json.decode((out / "trained.json").read_bytes(), type=Trained)
    if external.data == "rows" and not rows:
        raise InputError("there are no rows to train on: lower select.threshold, or draw more completions per problem.")
    out = out.resolve()
    (out / MODEL).mkdir(parents=True, exist_ok=True)
    command.end(str(out))  # what an earlier try left running when its harness was killed
    if not external.resumes:
        shutil.rmtree(out / MODEL)
        (out / MODEL).mkdir()
    train_task, val_task = _problems(trial, external)
    start = reading_of(init, trial.model_args)
    values = _values(trial, start, out, iteration=iteration)
    made_from = rows if external.data == "rows" else train_task.problems
    _write(out / "train.jsonl", made_from, start)
    if val_task is not None:
        _write(out / "val.jsonl", val_task.problems, start)
    started = time.monotonic()
    with scoring.serve(
        [task for task in (train_task, val_task) if task is not None],
        trial.treatment.reward,
        form=start.form,
        stop=trial.treatment.sample.stop,
        workers=workers,
        tier=tier,
        progress=progress,
    ) as service:
        _run(trial, external, values, out, service)
    seconds = time.monotonic() - started
    notes = [*_check_control(trial, service), *_oddities(trial, start, out)]
    trained, unsaid = _account(out, service, n_rows=len(rows) if external.data == "rows" else 0, seconds=seconds)
    for note in (*notes, *unsaid, *_over_budget(external, trained)):
        progress.note(f"{trial.treatment.name}: {note}")
        with (out / "log.txt").open("a") as log:
            log.write(f"harness: {note}\n")
    text = json.dumps(msgspec.to_builtins(trained), indent=1) + "\n"
    write_atomically(out / "trained.json", text)
    return trained


# --- before the command


def _problems(trial: Trial, external: External) -> tuple[Task, Task | None]:
    """Training and validation problems; none of a test split goes any further."""
    train_task = problems_of(trial.train)
    val_task = None if trial.validation is None else problems_of(trial.validation)
    if val_task is None and command.asks_for(external.command, "val"):
        raise InputError(
            f"{trial.treatment.name}: external.command asks for {{val}}, and the trial names no validation problems: "
            "give it some (validation: {task: ..., args: ...}), or leave {val} out."
        )
    for task in (train_task, val_task):
        if task is not None and any(problem.split in HELD_OUT for problem in task.problems):
            raise InputError(f"problems of {task.name} are of its test split: train and validate on another one.")
    return train_task, val_task


def _values(trial: Trial, start: Reading, out: Path, *, iteration: int) -> dict[str, str]:
    from harness.samplers import hf_model

    external = trial.treatment.external
    assert external is not None
    budget = {
        "seconds": external.timeout_s,
        "sampled_tokens": external.sampled_tokens,
        "sample": msgspec.to_builtins(trial.treatment.sample),
    }
    return {
        "base": str(hf_model.resolve(trial.base, None).resolve()),
        "prev": str(start.folder),
        "train": str(out / "train.jsonl"),
        "val": str(out / "val.jsonl"),
        "out": str(out / MODEL),
        "seed": str(derived_seed(trial.seed, "train", iteration) % (1 << 31)),  # a number that every library takes
        "budget": json.dumps(budget),
        "python": sys.executable,
    }


def _write(path: Path, made_from: Sequence[Row | Problem], start: Reading) -> None:
    lines = [_row(each, start) if isinstance(each, Row) else _problem(each, start) for each in made_from]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def _row(row: Row, start: Reading) -> dict[str, Any]:
    return {**msgspec.structs.asdict(row), **start.messages(row.prompt)}


def _problem(problem: Problem, start: Reading) -> dict[str, Any]:
    fields = {name: getattr(problem, name) for name in ("stop", "answer", "entry_point", "language", "level", "meta")}
    prompt = problem.context + problem.prompt
    made = {"problem_id": problem.id, "prompt": prompt, **fields, "tests": msgspec.to_builtins(problem.tests)}
    return {**made, **start.messages(prompt)}


# --- the command


def _run(trial: Trial, external: External, values: Mapping[str, str], out: Path, service: Service) -> None:
    log = out / "log.txt"
    written = log.stat().st_size if log.is_file() else 0
    local = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1"]))  # a proxy cannot reach the service
    failure = command.run(
        command.words(external.command, values, external.args, shell=external.shell),
        mark=str(out),
        env={
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "no_proxy": local,
            "NO_PROXY": local,
            **external.env,
            TRAINING: "1",
            scoring.URL: service.url,
        },
        log=log,
        timeout_s=external.timeout_s,
        folder=out / MODEL,
        max_bytes=external.disk_gb * 1e9,
        check=service.check,
    )
    if failure is not None:
        last = _last_line(log, written)
        raise HarnessError(f"the command of {trial.treatment.name} {failure} ({last}): {log} has it all.")


def _last_line(log: Path, start: int) -> str:
    """Of what was written to the log from this place on."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - (1 << 16)))
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.rpartition("\r")[2].strip() for line in lines if line.strip()]
    return said[-1][:LAST_LINE] if said else "it said nothing"


# --- after the command


def _check_control(trial: Trial, service: Service) -> list[str]:
    """A placebo that never reached the command is none."""
    changed = trial.control is not None and trial.treatment.reward != Reward()
    if changed and not trial.treatment.uses_rows and not service.calls:
        raise HarnessError(
            f"the control {trial.control} had no effect: the command of {trial.treatment.name} never asked our scoring "
            "service, so its rewards are its own."
        )
    if service.unscored:
        return [f"{service.unscored} of the {service.calls} completions that it asked for could not be rewarded."]
    return []


def _oddities(trial: Trial, start: Reading, out: Path) -> list[str]:
    try:
        return delivered.check(out / MODEL, start, trial.model_args)
    except InputError as error:
        last = _last_line(out / "log.txt", 0)
        raise HarnessError(
            f"the command of {trial.treatment.name} ended well and left no model that can be used: {error} "
            f"(Last line of {out / 'log.txt'}: {last})"
        ) from error


def _account(out: Path, service: Service, *, n_rows: int, seconds: float) -> tuple[Trained, list[str]]:
    """What the command says of itself, with what we know better; and what it didn't say."""
    path, said = out / MODEL / "trained.json", {}
    try:
        if path.is_file():
            said = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        known = {field.name for field in msgspec.structs.fields(Trained)} - BY_US
        if unknown := sorted(said.keys() - known):
            raise HarnessError(f"{path} has a key {unknown[0]!r}: it may have {', '.join(sorted(known))}.")
        trained = msgspec.convert(
            {
                "rows": n_rows,
                "steps": None,
                "trained_tokens": None,
                "sampled_tokens": 0 if n_rows else None,
                **said,
                "checkpoint": MODEL,
                "reward_calls": service.calls,
                "seconds": {**said.get("seconds", {}), "command": seconds},
            },
            Trained,
        )
    except (msgspec.DecodeError, TypeError) as error:
        raise HarnessError(f"{path} is not the account of a training ({error}).") from error
    wanted = ["steps", "trained_tokens", *([] if n_rows else ["sampled_tokens"])]
    unsaid = [name for name in wanted if name not in said]
    return trained, [f"the command did not say its {', '.join(unsaid)} (in trained.json)."] * bool(unsaid)


def _over_budget(external: External, trained: Trained) -> list[str]:
    most = external.sampled_tokens
    if most is None or trained.sampled_tokens is None or trained.sampled_tokens <= most:
        return []
    return [f"it sampled {trained.sampled_tokens} tokens, and was to sample {most} at most."]
