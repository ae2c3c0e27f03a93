"""When the sampler computes other probabilities than the trainer: weights that correct for it, figures that show it.

A sampler with other kernels or another precision draws from mu, the trainer computes pi for the same weights. With
D = log pi - log mu of a drawn token, the exact correction is the weight exp(D) for one token, exp(sum_t D) for all of a
completion; both have a heavy tail, so they are cut (truncated importance sampling, Yao et al. 2025, "Your efficient RL
framework secretly brings you off-policy RL training") or the outliers left out (IcePop; arXiv 2510.18855):

    token_truncate     exp(D_t) cut to [floor, cap]              sequence_truncate  exp(sum_t D_t) cut to [floor, cap]
    token_mask         exp(D_t), 0 outside [floor, cap]          sequence_mask      exp(sum_t D_t), 0 outside

Default: token_truncate with cap 2, the most robust where the two differ much; TRL's is sequence_mask with cap 3.
`importance_weights` gives the weights for `losses.policy_loss` and always measures, also in mode "none".

Deviation from TRL 1.16: D is bounded to +-20. A token whose probability the sampler could not tell (NaN) weighs 1.
Not handled: top-p, top-k and penalties in the sampler: mu must be the distribution at the temperature, nothing cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from harness.errors import UnknownName
from harness.trainers.batches import Batch
from harness.trainers.losses import MAX_LOG_RATIO, Stats

MODES = ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
ALARM_NATS = 0.05
"""A mean |D| above this is no rounding: the sampler most likely holds other weights."""


@torch.no_grad()
def importance_weights(
    logprobs_BT: Tensor,
    sampler_logprobs_BT: Tensor,
    mask_BT: Tensor,
    *,
    mode: str = "token_truncate",
    cap: float = 2.0,
    floor: float | None = None,
) -> tuple[Tensor | None, Stats]:
    """Weights for `policy_loss`, and sums for `summarise_mismatch`.

    Args:
        logprobs_BT: (B, T) by the trainer, with the weights that drew the completions: in a round of one update, those
            of the training pass itself (detached), so that no second pass is needed.
        sampler_logprobs_BT: (B, T) by the sampler, at the same temperature; NaN = not known.
        mask_BT: (B, T) True where a token counts.
        mode: one of `MODES`; "none": no weights, only figures.
        cap: the largest weight.
        floor: the smallest; None: no bound.

    Returns:
        (B, T) for a token mode, (B, 1) for a sequence mode, None for "none"; and the sums.

    Raises:
        UnknownName: `mode` is none of them.
    """
    if mode not in MODES:
        raise UnknownName("importance weight mode", mode, MODES)
    mask_BT = mask_BT.bool()
    known_BT = mask_BT & ~sampler_logprobs_BT.isnan()
    difference_BT = (logprobs_BT.detach() - sampler_logprobs_BT).masked_fill(~known_BT, 0.0)
    sequence = mode.startswith("sequence")
    log_weight = difference_BT.sum(-1, keepdim=True) if sequence else difference_BT  # (B, 1) or (B, T)
    weight = log_weight.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    low = -math.inf if floor is None else floor
    outside = (weight < low) | (weight > cap)
    cut = weight.masked_fill(outside, 0.0) if mode.endswith("mask") else weight.clamp(low, cap)
    if mode == "none":
        outside, cut = torch.zeros_like(outside), weight
    counts = mask_BT.any(-1, keepdim=True) if sequence else mask_BT  # what there is one weight for
    absolute_BT = difference_BT.abs()
    stats = {
        "known_tokens": known_BT.sum(),
        "difference": absolute_BT.sum(),
        "difference_max": absolute_BT.max() if absolute_BT.numel() else absolute_BT.new_zeros(()),
        "weights": counts.sum(),
        "weight": (cut * counts).sum(),
        "weight_squared": (cut.square() * counts).sum(),
        "clipped": (outside & counts).sum(),
    }
    return (None if mode == "none" else cut), stats


def correction(logprobs_BT: Tensor, batch: Batch, mismatch: list[Stats], *, first: bool, exact: bool) -> Tensor | None:
    """Weights for what the sampler computed otherwise than the trainer; adds the difference to `mismatch`.

    What drew has the trainer's old log-probabilities where there are any, else those of a round's first step.
    """
    assert batch.sampler_logprobs_BT is not None
    if exact and not first:
        return None  # the old log-probabilities are the sampler's
    drew_BT = logprobs_BT if exact or batch.old_logprobs_BT is None else batch.old_logprobs_BT
    mode = "none" if exact else "token_truncate"
    weights: Tensor | None
    weights, sums = importance_weights(drew_BT, batch.sampler_logprobs_BT, batch.mask_BT, mode=mode)
    mismatch.append(sums)
    return weights


def summarise_mismatch(stats: Iterable[Stats]) -> dict[str, float | None]:
    """Figures of a step: mean and largest |D| in nats, mean weight, effective sample size and clipped share in [0, 1].

    None where there was nothing to measure. The effective sample size is (sum w)^2 / (n sum w^2): 1 if all weights are
    equal.
    """
    each = list(stats)
    if not each:
        return dict.fromkeys(("difference", "difference_max", "weight", "effective_share", "clipped_share"))
    total = {name: (max if name.endswith("_max") else sum)(float(one[name]) for one in each) for name in each[0]}
    n, tokens = total["weights"], total["known_tokens"]
    return {
        "difference": total["difference"] / tokens if tokens else None,
        "difference_max": total["difference_max"] if tokens else None,
        "weight": total["weight"] / n if n else None,
        "effective_share": total["weight"] ** 2 / (n * total["weight_squared"]) if total["weight_squared"] else None,
        "clipped_share": total["clipped"] / n if n else None,
    }
