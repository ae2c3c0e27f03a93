"""Reward terms of programs: whether they compile, how near they are to the reference program, how fast they are.

`ast_match` and `dataflow_match` are the idea of PPOCoder (Shojaee et al. 2023, arXiv 2301.13816), which takes them from
CodeBLEU (arXiv 2009.10297), on Python's own syntax trees. A program that is no Python matches nothing: 0. None: another
language, or no reference program. Not handled: other languages' syntax, and style.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator

from harness.errors import InputError
from harness.grading.syntax import parse
from harness.rewards import Graded
from harness.types import Problem, Status

Edge = tuple[int | str, int]


def compiles(graded: Graded) -> float | None:
    """1 where the program compiles: by what the sandbox said, or, for Python that was not run, by its syntax."""
    statuses = {one.status for one in graded.executions}
    if Status.compile_error in statuses:
        return 0.0
    if statuses - {Status.sandbox_error}:
        return 1.0
    if graded.problem.language != "python":
        return None
    return float(parse(graded.completion.program or "") is not None and bool(graded.completion.program))


def lint(graded: Graded) -> float | None:
    """1 where Python compiles the program without a warning (`x is 1`, `assert (x, "no")`, a doubtful escape).

    Only what Python itself warns of, so that the value depends on no other tool's version and rules.
    """
    if graded.problem.language != "python":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            compile(graded.completion.program or "", "<program>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return 0.0
    return float(bool(graded.completion.program) and not caught)


def speed(graded: Graded, *, limit_s: float | None = None) -> float | None:
    """1 for no CPU time to 0 for the limit: 1 - used / limit of the test that took longest.

    The calls of a suite share a process and count together, as they do for the limit. Measured time differs from run to
    run, and a wrong program may well be fast: give this term the gate `tests`.

    Args:
        graded: the completion.
        limit_s: CPU seconds that are worth 0; None: the problem's own limit, which comes from the gold solution.
    """
    limit = graded.problem.cpu_s if limit_s is None else limit_s
    if limit is None or limit <= 0:
        raise InputError(f"the term speed has no limit for {graded.problem.id}: give it args, limit_s above 0.")
    times = {one.test_id: one.cpu_s for one in graded.executions if one.cpu_s is not None}
    if not times:
        return None
    calls = {test.id for test in graded.problem.tests if test.kind == "call"}
    together = sum(used for test, used in times.items() if test in calls)
    used = max([together, *(used for test, used in times.items() if test not in calls)])
    return max(0.0, 1.0 - used / limit)


def ast_match(graded: Graded) -> float | None:
    """The share of the reference's sub-trees that the program has too, names and values left out.

    sum over sub-trees s of min(count in program, count in reference) / sum of counts in reference. A sub-tree is a node
    of the syntax tree with all below it. Unlike CodeBLEU's, repeated ones count as often as they are there.
    """
    reference = _reference(graded.problem)
    if reference is None:
        return None
    tree = parse(graded.completion.program or "")
    numbers: dict[Hashable, int] = {}
    return _share(_subtrees(reference, numbers), Counter() if tree is None else _subtrees(tree, numbers))


def dataflow_match(graded: Graded) -> float | None:
    """The share of the reference's data-flow edges that the program has too.

    An edge says that a variable, or what is returned, gets its value from a variable. Variables are numbered in order
    of appearance, so that names don't matter. Shares as in `ast_match`; None where the reference has no edges.
    """
    reference = _reference(graded.problem)
    if reference is None:
        return None
    tree = parse(graded.completion.program or "")
    return _share(Counter(_edges(reference)), Counter() if tree is None else Counter(_edges(tree)))


def _reference(problem: Problem) -> ast.Module | None:
    """The reference may be a whole program, or what comes after the prompt (HumanEval)."""
    if problem.language != "python" or not problem.answer or not problem.tests:
        return None
    tree = parse(problem.answer)
    return parse(problem.prompt + problem.answer) if tree is None else tree


def _share(reference: Counter[Hashable], found: Counter[Hashable]) -> float | None:
    total = reference.total()
    return (reference & found).total() / total if total else None


def _subtrees(tree: ast.Module, numbers: dict[Hashable, int]) -> Counter[Hashable]:
    """How often each sub-tree with something below it is there; equal ones have the same number in `numbers`."""
    number_of: dict[int, int] = {}
    counts: Counter[Hashable] = Counter()
    for node in reversed(list(ast.walk(tree))):  # what is below a node comes before it
        below = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)]
        shape = (type(node).__name__, *(number_of[id(child)] for child in below))
        number_of[id(node)] = numbers.setdefault(shape, len(numbers))
        if below:
            counts[number_of[id(node)]] += 1
    return counts


def _edges(tree: ast.Module) -> Iterator[Hashable]:
    number = _variables(tree)
    for node in ast.walk(tree):
        targets, value = _flow(node)
        read = [n.id for part in value for n in ast.walk(part) if isinstance(n, ast.Name) and n.id in number]
        written: list[int | str] = [number[name] for name in _roots(targets) if name in number]
        if isinstance(node, ast.Return | ast.Yield):
            written = ["return"]
        yield from ((target, number[source]) for target in written for source in read)


def _flow(node: ast.AST) -> tuple[list[ast.expr], list[ast.expr]]:
    """What a node writes to, and what it reads for that."""
    match node:
        case ast.Assign(targets=targets, value=value):
            return targets, [value]
        case ast.AugAssign(target=target, value=value):
            return [target], [target, value]
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            return [target], [value]
        case ast.NamedExpr(target=target, value=value):
            return [target], [value]
        case ast.For() | ast.AsyncFor() | ast.comprehension():
            return [node.target], [node.iter]
        case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
            return [target], [value]
        case ast.Return(value=ast.expr() as value) | ast.Yield(value=ast.expr() as value):
            return [], [value]
    return [], []


def _roots(targets: list[ast.expr]) -> Iterator[str]:
    """Names that are assigned to: `a` of `a`, `a[i]`, `a.b` and `(a, *_)`."""
    pending = list(targets)
    while pending:
        match pending.pop():
            case ast.Name(id=name):
                yield name
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                pending.extend(parts)
            case ast.Starred(value=inner) | ast.Subscript(value=inner) | ast.Attribute(value=inner):
                pending.append(inner)


def _variables(tree: ast.Module) -> dict[str, int]:
    """Every name that the program assigns to or takes as an argument, numbered in order of appearance."""
    bound = {
        (node.lineno, node.col_offset): node.arg if isinstance(node, ast.arg) else node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }
    in_order = dict.fromkeys(bound[place] for place in sorted(bound))
    return {name: number for number, name in enumerate(in_order)}
