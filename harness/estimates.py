"""Every metric that a run's data allow, each with its interval over problems: `estimate`.

A metric is named `rule@k` or `rule@k[score]`: `pass@10`, `maj@8`, `best@8[mean logprob]`, `vote@8[pred_score]`. Where
one task has problems of the splits train and test, each split has its own estimates and `gap_...` is their difference.
Not handled: comparisons of runs (`leaderboards/compare.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from harness.metrics.gaps import gap_ci
from harness.metrics.inference import Interval, mean_ci
from harness.metrics.power import se_rerun, variance_parts
from harness.results import groups, subset
from harness.selectors import every_metric, graded
from harness.types import Estimate, Floats, Results

METHODS = {
    "pass": "unbiased (Chen et al. 2021)",
    "maj": "mean over all k-subsets, exact",
    "best": "mean over all k-subsets, exact",
    "vote": "mean over k-subsets, drawn where they are many",
}


def metric_name(rule: str, k: int, score: str | None = None) -> str:
    """`maj@8`, `best@8[mean logprob]`."""
    return f"{rule}@{k}" + (f"[{score}]" if score else "")


def per_problem(results: Results, ks: Sequence[int]) -> dict[str, Floats]:
    """Metric name to (P,): the unbiased number of each problem, for all metrics that the data allow."""
    return {
        metric_name(rule, k, score): u_PK[:, column]
        for rule, score, u_PK in every_metric(results, ks)
        for column, k in enumerate(ks)
        if k > 1 or rule == "pass"  # one completion leaves nothing to choose: all rules are pass@1
    }


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
                estimates[name][metric_name("pass", k)] = _impossible(part, k)
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
        _empty(metric_name("pass", k), part), note=f"{short} problems have fewer than {k} graded completions"
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
