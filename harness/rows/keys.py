"""What makes two completions of a problem the same: `key_of` gives equal keys to equal ones.

`equations` is RFT's (Yuan et al. 2023, arXiv 2308.01825): the ordered list of calculator annotations `<<3+4=7>>`.
`program_key` forgets comments, docstrings, layout and the names of local variables; programs with one key do the same,
while programs that do the same may well have several. Not handled: what programs do when run.
"""

from __future__ import annotations

import ast
import builtins
import operator
import re
from collections.abc import Callable, Iterator

from harness.grading.syntax import parse
from harness.rewards import Graded

TOLERANCE = 1e-3
"""Of an equation, the reference code's."""
MAX_LENGTH = 200
"""Characters of an equation: a longer one is no annotation, and may take long to read."""

_EQUATION = re.compile(r"<<([^>]*)>>")
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_LOOKS_AT_NAMES = {"locals", "vars", "dir", "globals", "eval", "exec", "inspect"}


def key_of(graded: Graded, kind: str) -> str:
    """The key of a completion, `kind` as in `Selection.dedupe`; its text where there is no such thing in it."""
    text = graded.completion.text
    if kind == "answer":
        return graded.verdict.answer or graded.completion.answer or text
    if kind == "program":
        program = graded.completion.program or ""
        return (program_key(program) if graded.problem.language == "python" and program else None) or program or text
    if kind == "equations":
        # Without any equation the key is empty, as in the reference code: one such completion of a problem stays.
        return "|".join(equations(text)).replace(" ", "")
    return text


def equations(text: str) -> list[str]:
    """The insides of `<<...>>`, in order."""
    return _EQUATION.findall(text)


def equations_hold(text: str) -> bool:
    """Whether every equation is right; so where there is none."""
    return all(map(_holds, equations(text)))


def _holds(equation: str) -> bool:
    """`lhs=rhs` with |lhs - rhs| < 1e-3; of `a=b=c` only a and b are looked at, as in the reference code."""
    left, *right = equation.split("=")
    if not right or len(equation) > MAX_LENGTH:
        return False
    try:
        return abs(_value(ast.parse(left.strip(), mode="eval").body) - float(right[0])) < TOLERANCE
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return False


def _value(node: ast.AST) -> float:
    """Plain arithmetic in floats: no power can be large enough to take long. Anything else is a ValueError."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_value(operand))
        case _:
            raise ValueError("not arithmetic")
    if not isinstance(value, float):  # a complex root
        raise ValueError("not a number")
    return value


def program_key(program: str) -> str | None:
    """The syntax tree as text, with local names numbered and docstrings gone; None where it is no Python."""
    tree = parse(program)
    if tree is None:
        return None
    kept = _names_that_matter(tree)
    try:
        for node in ast.walk(tree):
            _drop_docstring(node)
        for statement in _outermost_functions(tree):
            _number_locals(statement, kept)
        return ast.dump(tree)
    except RecursionError:
        return None


def _drop_docstring(node: ast.AST) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                node.body = rest or [ast.Pass()]


def _outermost_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Functions that are not inside another one, methods included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
        else:
            yield from _outermost_functions(node)


def _number_locals(function: ast.AST, kept: set[str] | None) -> None:
    """Renames what the function and those inside it bind, by order of appearance, the same name always alike."""
    if kept is None:
        return
    names: dict[str, str] = {}
    bound = {name for node in ast.walk(function) for name in _binds(node)} - kept
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in bound:
            node.id = names.setdefault(node.id, f"·{len(names)}")
        elif isinstance(node, ast.arg) and node.arg in bound:
            node.arg = names.setdefault(node.arg, f"·{len(names)}")


def _binds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.id


def _names_that_matter(tree: ast.Module) -> set[str] | None:
    """Names that are not renamed anywhere, as they may mean something outside a function; None: rename nothing.

    Builtins, what module and class bodies bind, functions and classes, imports, keywords of calls, `global`, `nonlocal`
    and the names in `except` and `match`. Renaming fewer than could be only keeps more completions.
    """
    kept = set(dir(builtins))
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in _LOOKS_AT_NAMES:
                return None
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                return None
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                kept.add(name)
            case ast.keyword(arg=str() as name) | ast.ExceptHandler(name=str() as name):
                kept.add(name)
            case ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name):
                kept.add(name)
            case ast.MatchMapping(rest=str() as name):
                kept.add(name)
            case ast.alias(name=name, asname=asname):
                kept.add(asname or name.partition(".")[0])
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                kept.update(names)
        if isinstance(node, ast.Module | ast.ClassDef):
            kept.update(_bound_in_body(node))
    return kept


def _bound_in_body(scope: ast.AST) -> Iterator[str]:
    """Names that the statements of a module or class bind, not those inside its functions."""
    for node in ast.iter_child_nodes(scope):
        yield from _binds(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.arg):
            yield from _bound_in_body(node)
