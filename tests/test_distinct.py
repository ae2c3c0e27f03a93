"""Distinct correct solutions against enumeration of all subsets; what is one solution and what is two."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from harness.distinct import distinct_by_problem, distinct_correct, rarefied
from harness.errors import InputError
from harness.rewards import Graded
from harness.types import Completion, Problem, Status, Verdict

TEXTS = Problem(id="t/0", task="t", prompt="How many?", answer="7")
CODE = Problem(id="c/0", task="t", prompt="Write f.", entry_point="f")


def graded(problem: Problem, *texts: tuple[str, bool | None]) -> list[Graded]:
    return [
        Graded(
            problem=problem,
            completion=Completion(
                problem_id=problem.id, index=i, text=text, program=text if problem.entry_point else None
            ),
            verdict=Verdict(
                problem_id=problem.id, index=i, passed=passed, status=Status.passed if passed else Status.wrong
            ),
        )
        for i, (text, passed) in enumerate(texts)
    ]


@pytest.mark.parametrize("n", range(1, 8))
def test_rarefaction_is_the_mean_over_all_subsets(n: int) -> None:
    """Every way to divide up to n correct ones into kinds, every g, every subset."""
    for kinds in itertools.product(range(4), repeat=3):
        if sum(kinds) > n:
            continue
        labels = [j for j, m in enumerate(kinds) for _ in range(m)] + [None] * (n - sum(kinds))
        counts = [m for m in kinds if m]
        for g in range(1, n + 1):
            subsets = [len(set(subset) - {None}) for subset in itertools.combinations(labels, g)]
            assert rarefied(counts, n, g) == pytest.approx(statistics.mean(subsets), abs=1e-12)
        assert rarefied(counts, n, 1) == pytest.approx(sum(kinds) / n)
        assert rarefied(counts, n, n) == len(counts)


def test_it_is_unbiased_for_fresh_draws_whatever_n_is() -> None:
    """A model with known probabilities of five solutions: what 4 draws show, from runs of 8 and of 20."""
    chances = [0.3, 0.15, 0.1, 0.04, 0.01]
    exact = sum(1 - (1 - p) ** 4 for p in chances)
    rng = random.Random(0)
    for n in (8, 20):
        found = []
        for _ in range(4000):
            drawn = rng.choices(range(6), [*chances, 1 - sum(chances)], k=n)
            found.append(rarefied([drawn.count(j) for j in range(5) if j in drawn], n, 4))
        error = statistics.stdev(found) / math.sqrt(len(found))
        assert statistics.mean(found) == pytest.approx(exact, abs=4 * error)
        assert error < 0.02


def test_large_numbers_stay_exact() -> None:
    assert rarefied([1] * 1000, 1000, 1000) == 1000
    assert rarefied([500], 4000, 1) == pytest.approx(1 / 8)
    assert rarefied([1, 1], 10_000, 5000) == pytest.approx(1.0)


def test_what_is_one_solution() -> None:
    programs = [
        ("def f(a):\n    b = a + 1\n    return b", True),
        ("def f(x):  # the same\n    y = x + 1\n    return y", True),
        ("def f(a):\n    return a + 1", True),
        ("def f(a):\n    return a", False),
    ]
    assert distinct_correct(graded(CODE, *programs)) == 2
    equations = [("3 + 4 is <<3+4=7>>7", True), ("So <<3 + 4=7>>7!", True), ("<<10-3=7>>7", True), ("7", True)]
    assert distinct_correct(graded(TEXTS, *equations)) == 3
    sums = [("3*4=12\n12-5=7\n#### 7", True), ("First 3 * 4 = 12, then 12 - 5 = 7.", True), ("12-5=7\n3*4=12", True)]
    assert distinct_correct(graded(TEXTS, *sums)) == 2
    words = [("it  is\n7", True), (" it is 7 ", True), ("7", True), ("it is 8", False)]
    assert distinct_correct(graded(TEXTS, *words)) == 2


def test_problems_are_averaged_and_what_could_not_be_graded_is_left_out() -> None:
    easy = graded(TEXTS, ("7", True), ("seven", True), ("VII", True), ("?", None))
    hard = graded(CODE, ("a", False), ("b", False), ("c", True), ("d", False))
    assert distinct_by_problem([*easy, *hard], g=3) == {"c/0": 0.75, "t/0": 3.0}
    assert distinct_by_problem([*easy, *hard]) == {"c/0": 0.75, "t/0": 3.0}  # three are graded of each
    assert distinct_correct([*easy, *hard], g=2) == pytest.approx((0.5 + 2) / 2)
    assert distinct_correct([]) is None
    assert distinct_correct(graded(TEXTS, ("7", None))) is None
    with pytest.raises(InputError, match="t/0 has 3 that are graded: lower g"):
        distinct_correct([*easy, *hard], g=4)


@pytest.mark.parametrize(("counts", "n", "g"), [([1], 3, 4), ([1], 3, 0), ([2, 2], 3, 1)])
def test_more_than_there_is_cannot_be_drawn(counts: list[int], n: int, g: int) -> None:
    with pytest.raises(InputError, match="g must be from 1 to n"):
        rarefied(counts, n, g)
