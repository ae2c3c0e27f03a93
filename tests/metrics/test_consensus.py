"""Choosing by tests that may be wrong: each rule against loops that follow its paper's text, over every subset; then
matrices planted with known right programs and tests, where theory says which rule should win."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from harness.metrics.consensus import ALPHA_XY, BETA_0, RULES, b4, codet, max_pass, mbr_exec, select_at_k
from harness.metrics.inference import diff_ci
from harness.metrics.majority import maj_at_k
from harness.metrics.subsets import pass_at_k

SCORES = {"max_pass": max_pass, "codet": codet, "b4": b4, "mbr_exec": mbr_exec}
PRIORS = {"default": (BETA_0, ALPHA_XY), "simulated": (10.0, 10.0)}  # the second is that of B4's own simulation


def log_beta(a, b) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def slow_score(rule, rows, i, beta_0=BETA_0, alpha_xy=ALPHA_XY):
    """The score of program i among `rows`, one loop per sum of its paper. CodeT's is squared, so that it is whole."""
    mine, tests = rows[i], range(len(rows[i]))
    if rule == "max_pass":
        return sum(1 for t in tests if mine[t])
    if rule == "codet":
        consensus = [row for row in rows if all(row[t] == mine[t] for t in tests)]
        return len(consensus) * sum(1 for t in tests if mine[t]) ** 2
    if rule == "mbr_exec":
        matches = sum(1 for row in rows for t in tests if mine[t] >= 0 and row[t] == mine[t])
        return Fraction(matches, max(len(rows) * len(tests), 1))
    # B4: programs x and tests y are taken for right where x is in i's group and y is passed by it
    x = [row == mine for row in rows]
    n_x, n_y = sum(x), sum(1 for t in tests if mine[t])
    on_right, passes_right, on_wrong, passes_wrong = 0, 0, 0, 0
    for taken, row in zip(x, rows, strict=True):
        for t in tests:
            if not taken and mine[t]:
                on_right += 1
                passes_right += row[t]
            elif not taken:
                on_wrong += 1
                passes_wrong += row[t]
    return (
        log_beta(n_x + alpha_xy, len(rows) - n_x + 1)
        + log_beta(n_y + alpha_xy, len(tests) - n_y + 1)
        + log_beta(passes_right + 1, on_right - passes_right + 1)
        + log_beta(passes_wrong + 1, on_wrong - passes_wrong + beta_0)
    )


def slow_choice(rule, correct, matrix, subset, priors) -> Fraction:
    """The chance that the program chosen from a subset is correct: uniform over the top groups, then over members."""
    rows = [tuple(matrix[i]) for i in subset]
    scores = [slow_score(rule, rows, j, *priors) for j in range(len(rows))]
    top = max(scores)
    groups: dict = {}
    for row, score, i in zip(rows, scores, subset, strict=True):
        if score == top or (rule == "b4" and abs(score - top) < 1e-9 * abs(top)):
            groups.setdefault(score if rule == "max_pass" else row, []).append(Fraction(int(correct[i])))
    means = [sum(group, Fraction(0)) / len(group) for group in groups.values()]
    return sum(means, Fraction(0)) / len(means)


@st.composite
def problems(draw):
    """Correctness (n,) and a matrix (n, C), often with equal rows: passes are the values above 0."""
    tests = draw(st.integers(0, 5))
    kinds = draw(st.lists(st.lists(st.integers(-1, 2), min_size=tests, max_size=tests), min_size=1, max_size=4))
    picked = draw(st.lists(st.tuples(st.integers(0, len(kinds) - 1), st.booleans()), min_size=1, max_size=8))
    output = np.array([kinds[kind] for kind, _ in picked], dtype=np.int64).reshape(len(picked), tests)
    return [right for _, right in picked], output


def seen(rule, output):
    return output if rule == "mbr_exec" else output > 0


@pytest.mark.parametrize("rule", RULES)
@given(problems(), st.sampled_from(sorted(PRIORS)), st.data())
def test_every_rule_equals_enumeration(over_subsets, rule, problem, priors, data) -> None:
    correct, output = problem
    matrix = seen(rule, output)
    k = data.draw(st.integers(1, len(correct)))
    beta_0, alpha_xy = PRIORS[priors]
    mean, se = select_at_k(rule, [correct], [matrix], k, beta_0=beta_0, alpha_xy=alpha_xy)
    exact = over_subsets(len(correct), k, lambda s: slow_choice(rule, correct, matrix, s, (beta_0, alpha_xy)))
    assert mean[0, 0] == pytest.approx(float(exact), abs=1e-9)
    assert se[0, 0] == 0


@pytest.mark.parametrize("rule", RULES)
@given(problems())
def test_scores_equal_the_loops_of_their_papers(rule, problem) -> None:
    _, output = problem
    matrix = seen(rule, output)
    rows = [tuple(row) for row in matrix]
    slow = [float(slow_score(rule, rows, i)) for i in range(len(rows))]
    np.testing.assert_allclose(SCORES[rule](matrix), np.sqrt(slow) if rule == "codet" else slow, rtol=1e-9, atol=1e-9)


def test_b4_is_the_posterior_integrated_over_its_four_unknown_rates() -> None:
    """Entry by entry: the product of the chances of what was seen, times the prior, integrated over each rate."""
    rng = np.random.default_rng(0)
    beta_0, alpha_xy = PRIORS["simulated"]
    for _ in range(5):
        passed = rng.random((6, 4)) < 0.5
        passed[1] = passed[0]
        scores = b4(passed, beta_0=beta_0, alpha_xy=alpha_xy)
        for row, score in zip(passed, scores, strict=True):
            outside = passed[(passed != row).any(axis=1)]

            def rate(entries, a, b):
                drawn = [bool(entry) for entry in np.ravel(entries)]
                return quad(
                    lambda p: p ** (a - 1) * (1 - p) ** (b - 1) * math.prod(p if hit else 1 - p for hit in drawn), 0, 1
                )[0]

            posterior = (
                rate((passed == row).all(axis=1), alpha_xy, 1)
                * rate(row, alpha_xy, 1)
                * rate(outside[:, row], 1, 1)
                * rate(outside[:, ~row], 1, beta_0)
            )
            assert score == pytest.approx(math.log(posterior), rel=1e-7)


@pytest.mark.parametrize("rule", RULES)
@given(problems(), st.randoms(use_true_random=False))
def test_order_is_of_no_account(rule, problem, random) -> None:
    correct, output = problem
    matrix = seen(rule, output)
    programs, tests = list(range(len(correct))), list(range(matrix.shape[1]))
    random.shuffle(programs)
    random.shuffle(tests)
    shuffled = matrix[programs][:, tests]
    if rule == "mbr_exec" and tests:  # nor of which number a value has
        name = np.array([random.randrange(100) + 100 * value for value in range(3)])
        shuffled = np.where(shuffled >= 0, name[np.maximum(shuffled, 0)], -7)
    ks = sorted({1, (len(correct) + 1) // 2, len(correct)})
    before, _ = select_at_k(rule, [correct], [matrix], ks)
    after, _ = select_at_k(rule, [[correct[i] for i in programs]], [shuffled], ks)
    np.testing.assert_allclose(after, before, atol=1e-12)
    np.testing.assert_allclose(SCORES[rule](shuffled), SCORES[rule](matrix)[programs], rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@given(st.lists(problems(), min_size=1, max_size=4))
def test_one_of_one_is_chance_and_nothing_beats_pass_at_k(rule, given_problems) -> None:
    correct = [each for each, _ in given_problems]
    matrices = [seen(rule, output) for _, output in given_problems]
    smallest = min(map(len, correct))
    ks = sorted({1, (smallest + 1) // 2, smallest})
    chosen, _ = select_at_k(rule, correct, matrices, ks)
    np.testing.assert_allclose(chosen[:, 0], [np.mean(row) for row in correct], atol=1e-12)
    ceiling = pass_at_k([len(row) for row in correct], [sum(row) for row in correct], ks)
    assert (chosen <= ceiling + 1e-12).all()
    alike, _ = select_at_k(rule, correct, [matrix[:, :0] for matrix in matrices], ks)
    np.testing.assert_allclose(alike, chosen[:, [0]].repeat(len(ks), axis=1), atol=1e-12)  # no tests: pass@1


def world(rng, *, problems=40, n=14, tests=8):
    """Matrices with some agreement, whose right programs are seldom the largest group."""
    kinds = rng.integers(-1, 3, (problems, 5, tests))
    kind = rng.integers(0, 5, (problems, n))
    return rng.integers(0, 2, (problems, n)).astype(float), np.take_along_axis(kinds, kind[:, :, None], axis=1)


@pytest.mark.parametrize("rule", ["codet", "b4", "mbr_exec"])
def test_drawn_subsets_agree_with_all_of_them_within_their_standard_error(rule) -> None:
    correct, output = world(np.random.default_rng(1))
    matrices = list(seen(rule, output))
    exact, none = select_at_k(rule, correct, matrices, [3, 5, 7], subsets=4000)
    drawn, se = select_at_k(rule, correct, matrices, [3, 5, 7], subsets=300, rng=3)
    assert (none == 0).all()
    assert (se > 0).any()
    z = (drawn - exact)[se > 0] / se[se > 0]
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert 0.85 < z.std() < 1.15


def test_reruns_and_fewer_problems_draw_the_same() -> None:
    correct, output = world(np.random.default_rng(2), problems=4, n=30)
    seeds = [11, 22, 33, 44]
    first, _ = select_at_k("mbr_exec", correct, list(output), [4, 8], rng=seeds)
    again, _ = select_at_k("mbr_exec", correct[2:], list(output[2:]), [8], rng=seeds[2:])
    np.testing.assert_array_equal(first[2:, 1:], again)
    other, _ = select_at_k("mbr_exec", correct, list(output), [4, 8], rng=np.random.default_rng(9))
    assert not np.array_equal(first, other)


def test_a_tie_is_between_groups_and_then_between_members() -> None:
    passed = [[True, False]] * 3 + [[False, True]] * 3
    assert select_at_k("codet", [[1, 1, 1, 0, 0, 0]], [passed], 6)[0][0, 0] == pytest.approx(0.5)
    # sqrt(4) x 1 = sqrt(1) x 2: groups of four and of one, whose members share half of the chance
    passed = [[True, False, False]] * 4 + [[False, True, True]]
    assert select_at_k("codet", [[0, 0, 0, 0, 1]], [passed], 5)[0][0, 0] == pytest.approx(0.5)
    # MaxPass does not look at which tests: its three are one group
    passed = [[True, False], [True, False], [False, True]]
    assert select_at_k("max_pass", [[0, 0, 1]], [passed], 3)[0][0, 0] == pytest.approx(1 / 3)


def test_all_executions_distinct() -> None:
    """No two programs agree: CodeT is MaxPass, and MBR-exec has nothing to go by but who returns a value."""
    rng = np.random.default_rng(3)
    passed = np.array([[bool(i >> t & 1) for t in range(4)] for i in range(9)])
    correct, ks = rng.integers(0, 2, (1, 9)), [1, 2, 5, 9]
    own_tests = np.hstack([passed, np.tril(np.ones((9, 9), dtype=bool))])  # 1 to 9 more: no ties
    np.testing.assert_allclose(
        select_at_k("codet", correct, [own_tests], ks)[0], select_at_k("max_pass", correct, [own_tests], ks)[0]
    )
    output = np.arange(27).reshape(9, 3)
    np.testing.assert_allclose(select_at_k("mbr_exec", correct, [output], ks)[0], correct.mean())
    output[:, 1:] = -1
    output[4, 1:] = 5
    assert mbr_exec(output).argmax() == 4


def test_mbr_exec_on_one_input_is_the_majority_of_values() -> None:
    rng = np.random.default_rng(4)
    output, correct = rng.integers(0, 4, (6, 9)), rng.integers(0, 2, (6, 9))
    chosen, _ = select_at_k("mbr_exec", correct, list(output[:, :, None]), [1, 3, 9])
    np.testing.assert_allclose(chosen, maj_at_k(output, correct, [1, 3, 9]), atol=1e-12)


def test_failing_together_is_no_agreement() -> None:
    output = [[-1, -1]] * 5 + [[3, -1]] * 2 + [[4, 8]]
    np.testing.assert_allclose(mbr_exec(output), [0] * 5 + [2 / 16] * 2 + [2 / 16])
    chosen, _ = select_at_k("mbr_exec", [[0] * 5 + [0, 0, 1]], [output], 8)
    assert chosen[0, 0] == pytest.approx(0.5)


# Planted matrices. A program is right with chance THETA_X, a test with THETA_Y; right programs pass exactly the right
# tests; a wrong one passes a right test with chance THETA_1, a wrong test with THETA_0. The numbers, the 10 programs
# and 30 tests, and that problems without a right or a wrong program are left out, are those of B4's simulation.

THETA_X, THETA_Y, THETA_1, THETA_0 = 0.2, 0.3, 0.4, 0.1


def planted(rng, draws, *, n=10, tests=30, theta_x=THETA_X, theta_0=THETA_0, kinds=None):
    """`draws` problems: correctness (n,) and passes (n, tests). Wrong programs behave in `kinds` ways (None: n)."""
    correct, passed = [], []
    while len(correct) < draws:
        x, y = rng.random(n) < theta_x, rng.random(tests) < THETA_Y
        if x.any() and not x.all():
            wrong = rng.random((kinds or n, tests)) < np.where(y, THETA_1, theta_0)
            behaviour = np.arange(n) if kinds is None else rng.integers(0, kinds, n)
            correct.append(x.astype(float))
            passed.append(np.where(x[:, None], y, wrong[behaviour]))
    return correct, passed


def chosen_of_all(correct, passed, priors):
    """Success of each rule among all programs, and of a random choice: (draws,) each."""
    beta_0, alpha_xy = PRIORS[priors]
    n = len(correct[0])
    success = {
        rule: select_at_k(rule, correct, passed, n, beta_0=beta_0, alpha_xy=alpha_xy)[0][:, 0]
        for rule in ("max_pass", "codet", "b4")
    }
    return success | {"chance": np.array([row.mean() for row in correct])}


def above(better, worse) -> bool:
    return diff_ci(better - worse, level=0.999).low > 0


@pytest.mark.parametrize("priors", PRIORS)
def test_planted_b4_beats_codet_beats_max_pass_beats_chance(priors) -> None:
    success = chosen_of_all(*planted(np.random.default_rng(5), 1500), priors)
    assert above(success["b4"], success["codet"])
    assert above(success["codet"], success["max_pass"])
    assert above(success["max_pass"], success["chance"])


def test_planted_curves_in_k_rise_for_codet_and_b4_and_keep_their_order() -> None:
    correct, passed = planted(np.random.default_rng(6), 300, n=20)
    curve = {rule: select_at_k(rule, correct, passed, [2, 5, 10, 20], subsets=200)[0] for rule in ("codet", "b4")}
    for rule in curve:
        assert (np.diff(curve[rule].mean(axis=0)) > 0).all()
    assert all(above(b, c) for b, c in zip(curve["b4"].T[1:], curve["codet"].T[1:], strict=True))


@pytest.mark.slow
def test_where_wrong_programs_often_pass_wrong_tests_counting_passes_is_worse_than_chance() -> None:
    """A right program passes 0.3 x 30 = 9 tests on average, a wrong one (0.3 x 0.4 + 0.7 x 0.3) x 30 = 9.9, and the
    best of several wrong ones more. The default beta_0 = 1e4 denies that wrong programs do this: B4 then falls behind
    CodeT; with beta_0 = 10 it leads."""
    draws = planted(np.random.default_rng(7), 3000, theta_0=0.3)
    told, misled = chosen_of_all(*draws, "simulated"), chosen_of_all(*draws, "default")
    assert above(told["chance"], told["max_pass"])
    assert above(told["b4"], told["codet"])
    assert above(misled["codet"], misled["b4"])


def test_where_the_few_right_programs_meet_wrong_ones_that_agree_codet_falls_behind_max_pass() -> None:
    """2 of 100 programs are right, and the wrong ones fail in 20 ways: agreement alone points to a common mistake."""
    draws = planted(np.random.default_rng(8), 300, n=100, tests=100, theta_x=0.02, theta_0=0.05, kinds=20)
    success = chosen_of_all(*draws, "default")
    assert above(success["max_pass"], success["codet"])
    assert above(success["b4"], success["codet"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select_at_k("best", [[1]], [[[True]]], 1), "there is no rule 'best': there are max_pass, codet"),
        (lambda: select_at_k("b4", [[1]], [[[True]]], 2), "k=2 needs 2 samples; 1 problem has fewer"),
        (lambda: select_at_k("b4", [[1, 0]], [[[True]]], 1), "correct and matrix differ in shape"),
        (lambda: select_at_k("b4", [[1, 0]], [], 1), "correct and matrix differ in shape"),
        (lambda: select_at_k("b4", [[1, 0.5]], [[[True], [True]]], 1), "correct must be 0 or 1"),
        (lambda: select_at_k("b4", [[1, np.nan]], [[[True], [True]]], 1), "correct holds NaN"),
        (lambda: select_at_k("b4", [[1]], [[[True]]], 1, beta_0=0), "beta_0 and alpha_xy must be positive"),
        (lambda: select_at_k("codet", [[1]], [[[0.5]]], 1), "True and False"),
        (lambda: select_at_k("codet", [[1]], [[True]], 1), "True and False"),
        (lambda: select_at_k("mbr_exec", [[1]], [[[0.5]]], 1), "whole numbers"),
        (lambda: select_at_k("b4", [[1, 1]], [[[True], [True]]], 1, rng=[1, 2]), "2 seeds for 1 problems"),
    ],
)
def test_impossible_arguments_are_refused_with_the_reason(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
