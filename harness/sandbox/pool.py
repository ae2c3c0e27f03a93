"""Streams jobs through the workers: the object that `open_sandbox` returns.

Main class: `Pool`. Jobs are pulled in the calling thread while a worker is idle, results come as they are finished.
Equal programs of one problem run once. A first try is short: what takes longer is put aside and run, with all of its
limits, when the others are done, so that an infinite loop holds up nobody. A program that then runs out of wall clock
only, or whose judge died, runs again alone at the end. Not handled: several runs of one pool at a time (refused).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from signal import SIGPROF
from types import TracebackType
from typing import Any

import msgspec

from harness.errors import InputError, SandboxUnavailable
from harness.sandbox import language, plain, worker
from harness.sandbox.tiers import Tier, probe, version
from harness.sandbox.worker import Worker, WorkerDied
from harness.types import Completion, Execution, Job, Limits, Problem, Status, Test

MAX_PROGRAM_CHARACTERS = plain.MAX_BYTES // 4
MAX_REMEMBERED = 4096
"""Programs whose executions are kept for equal ones to come, and jobs that wait for an equal one under way."""
FIRST_TRY_S = 0.25
"""Wall clock of the first try on one test."""
WORTH_A_FIRST_TRY_S = 1.0
WALL_FACTOR, WALL_S = 4.0, 2.0
"""Wall clock of a program whose problem has a CPU limit of its own, at most: so many times it, and so many seconds."""
RESTART_S = 30.0
MAX_ASIDE = 64
"""Programs put aside while there are others; beyond it their turn comes."""

PAUSE_S = 0.01
"""For so long the workers alone are watched before a source that had nothing ready is asked again."""

Fingerprint = tuple[int, str]
"""Which problem object, and the program."""
Executions = tuple[Execution, ...]


class Pool:
    """A `types.Sandbox`: workers of one tier under one set of limits. Use it in a `with`, or close it."""

    def __init__(
        self, tier: Tier, limits: Limits, *, workers: int, all_tests: bool, lines: bool = False, values: bool = False
    ) -> None:
        self._tier = tier
        self._limits = limits
        self._all_tests = all_tests
        self._lines = lines
        self._values = values
        self._running = False
        self._closed = False
        self._limits_of: dict[tuple[float | None, bool], Limits] = {}
        self._workers: list[Worker | None] = [None] * workers
        try:
            for position in range(workers):
                self._workers[position] = worker.start(tier, limits)
            for each in self._workers:
                if each is not None:
                    worker.await_ready(each)
                    self._python = each.python
            self._keep_promises()
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        """Tier, protocol, Python and packages: what may change a verdict."""
        return version(self._tier, self._python)

    def version_for(self, problems: Iterable[Problem]) -> str:
        """`version` with the toolchains that these problems need; SandboxUnavailable where one is not here."""
        return self.version + language.versions({each.language for each in problems if each.tests}, self._tier.name)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process that was started; harmless when repeated."""
        self._closed = True
        for position, each in enumerate(self._workers):
            if each is not None:
                worker.stop(each)
            self._workers[position] = None

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Executions]]:
        """Each job with its executions, in the order in which they are finished. None among the jobs: none is ready
        yet. The source is asked again soon, and what was put aside or must run again is run meanwhile."""
        if self._closed or self._running:
            raise InputError("this sandbox is closed or in use: open one sandbox for each run at the same time.")
        self._running = True
        stream = _Stream(iter(jobs))
        try:
            while not stream.exhausted:
                yield from self._drain(stream)
                while stream.again:
                    job = stream.again.pop(0)
                    yield from stream.finish(job, self._run_alone(job))
        finally:
            self._running = False
            self._stop_busy()

    def _drain(self, stream: _Stream) -> Iterator[tuple[Job, Executions]]:
        """Everything but what must be repeated alone, until it is time for that: the source has ended, or has nothing
        ready, or too many jobs wait for such a one."""
        busy: dict[int, Worker] = {}
        while True:
            idle = [position for position in range(len(self._workers)) if position not in busy]
            if idle and stream.has_next:
                job, known = stream.next_job()
                if job is not None and known is not None:
                    yield job, known
                elif job is not None:
                    limits = self._limits_for(job.problem, first_try=not stream.is_patient(job))
                    position = self._best(idle, job)
                    busy[position] = self._give(position, job, limits)
                if not busy and stream.starved:
                    if stream.again:
                        return
                    time.sleep(PAUSE_S)
                if not busy:
                    continue
            elif not busy:
                return
            can_pull = len(busy) < len(self._workers) and stream.has_next
            pause_s = PAUSE_S if stream.starved else 0.0
            for position in self._ready(busy, pause_s if can_pull else None):
                job, executions = self._collect(busy[position])
                if job is not None:
                    del busy[position]
                if job is not None and executions is None:
                    stream.put_aside(job)
                elif job is not None and executions is not None:
                    yield from stream.finish(job, executions)

    def _best(self, idle: list[int], job: Job) -> int:
        """The idle worker that is for the job's language, if there is one."""
        toolchain = language.wanted(job.problem.language)
        of_its_language = (each for each in idle if (found := self._workers[each]) and found.toolchain == toolchain)
        return next(of_its_language, idle[0])

    def _limits_for(self, problem: Problem, *, first_try: bool) -> Limits:
        """The problem's CPU limit in place of everybody's; a first try is short only where that saves a good deal."""
        key = problem.cpu_s, first_try
        if key not in self._limits_of:
            limits = self._limits
            if problem.cpu_s is not None:
                wall_s = min(limits.wall_s, problem.cpu_s * WALL_FACTOR + WALL_S)
                limits = msgspec.structs.replace(limits, cpu_s=problem.cpu_s, wall_s=wall_s)
            if first_try and limits.cpu_s >= WORTH_A_FIRST_TRY_S:
                limits = msgspec.structs.replace(limits, wall_s=min(limits.wall_s, FIRST_TRY_S))
            self._limits_of[key] = limits
        return self._limits_of[key]

    def _ready(self, busy: dict[int, Worker], timeout: float | None) -> list[int]:
        """Positions of the workers with news, or beyond their last deadline."""
        if timeout is None:
            timeout = max(0.0, min(each.give_up_at for each in busy.values()) - time.monotonic())
        ready = {id(each) for each in worker.wait_any(list(busy.values()), timeout)}
        now = time.monotonic()
        return [position for position, each in busy.items() if id(each) in ready or now > each.give_up_at]

    def _give(self, position: int, job: Job, limits: Limits) -> Worker:
        """Submits a job to the worker at `position`, starting a new one where the old one has gone or is for another
        language."""
        toolchain = language.wanted(job.problem.language)
        for attempt in range(2):
            found = self._workers[position]
            if found is not None and found.toolchain != toolchain:
                worker.stop(found)
                found = None
            if found is None:
                found = self._workers[position] = self._start(toolchain)
            try:
                worker.submit(
                    found,
                    job,
                    limits,
                    patience=self._limits,
                    all_tests=self._all_tests,
                    lines=self._lines,
                    values=self._values,
                )
                return found
            except (plain.NotPlain, plain.TooLarge) as error:
                raise InputError(f"a test of problem {job.problem.id!r} cannot be sent: {error}.") from error
            except WorkerDied as error:
                self._workers[position] = None
                if attempt:
                    raise SandboxUnavailable(f"the sandbox's workers die as soon as they start: {error}.") from error
        raise AssertionError("unreachable")

    def _start(self, toolchain: language.Toolchain | None) -> Worker:
        """A new worker; where the machine has no room just now, some program of another worker's has taken it."""
        limit = time.monotonic() + RESTART_S
        while True:
            try:
                found = worker.start(self._tier, self._limits, toolchain)
                worker.await_ready(found)
                return found
            except worker.NoRoom:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.5)

    def _collect(self, each: Worker) -> tuple[Job | None, Executions | None]:
        """(None, None): not done. (job, None): to be repeated. Else the job and its executions."""
        job = each.job
        assert job is not None
        try:
            if time.monotonic() > each.give_up_at and not worker.wait_any([each], 0.0):
                worker.kill(each)
                raise WorkerDied("the judge did not answer", None)
            reports = worker.collect(each)
        except WorkerDied as error:
            self._workers[self._workers.index(each)] = None
            if error.ended_by == SIGPROF:
                return job, _with_timeout(job, each.reports)
            return job, None
        if reports is None:
            return None, None
        if any(report["again"] for report in reports):
            return job, None
        return job, _executions(job, reports)

    def _run_alone(self, job: Job) -> Executions:
        """A second and last try, with no other worker busy."""
        limits = self._limits_for(job.problem, first_try=False)
        each = self._give(0, job, limits)
        while each.job is not None:
            self._ready({0: each}, None)
            try:
                if time.monotonic() > each.give_up_at:
                    worker.kill(each)
                reports = worker.collect(each)
            except WorkerDied as error:
                self._workers[0] = None
                if error.ended_by is not None or time.monotonic() > each.give_up_at:
                    return _with_timeout(job, each.reports)
                return (_execution(job, _next_test(job, each.reports), Status.sandbox_error, str(error)),)
            if reports is not None:
                return _executions(job, reports)
        raise AssertionError("unreachable")

    def _stop_busy(self) -> None:
        """After an abandoned run: what is still under way is of no interest."""
        for position, each in enumerate(self._workers):
            if each is not None and each.job is not None:
                worker.stop(each)
                self._workers[position] = None

    def _keep_promises(self) -> None:
        """Runs a program that tries to break each promise, twice; SandboxUnavailable if it can."""
        test = Test(id="probe", kind="stdio", input="", expected="")
        problem = Problem(id="probe", task="sandbox", prompt="", tests=(test,))
        completion = Completion(problem_id="probe", index=0, text="", program=probe(self._tier.name))
        for _ in range(2):
            ((_, (execution,)),) = list(self.run([Job(problem=problem, completion=completion)]))
            if execution.status != Status.passed:
                raise SandboxUnavailable(
                    f"the sandbox does not keep what it promises here ({execution.status}: {execution.detail} "
                    f"{execution.stdout or ''}): do not run untrusted programs on this machine."
                )


class _End:
    """What `next` gives after the last job."""


_END = _End()


class _Stream:
    """Jobs on their way in: pulled one by one, equal programs recognised."""

    def __init__(self, source: Iterator[Job | None]) -> None:
        self.source = source
        self.exhausted = False
        self.starved = False
        """The source had nothing ready when it was last asked."""
        self.again: list[Job] = []
        self.n_waiting = 0
        self._aside: list[Job] = []
        self._patient: set[Fingerprint] = set()
        self._slow_problems: set[int] = set()
        """Those with a right program that was slow: the next ones get all of their limits at once."""
        self._waiting: dict[Fingerprint, list[Job]] = {}
        self._finished: OrderedDict[Fingerprint, tuple[Problem, Executions]] = OrderedDict()
        """With the problem, so that its id() is not used again while it is here."""

    @property
    def has_next(self) -> bool:
        """Is there something to run, or may there be?"""
        return bool(self._aside) or self._may_pull

    @property
    def _may_pull(self) -> bool:
        return not self.exhausted and self.n_waiting < MAX_REMEMBERED and len(self._aside) < MAX_ASIDE

    def next_job(self) -> tuple[Job | None, Executions | None]:
        """As `pull`, or one that was put aside."""
        if self._may_pull:
            job, known = self.pull()
            if not (self.starved and self._aside):
                return job, known
        self.starved = False
        job = self._aside.pop(0)
        self._patient.add(_fingerprint(job))
        return job, None

    def is_patient(self, job: Job) -> bool:
        """Has the job all of its limits?"""
        return _fingerprint(job) in self._patient

    def put_aside(self, job: Job) -> None:
        """The job is to be repeated: with all of its limits, or alone if it had them."""
        (self.again if self.is_patient(job) else self._aside).append(job)

    def pull(self) -> tuple[Job | None, Executions | None]:
        """The next job and, if they need no worker, its executions; (None, None) if it waits or there is none."""
        job = next(self.source, _END)
        self.exhausted = job is _END
        self.starved = job is None
        if job is None or isinstance(job, _End):
            return None, None
        at_once = _without_running(job)
        if at_once is not None:
            return job, at_once
        fingerprint = _fingerprint(job)
        if fingerprint in self._finished:
            self._finished.move_to_end(fingerprint)
            return job, _copied(self._finished[fingerprint][1], job)
        if fingerprint in self._waiting:
            self._waiting[fingerprint].append(job)
            self.n_waiting += 1
            return None, None
        self._waiting[fingerprint] = []
        if id(job.problem) in self._slow_problems:
            self._patient.add(fingerprint)
        return job, None

    def finish(self, job: Job, executions: Executions) -> Iterator[tuple[Job, Executions]]:
        """The job with its result, and every equal one that waited for it."""
        fingerprint = _fingerprint(job)
        self._finished[fingerprint] = job.problem, executions
        if fingerprint in self._patient:
            self._patient.remove(fingerprint)
            if executions[-1].status == Status.passed:
                self._slow_problems.add(id(job.problem))
        if len(self._finished) > MAX_REMEMBERED:
            self._finished.popitem(last=False)
        yield job, executions
        for other in self._waiting.pop(fingerprint):
            self.n_waiting -= 1
            yield other, _copied(executions, other)


def _fingerprint(job: Job) -> Fingerprint:
    return id(job.problem), job.completion.program or ""


def _without_running(job: Job) -> Executions | None:
    """Executions of a job that needs no process: no program, or one beyond every size."""
    program = job.completion.program
    if not job.problem.tests:
        raise InputError(f"problem {job.problem.id!r} of task {job.problem.task!r} has no tests: nothing can be run.")
    if program is None:
        detail = "no program in the completion"
    elif len(program) > MAX_PROGRAM_CHARACTERS:
        detail = f"a program of {len(program)} characters; {MAX_PROGRAM_CHARACTERS} are accepted"
    else:
        return None
    return (_execution(job, job.problem.tests[0], Status.compile_error, detail),)


def _copied(executions: Executions, job: Job) -> Executions:
    """The executions of an equal program, as this job's."""
    fields = Execution.__struct_fields__
    return tuple(
        Execution(**{name: getattr(one, name) for name in fields} | {"index": job.completion.index})
        for one in executions
    )


def _next_test(job: Job, reports: list[dict[str, Any]]) -> Test:
    return job.problem.tests[min(len(reports), len(job.problem.tests) - 1)]


def _with_timeout(job: Job, reports: list[dict[str, Any]]) -> Executions:
    """What was reported, then a timeout of the test at which the judge had to be ended."""
    late = _execution(job, _next_test(job, reports), Status.timeout, "judging its answer took too long")
    return (*_executions(job, reports), late)


def _executions(job: Job, reports: list[dict[str, Any]]) -> Executions:
    return tuple(
        Execution(
            problem_id=job.problem.id,
            index=job.completion.index,
            test_id=report["test_id"],
            status=Status(report["status"]),
            detail=report["detail"],
            stdout=report["stdout"],
            value_digest=report["value_digest"],
            value=report.get("value"),
            lines=None if report["lines"] is None else tuple(report["lines"]),
            cpu_s=report.get("cpu_s"),
            wall_s=report.get("wall_s"),
            max_rss_bytes=report.get("max_rss_bytes"),
        )
        for report in reports
    )


def _execution(job: Job, test: Test, status: Status, detail: str) -> Execution:
    return Execution(
        problem_id=job.problem.id, index=job.completion.index, test_id=test.id, status=status, detail=detail
    )
