"""The losses: one for every policy-gradient method, one for rows to imitate, one for pairs.

Per token t of completion i, with l the log-probability of the token now, l_old when it was drawn, A the advantage, m
the mask and rho the importance ratio exp(l - l_old):

    loss = (1/Z) sum_it m_it ( w_it x_it + beta kl_it - gamma H_it )

    clip        x = -min(rho A, clip(rho, 1 - low, 1 + high) A)         PPO, arXiv 1707.06347; GRPO, arXiv 2402.03300
    cispo       x = -stopgrad(min(rho, high)) A l                       MiniMax-M1, arXiv 2506.13585
    reinforce   x = -A l                                                Williams 1992

| type      | x         | rho of                            | Z                                                       |
|-----------|-----------|-----------------------------------|---------------------------------------------------------|
| dapo      | clip      | a token                           | tokens of the whole batch (DAPO, arXiv 2503.14476)      |
| cispo     | cispo     | a token                           | the same                                                |
| reinforce | reinforce | -                                 | the same                                                |
| grpo      | clip      | a token                           | mean in each completion, then completions               |
| gspo      | clip      | a sequence: exp mean_t(l - l_old) | the same (GSPO, arXiv 2507.18071)                       |
| rloo      | clip      | a sequence: exp sum_t(l - l_old)  | the same (TRL's RLOO; arXiv 2402.14740)                 |
| dr_grpo   | clip      | a token                           | completions x longest length allowed (arXiv 2503.20783) |
| bnpo      | clip      | a token                           | tokens of the micro-batch, then micro-batches           |

Z is passed in (`normaliser`), so the losses of micro-batches sum to the loss of the batch, whatever the grouping and
also when rows without advantage are left out. bnpo is the exception, by definition: it is there to compare with TRL.

Defaults: dapo with clipping 0.2 / 0.28, no KL term and no entropy bonus (beta = gamma = 0): what most published runs of
2025 and 2026 use. Deviations from TRL 1.16, whose numbers these are otherwise: the log-ratio is bounded to +-20, where
its exponential would turn a gradient of 0 into NaN; cispo has its own bound (5, ScaleRL, arXiv 2510.13786) in place of
`clip_high`; a completion without unmasked tokens adds 0 to rloo, where TRL adds -A to the value (and nothing to the
gradient); the entropy bonus has the loss's own Z, where TRL's is a mean over tokens for every type.

Not handled: soft clipping (SAPO, VESPO), a critic. `mismatch.py` makes the weights w.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import InputError, UnknownName

Stats: TypeAlias = dict[str, Tensor]
"""Sums over the tokens of a micro-batch, on its device and without gradient: `summarise` makes means of them."""

LEVELS = ("token", "sequence", "sum")
KL_KINDS = ("k1", "k2", "k3")
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class Kind:
    """What one type of policy loss is made of."""

    term: str
    """"clip", "cispo" or "reinforce": the x of the table."""
    level: str
    """What the ratio is of: a "token", a "sequence" (mean of its tokens' log-ratios), or their "sum"."""
    average: str
    """What it is a mean over: all "tokens", "rows", a "constant" length, or the tokens of a "micro_batch"."""


KINDS = {
    "dapo": Kind("clip", "token", "tokens"),
    "grpo": Kind("clip", "token", "rows"),
    "bnpo": Kind("clip", "token", "micro_batch"),
    "dr_grpo": Kind("clip", "token", "constant"),
    "cispo": Kind("cispo", "token", "tokens"),
    "gspo": Kind("clip", "sequence", "rows"),
    "rloo": Kind("clip", "sum", "rows"),
    "reinforce": Kind("reinforce", "token", "tokens"),
}


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """Settings of `policy_loss`."""

    type: str = "dapo"
    """A row of the table in `trainers/losses.py`."""
    level: str | None = None
    """"token", "sequence" or "sum": what the ratio is of; None: the type's own."""
    clip_low: float = 0.2
    """The ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.28
    """The ratio is clipped above 1 + clip_high."""
    delta: float | None = None
    """Two-sided clipping: no ratio counts above this, whatever the advantage's sign (arXiv 2505.07291). Some 4.0."""
    cispo_max: float = 5.0
    """cispo: the largest weight of a token."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference model."""
    kl: str = "k3"
    """Its estimate: see `kl_terms`."""
    kl_bias_correction: bool = True
    """Multiply the estimate by the ratio, so that the gradient of k3 is that of the reverse KL divergence."""
    kl_in_reward: bool = False
    """Take beta times the divergence off each completion's reward instead of adding it to the loss: k1, summed over its
    tokens, when it was drawn (RLOO). The two fields above are not used then."""
    entropy: float = 0.0
    """gamma: the weight of the entropy of each token's distribution, which the loss then rewards."""

    def __post_init__(self) -> None:
        for what, name, known in (
            ("type of policy loss", self.type, KINDS),
            ("level of the importance ratio", self.kind.level if self.type in KINDS else "token", LEVELS),
            ("KL estimate", self.kl, KL_KINDS),
        ):
            if name not in known:
                raise UnknownName(what, name, known)
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0 or self.beta < 0 or self.cispo_max <= 0:
            raise InputError(
                f"clip_low {self.clip_low} must be in [0, 1], clip_high {self.clip_high} and beta {self.beta} from 0, "
                f"cispo_max {self.cispo_max} above 0."
            )
        if not math.isfinite(self.entropy):
            raise InputError(f"entropy {self.entropy}: the weight of the entropy bonus must be a number, 0 for none.")
        if self.delta is not None and self.delta <= 1 + self.clip_high:
            raise InputError(f"delta {self.delta} must be above 1 + clip_high = {1 + self.clip_high}: leave it out.")

    @property
    def kind(self) -> Kind:
        """What the type is made of, `level` included."""
        kind = KINDS[self.type]
        return kind if self.level is None else Kind(kind.term, self.level, kind.average)

    @property
    def may_skip(self) -> bool:
        """Whether a completion with advantage 0 has no gradient at all, and need not be run."""
        return (self.beta == 0 or self.kl_in_reward) and self.entropy == 0


def normaliser(
    config: PolicyLoss,
    *,
    n_tokens: int,
    n_rows: int,
    max_completion_tokens: int | None = None,
    n_micro_batches: int | None = None,
) -> float:
    """Z for all micro-batches of one optimiser step.

    Args:
        config: says which of the other arguments is used.
        n_tokens: unmasked completion tokens of the step's whole batch, skipped rows included.
        n_rows: its completions, masked and skipped ones included.
        max_completion_tokens: the most that a completion may have (dr_grpo).
        n_micro_batches: in how many micro-batches it is run (bnpo).

    Raises:
        InputError: the number that the type needs is absent.
    """
    average = config.kind.average
    z = {
        "tokens": n_tokens,
        "rows": n_rows,
        "constant": None if max_completion_tokens is None else n_rows * max_completion_tokens,
        "micro_batch": n_micro_batches,
    }[average]
    if z is None:
        needed = "max_completion_tokens" if average == "constant" else "n_micro_batches"
        raise InputError(f"the policy loss {config.type} needs {needed}: pass it to normaliser().")
    return float(max(z, 1))


def policy_loss(
    logprobs_BT: Tensor,
    mask_BT: Tensor,
    *,
    advantages: Tensor,
    normaliser: float,
    config: PolicyLoss,
    old_logprobs_BT: Tensor | None = None,
    reference_logprobs_BT: Tensor | None = None,
    weights: Tensor | None = None,
    entropy_BT: Tensor | None = None,
) -> tuple[Tensor, Stats]:
    """The loss of one micro-batch, to be summed with those of the others, and its statistics.

    Args:
        logprobs_BT: (B, T) of the completions' tokens under the model in training, with gradient.
        mask_BT: (B, T) True where a token counts. Values of the other arguments elsewhere are not looked at.
        advantages: (B,) or (B, T).
        normaliser: Z, from `normaliser`.
        config: the type and its settings.
        old_logprobs_BT: (B, T) when the completions were drawn; None: now, so that every ratio is 1.
        reference_logprobs_BT: (B, T) under the reference model; needed if beta is not 0 and in the loss.
        weights: (B, T) or (B, 1) for the sampler's mismatch, from `mismatch.importance_weights`.
        entropy_BT: (B, T) with gradient; needed for an entropy bonus.

    Raises:
        InputError: beta without reference log-probabilities, an entropy bonus without entropies.
    """
    mask_BT = mask_BT.bool()
    advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages  # (B, 1) or (B, T)
    old_BT = logprobs_BT.detach() if old_logprobs_BT is None else old_logprobs_BT
    log_ratio = _at_level(_difference(logprobs_BT, old_BT, mask_BT), mask_BT, config.kind.level)  # (B, T) or (B, 1)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    loss_BT = _terms(logprobs_BT, ratio, advantages, config)
    if weights is not None:
        loss_BT = loss_BT * weights
    stats = _ratio_stats(ratio.detach(), advantages, mask_BT, config)
    if config.beta and not config.kl_in_reward:
        if reference_logprobs_BT is None:
            raise InputError("beta is not 0 and there are no reference log-probabilities: pass reference_logprobs_BT.")
        kl_BT = kl_terms(_difference(logprobs_BT, reference_logprobs_BT, mask_BT), config.kl)
        if config.kl_bias_correction:
            kl_BT = kl_BT * ratio
        stats["kl"] = (kl_BT.detach() * mask_BT).sum()
        loss_BT = loss_BT + config.beta * kl_BT
    if config.entropy:
        if entropy_BT is None:
            raise InputError("entropy is not 0 and there are no entropies: pass entropy_BT.")
        entropy_BT = entropy_BT.masked_fill(~mask_BT, 0.0)
        stats["full_entropy"] = entropy_BT.detach().sum()
        loss_BT = loss_BT - config.entropy * entropy_BT
    return _aggregate(loss_BT, mask_BT, config.kind.average) / normaliser, stats


def nll_loss(
    logprobs_BT: Tensor, mask_BT: Tensor, *, normaliser: float, weights: Tensor | None = None
) -> tuple[Tensor, Stats]:
    """Weighted negative log-likelihood, -(1/Z) sum_it m_it w_i l_it: SFT, RFT, ReST-EM, RWR and the like.

    Args:
        logprobs_BT: (B, T) with gradient.
        mask_BT: (B, T) True for the tokens to learn.
        normaliser: Z: the tokens to learn of the whole step, or the sum of their weights. With that sum, a row of
            weight 2 is the same as the row twice.
        weights: (B,) or (B, T); None: 1.
    """
    mask_BT = mask_BT.bool()
    nll_BT = -logprobs_BT.masked_fill(~mask_BT, 0.0)
    stats = {"tokens": mask_BT.sum(), "nll": nll_BT.detach().sum()}
    if weights is not None:
        nll_BT = nll_BT * (weights.unsqueeze(1) if weights.dim() == 1 else weights)
    return nll_BT.sum() / normaliser, stats


def dpo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    normaliser: float,
    beta: float = 0.1,
) -> tuple[Tensor, Stats]:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290): -(1/Z) sum log sigmoid(beta ((c - c_ref) - (r - r_ref))).

    All are (B,) sums of log-probabilities over a completion's tokens (`sequence_logprobs`); Z: the step's pairs.
    """
    margin_B = beta * ((chosen_B - reference_chosen_B) - (rejected_B - reference_rejected_B))
    with torch.no_grad():
        stats = {
            "pairs": torch.tensor(len(margin_B), device=margin_B.device),
            "margin": margin_B.detach().sum(),
            "preferred": (margin_B > 0).sum(),
        }
    return -functional.logsigmoid(margin_B).sum() / normaliser, stats


def sequence_logprobs(logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum over the unmasked tokens: (B, T), (B, T) -> (B,)."""
    return logprobs_BT.masked_fill(~mask_BT.bool(), 0.0).sum(-1)


def kl_terms(log_ratio: Tensor, kind: str) -> Tensor:
    """Estimates of KL(model || reference) from one draw of the model; `log_ratio` = l - l_ref. Same shape.

    k1 = d: unbiased, of either sign; as a loss it has no gradient on average, so it belongs into a reward. k2 = d^2/2:
    biased, its gradient is exact. k3 = exp(-d) + d - 1: unbiased, never negative, less variance; its gradient is exact
    only with the bias correction. Schulman 2020, "Approximating KL divergence".
    """
    if kind not in KL_KINDS:
        raise UnknownName("KL estimate", kind, KL_KINDS)
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    return torch.exp(-log_ratio.clamp(min=-MAX_LOG_RATIO)) + log_ratio - 1


def summarise(stats: Iterable[Stats]) -> dict[str, float]:
    """The statistics of a step's micro-batches as one: counts are sums, the rest means over tokens (pairs for DPO).

    The only place where the device is waited for.
    """
    totals: dict[str, Tensor] = {}
    for each in stats:
        for name, value in each.items():
            before = totals.get(name)
            if before is None:
                totals[name] = value
            else:
                totals[name] = torch.maximum(before, value) if name.endswith("_max") else before + value
    if not totals:
        return {}
    values = dict(zip(totals, torch.stack([v.double() for v in totals.values()]).tolist(), strict=True))
    counts = {"tokens", "pairs"}
    n = max(values.get("tokens", values.get("pairs", 1.0)), 1.0)
    return {k: v if k in counts or k.endswith("_max") else v / n for k, v in values.items()}


def _difference(logprobs_BT: Tensor, other_BT: Tensor, mask_BT: Tensor) -> Tensor:
    # filled before, not multiplied after: padding may hold anything, and 0 x NaN is NaN
    return logprobs_BT.masked_fill(~mask_BT, 0.0) - other_BT.masked_fill(~mask_BT, 0.0)


def _at_level(log_ratio_BT: Tensor, mask_BT: Tensor, level: str) -> Tensor:
    if level == "token":
        return log_ratio_BT
    sum_B1 = log_ratio_BT.sum(-1, keepdim=True)
    return sum_B1 if level == "sum" else sum_B1 / mask_BT.sum(-1, keepdim=True).clamp(min=1)


def _terms(logprobs_BT: Tensor, ratio: Tensor, advantages: Tensor, config: PolicyLoss) -> Tensor:
    """x of the table: (B, T), or (B, 1) if neither the ratio nor the advantage is a token's."""
    term = config.kind.term
    if term == "reinforce":
        return -advantages * logprobs_BT
    if term == "cispo":
        return -ratio.clamp(max=config.cispo_max).detach() * advantages * logprobs_BT
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    free = ratio if config.delta is None else ratio.clamp(max=config.delta)
    return -torch.minimum(free * advantages, clipped * advantages)


def _aggregate(loss: Tensor, mask_BT: Tensor, average: str) -> Tensor:
    loss_BT = loss.expand(mask_BT.shape).masked_fill(~mask_BT, 0.0)
    if average == "rows":
        return (loss_BT.sum(-1) / mask_BT.sum(-1).clamp(min=1)).sum()
    if average == "micro_batch":
        return loss_BT.sum() / mask_BT.sum().clamp(min=1)
    return loss_BT.sum()


@torch.no_grad()
def _ratio_stats(ratio: Tensor, advantages: Tensor, mask_BT: Tensor, config: PolicyLoss) -> Stats:
    """Tokens, and those whose gradient the clipping took (below for bad completions, above for good ones)."""
    if config.kind.term == "cispo":
        low, high = torch.zeros_like(mask_BT), ratio > config.cispo_max
    else:
        low = (ratio < 1 - config.clip_low) & (advantages < 0)
        high = (ratio > 1 + config.clip_high) & (advantages > 0)
    return {
        "tokens": mask_BT.sum(),
        "ratio": (ratio * mask_BT).sum(),
        "clipped_low": (low & mask_BT).sum(),
        "clipped_high": (high & mask_BT).sum(),
    }
