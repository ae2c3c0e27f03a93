"""The judge's end of a program's process: start one, talk to it under a deadline, end it, and say how it ended.

Main functions: `start`, `loaded`, `ask`, `read_output`, `end`. Whatever the process sends is read as hostile. The first
fatal thing that happens (death, deadline, garbled words) is kept in `Program.fatal` and decides, whatever comes after.
Not handled: hostile values that hang the judge itself; its own alarm ends it, and the parent starts another.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from harness.sandbox import plain, wire
from harness.sandbox.candidate import TRACED, UNTRACED
from harness.sandbox.zygote import CPU_TIME, LOOK, REPORT, SETUP_FAILED

PIECE = 1 << 16
NEARLY = 0.9
"""Of the memory limit: a process that was killed this close to it was killed by it."""
LOOK_S = 0.01
HALF = 0.5
"""Of the CPU limit: the kernel counts a limit in ticks and usage exactly, so the two can differ a good deal."""


@dataclass(frozen=True)
class Outcome:
    """A status of `types.Status` by its name, with a line for people."""

    status: str
    detail: str = ""


@dataclass(frozen=True)
class Usage:
    """How a process ended and what it used, as the zygote's wait said."""

    wait_status: int
    cpu_s: float
    wall_s: float
    max_rss_bytes: int


class ProgramEnded(BaseException):
    """The process can answer no more; a test script must not be able to catch this as an Exception."""


class SandboxFailed(Exception):
    """The zygote or the set-up of a process failed: our fault, never the program's."""


@dataclass
class Program:
    """A running process; `parent` is the connection whose end means that everything ends."""

    channel: socket.socket
    control: socket.socket
    parent: socket.socket
    deadline: float
    look_at: float
    """When to look next at how much CPU time it has used."""
    cpu_limit_s: float
    memory_limit_bytes: int
    fatal: Outcome | None = None
    hit_wall: bool = False
    spoke: bool = False
    """It gave an answer or output: what then goes wrong in the judge is its doing."""
    n_lines: int | None = None
    """Of the program's text, if it is to say which of them have run."""
    lines: frozenset[int] = frozenset()
    """Those that have, by its own word."""
    buffer: bytearray = field(default_factory=bytearray)
    poller: select.poll = field(default_factory=select.poll)
    polled: tuple[int, int] = (-1, 0)
    """Descriptor and event that the poller is for."""


def start(
    control: socket.socket,
    parent: socket.socket,
    limits: dict[str, float],
    source: str,
    *,
    descriptors: tuple[int, ...] = (),
    lines: bool = False,
) -> Program:
    """Has the zygote start a process and gives it the program; with `descriptors`, its standard input and output, it is
    run as a main program. With `lines` it is to say which of its lines have run."""
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(control, [b"%f" % limits["cpu_s"]], [theirs.fileno(), *descriptors])
    ours.setblocking(False)
    now = time.monotonic()
    program = Program(
        channel=ours,
        control=control,
        parent=parent,
        deadline=now + limits["wall_s"],
        look_at=now + limits["cpu_s"],
        cpu_limit_s=limits["cpu_s"],
        memory_limit_bytes=int(limits["memory_bytes"]),
        n_lines=source.count("\n") + 1 if lines else None,
    )
    with contextlib.suppress(ProgramEnded):  # whoever asks next is told
        _send(program, (TRACED if lines else UNTRACED) + source.encode("utf-8", "surrogatepass"))
    return program


def loaded(program: Program) -> wire.Message:
    """The process's word on how loading its program went."""
    return _receive(program)


def ask(program: Program, request: wire.Message) -> wire.Message:
    """One request and its answer."""
    _send(program, plain.dumps(request))
    answer = _receive(program)
    program.spoke = True
    return answer


def read_output(program: Program, pipe: int, limit: int) -> bytes:
    """Everything the main program writes until it ends; ProgramEnded at the deadline or beyond `limit` bytes."""
    pieces: list[bytes] = []
    size = 0
    while _wait(program, pipe, select.POLLIN) and (piece := os.read(pipe, PIECE)):
        program.spoke = True
        size += len(piece)
        if size > limit:
            raise give_up(program, "output_limit", f"more than {limit} bytes of output")
        pieces.append(piece)
    return b"".join(pieces)


def last_word(program: Program) -> wire.Message:
    """What a main program's process said about an exception before it ended; empty if nothing or rubbish."""
    try:
        return _receive(program)
    except ProgramEnded:
        if program.hit_wall:
            raise
        program.fatal = None  # a main program need not say anything
        return {}


def end(program: Program) -> Usage:
    """Kills the process if it still runs, and returns what it used."""
    try:
        program.control.send(b".")
        report = program.control.recv(256)
        if report.startswith(SETUP_FAILED.encode()):
            program.control.recv(256)
            raise SandboxFailed(report.decode(errors="replace"))
    except OSError as error:
        raise SandboxFailed("the zygote has gone") from error
    finally:
        program.channel.close()  # not before: the process would wake up only to be killed
    if len(report) != REPORT.size:
        raise SandboxFailed("the zygote has gone")
    return Usage(*REPORT.unpack(report))


def give_up(program: Program, status: str, detail: str) -> ProgramEnded:
    """Notes why the process is of no more use; the exception is to be raised."""
    if program.fatal is None:
        program.fatal = Outcome(status, detail)
    return ProgramEnded(detail)


def explain_death(program: Program, usage: Usage) -> Outcome:
    """Why a process ended that was expected to answer."""
    status = usage.wait_status
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and usage.cpu_s >= HALF * program.cpu_limit_s):
            return Outcome("timeout", _beyond(program))
        if usage.max_rss_bytes >= NEARLY * program.memory_limit_bytes:
            return Outcome("memory", f"killed by signal {number} at the memory limit")
        return Outcome("runtime_error", f"killed by signal {number} ({signal.strsignal(number)})")
    return Outcome("runtime_error", f"exited with status {os.WEXITSTATUS(status)} before it answered")


def over_limit(program: Program, usage: Usage) -> Outcome | None:
    """A timeout if the process used more CPU time than it may, whatever it did about the kernel's signal for that."""
    if usage.cpu_s <= program.cpu_limit_s:
        return None
    program.hit_wall = False  # not for want of a free core: no repeat
    return Outcome("timeout", _beyond(program))


def word(message: wire.Message, name: str) -> str:
    """A text in a hostile message; empty if it is none."""
    text = message.get(name, "")
    return text if type(text) is str else ""


def _wait(program: Program, descriptor: int, event: int) -> bool:
    """Waits until `descriptor` is ready; ProgramEnded when time is up. Exits if the parent has gone."""
    poller = program.poller
    if (descriptor, event) != program.polled:
        poller = select.poll()
        poller.register(descriptor, event)
        poller.register(program.parent, select.POLLRDHUP)
        program.poller, program.polled = poller, (descriptor, event)
    while True:
        now = time.monotonic()
        ready = dict(poller.poll(max(0.0, min(program.deadline, program.look_at) - now) * 1000))
        if program.parent.fileno() in ready:
            os._exit(0)  # nobody is left to tell; the zygote and the program follow
        if descriptor in ready:
            return True
        now = time.monotonic()
        if now >= program.deadline:
            program.hit_wall = True
            raise give_up(program, "timeout", "out of wall-clock time")
        if now >= program.look_at:
            left = program.cpu_limit_s - cpu_so_far(program)
            if left <= 0:
                raise give_up(program, "timeout", _beyond(program))
            program.look_at = now + max(left, LOOK_S)


def cpu_so_far(program: Program) -> float:
    """CPU seconds by the zygote's word, finer than the kernel's own limit, which is in whole seconds."""
    program.control.send(LOOK)
    answer = program.control.recv(256)
    if len(answer) != CPU_TIME.size:
        raise SandboxFailed(answer.decode(errors="replace") or "the zygote has gone")
    used: float = CPU_TIME.unpack(answer)[0]
    return used


def _beyond(program: Program) -> str:
    return f"more than {program.cpu_limit_s:g} s of CPU time"


def _send(program: Program, body: bytes) -> None:
    if program.fatal is not None:
        raise ProgramEnded(program.fatal.detail)
    view = memoryview(wire.HEADER.pack(len(body)) + body)
    while view:
        try:
            view = view[program.channel.send(view) :]
        except BlockingIOError:
            _wait(program, program.channel.fileno(), select.POLLOUT)
        except OSError:
            raise give_up(program, "died", "ended before it answered") from None


def _receive(program: Program) -> wire.Message:
    """The next message, whose shape only is sure: an object with a `kind`."""
    if program.fatal is not None:
        raise ProgramEnded(program.fatal.detail)
    _fill(program, wire.HEADER.size)
    (size,) = wire.HEADER.unpack_from(program.buffer)
    if size > plain.MAX_BYTES + 64:
        raise give_up(program, "output_limit", f"an answer of {size} bytes")
    whole = wire.HEADER.size + size
    _fill(program, whole)
    body = program.buffer[wire.HEADER.size : whole]
    del program.buffer[:whole]
    try:
        message: Any = plain.parse(body)
    except plain.Garbled:
        raise give_up(program, "tampered", "broke the protocol") from None
    except MemoryError:
        raise give_up(program, "memory", "an answer beyond the judge's memory") from None
    if type(message) is not dict or type(message.get("kind")) is not str:
        raise give_up(program, "tampered", "broke the protocol")
    if program.n_lines is not None:
        program.lines |= _lines_in(message, program.n_lines)
    return message


def _lines_in(message: wire.Message, n_lines: int) -> frozenset[int]:
    """Line numbers in a hostile message; those that the program does not have are left out."""
    found = message.get("lines")
    if type(found) is not list:
        return frozenset()
    return frozenset(each for each in found if type(each) is int and 1 <= each <= n_lines)


def _fill(program: Program, size: int) -> None:
    """Reads until `size` bytes are there."""
    while len(program.buffer) < size:
        _wait(program, program.channel.fileno(), select.POLLIN)
        try:
            piece = program.channel.recv(1 << 18)
        except OSError:
            piece = b""
        if not piece:
            raise give_up(program, "died", "ended before it answered")
        program.buffer += piece
