"""One worker: a judge and a zygote, started, given one job at a time, and killed when they must be.

Main functions: `start`, `submit`, `collect`, `stop`. Both processes are Pythons of their own without site packages, and
both end by themselves when this process goes: the judge reads the end of its connection, the zygote that of the judge.
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
from harness.sandbox import plain, wire
from harness.sandbox.tiers import Tier
from harness.types import Job, Limits, Problem, Test

START_S = 60.0
STOP_S = 5.0
EXIT_S = 1.0
GRACE_S = 10.0
"""Beyond what the judge's own alarm allows, before the parent kills it."""

# The modules are found by their full names, without running the package's __init__, which needs installed packages.
BOOT = """
import sys, types, importlib
folder, name = sys.argv.pop(1), sys.argv.pop(1)
for package, path in (("harness", folder), ("harness.sandbox", folder + "/sandbox")):
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [path]
importlib.import_module(name).main()
"""


class WorkerDied(Exception):
    """The worker's processes are gone; `signal` is what ended the judge, None if it was no signal."""

    def __init__(self, message: str, ended_by: int | None) -> None:
        super().__init__(message)
        self.ended_by = ended_by


@dataclass
class Worker:
    """A judge with its zygote, and the job that they are busy with."""

    judge: subprocess.Popen[bytes]
    zygote: subprocess.Popen[bytes]
    connection: socket.socket
    problem: Problem | None = None
    job: Job | None = None
    give_up_at: float = 0.0
    limits: Limits | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)
    buffer: bytearray = field(default_factory=bytearray)


def start(tier: Tier, limits: Limits) -> Worker:
    """Starts both processes; `await_ready` before the first job. SandboxUnavailable where the machine has no room."""
    try:
        with contextlib.ExitStack() as undo:
            ours, judges = socket.socketpair()
            undo.callback(ours.close)
            judge_control, zygote_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with judges, judge_control, zygote_control:
                options = {
                    "control": zygote_control.fileno(),
                    "memory_bytes": limits.memory_bytes,
                    "walls": tier.name == "namespaces",
                }
                zygote = _spawn(tier.zygote, options, [zygote_control])
                undo.callback(zygote.communicate)
                undo.callback(zygote.kill)
                options = {"parent": judges.fileno(), "control": judge_control.fileno()}
                judge = _spawn(tier.judge, options, [judges, judge_control])
            undo.pop_all()
    except OSError as error:
        raise SandboxUnavailable(f"no worker of the sandbox can be started ({error}): use fewer workers.") from error
    return Worker(judge=judge, zygote=zygote, connection=ours)


def _spawn(module: str, options: dict[str, Any], sockets: list[socket.socket]) -> subprocess.Popen[bytes]:
    """A Python that sees the standard library only. The zygote's hash seed is fixed: sets print alike in every run."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    folder = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        [python, "-s", "-S", "-P", "-c", BOOT, folder, module, json.dumps(options)],
        env={"PYTHONHASHSEED": "0"} if "control" in options and "parent" not in options else {},
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


def _read_ready(worker: Worker) -> None:
    worker.connection.settimeout(START_S)
    try:
        first = worker.connection.recv(64)
    except TimeoutError:
        message = f"the sandbox did not start within {START_S:g} s: the machine is overloaded."
        raise SandboxUnavailable(message) from None
    worker.connection.settimeout(None)
    if not first:
        worker.zygote.kill()
        texts = [process.communicate()[1].decode(errors="replace") for process in (worker.zygote, worker.judge)]
        last = " / ".join(text.strip().splitlines()[-1] for text in texts if text.strip())
        raise SandboxUnavailable(f"the sandbox did not start: {last}.")


def submit(worker: Worker, job: Job, limits: Limits, *, all_tests: bool) -> None:
    """Gives the worker its next job. Tests travel only when the problem changes; WorkerDied if nobody is there."""
    message: dict[str, Any] = {"program": job.completion.program}
    if job.problem is not worker.problem:
        message["tests"] = [_test_message(test) for test in job.problem.tests]
        message["entry_point"] = job.problem.entry_point
        message["all_tests"] = all_tests
    if limits is not worker.limits:
        message["limits"] = {name: getattr(limits, name) for name in limits.__struct_fields__}
    worker.problem, worker.limits, worker.job, worker.reports = job.problem, limits, job, []
    patience = limits.wall_s + limits.cpu_s + GRACE_S
    worker.give_up_at = time.monotonic() + patience * max(1, len(job.problem.tests))
    try:
        worker.connection.sendall(wire.pack(message))
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
        piece = worker.connection.recv(1 << 20)
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
    message = json.loads(buffer[wire.HEADER.size : whole])
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
    return [by_descriptor[descriptor] for descriptor, _ in poller.poll(None if timeout is None else timeout * 1000)]


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
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
