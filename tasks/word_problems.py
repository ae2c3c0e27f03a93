"""A generated world of word problems: a short story about one quantity, sums line by line, then the answer.

    Q: Tom has 12 pens, buys 3 bags of 4, loses 5. How many pens now?
    A: 3*4=12
    12+12=24
    24-5=19
    #### 19

`word_problems` is the task; the level of a problem is how many changes its story has. There is no end of problems:
another `seed` draws others. Each split has stories of its own, whatever the seed: which one a story belongs to is
decided by a hash of its numbers. Splits: `pretrain` (what a base model is made of, bare sums among it), `train`,
`validation`, `test`, and `transfer`: stories of another family, a bus and its riders.

Answers are read and graded as GSM8K's are. `gold` is right; a person's solution, wrong in one of five, is in
`meta["demonstration"]`. Not handled: negative numbers, fractions, several quantities.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator
from typing import Literal

from harness.errors import InputError
from harness.grading.answers import grade
from harness.types import Completion, Problem, Task

from .gsm8k import extract
from .stories import BUS, SHOP, STYLES, Story, draw, drill, in_words, quantities, solution

REVISION = "1"
STOP = ("\nQ:",)
Split = Literal["pretrain", "train", "validation", "test", "transfer"]
SHARES: dict[Split, int] = {"pretrain": 50, "train": 20, "validation": 8, "test": 12, "transfer": 10}
"""Percent of all stories."""
PROBLEMS: dict[Split, int] = {"pretrain": 7000, "train": 300, "validation": 100, "test": 150, "transfer": 100}
"""How many there are unless the user says."""
LEVELS = {1: 1, 2: 2, 3: 3, 4: 2}
TRANSFER_LEVELS = {2: 1, 3: 2, 4: 2}
"""Level: how often."""
MOST_PROBLEMS = 20_000
WRONG = 0.2
"""Share of people's solutions that are wrong."""
OTHER_FAMILY = 0.15
"""Share of the stories for a base model that are of the transfer split's family."""
DRILLS = 0.43
"""Share of what a base model is made of that is bare sums."""
DRILL_LINES = 6


def word_problems(split: Split = "test", problems: int | None = None, seed: int = 0) -> Task:
    """Generated: short stories with sums and an answer (pass@k, maj@k); needs no download."""
    n = PROBLEMS[split] if problems is None else problems
    if not 1 <= n <= MOST_PROBLEMS:
        raise InputError(f"word_problems has from 1 to {MOST_PROBLEMS} problems, not {n}: change problems.")
    return Task(
        name="word_problems",
        problems=_problems(split, n, seed),
        extract=extract,
        grade=grade,
        gold=gold,
        revision=REVISION,
        stop=STOP,
    )


def gold(problem: Problem) -> Completion:
    """A solution that is right."""
    return Completion(problem_id=problem.id, index=0, text=problem.meta["solution"])


def split_of(story: Story) -> Split:
    """The split that a story belongs to, in every draw."""
    place = int.from_bytes(hashlib.sha256(str(story).encode()).digest()[:4], "big") % 100
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
    rng = random.Random(f"word_problems {split} {seed}")
    levels = TRANSFER_LEVELS if split == "transfer" else LEVELS
    seen: set[Story] = set()
    for place in range(n):
        name = f"word_problems/{split}/{seed}/{place}"
        if split == "pretrain" and rng.random() < DRILLS:
            yield _drill(name, rng)
            continue
        while (story := draw(rng, rng.choices(list(levels), list(levels.values()))[0])) in seen or (
            split_of(story) != split
        ):
            pass
        seen.add(story)
        yield _problem(story, name, split, rng)


def _problem(story: Story, name: str, split: Split, rng: random.Random) -> Problem:
    other = split == "transfer" or (split == "pretrain" and rng.random() < OTHER_FAMILY)
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    return Problem(
        id=name,
        task="word_problems",
        split=split,
        prompt=f"Q: {in_words(story, BUS if other else SHOP, rng)}\nA:",
        answer=str(quantities(story)[-1]),
        level=str(len(story.changes)),
        meta={
            "story": str(story),
            "solution": solution(story, "steps", rng),
            "demonstration": solution(story, style, rng, slips=rng.random() < WRONG),
        },
    )


def _drill(name: str, rng: random.Random) -> Problem:
    """Bare sums, so that a model learns to add sooner than from stories alone; the first line is the prompt's."""
    first, *lines = drill(rng, DRILL_LINES)
    text = "\n".join(["", *lines])
    sum_, _, result = first.partition("=")
    return Problem(
        id=name,
        task="word_problems",
        split="pretrain",
        prompt=f"{sum_}=",
        answer=lines[-1].partition("=")[2],
        level="drill",
        meta={"story": "", "solution": result + text, "demonstration": result + text},
    )
