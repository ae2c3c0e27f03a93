"""A generated world of small programs: words and two examples say what to do with a list, the model writes the body.

    # keep the even ones, multiply each by 2, return the min
    # f([8,-2,-8])=-16
    # f([4,-8,-5])=-16
    def f(x):

`list_programs` is the task. A problem is a pipeline of list operations (`list_operations.py`), its level how many.
There is no end of problems: another `seed` draws others. Each split has pipelines of its own, whatever the seed: which
one a pipeline belongs to is decided by a hash of it. Splits: `pretrain` (what a base model is made of), `train`,
`validation`, `test`, and `transfer`, which has longer pipelines in other words ("first ... then ...").

Hidden tests are ten lists of 0 to 12 numbers, and one more for each `neighbours` pipeline that those don't tell from
the right one, so that neither luck nor programs for the two examples pass. `gold` is right; a person's solution, wrong
in one of five, is in `meta["demonstration"]`. Some specifications are vague ("scale each"): the examples tell the
number. Not handled: problems without a program; values other than whole numbers.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator
from typing import Any, Literal

from harness.errors import InputError
from harness.grading.code import verdict
from harness.grading.programs import continued
from harness.types import Completion, Problem, Task, Test

from .list_operations import STYLES, Pipeline, apply, body, draw, in_words, neighbours, other_numbers

REVISION = "1"
Split = Literal["pretrain", "train", "validation", "test", "transfer"]
SHARES: dict[Split, int] = {"pretrain": 40, "train": 25, "validation": 10, "test": 15, "transfer": 10}
"""Percent of all pipelines."""
PROBLEMS: dict[Split, int] = {"pretrain": 3000, "train": 300, "validation": 100, "test": 150, "transfer": 100}
"""How many there are unless the user says."""
LEVELS = {1: 1, 2: 2, 3: 3, 4: 2}
TRANSFER_LEVELS = {3: 1, 4: 1, 5: 1}
"""Level: how often."""
MOST_PROBLEMS = 20_000
WRONG = 0.2
"""Share of people's solutions that are wrong."""
VAGUE = 0.2
"""Share of numbers that the words keep back, of those that they may and the examples tell."""
OTHER_WORDS = 0.15
"""Share of what a base model is made of that is worded like the transfer split."""
WORDS = {"first": "", "joint": ", "}
TRANSFER_WORDS = {"first": "first ", "joint": " then "}
LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)
"""Of the hidden inputs."""
LARGEST = 9
"""Inputs are from -9 to 9."""
EXAMPLE_LARGEST = 99
"""No number in an example's value is larger."""
MOST_DRAWS = 20
"""Lists that are drawn in search of one that will do."""


def list_programs(split: Split = "test", problems: int | None = None, seed: int = 0) -> Task:
    """Generated: list operations in words and two examples to a Python body (pass@k); needs no download."""
    n = PROBLEMS[split] if problems is None else problems
    if not 1 <= n <= MOST_PROBLEMS:
        raise InputError(f"list_programs has from 1 to {MOST_PROBLEMS} problems, not {n}: change problems.")
    return Task(
        name="list_programs",
        problems=_problems(split, n, seed),
        extract=continued,
        grade=verdict,
        gold=gold,
        revision=REVISION,
    )


def gold(problem: Problem) -> Completion:
    """A program that is right."""
    return Completion(problem_id=problem.id, index=0, text=problem.answer or "")


def split_of(pipeline: Pipeline) -> Split:
    """The split that a pipeline belongs to, in every draw."""
    place = int.from_bytes(hashlib.sha256(" ".join(map(str, pipeline)).encode()).digest()[:4], "big") % 100
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    raise AssertionError("shares are percent")


@functools.cache  # a sweep asks for the same ones again and again
def _problems(split: Split, n: int, seed: int) -> tuple[Problem, ...]:
    return tuple(_drawn(split, n, seed))


def _drawn(split: Split, n: int, seed: int) -> Iterator[Problem]:
    """The first n of this draw: fewer are the first of more."""
    rng = random.Random(f"list_programs {split} {seed}")
    levels = TRANSFER_LEVELS if split == "transfer" else LEVELS
    seen: set[Pipeline] = set()
    while len(seen) < n:
        pipeline = draw(rng, rng.choices(list(levels), list(levels.values()))[0])
        if pipeline in seen or split_of(pipeline) != split:
            continue
        examples, hidden = _examples(pipeline, rng), _hidden(pipeline, rng)
        if examples and hidden:
            yield _problem(pipeline, examples, hidden, f"list_programs/{split}/{seed}/{len(seen)}", split, rng)
            seen.add(pipeline)


def _problem(
    pipeline: Pipeline, examples: list[list[int]], hidden: list[list[int]], name: str, split: Split, rng: random.Random
) -> Problem:
    other = split == "transfer" or (split == "pretrain" and rng.random() < OTHER_WORDS)
    words = in_words(pipeline, rng, hides=_hides(pipeline, examples, rng), **(TRANSFER_WORDS if other else WORDS))
    shown = "".join(f"# f({_plain(x)})={_plain(apply(pipeline, x))}\n" for x in examples)
    return Problem(
        id=name,
        task="list_programs",
        split=split,
        prompt=f"# {words}\n{shown}def f(x):",
        entry_point="f",
        answer=body(pipeline, "steps", rng),
        tests=tuple(Test(id=str(i), kind="call", input=[x], expected=apply(pipeline, x)) for i, x in enumerate(hidden)),
        level=str(len(pipeline)),
        meta={
            "pipeline": " ".join(map(str, pipeline)),
            "demonstration": _demonstration(pipeline, hidden, rng),
            "examples": [[[x], apply(pipeline, x)] for x in examples],
        },
    )


def _hides(pipeline: Pipeline, examples: list[list[int]], rng: random.Random) -> list[int]:
    """Places of the steps whose numbers are not said, because the examples tell them."""

    def told(place: int) -> bool:
        shown = [apply(pipeline, x) for x in examples]
        return all([apply(other, x) for x in examples] != shown for other in other_numbers(pipeline, place))

    return [
        place for place, step in enumerate(pipeline) if step.operation.vague and rng.random() < VAGUE and told(place)
    ]


def _plain(value: Any) -> str:
    return repr(value).replace(" ", "")


def _numbers(rng: random.Random, length: int) -> list[int]:
    return [rng.randint(-LARGEST, LARGEST) for _ in range(length)]


def _examples(pipeline: Pipeline, rng: random.Random) -> list[list[int]]:
    """Two lists of three numbers with short, different values that are not empty; [] if none were found."""
    found: list[list[int]] = []
    for _ in range(MOST_DRAWS):
        numbers = _numbers(rng, 3)
        value = apply(pipeline, numbers)
        small = value is not None and max(map(abs, value if isinstance(value, list) else [value]), default=100) < 100
        if small and all(apply(pipeline, one) != value for one in found):
            found.append(numbers)
        if len(found) == 2:
            return found
    return []


def _hidden(pipeline: Pipeline, rng: random.Random) -> list[list[int]]:
    """Inputs that tell the pipeline from its neighbours; [] where it has a step too many, or says the same of all."""
    found = []
    for length in LENGTHS:
        numbers = next((x for x in _draws(rng, length) if apply(pipeline, x) is not None), None)
        if numbers is not None:
            found.append(numbers)
    wanted = [apply(pipeline, x) for x in found]
    if len(found) < len(LENGTHS) - 2 or len(set(map(str, wanted))) < len(LENGTHS) // 2:
        return []
    for other in neighbours(pipeline):
        if any(apply(other, x) != value for x, value in zip(found, wanted, strict=False)):
            continue
        telling = (x for x in _draws(rng, 8) if apply(pipeline, x) not in (None, apply(other, x)))
        if (numbers := next(telling, None)) is not None:
            found.append(numbers)
        elif len(other) < len(pipeline):
            return []
    return found


def _draws(rng: random.Random, length: int) -> Iterator[list[int]]:
    return (_numbers(rng, length) for _ in range(MOST_DRAWS))


def _demonstration(pipeline: Pipeline, hidden: list[list[int]], rng: random.Random) -> str:
    """What a person would write."""
    meant = pipeline
    if rng.random() < WRONG:
        others = [o for o in neighbours(pipeline) if any(apply(o, x) != apply(pipeline, x) for x in hidden)]
        meant = rng.choice(others)
    return body(meant, rng.choices(list(STYLES), list(STYLES.values()))[0], rng)
