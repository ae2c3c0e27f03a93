"""Script tests: the judge runs the test's own source, in which the program's functions are proxies to its process.

Main function: `run_script`. The script may compare, loop and call as it likes; only plain data goes to the program and
comes back. Not handled: functions as arguments (the test then cannot be graded, and says so), a program's changes to
its arguments, and scripts that are hostile to the judge: a script is trusted as the dataset that it comes from is.
"""

from __future__ import annotations

import ast
import builtins
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


class CandidateRaised:
    """Mixed into what a proxy raises when the program's function raised, beside the built-in exception's type."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def run_script(program: Program, *, script: str, setup: str, entry_point: str | None) -> Outcome:
    """The outcome of one script test on a loaded program. Fatal ends of the program come as ProgramEnded."""
    random.seed(0)  # tests that draw inputs draw the same ones for every program
    namespace: dict[str, Any] = {"__name__": "judge", "__builtins__": builtins}
    try:
        exec(_compiled(setup), namespace)
        names = _needed(script) - namespace.keys() - vars(builtins).keys()
        for name in (names & _modules(script)) - {entry_point}:
            namespace[name] = importlib.import_module(name)
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


def _judge_exception(error: BaseException) -> Outcome:
    if isinstance(error, CandidateRaised):
        return Outcome("runtime_error", str(error))
    if isinstance(error, AssertionError):
        return Outcome("wrong", f"assertion failed, line {_line(error)} of the test{_said(error)}")
    return Outcome("wrong", f"the test raised {_named(error)}, line {_line(error)} of the test")


def _named(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # the message holds a value that cannot be printed
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
    if answer["kind"] == "raised":
        raise _exception(word(answer, "name"), word(answer, "text"))
    if answer["kind"] in ("memory", "output_limit"):
        raise give_up(program, answer["kind"], word(answer, "text"))
    raise give_up(program, "tampered", "broke the protocol")


def _exception(name: str, text: str) -> BaseException:
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, BaseExceptionGroup):
        kind = RuntimeError
    raised: BaseException = type(kind.__name__, (CandidateRaised, kind), {})(text)
    return raised
