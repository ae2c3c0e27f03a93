"""maj@k against the enumeration of every subset, and against an independent exact recursion at larger n."""

import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.metrics.majority import maj_at_k
from harness.metrics.subsets import pass_at_k

EXACT = 1e-12


def vote(label, credit, subset, score=None) -> Fraction:
    """What a majority vote scores on one subset: ties uniform, a uniform (or the best-scored) member shown."""
    members = defaultdict(list)
    for i in subset:
        if label[i] >= 0:
            members[label[i]].append(i)
    if not members:
        return Fraction(0)
    most = max(map(len, members.values()))
    shown = []
    for group in members.values():
        if len(group) == most:
            best = [i for i in group if score is None or score[i] == max(score[j] for j in group)]
            shown.append(sum((credit[i] for i in best), Fraction(0)) / len(best))
    return sum(shown, Fraction(0)) / len(shown)


def maj_at_every_k(label, credit) -> np.ndarray:
    """maj@1..n by recursion over classes: given that r draws are left for the classes from b on, class b gets x of them
    with a hypergeometric chance. All terms are positive, so it is exact to rounding. O(n^3 log n)."""
    n, size = len(label), defaultdict(int)
    worth = defaultdict(float)
    for a, c in zip(label, credit, strict=True):
        if a >= 0:
            size[a] += 1
            worth[a] += c
    names = sorted(size, key=lambda a: -size[a])
    left = n - np.concatenate([[0], np.cumsum([size[a] for a in names])]).astype(int)
    draws = np.arange(n + 1)
    chance = []  # of class b: (r, x)
    for b, a in enumerate(names):
        r = np.minimum(draws, left[b])[:, None]
        pmf = stats.hypergeom.pmf(np.arange(size[a] + 1), left[b], size[a], r)
        chance.append(np.where(draws[:, None] <= left[b], pmf, 0.0))
    total = np.zeros(n + 1)
    for t in range(1, size[names[0]] + 1 if names else 0):
        racing = sum(size[a] >= t for a in names)
        y, weight = np.polynomial.legendre.leggauss(-(-racing // 2))
        y = (y[:, None] + 1) / 2
        # from the last racing class back to the first: (nodes, draws left), winner chosen before or still to come
        chosen, undecided = np.ones((len(y), n + 1)), np.zeros((len(y), n + 1))
        for b in range(racing - 1, -1, -1):
            new_chosen, new_undecided = np.zeros_like(chosen), np.zeros_like(undecided)
            for x in range(t + 1):
                p = chance[b][x:, x] if x <= size[names[b]] else np.zeros(n + 1 - x)
                factor = p if x < t else y * p
                new_chosen[:, x:] += factor * chosen[:, : n + 1 - x]
                new_undecided[:, x:] += factor * undecided[:, : n + 1 - x]
                if x == t:
                    new_undecided[:, x:] += worth[names[b]] / size[names[b]] * p * chosen[:, : n + 1 - x]
            chosen, undecided = new_chosen, new_undecided
        total += weight / 2 @ undecided
    return total[1:]


def partitions(n: int, most: int | None = None) -> Iterator[list[int]]:
    """All ways to write n as a falling sum."""
    if n == 0:
        yield []
    for first in range(min(n, most or n), 0, -1):
        for rest in partitions(n - first, first):
            yield [first, *rest]


@pytest.mark.slow
def test_every_class_structure_to_n_8_equals_enumeration(over_subsets) -> None:
    for n in range(1, 9):
        for invalid in range(n + 1):
            for sizes in partitions(n - invalid):
                label = [a for a, size in enumerate(sizes) for _ in range(size)] + [-1] * invalid
                credit = [Fraction(1, 2 + (3 * i) % 7) for i in range(n)]  # differs within classes
                got = maj_at_k([label], [[float(c) for c in credit]], range(1, n + 1))[0]
                want = [float(over_subsets(n, k, lambda s: vote(label, credit, s))) for k in range(1, n + 1)]  # noqa: B023
                np.testing.assert_allclose(got, want, atol=EXACT, err_msg=str(sizes))


samples = st.lists(
    st.tuples(st.integers(-1, 5), st.sampled_from([0, 0, 1, 1, Fraction(1, 2)]), st.integers(0, 2)),
    min_size=1,
    max_size=12,
)


@given(samples, st.data())
def test_random_problems_to_n_12_equal_enumeration(over_subsets, samples, data) -> None:
    label, credit, score = ([s[j] for s in samples] for j in range(3))
    k = data.draw(st.integers(1, len(label)))
    credits = [[float(c) for c in credit]]
    got = maj_at_k([label], credits, k)[0, 0]
    assert got == pytest.approx(float(over_subsets(len(label), k, lambda s: vote(label, credit, s))), abs=EXACT)
    shown = maj_at_k([label], credits, k, score_PG=[score])[0, 0]
    assert shown == pytest.approx(
        float(over_subsets(len(label), k, lambda s: vote(label, credit, s, score))), abs=EXACT
    )


@pytest.mark.parametrize("classes", [2, 6, 30, 64])
def test_contour_and_recursion_agree_at_n_64(classes) -> None:
    rng = np.random.default_rng(classes)
    ks = [1, 2, 3, 8, 13, 31, 32, 63, 64]
    for _ in range(2):
        label = rng.integers(-1, classes, 64)
        credit = rng.random(64)
        exact = maj_at_every_k(label, credit)[np.array(ks) - 1]
        np.testing.assert_allclose(maj_at_k([label], [credit], ks)[0], exact, atol=1e-13)


def test_a_block_of_problems_gives_what_each_gives_alone() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.choice([20, 33], 60)
    label = [rng.integers(-1, rng.integers(1, n + 1), n) for n in sizes]
    credit = [rng.random(n) for n in sizes]
    score = [rng.integers(0, 3, n) for n in sizes]
    ks = [1, 2, 5, 16, 20]
    together = maj_at_k(label, credit, ks)
    alone = np.vstack([maj_at_k([a], [c], ks) for a, c in zip(label, credit, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-13)
    together = maj_at_k(label, credit, ks, score_PG=score)
    rows = zip(label, credit, score, strict=True)
    alone = np.vstack([maj_at_k([a], [c], ks, score_PG=[s]) for a, c, s in rows])
    np.testing.assert_allclose(together, alone, atol=1e-13)


def test_credit_one_everywhere_scores_the_chance_of_any_answer() -> None:
    rng = np.random.default_rng(7)
    for n, k in [(300, 150), (3000, 700)]:
        label = np.minimum(rng.geometric(0.01, n), 400)
        assert maj_at_k([label], [np.ones(n)], k)[0, 0] == pytest.approx(1, abs=1e-11)
        label[: n // 4] = -1
        some = 1 - math.comb(n // 4, 3) / math.comb(n, 3)
        assert maj_at_k([label], [np.ones(n)], 3)[0, 0] == pytest.approx(some, abs=1e-11)


@given(samples)
def test_majority_never_beats_pass_at_k_and_one_sample_is_the_mean(samples) -> None:
    label, passed = [s[0] for s in samples], [float(s[1] == 1 and s[0] >= 0) for s in samples]
    ks = range(1, len(label) + 1)
    majority, ceiling = maj_at_k([label], [passed], ks)[0], pass_at_k(len(label), int(sum(passed)), ks)[0]
    assert (majority <= ceiling + EXACT).all()
    assert majority[0] == pytest.approx(np.mean(passed), abs=1e-15)


def test_samples_without_an_answer_never_win() -> None:
    assert maj_at_k([[-1, -1, -1]], [[1.0, 1.0, 1.0]], [1, 2, 3]).tolist() == [[0, 0, 0]]
    assert maj_at_k([[-1, -1, 7]], [[0.0, 0.0, 1.0]], 3)[0, 0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maj_at_k([[0, 1]], [[0.0, 1.0]], 3), "k=3 needs 3 samples; 1 problem has fewer"),
        (lambda: maj_at_k([[0.5, 1]], [[0.0, 1.0]], 1), "label must be whole"),
        (lambda: maj_at_k([[0, 1]], [[0.0, np.nan]], 1), "credit holds NaN"),
        (lambda: maj_at_k([[0, 1]], [[0.0, np.inf]], 1), "infinite"),
        (lambda: maj_at_k([[0, 1]], [[0.0]], 1), "differ in shape"),
        (lambda: maj_at_k([[0, 1]], [[0.0, 1.0]], 1, score_PG=[[np.nan, 1.0]]), "score holds NaN"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
