"""Level 3: several optimiser steps of GRPOTrainer on recorded completions, replayed by our own step: the same weights.

TRL's `rollout_func` hands it the recorded completions. Ours go through advantages, batches, losses, clipping and AdamW
with weight decay and warm-up. Both run a step as one batch: Adam divides by the size of a gradient, so where that is 0
but for rounding, another order of summation is another step (test_policy_losses.py has gradients by any grouping).
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow

G, N, MAX_COMPLETION = 4, 8, 12
OPTIM = {"learning_rate": 2e-3, "weight_decay": 0.1, "warmup_steps": 2}


class Recording:
    """The completions and rewards of every round, drawn beforehand; called by TRL in place of a sampler."""

    def __init__(self, rounds: int) -> None:
        draw = random.Random(17)
        self.prompts = [[4 + draw.randrange(60) for _ in range(1 + i % 3)] for i in range(rounds * N)]
        self.completions = [[4 + draw.randrange(60) for _ in range(1 + draw.randrange(11))] for _ in self.prompts]
        self.rewards = [draw.choice([0.0, 0.0, 1.0, 0.5, None]) for _ in self.prompts]
        self.rewards[:G] = [1.0] * G  # a group without variance
        self.played = 0

    def rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        part = slice(self.played * N, (self.played + 1) * N)
        self.played += 1
        return {"prompt_ids": self.prompts[part], "completion_ids": self.completions[part], "logprobs": None}

    def reward(self, completions: list[str], **_: Any) -> list[float | None]:
        return self.rewards[(self.played - 1) * N : self.played * N]

    def rows(self, i: int) -> list[Any]:
        import numpy as np

        from harness.trainers.advantages import group_advantages
        from harness.trainers.batches import TokenRow

        part = slice(i * N, (i + 1) * N)
        reward_PG = np.array(self.rewards[part], dtype=float).reshape(-1, G)
        return [
            TokenRow(prompt_ids=prompt, completion_ids=completion, weight=float(advantage))
            for prompt, completion, advantage in zip(
                self.prompts[part],
                self.completions[part],
                group_advantages(reward_PG, scale="group").ravel(),
                strict=True,
            )
        ]


def with_logprobs(model: Any, rows: list[Any], field: str) -> list[Any]:
    """The rows with what `model` says about them now."""
    import torch

    from harness.trainers.batches import collate
    from harness.trainers.logprobs import completion_logprobs, find_head

    with torch.no_grad():
        found = completion_logprobs(model, collate(rows, range(len(rows))), head=find_head(model)).logprobs_BT
    return [replace(row, **{field: found[i, : len(row.completion_ids)].tolist()}) for i, row in enumerate(rows)]


def replay(folder: Path, recording: Recording, config: Any, optim: Any, steps: int, per_round: int) -> Any:
    """Our training: the model and what each step did."""
    from transformers import LlamaForCausalLM

    from harness.trainers.batches import count, micro_batches
    from harness.trainers.logprobs import completion_logprobs, find_head
    from harness.trainers.losses import normaliser, policy_loss
    from harness.trainers.optim import adamw, optimiser_step

    model, base = (LlamaForCausalLM.from_pretrained(folder).train() for _ in range(2))
    head, optimiser, log = find_head(model), adamw(model, optim), []
    for step in range(steps):
        if step % per_round == 0:
            rows = recording.rows(step // per_round)
            if per_round > 1:
                rows = with_logprobs(model, rows, "old_logprobs")
            if config.beta:
                rows = with_logprobs(base, rows, "reference_logprobs")
        n_tokens, n_rows = count(rows)
        z = normaliser(config, n_tokens=n_tokens, n_rows=n_rows, max_completion_tokens=MAX_COMPLETION)
        total = 0.0
        for batch in micro_batches(rows, token_budget=1000, skip_weightless=config.may_skip):
            loss, _ = policy_loss(
                completion_logprobs(model, batch, head=head).logprobs_BT,
                batch.mask_BT,
                advantages=batch.weights_B,
                normaliser=z,
                config=config,
                old_logprobs_BT=batch.old_logprobs_BT,
                reference_logprobs_BT=batch.reference_logprobs_BT,
            )
            loss.backward()
            total += float(loss.detach())
        done = optimiser_step(optimiser, step=step, total_steps=steps, config=optim)
        log.append({"loss": total, "grad_norm": done.grad_norm, "learning_rate": done.learning_rate})
    return model, log


@pytest.mark.filterwarnings("ignore:All reward functions returned None")
@pytest.mark.parametrize(
    ("kind", "schedule", "per_round", "beta"),
    [("dapo", "linear", 1, 0.0), ("grpo", "cosine", 2, 0.04), ("dr_grpo", "constant", 1, 0.0)],
)
def test_weights_after_six_steps_are_those_of_trl(
    trainers: SimpleNamespace, tiny_llama: Path, kind: str, schedule: str, per_round: int, beta: float
) -> None:
    import torch

    from harness.trainers.losses import PolicyLoss
    from harness.trainers.optim import Optim

    recording = Recording(rounds=6)
    trainer = trainers.grpo(
        rewards=recording.reward,
        rollout=recording.rollout,
        loss_type=kind,
        num_iterations=per_round,
        beta=beta,
        epsilon_high=0.28,
        max_steps=6,
        logging_steps=1,
        optim="adamw_torch",
        lr_scheduler_type="constant_with_warmup" if schedule == "constant" else schedule,
        max_grad_norm=0.5,
        **OPTIM,
    )
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]

    model, ours = replay(
        tiny_llama,
        recording,
        PolicyLoss(type=kind, beta=beta),
        Optim(schedule=schedule, max_norm=0.5, **OPTIM),
        steps=6,
        per_round=per_round,
    )
    assert len(theirs) == 6
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["learning_rate"] == pytest.approx(other["learning_rate"], rel=1e-9)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-6)
    trained = dict(trainer.model.named_parameters())
    start = dict(type(model).from_pretrained(tiny_llama).named_parameters())
    for name, parameter in model.named_parameters():
        assert (trained[name] - start[name]).abs().max() > 1e-3, "training must have moved it"
        torch.testing.assert_close(parameter, trained[name], rtol=0, atol=1e-5)
