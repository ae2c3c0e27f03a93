"""One token for each row of a decoding batch: `draw`, with random numbers that belong to the row alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.types import Budget


class Drawn(NamedTuple):
    """What `draw` gives, each (B)."""

    tokens: list[int]
    own: list[float]
    """Log-probabilities of the tokens under the model itself, in nats."""
    tempered: list[float]
    """The same at the budget's temperature, before top_k and top_p (equal to `own` for a greedy choice)."""


def generator(seed: int, problem_id: str, index: int) -> np.random.Generator:
    """The random draws of one completion, whatever else is sampled and in which order."""
    digest = hashlib.sha256(f"{seed}\0{index}\0{problem_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def draw(logits: Tensor, generators: Sequence[np.random.Generator | None], budget: Budget) -> Drawn:
    """One token for each row of `logits` (B, V) in float32, from the row's own generator (None: of no interest).

    A token is drawn by two Gumbel-max races, one over blocks of the vocabulary and one within the block that won, which
    is the same distribution as one over all tokens for a fraction of the random numbers. Unlike the inverse of the
    cumulated probabilities, a rounding error of the logits moves it only where two runners all but tie.
    """
    if budget.temperature == 0:
        tokens = logits.argmax(dim=-1)
        own = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        return Drawn(tokens.tolist(), own.tolist(), own.tolist())
    tempered = logits if budget.temperature == 1 else logits / budget.temperature
    limited = allowed(tempered, budget.top_k, budget.top_p)
    size = 1 << math.ceil(math.log2(max(2, logits.shape[1])) / 2)  # about the root: fewest random numbers
    short = -logits.shape[1] % size
    whole = torch.nn.functional.pad(limited, (0, short), value=-torch.inf) if short else limited
    blocks = whole.reshape(len(logits), -1, size)  # (B, blocks, size)
    masses = blocks.logsumexp(dim=-1)  # (B, blocks)
    noise = _gumbel(generators, masses.shape[1] + size).to(logits.device)
    won = (masses + noise[:, : masses.shape[1]]).argmax(dim=-1)
    within = (blocks[torch.arange(len(logits)), won] + noise[:, masses.shape[1] :]).argmax(dim=-1)
    tokens = won * size + within
    total = masses.logsumexp(dim=-1) if limited is tempered else tempered.logsumexp(dim=-1)
    of_tempered = tempered.gather(1, tokens[:, None])[:, 0] - total
    own = of_tempered
    if budget.temperature != 1:
        own = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
    return Drawn(tokens.tolist(), own.tolist(), of_tempered.tolist())


def _gumbel(generators: Sequence[np.random.Generator | None], n: int) -> Tensor:
    """Standard Gumbel noise (B, n), in float32."""
    noise = np.ones((len(generators), n), dtype=np.float32)
    for each, row in zip(generators, noise, strict=True):
        if each is not None:
            each.standard_exponential(out=row, dtype=np.float32)
    return torch.from_numpy(-np.log(np.maximum(noise, 1e-30)))


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
