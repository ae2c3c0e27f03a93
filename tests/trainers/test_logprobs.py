"""Log-probabilities of completions against the full forward pass of each completion alone, without padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.errors import InputError
from harness.trainers.batches import collate
from harness.trainers.logprobs import completion_logprobs, find_head

N_VOCAB = 48
FAMILIES = ["Qwen2", "GPT2", "OPT", "Gemma2", "GPTNeoX", "Cohere", "Granite", "Bloom"]


def alone(model, rows, temperature):
    """(log-probability, entropy) of every completion token that counts, one completion at a time."""
    logprobs, entropies = [], []
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        log_p = (model(input_ids=ids, use_cache=False).logits[0] / temperature).log_softmax(-1)  # (L, V)
        for t, token in enumerate(row.completion_ids):
            if row.mask is None or row.mask[t]:
                at = log_p[len(row.prompt_ids) + t - 1]
                logprobs.append(at[token])
                entropies.append(-(at.exp() * at).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", ["Llama", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)])
def test_every_family_gives_what_its_full_forward_gives(build, name, temperature, rows):
    model = build(name)
    head = find_head(model)
    assert head is not None, "the output layer of this family is known"
    expected, entropy = alone(model, rows, temperature)
    weights = torch.linspace(-1, 1, len(expected), dtype=torch.float64)
    model.zero_grad()
    (expected * weights + entropy * weights.flip(0)).sum().backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    batch = collate(rows, range(8))
    ways = {
        "all at once": {"head": head},
        "in chunks": {"head": head, "chunk": 5, "logit_bytes": 0},
        "by the model": {"head": None},
    }
    for way, settings in ways.items():
        model.zero_grad()
        scores = completion_logprobs(model, batch, temperature=temperature, entropy=True, **settings)
        assert scores.logprobs_BT.shape == (8, 12), way
        torch.testing.assert_close(scores.logprobs_BT[batch.mask_BT], expected, rtol=1e-9, atol=1e-9, msg=way)
        torch.testing.assert_close(scores.entropy_BT[batch.mask_BT], entropy, rtol=1e-9, atol=1e-9, msg=way)
        assert not scores.logprobs_BT[~batch.mask_BT].any()
        bonus = scores.entropy_BT[batch.mask_BT] * weights.flip(0)
        (scores.logprobs_BT[batch.mask_BT] * weights + bonus).sum().backward()
        for n, p in model.named_parameters():
            if n in wanted:
                # Gemma and Cohere normalise in float32 whatever the weights are; 1e-12: the bias of keys has none
                atol = 1e-6 * float(wanted[n].abs().max()) + 1e-12
                torch.testing.assert_close(p.grad, wanted[n], rtol=0, atol=atol, msg=f"{way}: {n}")


class Widest(TorchDispatchMode):
    """Remembers the most rows of any tensor as wide as the vocabulary."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and tensor.shape[-1] == N_VOCAB:
                self.rows = max(self.rows, tensor.numel() // N_VOCAB)
        return result


def test_no_more_logits_than_a_chunk_exist_at_a_time(build, rows):
    model = build("Llama", hidden_size=8, intermediate_size=16)  # fewer than a chunk: the output layer does not count
    head, batch = find_head(model), collate(rows, range(8))
    assert int(batch.mask_BT.sum()) == 35
    for settings, most in (({"logit_bytes": 0, "chunk": 10}, 10), ({}, 35)):
        with Widest() as seen:
            completion_logprobs(model, batch, head=head, **settings).logprobs_BT.sum().backward()
        assert seen.rows == most
    with Widest() as seen:
        model(input_ids=batch.input_ids)
    assert seen.rows == batch.input_ids.numel(), "what the model itself would hold"


def test_half_precision_weights_get_float32_logits(build, rows):
    model = build("Llama").bfloat16()
    head, batch = find_head(model), collate(rows, range(8))
    with torch.no_grad():
        found = completion_logprobs(model, batch, head=head).logprobs_BT
        hidden = model.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).last_hidden_state
        log_p = (hidden.float() @ model.lm_head.weight.float().T).log_softmax(-1)  # (B, L, V)
    assert found.dtype == torch.float32
    row, step = batch.mask_BT.nonzero(as_tuple=True)
    exact = log_p[row, batch.prompt_lengths_B[row] + step - 1, batch.completion_ids_BT[row, step]]
    torch.testing.assert_close(found[row, step], exact, rtol=1e-5, atol=1e-5)  # bfloat16 logits would be off by 1e-2


def test_an_output_layer_that_is_not_understood_is_left_to_the_model(build, rows):
    model = build("Llama")
    forward = model.forward

    def odd(input_ids, attention_mask=None, position_ids=None, use_cache=None):
        output = forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache)
        return replace(output, logits=output.logits.sign() * output.logits.abs() ** 0.5)

    model.forward = odd
    assert find_head(model) is None
    expected, _ = alone(model, rows, 1.0)
    batch = collate(rows, range(8))
    torch.testing.assert_close(completion_logprobs(model, batch).logprobs_BT[batch.mask_BT], expected)


def test_dropout_does_not_hide_the_head(build):
    assert find_head(build("Llama", attention_dropout=0.5)) is not None


def test_finding_the_head_leaves_the_model_as_it_was(llama):
    llama.model.layers[0].eval()
    before = [module.training for module in llama.modules()]
    find_head(llama)
    assert [module.training for module in llama.modules()] == before
    assert len(set(before)) == 2


def test_a_batch_without_tokens_has_a_gradient_of_zero(llama, rows):
    batch = collate([rows[3]], [0])
    llama.zero_grad()
    for head in (find_head(llama), None):
        scores = completion_logprobs(llama, batch, head=head, entropy=True)
        scores.logprobs_BT.sum().backward()
        assert not any(p.grad is not None and p.grad.any() for p in llama.parameters())


def test_impossible_tokens_have_entropy_zero_not_nan(build, rows):
    model = build("Llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
        scores = completion_logprobs(model, collate(rows, range(8)), head=find_head(model), entropy=True)
    assert torch.isfinite(scores.entropy_BT).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_above_0(llama, rows, temperature):
    with pytest.raises(InputError, match="need one above 0"):
        completion_logprobs(llama, collate(rows, range(8)), temperature=temperature)
