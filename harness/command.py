"""A command of the user's: `words` fills its placeholders in, `run` runs it within limits and leaves no process behind.

Whatever comes from the command has a mark in its environment, by which `end` finds it wherever it went: in another
session, as a daemon, or alive after the harness itself was killed. Not handled: processes that clear their
environment, other machines.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import HarnessError, InputError

PLACEHOLDERS = {
    "base": "folder of the base model",
    "prev": "folder of the model to start from: the last checkpoint, or the base where the treatment's init is base",
    "train": "file of rows or problems to train on, one JSON object a line",
    "val": "file of validation problems",
    "out": "folder to leave the trained model in",
    "seed": "a number",
    "budget": "what may be used, as JSON: seconds, sampled_tokens, and the treatment's sample (n, max_tokens, ...)",
    "python": "the Python that runs the harness",
}
MARK = "HARNESS_PHASE"
"""Environment variable of everything that a command starts: the folder of its phase."""
GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""
CHECK_S = 1.0
"""Between two looks at the limits."""
BOUND = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
"""Runs its arguments, to be told to end when the harness dies (PR_SET_PDEATHSIG)."""


def faults(template: str, *, shell: bool) -> Iterator[str]:
    """What is wrong with a command, each to be read after "the command"."""
    try:
        named = list(_placeholders(template))
        empty = not (template.strip() if shell else shlex.split(template))
    except ValueError as error:
        yield f"cannot be read ({error}): write {{{{ and }}}} for braces, and close what is quoted"
        return
    if empty:
        yield "is empty: say what to run"
    for name in named:
        if name == "test":
            yield "asks for {test}: test problems are never given to a trainer; use {val} to choose by"
        elif name not in PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            yield f"asks for {{{name}}}, which is none of {known}: write {{{{ and }}}} for braces that are meant"
    if "out" not in named:
        yield "never says {out}, the folder that the trained model is left in"


def asks_for(template: str, name: str) -> bool:
    """Whether the command has this placeholder."""
    return name in _placeholders(template)


def words(template: str, values: Mapping[str, str], args: Mapping[str, object], *, shell: bool) -> list[str]:
    """The program and its arguments; a value is one argument, or a part of one, whatever is in it.

    Raises:
        InputError: there is no such program.
    """
    options = [text for key, value in args.items() for text in (f"--{key}", _text(value))]
    if shell:
        quoted = {name: shlex.quote(value) for name, value in values.items()}
        return ["/bin/sh", "-c", " ".join([template.format_map(quoted), *map(shlex.quote, options)])]
    filled = [word.format_map(values) for word in shlex.split(template)] + options
    if shutil.which(filled[0]) is None:
        raise InputError(f"external.command: there is no program {filled[0]} here: give its path, or {{python}}.")
    return filled


def _placeholders(template: str) -> Iterator[str]:
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is not None:
            if form or conversion:
                raise ValueError(f"{{{name}}} has a format")
            yield name


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run(
    words: Sequence[str],
    *,
    mark: str,
    env: Mapping[str, str],
    log: Path,
    timeout_s: float,
    folder: Path,
    max_bytes: float,
    check: Callable[[], None] = lambda: None,
) -> str | None:
    """Runs the command to its end; None if it ended well, else what happened, to be read after "the command".

    When this returns or raises, at Ctrl-C as well, no process of the command is left.

    Args:
        words: program and arguments.
        mark: what its processes are known by; nothing else may run under the same one.
        env: its whole environment.
        log: file that its output is added to.
        timeout_s: wall clock.
        folder: whose size, with the log's, is kept to `max_bytes`.
        max_bytes: see `folder`.
        check: called about once a second; what it raises ends the command and is raised.
    """
    deadline = time.monotonic() + timeout_s
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOUND, *words],
            env={**env, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: we end it
        )
    try:
        with _ending(process.pid) as ended:
            while not ended.poll(1000 * max(0.0, min(CHECK_S, deadline - time.monotonic()))):
                check()
                if time.monotonic() > deadline:
                    return f"was stopped after {timeout_s:g} s (external.timeout_s)"
                if _bytes(folder) + log.stat().st_size > max_bytes:
                    return f"was stopped because its files outgrew {max_bytes / 1e9:g} GB (external.disk_gb)"
        status = process.wait()
    finally:
        end(mark)
        process.wait()
    check()
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"failed with status {status}" if status else None


@contextlib.contextmanager
def _ending(pid: int) -> Iterator[select.poll]:
    """Something to wait on until a process ends."""
    descriptor = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        yield waiting
    finally:
        os.close(descriptor)


def end(mark: str) -> None:
    """Ends every process with this mark: SIGTERM, and SIGKILL for those that are still there after `GRACE_S`."""
    try:
        if _signal(mark, signal.SIGTERM):
            _wait(mark, GRACE_S)
    finally:
        deadline = time.monotonic() + GRACE_S
        while left := _signal(mark, signal.SIGKILL):
            if time.monotonic() > deadline:
                raise HarnessError(f"processes {left} of {mark} cannot be ended: end them by hand.")
            time.sleep(0.05)


def _wait(mark: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _signal(mark, None) and time.monotonic() < deadline:
        time.sleep(0.05)


def _signal(mark: str, number: signal.Signals | None) -> list[int]:
    """The processes with this mark, each of them sent a signal, if one is given."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            descriptor = os.pidfd_open(int(entry))  # held, so that the number cannot become another process's
            try:
                if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
                    if number is not None:
                        signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)
    return found


def _bytes(folder: Path) -> int:
    """Size of all files in a folder, whose files may come and go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total
