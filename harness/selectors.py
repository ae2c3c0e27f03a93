"""Selectors: what would be scored if one of k completions were chosen by a rule, from the arrays of a finished run.

`oracle` (pass@k), `majority` (maj@k), `best_of`, `weighted`, `lever`, `consensus` (MaxPass, CodeT, B4, MBR-exec),
`prune` and `n_at_k` take `Results` and ks and return one unbiased number per problem and k, (P, K), in the order of
`results.problems_P`; `metrics/` has their formulas. `metrics_of` lists all that a run's data allow, none of them
computed.

Votes are by answer; with `suite` they are by what the programs did on the tests of that suite (`execution_labels`).
Ungraded completions are left out, of n as of c: they are not wrong answers. A completion without an answer never votes.
Not handled: intervals (`metrics/inference.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.errors import InputError
from harness.metrics import stages
from harness.metrics.consensus import select_at_k
from harness.metrics.majority import maj_at_k
from harness.metrics.shapes import Ints
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.votes import vote_at_k
from harness.selectable import (
    MEAN_LOGPROB,
    OWN_INPUTS,
    classes,
    drawing,
    execution_labels,
    graded,
    graded_rows,
    is_graded,
    labels,
    mean_logprob,
    n_missing,
    score_names,
    scores,
    shows_verdicts,
    suite_of,
)
from harness.types import Floats, Outcomes, Results

__all__ = [
    "MEAN_LOGPROB",
    "Metric",
    "best_of",
    "consensus",
    "execution_labels",
    "graded",
    "labels",
    "lever",
    "majority",
    "mean_logprob",
    "metrics_of",
    "n_at_k",
    "oracle",
    "prune",
    "score_names",
    "scores",
    "weighted",
]

BY = " by "
"""`vote@8[score by suite]`: a vote by what programs did on a suite that is not the usual one."""

IMPOSSIBLE = -1e10
"""Log-weight in place of log 0, as in LEVER: such a completion is chosen where there is no other, and only there."""


@dataclass(frozen=True)
class Metric:
    """One selector of a run: `rule@k[of]`."""

    rule: str
    of: str | None
    """The score or suite that it chooses by."""
    values: Callable[[Sequence[int]], Floats]
    """ks to estimates (P, K)."""
    usual: bool = True
    """Shown without being asked for."""

    def name(self, k: int) -> str:
        """`maj@8`, `best@8[mean logprob]`."""
        return f"{self.rule}@{k}" + (f"[{self.of}]" if self.of else "")


def oracle(results: Results, ks: Sequence[int]) -> Floats:
    """pass@k: the ceiling of every selector. (P, K)"""
    passed = graded(results)
    return pass_at_k([len(row) for row in passed], [row.sum() for row in passed], ks)


def majority(results: Results, ks: Sequence[int], *, ties: str | None = None, suite: str | None = None) -> Floats:
    """maj@k: the most frequent answer (or execution result, with `suite`), ties uniform. (P, K)

    `ties` names a score: the winning answer then shows its best-scored completion, which matters where completions with
    one answer can differ in correctness.
    """
    score = None if ties is None else scores(results, ties)
    return maj_at_k(classes(results, suite), graded(results), ks, score_PG=score)


def best_of(results: Results, ks: Sequence[int], *, score: str) -> Floats:
    """The completion with the highest score, ties uniform. (P, K)"""
    return best_at_k(graded(results), scores(results, score), ks)


def weighted(
    results: Results, ks: Sequence[int], *, score: str, log: bool = False, suite: str | None = None
) -> tuple[Floats, Floats]:
    """The answer (or execution result) with the largest sum of scores, of their exponentials if `log`.

    Estimates and drawing errors, (P, K). Few subsets are all counted, many drawn, from one seed per problem id, so a
    rerun gives the same numbers.
    """
    return _vote(results, classes(results, suite), scores(results, score), ks, log=log)


def lever(
    results: Results,
    ks: Sequence[int],
    *,
    verifier: str,
    logprob: str | None = "logprob",
    suite: str | None = None,
    coefficient: float = 1.0,
    threshold: float = 0.0,
) -> tuple[Floats, Floats]:
    """LEVER: the answer or execution result with the largest sum of p_verifier x p_LM^coefficient. (P, K) twice.

    Args:
        results: a finished run.
        ks: K whole numbers.
        verifier: name of the column of verifier probabilities in [0, 1].
        logprob: name of the column of log-probabilities under the model; "mean logprob" divides by the length, as LEVER
            does for GSM8K. None: there are none. LEVER then takes for p_LM the share of completions that are this very
            text, and counts every text once; so a completion of the k votes with p_verifier alone.
        suite: programs with equal results on its tests are added up, `execution_labels`; None: equal answers are.
        coefficient: of the log-probability.
        threshold: completions whose verifier probability is below it count only where all of the k are.

    Returns:
        Estimates and drawing errors. Every completion of the k is added, where LEVER drops equal texts first.

    Source: Ni et al. 2023 (arXiv 2302.08468) and, for what the paper leaves open, its authors' code.
    """
    probability = scores(results, verifier)
    if any((row < 0).any() or (row > 1).any() for row in probability):
        raise InputError(f"score {verifier!r} is not a probability: LEVER needs a verifier's values in [0, 1].")
    if logprob is None and coefficient != 1:
        raise InputError("LEVER without log-probabilities has no coefficient for them: leave it at 1.")
    model = [np.zeros_like(row) for row in probability] if logprob is None else scores(results, logprob)
    weight = []
    for p, lm in zip(probability, model, strict=True):
        counts = (p > 0) & (p >= threshold)
        weight.append(np.log(p, out=np.full_like(p, IMPOSSIBLE), where=counts) + coefficient * lm)
    return _vote(results, classes(results, suite), weight, ks, log=True)


def consensus(results: Results, ks: Sequence[int], *, rule: str, suite: str) -> tuple[Floats, Floats]:
    """Choosing by what the programs did on a suite: rule `max_pass`, `codet`, `b4` or `mbr_exec`.

    Estimates and drawing errors, (P, K). All but the last look at who passes which test, which is no choice but the
    verdict itself where the tests are the task's own: that is refused.
    """
    outcomes = suite_of(results, suite)
    if rule != "mbr_exec" and shows_verdicts(suite, outcomes):
        raise InputError(f"the suite {suite!r} has the task's own tests: who passes them is what {rule} has to guess.")
    matrix = graded_rows(results, outcomes.output_PGC if rule == "mbr_exec" else outcomes.passed_PGC)
    return select_at_k(rule, graded(results), matrix, ks, **drawing(results))


def prune(results: Results, ks: Sequence[int], *, score: str, suite: str, keep: int) -> tuple[Floats, Floats, Floats]:
    """The `keep` best by a cheap score are run on a suite, and the one that passes most of its tests is chosen.

    Estimates, drawing errors and expected CPU seconds of the programs that are run, (P, K) each.
    """
    outcomes = suite_of(results, suite)
    if shows_verdicts(suite, outcomes):
        raise InputError(f"the suite {suite!r} has the task's own tests: who passes them is what is to be guessed.")
    passed = [rows.sum(axis=1) for rows in graded_rows(results, outcomes.passed_PGC)]
    cost = [row[known] for row, known in zip(outcomes.cpu_s_PG, is_graded(results), strict=True)]
    cheap = scores(results, score)
    return stages.prune_at_k(graded(results), cheap, passed, ks, keep=keep, cost_PG=cost, **drawing(results))


def n_at_k(
    results: Results, ks: Sequence[int], *, n: int, suite: str, accepted: str | None = None
) -> tuple[Floats, Floats]:
    """AlphaCode's n@k: of k programs those that pass all tests of the suite `accepted` are kept, clustered by their
    values on `suite`, and one of each of the n largest clusters is submitted. Estimates and drawing errors, (P, K)."""
    kept = None
    if accepted is not None:
        outcomes = suite_of(results, accepted)
        if shows_verdicts(accepted, outcomes):
            raise InputError(f"the suite {accepted!r} has the task's own tests: filter by public ones.")
        kept = [rows.all(axis=1) for rows in graded_rows(results, outcomes.passed_PGC)]
    output = graded_rows(results, suite_of(results, suite).output_PGC)
    return stages.n_at_k(graded(results), output, ks, n=n, accepted_PG=kept, **drawing(results))


def metrics_of(results: Results) -> Iterator[Metric]:
    """Every selector that the run allows, none of them computed.

    A vote, and LEVER, is by answer. Programs have none: theirs is by their results on the suite `inputs`, else on
    `examples`, and on any suite when it is asked for by name, `vote@8[score by suite]`.
    """
    yield Metric("pass", None, partial(oracle, results))
    programs = any(problem.tests for problem in results.problems_P)  # they have no answers to vote with
    answers = not programs and any(answer is not None for group in results.answer_PG for answer in group)
    if answers:
        yield Metric("maj", None, partial(majority, results))
    for suite, outcomes in results.suites.items():
        yield from _on_suite(results, suite, outcomes)
    usual = next((suite for suite in (OWN_INPUTS, "examples") if suite in results.suites), None)
    for score in score_names(results):
        yield Metric("best", score, partial(best_of, results, score=score))
        if answers:
            yield from _votes(results, score, score, None, usual=True)
        elif usual is not None:
            yield from _votes(results, score, score, usual, usual=True)
        for suite in results.suites:
            yield from _votes(results, score, f"{score}{BY}{suite}", suite, usual=False)


def _on_suite(results: Results, suite: str, outcomes: Outcomes) -> Iterator[Metric]:
    yield Metric("maj", suite, partial(majority, results, suite=suite))
    rules = ("mbr_exec",) if shows_verdicts(suite, outcomes) else ("max_pass", "codet", "b4", "mbr_exec")
    yield from (_by_rule(results, rule, suite) for rule in rules)


def _by_rule(results: Results, rule: str, suite: str) -> Metric:
    return Metric(rule, suite, lambda ks: consensus(results, ks, rule=rule, suite=suite)[0])


def _votes(results: Results, score: str, of: str, suite: str | None, *, usual: bool) -> Iterator[Metric]:
    """The vote by one score, and LEVER where the score can be a probability."""
    rows = scores(results, score)
    log = score == MEAN_LOGPROB
    if log or all((row >= 0).all() for row in rows):
        yield Metric("vote", of, lambda ks: weighted(results, ks, score=score, log=log, suite=suite)[0], usual=usual)
    if all((row >= 0).all() and (row <= 1).all() for row in rows):
        model = _model_score(results, normalised=suite is None)
        yield Metric(
            "lever", of, lambda ks: lever(results, ks, verifier=score, logprob=model, suite=suite)[0], usual=usual
        )


def _model_score(results: Results, *, normalised: bool) -> str | None:
    """LEVER's p_LM: per token for answers, of the whole text for programs; None where it is not known of all."""
    name = MEAN_LOGPROB if normalised and not n_missing(results, MEAN_LOGPROB) else "logprob"
    return None if n_missing(results, name) else name


def _vote(
    results: Results, label: Sequence[Ints], weight: Sequence[Floats], ks: Sequence[int], *, log: bool
) -> tuple[Floats, Floats]:
    return vote_at_k(label, weight, graded(results), ks, log=log, **drawing(results))
