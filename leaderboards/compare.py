"""Two or more runs on the same problems: what changed, by how much, with what evidence. Main function: `compare`.

Everything is paired by task and problem id: a difference is the mean over problems of (run - base), its interval the
guarded paired t, its p-values Student's (with Holm's adjustment over the whole declared family: every run, task and
metric of the call) and the sign-flip test's. Beside them stand the number of problems that changed and the smallest
true difference that so many problems would have shown with 80% power. Runs of other problems, prompts, limits or
graders than the base's are refused unless told. What is compared is runs, or selectors of one run (`arms.py`). Not
handled: training seeds (checkpoints are compared, not methods).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tabulate import tabulate

from harness.errors import InputError
from harness.metrics.gaps import did_ci, gap_ci
from harness.metrics.inference import Interval, diff_ci
from harness.metrics.significance import holm, p_value, sign_flip
from harness.results import percent

from .arms import Arm, Values, read_arms, values_of
from .ranking import ranks
from .strata import strata_of

POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """One run against the base on one metric of one task; fractions, not percent."""

    task: str
    metric: str
    """The run's."""
    base_metric: str
    run: str
    base_value: float
    run_value: float
    value: float
    low: float
    high: float
    se: float
    p: float
    p_sign_flip: float
    p_holm: float
    mde: float
    n_problems: int
    n_better: int
    n_worse: int


def compare(
    base: Path,
    runs: Sequence[Path],
    *,
    metrics: Sequence[str] = ("pass@1",),
    by: str | None = None,
    allow_different: bool = False,
    format: str = "markdown",
) -> str:
    """The comparison of runs with a base as `markdown`, `csv` or `json` text.

    Args:
        base: run folder to compare with, or RUN:METRIC for a run by a metric of its own.
        runs: run folders, or RUN:METRIC; the base's among them, by another metric.
        metrics: names as in results.json, of the runs that name none; with the runs and tasks they are the family that
            Holm's adjustment covers.
        by: "level", any key of the problems' metadata, or "difficulty": the base's success on the completions with even
            numbers, while the comparison uses those with odd ones.
        allow_different: compare runs of other prompts, limits or graders all the same.
        format: `markdown`, `csv` or `json`.

    Raises:
        InputError: nothing in common, other problems or settings, or a metric that a run does not have.
    """
    if not metrics:
        raise InputError("no metric was named: give --metrics, such as pass@1.")
    arms = read_arms([base, *runs], metrics, with_tasks=by not in (None, "level", "difficulty"))
    for arm in arms[1:]:
        _refuse_differences(arms[0], arm, allow_different=allow_different)
    labels: Mapping[str, str] = {}
    if by is not None:
        whole = arms[0].results
        labels, halved = strata_of(whole, by)
        arms = [replace(arm, results=halved) if arm.results is whole else arm for arm in arms]
    values = {
        (arm.name, task, metric): v
        for arm in arms
        for metric in ([arm.metric] if arm.metric else metrics)
        for task, v in values_of(arm, metric)
    }
    differences = _differences(arms, values)
    if format == "json":
        return json.dumps([asdict(difference) for difference in differences], indent=1) + "\n"
    if format == "csv":
        return _csv(differences)
    parts = [_table(arms[0].name, differences), *_gaps(arms, values), *_ranking(arms, values, metrics[0])]
    if by == "difficulty":
        parts.append(
            f"{arms[0].name} is shown by its odd-numbered completions; the even-numbered ones made the strata."
        )
    if by is not None:
        parts += _strata(differences, values, labels, base=arms[0].name, by=by)
    return "\n\n".join(parts) + "\n"


def _refuse_differences(base: Arm, arm: Arm, *, allow_different: bool) -> None:
    """Two numbers are comparable only if nothing but the completions differs."""
    tasks = {task.name: task for task in base.manifest.tasks}
    if not any(task.name in tasks for task in arm.manifest.tasks):
        raise InputError(f"{base.name} has no task in common with {arm.name}: there is nothing to compare.")
    differing = []
    for task in arm.manifest.tasks:
        if task.name in tasks:
            pairs = (("problems", "problems_sha"), ("prompts", "prompts_sha"))
            differing += [
                f"the {what} of {task.name}" for what, f in pairs if getattr(task, f) != getattr(tasks[task.name], f)
            ]
    for what in ("limits", "grader", "sandbox"):
        if getattr(arm.manifest, what) != getattr(base.manifest, what):
            differing.append(f"the {what}")
    if differing and not allow_different:
        raise InputError(
            f"{arm.name} and {base.name} differ in {', '.join(differing)}: bring them in line (harness score), or "
            "compare them all the same with --allow_different."
        )


def _differences(arms: Sequence[Arm], values: Mapping[tuple[str, str, str], Values]) -> list[Difference]:
    """Every run against the base on every metric and task that both have, adjusted as one family."""
    found: list[tuple[dict[str, Any], Interval]] = []
    for (run, task, metric), v in values.items():
        base_metric = arms[0].by(metric)
        base = values.get((arms[0].name, task, base_metric))
        if run == arms[0].name or base is None:
            continue
        ids = sorted(base.keys() & v.keys())
        if len(ids) < 2:
            raise InputError(f"{run} and {arms[0].name} have {len(ids)} problems of {task} in common: two are needed.")
        base_P, run_P = (np.array([each[name] for name in ids]) for each in (base, v))
        d_P = run_P - base_P
        interval = diff_ci(d_P)
        fields = {
            "task": task,
            "metric": metric,
            "base_metric": base_metric,
            "run": run,
            "base_value": float(base_P.mean()),
            "run_value": float(run_P.mean()),
            "p_sign_flip": sign_flip(d_P),
            "n_problems": len(ids),
            "n_better": int((d_P > 1e-12).sum()),
            "n_worse": int((d_P < -1e-12).sum()),
        }
        found.append((fields, interval))
    if not found:
        raise InputError(f"{arms[0].name} has no task in common with the other runs: there is nothing to compare.")
    p = [p_value(interval) for _, interval in found]
    z = float(stats.norm.ppf(0.975) + stats.norm.ppf(POWER))  # Miller 2024: the MDE is so many standard errors
    return [
        Difference(
            **fields,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            se=interval.se,
            p=p_one,
            p_holm=float(adjusted),
            mde=z * interval.se,
        )
        for (fields, interval), p_one, adjusted in zip(found, p, holm(p), strict=True)
    ]


def _table(base: str, differences: Sequence[Difference]) -> str:
    headers = ["task", "metric", "run", base, "run's", "difference [95%]", "p", "p sign-flip", "p Holm", "better/worse"]
    rows = [
        [
            *(d.task, d.metric, d.run, percent(d.base_value), percent(d.run_value)),
            *(signed(d.value, d.low, d.high), f"{d.p:.2g}", f"{d.p_sign_flip:.2g}", f"{d.p_holm:.2g}"),
            *(f"{d.n_better}/{d.n_worse} of {d.n_problems}", f"{100 * d.mde:.1f}"),
        ]
        for d in differences
    ]
    return "\n\n".join(
        [
            f"# Compared with {base}",
            tabulate(rows, headers=[*headers, "detectable"], tablefmt="github", disable_numparse=True),
            "Percent and percentage points, paired by problem. p Holm is adjusted for the "
            f"{len(differences)} comparison(s) of this table; *detectable* is the smallest true difference that would "
            "be found with 80% power. One checkpoint each: this compares checkpoints, not methods.",
        ]
    )


def signed(value: float, low: float, high: float) -> str:
    """`+6.10 [+3.90, +8.30]` percentage points."""
    return f"{100 * value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _gaps(arms: Sequence[Arm], values: Mapping[tuple[str, str, str], Values]) -> list[str]:
    """Train/test gap of every run that has both splits, and how much more it changed on train than on test."""
    rows = []
    for (run, group, metric), train in values.items():
        task, _, split = group.rpartition("/")
        test = values.get((run, f"{task}/test", metric))
        if split != "train" or test is None:
            continue
        gap = gap_ci(list(train.values()), list(test.values()))
        did = "-"
        base_train, base_test = (
            values.get((arms[0].name, f"{task}/{s}", arms[0].by(metric))) for s in ("train", "test")
        )
        if run != arms[0].name and base_train and base_test:
            pairs = [
                [each[name] for name in sorted(new.keys() & old.keys())]
                for new, old in ((train, base_train), (test, base_test))
                for each in (new, old)
            ]
            change = did_ci(*pairs)
            did = signed(change.value, change.low, change.high)
        rows.append([task, metric, run, signed(gap.value, gap.low, gap.high), did])
    if not rows:
        return []
    headers = ["task", "metric", "run", "train - test [95%]", "change of it against the base [95%]"]
    return ["## Train/test gap", tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)]


def _ranking(arms: Sequence[Arm], values: Mapping[tuple[str, str, str], Values], metric: str) -> list[str]:
    """Runs that share a rank cannot be told apart."""
    lines = []
    own = arms[0].metric is not None
    for task in dict.fromkeys(task for _, task, m in values if own or m == metric):
        keys = {arm.name: (arm.name, task, arm.by(metric)) for arm in arms}
        by_run = {name: values[key] for name, key in keys.items() if key in values}
        places = ranks(by_run)
        tied = [[run for run in by_run if places[run] == rank] for rank in sorted(set(places.values()))]
        lines.append(f"- {task}{'' if own else f' {metric}'}: " + " > ".join(" = ".join(group) for group in tied))
    return ["## Ranking", "\n".join(lines), "Runs joined by = share a rank (paired tests, Holm over all pairs, 5%)."]


def _strata(
    differences: Sequence[Difference],
    values: Mapping[tuple[str, str, str], Values],
    labels: Mapping[str, str],
    *,
    base: str,
    by: str,
) -> list[str]:
    """Each comparison broken down; the contributions of the strata sum to the difference."""
    rows = []
    for d in differences:
        old, new = values[base, d.task, d.base_metric], values[d.run, d.task, d.metric]
        ids = sorted(old.keys() & new.keys())
        for label in sorted({labels.get(name, "-") for name in ids}):
            part = [name for name in ids if labels.get(name, "-") == label]
            d_P = [new[name] - old[name] for name in part]
            mean = float(np.mean(d_P))
            shown = signed(mean, *_ends(diff_ci, d_P)) if len(part) > 1 else f"{100 * mean:+.2f}"
            share = len(part) / len(ids)
            old_mean, new_mean = (percent(float(np.mean([each[name] for name in part]))) for each in (old, new))
            rows.append(
                [d.task, d.metric, d.run, label, len(part), old_mean, new_mean, shown, f"{100 * share * mean:+.2f}"]
            )
        rows.append([d.task, d.metric, d.run, "all", len(ids), percent(d.base_value), percent(d.run_value)])
        rows[-1] += [signed(d.value, d.low, d.high), f"{100 * d.value:+.2f}"]
    headers = ["task", "metric", "run", by, "problems", base, "run's", "difference [95%]", "contribution"]
    return [f"## By {by}", tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)]


def _ends(interval_of: Callable[[Any], Interval], d_P: Sequence[float]) -> tuple[float, float]:
    interval = interval_of(d_P)
    return interval.low, interval.high


def _csv(differences: Sequence[Difference]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(asdict(differences[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(difference) for difference in differences)
    return file.getvalue()
