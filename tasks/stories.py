"""Stories about one quantity that grows and shrinks, and how people work them out: what `word_problems` is made of.

`draw` makes a story's numbers, `in_words` tells it in a family's words, `solution` works it out in one of `STYLES`, and
with a slip if asked for, and `drill` is bare sums. Not handled: quantities below 1 or above `MOST`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

MOST = 50
"""No quantity in a story is larger."""
LARGEST_START = 30
LARGEST_CHANGE = 9
LARGEST_FACTORS = (4, 5)
STYLES = {"steps": 3, "products first": 1.5, "gains first": 1.5, "chain": 2, "answer": 1}
"""How often people write in each: in the order of the story, products before all, additions before all, one long
equation, the answer alone."""
SLIPS = (-10, -2, -1, 1, 2, 10)

Kind: TypeAlias = Literal["gain", "loss", "gains", "losses", "double", "half"]
KINDS: dict[Kind, float] = {"gain": 4, "loss": 4, "gains": 2.5, "losses": 1.5, "double": 1, "half": 1}
"""How often: a, -a, a times b, -(a times b), twice, half."""


@dataclass(frozen=True)
class Change:
    """What happens to the quantity; `b` is for "gains" and "losses", and "double" and "half" have no number."""

    kind: Kind
    a: int = 0
    b: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.a}x{self.b}"


@dataclass(frozen=True)
class Story:
    """Numbers of a story."""

    start: int
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return " ".join(map(str, (self.start, *self.changes)))


@dataclass(frozen=True)
class Family:
    """How stories of a kind are told."""

    opening: str
    question: str
    clauses: dict[Kind, tuple[str, ...]]


SHOP = Family(
    opening="{who} has {start} {what}",
    question="How many {what} now?",
    clauses={
        "gain": ("buys {a}", "finds {a}", "gets {a}"),
        "loss": ("loses {a}", "gives {a} away", "sells {a}"),
        "gains": ("buys {a} bags of {b}", "gets {a} boxes of {b}"),
        "losses": ("sells {a} bags of {b}", "gives {b} to each of {a} friends"),
        "double": ("doubles them",),
        "half": ("loses half",),
    },
)
BUS = Family(
    opening="A bus has {start} riders",
    question="How many riders now?",
    clauses={
        "gain": ("{a} get on", "{a} step in"),
        "loss": ("{a} get off", "{a} step out"),
        "gains": ("{a} groups of {b} get on",),
        "losses": ("{a} groups of {b} get off",),
        "double": ("riders double",),
        "half": ("half get off",),
    },
)
PEOPLE = ("Tom", "Amy", "Ben", "Eve", "Sam", "Lia", "Max", "Zoe")
THINGS = ("pens", "cards", "eggs", "nuts", "coins", "books")


def draw(rng: random.Random, steps: int) -> Story:
    """A random story with so many changes, whose quantity stays from 1 to `MOST`."""
    while True:
        changes = [_change(rng) for _ in range(steps)]
        story = Story(rng.randint(2, LARGEST_START), tuple(changes))
        if quantities(story):
            return story


def _change(rng: random.Random) -> Change:
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind in ("gain", "loss"):
        return Change(kind, rng.randint(1, LARGEST_CHANGE))
    if kind in ("gains", "losses"):
        return Change(kind, rng.randint(2, LARGEST_FACTORS[0]), rng.randint(2, LARGEST_FACTORS[1]))
    return Change(kind)


def quantities(story: Story) -> list[int]:
    """The quantity at the start and after each change; [] if it leaves its bounds or an odd number is halved."""
    found = [story.start]
    for change in story.changes:
        if change.kind == "half" and found[-1] % 2:
            return []
        found.append(_after(found[-1], change))
        if not 1 <= found[-1] <= MOST:
            return []
    return found


def _after(quantity: int, change: Change) -> int:
    match change.kind:
        case "gain":
            return quantity + change.a
        case "loss":
            return quantity - change.a
        case "gains":
            return quantity + change.a * change.b
        case "losses":
            return quantity - change.a * change.b
        case "double":
            return quantity * 2
        case _:
            return quantity // 2


def in_words(story: Story, family: Family, rng: random.Random) -> str:
    """The story with its question."""
    who, what = rng.choice(PEOPLE), rng.choice(THINGS)
    told = [family.opening.format(who=who, start=story.start, what=what)]
    told += [rng.choice(family.clauses[change.kind]).format(a=change.a, b=change.b) for change in story.changes]
    return f"{', '.join(told)}. {family.question.format(what=what)}"


# --- solutions


def solution(story: Story, style: str, rng: random.Random, *, slips: bool = False) -> str:
    """Lines `a+b=c` and "#### answer", from the space after "A:" on. A slip makes one result wrong; what follows goes
    on from there."""
    slip_at = rng.randrange(len(story.changes)) if slips else None
    if style in ("answer", "chain"):
        answer = quantities(story)[-1]
        if slips:
            answer = _slip(answer, rng)
        return f" #### {answer}" if style == "answer" else f" {_chain(story)}={answer}\n#### {answer}"
    changes = story.changes
    if style == "gains first" and all(change.kind not in ("double", "half") for change in changes):
        changes = tuple(sorted(changes, key=lambda change: change.kind in ("loss", "losses")))
    lines, answer = _lines(story.start, changes, rng, slip_at, products_first=style == "products first")
    return " " + "\n".join([*lines, f"#### {answer}"])


def _lines(
    start: int, changes: Sequence[Change], rng: random.Random, slip_at: int | None, *, products_first: bool
) -> tuple[list[str], int]:
    """The equations and where they lead."""
    products: list[str] = []
    sums: list[str] = []
    quantity = start
    for place, change in enumerate(changes):
        amount = change.a
        if change.kind in ("gains", "losses"):
            amount = change.a * change.b
            (products if products_first else sums).append(f"{change.a}*{change.b}={amount}")
        sign, amount = {
            "gain": ("+", amount),
            "gains": ("+", amount),
            "loss": ("-", amount),
            "losses": ("-", amount),
            "double": ("*", 2),
            "half": ("/", 2),
        }[change.kind]
        after = {"+": quantity + amount, "-": quantity - amount, "*": quantity * 2, "/": quantity // 2}[sign]
        if place == slip_at:
            after = _slip(after, rng)
        sums.append(f"{quantity}{sign}{amount}={after}")
        quantity = after
    return products + sums, quantity


def _slip(number: int, rng: random.Random) -> int:
    return number + rng.choice([slip for slip in SLIPS if number + slip >= 0])


def _chain(story: Story) -> str:
    """The whole story as one expression."""
    text = str(story.start)
    for change in story.changes:
        if change.kind in ("double", "half"):
            inner = f"({text})" if any(sign in text for sign in "+-") else text
            text = f"{inner}{'*2' if change.kind == 'double' else '/2'}"
        else:
            sign = "+" if change.kind in ("gain", "gains") else "-"
            text += f"{sign}{change.a}" + (f"*{change.b}" if change.b else "")
    return text


def drill(rng: random.Random, lines: int) -> list[str]:
    """Bare sums like those in solutions."""
    found = []
    for _ in range(lines):
        match rng.choice("++--*dh"):
            case "+":
                b = rng.randint(1, LARGEST_FACTORS[0] * LARGEST_FACTORS[1])
                a = rng.randint(1, MOST - b)
                found.append(f"{a}+{b}={a + b}")
            case "-":
                b = rng.randint(1, LARGEST_FACTORS[0] * LARGEST_FACTORS[1])
                a = rng.randint(b + 1, MOST)
                found.append(f"{a}-{b}={a - b}")
            case "*":
                a, b = rng.randint(2, LARGEST_FACTORS[0]), rng.randint(2, LARGEST_FACTORS[1])
                found.append(f"{a}*{b}={a * b}")
            case "d":
                a = rng.randint(1, MOST // 2)
                found.append(f"{a}*2={a * 2}")
            case _:
                a = rng.randint(1, MOST // 2)
                found.append(f"{a * 2}/2={a}")
    return found
