"""From rows of tokens to micro-batches: sorted by length, padded on the right, as many rows as fit a budget of tokens.

`micro_batches(rows, token_budget=...)` is the main function. Prompt and completion stand together and the padding
comes after, so that a token has the same position as when it was sampled, also in models with learned positions; a
causal model does not see what comes later. Rows of similar length share a batch, so little is padding. The order is a
function of the rows alone.

What belongs to completion tokens is (B, T): T the longest completion of the batch, place t the t-th token of each.

Rows without weight can be left out (`skip_weightless`): they have no gradient. The normaliser of the loss must count
them all the same: take it from `count` of all rows.

Not handled: packing several rows into one sequence (on a CPU its mask costs more than the padding); images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One completion to learn from, as tokens."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    weight: float = 1.0
    """The weight of an imitated row, or the advantage of a sampled one."""
    mask: Sequence[bool] | None = None
    """Which completion tokens count; None: all. A truncated completion is masked whole: `[False] * length`."""
    old_logprobs: Sequence[float] | None = None
    """By the trainer, when the completion was drawn; one per completion token, as are the two below."""
    sampler_logprobs: Sequence[float] | None = None
    """By the sampler; NaN = not known."""
    reference_logprobs: Sequence[float] | None = None
    """By the reference model."""

    @property
    def n_tokens(self) -> int:
        """Completion tokens that count."""
        return len(self.completion_ids) if self.mask is None else sum(map(bool, self.mask))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one forward pass. L: the longest prompt and completion together, T: the longest completion."""

    rows: tuple[int, ...]
    """The places of these rows in what was given to `micro_batches`."""
    input_ids: Tensor
    """(B, L)"""
    attention_mask: Tensor
    """(B, L) 1 for tokens, 0 for padding."""
    position_ids: Tensor
    """(B, L) 0, 1, 2 ... in each row; padding repeats the last."""
    prompt_lengths_B: Tensor
    completion_ids_BT: Tensor
    """0 where there is none."""
    mask_BT: Tensor
    """True for the completion tokens that count."""
    weights_B: Tensor
    """float32."""
    old_logprobs_BT: Tensor | None
    """0 beyond the completion; so are the two below. None if no row has them."""
    sampler_logprobs_BT: Tensor | None
    reference_logprobs_BT: Tensor | None

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        tensors: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def count(rows: Iterable[TokenRow]) -> tuple[int, int]:
    """(tokens that count, rows): what `losses.normaliser` asks for."""
    tokens = [row.n_tokens for row in rows]
    return sum(tokens), len(tokens)


def micro_batches(
    rows: Sequence[TokenRow],
    *,
    token_budget: int,
    max_rows: int | None = None,
    skip_weightless: bool = False,
    pad_id: int = 0,
) -> list[Batch]:
    """All rows in batches of at most `token_budget` tokens, padding included (rows x longest row).

    Args:
        rows: what to learn from.
        token_budget: a row longer than this has a batch of its own.
        max_rows: at most so many rows in a batch.
        skip_weightless: leave out rows whose weight is 0 or whose tokens are all masked.
        pad_id: any token of the vocabulary: it is masked.

    Returns:
        Batches, the longest rows first, so that a lack of memory shows at once.

    Raises:
        InputError: an empty prompt, a mask or log-probabilities of another length than the completion, or a field that
            only some of the rows have.
    """
    if token_budget < 1 or (max_rows is not None and max_rows < 1):
        raise InputError(f"token_budget {token_budget} and max_rows {max_rows} must be from 1.")
    for place, row in enumerate(rows):
        _check(row, place)
    for name in ("old_logprobs", "sampler_logprobs", "reference_logprobs"):
        having = sum(getattr(row, name) is not None for row in rows)
        if having not in (0, len(rows)):
            raise InputError(f"{having} of {len(rows)} rows have {name}: give it for all rows or for none.")
    places = [p for p, row in enumerate(rows) if not skip_weightless or (row.weight != 0 and row.n_tokens)]
    places.sort(key=lambda place: (-_length(rows[place]), place))
    batches: list[list[int]] = []
    for place in places:
        full = len(batches[-1]) + 1 if batches else 0
        if full and full * _length(rows[batches[-1][0]]) <= token_budget and (max_rows is None or full <= max_rows):
            batches[-1].append(place)
        else:
            batches.append([place])
    return [collate(rows, batch, pad_id=pad_id) for batch in batches]


def collate(rows: Sequence[TokenRow], places: Sequence[int], *, pad_id: int = 0) -> Batch:
    """The rows at these places as one batch, in this order. `micro_batches` has checked them."""
    chosen = [rows[place] for place in places]
    n_prompt = [len(row.prompt_ids) for row in chosen]
    lengths = torch.tensor([_length(row) for row in chosen])
    position_L = torch.arange(int(lengths.max()))

    def tokens(of: Iterable[Sequence[int]]) -> Tensor:
        return _pad([torch.tensor(list(ids), dtype=torch.long) for ids in of], pad_id)

    def numbers(name: str) -> Tensor | None:
        values = [getattr(row, name) for row in chosen]
        if values[0] is None:
            return None
        return _pad([torch.tensor(list(each), dtype=torch.float32) for each in values], 0.0)

    masks = [[True] * len(row.completion_ids) if row.mask is None else list(map(bool, row.mask)) for row in chosen]
    return Batch(
        rows=tuple(places),
        input_ids=tokens([*row.prompt_ids, *row.completion_ids] for row in chosen),
        attention_mask=(position_L < lengths[:, None]).long(),
        position_ids=torch.minimum(position_L, lengths[:, None] - 1),
        prompt_lengths_B=torch.tensor(n_prompt),
        completion_ids_BT=_pad([torch.tensor(list(row.completion_ids), dtype=torch.long) for row in chosen], 0),
        mask_BT=_pad([torch.tensor(mask, dtype=torch.bool) for mask in masks], False),
        weights_B=torch.tensor([row.weight for row in chosen], dtype=torch.float32),
        old_logprobs_BT=numbers("old_logprobs"),
        sampler_logprobs_BT=numbers("sampler_logprobs"),
        reference_logprobs_BT=numbers("reference_logprobs"),
    )


def _length(row: TokenRow) -> int:
    return len(row.prompt_ids) + len(row.completion_ids)


def _pad(tensors: list[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def _check(row: TokenRow, place: int) -> None:
    if not row.prompt_ids:
        raise InputError(f"row {place} has an empty prompt: nothing predicts its first token; begin it with a BOS.")
    for name in ("mask", "old_logprobs", "sampler_logprobs", "reference_logprobs"):
        values = getattr(row, name)
        if values is not None and len(values) != len(row.completion_ids):
            raise InputError(
                f"row {place} has {len(row.completion_ids)} completion tokens and {len(values)} values in {name}: "
                "there must be one for each."
            )
