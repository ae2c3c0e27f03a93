"""From graded completions to rewards: `score` adds up the weighted terms of a recipe and keeps each beside the total.

A term is a function of one `Graded` completion, with whatever arguments the recipe gives it, that returns a number, or
None where it could not be measured. One of your own is five lines in a file, named in a recipe as `my_terms.py:polite`:

    from harness.rewards import Graded

    def polite(graded: Graded, *, word: str = "please") -> float:
        \"\"\"1 where the model says please.\"\"\"
        return float(word in graded.completion.text.lower())

With `@needs(group=True)` a term gets all completions of a problem, by index, and returns a list of numbers. Not handled
here: the KL divergence, which is of log-probabilities that only a trainer has (`beta` of `trainers/losses.py`).

    terms      of verdicts, texts and answers; coins
    programs   of programs: syntax, data flow, speed
    chance     numbers drawn from a name
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness import registry
from harness.errors import InputError, UnknownName
from harness.recipes import Reward, TermUse
from harness.rewards.chance import coin
from harness.types import Completion, Execution, Problem, Verdict

Values = list[float | None]
Term = TypeVar("Term", bound=Callable[..., Any])


@dataclass(frozen=True)
class Graded:
    """A completion with all that is known of it: what a term looks at."""

    problem: Problem
    completion: Completion
    """Its `text` as it was sampled, thoughts included; `program` and `answer` as the task extracted them."""
    verdict: Verdict
    executions: tuple[Execution, ...] = ()


@dataclass(frozen=True)
class Scored:
    """A completion with its reward."""

    graded: Graded
    terms: Mapping[str, float | None]
    """Every term by name, gates applied, before its weight."""
    reward: float | None
    """None: a term that counts could not be measured. Such a completion is left out, it is not a bad one."""


def needs(*, group: bool = False, all_tests: bool = False) -> Callable[[Term], Term]:
    """Marks a term that wants all completions of a problem at once, or programs run on every test."""

    def mark(term: Term) -> Term:
        vars(term).update(needs_group=group, needs_all_tests=all_tests)
        return term

    return mark


def needs_all_tests(reward: Reward) -> bool:
    """Whether programs must be run on every test, not only up to the first failure."""
    return any(getattr(registry.find("term", name), "needs_all_tests", False) for name in reward.terms)


def score(graded: Sequence[Graded], reward: Reward) -> list[Scored]:
    """The reward of each completion, in the order given; all completions of a problem must be there.

    reward = sum of weight x term. A term with a gate is 0 where the other term, before its own gate, is not positive,
    and None where that is None. A reward is None where a term with a weight other than 0 is None: what was not measured
    is not 0, which is where TRL differs (it sums what there is).

    Raises:
        UnknownName: no such term, argument or gate.
        InputError: a term gave something other than a number or None.
    """
    uses = {name: use if isinstance(use, TermUse) else TermUse(weight=use) for name, use in reward.terms.items()}
    for name, use in uses.items():
        if use.gate is not None and use.gate not in uses:
            raise UnknownName(f"reward term for the gate of {name} called", use.gate, uses)
    groups = _by_problem(graded)
    measured = {name: _measure(name, use, graded, groups) for name, use in uses.items()}
    terms = {name: _gated(values, measured.get(uses[name].gate or "")) for name, values in measured.items()}
    counted = {name: use.weight for name, use in uses.items() if use.weight}
    totals = [_total((weight, terms[name][place]) for name, weight in counted.items()) for place in range(len(graded))]
    if reward.shuffled:
        totals = _shuffled(totals, graded, groups)
    return [
        Scored(one, {name: values[place] for name, values in terms.items()}, totals[place])
        for place, one in enumerate(graded)
    ]


def _by_problem(graded: Sequence[Graded]) -> list[list[int]]:
    """Places in `graded` of each problem's completions, by index."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(graded):
        groups[one.problem.id].append(place)
    return [sorted(places, key=lambda place: graded[place].completion.index) for places in groups.values()]


def _measure(name: str, use: TermUse, graded: Sequence[Graded], groups: Sequence[Sequence[int]]) -> Values:
    term = registry.bind("term", name, use.args)
    if not getattr(registry.find("term", name), "needs_group", False):
        return [_number(name, term(one), one) for one in graded]
    values: Values = [None] * len(graded)
    for places in groups:
        found = list(term([graded[place] for place in places]))
        if len(found) != len(places):
            raise InputError(f"the term {name} gave {len(found)} values for {len(places)} completions: one for each.")
        for place, value in zip(places, found, strict=True):
            values[place] = _number(name, value, graded[place])
    return values


def _number(name: str, value: Any, graded: Graded) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        where = f"completion {graded.completion.index} of {graded.problem.id}"
        raise InputError(f"the term {name} gave {value!r} for {where}: return a number, or None for not measured.")
    return number


def _gated(values: Values, gates: Values | None) -> Values:
    """A closed gate is 0 whatever is behind it, also where that was not measured; None: there is no gate."""
    if gates is None:
        return values
    return [None if g is None else value if g > 0 else 0.0 for value, g in zip(values, gates, strict=True)]


def _total(parts: Iterable[tuple[float, float | None]]) -> float | None:
    total = 0.0
    for weight, value in parts:
        if value is None:
            return None
        total += weight * value
    return total


def _shuffled(totals: Values, graded: Sequence[Graded], groups: Sequence[Sequence[int]]) -> Values:
    """The totals of each problem in another order, which depends on its id and the indices alone."""
    mixed = list(totals)
    for places in groups:
        known = [place for place in places if totals[place] is not None]
        order = sorted(known, key=lambda p: coin("shuffled", graded[p].problem.id, graded[p].completion.index))
        for place, other in zip(known, order, strict=True):
            mixed[other] = totals[place]
    return mixed
