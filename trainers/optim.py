"""The optimiser step: AdamW with the usual exclusions, schedules, and clipping that skips a step that is not finite.

AdamW: Loshchilov & Hutter 2019, arXiv 1711.05101. As in transformers' Trainer, biases and normalisation weights do not
decay, the learning rate of step s is peak x `schedule_factor(s)`, and gradients are scaled down to `max_norm` together.

Deviation: a step whose gradient holds an infinity or NaN changes nothing, and is reported; AdamW would carry it in its
moments for ever. The skipped step still counts in the schedule.

Not handled: 8-bit states, parameter groups of the user's own, gradients that are scaled for float16.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from harness.errors import InputError, UnknownName

SCHEDULES = ("constant", "linear", "cosine")
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Settings of the optimiser; the defaults are those of TRL's GRPO but for the schedule."""

    learning_rate: float = 1e-6
    """The peak."""
    schedule: str = "constant"
    """After the warm-up: "constant", "linear" to 0 or "cosine" to 0."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0; the first of them has 0, as in transformers."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_norm: float = 1.0
    """The largest norm of all gradients together; 0: no clipping."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UnknownName("schedule", self.schedule, SCHEDULES)
        if self.learning_rate < 0 or self.warmup_steps < 0 or self.weight_decay < 0 or self.max_norm < 0:
            raise InputError("learning_rate, warmup_steps, weight_decay and max_norm must be from 0.")


@dataclass(frozen=True)
class Step:
    """What one optimiser step did."""

    grad_norm: float
    """Before clipping; infinite or NaN if the step was skipped."""
    learning_rate: float
    skipped: bool


def adamw(model: nn.Module, config: Optim) -> torch.optim.AdamW:
    """An optimiser of the parameters that need a gradient."""
    decays: list[nn.Parameter] = []
    stays: list[nn.Parameter] = []
    excluded = decay_excluded(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (stays if name in excluded else decays).append(parameter)
    groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": stays, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon)


def decay_excluded(model: nn.Module) -> set[str]:
    """Names of the parameters without weight decay: those of a LayerNorm, or with bias or norm in their own name."""
    excluded = set()
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(prefix=prefix, recurse=False):
            if isinstance(module, nn.LayerNorm) or _NO_DECAY.search(name.lower()):
                excluded.add(name)
    return excluded


def schedule_factor(step: int, total_steps: int, config: Optim) -> float:
    """The share of the peak learning rate in step 0, 1, ... of `total_steps`, in [0, 1]."""
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    if config.schedule == "linear":
        return max(0.0, 1.0 - progress)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def optimiser_step(optimiser: torch.optim.Optimizer, *, step: int, total_steps: int, config: Optim) -> Step:
    """Clips, steps unless the gradient is not finite, and clears the gradients. The device is waited for once.

    Args:
        optimiser: from `adamw`, with the gradients of the whole step.
        step: from 0; with `total_steps` it gives the learning rate, so there is no scheduler state to save.
        total_steps: planned steps of the run.
        config: as given to `adamw`.
    """
    rate = config.learning_rate * schedule_factor(step, total_steps, config)
    for group in optimiser.param_groups:
        group["lr"] = rate
    norm = clip_gradients((p for group in optimiser.param_groups for p in group["params"]), config.max_norm)
    skipped = not math.isfinite(norm)
    if not skipped:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return Step(grad_norm=norm, learning_rate=rate, skipped=skipped)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """The norm of all gradients together, before they are scaled down to `max_norm` (0: left as they are)."""
    having = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(having, max_norm if max_norm > 0 else math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
