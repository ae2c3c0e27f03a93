"""Programs with one small fault each, made of a right one: how many of them does a suite of tests find?

Main function: `mutants`. The faults are the classical ones (DeMillo, Lipton, Sayward 1978): a comparison, an arithmetic
or a boolean operator in another's place, a number one more or less, True for False, a condition turned round, a
statement left out, a value not returned. Only inside functions; docstrings stay. Nothing is run here: whether a mutant
is wrong, and not only written differently, the tests of its task must say.
Not handled: two faults at once; languages other than Python.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import random
from collections.abc import Iterator
from typing import Any

from harness.errors import InputError

MOST = 20
"""Mutants of one program."""
_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
"""What stands in the place of what."""
_LEFT_OUT = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Delete, ast.Raise, ast.Break, ast.Continue, ast.If)
"""Statements that may be left out."""

Fault = tuple[str | None, Any]
"""A field of a node with its new value; no field: what stands in the place of the node."""


def mutants(program: str, *, most: int = MOST, seed: int = 0) -> list[str]:
    """Different programs with one fault each, at most so many, drawn at random by the seed and the program.

    Raises:
        InputError: the program cannot be parsed.
    """
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"a program to make mutants of cannot be parsed ({error}): is it right?") from error
    seen = {ast.unparse(tree)}
    places = [(place, fault) for place, node in _inside(tree) for fault in _faults(node)]
    digest = hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()
    random.Random(f"{seed} {digest}").shuffle(places)
    found: list[str] = []
    for place, fault in places:
        if len(found) >= most:
            break
        text = _changed(tree, place, fault)
        if text not in seen:
            seen.add(text)
            found.append(text)
    return found


def _inside(tree: ast.Module) -> Iterator[tuple[int, ast.AST]]:
    """The nodes in the bodies of functions, without docstrings, numbered in the order of ast.walk."""
    wanted: set[int] = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
            wanted.update(id(node) for statement in body for node in ast.walk(statement))
    for place, node in enumerate(ast.walk(tree)):
        if id(node) in wanted:
            yield place, node


def _faults(node: ast.AST) -> Iterator[Fault]:
    """The faults that one node can have."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            yield "ops", [*node.ops[:place], _OPERATORS[type(operator)](), *node.ops[place + 1 :]]
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield "op", _OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "value", node.value + 1
        yield "value", node.value - 1
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield "test", ast.UnaryOp(op=ast.Not(), operand=node.test)
    if isinstance(node, _LEFT_OUT):
        yield None, ast.Pass()
    if isinstance(node, ast.Return) and node.value is not None:
        yield "value", None


def _changed(tree: ast.Module, place: int, fault: Fault) -> str:
    """The program with one fault at one place."""
    whole = copy.deepcopy(tree)
    target = next(node for number, node in enumerate(ast.walk(whole)) if number == place)
    field, value = fault

    class Change(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            if node is not target:
                return self.generic_visit(node)
            if field is None:
                return value
            setattr(node, field, value)
            return node

    return ast.unparse(ast.fix_missing_locations(Change().visit(whole)))
