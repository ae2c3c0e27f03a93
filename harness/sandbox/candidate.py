"""What runs in a program's own process: loads the program and answers the judge's calls, or runs it as a main program.

Main functions: `serve`, and `rehearse` beforehand. Nothing here decides anything: whatever this process says is a claim
that the judge reads as hostile. It sees the program, then one call after another, and never an expected value or a
test's source.
"""

from __future__ import annotations

import _socket  # `socket` would bring modules that every fork pays for
import atexit
import builtins
import contextlib
import gc
import io
import os
import sys
import weakref
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, NoReturn

from harness.sandbox import plain, wire

SOURCE_NAME, MAIN_NAME = "<program>", "main.py"
TRACED, UNTRACED = b"T", b"-"
"""What a program's text begins with on its way here: whether to note the lines that run."""
MAX_TEXT = 200
"""Characters of an exception for people."""
MAX_MESSAGE = 10_000
"""Characters of an exception's message for a test."""
REHEARSALS = 20
REHEARSED = [3, 2.5], "a", (1, None), {"a": True}
PROGRAM = '''
from typing import *
import math
def solve(numbers: List[float], name: Optional[str], pair: Tuple, pairs: Dict[str, Any]) -> bool:
    """A docstring."""
    return sorted(numbers) == [math.sqrt(x) for x in numbers] or {1: 2} == {} or set(numbers) < {1}
try:
    assert solve([2], "", (), {})
except AssertionError as error:
    str(error)
'''
"""It has what most programs have."""


class NoInput(io.TextIOBase):
    """Standard input where there is none: every way of reading raises OSError."""

    def read(self, size: int | None = -1, /) -> str:
        """Raises."""
        raise OSError("this program has no standard input")

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        """Raises."""
        raise OSError("this program has no standard input")

    def readable(self) -> bool:
        """No."""
        return False


# made once for all forks
NO_INPUT = NoInput()
LOADED = wire.pack({"kind": "loaded"})


def serve(channel: int, *, main: bool) -> None:
    """Reads the program from `channel`, then runs it and exits, or answers calls until the judge hangs up."""
    body = wire.read_body(channel)
    lines: set[int] | None = set() if body.startswith(TRACED) else None
    program = body[1:].decode("utf-8", "surrogatepass")
    if main:
        _run_main(channel, program, lines)
    sys.stdin = NO_INPUT
    module = _module("candidate")
    wire.write_all(channel, _load(module, program, lines))
    namespace = vars(module)
    while True:
        try:
            request = wire.read_message(channel)
        except EOFError:
            return
        wire.write_all(channel, _answer(namespace, request, lines))


def rehearse() -> None:
    """In the zygote: serves a program of ours again and again. Python adapts code as it runs it the first few times,
    and remembers where it found names; a fork would do so in memory that it must copy page by page."""
    call = {"name": "solve", "arguments": [plain.encode(value) for value in REHEARSED], "named": {}}
    said = [wire.HEADER.pack(len(PROGRAM) + 1), UNTRACED, PROGRAM.encode(), wire.pack(call), wire.pack(call)]
    for _ in range(REHEARSALS):
        judge, ours = _socket.socketpair()
        judge.sendall(b"".join(said))
        judge.shutdown(_socket.SHUT_WR)
        serve(ours.fileno(), main=False)
        judge.close()
        ours.close()
        del sys.modules["candidate"]
    gc.unfreeze()
    gc.disable()


def _module(name: str) -> ModuleType:
    """A registered module for the program, so that dataclasses and pickling find its classes."""
    module = ModuleType(name)
    sys.modules[name] = module
    return module


def _load(module: ModuleType, program: str, lines: set[int] | None) -> bytes:
    """Compiles and runs the program's top level; the message that says so, or what went wrong."""
    try:
        code = compile(program, SOURCE_NAME, "exec", dont_inherit=True)
    except BaseException as error:
        return wire.pack({"kind": "compile_error", "text": _describe(error)})
    _let_go(lines)
    try:
        exec(code, vars(module))
    except BaseException as error:
        return wire.pack(_failure(error))
    return LOADED if lines is None else wire.pack({"kind": "loaded"} | _ran(lines))


def _let_go(lines: set[int] | None) -> None:
    """The last before the program itself. Until then the collector sleeps, which saves some 3% of all the time."""
    gc.freeze()
    gc.enable()
    if lines is not None:
        _trace(lines)


def _trace(lines: set[int]) -> None:
    """From now on notes every line of the program that runs in this thread; it then runs several times slower."""

    def of_program(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in (SOURCE_NAME, MAIN_NAME):
            return None
        lines.add(frame.f_lineno)
        return of_program

    sys.settrace(of_program)


def _ran(lines: set[int] | None) -> wire.Message:
    """The lines that have run since the last message, as a part of the next."""
    if lines is None:
        return {}
    found = sorted(lines)
    lines.clear()
    return {"lines": found}


def _answer(namespace: dict[str, Any], request: wire.Message, lines: set[int] | None) -> bytes:
    """Calls the function that `request` names; its value or what it raised, as a message."""
    try:
        if request["name"] not in namespace:
            raise NameError(f"the program defines no {request['name']!r}")
        arguments = [plain.decode(data) for data in request["arguments"]]
        named = {name: plain.decode(data) for name, data in request["named"].items()}
        value = namespace[request["name"]](*arguments, **named)
        message = wire.pack({"kind": "value", "value": _encode(value)} | _ran(lines))
    except plain.TooLarge as error:
        message = wire.pack({"kind": "output_limit", "text": _describe(error)})
    except BaseException as error:
        message = wire.pack(_failure(error))
    if len(message) > plain.MAX_BYTES:
        message = wire.pack({"kind": "output_limit", "text": f"a value of more than {plain.MAX_BYTES} bytes"})
    return message


def _encode(value: Any) -> plain.Encoded:
    try:
        return plain.encode(value)
    except RecursionError:
        return plain.encode(plain.Opaque("too deeply nested"))


def _failure(error: BaseException) -> wire.Message:
    kind = "memory" if isinstance(error, MemoryError) else "raised"
    name = next(each.__name__ for each in type(error).__mro__ if vars(builtins).get(each.__name__) is each)
    return {"kind": kind, "name": name, "message": _message(error), "text": _describe(error)}


def _message(error: BaseException) -> str:
    """What `str` gives, for a test that looks at it; empty if it fails."""
    try:
        return str(error)[:MAX_MESSAGE]
    except BaseException:
        return ""


def _describe(error: BaseException) -> str:
    """The exception in one line; its own `__str__` may fail."""
    try:
        return f"{type(error).__name__}: {error}"[:MAX_TEXT]
    except BaseException:
        return "an exception that cannot be printed"


def _run_main(channel: int, program: str, lines: set[int] | None) -> NoReturn:
    """Runs the program as `python main.py` would, its input and output being 0 and 1, and exits with its status."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__ = sys.stdin, sys.stdout  # type: ignore[misc]
    sys.argv = ["main.py"]
    main = weakref.ref(_module("__main__"))
    status, message = _main_status(program, lines)
    try:
        _finish(main)
    except BaseException as error:
        status, message = status or 120, message or _failure(error)
    if lines is not None:
        message = (message or {"kind": "ended"}) | _ran(lines)
    if message is not None:
        wire.write_all(channel, wire.pack(message))
    os._exit(status)


def _finish(main: weakref.ref[ModuleType]) -> None:
    """What the interpreter does at its end, in its order: waits for threads, runs exit functions, flushes, drops files.

    A program may have put an object of its own in the place of sys.stdout: it is flushed while the module's names,
    which its methods may need, are still there. So they are when its objects' `__del__` runs, if nothing else holds
    the module: the collector calls that before it takes anything away.
    """
    if "threading" in sys.modules:  # not imported here: its fork hook alone takes a third of a millisecond
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    _flush(sys.stdout)
    sys.stdout = sys.__stdout__
    sys.modules.pop("__main__", None)
    gc.collect()
    if (held := main()) is not None:
        vars(held).clear()
        gc.collect()
    with contextlib.suppress(ValueError):  # it was closed, or another stream has taken its buffer
        _flush(sys.__stdout__)


def _flush(stream: Any) -> None:
    if stream is not None and not getattr(stream, "closed", False):
        stream.flush()


def _main_status(program: str, lines: set[int] | None) -> tuple[int, wire.Message | None]:
    names = vars(sys.modules["__main__"])
    names["__file__"] = os.path.join(os.getcwd(), MAIN_NAME)
    try:
        code = compile(program, MAIN_NAME, "exec", dont_inherit=True)
    except BaseException as error:
        return 1, {"kind": "compile_error", "text": _describe(error)}
    _let_go(lines)
    try:
        exec(code, names)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 255 if abs(stop.code or 0) < 1 << 63 else 255, None
        return 1, _failure(stop)
    except BaseException as error:
        return 1, _failure(error)
    return 0, None
