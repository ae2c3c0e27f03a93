"""Choosing in stages: several submissions (filter, cluster, take), and tests only for the best by a score.

Main functions: `several_of` (AlphaCode's n@k against n random submissions) and `pruned_of`. The estimators are those of
`harness.metrics.stages`; comparisons are paired by problem, one interval each, without adjustment for their number.
Not handled: the seconds that a score itself costs (`read.py` has what is recorded of them), and what a program costs
that ended before anything of it was measured: it is taken to cost what the others of its problem do on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness import selectors
from harness.selectable import OWN_INPUTS, is_graded, score_names, shows_verdicts
from harness.types import Floats, Outcomes, Results

from ..experiment.measure import level
from .quality import difference
from .report import Kept, Pruned, Several, Submitted

EXAMPLES = "examples"
"""The suite that the prompts show: programs that fail it are not submitted."""
GENERATED = "generated"

SUBMISSIONS = (1, 10)
SCORES = 3
"""Scores to prune by, those with the best best-of-k first."""


def several_of(part: Results, ks: Sequence[int]) -> Several | None:
    """n@k for n = 1 and 10, and pass@n beside it; None where no suite has results to cluster programs by."""
    suite = next((name for name in (GENERATED, OWN_INPUTS) if _has_values(part, name)), None)
    if suite is None or ks[-1] < 2:
        return None
    accepted = EXAMPLES if _ranks(part, EXAMPLES) else None
    submitted = []
    for n in SUBMISSIONS:
        enough = [k for k in ks if k >= max(n, 2)]
        if enough:
            solved_PK = selectors.n_at_k(part, enough, n=n, suite=suite, accepted=accepted)[0].clip(0, 1)
            random_P = selectors.oracle(part, [n])[:, 0]
            submitted.append(
                Submitted(
                    n=n,
                    solved={k: level(solved_PK[:, place]) for place, k in enumerate(enough)},
                    random=level(random_P),
                    gain=difference(solved_PK[:, -1] - random_P),
                )
            )
    return Several(suite=suite, accepted=accepted, submitted=tuple(submitted))


def pruned_of(part: Results, k: int) -> tuple[Pruned, ...]:
    """What is lost and saved if the tests of a suite are run on the best by a score alone; at most `SCORES` of them."""
    suite = next((name for name in (GENERATED, EXAMPLES) if _ranks(part, name)), None)
    if suite is None or k < 2:
        return ()
    best = {score: float(selectors.best_of(part, [k], score=score).mean()) for score in score_names(part)}
    chosen = sorted(best, key=lambda score: -best[score])[:SCORES]
    return tuple(_pruned(part, k, score, suite) for score in chosen)


def _pruned(part: Results, k: int, score: str, suite: str) -> Pruned:
    outcomes = part.suites[suite]
    whole = replace(part, suites={suite: replace(outcomes, cpu_s_PG=_filled(outcomes))})
    every_P: Floats | None = None
    kept = []
    for keep in _halves(k):
        mean_PK, _, cpu_s_PK = selectors.prune(whole, [k], score=score, suite=suite, keep=keep)
        right_P, cpu_s = mean_PK[:, 0].clip(0, 1), float(cpu_s_PK.mean())
        change = None if every_P is None else difference(right_P - every_P)
        every_P = right_P if every_P is None else every_P
        kept.append(Kept(keep=keep, right=level(right_P), change=change, cpu_s=None if np.isnan(cpu_s) else cpu_s))
    graded = is_graded(part)
    tested = [
        row[known] for row, known, tests in zip(outcomes.cpu_s_PG, graded, outcomes.tests_PC, strict=True) if tests
    ]
    return Pruned(
        score=score,
        suite=suite,
        k=k,
        kept=tuple(kept),
        enough=_enough(kept),
        programs=sum(map(len, tested)),
        unmeasured=sum(int(np.isnan(row).sum()) for row in tested),
    )


def _halves(k: int) -> list[int]:
    """k, k/2, k/4, ..., 1, rounded down."""
    return [k >> i for i in range(k.bit_length())]


def _enough(kept: Sequence[Kept]) -> int:
    """The smallest keep such that neither it nor a larger one is seen to be worse than keeping all."""
    smallest = kept[0].keep
    for one in kept[1:]:
        assert one.change is not None
        assert one.change.high is not None
        if one.change.high < 0:
            break
        smallest = one.keep
    return smallest


def _filled(outcomes: Outcomes) -> tuple[Floats, ...]:
    """CPU seconds with the mean of the problem's known ones for the unknown; none of a problem without tests; NaN where
    nothing of a problem is known."""
    rows = []
    for row, tests in zip(outcomes.cpu_s_PG, outcomes.tests_PC, strict=True):
        known = row[~np.isnan(row)]
        usual = 0.0 if not tests else known.mean() if known.size else np.nan
        rows.append(np.where(np.isnan(row), usual, row))
    return tuple(rows)


def _has_values(part: Results, suite: str) -> bool:
    """Some program returned something on some test, so that programs can be seen to agree."""
    return suite in part.suites and any((output >= 0).any() for output in part.suites[suite].output_PGC)


def _ranks(part: Results, suite: str) -> bool:
    """The suite has tests, and who passes them is not the verdict itself."""
    if suite not in part.suites:
        return False
    outcomes = part.suites[suite]
    return any(outcomes.tests_PC) and not shows_verdicts(suite, outcomes)
