"""Comparing two ways to train, each with several training seeds, evaluated on the same problems.

One comparison of two checkpoints speaks of these checkpoints. A claim about a *method* must carry the luck of the
training run: with a seed's standard deviation of 0.3 logits, problem-level intervals of averaged seeds cover 53 to 67%
instead of 95%. At least five seeds for a claim, three for a pilot.

Main function: `seeds_ci`. Not handled: seeds shared between the arms (take the difference per seed first, then a plain
t over seeds), and resampling seeds per task, which is right only where every task has its own training run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.metrics.gaps import welch
from harness.metrics.inference import Interval, student
from harness.types import Floats


def seeds_ci(
    base_SP: npt.ArrayLike, treat_SP: npt.ArrayLike, *, new_problems: bool = True, level: float = 0.95
) -> Interval:
    """Mean of treat - base, generalising to new training seeds, and to new problems too unless told otherwise.

    Args:
        base_SP: (S0, P) one number per seed and problem.
        treat_SP: (S1, P) the same problems in the same order.
        new_problems: False asks about these very problems.
        level: coverage; measured 94 to 98% from two seeds on.

    Raises:
        ValueError: fewer than two seeds or problems, other problems, NaN.

    Crossed random effects by moments. The variance of the per-seed means already holds the seed-problem interaction and
    the sampling noise, so for new problems the variance between problems is added net of both:
    V = v_0/S0 + v_1/S1 + max(0, s_d^2/P - r_0 - r_1), with s_d^2 the variance of the per-problem differences and
    r = residual mean square / (S P); degrees of freedom by Satterthwaite.
    """
    arms = [_arm(values) for values in (base_SP, treat_SP)]
    base, treat = arms
    if base.shape[1] != treat.shape[1]:
        raise ValueError(f"base has {base.shape[1]} problems and treat {treat.shape[1]}: give the same in both")
    parts = [(float(arm.mean(axis=1).var(ddof=1)) / len(arm), len(arm) - 1) for arm in arms]
    difference = treat.mean(axis=0) - base.mean(axis=0)
    if new_problems:
        problems = len(difference)
        between = float(difference.var(ddof=1)) / problems - sum(_residual(arm) for arm in arms)
        parts.append((max(0.0, between), problems - 1))
    variance, df = welch(parts)
    scope = "seeds and problems" if new_problems else "seeds, these problems"
    method = f"crossed moments over {scope}, {len(base)} and {len(treat)} seeds"
    return student(float(difference.mean()), variance, df, level=level, method=method)


def _residual(x_SP: Floats) -> float:
    """Variance that the seed-problem interaction and the sampling noise give the mean over S seeds and P problems."""
    seeds, problems = x_SP.shape
    rest = x_SP - x_SP.mean(axis=0) - x_SP.mean(axis=1, keepdims=True) + x_SP.mean()
    return float((rest**2).sum() / ((seeds - 1) * (problems - 1)) / (seeds * problems))


def _arm(values: npt.ArrayLike) -> Floats:
    arm = np.asarray(values, dtype=np.float64)
    if arm.ndim != 2 or min(arm.shape) < 2:
        raise ValueError(f"seeds_ci needs at least 2 seeds x 2 problems in each arm, not an array of shape {arm.shape}")
    if not np.isfinite(arm).all():
        raise ValueError("a value of a seed is not finite")
    return arm
