"""The completions of one round: sampled from the model in training, graded beside that, and rewarded.

`roll_out` makes a `Round`: the model samples in a thread of its own (`harness.ahead`) while the sandbox runs what is
finished. What a trainer needs of a completion is kept: its tokens, their log-probabilities under the distribution that
drew them, its reward and the terms of it. `rounds_of` says which problems a round has, `write` and `read` keep a round
that is not trained on yet, so that a run that was killed goes on with the very same completions.

A completion depends on (seed, round, problem, index) alone, but for rounding: a batch of another shape rounds
differently. That is why the number of slots belongs to the round, and why a round that was cut short is sampled again
from its beginning, never only what it lacks.

Not handled: sampling until a round is full of groups with variance (DAPO's dynamic sampling), other engines.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from harness import gold
from harness.ahead import ahead
from harness.errors import HarnessError
from harness.grading.thinking import TAGS, without_thinking
from harness.progress import Progress, silent
from harness.recipes import Reward
from harness.rewards import Graded, score
from harness.samplers import hf_model, prompting
from harness.samplers.hf_decode import Row, decode
from harness.store import read_cpu_limits, write_atomically
from harness.trainers.lm import LM, autocast
from harness.types import Budget, Completion, Execution, Form, Job, Key, Limits, Problem, Record, Sandbox, Task

MOST_AHEAD = 1024
"""Completions that wait to be graded before the model has to wait."""


class Rollout(Record, frozen=True):
    """One completion with all that is learned from."""

    problem_id: str
    index: int
    prompt_ids: list[int]
    ids: list[int]
    """Sampled tokens, the end token included."""
    logprobs: list[float]
    """Of each token at the temperature of sampling, by the sampler, in nats."""
    text: str
    truncated: bool
    """It ran into max_tokens."""
    passed: bool | None
    reward: float | None
    """None: not scored."""
    terms: dict[str, float | None]
    solution: str | None = None
    """Of a passed one: a hash of its program, or of its text where there is none."""
    old_logprobs: list[float] | None = None
    """By the trainer, where they are needed and are not the sampler's."""
    reference_logprobs: list[float] | None = None


class Round(Record, frozen=True):
    """The completions of a round, n of each problem one after another."""

    slots: int
    """Rows that were decoded together."""
    rollouts: list[Rollout]
    seconds: dict[str, float]
    """Wall clock of "sample", and of the "reward" that was still to be found after the last token."""


def rounds_of(n_problems: int, per_round: int, seed: int) -> Iterator[list[int]]:
    """Which problems each round has: every problem once per pass, in an order of the pass's own.

    No round has a problem twice, also where one pass ends in it and the next begins. Round r is always the same.
    """
    waiting: list[int] = []
    for again in itertools.count():
        order = np.random.default_rng([seed, again]).permutation(n_problems).tolist()
        waiting += sorted(order, key=lambda place: place in waiting)  # stable: what still waits comes last again
        while len(waiting) >= per_round:
            yield waiting[:per_round]
            del waiting[:per_round]


def budget_of(sample: Budget, seed: int, number: int) -> Budget:
    """The budget of round `number`, with a seed that no other round has."""
    return msgspec.structs.replace(sample, seed=seed_of(seed, "sample", sample.seed, number))


def seed_of(*parts: object) -> int:
    """A seed for what these parts name, unlike that of any other."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def timed(
    problems: Sequence[Problem],
    task: Task,
    sandbox: Sandbox | None,
    *,
    limits: Limits,
    out: Path,
    progress: Progress = silent,
) -> Sequence[Problem]:
    """The problems with the CPU time that their gold solutions ask for, as evaluations have it (`harness.gold`).

    What was measured is kept in `out/limits.json`: a run that is gone on with judges alike.
    """
    wanted = {problem.id for problem in problems if problem.tests}
    if sandbox is None or not wanted:
        return problems
    known = read_cpu_limits(out / "limits.json")
    found = gold.measured([task], sandbox, limits=limits, known=known, wanted=wanted, progress=progress)
    if found != known:
        write_atomically(out / "limits.json", json.dumps(found, indent=1, sort_keys=True) + "\n")
    return [msgspec.structs.replace(p, cpu_s=found[p.id]) if p.id in found else p for p in problems]


def roll_out(
    lm: LM,
    task: Task,
    problems: Sequence[Problem],
    *,
    budget: Budget,
    reward: Reward,
    sandbox: Sandbox | None,
    slots: int | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Progress = silent,
) -> Round:
    """Samples `budget.n` completions of each problem, grades and rewards them.

    Args:
        lm: the model; it is not changed.
        task: says how completions are read and graded.
        problems: each id once.
        budget: its seed must be the round's own (`budget_of`).
        reward: the terms; a group term sees all completions of a problem.
        sandbox: None where no problem has tests.
        slots: rows that are decoded together; None: as many as fit.
        check: called before every token and whenever a completion may be graded; raises to end the round.
        progress: told what happens.
    """
    started = time.perf_counter()
    requests = prompting.requests(lm, problems, budget=budget)
    slots = slots or _slots(lm, requests)
    problem_of = {problem.id: problem for problem in problems}
    rows: dict[Key, Row] = {}
    graded: dict[Key, Graded] = {}
    sampled_at = [started]

    def sampled() -> Iterator[Row]:  # in a thread of its own
        yield from _sample(lm, requests, budget, slots, check)
        sampled_at.append(time.perf_counter())

    def note(problem: Problem, completion: Completion, executions: Sequence[Execution]) -> None:
        verdict = task.grade(problem, completion, executions)
        key = (problem.id, completion.index)
        # terms look at the whole text, thoughts and tags included
        whole = msgspec.structs.replace(completion, text=rows[key].text)
        graded[key] = Graded(problem, whole, verdict, tuple(executions))
        progress.graded()

    def jobs(arriving: Iterable[Row | None]) -> Iterator[Job | None]:
        for row in arriving:
            check()
            if row is None:  # the model has nothing new yet
                yield None
                continue
            progress.sampled()
            rows[row.problem_id, row.index] = row
            problem = problem_of[row.problem_id]
            completion = task.extract(problem, without_thinking(_completion(row, lm.form), TAGS))
            if problem.tests:
                yield Job(problem=problem, completion=completion)
            else:
                note(problem, completion, ())

    with ahead(sampled(), most=MOST_AHEAD, patience_s=0.0 if sandbox else 0.1) as arriving:
        wanting = jobs(arriving)
        for job, executions in sandbox.run(wanting) if sandbox else _no_programs(wanting):
            note(job.problem, job.completion, executions)
    keys = [(problem.id, index) for problem in problems for index in range(budget.n or 1)]
    scored = score([graded[key] for key in keys], reward)
    rollouts = [
        _rollout(rows[key], graded[key], each.reward, dict(each.terms)) for key, each in zip(keys, scored, strict=True)
    ]
    seconds = {"sample": sampled_at[-1] - started, "reward": time.perf_counter() - sampled_at[-1]}
    return Round(slots=slots, rollouts=rollouts, seconds=seconds)


def _slots(lm: LM, requests: Sequence[prompting.Request]) -> int:
    longest = max(len(one.prompt_ids) + one.room for one in requests)
    fit = hf_model.rows_that_fit(lm.config, longest, str(lm.compute).removeprefix("torch."), lm.device)
    return min(fit, sum(len(one.indices) for one in requests))


def _sample(
    lm: LM, requests: Sequence[prompting.Request], budget: Budget, slots: int, check: Callable[[], None]
) -> Iterator[Row]:
    """Rows as they are finished; `check` may end it between any two tokens."""
    rows = (
        Row(problem_id=one.problem_id, index=index, prompt_ids=one.prompt_ids, room=one.room, stop=one.stop)
        for one in sorted(requests, key=lambda one: len(one.prompt_ids))  # like lengths share a pass
        for index in one.indices
    )
    # peft's wrapper does not say that it takes positions; its adapters are inside of what it wraps
    model = lm.model.get_base_model() if lm.lora else lm.model
    hook = model.register_forward_pre_hook(lambda *_: check())
    model.eval()
    try:
        with autocast(lm):
            yield from decode(model, lm.tokenizer, rows, budget, slots=slots)
    finally:
        hook.remove()
        model.train()


def _completion(row: Row, form: Form) -> Completion:
    return Completion(
        problem_id=row.problem_id,
        index=row.index,
        text=row.text,
        form=form,
        logprob=row.logprob,
        n_tokens=len(row.ids),
        stop_reason=row.stop_reason,
    )


def _rollout(row: Row, graded: Graded, reward: float | None, terms: dict[str, float | None]) -> Rollout:
    passed = graded.verdict.passed
    solution = (graded.completion.program or row.text).strip()
    return Rollout(
        problem_id=row.problem_id,
        index=row.index,
        prompt_ids=row.prompt_ids,
        ids=row.ids,
        logprobs=row.logprobs,
        text=row.text,
        truncated=row.stop_reason == "length",
        passed=passed,
        reward=reward,
        terms=terms,
        solution=hashlib.sha256(solution.encode()).hexdigest()[:16] if passed else None,
    )


def with_columns(made: Round, columns: Mapping[str, Sequence[list[float]]]) -> Round:
    """The round with these fields of its rollouts filled."""
    filled = [
        msgspec.structs.replace(one, **{name: column[place] for name, column in columns.items()})
        for place, one in enumerate(made.rollouts)
    ]
    return msgspec.structs.replace(made, rollouts=filled)


def _no_programs(jobs: Iterator[Job | None]) -> Iterator[tuple[Job, tuple[Execution, ...]]]:
    for job in filter(None, jobs):
        raise HarnessError(f"problem {job.problem.id} has tests and there is no sandbox: open one for the trainer.")
    yield from ()


def file_of(folder: Path, number: int) -> Path:
    """Where round `number` is kept."""
    return folder / f"round-{number:06}.msgpack"


def write(path: Path, made: Round) -> None:
    """Keeps a round: the whole file is there or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        file.write(msgspec.msgpack.encode(made))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read(path: Path) -> Round | None:
    """A kept round, or None where there is none."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Round) if path.is_file() else None


def forget(folder: Path, before: int) -> None:
    """Removes the rounds that a saved state has left behind."""
    for path in folder.glob("round-*.msgpack"):
        if int(path.stem.removeprefix("round-")) < before:
            path.unlink(missing_ok=True)
