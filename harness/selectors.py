"""Selectors: what would be scored if one of k completions were chosen by a rule, from the arrays of a finished run.

`oracle` (pass@k), `majority` (maj@k), `best_of`, `weighted` and `lever` take `Results` and ks and return one unbiased
number per problem and k, (P, K), in the order of `results.problems_P`; `metrics/` has their formulas. `every_metric` is
the list that a report shows: each of them that the run's data allow.

Ungraded completions are left out, of n as of c: they are not wrong answers. A completion without an answer never votes.
Not handled: intervals (`metrics/inference.py`) and choosing without any score or answer (`metrics/consensus.py`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from harness.errors import InputError
from harness.metrics.majority import maj_at_k
from harness.metrics.shapes import Ints
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.votes import vote_at_k
from harness.types import Floats, Results

MEAN_LOGPROB = "mean logprob"
"""Name of the score that `mean_logprob` gives."""

SUBSETS = 200_000
"""Subsets drawn for a vote over all problems, 100 to 2000 each: their standard error is below 0.5 / sqrt(number)."""


def oracle(results: Results, ks: Sequence[int]) -> Floats:
    """pass@k: the ceiling of every selector. (P, K)"""
    passed = graded(results)
    return pass_at_k([len(row) for row in passed], [row.sum() for row in passed], ks)


def majority(results: Results, ks: Sequence[int], *, ties: str | None = None) -> Floats:
    """maj@k: the most frequent answer, ties uniform. (P, K)

    `ties` names a score: the winning answer then shows its best-scored completion, which matters where completions with
    one answer can differ in correctness.
    """
    score = None if ties is None else scores(results, ties)
    return maj_at_k(labels(results), graded(results), ks, score_PG=score)


def best_of(results: Results, ks: Sequence[int], *, score: str) -> Floats:
    """The completion with the highest score, ties uniform. (P, K)"""
    return best_at_k(graded(results), scores(results, score), ks)


def weighted(results: Results, ks: Sequence[int], *, score: str, log: bool = False) -> tuple[Floats, Floats]:
    """The answer with the largest sum of scores (of their exponentials if `log`): estimates and drawing errors, (P, K).

    Few subsets are all counted, many drawn, from one seed per problem id, so a rerun gives the same numbers.
    """
    return _vote(results, labels(results), scores(results, score), ks, log=log)


def lever(
    results: Results,
    ks: Sequence[int],
    *,
    verifier: str,
    logprob: str = "logprob",
    coefficient: float = 1.0,
    threshold: float = 0.0,
) -> tuple[Floats, Floats]:
    """LEVER: the answer with the largest sum of p_verifier x p_LM^coefficient. Estimates and drawing errors, (P, K).

    Args:
        results: a finished run.
        ks: K whole numbers.
        verifier: name of the column of verifier probabilities in [0, 1].
        logprob: name of the column of log-probabilities under the model.
        coefficient: of the log-probability.
        threshold: completions whose verifier probability is not above it have no vote.

    Source: Ni et al. 2023 (arXiv 2302.08468).
    """
    probability = scores(results, verifier)
    if any((row < 0).any() or (row > 1).any() for row in probability):
        raise InputError(f"score {verifier!r} is not a probability: LEVER needs a verifier's values in [0, 1].")
    votes = [row > max(threshold, 0.0) for row in probability]
    label = [np.where(vote, row, -1) for vote, row in zip(votes, labels(results), strict=True)]
    weight = [
        np.log(p, out=np.zeros_like(p), where=vote) + coefficient * lm
        for vote, p, lm in zip(votes, probability, scores(results, logprob), strict=True)
    ]
    return _vote(results, label, weight, ks, log=True)


def _vote(
    results: Results, label: Sequence[Ints], weight: Sequence[Floats], ks: Sequence[int], *, log: bool
) -> tuple[Floats, Floats]:
    seeds = [zlib.crc32(problem.id.encode()) for problem in results.problems_P]
    subsets = min(2000, max(100, SUBSETS // max(len(seeds), 1)))
    return vote_at_k(label, weight, graded(results), ks, log=log, subsets=subsets, rng=seeds)


def every_metric(results: Results, ks: Sequence[int]) -> Iterator[tuple[str, str | None, Floats]]:
    """Rule, score and (P, K) estimates of each metric that the run allows: pass always, maj and votes where there are
    answers, best-of and votes by each score that every graded completion has."""
    yield "pass", None, oracle(results, ks)
    programs = any(problem.tests for problem in results.problems_P)  # they have no answers to vote with
    answers = not programs and any(answer is not None for group in results.answer_PG for answer in group)
    if answers:
        yield "maj", None, majority(results, ks)
    for name in score_names(results):
        yield "best", name, best_of(results, ks, score=name)
        log = name == MEAN_LOGPROB
        if answers and (log or all((row >= 0).all() for row in scores(results, name))):
            yield "vote", name, weighted(results, ks, score=name, log=log)[0]


def score_names(results: Results) -> list[str]:
    """Scores that every graded completion has; of log-probabilities the mean per token, whenever lengths are known."""
    names = [MEAN_LOGPROB, *(name for name in results.scores if name != "logprob")]
    complete = [name for name in names if not _missing(results, name)]
    if MEAN_LOGPROB not in complete and not _missing(results, "logprob"):
        complete.insert(0, "logprob")
    return complete


def graded(results: Results) -> list[Floats]:
    """P rows of 1 (passed) and 0, without the ungraded completions."""
    return [row[known] for row, known in zip(results.passed_PG, _known(results), strict=True)]


def labels(results: Results) -> list[Ints]:
    """P rows of whole numbers, equal for equal answers of one problem, -1 for none; graded completions only."""
    rows = []
    for answers, known in zip(results.answer_PG, _known(results), strict=True):
        number: dict[str | None, int] = {answer: place for place, answer in enumerate(dict.fromkeys(answers))}
        number[None] = -1
        rows.append(np.array([number[answer] for answer in answers], dtype=np.int64)[known])
    return rows


def scores(results: Results, name: str) -> list[Floats]:
    """P rows of one score of the graded completions; an error if any has none, as a gap is no low score."""
    missing = _missing(results, name)
    if missing:
        raise InputError(
            f"score {name!r} is missing for {missing} graded completions (there are {_names(results)}): "
            "score the run first or choose another."
        )
    return [row[known] for row, known in zip(_column(results, name), _known(results), strict=True)]


def mean_logprob(results: Results) -> list[Floats]:
    """P rows of log-probability per token, in nats; NaN where it or the length is unknown."""
    return [
        np.array([c.logprob / c.n_tokens if c.logprob is not None and c.n_tokens else np.nan for c in group])
        for group in results.completions_PG
    ]


def _column(results: Results, name: str) -> Sequence[Floats]:
    if name == MEAN_LOGPROB:
        return mean_logprob(results)
    return results.scores.get(name) or [np.full(row.shape, np.nan) for row in results.passed_PG]


def _missing(results: Results, name: str) -> int:
    pairs = zip(_column(results, name), _known(results), strict=True)
    return sum(int(np.isnan(row[known]).sum()) for row, known in pairs)


def _known(results: Results) -> list[npt.NDArray[np.bool_]]:
    return [~np.isnan(row) for row in results.passed_PG]


def _names(results: Results) -> str:
    return ", ".join(repr(name) for name in score_names(results)) or "none"
