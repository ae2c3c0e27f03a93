"""The decoding loop of the sampler `hf`: `decode` finishes a batch of rows, each with its own random generator.

It needs torch as soon as it is imported: the sampler imports it when it starts to sample. Not handled, all of it speed:
sharing the prefill of equal prompts, refilling the places of finished rows, growing the cache in blocks.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError
from harness.types import Budget

ANCHOR_TOKENS = 8
"""Prompt tokens that are decoded together with a completion, see `_text`."""


@dataclass(kw_only=True, slots=True)
class Row:
    """One completion while it is being sampled."""

    problem_id: str
    index: int
    prompt_ids: list[int]
    room: int
    """Most tokens that it may get."""
    stop: tuple[str, ...] = ()
    ids: list[int] = field(default_factory=list)
    """Sampled tokens, the end token included."""
    logprob: float = 0.0
    text: str = ""
    stop_reason: Literal["stop", "length"] | None = None


def generator(seed: int, problem_id: str, index: int) -> np.random.Generator:
    """The random draws of one completion, whatever else is sampled and in which order."""
    digest = hashlib.sha256(f"{seed}\0{index}\0{problem_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def decode(model: Any, tokenizer: Any, rows: Sequence[Row], budget: Budget) -> Iterator[Row]:
    """Samples `rows` as one batch; yields each when it is finished."""
    live = list(rows)
    ends = {row.stop: _end_ids(tokenizer, model, row.stop) for row in rows}
    draws = [generator(budget.seed, row.problem_id, row.index) for row in rows]
    ids, mask = _left_padded([row.prompt_ids for row in live])
    cache = None
    while live:
        logits, cache = _forward(model, ids, mask, cache)
        chosen, logprobs = _draw(logits, draws, budget)
        for row, token, logprob in zip(live, chosen.tolist(), logprobs.tolist(), strict=True):
            if not math.isfinite(logprob):
                raise InputError(
                    f"the model's logits are not finite on problem {row.problem_id!r} after {len(row.ids)} tokens: "
                    "its weights are broken, or dtype is too narrow for it."
                )
            row.ids.append(token)
            row.logprob += logprob
            _finish(row, tokenizer, ends[row.stop])
        keep = [i for i, row in enumerate(live) if row.stop_reason is None]
        yield from (row for row in live if row.stop_reason is not None)
        if len(keep) < len(live) and keep:
            cache.batch_select_indices(torch.tensor(keep, device=model.device))
        live, draws = [live[i] for i in keep], [draws[i] for i in keep]
        ids = chosen[keep, None]
        mask = torch.cat([mask[keep], torch.ones_like(ids)], dim=1)


def _left_padded(prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, T); the masked places hold token 0."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


# A decorator rather than a block in `decode`: that is a generator, and would leave the mode on in its caller.
@torch.inference_mode()
def _forward(model: Any, ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Logits (B, V) of the next token, in float32 on the CPU, and the grown cache.

    `ids` (B, T) are the tokens that the cache has not seen, `mask` (B, all tokens) covers those that it has, too.
    """
    accepted = inspect.signature(model.forward).parameters
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]  # padding doesn't count
    more: dict[str, Any] = {}
    if "position_ids" in accepted:
        more["position_ids"] = positions.to(model.device)
    if "logits_to_keep" in accepted:
        more["logits_to_keep"] = 1
    output = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=cache,
        use_cache=True,
        **more,
    )
    return output.logits[:, -1].float().cpu(), output.past_key_values


@torch.inference_mode()
def _draw(logits: Tensor, draws: Sequence[np.random.Generator], budget: Budget) -> tuple[Tensor, Tensor]:
    """One token for each row of `logits` (B, V), and its log-probability in nats under the model itself; both (B)."""
    logprobs = logits.log_softmax(dim=-1)  # (B, V)
    if budget.temperature == 0:
        chosen = logprobs.argmax(dim=-1)
    else:
        probabilities = allowed(logprobs.double() / budget.temperature, budget.top_k, budget.top_p).softmax(dim=-1)
        noise = np.stack([draw.standard_exponential(logits.shape[1]) for draw in draws])
        # The first of V exponential clocks with rates p: the Gumbel-max draw. Unlike the inverse of the cumulated
        # probabilities, a rounding error moves it only where two clocks all but tie. No noise is 0: 0/0 would win.
        chosen = (probabilities / torch.from_numpy(noise).clamp(min=1e-300)).argmax(dim=-1)
    return chosen, logprobs.gather(1, chosen[:, None])[:, 0]


def allowed(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """`logits` (B, V) with the tokens that top_k, then top_p, exclude at minus infinity.

    top_k keeps the k likeliest (0: all; ties with the last are kept). top_p keeps the fewest likeliest tokens of those
    left that together have at least that probability, and always one (Holtzman et al. 2020, arXiv 1904.09751).
    """
    if 0 < top_k < logits.shape[-1]:
        last = logits.topk(top_k).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < last, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(dim=-1)
        likelier = probabilities.cumsum(dim=-1) - probabilities  # mass before each token
        logits = torch.empty_like(logits).scatter(1, order, ordered.masked_fill(likelier >= top_p, -torch.inf))
    return logits


def _finish(row: Row, tokenizer: Any, ends: frozenset[int]) -> None:
    """Fills text and stop reason of a row whose last token finishes it; leaves another alone."""
    ended = row.ids[-1] in ends
    full = len(row.ids) >= row.room
    if not (ended or full or row.stop):
        return
    text = _text(tokenizer, row.prompt_ids, row.ids[:-1] if ended else row.ids)
    cuts = [place for place in map(text.find, row.stop) if place >= 0]
    if cuts or ended or full:
        row.text = text[: min(cuts)] if cuts else text
        row.stop_reason = "stop" if cuts or ended else "length"


def _text(tokenizer: Any, prompt_ids: list[int], ids: list[int]) -> str:
    """What `ids` add to the text of the prompt.

    Decoded together with the prompt's end, because many tokenizers drop the space before the first word of what they
    decode, which would change the indentation of a program.
    """
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    anchor = prompt_ids[-ANCHOR_TOKENS:]
    before, whole = tokenizer.decode(anchor, **options), tokenizer.decode(anchor + ids, **options)
    # Bytes that are no UTF-8 can change how the ones before them are shown: no common start then.
    return str(whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids, **options))


def _end_ids(tokenizer: Any, model: Any, stop: Sequence[str]) -> frozenset[int]:
    """Tokens that end a completion: EOS of tokenizer and generation config, and stop strings that are special tokens.

    The last never show in the text, where the other stop strings are looked for.
    """
    configured = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    special = set(tokenizer.all_special_ids)
    ends |= special.intersection(tokenizer.convert_tokens_to_ids(list(stop)))
    return frozenset(token for token in ends if token is not None)
