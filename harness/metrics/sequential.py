"""Estimates when sampling stopped because of what was seen, and intervals that may be looked at all the time.

Stopping on outcomes breaks c/n and the pass@k formula: with p = .1 and "stop at the first success, at most 32" c/n
averages .255. So report numbers from a fixed n. Where samples are dear, `unbiased_pass_at_k` repairs any rule exactly
by counting paths; to decide whether a run is worth going on with, watch `confidence_sequence`.

Not handled: votes and best-of-k under a stopping rule (no such repair exists for them).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, xlog1py, xlogy

from harness.types import Floats

Stop = Callable[[int, int], bool]
"""Whether sampling stops after c correct and f failed samples."""
Point = tuple[int, int]


def path_counts(stop: Stop, n_max: int, *, start: Point = (0, 0)) -> dict[Point, int]:
    """Ways from `start` to each point (c, f) where sampling stops: by the rule, or because c + f = n_max."""
    going, ended = {start: 1}, dict[Point, int]()
    while going:
        further = dict[Point, int]()
        for (c, f), ways in going.items():
            if c + f == n_max or stop(c, f):
                ended[c, f] = ended.get((c, f), 0) + ways
                continue
            for point in ((c + 1, f), (c, f + 1)):
                further[point] = further.get(point, 0) + ways
        going = further
    return ended


def unbiased_pass_at_k(stop: Stop, n_max: int, *, k: int) -> dict[Point, float]:
    """pass@k for each point (c, f) where sampling may stop: 1 - N_k / N, whatever the rule.

    N counts the paths from (0, 0) to the point, N_k those from (0, k). With q = 1 - p, the sum over points of
    N p^c q^f (N_k / N) is q^k times the chance to stop somewhere, which is q^k. At a fixed n it is the usual pass@k.

    Raises:
        ValueError: the rule may stop after fewer than k failures and nothing else, or k is not in 1..n_max.

    Source: Girshick, Mosteller & Savage 1946.
    """
    if not 1 <= k <= n_max:
        raise ValueError(f"k={k} must lie in 1..{n_max}")
    early = [f for f in range(k) if stop(0, f)]
    if early:
        raise ValueError(f"the rule stops after {early[0]} failures, before k={k} samples: no unbiased estimate then")
    every, after_failures = path_counts(stop, n_max), path_counts(stop, n_max, start=(0, k))
    return {point: 1 - after_failures.get(point, 0) / ways for point, ways in every.items()}


def confidence_sequence(
    c: npt.ArrayLike, n: npt.ArrayLike, *, level: float = 0.95, prior: tuple[float, float] = (0.5, 0.5)
) -> tuple[Floats, Floats]:
    """Interval for a success rate that holds at every n at once, so that it may be watched while a run goes on.

    Args:
        c: successes among the first n problems (one sample each, in random order); any shape.
        n: how many; the same shape.
        level: the chance that the rate is never outside.
        prior: parameters of the mixing beta distribution.

    Returns:
        low and high, of that shape: {p : B(a + c, b + n - c) / B(a, b) < p^c (1-p)^(n-c) / (1 - level)}, by bisection.
        About 1.7 times as wide as a Wilson interval at n = 164.

    Source: Ville 1939; Robbins 1970.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is a coverage between 0 and 1, not {level}")
    c, n = np.broadcast_arrays(np.asarray(c, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if (c < 0).any() or (c > n).any():
        raise ValueError("c must lie in 0..n")
    a, b = prior
    floor = betaln(a + c, b + n - c) - betaln(a, b) + np.log(1 - level)

    def inside(p: Floats) -> npt.NDArray[np.bool_]:
        return np.asarray(xlogy(c, p) + xlog1py(n - c, -p) >= floor)

    peak = np.where(n > 0, c / np.maximum(n, 1), 0.5)
    ends = []
    for end in (np.zeros_like(peak), np.ones_like(peak)):
        out, within = end.copy(), peak.copy()
        for _ in range(60):
            middle = (out + within) / 2
            held = inside(middle)
            out, within = np.where(held, out, middle), np.where(held, middle, within)
        ends.append(np.where(inside(end), end, within))
    return ends[0], ends[1]
