"""The select step of a treatment: from rewarded completions to training rows. Main function: `select`.

In this order: problems, variance, threshold, dedupe, top, cap, then the dataset's own solutions and the weights. Every
random choice depends on the seed, the problem's id and the completion's index alone: the rows are the same in whatever
order completions come, and a completion more changes no choice between others. With rewards of 0 and 1, `top` and `cap`
take the same completions.

    keys       which completions are the same
    distance   how far two texts are from each other

Not handled: fresh batches of problems at each iteration, curricula, duplicates among the rows of several iterations.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from harness.errors import InputError
from harness.recipes import Selection
from harness.rewards import Scored
from harness.rewards.chance import coin
from harness.rows.distance import distance
from harness.rows.keys import equations_hold, key_of
from harness.types import Problem, Row

Group = Sequence[Scored]
"""Completions of one problem, by index."""


def select(
    scored: Sequence[Scored],
    selection: Selection,
    *,
    human: Mapping[str, str] | None = None,
    problems: Iterable[Problem] = (),
    iteration: int = 0,
    seed: int = 0,
) -> list[Row]:
    """Training rows, ordered by problem id, the dataset's own solution first and then by index.

    Args:
        scored: completions with their rewards, of any problems in any order; those without a reward are left out.
        selection: what to keep.
        human: the dataset's own solutions by problem id, as a model is to write them after the prompt.
        problems: the problems that those are of, as far as they have no completions.
        iteration: written into each row.
        seed: of all that is random.

    Returns:
        Rows; pairs, with `rejected`, if the selection asks for pairs. Rows of weight 0 are left out.

    Raises:
        InputError: two completions with one id and index, negative weights, or human solutions that are missing.
    """
    groups = _by_problem(scored)
    prompts = {problem.id: problem for problem in problems} | {name: g[0].graded.problem for name, g in groups.items()}
    chosen = first_problems(prompts, selection.problems)
    human = human or {}
    _check_human(selection, human, prompts)
    if selection.pairs is not None:
        if selection.threshold is None:
            raise InputError("pairs need a threshold between right and wrong: set select.threshold.")
        pairs = (row for name in chosen for row in _pairs(groups.get(name, ()), selection, selection.pairs, seed))
        return [msgspec.structs.replace(row, iteration=iteration) for row in pairs]
    rows: list[Row] = []
    for name in chosen:
        sampled = [] if selection.human == "only" else _sampled(groups.get(name, ()), selection, iteration, seed)
        wanted = {"none": False, "union": True, "only": True, "matched": bool(sampled)}[selection.human]
        if wanted and name in human:
            rows.append(_human(prompts[name], human[name], iteration))
        if selection.human != "matched":
            rows += sampled
    return rows


def first_problems(ids: Iterable[str], n: int | None) -> list[str]:
    """The n ids that come first in a pseudo-random order which depends on the ids alone (all: None), sorted.

    Fewer are a subset of more, and the same at every iteration and in every arm.
    """
    ids = sorted(ids)
    if n is None:
        return ids
    return sorted(sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:n])


def accumulated(earlier: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Rows of earlier iterations and of this one; the dataset's own solutions once (`Selection.accumulate`)."""
    there = {(row.problem_id, row.completion) for row in earlier if row.source == "human"}
    return [*earlier, *(r for r in rows if r.source != "human" or (r.problem_id, r.completion) not in there)]


def _by_problem(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in sorted(scored, key=_index):
        groups[one.graded.problem.id].append(one)
    for name, group in groups.items():
        indices = [_index(one) for one in group]
        if len(set(indices)) < len(indices):
            twice = next(index for index in indices if indices.count(index) > 1)
            raise InputError(f"two completions of {name} have the index {twice}: number them on when you join pools.")
    return groups


def _index(one: Scored) -> int:
    return one.graded.completion.index


def _reward(one: Scored) -> float:
    assert one.reward is not None
    return one.reward


def _kept(group: Group, selection: Selection, seed: int) -> list[Scored]:
    """Completions of a problem that pass all filters, by index."""
    measured = [one for one in group if one.reward is not None]
    if selection.variance and len({one.reward for one in measured}) < 2:
        return []
    kept = [one for one in measured if selection.threshold is None or _reward(one) >= selection.threshold]
    if selection.dedupe == "equations":
        kept = [one for one in kept if equations_hold(one.graded.completion.text)]
    kept = _distinct(kept, selection, seed)
    shuffled = sorted(kept, key=lambda one: _chance(one, seed))
    if selection.top is not None:
        shuffled = sorted(shuffled, key=_reward, reverse=True)[: selection.top]  # stable: ties stay shuffled
        shuffled.sort(key=lambda one: _chance(one, seed))
    return sorted(shuffled[: selection.cap], key=_index)


def _chance(one: Scored, seed: int) -> float:
    return coin("rows", seed, one.graded.problem.id, _index(one))


def _distinct(group: Group, selection: Selection, seed: int) -> list[Scored]:
    """One completion of each key, in order of the keys' first appearance."""
    if selection.dedupe == "none":
        return list(group)
    if selection.pick == "farthest":
        return _farthest(group, selection)
    same: dict[str, list[Scored]] = defaultdict(list)
    for one in group:
        same[key_of(one.graded, selection.dedupe)].append(one)
    return [min(members, key=lambda one: _preference(one, selection.pick, seed)) for members in same.values()]


def _preference(one: Scored, pick: str, seed: int) -> tuple[float, int]:
    """The smaller the better; never the same for two completions of a problem."""
    first = {"first": 0.0, "shortest": len(one.graded.completion.text), "random": _chance(one, seed)}[pick]
    return first, _index(one)


def _farthest(group: Group, selection: Selection) -> list[Scored]:
    """RFT's choice: a completion takes the place of the one that stands for its key if it is farther from the others.

    Greedy and by index, as in the reference code: "farther" is a larger sum of edit distances to those that stand for
    the other keys at that moment.
    """
    chosen: dict[str, Scored] = {}
    for one in group:
        key = key_of(one.graded, selection.dedupe)
        if key in chosen:
            others = [other.graded.completion.text for k, other in chosen.items() if k != key]
            if _spread(one, others) <= _spread(chosen[key], others):
                continue
        chosen[key] = one
    return list(chosen.values())


def _spread(one: Scored, others: Sequence[str]) -> int:
    return sum(distance(one.graded.completion.text, other) for other in others)


def _sampled(group: Group, selection: Selection, iteration: int, seed: int) -> list[Row]:
    kept = _kept(group, selection, seed)
    return [
        Row(
            problem_id=one.graded.problem.id,
            prompt=_prompt(one.graded.problem),
            completion=one.graded.completion.text,
            complete=one.graded.completion.stop_reason != "length",
            weight=weight,
            index=_index(one),
            iteration=iteration,
            reward=one.reward,
        )
        for one, weight in zip(kept, _weights(kept, selection), strict=True)
        if weight
    ]


def _weights(kept: Group, selection: Selection) -> list[float]:
    rewards = [_reward(one) for one in kept]
    if selection.weight == "ones" or not rewards:
        return [1.0] * len(rewards)
    if selection.weight == "reward":
        if min(rewards) < 0:
            name = kept[0].graded.problem.id
            raise InputError(
                f"a completion of {name} has the reward {min(rewards):g}: set select.threshold to 0 or more."
            )
        return rewards
    best = max(rewards)  # subtracted, so that nothing overflows however small beta is
    raw = [math.exp((reward - best) / selection.beta) for reward in rewards]
    return [weight * len(raw) / sum(raw) for weight in raw]


def _pairs(group: Group, selection: Selection, most: int, seed: int) -> list[Row]:
    """Right and wrong completions of a problem, each kind without duplicates, in a random order of all combinations."""
    right = _kept(group, selection, seed)
    bad = [one for one in group if one.reward is not None and one.reward < (selection.threshold or 0.0)]
    wrong = _distinct(bad, selection, seed)

    def chance(pair: tuple[Scored, Scored]) -> float:
        return coin("pairs", seed, pair[0].graded.problem.id, _index(pair[0]), _index(pair[1]))

    combinations = sorted(((a, b) for a in right for b in wrong), key=chance)[:most]
    return [
        Row(
            problem_id=a.graded.problem.id,
            prompt=_prompt(a.graded.problem),
            completion=a.graded.completion.text,
            rejected=b.graded.completion.text,
            index=_index(a),
            reward=a.reward,
        )
        for a, b in combinations
    ]


def _human(problem: Problem, solution: str, iteration: int) -> Row:
    return Row(problem_id=problem.id, prompt=_prompt(problem), completion=solution, source="human", iteration=iteration)


def _prompt(problem: Problem) -> str:
    return problem.context + problem.prompt


def _check_human(selection: Selection, human: Mapping[str, str], prompts: Mapping[str, Problem]) -> None:
    if selection.human == "none":
        return
    if not human:
        raise InputError(f"select.human is {selection.human} and there are no human solutions: set it to none.")
    unknown = sorted(human.keys() - prompts.keys())
    if selection.human != "matched" and unknown:
        raise InputError(f"there is a solution of {unknown[0]} and no problem of that id: give select its problem.")
