"""The statistics of a sweep: from its folder to every number of its report. Main function: `measure`.

Every checkpoint of a setting has the same problems and budget, so everything is paired by problem. A metric of an arm
is first averaged over the seeds that have got to an iteration, problem by problem; inference is then over problems
(`harness.metrics`). Such an interval speaks of these checkpoints on problems like these. What it leaves out, the luck
of a training run, stands beside it: each seed's own difference, and an interval for new seeds (`seeds_ci`).

The reported checkpoint of an arm is its last planned one, never the best on test. Holm's adjustment is over a family
that is declared by the sweep file: every arm against the base, and every arm against its controls, on pass@1 of the
test problems. What has failed or is not finished is counted in it, so that a result doesn't change when it comes in.
Not handled: words (`words.py`), pictures (`figures.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from harness.finished import results_of
from harness.metrics.gaps import did_ci, gap_ci
from harness.metrics.inference import Interval, diff_ci, mean_ci
from harness.metrics.power import mde
from harness.metrics.seeds import seeds_ci
from harness.metrics.significance import holm, p_value, sign_flip
from harness.selectors import graded
from harness.types import Floats

from ..ranking import ranks
from ..strata import EDGES, difficulty
from .read import TRAIN, Arm, Setting, SweepFolder, differing_graders, run_folder
from .report import (
    FORMAT,
    NEGLIGIBLE,
    ArmReport,
    Comparison,
    Effect,
    Number,
    SettingReport,
    Stage,
    SweepReport,
    Trend,
)
from .values import BASE, Pool, Values, paired, pools_of
from .warnings import warnings_of


def measure(sweep: SweepFolder) -> tuple[SweepReport, dict[str, dict[str, tuple[Pool, ...]]]]:
    """All numbers, and the values per problem that they come from: by setting and arm, iteration 0 (the base) first."""
    pools = {setting.name: pools_of(setting) for setting in sweep.settings}
    settings = tuple(_setting(setting, pools[setting.name]) for setting in sweep.settings)
    return SweepReport(format=FORMAT, name=sweep.name, seeds=sweep.seeds, settings=settings), pools


def _setting(setting: Setting, pools: Mapping[str, tuple[Pool, ...]]) -> SettingReport:
    main = f"{setting.test} pass@1"
    finals = {arm.name: pools[arm.name][-1] for arm in setting.arms if _is_final(arm, pools[arm.name])}
    if BASE in pools:
        finals[BASE] = pools[BASE][0]
    declared = [(arm.name, against) for arm in setting.arms for against in (BASE, *arm.against)]
    treatments = [arm.name for arm in setting.arms if arm.control is None]
    pairs = [(second, first) for first, second in itertools.combinations(treatments, 2)]
    means = {name: mean for name, pool in finals.items() if (mean := pool.mean(main)) is not None}
    arms = tuple(_arm(arm, pools[arm.name], setting) for arm in setting.arms)
    return SettingReport(
        name=setting.name,
        test=setting.test,
        others=setting.others,
        ks=setting.ks,
        base=_stage(finals[BASE], finals[BASE], setting) if BASE in finals else None,
        arms=arms,
        family=len(declared),
        comparisons=_compared(declared, finals, main),
        pairs=_compared(pairs, finals, main),
        elsewhere={name: found for name in setting.others if (found := _compared(pairs, finals, f"{name} pass@1"))},
        bins=_bins(setting, finals, main),
        ranking=_ranking(means),
        notes=tuple(_notes(setting, arms)),
    )


def _is_final(arm: Arm, pools: Sequence[Pool]) -> bool:
    return bool(pools) and pools[-1].iteration == arm.iterations


def _arm(arm: Arm, pools: Sequence[Pool], setting: Setting) -> ArmReport:
    stages = tuple(_stage(pool, pools[0], setting) for pool in pools[1:])
    changes = _seed_changes(pools, f"{setting.test} pass@1") if _is_final(arm, pools) else {}
    made = ArmReport(
        name=arm.name,
        control=arm.control,
        of=arm.of,
        against=arm.against,
        iterations=arm.iterations,
        stages=stages,
        seed_changes={str(seed): change for seed, change in changes.items()},
        seed_sd=float(np.std(list(changes.values()), ddof=1)) if len(changes) > 1 else None,
        trend=_trend(pools, setting.test) if _is_final(arm, pools) else None,
        failures={str(attempt.seed): attempt.error for attempt in arm.attempts if attempt.error},
        progress={str(attempt.seed): len(attempt.steps) for attempt in arm.attempts},
        warnings=(),
    )
    base = _stage(pools[0], pools[0], setting) if pools else None
    return msgspec.structs.replace(made, warnings=tuple(warnings_of(made, base, setting)) if base else ())


def _stage(pool: Pool, base: Pool, setting: Setting) -> Stage:
    means = {metric: mean for metric in pool.values if (mean := pool.mean(metric)) is not None}
    before = {metric: mean for metric in base.values if (mean := base.mean(metric)) is not None}
    train, test = (f"{name} pass@1" for name in (TRAIN, setting.test))
    both = train in means and test in means
    return Stage(
        iteration=pool.iteration,
        seeds=pool.seeds,
        scores={metric: level(mean.values()) for metric, mean in means.items()},
        change={
            metric: change(before[metric], mean) for metric, mean in means.items() if _common(before, means, metric)
        }
        if pool.iteration
        else {},
        gap=_gap(means[train], means[test]) if both else None,
        gap_change=_gap_change(before, means, train, test) if both and pool.iteration else None,
        rewards=pool.of_each("rewards", "reward"),
        base_rewards=pool.base_rewards,
        reward_rises=pool.reward_rises,
        **pool.account,
    )


def _common(before: Mapping[str, Values], after: Mapping[str, Values], metric: str) -> bool:
    return metric in before and len(before[metric].keys() & after[metric].keys()) > 1


def level(values: Iterable[float]) -> Number:
    """The mean of fractions, one per problem."""
    u_P = np.array(list(values))
    if len(u_P) < 2:
        return Number(value=float(u_P.mean()), low=None, high=None, se=None, problems=len(u_P))
    return _number(mean_ci(u_P.clip(0, 1)), len(u_P))


def change(before: Values, after: Values) -> Number:
    """The mean difference, paired by problem."""
    before_P, after_P = paired(before, after)
    return _number(diff_ci(after_P - before_P), len(before_P))


def _number(interval: Interval, problems: int) -> Number:
    return Number(value=interval.value, low=interval.low, high=interval.high, se=interval.se, problems=problems)


def _gap(train: Values, test: Values) -> Number | None:
    if min(len(train), len(test)) < 2:
        return None
    return _number(gap_ci(list(train.values()), list(test.values())), len(train) + len(test))


def _gap_change(before: Mapping[str, Values], after: Mapping[str, Values], train: str, test: str) -> Number | None:
    """Difference in differences; None where the training problems were not the base's."""
    if not (_common(before, after, train) and _common(before, after, test)):
        return None
    (base_P, train_P), (base_Q, test_Q) = (paired(before[each], after[each]) for each in (train, test))
    return _number(did_ci(train_P, base_P, test_Q, base_Q), len(train_P) + len(test_Q))


def _trend(pools: Sequence[Pool], test_name: str) -> Trend | None:
    """What the iterations after the first one changed."""
    first, last = pools[1], pools[-1]
    test, train = f"{test_name} pass@1", f"{TRAIN} pass@1"
    before, after = ({m: mean for m in (train, test) if (mean := pool.mean(m))} for pool in (first, last))
    if first.iteration == last.iteration or first.seeds != last.seeds or not _common(before, after, test):
        return None
    gap = _gap_change(before, after, train, test) if train in before and train in after else None
    return Trend(first=first.iteration, last=last.iteration, test=change(before[test], after[test]), gap=gap)


def _seed_changes(pools: Sequence[Pool], metric: str) -> dict[int, float]:
    """Each seed's own difference from the base."""
    base, last = pools[0].mean(metric), pools[-1]
    if base is None or metric not in last.values:
        return {}
    pairs = ((seed, paired(base, values)) for seed, values in zip(last.seeds, last.values[metric], strict=True))
    return {seed: float((after_P - before_P).mean()) for seed, (before_P, after_P) in pairs}


def _compared(declared: Sequence[tuple[str, str]], finals: Mapping[str, Pool], metric: str) -> tuple[Comparison, ...]:
    """The comparisons that have a result, adjusted as one family with those that have none yet."""
    found: list[tuple[dict[str, Any], Interval]] = []
    for arm, against in declared:
        before, after = (finals[name].mean(metric) if name in finals else None for name in (against, arm))
        if before is None or after is None:
            continue
        before_P, after_P = paired(before, after)
        if len(before_P) < 2:
            continue
        d_P = after_P - before_P
        interval = diff_ci(d_P)
        fields = {
            "arm": arm,
            "against": against,
            "p_sign_flip": sign_flip(d_P),
            "detectable": mde(len(d_P), 1, within=0, between=interval.se**2 * len(d_P)),
            "problems": len(d_P),
            "better": int((d_P > 1e-12).sum()),
            "worse": int((d_P < -1e-12).sum()),
            "new_seeds": _new_seeds(finals[against], finals[arm], metric, interval),
        }
        found.append((fields, interval))
    p = [p_value(interval) for _, interval in found]
    missing = [1.0] * (len(declared) - len(found))
    adjusted = holm([*p, *missing]).tolist() if declared else []
    return tuple(
        Comparison(
            **fields,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            se=interval.se,
            p=p_one,
            p_holm=p_holm,
            effect=effect_of(interval, p_holm),
        )
        for (fields, interval), p_one, p_holm in zip(found, p, adjusted, strict=False)
    )


def _bins(setting: Setting, finals: Mapping[str, Pool], metric: str) -> dict[str, dict[str, Number]]:
    """The change of each arm in each difficulty bin of two problems or more; nothing without four samples of each."""
    if BASE not in finals:
        return {}
    results = results_of(run_folder(finals[BASE].steps[0].folder, setting.test))[1]
    if min(len(row) for row in graded(results)) < 4:
        return {}
    label_of, odd = difficulty(results)
    rows = zip(odd.problems_P, graded(odd), strict=True)
    before = {problem.id: float(row.mean()) for problem, row in rows if len(row)}
    found: dict[str, dict[str, Number]] = {}
    for name, pool in finals.items():
        after = pool.mean(metric)
        if name == BASE or after is None:
            continue
        shared = sorted(before.keys() & after.keys())
        parts = {label: [i for i in shared if label_of[i] == label] for _, label in EDGES}
        found[name] = {
            label: change({i: before[i] for i in ids}, {i: after[i] for i in ids})
            for label, ids in parts.items()
            if len(ids) > 1
        }
    return found


def effect_of(interval: Interval, p_holm: float) -> Effect:
    """What may be said of a difference."""
    if p_holm < 0.05:
        return "higher" if interval.value > 0 else "lower"
    return "none" if interval.low >= -NEGLIGIBLE and interval.high <= NEGLIGIBLE else "undecided"


def _new_seeds(base: Pool, treat: Pool, metric: str, these: Interval) -> Number | None:
    """For new seeds and problems. The base model is one checkpoint: as if every seed gave it.

    Moments from few seeds may come out narrower than the interval of these checkpoints, by chance: then that one holds.
    """
    if len(treat.seeds) < 2 or len(base.seeds) == 1:
        return None
    rows = [*base.values[metric], *treat.values[metric]]
    ids = sorted(set.intersection(*(set(values) for values in rows)))
    u_SP: Floats = np.array([[values[name] for name in ids] for values in rows])
    split = len(base.values[metric])
    base_SP = u_SP[:split] if base.seeds else np.repeat(u_SP[:1], 2, axis=0)
    found = seeds_ci(base_SP, u_SP[split:])
    return _number(replace(found, low=min(found.low, these.low), high=max(found.high, these.high)), len(ids))


def _ranking(means: Mapping[str, Values]) -> dict[str, int]:
    """Best first, by mean within a rank."""
    places = ranks(means)
    order = sorted(means, key=lambda name: (places[name], -sum(means[name].values()) / len(means[name])))
    return {name: places[name] for name in order}


def _notes(setting: Setting, arms: Sequence[ArmReport]) -> Iterator[str]:
    """What keeps an arm from being compared as the others are."""
    if setting.base_error:
        yield f"the base model failed: {setting.base_error}"
    yield from differing_graders(setting)
    for arm in arms:
        if arm.stages and arm.stages[-1].gap is not None and arm.stages[-1].gap_change is None:
            yield f"{arm.name} has training problems of its own: there is no difference in differences for it."
