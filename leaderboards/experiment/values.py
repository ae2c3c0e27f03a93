"""Values per problem of a sweep's checkpoints: one number per problem, seed and metric. Main function: `pools_of`.

A `Pool` is one arm at one iteration with every seed that has got there. pass@k comes from the counts in results.json;
maj@k and best-of-k of the test problems from their completions, for k up to half of the samples (at k = n an unbiased
estimate is a single draw per problem). Not handled: inference (`measure.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.finished import results_of
from harness.metrics.subsets import pass_at_k
from harness.selectors import graded
from harness.store import read_results
from harness.trials import Evaluated
from harness.types import Floats

from ..panels import PASS, rules_by_k
from .read import TRAIN, Arm, Attempt, Setting, Step, run_folder

BASE = "base"
"""The base model's name among the arms."""

Values = Mapping[str, float]
"""One metric of one checkpoint: a fraction by problem."""


@dataclass(frozen=True)
class Pool:
    """One arm at one iteration; the base model has no seed and is iteration 0."""

    iteration: int
    seeds: tuple[int, ...]
    steps: tuple[Step, ...]
    """One per seed."""
    values: Mapping[str, tuple[Values, ...]]
    """By evaluation and metric ("test pass@1"), one mapping per seed."""
    so_far: tuple[tuple[Evaluated, ...], ...]
    """By seed: the accounts of this iteration and those before, the base's first."""

    def mean(self, metric: str) -> dict[str, float] | None:
        """The metric of each problem, averaged over seeds; None if a seed doesn't have it."""
        each = self.values.get(metric, ())
        if not each:
            return None
        ids = sorted(set.intersection(*(set(values) for values in each)))
        return {name: sum(values[name] for values in each) / len(each) for name in ids} or None

    def of_each(self, field: str, key: str) -> dict[str, float | None]:
        """One entry of a field of the accounts that is by evaluation, averaged over seeds."""
        found = [getattr(accounts[-1], field) for accounts in self.so_far]
        return {name: _mean([each.get(name, {}).get(key) for each in found]) for name in found[0]}

    @property
    def base_rewards(self) -> dict[str, float | None]:
        """The base's completions by the reward of this arm."""
        found = [accounts[0].rewards for accounts in self.so_far]
        return {name: _mean([each.get(name, {}).get("reward") for each in found]) for name in found[0]}

    @property
    def reward_rises(self) -> tuple[float, ...]:
        """The reward on train against the base's, by seed; empty where it was not measured."""
        ends = [[account.rewards.get(TRAIN, {}).get("reward") for account in (a[0], a[-1])] for a in self.so_far]
        return tuple(after - before for before, after in ends if before is not None and after is not None)

    @property
    def account(self) -> dict[str, Any]:
        """What accounts hold besides scores, averaged over seeds; costs are sums up to this iteration."""
        last = [accounts[-1] for accounts in self.so_far]
        trained = [accounts[1:] for accounts in self.so_far]
        return {
            "distinct": {name: _mean([each.distinct.get(name) for each in last]) for name in last[0].distinct},
            "drift": {name: _mean([each.drift.get(name) for each in last]) for name in last[0].drift},
            "rows": _mean([each.rows for each in last]),
            "sampled_tokens": _mean([_sum([each.sampled_tokens for each in one]) for one in trained]),
            "trained_tokens": _mean(
                [_sum([each.trained.trained_tokens if each.trained else None for each in one]) for one in trained]
            ),
            "reward_calls": _mean([_sum([each.reward_calls for each in one]) for one in trained]),
            "seconds": _mean([_sum([_seconds(each) for each in one]) for one in trained]),
        }


def _mean(values: Sequence[float | None]) -> float | None:
    """None as soon as one is not measured."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _seconds(account: Evaluated) -> float | None:
    """Sampling and training; evaluation costs every arm alike."""
    spent = {phase: seconds for phase, seconds in account.seconds.items() if phase != "evaluate"}
    return sum(spent.values()) if spent else None


def pools_of(setting: Setting) -> dict[str, tuple[Pool, ...]]:
    """Of each arm the base and every iteration that at least one seed has finished, and the base by itself.

    Nothing before the base model is evaluated.
    """
    if setting.base is None:
        return {arm.name: () for arm in setting.arms}
    base = _base_pool(setting.base, _gathered([values_of(setting.base, setting)]))
    return {BASE: (base,)} | {arm.name: _pools(arm, setting, base) for arm in setting.arms}


def _base_pool(step: Step, values: Mapping[str, tuple[Values, ...]]) -> Pool:
    return Pool(0, (), (step,), values, ((step.account,),))


def _pools(arm: Arm, setting: Setting, base: Pool) -> tuple[Pool, ...]:
    found = [_own_base(arm, setting, base)]
    for iteration in range(1, max((len(attempt.steps) for attempt in arm.attempts), default=0) + 1):
        there = [attempt for attempt in arm.attempts if len(attempt.steps) >= iteration]
        steps = tuple(attempt.steps[iteration - 1] for attempt in there)
        found.append(
            Pool(
                iteration=iteration,
                seeds=tuple(attempt.seed for attempt in there),
                steps=steps,
                values=_gathered([values_of(step, setting) for step in steps]),
                so_far=tuple(_accounts(attempt, iteration) for attempt in there),
            )
        )
    return tuple(found)


def _own_base(arm: Arm, setting: Setting, base: Pool) -> Pool:
    """The base as this arm sees it: by its own reward, or on its own training problems, if that was measured."""
    step = next((attempt.base for attempt in arm.attempts if attempt.base), base.steps[0])
    shared = step.folder == base.steps[0].folder
    return _base_pool(step, base.values if shared else _gathered([values_of(step, setting)]))


def _accounts(attempt: Attempt, iteration: int) -> tuple[Evaluated, ...]:
    assert attempt.base is not None
    return (attempt.base.account, *(step.account for step in attempt.steps[:iteration]))


def _gathered(by_seed: Sequence[Mapping[str, Values]]) -> dict[str, tuple[Values, ...]]:
    """Metrics that every seed has."""
    return {
        metric: tuple(values[metric] for values in by_seed)
        for metric in by_seed[0]
        if all(metric in values for values in by_seed)
    }


def values_of(step: Step, setting: Setting) -> dict[str, Values]:
    """Every metric of one checkpoint."""
    found: dict[str, Values] = {}
    for name in setting.names:
        made, summary = read_results(run_folder(step.folder, name))
        # training problems may be an arm's own: the same id of another set of problems is another problem
        mark = "".join(task.problems_sha for task in made.tasks) if name == TRAIN else ""
        counts = {f"{mark}{i}": each for rows in summary["problems"].values() for i, each in rows.items()}
        for k in setting.ks if 1 in setting.ks else (1, *setting.ks):
            enough = {i: (each["n"], each["c"]) for i, each in counts.items() if each["n"] >= k}
            if len(enough) > 1:
                n_P, c_P = np.array(list(enough.values())).T
                found[f"{name} pass@{k}"] = dict(zip(enough, pass_at_k(n_P, c_P, [k])[:, 0].tolist(), strict=True))
    return found | _chosen(step, setting)


def _chosen(step: Step, setting: Setting) -> dict[str, Values]:
    """maj@k and best-of-k on the test problems."""
    _, results = results_of(run_folder(step.folder, setting.test))
    fewest = min((len(row) for row in graded(results)), default=0)
    ks = [k for k in setting.ks if 1 < k <= fewest / 2]
    if not ks:
        return {}
    ids = [problem.id for problem in results.problems_P]
    return {
        f"{setting.test} {rule.replace('@k', f'@{k}')}": dict(zip(ids, u_PK[:, column].tolist(), strict=True))
        for rule, u_PK in rules_by_k(results, ks).items()
        if rule != PASS
        for column, k in enumerate(ks)
    }


def paired(before: Values, after: Values) -> tuple[Floats, Floats]:
    """The values of the problems that both have, in one order. (P,), (P,)"""
    ids = sorted(before.keys() & after.keys())
    before_P, after_P = (np.array([each[name] for name in ids], dtype=np.float64) for each in (before, after))
    return before_P, after_P
