"""Level 1: our policy losses and their gradients against GRPOTrainer._compute_loss, on the same completions.

TRL has prompts padded on the left and completions on the right, in one batch. Ours go the way of a training step:
`micro_batches` (several, sorted by length, rows without advantage left out) and `completion_logprobs`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow

MAX_COMPLETION = 12
ADVANTAGES = [1.3, -0.7, 0.0, 0.4, -1.1, 2.0, -0.2, 0.9]
BOUNDS = {"cap": 1.5, "floor": 0.6}
SHIFT = [-0.4, 0.3, 0.1, -0.1, 0.4, -0.5, 0.05, 0.2]  # of a whole completion, so that sequence ratios are clipped too
CLIP = {"clip_low": 0.2, "clip_high": 0.28, "cispo_max": 1.2}


def make_rows() -> list[Any]:
    """Eight completions of unequal length, with log-probabilities under four other models, so that all clips act."""
    from harness.trainers.batches import TokenRow

    draw = random.Random(3)
    rows = []
    for place, advantage in enumerate(ADVANTAGES):
        length = (1, 12, 5, 7, 2, 9, 12, 4)[place]
        rows.append(
            TokenRow(
                prompt_ids=[draw.randrange(4, 64) for _ in range(2 + place % 4)],
                completion_ids=[draw.randrange(4, 64) for _ in range(length)],
                weight=advantage,
            )
        )
    return rows


def masked(rows: list[Any]) -> list[Any]:
    """One completion masked whole, as a truncated one, and tokens within two others."""
    rows = list(rows)
    rows[1] = replace(rows[1], mask=[False] * len(rows[1].completion_ids))
    rows[3] = replace(rows[3], mask=[True, False, False, True, True, True, False])
    rows[6] = replace(rows[6], mask=[False] * 3 + [True] * 9)
    return rows


def as_trl(rows: list[Any], ratio: Any) -> dict[str, Any]:
    import torch

    n_prompt, n_completion = (max(len(getattr(r, f)) for r in rows) for f in ("prompt_ids", "completion_ids"))

    def right(values: Any, dtype: Any = torch.long) -> Any:
        return torch.stack([torch.tensor([*v, *[0] * (n_completion - len(v))], dtype=dtype) for v in values])

    prompts = [[0] * (n_prompt - len(r.prompt_ids)) + list(r.prompt_ids) for r in rows]
    truncated = [not r.n_tokens for r in rows]
    inside = right([r.mask or [True] * len(r.completion_ids) for r in rows])
    inputs = {
        "prompt_ids": torch.tensor(prompts),
        "prompt_mask": (torch.tensor(prompts) != 0).long(),
        "completion_ids": right([r.completion_ids for r in rows]),
        "completion_mask": right(
            [[0 if t else 1] * len(r.completion_ids) for r, t in zip(rows, truncated, strict=True)]
        ),
        "tool_mask": inside,
        "advantages": torch.tensor([r.weight for r in rows]),
        "num_items_in_batch": inside.sum(),
    }
    for name, field in (("old_per_token_logps", "old_logprobs"), ("ref_per_token_logps", "reference_logprobs")):
        if getattr(rows[0], field) is not None:
            inputs[name] = right([getattr(row, field) for row in rows], torch.float32)
    if ratio is not None:
        inputs["importance_sampling_ratio"] = ratio
    return inputs


def ours(both: SimpleNamespace, rows: list[Any], config: Any, mode: str, stats: list[Any]) -> tuple[float, Any]:
    """Loss and gradients as a training step computes them; the statistics are added to `stats`."""
    from harness.trainers.batches import count, micro_batches
    from harness.trainers.logprobs import completion_logprobs
    from harness.trainers.losses import normaliser, policy_loss
    from harness.trainers.mismatch import importance_weights

    whole = config.type == "bnpo"  # the one that depends on the grouping
    batches = micro_batches(rows, token_budget=10_000 if whole else 30, skip_weightless=config.may_skip and not whole)
    n_tokens, n_rows = count(rows)
    z = normaliser(
        config,
        n_tokens=n_tokens,
        n_rows=n_rows,
        max_completion_tokens=MAX_COMPLETION,
        n_micro_batches=len(batches),
    )
    both.model.zero_grad()
    total = 0.0
    for batch in batches:
        logprobs = completion_logprobs(both.model, batch, temperature=both.temperature, head=both.head).logprobs_BT
        weights = None
        if mode != "none":
            old = logprobs if batch.old_logprobs_BT is None else batch.old_logprobs_BT
            weights, _ = importance_weights(old, batch.sampler_logprobs_BT, batch.mask_BT, mode=mode, **BOUNDS)
        loss, figures = policy_loss(
            logprobs,
            batch.mask_BT,
            advantages=batch.weights_B,
            normaliser=z,
            config=config,
            old_logprobs_BT=batch.old_logprobs_BT,
            reference_logprobs_BT=batch.reference_logprobs_BT,
            weights=weights,
        )
        loss.backward()
        stats.append(figures)
        total += float(loss.detach())
    return total, gradients(both.model)


def theirs(trainer: Any, rows: list[Any], config: Any, level: str, ratio: Any) -> tuple[float, Any]:
    """TRL's loss and gradients with the same settings."""
    trainer.loss_type, trainer.importance_sampling_level = config.type, level
    trainer.epsilon_low = config.clip_low
    trainer.epsilon_high = config.cispo_max if config.type == "cispo" else config.clip_high
    trainer.beta, trainer.args.delta = config.beta, config.delta
    trainer.args.use_bias_correction_kl = config.kl_bias_correction
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = ratio is not None
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, as_trl(rows, ratio))
    loss.backward()
    return float(loss.detach()), gradients(trainer.model)


def ratios(rows: list[Any], mode: str, now: list[list[float]]) -> Any:
    """What TRL would have computed of the sampler's log-probabilities (test_advantages.py checks that it does)."""
    import torch

    from harness.trainers.batches import collate
    from harness.trainers.mismatch import importance_weights

    if mode == "none":
        return None
    batch = collate(rows, range(len(rows)))
    trainer = torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in now], batch_first=True)
    old = trainer if batch.old_logprobs_BT is None else batch.old_logprobs_BT
    return importance_weights(old, batch.sampler_logprobs_BT, batch.mask_BT, mode=mode, **BOUNDS)[0]


def filled(rows: list[Any], case: dict[str, Any], others: dict[str, Any]) -> list[Any]:
    """The rows with the log-probabilities that the case needs."""
    needed = {"old": case["old"], "reference": case["beta"], "sampler": case["mode"] != "none"}
    return [
        replace(row, **{f"{name}_logprobs": others[name][i] for name, needs in needed.items() if needs})
        for i, row in enumerate(rows)
    ]


def gradients(model: Any) -> dict[str, Any]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def worst(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest relative difference between two sets of gradients, tensor by tensor."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[n] - g).norm() / g.norm().clamp(min=1e-12)) for n, g in theirs.items())


@pytest.fixture(scope="module", params=[1.0, 0.9], ids=["T1", "T0.9"])
def both(request: pytest.FixtureRequest, trainers: SimpleNamespace, tiny_llama: Path) -> SimpleNamespace:
    """TRL's trainer and our copy of its model, at one temperature."""
    from transformers import LlamaForCausalLM

    from harness.trainers.logprobs import find_head

    trainer = trainers.grpo(
        rewards=lambda completions, **_: [0.0] * len(completions), beta=0.04, temperature=request.param
    )
    trainer.current_gradient_accumulation_steps = 1  # set by train(), which we do not call
    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    trainer.model.train(), model.train()
    return SimpleNamespace(trainer=trainer, model=model, head=find_head(model), temperature=request.param)


def lists(both: SimpleNamespace, rows: list[Any], *, noise: float, shift: float, seed: int) -> list[list[float]]:
    """Log-probabilities under another model: this one's, moved by some noise and by the shift of the completion."""
    import torch

    from harness.trainers.batches import collate
    from harness.trainers.logprobs import completion_logprobs

    draw = random.Random(seed)
    with torch.no_grad():
        batch = collate(rows, range(len(rows)))
        found = completion_logprobs(both.model, batch, temperature=both.temperature, head=both.head).logprobs_BT
    moved = [
        [x + shift * SHIFT[i] + draw.uniform(-noise, noise) for x in found[i, : len(row.completion_ids)].tolist()]
        for i, row in enumerate(rows)
    ]
    return [torch.tensor(row, dtype=torch.float32).tolist() for row in moved]


def cases(kind: str) -> Iterator[dict[str, Any]]:
    for old, beta, corrected, mask, delta, mode in itertools.product(
        (False, True),
        (0.0, 0.04),
        (True, False),
        (False, True),
        (None, 1.3),
        ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    ):
        if (corrected or beta) and not (delta and (not old or kind == "cispo")):
            yield {"old": old, "beta": beta, "corrected": corrected, "mask": mask, "delta": delta, "mode": mode}


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"])
def test_loss_and_gradients_are_those_of_trl(both: SimpleNamespace, kind: str, level: str) -> None:
    from harness.trainers.losses import PolicyLoss, summarise

    others = {
        "now": lists(both, make_rows(), noise=0.0, shift=0.0, seed=0),
        "old": lists(both, make_rows(), noise=0.4, shift=1.0, seed=1),
        "sampler": lists(both, make_rows(), noise=0.6, shift=0.1, seed=2),
        "reference": lists(both, make_rows(), noise=0.4, shift=0.5, seed=3),
    }
    stats: list[Any] = []
    for case in cases(kind):
        rows = filled(masked(make_rows()) if case["mask"] else make_rows(), case, others)
        config = PolicyLoss(
            type=kind,
            level=level,
            delta=case["delta"],
            beta=case["beta"],
            kl_bias_correction=case["corrected"],
            **CLIP,
        )
        loss, found = ours(both, rows, config, case["mode"], stats if case["old"] else [])
        expected, wanted = theirs(both.trainer, rows, config, level, ratios(rows, case["mode"], others["now"]))
        assert loss == pytest.approx(expected, abs=1e-6, rel=1e-6), case
        assert worst(found, wanted) < 1e-5, case
    total = summarise(stats)
    assert 0.02 < total["clipped_high"] < 0.6, "clipping must act on some tokens and not on others"
    assert kind == "cispo" or 0.02 < total["clipped_low"] < 0.6
