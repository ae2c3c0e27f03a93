"""From a run's arrays to per-problem estimates: ungraded left out, missing scores refused, rules as they should be."""

import math

import numpy as np
import pytest

from harness.errors import InputError, UnknownName
from harness.estimates import METHODS, metric_names, per_problem
from harness.metrics.consensus import select_at_k
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.votes import vote_at_k
from harness.results import subset
from harness.selectors import (
    MEAN_LOGPROB,
    best_of,
    consensus,
    execution_labels,
    lever,
    majority,
    metrics_of,
    n_at_k,
    oracle,
    prune,
    score_names,
    weighted,
)
from harness.types import Completion, Outcomes, Problem, Results, Status, Test, Verdict

NAN = math.nan


def suite(output, *, source="public") -> Outcomes:
    """What programs did on a suite, from their values as numbers; they pass where the value is 0."""
    outputs = [np.array(rows).reshape(len(rows), -1) for rows in output]
    return Outcomes(
        tests_PC=tuple(
            tuple(Test(id=str(i), kind="call", input=[i], expected=0, source=source) for i in range(rows.shape[1]))
            for rows in outputs
        ),
        passed_PGC=tuple(rows == 0 for rows in outputs),
        output_PGC=tuple(outputs),
        value_PGC=tuple(tuple(tuple(None if x < 0 else str(x) for x in row) for row in rows) for rows in outputs),
        cpu_s_PG=tuple(np.full(len(rows), 0.5) for rows in outputs),
    )


def finished(passed, answers=None, *, logprob=None, n_tokens=None, suites=None, **scores) -> Results:
    """A run from rows of 1, 0 and NaN, rows of answers (None: programs), and rows of scores."""
    tests = () if answers else (Test(id="0", kind="call", input=[0], expected=0),)
    answers = answers or [[None] * len(row) for row in passed]
    ids = [f"p{i}" for i in range(len(passed))]
    logprob = logprob or [[None] * len(row) for row in passed]
    n_tokens = n_tokens or [[None] * len(row) for row in passed]
    columns = {name: tuple(np.array(row, dtype=float) for row in rows) for name, rows in scores.items()}
    if any(value is not None for row in logprob for value in row):
        columns["logprob"] = tuple(np.array([NAN if x is None else x for x in row]) for row in logprob)
    return Results(
        problems_P=tuple(Problem(id=name, task="t", prompt="", tests=tests) for name in ids),
        completions_PG=tuple(
            tuple(
                Completion(problem_id=name, index=i, text="", logprob=x, n_tokens=length)
                for i, (x, length) in enumerate(zip(row, lengths, strict=True))
            )
            for name, row, lengths in zip(ids, logprob, n_tokens, strict=True)
        ),
        verdicts_PG=tuple(
            tuple(
                Verdict(problem_id=name, index=i, passed=None if x != x else x == 1, status=Status.passed)
                for i, x in enumerate(row)
            )
            for name, row in zip(ids, passed, strict=True)
        ),
        passed_PG=tuple(np.array(row, dtype=float) for row in passed),
        answer_PG=tuple(tuple(row) for row in answers),
        scores=columns,
        suites=suites or {},
    )


RUN = finished(
    [[1, 1, 0, NAN], [0, 0, 1]],
    [["7", "7", "8", "9"], ["1", None, "2"]],
    reward=[[0.1, 0.2, 0.9, NAN], [0.3, 0.1, 0.8]],
    logprob=[[-10.0, -20.0, -5.0, -1.0], [-8.0, -4.0, -2.0]],
    n_tokens=[[50, 50, 5, 5], [5, 5, 5]],
)


def test_ungraded_completions_are_in_no_count() -> None:
    np.testing.assert_allclose(oracle(RUN, [1, 2, 3]), pass_at_k([3, 3], [2, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="k=4 needs 4 samples; 2 problems have fewer"):
        oracle(RUN, [4])


def test_majority_counts_answers_of_graded_completions() -> None:
    np.testing.assert_allclose(majority(RUN, [1, 3]), [[2 / 3, 1], [1 / 3, 0.5]])


def test_majority_can_show_the_best_scored_member() -> None:
    run = finished([[1, 0, 0]], [["a", "a", "b"]], reward=[[0.9, 0.1, 0.5]])
    assert majority(run, [3])[0, 0] == pytest.approx(0.5)
    assert majority(run, [3], ties="reward")[0, 0] == pytest.approx(1)


def test_best_of_takes_the_highest_score_and_mean_logprob_the_likeliest_token() -> None:
    np.testing.assert_allclose(best_of(RUN, [3], score="reward")[:, 0], [0, 1])
    np.testing.assert_allclose(best_of(RUN, [3], score="logprob")[:, 0], [0, 1])
    np.testing.assert_allclose(best_of(RUN, [3], score=MEAN_LOGPROB)[:, 0], [1, 1])
    assert score_names(RUN) == [MEAN_LOGPROB, "reward"]
    unknown_lengths = finished([[1, 0]], [["a", "b"]], logprob=[[-1.0, -2.0]])
    assert score_names(unknown_lengths) == ["logprob"]


def test_weighted_votes_sum_scores_or_their_exponentials() -> None:
    run = finished([[1, 1, 0]], [["a", "a", "b"]], reward=[[0.2, 0.2, 0.5]])
    assert weighted(run, [3], score="reward")[0][0, 0] == 0
    assert weighted(run, [3], score="reward", log=True)[0][0, 0] == 1


def test_lever_gates_and_multiplies() -> None:
    run = finished(
        [[1, 0, 0]], [["a", "b", "c"]], verifier=[[0.6, 0.9, 0.0]], logprob=[[math.log(0.5), math.log(0.3), 0.0]]
    )
    assert lever(run, [3], verifier="verifier")[0][0, 0] == 1  # .30 against .27; c has no vote
    assert lever(run, [3], verifier="verifier", coefficient=0.0)[0][0, 0] == 0
    assert lever(run, [3], verifier="verifier", threshold=0.7)[0][0, 0] == 0
    with pytest.raises(InputError, match="not a probability"):
        lever(finished([[1]], [["a"]], verifier=[[3.5]], logprob=[[0.0]]), [1], verifier="verifier")


def test_lever_without_gate_is_the_log_vote() -> None:
    rng = np.random.default_rng(0)
    passed, p, lm = rng.integers(0, 2, (3, 6)), rng.uniform(0.1, 1, (3, 6)), rng.normal(-5, 2, (3, 6))
    label = rng.integers(0, 3, (3, 6))
    run = finished(passed.tolist(), label.astype(str).tolist(), verifier=p.tolist(), logprob=lm.tolist())
    expected, _ = vote_at_k(label, np.log(p) + 0.5 * lm, passed, [1, 4], log=True)
    np.testing.assert_allclose(lever(run, [1, 4], verifier="verifier", coefficient=0.5)[0], expected)


def test_a_missing_score_is_refused_and_not_taken_for_a_low_one() -> None:
    run = finished([[1, 0], [0, 1]], [["a", "b"], ["a", "b"]], reward=[[0.1, NAN], [NAN, 0.2]], other=[[1, 2], [3, 4]])
    with pytest.raises(InputError, match=r"'reward' is missing for 2 graded completions \(there are 'other'\)"):
        best_of(run, [1], score="reward")
    with pytest.raises(InputError, match="'nothing' is missing for 4"):
        weighted(run, [1], score="nothing")


def test_every_metric_is_what_the_data_allow_and_none_beats_the_oracle() -> None:
    found = list(metrics_of(RUN))
    assert [(metric.rule, metric.of) for metric in found] == [
        ("pass", None),
        ("maj", None),
        ("best", "mean logprob"),
        ("vote", "mean logprob"),
        ("best", "reward"),
        ("vote", "reward"),
        ("lever", "reward"),
    ]
    for metric in found:
        assert (metric.values([1, 2, 3]) <= oracle(RUN, [1, 2, 3]) + 1e-12).all()
    code = finished([[1, 0]], [[None, None]])
    assert [metric.rule for metric in metrics_of(code)] == ["pass"]
    negative = finished([[1, 0]], [["a", "b"]], reward=[[-3.0, 2.0]])
    assert [metric.rule for metric in metrics_of(negative)] == ["pass", "maj", "best"]


# programs: votes by what they returned


def test_equal_results_are_one_vote_and_errors_none_but_their_own() -> None:
    """Two of five agree; two fail on a test and would be a class of two, were failing together an agreement."""
    ran = suite([[[1, 2], [1, 2], [3, 2], [-1, 2], [-1, 2]], [[7], [7], [7], [8], [8]]])
    run = finished([[1, 1, 0, 0, 0], [0, 0, 0, 1, 1]], suites={"inputs": ran})
    first, second = execution_labels(run, "inputs")
    assert first[0] == first[1]
    assert len(set(first.tolist())) == 4
    assert [len(set(second[part].tolist())) for part in (slice(0, 3), slice(3, 5))] == [1, 1]
    np.testing.assert_allclose(majority(run, [5], suite="inputs")[:, 0], [1, 0])


def test_ungraded_programs_and_problems_without_tests_group_with_nobody() -> None:
    ran = suite([[[1], [1], [2], [1]], np.empty((4, 0))])
    run = finished([[1, NAN, 0, NAN], [1, 0, 0, 0]], suites={"inputs": ran})
    assert [len(set(row.tolist())) for row in execution_labels(run, "inputs")] == [2, 4]
    np.testing.assert_allclose(majority(run, [2], suite="inputs")[:, 0], [0.5, 0.25])


def test_lever_adds_the_product_over_equal_results() -> None:
    """By hand: .5 x .2 + .4 x .3 = .22 for the first two, .9 x .24 = .216 for the third."""
    ran = suite([[[1], [1], [2], [-1]]])
    logs = [[math.log(x) for x in (0.2, 0.3, 0.24, 0.01)]]
    run = finished([[1, 1, 0, 0]], suites={"inputs": ran}, p=[[0.5, 0.4, 0.9, 0.99]], logprob=logs)
    assert lever(run, [4], verifier="p", suite="inputs")[0][0, 0] == 1
    assert lever(run, [4], verifier="p", suite="inputs", coefficient=0.0)[0][0, 0] == 0  # errors: .99 beats .9
    assert best_of(run, [4], score="p")[0, 0] == 0


def test_lever_ties_are_uniform_over_results_then_over_members() -> None:
    ran = suite([[[1], [1], [2]]])
    run = finished([[1, 0, 1]], suites={"inputs": ran}, p=[[0.25, 0.25, 0.5]], logprob=[[-3.0, -3.0, -3.0]])
    assert lever(run, [3], verifier="p", suite="inputs")[0][0, 0] == pytest.approx(0.5 * 0.5 + 0.5)


def test_lever_never_adds_up_errors() -> None:
    """Three errors of .4 each would have 1.2 together; alone, each loses against .5."""
    ran = suite([[[-1], [-1], [-1], [3]]])
    run = finished([[0, 0, 0, 1]], suites={"inputs": ran}, p=[[0.4, 0.4, 0.4, 0.5]], logprob=[[-1.0] * 4])
    assert lever(run, [4], verifier="p", suite="inputs")[0][0, 0] == 1


def test_lever_without_log_probabilities_takes_the_share_of_the_text() -> None:
    """The text at two of three places has p_LM = 2/3: LEVER has .3 x 2/3 against .5 x 1/3, once each."""
    run = finished([[1, 1, 0]], suites={"inputs": suite([[[1], [1], [2]]])}, p=[[0.3, 0.3, 0.5]])
    assert lever(run, [3], verifier="p", suite="inputs", logprob=None)[0][0, 0] == 1
    with pytest.raises(InputError, match="'logprob' is missing for 3"):
        lever(run, [3], verifier="p", suite="inputs")
    with pytest.raises(InputError, match="no coefficient"):
        lever(run, [3], verifier="p", suite="inputs", logprob=None, coefficient=0.5)


def test_lever_below_its_threshold_counts_only_where_there_is_nothing_else() -> None:
    run = finished([[1, 0]], [["a", "b"]], p=[[0.3, 0.2]], logprob=[[-1.0, -9.0]])
    assert lever(run, [2], verifier="p", threshold=0.9)[0][0, 0] == 1  # of two that are below, the likelier
    assert lever(run, [2], verifier="p", threshold=0.3)[0][0, 0] == 1
    unlikely = finished([[1, 0]], [["a", "b"]], p=[[0.3, 0.2]], logprob=[[-9.0, -1.0]])
    assert lever(unlikely, [2], verifier="p", threshold=0.3)[0][0, 0] == 1  # at the threshold it counts
    assert lever(unlikely, [2], verifier="p")[0][0, 0] == 0
    nothing = finished([[1, 0, 0]], [["a", "b", "c"]], p=[[0.0, 0.0, 0.0]], logprob=[[-1.0, -2.0, -3.0]])
    assert lever(nothing, [3], verifier="p")[0][0, 0] == 1


def random_programs(seed: int, *, problems: int = 4, n: int = 7, tests: int = 3, values: int = 3) -> Results:
    """Programs whose values, errors among them, have something to do with their being right."""
    rng = np.random.default_rng(seed)
    passed = rng.integers(0, 2, (problems, n))
    output = rng.integers(-1, values, (problems, n, tests))
    output[passed == 1] = np.where(rng.random((passed.sum(), tests)) < 0.8, 0, output[passed == 1])
    sources = {"inputs": "gold", "examples": "public", "generated": "generated:m"}
    return finished(
        passed.tolist(),
        suites={
            name: suite(output[:, :, :2] if name == "examples" else output, source=s) for name, s in sources.items()
        },
        p=rng.uniform(0, 1, (problems, n)).round(1).tolist(),
        reward=rng.normal(0, 1, (problems, n)).tolist(),
        logprob=rng.normal(-9, 3, (problems, n)).tolist(),
        n_tokens=rng.integers(1, 9, (problems, n)).tolist(),
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_verifier_and_a_uniform_model_are_the_majority(seed) -> None:
    run = random_programs(seed)
    columns = {"constant": [[0.37] * 7] * 4}
    passed, ran = [row.tolist() for row in run.passed_PG], run.suites
    like = finished(passed, suites=ran, logprob=[[-4.0] * 7] * 4, **columns)
    ks = [1, 2, 3, 7]
    expected = majority(like, ks, suite="inputs")
    np.testing.assert_allclose(lever(like, ks, verifier="constant", suite="inputs")[0], expected, atol=1e-12)
    alone = lever(like, ks, verifier="constant", suite="inputs", logprob=None)[0]
    np.testing.assert_allclose(alone, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_with_all_results_different_lever_is_best_of_the_product(seed) -> None:
    run = random_programs(seed)
    different = suite(np.arange(7)[None, :, None].repeat(4, axis=0))
    products = [
        np.log(np.maximum(p, 1e-300)) + lm for p, lm in zip(run.scores["p"], run.scores["logprob"], strict=True)
    ]
    run = finished(
        [row.tolist() for row in run.passed_PG],
        suites={"inputs": different},
        p=[row.tolist() for row in run.scores["p"]],
        logprob=[row.tolist() for row in run.scores["logprob"]],
    )
    ks = [1, 2, 4, 7]
    expected = best_at_k(run.passed_PG, products, ks)
    np.testing.assert_allclose(lever(run, ks, verifier="p", suite="inputs")[0], expected, atol=1e-12)
    failing = finished(
        [row.tolist() for row in run.passed_PG],
        suites={"inputs": suite(np.full((4, 7, 1), -1))},
        p=[row.tolist() for row in run.scores["p"]],
        logprob=[row.tolist() for row in run.scores["logprob"]],
    )
    np.testing.assert_allclose(lever(failing, ks, verifier="p", suite="inputs")[0], expected, atol=1e-12)


def test_lever_does_not_depend_on_the_order_of_programs() -> None:
    run = random_programs(3)
    order = np.random.default_rng(0).permutation(7)
    mixed = finished(
        [row[order].tolist() for row in run.passed_PG],
        suites={"inputs": suite([rows[order] for rows in run.suites["inputs"].output_PGC])},
        p=[row[order].tolist() for row in run.scores["p"]],
        logprob=[row[order].tolist() for row in run.scores["logprob"]],
    )
    ks = [1, 3, 7]
    np.testing.assert_allclose(
        lever(mixed, ks, verifier="p", suite="inputs")[0], lever(run, ks, verifier="p", suite="inputs")[0], atol=1e-12
    )


# suites


def test_rules_on_suites_are_those_of_the_metrics_without_ungraded_programs() -> None:
    run = finished([[1, NAN, 0, 1]], suites={"generated": suite([[[0, 1], [0, 0], [1, 0], [0, 1]]])})
    kept = [0, 2, 3]
    for rule in ("max_pass", "codet", "b4"):
        matrix = [run.suites["generated"].passed_PGC[0][kept]]
        expected, _ = select_at_k(rule, [[1, 0, 1]], matrix, [1, 2, 3])
        np.testing.assert_allclose(consensus(run, [1, 2, 3], rule=rule, suite="generated")[0], expected)
    expected, _ = select_at_k("mbr_exec", [[1, 0, 1]], [run.suites["generated"].output_PGC[0][kept]], [2, 3])
    np.testing.assert_allclose(consensus(run, [2, 3], rule="mbr_exec", suite="generated")[0], expected)


def test_who_passes_the_tasks_own_tests_is_never_a_choice() -> None:
    run = finished([[1, 0]], suites={"inputs": suite([[[0], [1]]]), "more": suite([[[0], [1]]], source="gold")})
    names = metric_names(run, [2])
    assert {"maj@2[inputs]", "mbr_exec@2[inputs]", "maj@2[more]", "mbr_exec@2[more]"} <= set(names)
    assert not any(name.startswith(("codet", "b4", "max_pass")) for name in names)
    for name in ("inputs", "more"):
        with pytest.raises(InputError, match="the task's own tests"):
            consensus(run, [2], rule="max_pass", suite=name)
        with pytest.raises(InputError, match="the task's own tests"):
            prune(run, [2], score="reward", suite=name, keep=1)
        with pytest.raises(InputError, match="the task's own tests"):
            n_at_k(run, [2], n=1, suite="inputs", accepted=name)
    with pytest.raises(UnknownName, match="'input': did you mean 'inputs'"):
        majority(run, [2], suite="input")


def test_pruning_ranks_by_tests_among_those_that_the_score_keeps() -> None:
    ran = suite([[[0, 0], [0, 1], [1, 1], [1, 0]]])
    run = finished([[1, 0, 0, 1]], suites={"generated": ran}, reward=[[1, 4, 3, 2]])
    estimate, error, seconds = prune(run, [4], score="reward", suite="generated", keep=2)
    assert (estimate[0, 0], error[0, 0], seconds[0, 0]) == (0, 0, 1.0)  # the second passes one test, the third none
    every, _, _ = prune(run, [1, 2, 3, 4], score="reward", suite="generated", keep=4)
    np.testing.assert_allclose(every, consensus(run, [1, 2, 3, 4], rule="max_pass", suite="generated")[0])


def test_submissions_are_filtered_then_taken_one_from_each_cluster() -> None:
    suites = {"examples": suite([[[0], [0], [0], [5]]]), "generated": suite([[[1], [1], [2], [2]]])}
    run = finished([[0, 0, 1, 1]], suites=suites)
    assert n_at_k(run, [4], n=1, suite="generated", accepted="examples")[0][0, 0] == 0
    assert n_at_k(run, [4], n=2, suite="generated", accepted="examples")[0][0, 0] == 1
    assert n_at_k(run, [4], n=1, suite="generated")[0][0, 0] == 0.5


def test_the_metrics_of_programs_have_names_that_can_be_asked_for() -> None:
    run = random_programs(0)
    usual = {metric.name(4) for metric in metrics_of(run) if metric.usual}
    assert usual == {
        "pass@4",
        *(f"maj@4[{name}]" for name in run.suites),
        *(f"mbr_exec@4[{name}]" for name in run.suites),
        *(f"{rule}@4[{name}]" for rule in ("max_pass", "codet", "b4") for name in ("examples", "generated")),
        *(f"best@4[{name}]" for name in (MEAN_LOGPROB, "p", "reward")),
        *(f"vote@4[{name}]" for name in (MEAN_LOGPROB, "p")),
        "lever@4[p]",
    }
    assert set(per_problem(run, [1, 4])) == usual | {"pass@1"}
    assert {metric.rule for metric in metrics_of(run)} <= METHODS.keys()
    found = per_problem(run, [2, 4], only=["lever@4[p by generated]", "lever@4[p]", "pass@2"])
    assert set(found) == {"lever@4[p by generated]", "lever@4[p]", "pass@2"}
    np.testing.assert_array_equal(found["lever@4[p]"], lever(run, [4], verifier="p", suite="inputs")[0][:, 0])
    with pytest.raises(UnknownName, match="did you mean 'lever@4"):
        per_problem(run, [4], only=["lover@4[p]"])


@pytest.mark.parametrize("seed", range(8))
def test_no_selector_of_programs_beats_the_oracle_on_any_problem(seed) -> None:
    """All subsets are counted here, so that not even drawing can make one seem to."""
    run = random_programs(seed)
    ks = [1, 2, 3, 7]
    ceiling = oracle(run, ks)
    for metric in metrics_of(run):
        assert (metric.values(ks) <= ceiling + 1e-12).all(), metric.name(0)
        np.testing.assert_allclose(metric.values([1])[:, 0], ceiling[:, 0], atol=1e-12)
    for keep in (1, 3):
        found, error, _ = prune(run, ks, score="p", suite="generated", keep=keep)
        assert (found <= ceiling + 5 * error + 1e-12).all()  # equal scores are kept at random: this one is drawn
    for n in (1, 2, 7):
        found = n_at_k(run, ks, n=n, suite="generated", accepted="examples")[0]
        assert (found <= ceiling + 1e-12).all()


def test_a_part_of_a_run_has_its_part_of_the_suites() -> None:
    run = random_programs(1)
    part = subset(run, [2, 0])
    for name, ran in part.suites.items():
        np.testing.assert_array_equal(ran.output_PGC[0], run.suites[name].output_PGC[2])
        assert ran.value_PGC[1] == run.suites[name].value_PGC[0]
        assert len(ran.tests_PC) == len(ran.passed_PGC) == len(ran.cpu_s_PG) == 2
    for whole, cut in zip(metrics_of(run), metrics_of(part), strict=True):
        np.testing.assert_array_equal(cut.values([3]), whole.values([3])[[2, 0]])
