"""From a run's arrays to per-problem estimates: ungraded left out, missing scores refused, rules as they should be."""

import math

import numpy as np
import pytest

from harness.errors import InputError
from harness.metrics.subsets import pass_at_k
from harness.metrics.votes import vote_at_k
from harness.selectors import MEAN_LOGPROB, best_of, every_metric, lever, majority, oracle, score_names, weighted
from harness.types import Completion, Problem, Results

NAN = math.nan


def finished(passed, answers, *, logprob=None, n_tokens=None, **scores) -> Results:
    """A run from rows of 1, 0 and NaN, rows of answers, and rows of scores."""
    ids = [f"p{i}" for i in range(len(passed))]
    logprob = logprob or [[None] * len(row) for row in passed]
    n_tokens = n_tokens or [[None] * len(row) for row in passed]
    columns = {name: tuple(np.array(row, dtype=float) for row in rows) for name, rows in scores.items()}
    if any(value is not None for row in logprob for value in row):
        columns["logprob"] = tuple(np.array([NAN if x is None else x for x in row]) for row in logprob)
    return Results(
        problems_P=tuple(Problem(id=name, task="t", prompt="") for name in ids),
        completions_PG=tuple(
            tuple(
                Completion(problem_id=name, index=i, text="", logprob=x, n_tokens=length)
                for i, (x, length) in enumerate(zip(row, lengths, strict=True))
            )
            for name, row, lengths in zip(ids, logprob, n_tokens, strict=True)
        ),
        verdicts_PG=(),
        passed_PG=tuple(np.array(row, dtype=float) for row in passed),
        answer_PG=tuple(tuple(row) for row in answers),
        scores=columns,
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
    estimates = list(every_metric(RUN, [1, 2, 3]))
    assert [(rule, score) for rule, score, _ in estimates] == [
        ("pass", None),
        ("maj", None),
        ("best", "mean logprob"),
        ("vote", "mean logprob"),
        ("best", "reward"),
        ("vote", "reward"),
    ]
    for _, _, estimate in estimates:
        assert (estimate <= estimates[0][2] + 1e-12).all()
    code = finished([[1, 0]], [[None, None]])
    assert [rule for rule, _, _ in every_metric(code, [1])] == ["pass"]
    negative = finished([[1, 0]], [["a", "b"]], reward=[[-3.0, 2.0]])
    assert [rule for rule, _, _ in every_metric(negative, [1])] == ["pass", "maj", "best"]
