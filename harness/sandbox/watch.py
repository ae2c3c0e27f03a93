"""The launcher's eye on a program and on whatever that starts: how long, how large, how it ended.

Main functions: `attend` until the end of a `Run`, then `finish`. A program's memory and CPU time are those of all of
its processes together. Memory is looked at two hundred times a second: a limit on the address space, which would be
exact, is of no use to runtimes and threads that reserve far more than they take. Not handled: memory that the kernel
holds for a program (pipes, sockets and page tables, at most a few times the limit), files (at most what /tmp may hold),
and CPU time of processes that live for less than that and whose parents don't want to know of it (the wall clock ends
those).
"""

from __future__ import annotations

import _socket
import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Iterator

from harness.sandbox.zygote import CPU_TIME, CPUCLOCK_SCHED, LOOK

LOOK_S = 0.005
NEARLY = 0.9
"""Of the memory limit: what failed this close to it failed for want of memory."""
MAX_ERRORS = 4096
"""Bytes of what a program says on stderr that are kept."""
PAGE, TICK = resource.getpagesize(), os.sysconf("SC_CLK_TCK")


class Run:
    """A process with all that come from it, until they have ended; `errors` is what was said on stderr."""

    def __init__(self, child: int, errors: int, memory_bytes: int) -> None:
        self.child = child
        self.errors_pipe = errors
        self.memory_bytes = memory_bytes
        self.started = time.monotonic()
        self.status = 0
        """How the first process ended, as wait(2) has it, once `finish` has returned."""
        self.errors = b""
        self.clocks: dict[int, float] = {}
        """CPU seconds of every process that was seen, as they were last seen."""
        self.reaped_s = 0.0
        """CPU seconds of those that were waited for, and of those that they had waited for."""
        self.largest = 0
        """Peak resident bytes: of any one process, or of all when they were looked at."""
        self.too_much = False

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all of them, once they have ended; before that, those of the last look at least."""
        return max(self.reaped_s, sum(self.clocks.values()))


def attend(run: Run, control: _socket.socket) -> bytes | None:
    """Watches a run until it ends by itself (None), takes too much memory (None), or the judge's word ends it."""
    process = os.pidfd_open(run.child)
    poller = select.poll()
    for descriptor in (process, control.fileno(), run.errors_pipe):
        poller.register(descriptor, select.POLLIN)
    look_at = time.monotonic() + LOOK_S
    try:
        while True:
            ready = {descriptor for descriptor, _ in poller.poll(max(0.0, look_at - time.monotonic()) * 1000)}
            if run.errors_pipe in ready and not read_errors(run):
                poller.unregister(run.errors_pipe)
            if process in ready:
                return None
            if control.fileno() in ready:
                word = control.recv(1)
                if word != LOOK:
                    return word
                control.send(CPU_TIME.pack(cpu_so_far(run)))
            if time.monotonic() >= look_at:
                reap(run, os.WNOHANG)
                run.largest = max(run.largest, memory_now(run))
                if run.largest > run.memory_bytes:
                    run.too_much = True
                    return None
                look_at = time.monotonic() + LOOK_S
    finally:
        os.close(process)


def read_errors(run: Run) -> bool:
    """Takes what there is on stderr, keeps its beginning; False at its end."""
    try:
        piece = os.read(run.errors_pipe, 1 << 16)
    except BlockingIOError:
        return True
    run.errors += piece[: MAX_ERRORS - len(run.errors)]
    return bool(piece)


def others() -> Iterator[int]:
    """Every process in the namespace but this one."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal() and name != "1")


def memory_now(run: Run) -> int:
    """Resident bytes of all processes together; notes their CPU times too."""
    total = 0
    for pid in others():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            run.clocks[pid] = time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
            total += _resident(f"/proc/{pid}/statm") or _resident_of_threads(pid)
    return total


def _resident(path: str) -> int:
    with open(path, "rb") as statm:
        return int(statm.read().split()[1]) * PAGE


def _resident_of_threads(pid: int) -> int:
    """Of a process whose first thread has ended while others go on: the kernel counts nothing for it as a whole."""
    return max((_resident(f"/proc/{pid}/task/{thread}/statm") for thread in os.listdir(f"/proc/{pid}/task")), default=0)


def cpu_so_far(run: Run) -> float:
    """CPU seconds of all processes, dead and alive."""
    memory_now(run)
    living = run.reaped_s
    for pid in others():
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/stat", "rb") as stat:
                waited_for = sum(map(int, stat.read().rpartition(b")")[2].split()[13:15]))
            living += run.clocks.get(pid, 0.0) + waited_for / TICK
    return max(living, run.cpu_s)


def reap(run: Run, flags: int = 0) -> None:
    """Waits for every process that has ended (with WNOHANG), or until all have."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, flags)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == run.child:
            run.status = status
        run.reaped_s += usage.ru_utime + usage.ru_stime
        run.largest = max(run.largest, usage.ru_maxrss << 10)


def finish(run: Run) -> None:
    """Kills and reaps whatever there is, and reads what was said last."""
    with contextlib.suppress(ProcessLookupError):  # all have ended and were waited for
        os.kill(-1, signal.SIGKILL)
    reap(run)
    while len(run.errors) < MAX_ERRORS and _more_errors(run.errors_pipe) and read_errors(run):
        pass
    os.close(run.errors_pipe)


def _more_errors(pipe: int) -> bool:
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    return bool(poller.poll(0))


def lacked_memory(run: Run, words: list[str]) -> bool:
    """Did it fail for want of memory? Not if it was CPU time that it had too much of."""
    if run.too_much:
        return True
    if os.WIFSIGNALED(run.status) and os.WTERMSIG(run.status) in (signal.SIGXCPU, signal.SIGKILL):
        return False
    return run.largest >= NEARLY * run.memory_bytes or any(word.encode() in run.errors for word in words)


def shown(run: Run) -> str:
    """How it ended and what it said about that."""
    if run.too_much:
        return f"more than {run.memory_bytes >> 20} MiB of memory"
    code = os.waitstatus_to_exitcode(run.status)
    text = run.errors.decode(errors="replace")
    return f"exited with status {code}: {text}" if text.strip() else f"exited with status {code}"
