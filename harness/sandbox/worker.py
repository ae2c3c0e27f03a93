"""One worker: a judge and a zygote, started, given one job at a time, and killed when they must be.

Main functions: `start`, `submit`, `collect`, `stop`. Both processes are Pythons of their own without site packages, and
both end by themselves when this process goes: the judge reads the end of its connection, the zygote that of the judge.
In the tier "docker" the zygote is in a container, and the judge here. For a language other than Python a launcher is in
the zygote's place.
Not handled: what becomes of a job whose worker died; that is the pool's decision.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import SandboxUnavailable
from harness.sandbox import containers, language, plain, wire
from harness.sandbox.tiers import Tier, python_here
from harness.types import Completion, Job, Limits, Problem, Test

PIECE = 1 << 16
START_S = 60.0
LONGEST_POLL_S = 3600.0
COMPILER_START_S = 900.0
"""A compiler may have to make its own libraries first."""
STOP_S = 5.0
EXIT_S = 1.0
GRACE_S = 10.0
"""Beyond what the judge's own alarm allows, before the parent kills it."""
HELLO = Problem(id="hello", task="", prompt="", tests=(Test(id="0", kind="stdio", input="", expected="hello"),))
HELLO_LIMITS = Limits(cpu_s=10, wall_s=60)
_greeted: set[str] = set()
"""Languages in which a program has said hello, so that what they say of others can be believed."""

# The modules are found by their full names, without running the package's __init__, which needs installed packages.
BOOT = """
import sys, types, importlib
folder, name = sys.argv.pop(1), sys.argv.pop(1)
for package, path in (("harness", folder), ("harness.sandbox", folder + "/sandbox")):
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [path]
importlib.import_module(name).main()
"""


class NoRoom(SandboxUnavailable):
    """A worker could not be started just now: the machine, or this user, has no more processes or memory to give."""


class WorkerDied(Exception):
    """The worker's processes are gone; `signal` is what ended the judge, None if it was no signal."""

    def __init__(self, message: str, ended_by: int | None) -> None:
        super().__init__(message)
        self.ended_by = ended_by


@dataclass
class Worker:
    """A judge with its zygote, and the job that they are busy with."""

    judge: subprocess.Popen[bytes]
    zygote: subprocess.Popen[bytes] | containers.Container
    connection: socket.socket
    toolchain: language.Toolchain | None = None
    """Of the one language that it can run; None for Python."""
    problem: Problem | None = None
    job: Job | None = None
    give_up_at: float = 0.0
    limits: Limits | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)
    buffer: bytearray = field(default_factory=bytearray)

    @property
    def python(self) -> str:
        """Version and machine of the Python that programs run in."""
        return self.zygote.python if isinstance(self.zygote, containers.Container) else python_here()


def start(tier: Tier, limits: Limits, toolchain: language.Toolchain | None = None) -> Worker:
    """Starts both processes; `await_ready` before the first job. SandboxUnavailable where the machine has no room."""
    if toolchain is not None:
        language.check_tier(toolchain.name, tier.name)
    try:
        with contextlib.ExitStack() as undo:
            ours, judges = socket.socketpair()
            undo.callback(ours.close)
            with judges:
                zygote, control = _start_zygote(tier, limits, toolchain)
                undo.callback(zygote.communicate)
                undo.callback(zygote.kill)
                with control:
                    options: dict[str, Any] = {"parent": judges.fileno(), "control": control.fileno()}
                    if toolchain is not None:
                        options["build_limits"] = toolchain.build_limits()
                    judge = _spawn(tier.judge, options, [judges, control])
            undo.pop_all()
    except OSError as error:
        raise NoRoom(f"no worker of the sandbox can be started ({error}): use fewer workers.") from error
    return Worker(judge=judge, zygote=zygote, connection=ours, toolchain=toolchain)


def _start_zygote(
    tier: Tier, limits: Limits, toolchain: language.Toolchain | None
) -> tuple[subprocess.Popen[bytes] | containers.Container, socket.socket]:
    """The zygote, or launcher, and the judge's end of the connection to it."""
    options: dict[str, Any] = {"memory_bytes": limits.memory_bytes, "walls": tier.name == "namespaces"}
    if tier.image is not None:
        return containers.start(tier.image, BOOT, options, memory_bytes=limits.memory_bytes)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        options["control"], module = theirs.fileno(), tier.zygote
        if toolchain is not None:
            options["language"], module = toolchain.plan, "harness.sandbox.launcher"
        zygote = _spawn(module, options, [theirs])
        undo.pop_all()
    return zygote, ours


def _spawn(module: str, options: dict[str, Any], sockets: list[socket.socket]) -> subprocess.Popen[bytes]:
    """A Python that sees the standard library only. The zygote's hash seed is fixed: sets print alike in every run."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    folder = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        [python, "-s", "-S", "-P", "-c", BOOT, folder, module, json.dumps(options)],
        env={"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"} if "control" in options and "parent" not in options else {},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        pass_fds=[each.fileno() for each in sockets],
        start_new_session=True,  # Ctrl-C is for the parent to handle
    )


def await_ready(worker: Worker) -> None:
    """Waits until both processes are confined; SandboxUnavailable, and nothing left of them, if they fail."""
    try:
        _read_ready(worker)
    except BaseException:
        kill(worker)
        raise
    for process in (worker.judge, worker.zygote):
        if process.stderr is not None:
            process.stderr.close()
    if worker.toolchain is not None and worker.toolchain.hello and worker.toolchain.name not in _greeted:
        _say_hello(worker, worker.toolchain)


def _say_hello(worker: Worker, toolchain: language.Toolchain) -> None:
    """Runs the language's shortest program; SandboxUnavailable if it fails, for then no failure would mean anything."""
    completion = Completion(problem_id="hello", index=0, text="", program=toolchain.hello)
    submit(
        worker,
        Job(problem=HELLO, completion=completion),
        HELLO_LIMITS,
        patience=HELLO_LIMITS,
        all_tests=False,
        lines=False,
        values=False,
    )
    try:
        while (reports := collect(worker)) is None:
            pass
    except WorkerDied as error:
        raise SandboxUnavailable(f"programs in {toolchain.name} cannot be run here: {error}.") from error
    if reports[-1]["status"] != "passed":
        kill(worker)
        raise SandboxUnavailable(
            f"programs in {toolchain.name} cannot be run here, for the shortest one fails "
            f"({reports[-1]['status']}: {reports[-1]['detail']})."
        )
    _greeted.add(toolchain.name)


def _read_ready(worker: Worker) -> None:
    patience = START_S if worker.toolchain is None else COMPILER_START_S
    worker.connection.settimeout(patience)
    try:
        first = worker.connection.recv(64)
    except TimeoutError:
        message = f"the sandbox did not start within {patience:g} s: the machine is overloaded."
        raise SandboxUnavailable(message) from None
    worker.connection.settimeout(None)
    if not first:
        worker.zygote.kill()
        texts = [process.communicate()[1].decode(errors="replace") for process in (worker.zygote, worker.judge)]
        last = " / ".join(text.strip().splitlines()[-1] for text in texts if text.strip())
        if not last:
            raise NoRoom(f"the sandbox did not start: its judge ended with status {worker.judge.returncode}.")
        raise SandboxUnavailable(f"the sandbox did not start: {last}.")


def submit(
    worker: Worker, job: Job, limits: Limits, *, patience: Limits, all_tests: bool, lines: bool, values: bool
) -> None:
    """Gives the worker its next job. Tests travel only when the problem changes; WorkerDied if nobody is there.

    `limits` are the program's; the judge itself has `patience`, whatever the problem.
    """
    message: dict[str, Any] = {"program": job.completion.program}
    if job.problem is not worker.problem:
        message["n_tests"] = len(job.problem.tests)
        if worker.toolchain is not None and any(test.kind != "stdio" for test in job.problem.tests):
            raise plain.NotPlain(f"programs in {worker.toolchain.name} have stdio tests only")
        message["entry_point"] = job.problem.entry_point
        message["all_tests"], message["lines"], message["values"] = all_tests, lines, values
    wide, patience = (
        each if worker.toolchain is None else worker.toolchain.widened(each) for each in (limits, patience)
    )
    if limits is not worker.limits:
        judging = {"judge_cpu_s": patience.cpu_s, "judge_wall_s": patience.wall_s}
        message["limits"] = {name: getattr(wide, name) for name in wide.__struct_fields__} | judging
    worker.problem, worker.limits, worker.job, worker.reports = job.problem, limits, job, []
    seconds = (patience.wall_s + patience.cpu_s + GRACE_S) * max(1, len(job.problem.tests))
    if worker.toolchain is not None:
        seconds += worker.toolchain.build_limits()["wall_s"] + GRACE_S
    worker.give_up_at = time.monotonic() + seconds
    try:
        worker.connection.sendall(wire.pack(message))
        if "n_tests" in message:  # one by one: together they may be large
            for test in job.problem.tests:
                worker.connection.sendall(wire.pack_text(_test_message(test)))
    except OSError:
        raise _died(worker) from None


def _test_message(test: Test) -> dict[str, Any]:
    texts = {"stdio": [test.input, test.expected], "script": [test.input, test.setup], "call": []}[test.kind]
    if not all(isinstance(text, str) for text in texts):
        raise plain.NotPlain(f"test {test.id!r} of kind {test.kind} needs text as its input and expected output")
    message = {"id": test.id, "kind": test.kind, "input": test.input, "expected": test.expected, "setup": test.setup}
    if test.kind == "call":
        if not isinstance(test.input, (list, tuple)):
            raise plain.NotPlain(f"the input of test {test.id!r} is not a list of arguments")
        message["input"] = plain.encode(list(test.input), strict=True)
        message["expected"] = plain.encode(test.expected, strict=True)
    return message


def collect(worker: Worker) -> list[dict[str, Any]] | None:
    """Reads what the judge has sent; the reports once the job is done, else None. WorkerDied if it has gone."""
    try:
        piece = worker.connection.recv(PIECE)
    except OSError:
        piece = b""
    if not piece:
        raise _died(worker)
    worker.buffer += piece
    while (message := _next_message(worker.buffer)) is not None:
        worker.reports.extend(message["reports"])
        if message["done"]:
            worker.job = None
            return worker.reports
    return None


def _next_message(buffer: bytearray) -> Any:
    """Takes one whole message off the front of `buffer`; None if there is none yet."""
    if len(buffer) < wire.HEADER.size:
        return None
    (size,) = wire.HEADER.unpack_from(buffer)
    whole = wire.HEADER.size + size
    if len(buffer) < whole:
        return None
    message = wire.parse(buffer[wire.HEADER.size : whole])
    del buffer[:whole]
    return message


def _died(worker: Worker) -> WorkerDied:
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.judge.wait(EXIT_S)  # it may have hung up and not yet ended: how it ends is the evidence
    kill(worker)
    code = worker.judge.returncode
    return WorkerDied(f"the judge ended with status {code}", -code if code < 0 else None)


def wait_any(workers: list[Worker], timeout: float | None) -> list[Worker]:
    """The workers that have something to say, after `timeout` seconds at the latest."""
    poller = select.poll()
    by_descriptor = {worker.connection.fileno(): worker for worker in workers}
    for descriptor in by_descriptor:
        poller.register(descriptor, select.POLLIN)
    milliseconds = None if timeout is None else min(timeout, LONGEST_POLL_S) * 1000
    return [by_descriptor[descriptor] for descriptor, _ in poller.poll(milliseconds)]


def stop(worker: Worker) -> None:
    """Ends both processes: at once when busy, politely when idle."""
    worker.connection.close()
    if worker.job is None:
        for process in (worker.judge, worker.zygote):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
    kill(worker)


def kill(worker: Worker) -> None:
    """Kills and reaps both processes; the kernel then kills the program that the zygote had started."""
    worker.connection.close()
    for process in (worker.judge, worker.zygote):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if isinstance(process, containers.Container):
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
