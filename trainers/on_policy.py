"""What follows from the settings of an on-policy training: the loss, the advantages, the rows of a step, a hash.

`checked` gives the loss, or the error that says what does not go together. All are pure functions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.errors import InputError, UnknownName
from harness.recipes import OnPolicy, Reward
from harness.samplers import hf_model
from harness.trainers.advantages import group_advantages, leave_one_out, max_at_k_advantages
from harness.trainers.batches import TokenRow
from harness.trainers.losses import PolicyLoss
from harness.trainers.optim import Optim
from harness.trainers.rollouts import Rollout
from harness.types import Budget, Floats, Task


def checked(task: Task, settings: OnPolicy, sample: Budget) -> PolicyLoss:
    """The loss, or the error that says what does not go together."""
    known = PolicyLoss.__dataclass_fields__
    for name in settings.loss:
        if name not in known:
            raise UnknownName("field of on_policy.loss", name, known)
    kind, n = settings.advantage, sample.n or 1
    if sample.temperature <= 0:
        raise InputError("sample.temperature is 0: policy gradients compare different completions; 1.0 is usual.")
    if sample.top_k or sample.top_p < 1:
        raise InputError(
            "sample.top_k and sample.top_p draw from another distribution than is trained: leave them out."
        )
    if kind != "batch_mean" and n < 2:
        raise InputError(f"sample.n is {n} and the advantage {kind} compares completions of a problem: raise it.")
    if kind == "max_at_k" and not 1 <= settings.k <= n:
        raise InputError(f"on_policy.k is {settings.k}: with sample.n = {n} it must be from 1 to {n}.")
    if kind in ("leave_one_out", "max_at_k") and settings.scale != "none":
        raise InputError(f"the advantage {kind} has no scale: leave on_policy.scale out.")
    if settings.problems > len(task.problems):
        raise InputError(
            f"on_policy.problems is {settings.problems} and {task.name} has {len(task.problems)} problems: lower it."
        )
    return PolicyLoss(**settings.loss)


def optim(settings: OnPolicy, sample: Budget) -> Optim:
    """The optimiser's part of the settings."""
    return Optim(
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup_steps=math.ceil(settings.warmup * settings.rounds * steps_per_round(settings, sample)),
        weight_decay=settings.weight_decay,
        max_norm=settings.max_grad_norm,
    )


def advantages_of(reward_PG: Floats, settings: OnPolicy) -> Floats:
    """From the rewards of a round, NaN where there is none, by the method's rule. Both (P, G)."""
    advantage_PG: Floats
    if settings.advantage == "leave_one_out":
        advantage_PG = leave_one_out(reward_PG)
    elif settings.advantage == "max_at_k":
        advantage_PG = max_at_k_advantages(reward_PG, settings.k)
    elif settings.advantage == "batch_mean":  # all are one group
        advantage_PG = group_advantages(reward_PG.reshape(1, -1), scale=settings.scale).reshape(reward_PG.shape)
    else:
        advantage_PG = group_advantages(reward_PG, scale=settings.scale)
    return advantage_PG


def penalised(reward_PG: Floats, made: Sequence[Rollout], loss: PolicyLoss) -> Floats:
    """Rewards less beta times each completion's log p - log p_ref, where the loss wants it there. Both (P, G)."""
    if not (loss.beta and loss.kl_in_reward):
        return reward_PG
    kl = [sum(one.old_logprobs or one.logprobs) - sum(one.reference_logprobs or ()) for one in made]
    less_PG: Floats = reward_PG - loss.beta * np.array(kl).reshape(reward_PG.shape)
    return less_PG


def token_row(one: Rollout, advantage: float, *, masked: bool = False, old: bool = False) -> TokenRow:
    """A completion as the loss takes it; `old`: the weights will have moved since it was drawn."""
    return TokenRow(
        prompt_ids=one.prompt_ids,
        completion_ids=one.ids,
        weight=advantage,
        mask=[False] * len(one.ids) if masked else None,
        old_logprobs=(one.old_logprobs or one.logprobs) if old else None,
        sampler_logprobs=one.logprobs,
        reference_logprobs=one.reference_logprobs,
    )


def steps_of(n_rows: int, settings: OnPolicy, seed: int, number: int) -> list[list[int]]:
    """The rows of each optimiser step of round `number`: each row once per pass, in an order of the pass's own."""
    size = min(settings.batch_rows or n_rows, n_rows)
    steps = []
    for again in range(settings.updates):
        order = list(range(n_rows))
        if size < n_rows:
            order = np.random.default_rng([seed, number, again]).permutation(n_rows).tolist()
        steps += [order[start : start + size] for start in range(0, n_rows, size)]
    return steps


def steps_per_round(settings: OnPolicy, sample: Budget) -> int:
    """Optimiser steps."""
    n_rows = settings.problems * (sample.n or 1)
    return settings.updates * math.ceil(n_rows / (settings.batch_rows or n_rows))


def identity(
    task: Task,
    *,
    init: Path,
    reference: Path | None,
    on_policy: OnPolicy,
    sample: Budget,
    reward: Reward,
    seed: int,
    prompts: tuple[Any, ...],
) -> str:
    """A hash of all that decides what is learnt: not of `batch_tokens` and `save_every`, which may be changed."""
    dtype, chat, system = prompts
    parts = {
        "problems": task.problems,
        "init": hf_model.identity(init, dtype, str(chat), system),
        "reference": None if reference is None else hf_model.identity(reference, dtype, str(chat), system),
        "on_policy": msgspec.structs.replace(on_policy, batch_tokens=1, save_every=1),
        "sample": sample,
        "reward": reward,
        "seed": seed,
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
