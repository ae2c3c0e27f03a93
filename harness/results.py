"""A run's records as aligned arrays, and what is written and said of them.

`collect` aligns completions and verdicts by problem, `to_json` is what results.json holds, `describe` is what a person
reads. All are pure: the same records give the same bytes. Not handled: the estimates themselves (`estimates.py`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from harness.store import RESULTS_FORMAT
from harness.types import Completion, Estimate, Floats, Key, Outcomes, Problem, Results, Status, Verdict

SOURCE_PASSED = "source_passed"
"""The column in which a replayed file's own verdicts are kept: compared with ours, never selected by."""


def collect(
    problems: Sequence[Problem],
    completions: Iterable[Completion],
    verdicts: Mapping[Key, Verdict],
    *,
    n: int | None = None,
) -> Results:
    """Aligns records by problem, in the problems' order; problems without completions are left out, but counted.

    `n` keeps the first n completions of each problem (a run may hold more than are asked for now).
    """
    by_problem: dict[str, list[Completion]] = defaultdict(list)
    for completion in completions:
        by_problem[completion.problem_id].append(completion)
    present = tuple(problem for problem in problems if problem.id in by_problem)
    completions_PG = tuple(tuple(sorted(by_problem[p.id], key=lambda c: c.index)[:n]) for p in present)
    verdicts_PG = tuple(tuple(verdicts[c.problem_id, c.index] for c in group) for group in completions_PG)
    return Results(
        problems_P=present,
        completions_PG=completions_PG,
        verdicts_PG=verdicts_PG,
        passed_PG=tuple(
            np.array([math.nan if v.passed is None else float(v.passed) for v in group]) for group in verdicts_PG
        ),
        answer_PG=tuple(tuple(v.answer for v in group) for group in verdicts_PG),
        scores=_scores(completions_PG),
        expected_problems=Counter(problem.task for problem in problems),
    )


def _scores(completions_PG: Sequence[Sequence[Completion]]) -> dict[str, tuple[Floats, ...]]:
    names = {name for group in completions_PG for c in group for name in c.scores} - {SOURCE_PASSED}
    columns = {
        name: tuple(np.array([c.scores.get(name, math.nan) for c in group]) for group in completions_PG)
        for name in sorted(names)
    }
    if any(c.logprob is not None for group in completions_PG for c in group):
        columns["logprob"] = tuple(
            np.array([math.nan if c.logprob is None else c.logprob for c in group]) for group in completions_PG
        )
    return columns


def groups(results: Results) -> dict[str, list[int]]:
    """Places in `problems_P` of each task, or of each `task/split` where a task's problems come from several splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for problem in results.problems_P:
        splits[problem.task].add(problem.split)
    places: dict[str, list[int]] = defaultdict(list)
    for place, problem in enumerate(results.problems_P):
        name = problem.task if len(splits[problem.task]) == 1 else f"{problem.task}/{problem.split}"
        places[name].append(place)
    return dict(places)


def subset(results: Results, places: Sequence[int]) -> Results:
    """The same results of some problems only."""
    return replace(
        results,
        problems_P=tuple(results.problems_P[i] for i in places),
        completions_PG=tuple(results.completions_PG[i] for i in places),
        verdicts_PG=tuple(results.verdicts_PG[i] for i in places),
        passed_PG=tuple(results.passed_PG[i] for i in places),
        answer_PG=tuple(results.answer_PG[i] for i in places),
        scores={name: tuple(column[i] for i in places) for name, column in results.scores.items()},
        suites={name: _part(suite, places) for name, suite in results.suites.items()},
    )


def _part(suite: Outcomes, places: Sequence[int]) -> Outcomes:
    return Outcomes(**{each.name: tuple(getattr(suite, each.name)[i] for i in places) for each in fields(suite)})


def counts(results: Results) -> dict[str, dict[str, Any]]:
    """For each task: problems with completions and expected, completions, how they ended, what was not graded."""
    table: dict[str, dict[str, Any]] = {}
    for task, expected in results.expected_problems.items():
        rows = [i for i, problem in enumerate(results.problems_P) if problem.task == task]
        verdicts = [verdict for i in rows for verdict in results.verdicts_PG[i]]
        completions = [completion for i in rows for completion in results.completions_PG[i]]
        statuses = Counter(str(verdict.status) for verdict in verdicts)
        table[task] = {
            "problems": len(rows),
            "problems_expected": expected,
            "completions": len(verdicts),
            "passed": sum(verdict.passed is True for verdict in verdicts),
            "ungraded": sum(verdict.passed is None for verdict in verdicts),
            "sandbox_errors": statuses[Status.sandbox_error],
            "source_disagreements": _disagreements(completions, verdicts),
            "truncated": _truncated(completions),
            "statuses": dict(sorted(statuses.items())),
        }
    return table


def _truncated(completions: Sequence[Completion]) -> int | None:
    """Those that ran into `max_tokens`; None if nobody noted how completions ended."""
    reasons = [completion.stop_reason for completion in completions]
    return None if all(reason is None for reason in reasons) else reasons.count("length")


def _disagreeing(results: Results, task: str) -> Counter[str]:
    """Disagreements with the file's own verdicts by problem."""
    found: Counter[str] = Counter()
    for problem, completions, verdicts in zip(
        results.problems_P, results.completions_PG, results.verdicts_PG, strict=True
    ):
        if problem.task == task:
            found[problem.id] += _disagreements(completions, verdicts) or 0
    return +found


def _disagreements(completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> int | None:
    """How often our verdict differs from the one that the file brought; None where it brought none."""
    pairs = [
        (completion.scores[SOURCE_PASSED] == 1.0, verdict.passed)
        for completion, verdict in zip(completions, verdicts, strict=True)
        if SOURCE_PASSED in completion.scores and verdict.passed is not None
    ]
    return sum(theirs != ours for theirs, ours in pairs) if pairs else None


def to_json(results: Results) -> dict[str, Any]:
    """What results.json holds: estimates by task and metric, the counts behind them, and n, c of every problem."""
    problems: dict[str, dict[str, dict[str, Any]]] = {task: {} for task in results.expected_problems}
    for problem, passed in zip(results.problems_P, results.passed_PG, strict=True):
        problems[problem.task][problem.id] = {
            "n": int(np.isfinite(passed).sum()),
            "c": int(np.nansum(passed)),
            "split": problem.split,
            "level": problem.level,
            "tests": len(problem.tests),
        }
    return {
        "format": RESULTS_FORMAT,
        "tasks": {
            task: {name: _estimate_fields(estimate) for name, estimate in metrics.items()}
            for task, metrics in results.estimates.items()
        },
        "counts": counts(results),
        "problems": problems,
    }


def _estimate_fields(estimate: Estimate) -> dict[str, Any]:
    fields = {name: getattr(estimate, name) for name in estimate.__struct_fields__ if name != "name"}
    return fields | {"n_samples": list(estimate.n_samples)}


def describe(results: Results) -> str:
    """The results as text for a terminal: estimates in percent, and how completions ended."""
    from tabulate import tabulate

    parts = []
    for name, metrics in results.estimates.items():
        rows = [
            [metric, percent(e.value, 4), f"[{percent(e.low)}, {percent(e.high)}]", percent(e.se), spread(e), e.note]
            for metric, e in metrics.items()
        ]
        headers = ["metric", "%", "95% interval", "se", "problems x samples", ""]
        parts.append(f"{name}\n" + tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", "right")))
    for task, count in counts(results).items():
        partial = " (PARTIAL)" if count["problems"] < count["problems_expected"] else ""
        ended = ", ".join(f"{status} {number}" for status, number in count["statuses"].items())
        lines = [
            f"{task}: {count['problems']} of {count['problems_expected']} problems{partial}, "
            f"{count['completions']} completions, {count['passed']} passed",
            f"ended: {ended or 'nothing was graded'}; ungraded {count['ungraded']}"
            + ("" if count["truncated"] is None else f", truncated {count['truncated']}"),
        ]
        if count["source_disagreements"] is not None:
            where = ", ".join(f"{name} ({number})" for name, number in _disagreeing(results, task).most_common(5))
            lines.append(
                f"{count['source_disagreements']} verdicts differ from those that came with the completions"
                + (f", most in {where}" if where else "")
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction for people; a dash where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def spread(estimate: Estimate) -> str:
    """`164 x 100`, or `164 x 42-100` where problems have unequal numbers of completions."""
    low, high = estimate.n_samples
    return f"{estimate.n_problems} x {low}" + (f"-{high}" if high > low else "")
