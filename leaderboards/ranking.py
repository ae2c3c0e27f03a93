"""Ranks that claim no more than the data: runs that a paired test cannot tell apart share one.

`ranks` is one more than the number of runs that are better by a paired test over common problems (`diff_ci`), at 5%
with Holm's adjustment over all pairs of runs. Not handled: transitivity; a run may share a rank with two that differ.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping

from harness.metrics.inference import diff_ci
from harness.metrics.significance import holm, p_value


def ranks(values: Mapping[str, Mapping[str, float]], *, level: float = 0.95) -> dict[str, int]:
    """Rank by run, from each run's fractions by problem id; pairs without two common problems are not tested."""
    pairs, differences = [], []
    for first, second in itertools.combinations(values, 2):
        common = sorted(values[first].keys() & values[second].keys())
        if len(common) >= 2:
            pairs.append((first, second))
            differences.append(diff_ci([values[first][name] - values[second][name] for name in common]))
    better: Counter[str] = Counter()
    adjusted = holm([p_value(difference) for difference in differences]) if pairs else ()
    for (first, second), difference, p in zip(pairs, differences, adjusted, strict=True):
        if p < 1 - level:
            better[second if difference.value > 0 else first] += 1
    return {name: 1 + better[name] for name in values}
