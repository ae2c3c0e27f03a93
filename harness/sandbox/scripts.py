"""Script tests: the judge runs the test's own source, in which the program's functions are proxies to its process.

Main function: `run_script`. The script may compare, loop and call as it likes; only plain data goes to the program and
comes back. Not handled: functions as arguments (the test then cannot be graded, and says so), a program's changes to
its arguments, and scripts that are hostile to the judge: a script is trusted as the dataset that it comes from is.
A script that draws its inputs draws what a program cannot foretell without that script's text (see `_seed`).
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import random
import symtable
import sys
from collections.abc import Callable
from functools import lru_cache
from types import CodeType
from typing import Any

from harness.sandbox import plain
from harness.sandbox.program import Outcome, Program, ProgramEnded, SandboxFailed, ask, give_up, word

SCRIPT_NAME = "<test>"
HELPER_MODULES = ("math", "itertools", "functools", "collections", "random", "re", "copy", "heapq", "statistics")
"""Their functions are the judge's where a script uses one that nobody defines: `isclose` must not be a program's."""


class CandidateRaised:
    """Mixed into what a proxy raises when the program's function raised, beside the built-in exception's type."""

    def __init__(self, message: str, shown: str) -> None:
        self.message = message
        self.shown = shown
        """With the name of the program's own type, for people."""

    def __str__(self) -> str:
        return self.message


def run_script(program: Program, source: str, *, script: str, setup: str, entry_point: str | None) -> Outcome:
    """The outcome of one script test on a loaded program. Fatal ends of the program come as ProgramEnded."""
    random.seed(_seed(source, script, setup))
    namespace: dict[str, Any] = {"__name__": "judge", "__builtins__": builtins}
    try:
        exec(_compiled(setup), namespace)
        names = _needed(script) - namespace.keys() - vars(builtins).keys()
        for name in (names & _modules(script)) - {entry_point}:
            namespace[name] = importlib.import_module(name)
        if entry_point is not None and _needed(script) & {entry_point, "candidate"}:
            helpers = _helpers()
            namespace.update({name: helpers[name] for name in names & helpers.keys() - {entry_point, "candidate"}})
        code = _compiled(script)
    except Exception as error:
        raise SandboxFailed(f"the test itself fails: {_named(error)}") from error
    for name in names - namespace.keys():
        namespace[name] = _proxy(program, name)
    if entry_point is not None:
        namespace[entry_point] = namespace["candidate"] = _proxy(program, entry_point)
    try:
        exec(code, namespace)
    except ProgramEnded:
        raise
    except plain.NotPlain as error:
        raise SandboxFailed(str(error)) from error
    except BaseException as error:
        return _judge_exception(error)
    return Outcome("passed")


def _seed(source: str, script: str, setup: str) -> bytes:
    """Reproducible, yet unknown to the program: it would have to know the test's text, which it is not given."""
    text = "\0".join((source, script, setup))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _judge_exception(error: BaseException) -> Outcome:
    if isinstance(error, CandidateRaised):
        return Outcome("runtime_error", error.shown)
    if isinstance(error, MemoryError):
        return Outcome("memory", "the test ran out of memory on the program's values")
    if isinstance(error, AssertionError):
        return Outcome("wrong", f"assertion failed, line {_line(error)} of the test{_said(error)}")
    return Outcome("wrong", f"the test raised {_named(error)}, line {_line(error)} of the test")


def _named(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # the message holds a value that cannot be printed
        return type(error).__name__


def _said(error: AssertionError) -> str:
    return f": {error}" if error.args and type(error.args[0]) is str else ""


def _line(error: BaseException) -> int | str:
    """The last line of the script that the exception passed through."""
    line: int | str = "?"
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == SCRIPT_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@lru_cache(maxsize=64)
def _compiled(source: str) -> CodeType:
    return compile(source, SCRIPT_NAME, "exec", dont_inherit=True)


@lru_cache(maxsize=64)
def _needed(script: str) -> frozenset[str]:
    """Global names that a script uses and does not itself define."""
    used: set[str] = set()
    defined: set[str] = set()

    def visit(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            at_top = table.get_type() == "module"
            if (at_top or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                defined.add(symbol.get_name())
            elif symbol.is_referenced() and (at_top or symbol.is_global()):
                used.add(symbol.get_name())
        for child in table.get_children():
            visit(child)

    visit(symtable.symtable(script, SCRIPT_NAME, "exec"))
    return frozenset(used - defined)


@lru_cache(maxsize=64)
def _modules(script: str) -> frozenset[str]:
    """Modules of the standard library that a script uses as `math.isclose`; tests of MBPP do so without an import."""
    attributes = (node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Attribute))
    owners = {node.value.id for node in attributes if isinstance(node.value, ast.Name)}
    return frozenset(owners & sys.stdlib_module_names)


@lru_cache(maxsize=1)
def _helpers() -> dict[str, Any]:
    """Public functions and classes of `HELPER_MODULES` by their names."""
    found: dict[str, Any] = {}
    for module in map(importlib.import_module, HELPER_MODULES):
        public = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        found.update({name: getattr(module, name) for name in public if callable(getattr(module, name))})
    return found


def _proxy(program: Program, name: str) -> Callable[..., Any]:
    """A function that calls the program's function `name`."""

    def candidate(*arguments: Any, **named: Any) -> Any:
        return call(program, name, arguments, named)

    candidate.__name__ = candidate.__qualname__ = name
    return candidate


def call(program: Program, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The value of the program's function, decoded; what it raised is raised here by the same built-in type."""
    request = {
        "name": name,
        "arguments": [plain.encode(value, strict=True) for value in arguments],
        "named": {key: plain.encode(value, strict=True) for key, value in named.items()},
    }
    answer = ask(program, request)
    if answer["kind"] == "value" and "value" in answer:
        try:
            return plain.loads(answer["value"])
        except plain.Garbled as error:
            raise give_up(program, "tampered", str(error)) from error
        except MemoryError as error:
            raise give_up(program, "memory", "a value beyond the judge's memory") from error
    if answer["kind"] == "raised":
        raise _exception(word(answer, "name"), word(answer, "message"), word(answer, "text"))
    if answer["kind"] in ("memory", "output_limit"):
        raise give_up(program, answer["kind"], word(answer, "text"))
    raise give_up(program, "tampered", "broke the protocol")


def _exception(name: str, message: str, shown: str) -> BaseException:
    """What the script sees. Those that end a loop would end the test's own (`all(map(candidate, ...))`): as in a
    generator (PEP 479) they are RuntimeErrors."""
    kind = vars(builtins).get(name)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(
        kind, (BaseExceptionGroup, StopIteration, StopAsyncIteration)
    ):
        kind = RuntimeError
    raised: BaseException = type(kind.__name__, (CandidateRaised, kind), {})(message, shown)
    return raised
