"""The statistics of a verifier report: from a run folder to every number of the page. Main function: `measure`.

Every selector sees the same completions of the same problems, so each comparison is paired by problem: `diff_ci` of the
per-problem numbers that `harness.estimates.per_problem` gives. Comparisons are made at the largest k, and Holm's
adjustment is over every selector and baseline of a part. Baselines are pass@1, a majority (or the selector that the
caller names), and best-of-k by log-probability. Not handled: words (`words.py`), pictures (`figures.py`), and several
runs (`compare.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.errors import InputError, UnknownName
from harness.estimates import per_problem
from harness.finished import results_of
from harness.metrics.inference import ROUNDING, diff_ci, ratio_ci
from harness.metrics.significance import holm, p_value, sign_flip
from harness.results import groups, subset
from harness.selectable import MEAN_LOGPROB, OWN_INPUTS, graded, score_names, scores
from harness.types import Floats, Manifest, Results

from ..experiment.format import plural
from ..experiment.measure import level
from ..experiment.report import Number
from .quality import fall_of, pressure_of, quality_of
from .read import sources_of, suites_of
from .report import FORMAT, ONE, Gain, Part, Selector, Source, VerifierReport
from .stages import pruned_of, several_of

METRIC = re.compile(r"(?P<rule>[^@]+)@(?P<k>\d+)(?P<score>\[.*\])?", re.DOTALL)
LOGPROBS = (f"best[{MEAN_LOGPROB}]", "best[logprob]")
DEFAULT = "maj"


def measure(run: Path, *, ks: Sequence[int] | None, baseline: str) -> VerifierReport:
    """All numbers of the run's report.

    Raises:
        InputError: nothing to choose by, too few problems or completions for the ks, an unknown baseline.
    """
    made, results = results_of(run)
    sources = sources_of(run, [MEAN_LOGPROB, *results.scores])
    parts: list[Part] = []
    reasons = []
    for name, places in groups(results).items():
        part = subset(results, places)
        reason = _too_small(part, ks)
        if reason:
            reasons.append(f"{name} has {reason}")
        else:
            chosen = ks_of(part, made) if ks is None else tuple(sorted({1, *ks}))
            parts.append(_part(name, part, chosen, baseline, {source.score: source for source in sources}))
    if not parts:
        raise InputError(f"{run} cannot be reported on: {'; '.join(reasons) or 'it has no completions'}.")
    if not any(part.selectors for part in parts):
        raise InputError(
            f"{run} has no answers, scores or suites to choose completions by: rate the run with a scorer first."
        )
    rated = {quality.score for part in parts for quality in part.quality}
    return VerifierReport(
        format=FORMAT,
        run=run.resolve().name,
        model=made.model_identity[:16],
        baseline=baseline,
        parts=tuple(parts),
        sources=tuple(source for source in sources if source.scorer or source.score in rated),
        suites=suites_of(run, results),
    )


def ks_of(part: Results, made: Manifest) -> tuple[int, ...]:
    """1 and the run's own ks, where it has two others that all problems have completions for; else powers of two."""
    fewest = min(len(row) for row in graded(part))
    own = {k for k in made.ks if 1 < k <= fewest}
    return (1, *sorted(own if len(own) > 1 else {*own, fewest, *(1 << i for i in range(1, fewest.bit_length()))}))


def _too_small(part: Results, ks: Sequence[int] | None) -> str | None:
    sizes = [len(row) for row in graded(part)]
    if len(sizes) < 2:
        return "one problem, and intervals need two"
    wanted = max([2, *(ks or ())])
    if min(sizes) < wanted:
        return f"a problem with {plural(min(sizes), 'graded completion')}, and {wanted} are needed"
    return None


def _part(name: str, part: Results, ks: tuple[int, ...], baseline: str, sources: Mapping[str, Source]) -> Part:
    one_P, ceiling, selectors = _values(part, ks)
    sizes = [len(row) for row in graded(part)]
    baselines = _baselines(selectors, baseline)
    rated = score_names(part)
    found = [pressure_of(part, score, ks, probability=_probable(part, score, sources)) for score in rated]
    return Part(
        name=name,
        problems=len(sizes),
        completions=(min(sizes), max(sizes)),
        ks=ks,
        mixed=sum(bool(0 < row.mean() < 1) for row in graded(part)),
        one=level(one_P),
        ceiling={k: level(u_P) for k, u_P in ceiling.items()},
        selectors=tuple(_selector(each, u, one_P, ceiling) for each, u in selectors.items()),
        baselines=baselines,
        gains=_gains(selectors, one_P, baselines, ks[-1]) if ks[-1] > 1 else (),
        quality=tuple(quality_of(part, score, probability=_probable(part, score, sources)) for score in rated),
        pressure=tuple(each for each in found if each is not None),
        several=several_of(part, ks),
        pruned=pruned_of(part, ks[-1]),
        notes=tuple(_notes(name, part, sources)),
    )


def _values(part: Results, ks: Sequence[int]) -> tuple[Floats, dict[int, Floats], dict[str, dict[int, Floats]]]:
    """pass@1, pass@k by k, and each selector by k: one number per problem."""
    ceiling: dict[int, Floats] = {}
    selectors: dict[str, dict[int, Floats]] = {}
    for metric, u_P in per_problem(part, ks).items():
        read = METRIC.fullmatch(metric)
        assert read is not None, metric
        rule, k = read["rule"] + (read["score"] or ""), int(read["k"])
        (ceiling if rule == "pass" else selectors.setdefault(rule, {}))[k] = u_P.clip(0, 1)
    return ceiling[1], ceiling, selectors


def _baselines(selectors: Mapping[str, object], baseline: str) -> tuple[str, ...]:
    """pass@1, then the named selector, then best-of-k by log-probability, as far as there are any."""
    named = [name for name in selectors if name == baseline]
    if not named and baseline == DEFAULT:
        of_programs = [name for name in selectors if name.startswith(f"{DEFAULT}[")]
        named = [name for name in of_programs if name == f"{DEFAULT}[{OWN_INPUTS}]"] or of_programs[:1]
    if not named and baseline not in (ONE, DEFAULT):
        raise UnknownName("baseline", baseline, [ONE, *selectors])
    rest = [name for name in LOGPROBS if name in selectors][:1]
    return tuple(dict.fromkeys([ONE, *named, *rest]))


def _selector(name: str, u: Mapping[int, Floats], one_P: Floats, ceiling: Mapping[int, Floats]) -> Selector:
    best_k, fall = fall_of(np.column_stack([one_P, *u.values()]), [1, *u])
    return Selector(
        name=name,
        levels={k: level(u_P) for k, u_P in u.items()},
        captured={k: _captured(u_P - one_P, ceiling[k] - one_P) for k, u_P in u.items()},
        best_k=best_k,
        fall=fall,
    )


def _captured(gain_P: Floats, room_P: Floats) -> Number | None:
    """The share of what can be gained; without an interval where every problem has the same share."""
    if abs(room_P.mean()) < 1e-9:
        return None
    found = ratio_ci(gain_P, room_P)
    sure = found.se < 1e-12
    return Number(
        value=found.value,
        low=None if sure else found.low,
        high=None if sure else found.high,
        se=None if sure else found.se,
        problems=len(gain_P),
    )


def _gains(
    selectors: Mapping[str, Mapping[int, Floats]], one_P: Floats, baselines: Sequence[str], k: int
) -> tuple[Gain, ...]:
    pairs = [(name, against) for name in selectors for against in baselines if name != against]
    baseline_of = {name: u[k] for name, u in selectors.items()} | {ONE: one_P}
    differences = [selectors[name][k] - baseline_of[against] for name, against in pairs]
    intervals = [diff_ci(d_P) for d_P in differences]
    p = [p_value(interval) for interval in intervals]
    return tuple(
        Gain(
            selector=name,
            against=against,
            k=k,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            se=interval.se,
            p=p_one,
            p_holm=p_holm,
            p_sign_flip=sign_flip(d_P),
            problems=len(d_P),
            better=int((d_P > ROUNDING).sum()),
            worse=int((d_P < -ROUNDING).sum()),
        )
        for (name, against), d_P, interval, p_one, p_holm in zip(
            pairs, differences, intervals, p, holm(p).tolist() if p else [], strict=True
        )
    )


def _probable(part: Results, score: str, sources: Mapping[str, Source]) -> bool:
    return sources[score].probability and _fractions(part, score)


def _fractions(part: Results, score: str) -> bool:
    return all(((row >= 0) & (row <= 1)).all() for row in scores(part, score))


def _incomplete(results: Results) -> list[str]:
    """Scores that some graded completion has and another has not; they are no use to a selector."""
    complete = {*score_names(results), "logprob"}
    return [name for name, column in results.scores.items() if name not in complete and _missing(results, column)]


def _missing(results: Results, column: Sequence[Floats]) -> int:
    return sum(
        int(np.isnan(row[~np.isnan(passed)]).sum()) for row, passed in zip(column, results.passed_PG, strict=True)
    )


def _notes(task: str, part: Results, sources: Mapping[str, Source]) -> Iterator[str]:
    """What keeps a completion or a score out of the numbers."""
    ungraded = sum(int(np.isnan(row).sum()) for row in part.passed_PG)
    if ungraded:
        yield f"{plural(ungraded, 'completion')} could not be graded and are left out."
    for name in _incomplete(part):
        missing = _missing(part, part.scores[name])
        yield f"score `{name}` is missing for {plural(missing, 'graded completion')}: nothing is chosen by it."
    for name in score_names(part):
        if sources[name].probability and not _fractions(part, name):
            yield f"score `{name}` is said to be a probability and leaves 0 to 1: it is not treated as one."
    expected = part.expected_problems.get(task, 0)
    if len(part.problems_P) < expected:
        yield f"PARTIAL: completions for {len(part.problems_P)} of {expected} problems of the task."
