"""Pipelines of list operations, in words and as Python: what the task `list_programs` is made of.

`draw` makes a pipeline, `in_words` says it, `body` writes it as a function's body in one of `STYLES`, `apply` runs it,
and `neighbours` are the pipelines that are almost it: the mistakes that people make. The meaning of an operation is its
code, which stands here once. Not handled: values other than whole numbers and lists of them.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

STYLES = {"steps": 3, "nested": 3, "fused": 1, "loop": 2}
"""How often people write in each: a line per operation, one expression, comprehensions joined, a loop."""
INDENT = "\n    "


@dataclass(frozen=True, eq=False)
class Operation:
    """One thing to do with a list `x`; `k` is its number, drawn from `low` to `high`. Each is only equal to itself."""

    name: str
    kind: Literal["map", "filter", "list", "value"]
    words: tuple[str, ...]
    code: tuple[str, ...]
    """Expressions that mean the same: in `v` for map and filter (a condition), else in `{x}`."""
    low: int = 0
    high: int = 0
    vague: str = ""
    """Words that keep the number to themselves."""


@dataclass(frozen=True)
class Step:
    """An operation with its number; 0 where it has none."""

    operation: Operation
    k: int

    def __str__(self) -> str:
        return f"{self.operation.name}{self.k}" if self.operation.high else self.operation.name


Pipeline: TypeAlias = tuple[Step, ...]

OPERATIONS = (
    Operation("add", "map", ("add {k} to each", "increase each by {k}"), ("v+{k}",), 1, 9, "add something to each"),
    Operation("subtract", "map", ("subtract {k} from each", "lower each by {k}"), ("v-{k}",), 1, 9),
    Operation("multiply", "map", ("multiply each by {k}", "scale each by {k}"), ("v*{k}",), 2, 5, "scale each"),
    Operation("negate", "map", ("negate each", "flip every sign"), ("-v",)),
    Operation("square", "map", ("square each",), ("v*v",)),
    Operation("absolute", "map", ("take absolute values", "drop every sign"), ("abs(v)",)),
    Operation("even", "filter", ("keep the even ones", "drop the odd ones"), ("v%2==0",)),
    Operation("odd", "filter", ("keep the odd ones", "drop the even ones"), ("v%2==1",)),
    Operation("above", "filter", ("keep those above {k}",), ("v>{k}",), 0, 6),
    Operation("below", "filter", ("keep those below {k}",), ("v<{k}",), 0, 6),
    Operation("least", "filter", ("keep those at least {k}",), ("v>={k}",), 1, 6),
    Operation("multiples", "filter", ("keep multiples of {k}",), ("v%{k}==0",), 3, 5),
    Operation("reverse", "list", ("reverse", "flip the order"), ("{x}[::-1]", "list(reversed({x}))")),
    Operation("up", "list", ("sort up", "sort ascending"), ("sorted({x})",)),
    Operation("down", "list", ("sort down", "sort descending"), ("sorted({x})[::-1]", "sorted({x},reverse=True)")),
    Operation("first", "list", ("take the first {k}",), ("{x}[:{k}]",), 1, 4, "take the first few"),
    Operation("skip", "list", ("skip the first {k}",), ("{x}[{k}:]",), 1, 4),
    Operation("last", "list", ("take the last {k}",), ("{x}[-{k}:]",), 1, 4),
    Operation("sum", "value", ("return the sum", "return the total"), ("sum({x})",)),
    Operation("count", "value", ("return the count", "count them"), ("len({x})",)),
    Operation("largest", "value", ("return the max", "return the largest"), ("max({x})",)),
    Operation("smallest", "value", ("return the min", "return the smallest"), ("min({x})",)),
)
_OF_KIND = {kind: [o for o in OPERATIONS if o.kind == kind] for kind in ("map", "filter", "list", "value")}
_NEVER_EMPTY = {"largest", "smallest"}


def draw(rng: random.Random, level: int) -> Pipeline:
    """A random pipeline of `level` steps; every other one ends in a value."""
    steps: list[Step] = []
    ends_in_value = rng.random() < 0.5
    for place in range(level):
        kind = rng.choices(("map", "filter", "list"), (4, 3, 3))[0]
        if ends_in_value and place == level - 1:
            kind = "value"
        operation = rng.choice([o for o in _OF_KIND[kind] if not steps or o != steps[-1].operation])
        steps.append(Step(operation, rng.randint(operation.low, operation.high)))
    return tuple(steps)


def apply(pipeline: Pipeline, numbers: list[int]) -> Any:
    """What the pipeline makes of a list; None where it asks for the largest of no numbers."""
    value: Any = numbers
    for step in pipeline:
        if step.operation.name in _NEVER_EMPTY and not value:
            return None
        value = _function(step)(value)
    return value


@functools.cache
def _function(step: Step) -> Callable[[list[int]], Any]:
    """The step's own code, which stands above and never comes from a model."""
    made: Callable[[list[int]], Any] = eval(f"lambda x: {_expression(step, 'x', 0)}")
    return made


def _expression(step: Step, x: str, variant: int) -> str:
    code = step.operation.code[variant % len(step.operation.code)]
    match step.operation.kind:
        case "map":
            return f"[{code.format(k=step.k)} for v in {x}]"
        case "filter":
            return f"[v for v in {x} if {code.format(k=step.k)}]"
        case _:
            return code.format(x=x, k=step.k)


def in_words(pipeline: Pipeline, rng: random.Random, *, first: str, joint: str, hides: Collection[int] = ()) -> str:
    """The specification; the steps at the places `hides` keep their numbers to themselves."""
    return first + joint.join(
        step.operation.vague if place in hides else rng.choice(step.operation.words).format(k=step.k)
        for place, step in enumerate(pipeline)
    )


def other_numbers(pipeline: Pipeline, place: int) -> Iterator[Pipeline]:
    """The pipeline with each other number that its step at `place` could have."""
    operation = pipeline[place].operation
    for k in range(operation.low, operation.high + 1):
        if k != pipeline[place].k:
            yield (*pipeline[:place], Step(operation, k), *pipeline[place + 1 :])


def neighbours(pipeline: Pipeline) -> Iterator[Pipeline]:
    """Pipelines that differ in one thing: a step left out, two exchanged, a number off by one, one operation mistaken
    for another."""
    for place, step in enumerate(pipeline):
        before, after = pipeline[:place], pipeline[place + 1 :]
        if len(pipeline) > 1:
            yield before + after
        if after and after[0].operation.kind != "value":
            yield (*before, after[0], step, *after[1:])
        if step.operation.high:
            yield from ((*before, Step(step.operation, k), *after) for k in (step.k - 1, step.k + 1) if k > 0)
        for other in _OF_KIND[step.operation.kind]:
            if other != step.operation and not other.high:
                yield (*before, Step(other, 0), *after)


def body(pipeline: Pipeline, style: str, rng: random.Random) -> str:
    """The body of `def f(x):`, from its first newline on; `style` is one of STYLES."""
    variants = [rng.randrange(2) for _ in pipeline]
    if style == "loop" and pipeline[0].operation.kind in ("map", "filter"):
        return _loop(pipeline, variants)
    if style == "nested":
        text = "x"
        for step, variant in zip(pipeline, variants, strict=True):
            text = _expression(step, text, variant)
        return f"{INDENT}return {text}"
    lines = []
    place = 0
    while place < len(pipeline):
        step, following = pipeline[place], pipeline[place + 1 : place + 2]
        if style == "fused" and step.operation.kind == "filter" and following and following[0].operation.kind == "map":
            condition, value = (s.operation.code[0].format(k=s.k) for s in (step, following[0]))
            lines.append(f"[{value} for v in x if {condition}]")
            place += 2
        else:
            lines.append(_expression(step, "x", variants[place]))
            place += 1
    return "".join(f"{INDENT}x={line}" for line in lines[:-1]) + f"{INDENT}return {lines[-1]}"


def _loop(pipeline: Pipeline, variants: list[int]) -> str:
    """One loop for the maps and filters at the beginning, a line for each of the other steps."""
    text, indent, place = f"{INDENT}r=[]{INDENT}for v in x:", INDENT + " " * 4, 0
    while place < len(pipeline) and pipeline[place].operation.kind in ("map", "filter"):
        step = pipeline[place]
        code = step.operation.code[0].format(k=step.k)
        if step.operation.kind == "map":
            text += f"{indent}v={code}"
        else:
            text += f"{indent}if {code}:"
            indent += " " * 4
        place += 1
    text += f"{indent}r.append(v)"
    rest = [_expression(step, "r", variants[place + i]) for i, step in enumerate(pipeline[place:])]
    if not rest:
        return f"{text}{INDENT}return r"
    return text + "".join(f"{INDENT}r={line}" for line in rest[:-1]) + f"{INDENT}return {rest[-1]}"
