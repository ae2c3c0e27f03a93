"""Level 4: the other losses and their gradients: SFT against transformers' own loss, RLOO and DPO against TRL's."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ADVANTAGES = [1.3, -0.7, 0.0, 0.4, -1.1, 2.0, -0.2, 0.9]


def make_rows(n: int, seed: int) -> list[Any]:
    from harness.trainers.batches import TokenRow

    draw = random.Random(seed)
    return [
        TokenRow(
            prompt_ids=[draw.randrange(4, 64) for _ in range(2 + i // 2 % 3)],
            completion_ids=[draw.randrange(4, 64) for _ in range(1 + draw.randrange(11))],
            weight=ADVANTAGES[i],
        )
        for i in range(n)
    ]


def right_padded(rows: list[list[int]], fill: int = 0) -> Any:
    import torch

    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


def as_labelled(rows: list[Any]) -> dict[str, Any]:
    """Prompt and completion in one row, as transformers and DPOTrainer take them."""
    whole = [[*row.prompt_ids, *row.completion_ids] for row in rows]
    return {
        "input_ids": right_padded(whole),
        "attention_mask": right_padded([[1] * len(row) for row in whole]),
        "completion_mask": right_padded([[0] * len(r.prompt_ids) + [1] * len(r.completion_ids) for r in rows]),
    }


def load(folder: Path, *, moved: bool = False) -> Any:
    """The tiny model; moved: away from the reference model, as if trained."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).train()
    if moved:
        draw = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.03 * torch.randn(parameter.shape, generator=draw)
    return model


def assert_same(ours: Any, theirs: Any) -> None:
    """Gradients of the two models, tensor by tensor."""
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert other.grad.norm() > 0
        assert float((mine.grad - other.grad).norm() / other.grad.norm()) < 1e-5, name


@pytest.mark.parametrize("token_budget", [1, 30, 1000])
def test_sft_is_the_loss_of_transformers(tiny_llama: Path, token_budget: int) -> None:
    from harness.trainers.batches import count, micro_batches
    from harness.trainers.logprobs import completion_logprobs, find_head
    from harness.trainers.losses import nll_loss

    rows = make_rows(8, seed=1)
    theirs, ours = load(tiny_llama), load(tiny_llama)
    n_tokens, _ = count(rows)
    inputs = as_labelled(rows)
    labels = inputs["input_ids"].masked_fill(inputs.pop("completion_mask") == 0, -100)
    expected = theirs(**inputs, labels=labels, num_items_in_batch=n_tokens).loss
    expected.backward()

    head, total = find_head(ours), 0.0
    for batch in micro_batches(rows, token_budget=token_budget):
        scores = completion_logprobs(ours, batch, head=head)
        loss, _ = nll_loss(scores.logprobs_BT, batch.mask_BT, normaliser=n_tokens)
        loss.backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(expected.detach()), abs=1e-6)
    assert_same(ours, theirs)


def test_rloo_is_the_loss_of_trl(trainers: SimpleNamespace, tiny_llama: Path) -> None:
    import torch

    from harness.trainers.batches import collate, count, micro_batches
    from harness.trainers.logprobs import completion_logprobs, find_head
    from harness.trainers.losses import PolicyLoss, normaliser, policy_loss, sequence_logprobs, summarise

    trainer = trainers.rloo(rewards=lambda completions, **_: [0.0] * len(completions), beta=0.0, epsilon_high=0.28)
    trainer.model.train()
    ours = load(tiny_llama)
    head = find_head(ours)
    rows = make_rows(8, seed=2)
    whole = collate(rows, range(8))
    with torch.no_grad():
        now_BT = completion_logprobs(ours, whole, head=head).logprobs_BT
    shift_B = torch.tensor([-0.5, 0.4, 0.1, 0.05, 0.3, -0.1, 0.2, 0.3])
    old_BT = now_BT + shift_B[:, None] / whole.mask_BT.sum(-1, keepdim=True)  # so much over a whole completion
    trainer_inputs = {
        "prompt_ids": right_padded([row.prompt_ids[::-1] for row in rows]).flip(1),
        "prompt_mask": right_padded([[1] * len(row.prompt_ids) for row in rows]).flip(1),
        "completion_ids": whole.completion_ids_BT,
        "completion_mask": whole.mask_BT.long(),
        "old_logps": sequence_logprobs(old_BT, whole.mask_BT),
        "advantages": whole.weights_B,
    }
    expected = trainer._compute_loss(trainer.model, trainer_inputs)
    expected.backward()

    config = PolicyLoss(type="rloo")
    n_tokens, n_rows = count(rows)
    z = normaliser(config, n_tokens=n_tokens, n_rows=n_rows)
    total, stats = 0.0, []
    for batch in micro_batches(rows, token_budget=30, skip_weightless=True):
        old = old_BT[list(batch.rows), : batch.mask_BT.shape[1]]
        logprobs = completion_logprobs(ours, batch, head=head).logprobs_BT
        loss, figures = policy_loss(
            logprobs, batch.mask_BT, advantages=batch.weights_B, normaliser=z, config=config, old_logprobs_BT=old
        )
        loss.backward()
        stats.append(figures)
        total += float(loss.detach())
    assert total == pytest.approx(float(expected.detach()), abs=1e-6)
    assert_same(ours, trainer.model)
    assert summarise(stats)["clipped_high"] > 0
    assert summarise(stats)["clipped_low"] > 0


def test_dpo_is_the_loss_of_trl(trainers: SimpleNamespace, tiny_llama: Path) -> None:
    import torch
    from datasets import Dataset

    from harness.trainers.batches import collate
    from harness.trainers.logprobs import completion_logprobs, find_head
    from harness.trainers.losses import dpo_loss, sequence_logprobs

    unused = Dataset.from_list([{"prompt": "t4", "chosen": " t5", "rejected": " t6"}] * 8)
    trainer = trainers.dpo(dataset=unused, beta=0.3)
    trainer.model.load_state_dict(load(tiny_llama, moved=True).state_dict())
    trainer.model.train()
    pairs = make_rows(8, seed=3)  # TRL has the chosen ones first, then the rejected ones
    pairs = [*pairs[0::2], *pairs[1::2]]
    expected = trainer._compute_loss(trainer.model, as_labelled(pairs), return_outputs=False)
    expected.backward()

    ours, reference = load(tiny_llama, moved=True), load(tiny_llama)
    head = find_head(ours)
    with torch.no_grad():
        all_pairs = collate(pairs, range(8))
        reference_B = sequence_logprobs(
            completion_logprobs(reference, all_pairs, head=find_head(reference)).logprobs_BT, all_pairs.mask_BT
        )
    total = 0.0
    for places in ([0, 1, 4, 5], [2, 3, 6, 7]):  # two micro-batches of two pairs
        batch = collate(pairs, places)
        sums_B = sequence_logprobs(completion_logprobs(ours, batch, head=head).logprobs_BT, batch.mask_BT)
        chosen_B, rejected_B = sums_B.chunk(2)
        reference_chosen_B, reference_rejected_B = reference_B[places].chunk(2)
        loss, _ = dpo_loss(
            chosen_B,
            rejected_B,
            reference_chosen_B=reference_chosen_B,
            reference_rejected_B=reference_rejected_B,
            normaliser=4,
            beta=0.3,
        )
        loss.backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(expected.detach()), abs=1e-6)
    assert abs(total - 0.6931) > 0.01, "the two models must differ"
    assert_same(ours, trainer.model)
