"""How much better than its group a completion did: from rewards to advantages, as pure functions on arrays.

With rewards r_1..r_n of the n scored completions of a problem, m their mean and s their standard deviation (n - 1):

- `group_advantages`: A_i = r_i - m, divided by s (GRPO, Shao et al. 2024, arXiv 2402.03300), by the deviation of the
  whole batch, or by nothing (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783; the default: dividing by s favours problems
  that are nearly always or nearly never solved).
- `normalise_then_sum`: each reward term standardised in its group, then summed, then over the batch (GDPO, Liu et al.
  2026, arXiv 2601.05242).
- `leave_one_out`: A_i = r_i - mean of the others = n / (n-1) (r_i - m) (RLOO, Ahmadian et al. 2024, arXiv 2402.14740).
- `max_at_k_advantages`: the policy gradient of the best of k (Walder & Karkhanis 2025, arXiv 2505.15201).
- `best_subset`: which completions GFPO (Shrivastava et al. 2025, arXiv 2508.09726) keeps. `no_variance`: groups that
  teach nothing.

NaN is "not scored", never 0: such a completion is in no mean, no deviation and no count, and its advantage is 0. So is
the advantage of a lone scored completion: it has nothing to be compared with.

Deviations from TRL 1.16, whose numbers these are (n - 1, and 1e-4 added to the deviation): float64 instead of float32,
and a group in which all rewards are equal has advantages of exactly 0 where rounding would leave 1e-9, so that skipping
zero advantages skips them.

Not handled: advantages per token; a critic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.errors import InputError, UnknownName
from harness.metrics.subsets import rank_weights
from harness.types import Floats

SCALES = ("none", "group", "batch")
EPSILON = 1e-4
"""Added to every standard deviation: TRL's."""


def total_reward(reward_PGR: npt.ArrayLike, weight_R: npt.ArrayLike) -> Floats:
    """The weighted sum of the reward terms: (P, G, R), (R,) -> (P, G).

    A term that was not measured (NaN) adds nothing; a completion for which none was measured is NaN itself.
    """
    reward_PGR = np.asarray(reward_PGR, dtype=np.float64)
    total_PG = np.nansum(reward_PGR * np.asarray(weight_R, dtype=np.float64), axis=-1)
    return np.where(np.isnan(reward_PGR).all(axis=-1), np.nan, total_PG)


def group_advantages(reward_PG: npt.ArrayLike, *, scale: str = "none", epsilon: float = EPSILON) -> Floats:
    """Reward minus the group's mean, scaled.

    Args:
        reward_PG: (P, G) rewards, or (G,) of one group; NaN = not scored, or no such completion.
        scale: "none"; "group": divided by the group's standard deviation + epsilon; "batch": by that of all rewards.
        epsilon: keeps the division finite.

    Returns:
        The shape of `reward_PG`, finite.

    Raises:
        UnknownName: `scale` is none of the three.
        InputError: an infinite reward.
    """
    if scale not in SCALES:
        raise UnknownName("scale of advantages", scale, SCALES)
    reward_PG = _rewards(reward_PG)
    difference_PG = _from_mean(reward_PG)
    if scale == "group":
        difference_PG /= _deviation(reward_PG, axis=-1) + epsilon
    elif scale == "batch":
        difference_PG /= _deviation(reward_PG, axis=None) + epsilon
    return _finish(difference_PG)


def normalise_then_sum(reward_PGR: npt.ArrayLike, weight_R: npt.ArrayLike, *, epsilon: float = EPSILON) -> Floats:
    """GDPO: every term standardised in its group, weighted, summed, and standardised over the batch.

    (P, G, R) rewards and (R,) weights -> (P, G). A term with large values does not drown the others.
    """
    reward_RPG = np.moveaxis(_rewards(reward_PGR), -1, 0)
    standard_RPG = _from_mean(reward_RPG) / (_deviation(reward_RPG, axis=-1) + epsilon)
    total_PG = total_reward(np.moveaxis(standard_RPG, 0, -1), weight_R)
    difference_PG = _from_mean(total_PG.reshape(-1)).reshape(total_PG.shape)
    return _finish(difference_PG / (_deviation(total_PG, axis=None) + epsilon))


def leave_one_out(reward_PG: npt.ArrayLike) -> Floats:
    """RLOO: reward minus the mean reward of the group's other completions. Shapes as in `group_advantages`."""
    reward_PG = _rewards(reward_PG)
    n_P = (~np.isnan(reward_PG)).sum(axis=-1, keepdims=True)
    return _finish(_from_mean(reward_PG) * n_P / np.maximum(n_P - 1, 1))


def max_at_k_advantages(reward_PG: npt.ArrayLike, k: int) -> Floats:
    """The weight of each completion in an unbiased policy gradient of max@k (pass@k, if rewards are 0 and 1).

    For k >= 2, with S a uniformly random (k-1)-subset of the n - 1 others:

        A_i = k E_S[ max(r_i - max_S r, 0) ] = k sum_{j: r_j < r_i} P(max_S is r_j) (r_i - r_j)

    A completion counts for what it adds to the best of k - 1 others, so that nothing is gained in a group that solves
    the problem anyway. This is n times the paper's estimate with the baseline "loo-1", max@(k-1) of the others. k = 1
    has no such baseline: it is `leave_one_out`, to which it is scaled, so that k can be lowered to 1 during a run.

    Args:
        reward_PG: (P, G) or (G,); NaN = not scored. A group with fewer than k scored completions gets zeros.
        k: a whole number from 1 to G.

    Raises:
        InputError: k outside 1..G, or an infinite reward.
    """
    reward_PG = _rewards(reward_PG)
    if not 1 <= k <= reward_PG.shape[-1]:
        raise InputError(f"max@k with k = {k} and groups of {reward_PG.shape[-1]}: k must be from 1 to the group size.")
    if k == 1:
        return leave_one_out(reward_PG)
    advantage_PG = np.zeros_like(reward_PG)
    for rewards, advantages in zip(np.atleast_2d(reward_PG), np.atleast_2d(advantage_PG), strict=True):
        scored = ~np.isnan(rewards)
        if scored.sum() >= k:
            advantages[scored] = _max_at_k(rewards[scored], k)  # a view: this writes into advantage_PG
    return advantage_PG


def _max_at_k(reward_n: Floats, k: int) -> Floats:
    order = np.argsort(reward_n, kind="stable")
    ascending_n = reward_n[order]
    gain_nn = np.tril(ascending_n[:, None] - ascending_n[None, :])  # [i, j] = r_(i) - r_(j) for j below i, else 0
    # the j-th worst of all is the j-th worst of the others too, for every i above it
    chance_n = rank_weights(len(reward_n) - 1, k - 1)[0, ::-1]
    advantage_n = np.empty_like(reward_n)
    advantage_n[order] = k * (gain_nn[:, :-1] @ chance_n)
    return advantage_n


def best_subset(score_PG: npt.ArrayLike, keep: int) -> npt.NDArray[np.bool_]:
    """GFPO: True for the `keep` completions of each group with the best scores, ties by position. NaN is never kept.

    Score by minus the length, or by reward per token. Mean and deviation are then of the kept ones, the others get 0:
    `group_advantages(np.where(best_subset(-length_PG, 8), reward_PG, nan))`.
    """
    score_PG = np.asarray(score_PG, dtype=np.float64)
    if not 1 <= keep <= score_PG.shape[-1]:
        raise InputError(f"keep {keep} of groups of {score_PG.shape[-1]}: keep must be from 1 to the group size.")
    order_PG = np.argsort(-score_PG, axis=-1, kind="stable")  # NaN sorts last
    kept_PG = np.zeros(score_PG.shape, dtype=np.bool_)
    np.put_along_axis(kept_PG, order_PG[..., :keep], True, axis=-1)
    return np.asarray(kept_PG & ~np.isnan(score_PG))


def no_variance(reward_PG: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """True for groups whose scored rewards are all equal, or fewer than two: every advantage in them is 0. (P,)"""
    reward_PG = _rewards(reward_PG)
    low_P = np.where(np.isnan(reward_PG), np.inf, reward_PG).min(axis=-1)
    high_P = np.where(np.isnan(reward_PG), -np.inf, reward_PG).max(axis=-1)
    return np.asarray(low_P >= high_P)


def _rewards(reward: npt.ArrayLike) -> Floats:
    rewards = np.asarray(reward, dtype=np.float64)
    if np.isinf(rewards).any():
        raise InputError("a reward is infinite: no mean can hold it; use a large number, or None for not scored.")
    return rewards


def _from_mean(reward: Floats) -> Floats:
    """Reward minus the mean over the last axis without NaN; exactly 0 where all are equal."""
    n = (~np.isnan(reward)).sum(axis=-1, keepdims=True)
    mean = np.nansum(reward, axis=-1, keepdims=True) / np.maximum(n, 1)
    return np.where(np.expand_dims(no_variance(reward), -1), reward * 0, reward - mean)


def _deviation(reward: Floats, *, axis: int | None) -> Floats:
    """Standard deviation with n - 1, without NaN; 0 for fewer than two."""
    n = (~np.isnan(reward)).sum(axis=axis, keepdims=True)
    mean = np.nansum(reward, axis=axis, keepdims=True) / np.maximum(n, 1)
    variance = np.nansum((reward - mean) ** 2, axis=axis, keepdims=True) / np.maximum(n - 1, 1)
    return np.asarray(np.sqrt(variance))


def _finish(advantage: Floats) -> Floats:
    return np.nan_to_num(advantage, nan=0.0)
