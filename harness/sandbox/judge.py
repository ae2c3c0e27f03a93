"""The judge: the one process that holds programs' answers and expected values together, and decides.

Main function: `main`, a loop over jobs from the parent. It has the zygote start a process for each script test, each
stdio test and each run of call tests, talks to it, and reports executions as soon as they are sure. It is confined too,
and an alarm ends it if an answer makes a comparison endless: the parent then knows which test that was.
Not handled: whether a verdict that hit the wall clock is repeated (the parent's decision), and dead judges (same).
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from harness.sandbox import compare, lockdown, plain, wire
from harness.sandbox.program import (
    Outcome,
    Program,
    ProgramEnded,
    SandboxFailed,
    Usage,
    cpu_so_far,
    end,
    explain_death,
    last_word,
    loaded,
    over_limit,
    read_output,
    start,
    word,
)
from harness.sandbox.scripts import CandidateRaised, call, run_script

MEMORY_BYTES = 1 << 30
"""A program's values must not take more of the machine; where they do, that is the program's `memory`."""
EXTRA_CPU_S = 2.0
"""CPU time that the judge itself may spend on one process's answers, beyond the program's own limit."""
EXTRA_WALL_S = 5.0
RECURSION_LIMIT = 5000
"""Decoding takes a few frames per level of nesting, on top of the test's own."""
MAX_DETAIL = 300
MAX_TEXT = 10_000
"""Characters that are looked at for a detail."""
MAX_STDOUT = 4096
"""Characters of output kept in a record."""
MAX_OUTPUTS = 100
"""Tests of a program whose output is kept."""
CALLS_PER_LIMIT = 10_000
F_ADD_SEALS, ALL_SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8

Test = dict[str, Any]
Report = dict[str, Any]


class Desk:
    """What the judge works with: its two connections, the limits, and the tests of the problem at hand."""

    def __init__(self, parent: socket.socket, control: socket.socket) -> None:
        self.parent = parent
        self.control = control
        self.tests: list[Test] = []
        self.entry_point: str | None = None
        self.limits: dict[str, float] = {}
        self.all_tests = False
        self.lines = False
        self.values = False
        self.build_limits: dict[str, float] | None = None
        """What a compiler may use, where programs are not Python."""


def judge_job(desk: Desk, source: str) -> Iterator[tuple[list[Report], bool]]:
    """Runs one program on the tests; yields the reports of each process as it has ended, and whether it is the last."""
    done = 0
    if desk.build_limits is not None:
        failed = build(desk, desk.build_limits, source)
        if failed:
            yield failed, True
            return
        source = ""  # it has been compiled, or is there to be interpreted
    while True:
        kind, group = next(groupby(desk.tests[done:], key=lambda test: str(test["kind"])))
        if kind == "call":
            reports = judge_calls(desk, source, list(group))
        else:
            reports = [judge_single(desk, source, desk.tests[done])]
        if done >= MAX_OUTPUTS:
            reports = [report | {"stdout": None} for report in reports]
        done += len(reports)
        stop = done == len(desk.tests) or (not desk.all_tests and reports[-1]["status"] != "passed")
        yield reports, stop
        if stop:
            return


def build(desk: Desk, limits: dict[str, float], source: str) -> list[Report]:
    """Has a program in another language made ready for its tests; reports only if that fails."""
    set_alarm(limits)
    program = start(desk.control, desk.parent, limits, source)
    outcome = Outcome("passed")
    try:
        outcome = _load_failure(program) or outcome
    except (ProgramEnded, Exception) as error:
        outcome = _stopped(program, error)
    outcome = _final(program, end(program), outcome)
    set_alarm(desk.limits)
    if outcome.status == "passed":
        return []
    if outcome.status != "sandbox_error" and not program.hit_wall:
        outcome = Outcome("compile_error", outcome.detail)
    return [_report(test, outcome, None, program) for test in (desk.tests if desk.all_tests else desk.tests[:1])]


def judge_single(desk: Desk, source: str, test: Test) -> Report:
    """A script or stdio test in a process of its own."""
    if test["kind"] == "stdio":
        return judge_stdio(desk, source, test)
    program = start(desk.control, desk.parent, desk.limits, source, lines=desk.lines)
    outcome, usage = Outcome("sandbox_error", "the process of a program was not ended"), None
    try:
        outcome = _load_failure(program) or run_script(
            program, source, script=test["input"], setup=test["setup"], entry_point=desk.entry_point
        )
    except (ProgramEnded, Exception) as error:
        outcome = _stopped(program, error)
    usage = end(program)
    return _report(test, _final(program, usage, outcome), usage, program)


class Judged(NamedTuple):
    """One call test."""

    outcome: Outcome
    digest: str | None = None
    value: str | None = None
    cpu_s: float | None = None
    lines: frozenset[int] = frozenset()


def judge_calls(desk: Desk, source: str, tests: list[Test]) -> list[Report]:
    """Call tests in one process, in order, up to the first that fails (or that ends the process)."""
    limits = _for_many(desk.limits, len(tests))
    set_alarm(limits)
    program = start(desk.control, desk.parent, limits, source, lines=desk.lines)
    found: list[Judged] = []
    try:
        failed = _load_failure(program)
        if failed is not None:
            found = [Judged(failed)] * (len(tests) if desk.all_tests else 1)
        loading = program.lines
        before = 0.0  # loading is the first one's
        while len(found) < len(tests) and (desk.all_tests or not found or found[-1].outcome.status == "passed"):
            one = _judge_call(program, desk.entry_point, tests[len(found)], value=desk.values)
            after = cpu_so_far(program) if desk.all_tests else 0.0
            found.append(one._replace(cpu_s=after - before if desk.all_tests else None, lines=program.lines))
            before = after
            program.lines = loading
    except (ProgramEnded, Exception) as error:
        found.append(Judged(_stopped(program, error), lines=program.lines))
    usage = end(program)
    last = _final(program, usage, found[-1].outcome)
    if last is not found[-1].outcome:
        # the limit is for all of these tests together: none is left for the others
        rest = len(tests) - len(found) if desk.all_tests and last.status == "timeout" else 0
        found[-1:] = [found[-1]._replace(outcome=last, digest=None, value=None)] * (1 + rest)
    reports = [
        _report(test, one.outcome, None, program, digest=one.digest, lines=one.lines)
        | {"cpu_s": one.cpu_s, "value": one.value and _storable(one.value)}
        for test, one in zip(tests, found, strict=False)  # it stops at the first that failed
    ]
    reports[-1].update(_measured(usage))
    if desk.all_tests:
        reports[-1]["cpu_s"] = found[-1].cpu_s
    return reports


def _for_many(limits: dict[str, float], n_calls: int) -> dict[str, float]:
    """The calls in one process share its limits; where calling alone takes long, they have them several times."""
    times = -(-n_calls // CALLS_PER_LIMIT)
    return {name: value * times if name.endswith("_s") else value for name, value in limits.items()}


def _judge_call(program: Program, entry_point: str | None, test: Test, *, value: bool) -> Judged:
    """One call and what it gave, with its value as text if that is asked for."""
    if entry_point is None:
        raise SandboxFailed("a call test needs a problem with an entry point")
    try:
        got = call(program, entry_point, tuple(plain.decode(test["input"])), {})
    except Exception as error:
        if isinstance(error, CandidateRaised):
            return Judged(Outcome("runtime_error", error.shown))
        raise
    text = compare.value_text(got) if value else None
    expected = plain.decode(test["expected"])
    try:
        same, digest = compare.same_value(expected, got), compare.digest_value(got)
    except (ArithmeticError, TypeError, ValueError, RecursionError) as error:  # Decimal("sNaN") == 1 raises, for one
        return Judged(Outcome("wrong", f"comparing {compare.shown(got)} raised {type(error).__name__}"), value=text)
    if same:
        return Judged(Outcome("passed"), digest, text)
    return Judged(Outcome("wrong", f"expected {compare.shown(expected)}, got {compare.shown(got)}"), digest, text)


def judge_stdio(desk: Desk, source: str, test: Test) -> Report:
    """One run of the program as a main program; its output is compared here."""
    standard_input = _sealed(test["input"])
    reading, writing = os.pipe()
    os.fchmod(writing, 0o622)  # a program of another user may open /dev/stdout
    streams = standard_input, writing
    program = start(desk.control, desk.parent, desk.limits, source, descriptors=streams, lines=desk.lines)
    os.close(standard_input)
    os.close(writing)
    output, last, ended = b"", {}, Outcome("passed")
    text = digest = None
    try:
        output = read_output(program, reading, int(desk.limits["output_bytes"]))
        last = last_word(program)
    except (ProgramEnded, Exception) as error:
        ended = _stopped(program, error)
    os.close(reading)
    usage = end(program)
    if program.fatal is None and ended.status == "passed":
        try:
            text = output[: 4 * MAX_STDOUT].decode("utf-8", "surrogateescape")
            output = compare.words(output)
            ended = _main_ended(usage, program, last) or _judge_output(test["expected"], output)
            digest = compare.digest_words(output)
        except Exception as error:
            ended = _stopped(program, error)
    return _report(test, _final(program, usage, ended), usage, program, stdout=text, digest=digest)


def _main_ended(usage: Usage, program: Program, last: wire.Message) -> Outcome | None:
    """What a main program's end means, None if it was an orderly one."""
    if usage.wait_status == 0:
        return None
    if os.WIFSIGNALED(usage.wait_status):
        return explain_death(program, usage)
    kind = {"compile_error": "compile_error", "memory": "memory"}.get(word(last, "kind"), "runtime_error")
    return Outcome(kind, word(last, "text") or f"exited with status {os.WEXITSTATUS(usage.wait_status)}")


def _judge_output(expected: str, got: bytes) -> Outcome:
    difference = compare.explain_words(compare.words(expected), got)
    return Outcome("passed") if difference is None else Outcome("wrong", difference)


def _sealed(text: str) -> int:
    """A file in memory that holds `text` and can only be read."""
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    wire.write_all(descriptor, text.encode("utf-8", "surrogateescape"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, F_ADD_SEALS, ALL_SEALS)
    return descriptor


def _load_failure(program: Program) -> Outcome | None:
    """None if the program's top level ran, else how it failed."""
    answer = loaded(program)
    if answer["kind"] == "loaded":
        return None
    known = {"compile_error": "compile_error", "memory": "memory", "raised": "runtime_error"}
    return Outcome(known.get(answer["kind"], "tampered"), word(answer, "text"))


def _final(program: Program, usage: Usage, outcome: Outcome) -> Outcome:
    """What ended the process decides; what the test thought of it counts only if nothing did."""
    if program.fatal is not None:
        outcome = explain_death(program, usage) if program.fatal.status == "died" else program.fatal
    if outcome.status in ("sandbox_error", "tampered"):
        return outcome
    return over_limit(program, usage) or outcome


def _stopped(program: Program, error: BaseException) -> Outcome:
    """What an exception means that ended the judging. Ours it is only where the program had said nothing yet: a value
    that breaks the judge must not buy its program a second chance, nor keep it out of the count."""
    if isinstance(error, SandboxFailed):
        return Outcome("sandbox_error", str(error))
    if isinstance(error, MemoryError):
        return Outcome("memory", "what it answered is beyond the judge's memory")
    status = "tampered" if program.spoke else "sandbox_error"
    return Outcome(status, f"its answer could not be judged: {type(error).__name__}")


def _measured(usage: Usage) -> Report:
    return {"cpu_s": usage.cpu_s, "wall_s": usage.wall_s, "max_rss_bytes": usage.max_rss_bytes}


def _report(
    test: Test,
    outcome: Outcome,
    usage: Usage | None,
    program: Program,
    *,
    stdout: str | None = None,
    digest: str | None = None,
    lines: frozenset[int] | None = None,
) -> Report:
    """One execution for the parent. `again`: only the wall clock ended it, so it deserves a quiet moment."""
    report: Report = {
        "test_id": test["id"],
        "status": outcome.status,
        "detail": _storable(" ".join(outcome.detail[:MAX_TEXT].split())[:MAX_DETAIL]),
        "again": program.hit_wall and outcome.status == "timeout",
        "stdout": None if stdout is None else _storable(stdout[:MAX_STDOUT]),
        "value_digest": digest,
        "lines": None if program.n_lines is None else sorted(program.lines if lines is None else lines),
    }
    return report | (_measured(usage) if usage else {})


def _storable(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def set_alarm(limits: dict[str, float] | None) -> None:
    """The kernel ends the judge if one process's answers keep it busy too long; None disarms."""
    signal.setitimer(signal.ITIMER_PROF, limits.get("judge_cpu_s", limits["cpu_s"]) + EXTRA_CPU_S if limits else 0)
    signal.setitimer(signal.ITIMER_REAL, limits.get("judge_wall_s", limits["wall_s"]) + EXTRA_WALL_S if limits else 0)


def serve(desk: Desk) -> None:
    """Jobs from the parent until it hangs up. What a job does not bring, tests or limits, is as for the one before."""
    descriptor = desk.parent.fileno()
    while True:
        try:
            job = wire.read_message(descriptor)
        except EOFError:
            return
        if "n_tests" in job:
            desk.tests = []  # the old ones go before the new ones come
            desk.tests = [wire.read_message(descriptor) for _ in range(job["n_tests"])]
            desk.entry_point = job["entry_point"]
            desk.all_tests, desk.lines = job["all_tests"], job["lines"] and desk.build_limits is None
            desk.values = job["values"]
        desk.limits = job.get("limits", desk.limits)
        set_alarm(desk.limits)
        for reports, done in judge_job(desk, job["program"]):
            set_alarm(None)  # the parent may take its time to read
            wire.write_all(descriptor, wire.pack({"reports": reports, "done": done}))
            if not done:
                set_alarm(desk.limits)


def main() -> None:
    """Prepares this process and serves; arguments: a JSON object with the descriptors `parent` and `control`.

    With `build_limits` the other process is a launcher, which compiles each program first.
    """
    options = json.loads(sys.argv[1])
    parent, control = socket.socket(fileno=options["parent"]), socket.socket(fileno=options["control"])
    confinement = lockdown.prepare("judge", memory_bytes=MEMORY_BYTES)
    sys.setrecursionlimit(RECURSION_LIMIT)
    for name in ("datetime", "decimal", "fractions"):  # values may be of their types
        importlib.import_module(name)
    if control.recv(16) != b"ready":
        raise SystemExit("the zygote did not start")
    lockdown.confine(confinement)
    wire.write_all(parent.fileno(), wire.pack({"ready": True}))
    os.dup2(1, 2)  # the parent read our errors up to here
    desk = Desk(parent, control)
    desk.build_limits = options.get("build_limits")
    serve(desk)
