"""The fork server: a small, warm Python that forks one process per program and reports how each of them ended.

Main function: `main`. For each program the judge sends file descriptors and a limit, later one byte: "end it". The
zygote never reads a program or test data: only the fork that is to run it does, and nothing in that fork's memory or
descriptors belongs to another program. It is confined itself, forks inherit that and give up the last that they could
do more than compute; it kills and reaps each. When the judge goes, it goes.
In the tier "namespaces" all of that happens behind walls of its own, and it throws away what a program has written.
"""

from __future__ import annotations

import _sitebuiltins
import _socket  # `socket` would bring modules that every fork pays for
import builtins
import contextlib
import gc
import importlib
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from typing import NoReturn

from harness.sandbox import candidate, lockdown, namespaces, seccomp, syscalls

WARM_MODULES = """
    typing math re collections itertools functools heapq bisect string random copy operator json struct io
"""
"""What programs import most; more would make each fork dearer than it saves."""
STACK_BYTES = 120 << 20
_close_rest = syscalls.closing_from(4)  # whatever their numbers: the parent's own may be high
FORK_S = 30.0
LOOK = b"?"
"""The judge's question how much CPU time the program has used; any other word ends it."""
CPU_TIME = struct.Struct("<d")
CPUCLOCK_SCHED = 2
"""Of the clock of another process, as in clock_getcpuclockid(3)."""
SETUP_FAILED = "set-up failed: "
REPORT = struct.Struct("<iddq")
"""Wait status, CPU seconds, wall seconds, peak resident bytes."""


def warm_up() -> None:
    """Runs what programs run first, so that a fork finds it done: imports, compiler types, codec."""
    at_fork = os.register_at_fork
    os.register_at_fork = lambda **hooks: None  # `random` would draw a new seed in each fork
    for name in WARM_MODULES.split():
        importlib.import_module(name)
    os.register_at_fork = at_fork
    candidate.rehearse()
    # the site module, which we leave out, would bring these two
    vars(builtins).update({name: _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)") for name in ("exit", "quit")})
    os.environ.clear()
    sys.argv = ["main.py"]
    sys.modules["random"].seed(0)  # the same draws in every run: a verdict must not depend on chance


def run_child(descriptors: tuple[int, ...], last: seccomp.Filter, zygote: int | None) -> NoReturn:
    """In the fork: takes its descriptors, closes all others, gives the rest up and serves the program."""
    if zygote is not None:
        lockdown.die_with_parent()
        if os.getppid() != zygote:
            os._exit(1)
    channel, *standard = descriptors
    for target, descriptor in enumerate(standard):
        os.dup2(descriptor, target)
    last.install()
    os.dup2(channel, 3)
    _close_rest()
    candidate.serve(3, main=bool(standard))
    os._exit(0)


def fork_patiently() -> int:
    """os.fork, tried again while another worker's program holds all the threads that the machine has."""
    limit = time.monotonic() + FORK_S
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.01)


def serve(control: _socket.socket, last: seccomp.Filter, wiper: _socket.socket | None) -> None:
    """Forks, waits for the judge's word, kills, reaps and wipes; returns when the judge has gone."""
    first = os.getpid() == 1  # of a namespace: it takes all others with it, and kills them all in one go
    zygote = None if first else os.getpid()
    while True:
        request, ancillary, _, _ = control.recvmsg(64, _socket.CMSG_SPACE(3 * 4))
        if not request:
            return
        passed = ancillary[0][2]
        descriptors = struct.unpack(f"{len(passed) // 4}i", passed)
        started = time.monotonic()
        child = fork_patiently()
        if child == 0:
            try:
                run_child(descriptors, last, zygote)
            except BaseException as error:
                control.send(f"{SETUP_FAILED}{error!r}"[:200].encode())  # it is closed by the time a program runs
            finally:
                os._exit(70)
        for descriptor in descriptors:
            os.close(descriptor)
        seconds = math.ceil(float(request)) + 1  # the judge looks closer: the kernel counts in ticks, too many at times
        resource.prlimit(child, resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU, then SIGKILL
        while (word := control.recv(1)) == LOOK:
            control.send(CPU_TIME.pack(time.clock_gettime(~child << 3 | CPUCLOCK_SCHED)))
        os.kill(-1 if first else child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        if wiper:
            namespaces.wipe(wiper)
        if not word:
            return
        cpu_s = usage.ru_utime + usage.ru_stime
        control.send(REPORT.pack(status, cpu_s, time.monotonic() - started, usage.ru_maxrss << 10))


def main() -> None:
    """Prepares this process and serves; arguments: a JSON object with `control`, `memory_bytes` and `walls`.

    With `introduce` it first says which Python it is, to whoever accepted the connection for the judge.
    """
    options = json.loads(sys.argv[1])
    control = _socket.socket(fileno=options["control"])
    warm_up()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # where memory runs out, programs go first
    walls = options["walls"]
    wiper = namespaces.enter() if walls else None
    confinement = lockdown.prepare(
        "zygote", memory_bytes=options["memory_bytes"], writable=namespaces.WRITABLE if walls else None
    )
    if walls:  # elsewhere the kernel would count all processes of this user
        lockdown.lower_limit(resource.RLIMIT_NPROC, lockdown.MAX_THREADS)
    lockdown.lower_limit(resource.RLIMIT_FSIZE, namespaces.QUOTA_BYTES if walls else 0)
    lockdown.grow_stack(STACK_BYTES)
    last = seccomp.Filter(seccomp.build_last())
    lockdown.confine(confinement)
    gc.collect()
    gc.freeze()
    gc.disable()  # the program's process enables it again
    if options.get("introduce"):
        control.send(f"python {'.'.join(map(str, sys.version_info[:3]))} {os.uname().machine}".encode())
    control.send(b"ready")
    os.dup2(1, 2)  # the parent read our errors up to here
    serve(control, last, wiper)
