"""Micro-batches hold every row once and whole, and how rows are grouped changes no gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.trainers.batches import TokenRow, count, micro_batches
from harness.trainers.logprobs import completion_logprobs, find_head
from harness.trainers.losses import PolicyLoss, nll_loss, normaliser, policy_loss

tokens = st.lists(st.integers(1, 40), max_size=12)


@st.composite
def token_rows(draw):
    completion = draw(tokens)
    n = len(completion)
    return TokenRow(
        prompt_ids=draw(st.lists(st.integers(1, 40), min_size=1, max_size=9)),
        completion_ids=completion,
        weight=draw(st.sampled_from([0.0, 1.0, -0.5])),
        mask=draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n)),
        old_logprobs=draw(st.lists(st.floats(-9, 0, width=32), min_size=n, max_size=n)),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(token_rows(), max_size=12), st.integers(1, 60), st.none() | st.integers(1, 3), st.booleans())
def test_every_row_once_and_whole(rows, token_budget, max_rows, skip):
    batches = micro_batches(rows, token_budget=token_budget, max_rows=max_rows, skip_weightless=skip)
    wanted = [i for i, row in enumerate(rows) if not skip or (row.weight and row.n_tokens)]
    assert sorted(place for batch in batches for place in batch.rows) == wanted
    for batch in batches:
        size, longest = batch.input_ids.shape
        assert size == 1 or size * longest <= token_budget
        assert max_rows is None or size <= max_rows
        for i, place in enumerate(batch.rows):
            row, n_prompt = rows[place], len(rows[place].prompt_ids)
            n, end = len(row.completion_ids), len(row.completion_ids) + n_prompt
            assert batch.input_ids[i, :end].tolist() == [*row.prompt_ids, *row.completion_ids]
            assert batch.attention_mask[i].tolist() == [1] * end + [0] * (longest - end)
            assert batch.position_ids[i, :end].tolist() == list(range(end))
            assert int(batch.prompt_lengths_B[i]) == n_prompt
            assert batch.completion_ids_BT[i, :n].tolist() == list(row.completion_ids)
            assert batch.mask_BT[i, :n].tolist() == (row.mask or [True] * n)
            assert not batch.mask_BT[i, n:].any()
            assert batch.old_logprobs_BT[i, :n].tolist() == row.old_logprobs
            assert float(batch.weights_B[i]) == row.weight
    lengths = [batch.input_ids.shape[1] for batch in batches]
    assert lengths == sorted(lengths, reverse=True), "the longest first"


def test_rows_of_similar_length_share_a_batch():
    rows = [TokenRow(prompt_ids=[1], completion_ids=[2] * n) for n in (3, 19, 3, 19, 3, 3)]
    assert [batch.rows for batch in micro_batches(rows, token_budget=40)] == [(1, 3), (0, 2, 4, 5)]


def gradients(model, rows, groups, *, loss="policy", skip=False):
    """Gradients of a step over these groups of rows, each of which is one micro-batch or more."""
    head, config = find_head(model), PolicyLoss(clip_high=10.0)
    n_tokens, n_rows = count(rows)
    z = normaliser(config, n_tokens=n_tokens, n_rows=n_rows)
    model.zero_grad()
    for group in groups:
        for batch in micro_batches([rows[i] for i in group], token_budget=10_000, skip_weightless=skip):
            logprobs = completion_logprobs(model, batch, head=head).logprobs_BT
            if loss == "nll":
                value, _ = nll_loss(logprobs, batch.mask_BT, normaliser=n_tokens)
            else:
                value, _ = policy_loss(logprobs, batch.mask_BT, advantages=batch.weights_B, normaliser=z, config=config)
            value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_close(found, expected, atol):
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=atol * float(gradient.abs().max()))


@pytest.mark.parametrize("loss", ["policy", "nll"])
def test_grouping_changes_no_gradient(llama, rows, loss):
    """1 x 8, 4 x 2 and 8 x 1 with unequal lengths."""
    whole = gradients(llama, rows, [range(8)], loss=loss)
    assert all(gradient.any() for gradient in whole.values())
    for groups in ([(0, 1), (2, 3), (4, 5), (6, 7)], [(i,) for i in range(8)], [(5, 3), (7, 0, 1, 2, 4, 6)]):
        assert_close(gradients(llama, rows, groups, loss=loss), whole, atol=1e-12)


def test_grouping_in_float32(llama, rows):
    single = llama.__class__(llama.config).train()
    single.load_state_dict(llama.state_dict())
    whole = gradients(single, rows, [range(8)])
    assert_close(gradients(single, rows, [(0, 1), (2, 3), (4, 5), (6, 7)]), whole, atol=5e-6)


def test_rows_without_advantage_can_be_left_out(llama, rows):
    assert len(micro_batches(rows, token_budget=10_000, skip_weightless=True)[0].rows) == 6
    assert_close(gradients(llama, rows, [range(8)], skip=True), gradients(llama, rows, [range(8)]), atol=1e-12)


def test_masked_tokens_have_no_gradient(llama, rows):
    """Row 3 is masked whole: tokens that are only there leave their embedding alone, exactly."""
    rows = [replace(row, weight=1.0) for row in rows]
    masked = set(rows[3].completion_ids)
    others = {token for i, row in enumerate(rows) if i != 3 for token in (*row.prompt_ids, *row.completion_ids)}
    only = sorted(masked - others - set(rows[3].prompt_ids))
    assert only, "the rows must be drawn so that there are such tokens"
    found = gradients(llama, rows, [range(8)])["model.embed_tokens.weight"]
    assert not found[only].any()
    unmasked = [replace(row, mask=None) for row in rows]
    assert gradients(llama, unmasked, [range(8)])["model.embed_tokens.weight"][only].any(-1).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": []}, "row 1 has an empty prompt"),
        ({"mask": [True]}, "row 1 has 2 completion tokens and 1 values in mask"),
        ({"sampler_logprobs": [0.0] * 3}, "3 values in sampler_logprobs"),
        ({"old_logprobs": [0.0, 0.0]}, "1 of 2 rows have old_logprobs"),
    ],
)
def test_errors_say_what_to_do(change, message):
    rows = [TokenRow(prompt_ids=[1], completion_ids=[2, 3])] * 2
    rows[1] = replace(rows[1], **change)
    with pytest.raises(InputError, match=message):
        micro_batches(rows, token_budget=10)
    with pytest.raises(InputError, match="must be from 1"):
        micro_batches(rows[:1], token_budget=0)
