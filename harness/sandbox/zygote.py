"""The fork server: a small, warm Python that forks one process per program and reports how each of them ended.

Main function: `main`. For each program the judge sends file descriptors and a limit, later one byte: "end it". The
zygote never reads a program or test data: only the fork that is to run it does, and nothing in that fork's memory or
descriptors belongs to another program. It confines each fork, kills it, reaps it. When the judge goes, it goes.
In the tier "namespaces" all of that happens behind walls of its own, and it throws away what a program has written.
"""

from __future__ import annotations

import _sitebuiltins
import array
import builtins
import contextlib
import gc
import importlib
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
from types import ModuleType
from typing import NoReturn

from harness.sandbox import candidate, lockdown, namespaces, plain, syscalls

WARM_MODULES = """
    typing math cmath re collections itertools functools heapq bisect string random copy operator json struct io
    hashlib datetime
"""
"""What programs import most; more would make each fork dearer than it saves."""
STACK_BYTES = 120 << 20
FORK_S = 10.0
REPORT = struct.Struct("<iddq")
"""Wait status, CPU seconds, wall seconds, peak resident bytes."""
TYPICAL_PROGRAM = '''
from typing import *
import math
def solve(numbers: List[int], name: Optional[str], pairs: Dict[str, Any]) -> bool:
    """A docstring."""
    return sorted(numbers) == [math.sqrt(x) for x in numbers] or {1: 2} == {} or set(numbers) < {1}
solve([1], "", {})
try:
    assert solve([2], "", {})
except AssertionError as error:
    str(error)
'''


def warm_up() -> None:
    """Runs what programs run first, so that a fork finds it done: imports, compiler types, codec."""
    for name in WARM_MODULES.split():
        importlib.import_module(name)
    for _ in range(3):
        exec(compile(TYPICAL_PROGRAM, "<warm>", "exec", dont_inherit=True), vars(ModuleType("candidate")))
        plain.decode(plain.parse(plain.dumps(plain.encode([1, 2.5, "a", (1,), {1: 2}, None, True]))))
    # the site module, which we leave out, would bring these two
    vars(builtins).update({name: _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)") for name in ("exit", "quit")})
    os.environ.clear()
    sys.argv = ["main.py"]


def run_child(descriptors: list[int], cpu_s: int, confinement: lockdown.Confinement, zygote: int) -> NoReturn:
    """In the fork: takes its descriptors, closes all others, gives everything up and serves the program."""
    lockdown.die_with_parent()
    if os.getppid() != zygote:
        os._exit(1)
    channel, *standard = descriptors
    for target, descriptor in enumerate(standard):
        os.dup2(descriptor, target)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))  # SIGXCPU, then SIGKILL
    lockdown.confine(confinement)
    os.dup2(channel, 3)
    syscalls.close_from(4)
    random.seed(0)  # the same draws in every run: a verdict must not depend on chance
    candidate.serve(3)


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


def serve(control: socket.socket, confinement: lockdown.Confinement, *, walls: bool) -> None:
    """Forks, waits for the judge's word, kills, reaps and wipes; returns when the judge has gone."""
    zygote = os.getpid()
    while True:
        message, ancillary, _, _ = control.recvmsg(64, socket.CMSG_SPACE(3 * 4))
        if not message:
            return
        descriptors = array.array("i")
        descriptors.frombytes(ancillary[0][2])
        started = time.monotonic()
        child = fork_patiently()
        if child == 0:
            try:
                run_child(list(descriptors), int(message), confinement, zygote)
            finally:
                os._exit(70)
        for descriptor in descriptors:
            os.close(descriptor)
        last_word = control.recv(1)
        os.kill(-1 if walls else child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        if walls:
            namespaces.wipe()
        if not last_word:
            return
        cpu_s = usage.ru_utime + usage.ru_stime
        control.send(REPORT.pack(status, cpu_s, time.monotonic() - started, usage.ru_maxrss << 10))


def main() -> None:
    """Prepares this process and serves; arguments: a JSON object with `control`, `memory_bytes` and `walls`."""
    options = json.loads(sys.argv[1])
    control = socket.socket(fileno=options["control"])
    warm_up()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # where memory runs out, programs go first
    walls = options["walls"]
    if walls:
        namespaces.enter()
    confinement = lockdown.prepare(
        memory_bytes=options["memory_bytes"], writable=namespaces.WRITABLE if walls else None
    )
    lockdown.lower_limit(resource.RLIMIT_FSIZE, namespaces.QUOTA_BYTES if walls else 0)
    lockdown.grow_stack(STACK_BYTES)
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    os.dup2(1, 2)  # the parent read our errors up to here
    serve(control, confinement, walls=walls)
