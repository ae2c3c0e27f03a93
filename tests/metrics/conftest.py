"""The ground truth of the subset estimators: every k-subset, in exact fractions."""

import itertools
from collections.abc import Callable
from fractions import Fraction

import hypothesis
import pytest

# The first example pays for imports and tables, and a loaded machine is slow: time is no property of a formula.
hypothesis.settings.register_profile("metrics", deadline=None)
hypothesis.settings.load_profile("metrics")

Subset = tuple[int, ...]
OverSubsets = Callable[[int, int, Callable[[Subset], Fraction | int]], Fraction]


def mean_over_subsets(n: int, k: int, score: Callable[[Subset], Fraction | int]) -> Fraction:
    """The mean of `score` over all k-subsets of range(n)."""
    scores = [Fraction(score(subset)) for subset in itertools.combinations(range(n), k)]
    return sum(scores, Fraction(0)) / len(scores)


@pytest.fixture(scope="session")
def over_subsets() -> OverSubsets:
    return mean_over_subsets
