"""The zygote's counterpart for programs that are not Python: compiles each one, and starts it afresh for each test.

Main function: `main`. It speaks the zygote's protocol, so that the judge need not know the difference. A request with a
channel alone brings a program: it is written to a file and compiled, and the answer says whether that went well. One
with standard input and output has the program run. Only forks read the program's text. The launcher is the first
process of its namespace: whatever else lives there belongs to the program at hand, and when that has ended, all of it
is killed and reaped and its files are thrown away. What was compiled stays for the next test, and cannot be changed.

Not handled: Python, which the zygote forks; tests that are not standard input and output; two runs at a time.
"""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import gc
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from harness.sandbox import lockdown, namespaces, syscalls, wire
from harness.sandbox.watch import Run, attend, finish, lacked_memory, shown
from harness.sandbox.zygote import CPU_TIME, LOOK, REPORT, SETUP_FAILED, fork_patiently

MAX_OPEN_FILES = 256
STACK_PART = 8
"""A stack is at most this part of the memory limit."""
COMPILER_STACK_BYTES = 64 << 20
COMPILER_PROCESSES = 256
PREPARE_CPU_S = 600.0
NO_PROGRAM = 126
CLOSE_ON_EXEC = 4
PROMISES: dict[str, str] = {
    "no network": "_socket.socket()",
    "no files but those of the toolchain": "open('/etc/passwd')",
    "no names outside": "os.stat('/etc/passwd')",
    "no sight of other processes": "os.stat('/proc/1')",
    "no change to the toolchain": "open(commands[0], 'r+')",
    "no change to the compiled program": "open('/var/build/.harness_probe', 'w')",
    "no change to the compiler's cache": "open('/var/cache/.harness_probe', 'w')",
    "no change of its modes": "os.chmod('/var/build', 0o777)",
    "no new files but in a private /tmp": "open('/var/.harness_probe', 'w')",
    "no files of an earlier run": "os.stat('/tmp/left')",
    "no more files than agreed": "promised(os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize <= tmp_bytes)",
    "no programs in /tmp": "promised(os.statvfs('/tmp').f_flag & os.ST_NOEXEC)",
    "no namespaces of its own": "syscalls.call('unshare', 0x10000000)",
    "no mounts": "syscalls.call('mount', b'x', b'/tmp', b'tmpfs', 0, None)",
    "no look into other processes": "syscalls.call('ptrace', 16, 1, 0, 0)",
    "no memory that outlives it": "syscalls.call('shmget', 1, 4096, 0o1600)",
    "no keys that outlive it": "syscalls.call('add_key', b'user', b'x', b'x', 1, -3)",
    "no files in memory": "os.memfd_create('x')",
    "no limits of others": "resource.prlimit(1, resource.RLIMIT_CPU, (9, 9))",
    "no higher limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16))",
    "no hiding from the launcher": "syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)",
}
"""What no program can do, each with a statement that must raise OSError or ValueError; tried twice at the start."""


class Share(NamedTuple):
    """What one process and its heirs may use."""

    memory_bytes: int
    stack_bytes: int
    file_bytes: int
    processes: int


class Bench:
    """What the launcher works with: its two connections, the language's plan, and the shares of compilers and runs."""

    def __init__(
        self, control: _socket.socket, helper: _socket.socket, plan: dict[str, Any], memory_bytes: int
    ) -> None:
        needs = plan["limits"]
        self.control = control
        self.helper = helper
        self.plan = plan
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack = min(needs["stack_mb"] << 20, memory_bytes // STACK_PART)
        memory = memory_bytes + (needs["extra_memory_mb"] << 20)
        self.run = Share(memory, stack, needs["tmp_mb"] << 20, needs["processes"])
        memory = needs["compile_memory_mb"] << 20
        self.build = Share(memory, COMPILER_STACK_BYTES, needs["build_mb"] << 20, COMPILER_PROCESSES)
        self._words = {
            "{build}": namespaces.BUILD,
            "{cache}": namespaces.CACHE,
            "{memory_mb}": str(memory_bytes >> 20),
            "{stack_kb}": str(stack * 3 // 4 >> 10),
        }
        self.environment = dict(zip(plan["environment"], self.filled_in(plan["environment"].values()), strict=True))

    def filled_in(self, texts: Iterable[str]) -> list[str]:
        """Words of a command with its limits and folders in their places."""
        found = list(texts)
        for word, value in self._words.items():
            found = [text.replace(word, value) for text in found]
        return found


def start(
    bench: Bench, share: Share, cpu_s: float, streams: tuple[int, int] | None, prepare: Callable[[], list[str]]
) -> Run:
    """Forks a process that does what `prepare` says and becomes the command that this returns.

    Without `streams`, standard input and output, the one is empty and the other goes where stderr goes.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    child = fork_patiently()
    if child == 0:
        try:
            for target, descriptor in enumerate((*(streams or (bench.null, writing)), writing)):
                os.dup2(descriptor, target)
            become(bench, share, cpu_s, prepare())
        except BaseException as error:
            bench.control.send(f"{SETUP_FAILED}{error!r}"[:200].encode())
        finally:
            os._exit(70)
    os.close(writing)
    return Run(child, reading, share.memory_bytes)


def become(bench: Bench, share: Share, cpu_s: float, command: list[str]) -> NoReturn:
    """In the fork: sets the limits and executes the command, a file and the words that it is called with."""
    seconds = math.ceil(cpu_s) + 1  # as in the zygote: the judge looks closer
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU, then SIGKILL
    lockdown.lower_limit(resource.RLIMIT_NPROC, share.processes + 1)  # the launcher is one
    lockdown.lower_limit(resource.RLIMIT_FSIZE, share.file_bytes)
    lockdown.lower_limit(resource.RLIMIT_STACK, share.stack_bytes)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so
    os.setsid()
    syscalls.call("close_range", ctypes.c_uint(3), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(CLOSE_ON_EXEC))
    path, *words = bench.filled_in(command)
    try:
        os.execve(path, words, bench.environment)
    except OSError as error:
        if not path.startswith(namespaces.BUILD):
            raise
        os.write(2, f"what was compiled is no program ({os.strerror(error.errno or 0)})".encode())
        os._exit(NO_PROGRAM)


def build(bench: Bench, channel: _socket.socket, cpu_s: float) -> tuple[Run, bytes | None]:
    """Has a fork write the program to a file and compile it; tells the judge how that went if it ended by itself."""

    def prepare() -> list[str]:
        os.chdir(namespaces.BUILD)
        with open(bench.plan["source"], "wb") as file:
            file.write(wire.read_body(channel.fileno())[1:])
        if not bench.plan["compile"]:
            os._exit(0)
        return list(bench.plan["compile"])

    namespaces.ask(bench.helper, namespaces.OPEN)
    run = start(bench, bench.build, cpu_s, None, prepare)
    word = attend(run, bench.control)
    finish(run)
    namespaces.ask(bench.helper, namespaces.SEAL)
    if word is None:
        text = run.errors.decode(errors="replace").strip()
        failed = {"kind": "compile_error", "text": shown(run) if run.too_much or not text else text}
        tell(channel, {"kind": "loaded"} if run.status == 0 else failed)
    return run, word


def tell(channel: _socket.socket, message: wire.Message) -> None:
    """Says how it went; the judge may have heard enough and hung up."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        wire.write_all(channel.fileno(), wire.pack(message))


def execute(bench: Bench, channel: _socket.socket, cpu_s: float, streams: tuple[int, int]) -> tuple[Run, bytes | None]:
    """Runs what was built once; says what it said on stderr if it ended by itself, and not well."""

    def prepare() -> list[str]:
        os.chdir(namespaces.SCRATCH)
        return list(bench.plan["run"])

    run = start(bench, bench.run, cpu_s, streams, prepare)
    for descriptor in streams:
        os.close(descriptor)  # the judge waits until nobody can write any more
    word = attend(run, bench.control)
    finish(run)
    if word is None and run.status != 0:
        memory = lacked_memory(run, bench.plan["memory_words"])
        if memory:
            run.status = 1 << 8
        tell(channel, {"kind": "memory" if memory else "raised", "text": shown(run)})
    return run, word


def serve(bench: Bench) -> None:
    """One request after another until the judge has gone."""
    control = bench.control
    while True:
        request, ancillary, _, _ = control.recvmsg(64, _socket.CMSG_SPACE(3 * 4))
        if not request:
            return
        descriptors = struct.unpack(f"{len(ancillary[0][2]) // 4}i", ancillary[0][2])
        channel = _socket.socket(fileno=descriptors[0])
        if len(descriptors) == 3:
            run, word = execute(bench, channel, float(request), descriptors[1:])
        else:
            run, word = build(bench, channel, float(request))
        channel.close()
        wall_s = time.monotonic() - run.started
        while word is None or word == LOOK:
            word = control.recv(1)
            if word == LOOK:
                control.send(CPU_TIME.pack(run.cpu_s))
        if not word:
            return
        control.send(REPORT.pack(run.status, run.cpu_s, wall_s, run.largest))
        if len(descriptors) == 3:
            namespaces.ask(bench.helper, namespaces.WIPE)  # while the judge compares


def fill_cache(bench: Bench) -> None:
    """Has the compiler make what it needs for every program; SystemExit if it cannot. It can be read only after this,
    and no program has run before."""

    def prepare() -> list[str]:
        os.chdir(namespaces.CACHE)
        return list(bench.plan["prepare"])

    run = start(bench, bench.build, PREPARE_CPU_S, None, prepare)
    attend(run, bench.control)
    finish(run)
    if run.status != 0:
        raise SystemExit(f"the compiler's cache cannot be filled ({' '.join(shown(run).split())})")


def keep_promises(bench: Bench) -> None:
    """Tries to break each promise, as a program could; SystemExit, and no worker, if one does not hold."""

    def promised(holds: object) -> None:
        if holds:
            raise OSError("as promised")

    def attempt() -> NoReturn:
        names = {"commands": bench.plan["commands"], "tmp_bytes": bench.run.file_bytes, "promised": promised}
        broken = []
        for promise, statement in PROMISES.items():
            with contextlib.suppress(OSError, ValueError):
                exec(statement, globals() | names)
                broken.append(promise)
        open("/tmp/left", "w").close()
        os.write(2, ", ".join(broken).encode())
        os._exit(len(broken))

    namespaces.ask(bench.helper, namespaces.OPEN)
    namespaces.ask(bench.helper, namespaces.SEAL)
    for _ in range(2):
        run = start(bench, bench.run, 10.0, None, attempt)
        attend(run, bench.control)
        finish(run)
        namespaces.ask(bench.helper, namespaces.WIPE)
        if run.status != 0:
            raise SystemExit(f"the sandbox does not keep what it promises here ({shown(run)})")


def main() -> None:
    """Prepares this process and serves; arguments: a JSON object with `control`, `memory_bytes` and `language`."""
    options = json.loads(sys.argv[1])
    plan = options["language"]
    needs = plan["limits"]
    control = _socket.socket(fileno=options["control"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the first process of a namespace gets only signals that it handles
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # where memory runs out, programs go first
    room = namespaces.Room(tuple(plan["folders"]), needs["tmp_mb"] << 20, needs["build_mb"] << 20)
    helper = namespaces.enter(room)
    confinement = lockdown.prepare_wide(room.folders, devices=namespaces.DEVICES, writable=namespaces.WRITABLE)
    lockdown.lower_limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    lockdown.confine(confinement)
    os.close(confinement.rules)
    os.chdir("/")
    os.umask(0o022)
    bench = Bench(control, helper, plan, options["memory_bytes"])
    for command in plan["commands"]:
        if not os.access(command, os.X_OK):
            raise SystemExit(f"{command} may not be run by other users than its owner")
    if plan["prepare"]:
        fill_cache(bench)
    keep_promises(bench)
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    os.dup2(1, 2)  # the parent read our errors up to here
    serve(bench)
