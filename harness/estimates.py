"""Every metric that a run's data allow, each with its interval over problems: `estimate`.

A metric is named `rule@k`, `rule@k[score]` or `rule@k[suite]`: `pass@10`, `maj@8`, `best@8[mean logprob]`,
`vote@8[pred_score]`, `maj@8[inputs]`, `codet@10[generated]`. Where one task has problems of the splits train and test,
each split has its own estimates and `gap_...` is their difference. Not handled: comparisons of runs
(`leaderboards/compare.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from harness.errors import UnknownName
from harness.metrics.gaps import gap_ci
from harness.metrics.inference import Interval, mean_ci
from harness.metrics.power import se_rerun, variance_parts
from harness.results import groups, subset
from harness.selectors import Metric, graded, metrics_of
from harness.types import Estimate, Floats, Results

DRAWN = "mean over k-subsets, drawn where they are many"
METHODS = {
    "pass": "unbiased (Chen et al. 2021)",
    "maj": "mean over all k-subsets, exact",
    "best": "mean over all k-subsets, exact",
    "vote": DRAWN,
    "lever": DRAWN,
    "max_pass": "mean over all k-subsets, exact",
    "codet": DRAWN,
    "b4": DRAWN,
    "mbr_exec": DRAWN,
}


def per_problem(results: Results, ks: Sequence[int], only: Collection[str] | None = None) -> dict[str, Floats]:
    """Metric name to (P,): the unbiased number of each problem, for all metrics that the data allow.

    `only` names the metrics that are computed, unusual ones (`vote@8[score by suite]`) among them.

    Raises:
        UnknownName: one of `only` that the data do not allow.
    """
    found: dict[str, Floats] = {}
    for metric in metrics_of(results):
        ks_of = _names(metric, ks)
        asked = {name: k for name, k in ks_of.items() if (metric.usual if only is None else name in only)}
        if asked:
            u_PK = metric.values(list(asked.values()))
            found.update({name: u_PK[:, column] for column, name in enumerate(asked)})
    for name in only or ():
        if name not in found:
            raise UnknownName("metric", name, metric_names(results, ks))
    return found


def metric_names(results: Results, ks: Sequence[int]) -> list[str]:
    """Names of all metrics that the data allow; none is computed."""
    return [name for metric in metrics_of(results) for name in _names(metric, ks)]


def _names(metric: Metric, ks: Sequence[int]) -> dict[str, int]:
    """The metric's name at each k. One completion leaves nothing to choose, so there all rules are pass@1."""
    return {metric.name(k): k for k in ks if k > 1 or metric.rule == "pass"}


def estimate(results: Results, ks: Sequence[int]) -> Results:
    """The same results with `estimates` filled, by task (or task/split) and metric."""
    estimates: dict[str, dict[str, Estimate]] = {}
    values: dict[str, dict[str, Floats]] = {}
    for name, places in groups(results).items():
        part = subset(results, places)
        fewest = min(len(row) for row in graded(part))
        possible = [k for k in ks if k <= fewest]
        values[name] = per_problem(part, possible) if possible else {}
        estimates[name] = {metric: _mean(metric, u_P, part) for metric, u_P in values[name].items()}
        for k in ks:
            if k > fewest:
                estimates[name][f"pass@{k}"] = _impossible(part, k)
    for name in values:
        task, _, split = name.rpartition("/")
        if split == "train" and f"{task}/test" in values:
            estimates[task] = _gaps(values[name], values[f"{task}/test"], estimates[name])
    return replace(results, estimates=estimates)


def _empty(metric: str, part: Results) -> Estimate:
    sizes = [len(row) for row in graded(part)]
    rule = metric.partition("@")[0]
    return Estimate(
        name=metric,
        value=None,
        low=None,
        high=None,
        se=None,
        n_problems=len(sizes),
        n_samples=(min(sizes), max(sizes)),
        method=METHODS[rule],
    )


def _impossible(part: Results, k: int) -> Estimate:
    """Ungraded completions have left some problems with fewer than k."""
    short = sum(len(row) < k for row in graded(part))
    return msgspec.structs.replace(
        _empty(f"pass@{k}", part), note=f"{short} problems have fewer than {k} graded completions"
    )


def _mean(metric: str, u_P: Floats, part: Results) -> Estimate:
    empty = _empty(metric, part)
    if len(u_P) < 2:
        return msgspec.structs.replace(empty, value=float(u_P[0]), note="one problem: no interval")
    interval = mean_ci(u_P.clip(0, 1))
    return _filled(empty, interval, se_rerun=_se_rerun(metric, part), method=f"{empty.method}; {interval.method}")


def _filled(empty: Estimate, interval: Interval, *, se_rerun: float | None, method: str) -> Estimate:
    return msgspec.structs.replace(
        empty,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        se=interval.se,
        se_rerun=se_rerun,
        method=method,
    )


def _se_rerun(metric: str, part: Results) -> float | None:
    """Standard error for these very problems with new samples; known for pass@k where n >= 2k for all."""
    rule, _, k = metric.partition("@")
    sizes = np.array([len(row) for row in graded(part)])
    if rule != "pass" or (sizes < 2 * int(k)).any():
        return None
    within, _ = variance_parts(sizes, [int(row.sum()) for row in graded(part)], int(k))
    return se_rerun(within, len(sizes))


def _gaps(train: dict[str, Floats], test: dict[str, Floats], like: dict[str, Estimate]) -> dict[str, Estimate]:
    """train - test of every metric that both have."""
    gaps = {}
    for metric, u_P in train.items():
        if metric in test and min(len(u_P), len(test[metric])) > 1:
            interval = gap_ci(u_P, test[metric])
            empty = msgspec.structs.replace(
                like[metric], name=f"gap_{metric}", n_problems=len(u_P) + len(test[metric]), note="train - test"
            )
            gaps[empty.name] = _filled(empty, interval, se_rerun=None, method=interval.method)
    return gaps
