"""How far a checkpoint has gone from the base model, and how sure of itself it is: `drift(checkpoint, base, ...)`.

On completions y that the checkpoint p drew at temperature 1, with q the base model and y_<t what stands before token t,

    KL(p || q) = E_y sum_t KL( p(. | x, y_<t) || q(. | x, y_<t) ),      H = E_y sum_t H( p(. | x, y_<t) )

The divergence and the entropy at each position are exact, over the whole vocabulary; only the positions are drawn. This
is the Rao-Blackwell form of the usual estimate, the mean of log p(y) - log q(y) (k1): unbiased too, never negative, and
of less variance (Amini, Vieira & Cotterell 2025, arXiv 2504.10637). The tokens that were drawn do not enter. For a
checkpoint that is the base model every term is exactly 0.

Not handled: completions that were drawn at another temperature or with top_p or top_k (they are at positions of another
policy); texts that the model wrote in other tokens than its tokenizer would (their positions are the tokenizer's); what
comes after max_tokens (of a completion that was cut off, only the part that is there counts).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.trainers.batches import Batch, TokenRow, micro_batches
from harness.trainers.lm import LM, autocast, completion_ids, open_model, pass_tokens, prompt_ids
from harness.trainers.logprobs import log_distributions
from harness.types import Completion

MOST = 256
"""Completions that are looked at: the standard error of a mean of so many is 6 % of their deviation."""
PASS_TOKENS = 8192
"""Tokens that go through a model together, padding included; fewer on a CPU (`lm.pass_tokens`)."""


def drift(
    checkpoint: Path,
    base: Path,
    completions: Sequence[Completion],
    prompts: Mapping[str, str],
    *,
    most: int = MOST,
    device: str | None = None,
    dtype: str = "auto",
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
) -> dict[str, float | None]:
    """Divergence from the base model, entropy and length, on at most `most` of the completions.

    Which ones depends on problem ids and indices alone: two checkpoints are compared on the same problems.

    Args:
        checkpoint: folder of the model that drew the completions, at temperature 1.
        base: folder of the model that it is compared with.
        completions: as the sampler gave them, texts whole.
        prompts: by problem id, `context + prompt`.
        most: so many completions.
        device: as for `lm.open_model`, and so are the next three; the sampler's own.
        dtype: of passes through the models.
        apply_chat_template: None: where the tokenizer has one.
        system_instruction: before every prompt.

    Returns:
        "kl_to_base": nats per completion, the estimate of KL(p || q); "kl_per_token": the same sum, per position;
        "entropy": nats per position; "tokens": positions per completion, that of the end token included. The divergence
        is None where the two models have different vocabularies, all are None where there is no completion.

    Raises:
        InputError: a folder that holds no such model.
        KeyError: a completion without a prompt.
    """
    chosen = sorted(completions, key=_order)[:most]
    options = {
        "device": device,
        "dtype": dtype,
        "apply_chat_template": apply_chat_template,
        "system_instruction": system_instruction,
    }
    policy = _frozen(open_model(checkpoint, **options))
    rows = [row for row in (_row(policy, one, prompts[one.problem_id]) for one in chosen) if row.completion_ids]
    if not rows:
        return dict.fromkeys(("kl_to_base", "kl_per_token", "entropy", "tokens"))
    reference = policy if checkpoint.resolve() == base.resolve() else _frozen(open_model(base, **options))
    comparable = policy.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
    kl, entropy = _sums(policy, reference if comparable else None, rows)
    n_tokens = sum(row.n_tokens for row in rows)
    return {
        "kl_to_base": kl / len(rows) if comparable else None,
        "kl_per_token": kl / n_tokens if comparable else None,
        "entropy": entropy / n_tokens,
        "tokens": n_tokens / len(rows),
    }


def _order(one: Completion) -> bytes:
    return hashlib.sha256(f"{one.problem_id}\0{one.index}".encode()).digest()


def _frozen(lm: LM) -> LM:
    """In the dtype of its passes, without dropout and gradients."""
    lm.model.requires_grad_(False).to(lm.compute).eval()
    return lm


def _row(lm: LM, one: Completion, prompt: str) -> TokenRow:
    """The completion as tokens, cut where the model's context ends.

    The last place is where the model chose to end, whichever end token or stop string it took: the distribution there
    does not depend on it.
    """
    before = prompt_ids(lm, prompt, one.problem_id)
    ids = completion_ids(lm, before, one.text, complete=one.stop_reason != "length")
    room = None if lm.context is None else max(lm.context - len(before), 0)
    return TokenRow(prompt_ids=before, completion_ids=ids[:room])


@torch.no_grad()
def _sums(policy: LM, reference: LM | None, rows: Sequence[TokenRow]) -> tuple[float, float]:
    """KL and entropy in nats, summed over all positions of all rows; a KL of 0 where there is no reference."""
    kl, entropy = [], []
    for each in micro_batches(rows, token_budget=pass_tokens(policy, PASS_TOKENS)):
        batch = each.to(policy.device)
        others = itertools.repeat(None) if reference is None else _distributions(reference, batch)
        for log_p_NV, log_q_NV in zip(_distributions(policy, batch), others, strict=False):
            p_NV = log_p_NV.exp()
            entropy.append(-(p_NV * log_p_NV).sum(-1).double().sum())
            if log_q_NV is not None:
                # rounding may put a position's sum, which is never negative, some 1e-7 below 0
                kl.append((p_NV * (log_p_NV - log_q_NV)).sum(-1).clamp(min=0).double().sum())
    return _total(kl), _total(entropy)


def _distributions(lm: LM, batch: Batch) -> Iterator[Tensor]:
    with autocast(lm):
        found: Iterator[Tensor] = log_distributions(lm.model, batch, head=lm.head)
        return found


def _total(sums: Sequence[Tensor]) -> float:
    return math.fsum(torch.stack(list(sums)).tolist()) if sums else 0.0
