"""Calls with literal arguments and literal values out of text that nobody vouches for: asserts and doctest lines.

Main functions: `read_asserts`, `read_doctests`. Text is parsed and never run: of an assert only the arguments of one
call of the entry point and the value that it is compared with are taken, and both must be literals. Read are
`assert f(1) == 2`, with the sides in either order, `assert f(1) is None` (True, False), `assert f(1)` as True and
`assert not f(1)` as False; what stands after the comma is ignored. Everything else is dropped, by name of the reason.

Not handled: tolerances (`abs(f(1) - 2) < eps`), `!=`, `in`, several calls in one assert, helper functions, classes.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.sandbox import plain

MAX_TEXT = 100_000
"""Characters of a text that are looked at."""
MAX_ASSERT = 4_000
"""Characters of one assert; nesting cannot be deeper."""
MAX_LINES = 50
"""Lines over which one assert may go."""
DROPPED = ("syntax", "other function", "other form", "not literal", "arguments", "too large")
"""Why an assert gives no test: Python cannot parse it; it calls the entry point nowhere; it is no comparison of one
call with one value by == or is; an argument or the value is no literal; keyword arguments that cannot be put in order;
longer, deeper or larger than we read."""
_ASSERT = re.compile(r"^[ \t]*assert\b", re.MULTILINE)
_PROMPT = re.compile(r"^[ \t]*>>>[ \t]?", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call with what it should give."""

    arguments: tuple[Any, ...]
    expected: Any

    @property
    def key(self) -> bytes:
        """Equal for equal calls; 1, 1.0 and True are different."""
        return plain.dumps([_ordered(plain.encode(list(self.arguments))), _ordered(plain.encode(self.expected))])


@dataclass(kw_only=True)
class Found:
    """What a text holds."""

    calls: list[Call] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """How many asserts were not taken, by reason."""


class _Dropped(Exception):
    """An assert gives no test; the message is one of DROPPED."""


def read_asserts(
    text: str, entry_point: str, *, parameters: Sequence[str] | None = None, most: int | None = None
) -> Found:
    """The calls that the asserts of `text` make, in order.

    Args:
        text: Python or prose; an assert begins on a line of its own and counts up to where it can be parsed.
        entry_point: the function that is called.
        parameters: names of its parameters, to put keyword arguments in order; None: such asserts are dropped.
        most: only so many asserts are looked at, of those that can be parsed and name the entry point; None: all.
    """
    found = Found()
    if len(text) > MAX_TEXT:
        found.dropped["too large"] += 1
        text = text[:MAX_TEXT]
    starts = [match.start() for match in _ASSERT.finditer(text)]
    looked_at = 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if most is not None and looked_at >= most:
            break
        try:
            statement = _statement(text[start:end].strip())
            test = statement.test if isinstance(statement, ast.Assert) else None
            if test is None or not _names(test, entry_point):
                raise _Dropped("other function")
            looked_at += 1
            found.calls.append(_read(test, entry_point, parameters))
        except _Dropped as reason:
            found.dropped[str(reason)] += 1
    return found


def read_doctests(text: str, entry_point: str, *, parameters: Sequence[str] | None = None) -> Found:
    """The calls on lines that begin with `>>>` whose value is on the next line.

    Not handled: values over several lines, examples that set something up first.
    """
    found = Found()
    for match in _PROMPT.finditer(text[:MAX_TEXT]):
        source, _, rest = text[match.end() : match.end() + MAX_ASSERT].partition("\n")
        value = rest.partition("\n")[0].strip().removesuffix('"""').removesuffix("'''").strip()
        try:
            call = _expression(source.strip())
            if not _names(call, entry_point):
                raise _Dropped("other function")
            if not _is_call(call, entry_point):
                raise _Dropped("other form")
            expected = _literal(_expression(value))
            found.calls.append(_checked(Call(arguments=_arguments(call, parameters), expected=expected)))
        except _Dropped as reason:
            found.dropped[str(reason)] += 1
    return found


def parameters_of(source: str, entry_point: str) -> tuple[str, ...] | None:
    """Names of the parameters of a function that `source` begins to define; None if that cannot be parsed.

    A docstring may follow the signature, and no body. A function with *arguments or keyword-only ones gives None.
    """
    for body in ("\n    pass\n", "\n"):
        try:
            tree = _parsed(source + body)
        except _Dropped:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == entry_point:
                arguments = node.args
                plain_ones = not (arguments.vararg or arguments.kwarg or arguments.kwonlyargs)
                return tuple(a.arg for a in [*arguments.posonlyargs, *arguments.args]) if plain_ones else None
    return None


def _statement(text: str) -> ast.stmt:
    """The statement that the fewest whole lines of `text` make."""
    lines = text[: MAX_ASSERT + 1].splitlines(keepends=True)
    for n in range(1, min(len(lines), MAX_LINES) + 1):
        piece = "".join(lines[:n])
        if len(piece) > MAX_ASSERT:
            break
        try:
            body = _parsed(piece).body
        except _Dropped as reason:
            if str(reason) != "syntax":
                raise
            continue
        if body:
            return body[0]
    raise _Dropped("too large" if len(text) > MAX_ASSERT or len(lines) > MAX_LINES else "syntax")


def _expression(text: str) -> ast.expr:
    body = _parsed(text).body
    if len(body) != 1 or not isinstance(body[0], ast.Expr):
        raise _Dropped("syntax")
    return body[0].value


def _parsed(text: str) -> ast.Module:
    """Only the parser sees the text. What it does not bear (deep nesting, long numbers) it says in these ways."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in somebody's text
            return ast.parse(text)
    except (SyntaxError, ValueError):  # ValueError: a null byte
        raise _Dropped("syntax") from None
    except (RecursionError, MemoryError):
        raise _Dropped("too large") from None


def _names(node: ast.expr, entry_point: str) -> bool:
    """Is the entry point called anywhere? (ast.walk needs no recursion.)"""
    return any(_is_call(each, entry_point) for each in ast.walk(node))


def _is_call(node: ast.AST, entry_point: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == entry_point


def _read(test: ast.expr, entry_point: str, parameters: Sequence[str] | None) -> Call:
    call, expected = _sides(test, entry_point)
    return _checked(Call(arguments=_arguments(call, parameters), expected=expected))


def _sides(test: ast.expr, entry_point: str) -> tuple[ast.expr, Any]:
    """The call, and what it should give."""
    if _is_call(test, entry_point):
        return test, True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and _is_call(test.operand, entry_point):
        return test.operand, False
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        raise _Dropped("other form")
    sides = [test.left, test.comparators[0]]
    calls = [side for side in sides if _is_call(side, entry_point)]
    if not calls or not isinstance(test.ops[0], ast.Eq | ast.Is):
        raise _Dropped("other form")
    call = calls[0]
    value = _literal(sides[1] if call is sides[0] else sides[0])
    if isinstance(test.ops[0], ast.Is) and not (value is None or isinstance(value, bool)):
        raise _Dropped("other form")
    return call, value


def _arguments(call: ast.expr, parameters: Sequence[str] | None) -> tuple[Any, ...]:
    """The literal arguments in the order of the parameters."""
    assert isinstance(call, ast.Call)
    values = [_literal(argument) for argument in call.args]
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if not named:
        return tuple(values)
    wanted = None if parameters is None else list(parameters[len(values) : len(values) + len(named)])
    if wanted is None or len(named) != len(call.keywords) or set(wanted) != named.keys():
        raise _Dropped("arguments")
    return (*values, *(_literal(named[name]) for name in wanted))


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (RecursionError, MemoryError):
        raise _Dropped("too large") from None
    except (ValueError, TypeError, SyntaxError, OverflowError):  # TypeError: a set of lists
        raise _Dropped("not literal") from None


def _checked(call: Call) -> Call:
    """The call, if it can be sent to a program."""
    try:
        plain.encode([list(call.arguments), call.expected], strict=True)
    except (plain.TooLarge, RecursionError):
        raise _Dropped("too large") from None
    except plain.NotPlain:  # an ellipsis
        raise _Dropped("not literal") from None
    return call


def _ordered(data: plain.Encoded) -> plain.Encoded:
    """Encoded data with the members of sets in one order."""
    if isinstance(data, list):
        return [_ordered(item) for item in data]
    if not isinstance(data, dict):
        return data
    ((tag, body),) = data.items()
    body = _ordered(body)
    return {tag: sorted(body, key=plain.dumps) if tag == "s" else body}


def distinct(calls: Iterator[Call]) -> tuple[list[Call], list[int]]:
    """Each different call once, in the order of arrival, and how often it came."""
    first: dict[bytes, Call] = {}
    counts: Counter[bytes] = Counter()
    for call in calls:
        key = call.key
        first.setdefault(key, call)
        counts[key] += 1
    return list(first.values()), [counts[key] for key in first]
