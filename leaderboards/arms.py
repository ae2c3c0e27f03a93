"""What `harness compare` compares: runs, or selectors of runs. Main function: `read_arms`.

An arm is a run folder, or RUN:METRIC, a run by a metric of its own: `runs/a:pass@1 runs/a:maj@8 runs/a:best@8[lever]`
compares what one run's selectors make of the same completions. A folder whose name has a colon is itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, UnknownName
from harness.estimates import metric_names, per_problem
from harness.finished import results_of
from harness.results import groups, subset
from harness.selectors import graded
from harness.types import Manifest, Results

Values = dict[str, float]
"""One metric of one run: problem id to fraction."""


@dataclass(frozen=True)
class Arm:
    """One run as it is compared."""

    name: str
    manifest: Manifest
    results: Results
    metric: str | None = None
    """Its own, where arms have metrics of their own; None: those that are compared."""

    def by(self, metric: str) -> str:
        """The metric that this arm is measured by where others are by `metric`."""
        return self.metric or metric


def read_arms(paths: Sequence[Path], metrics: Sequence[str], *, with_tasks: bool) -> list[Arm]:
    """The arms in their order, each run read once. Where one names its metric, the others have the one of `metrics`.

    Raises:
        InputError: an arm named twice, or arms with metrics of their own beside several `metrics`.
    """
    named = [_split(path) for path in paths]
    own = any(metric is not None for _, metric in named)
    if own and len(metrics) != 1 and not all(metric for _, metric in named):
        raise InputError(
            f"one run names its metric and another does not, which leaves {len(metrics)} metrics to choose from: write "
            "RUN:METRIC for all, or give one metric."
        )
    folders = list(dict.fromkeys(path for path, _ in named))
    short = {path: path.resolve().name for path in folders}
    if len(set(short.values())) < len(folders):
        short = {path: str(path) for path in folders}
    arms = [(path, (metric or metrics[0]) if own else None) for path, metric in named]
    if len(set(arms)) < len(arms) or len(set(short.values())) < len(folders):
        raise InputError("a run is named twice: name every run, or every metric of it, once.")
    suites = any("[" in metric for metric in (*metrics, *(metric or "" for _, metric in named)))
    read = {path: results_of(path, with_tasks=with_tasks, with_suites=suites) for path in folders}
    return [Arm(short[path] + (f":{metric}" if metric else ""), *read[path], metric) for path, metric in arms]


def _split(path: Path) -> tuple[Path, str | None]:
    """A run's folder and the metric behind it, if there is one."""
    text = str(path)
    places = [place for place, letter in enumerate(text) if letter == ":"]
    for place in () if path.exists() else reversed(places):
        if place and Path(text[:place]).is_dir():
            return Path(text[:place]), text[place + 1 :]
    return path, None


def values_of(arm: Arm, metric: str) -> list[tuple[str, Values]]:
    """Per task (or task/split): the metric of each problem that has enough graded completions."""
    k_text = metric.partition("@")[2].partition("[")[0]
    if not k_text.isdigit() or int(k_text) < 1:
        raise InputError(f"{metric!r} is not a metric: write rule@k, such as pass@1, maj@8 or best@8[score].")
    k, found = int(k_text), []
    for task, places in groups(arm.results).items():
        sizes = [len(row) for row in graded(subset(arm.results, places))]
        enough = subset(arm.results, [place for place, n in zip(places, sizes, strict=True) if n >= k])
        if not enough.problems_P:
            raise InputError(f"{arm.name} has no problem of {task} with {k} graded completions: choose a smaller k.")
        known = metric_names(enough, [k])
        if metric not in known:
            raise UnknownName(f"metric of {arm.name} on {task}", metric, known)
        numbers = per_problem(enough, [k], only=[metric])[metric]
        ids = (problem.id for problem in enough.problems_P)
        found.append((task, dict(zip(ids, numbers.tolist(), strict=True))))
    return found
