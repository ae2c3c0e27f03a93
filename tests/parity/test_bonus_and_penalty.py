"""Level 4: the entropy bonus against GRPOTrainer's loss, KL in the reward against RLOOTrainer's advantages."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BETA = 0.3


def rows_of(seed: int) -> list[Any]:
    from harness.trainers.batches import TokenRow

    draw = random.Random(seed)
    return [
        TokenRow(
            prompt_ids=[4 + i // 4] * (1 + i // 4),
            completion_ids=[draw.randrange(4, 64) for _ in range(1 + draw.randrange(11))],
            weight=draw.uniform(-1, 1),
        )
        for i in range(8)
    ]


def load(folder: Path, *, moved: bool = False) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).train()
    if moved:
        draw = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.03 * torch.randn(parameter.shape, generator=draw)
    return model


def padded(rows: list[list[int]], *, left: bool = False) -> Any:
    import torch

    flipped = [torch.tensor(row[::-1] if left else row) for row in rows]
    filled = torch.nn.utils.rnn.pad_sequence(flipped, batch_first=True)
    return filled.flip(1) if left else filled


def test_the_entropy_bonus_is_that_of_trl(trainers: SimpleNamespace, tiny_llama: Path) -> None:
    from harness.trainers.batches import count, micro_batches
    from harness.trainers.logprobs import completion_logprobs, find_head
    from harness.trainers.losses import PolicyLoss, normaliser, policy_loss

    rows = rows_of(4)
    n_tokens, n_rows = count(rows)
    trainer = trainers.grpo(
        rewards=lambda completions, **_: [0.0] * len(completions), entropy_coef=0.2, epsilon_high=0.28
    )
    trainer.current_gradient_accumulation_steps = 1  # set by train(), which we do not call
    trainer.model.train()
    ours = load(tiny_llama)
    completions = [list(row.completion_ids) for row in rows]
    prompts = [list(row.prompt_ids) for row in rows]
    inputs = {
        "prompt_ids": padded(prompts, left=True),
        "prompt_mask": padded([[1] * len(row) for row in prompts], left=True),
        "completion_ids": padded(completions),
        "completion_mask": padded([[1] * len(row) for row in completions]),
        "advantages": padded([[row.weight] for row in rows])[:, 0],  # type: ignore[list-item]
        "num_items_in_batch": padded([[n_tokens]])[0, 0],
    }
    expected = trainer._compute_loss(trainer.model, inputs)
    expected.backward()

    head, total = find_head(ours), 0.0
    config = PolicyLoss(entropy=0.2)
    for batch in micro_batches(rows, token_budget=30, skip_weightless=config.may_skip):
        scores = completion_logprobs(ours, batch, head=head, entropy=True)
        loss, _ = policy_loss(
            scores.logprobs_BT,
            batch.mask_BT,
            advantages=batch.weights_B,
            normaliser=normaliser(config, n_tokens=n_tokens, n_rows=n_rows),
            config=config,
            entropy_BT=scores.entropy_BT,
        )
        loss.backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(expected.detach()), abs=2e-6)
    for (name, mine), other in zip(ours.named_parameters(), trainer.model.parameters(), strict=True):
        assert other.grad.norm() > 0
        assert float((mine.grad - other.grad).norm() / other.grad.norm()) < 1e-5, name


def test_rewards_less_the_divergence_give_the_advantages_of_trl(trainers: SimpleNamespace, tiny_llama: Path) -> None:
    import torch

    from harness.recipes import OnPolicy
    from harness.trainers.batches import collate
    from harness.trainers.ledger import rewards_of
    from harness.trainers.logprobs import completion_logprobs, find_head
    from harness.trainers.losses import PolicyLoss
    from harness.trainers.on_policy import advantages_of, penalised
    from harness.trainers.rollouts import Rollout

    rows, rewards = rows_of(5), [1.0, 0.0, None, 0.5, 0.0, 0.0, 0.25, 1.0]
    trainer = trainers.rloo(rewards=lambda completions, **_: rewards, beta=BETA, normalize_advantages=False)
    trainer.model.load_state_dict(load(tiny_llama, moved=True).state_dict())
    trainer.model.train()
    prompts, completions = [list(r.prompt_ids) for r in rows], [list(r.completion_ids) for r in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_generate", lambda given: (prompts, completions, [""] * 8))
        expected = trainer._generate_and_score_completions([{"prompt": f"t{4 + i // 4}"} for i in range(8)])

    batch = collate(rows, range(8))
    with torch.no_grad():
        now_BT, reference_BT = (
            completion_logprobs(model, batch, head=find_head(model)).logprobs_BT
            for model in (load(tiny_llama, moved=True), load(tiny_llama))
        )
    made = [
        Rollout(
            problem_id=str(i // 4),
            index=i % 4,
            prompt_ids=prompts[i],
            ids=completions[i],
            logprobs=now_BT[i, : len(completions[i])].tolist(),
            text="",
            truncated=False,
            passed=None,
            reward=rewards[i],
            terms={},
            reference_logprobs=reference_BT[i, : len(completions[i])].tolist(),
        )
        for i in range(8)
    ]
    loss = PolicyLoss(type="rloo", beta=BETA, kl_in_reward=True)
    reward_PG = penalised(rewards_of(made, 4), made, loss)
    found = advantages_of(reward_PG, OnPolicy(advantage="leave_one_out")).ravel()
    without = advantages_of(rewards_of(made, 4), OnPolicy(advantage="leave_one_out")).ravel()
    assert abs(found - without).max() > 0.1, "the two models must differ"
    assert found[2] == 0.0
    assert found == pytest.approx(expected["advantages"].numpy(), abs=2e-5)
