"""Streaming, repeats and failures of the pool, with real workers."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness.errors import InputError, SandboxUnavailable, UnknownName
from harness.sandbox import open_sandbox, plain, pool, worker, zygote
from harness.sandbox.tiers import NATIVE
from harness.types import Job, Limits, Status
from harness.types import Test as Case

IS_NINE = Case(id="nine", kind="script", input="assert candidate(3) == 9")
SQUARE = "def f(x): return x * x\n"


def statuses(executions: Any) -> list[Status]:
    return [one.status for one in executions]


def test_jobs_are_pulled_as_workers_are_free_and_results_come_early(make_job: Any) -> None:
    pulled = 0

    def endless() -> Iterator[Job]:
        nonlocal pulled
        for index in itertools.count():
            pulled += 1
            yield make_job(f"{SQUARE}# {index}", IS_NINE, index=index)

    with open_sandbox(workers=2) as box:
        results = box.run(endless())
        seen = [next(results)[0].completion.index for _ in range(50)]
        assert len(set(seen)) == 50
        assert pulled <= 50 + 2 * 2
        results.close()  # type: ignore[attr-defined]
        assert [statuses(e) for _, e in box.run([make_job(SQUARE, IS_NINE)])] == [[Status.passed]]


def test_equal_programs_run_once(box: Any, make_job: Any) -> None:
    problem = make_job(SQUARE, IS_NINE).problem
    jobs = [Job(problem=problem, completion=make_job(SQUARE, IS_NINE, index=index).completion) for index in range(20)]
    results = list(box.run(jobs))
    assert sorted(job.completion.index for job, _ in results) == list(range(20))
    assert all(execution.index == job.completion.index for job, (execution,) in results)
    assert len({execution.wall_s for _, (execution,) in results}) == 1
    other = make_job(SQUARE, Case(id="0", kind="script", input="assert candidate(3) == 8"))  # the same id
    assert [statuses(e)[0] for _, e in box.run([jobs[0], other])] == [Status.passed, Status.wrong]


TESTS = (
    Case(id="call 1", kind="call", input=[1], expected=1),
    Case(id="call 2", kind="call", input=[2], expected=5),
    Case(id="call 3", kind="call", input=[3], expected=9),
    IS_NINE,
    Case(id="stdio", kind="stdio", input="", expected="done"),
)


def test_stops_at_the_first_test_that_is_not_passed(box: Any, make_job: Any) -> None:
    ((_, executions),) = list(box.run([make_job(SQUARE, *TESTS)]))
    assert [(one.test_id, one.status) for one in executions] == [("call 1", Status.passed), ("call 2", Status.wrong)]
    assert executions[0].cpu_s is None
    assert executions[1].cpu_s is not None


def test_all_tests_are_run_on_demand(make_job: Any) -> None:
    programs = {
        SQUARE + "print('done')": [Status.passed, Status.wrong, Status.passed, Status.passed, Status.passed],
        "import os\ndef f(x): os._exit(0) if x == 2 else None\n    return x * x": [Status.compile_error] * 5,
        "import os\ndef f(x):\n    if x == 2: os._exit(0)\n    return x * x": [
            Status.passed, Status.runtime_error, Status.passed, Status.passed, Status.wrong
        ],
        "def f(x):\n    while x == 2: pass\n    return x * x": [
            Status.passed, Status.timeout, Status.timeout, Status.passed, Status.wrong
        ],
        "def f(x):\n    if x == 2: raise KeyError\n    return x * x": [
            Status.passed, Status.runtime_error, Status.passed, Status.passed, Status.wrong
        ],
    }  # fmt: skip
    with open_sandbox(workers=1, all_tests=True, limits=Limits(cpu_s=0.5, wall_s=3)) as box:
        for job, executions in box.run(make_job(program, *TESTS) for program in programs):
            assert statuses(executions) == programs[job.completion.program or ""], job.completion.program
            assert [one.test_id for one in executions] == [test.id for test in TESTS]


@pytest.mark.slow
def test_sleeping_counts_only_after_a_second_run_and_loops_at_once(make_job: Any) -> None:
    with open_sandbox(workers=2, limits=Limits(cpu_s=1, wall_s=2)) as box:
        jobs = [make_job("import time\ntime.sleep(60)", IS_NINE), make_job("while True: pass", IS_NINE, index=1)]
        jobs += [make_job(f"{SQUARE}# {index}", IS_NINE, index=index) for index in range(2, 6)]
        started = time.monotonic()
        results = list(box.run(jobs))
    assert time.monotonic() - started > 4
    order = [job.completion.index for job, _ in results]
    assert all(order.index(index) < order.index(0) for index in range(2, 6))  # the sleeper waits for its turn alone
    by_index = {job.completion.index: executions[0] for job, executions in results}
    assert by_index[0].status == Status.timeout
    assert "wall" in by_index[0].detail
    assert (by_index[0].cpu_s or 0) < 0.5
    assert by_index[1].status == Status.timeout
    assert "CPU" in by_index[1].detail
    assert all(by_index[index].status == Status.passed for index in range(2, 6))


@pytest.mark.slow
def test_slow_programs_hold_up_nobody_and_keep_their_limits(make_job: Any) -> None:
    loops = [make_job(f"while True: pass  # {index}", IS_NINE, index=index) for index in range(2)]
    quick = [make_job(f"{SQUARE}# {index}", IS_NINE, index=index) for index in range(2, 40)]
    late = make_job("sum(range(10**7))\n" + SQUARE, IS_NINE, index=40)
    with open_sandbox(workers=1, limits=Limits(cpu_s=1, wall_s=6)) as box:
        started = time.monotonic()
        times = {}
        found = {}
        for job, (execution,) in box.run([loops[0], *quick, late, loops[1]]):
            times[job.completion.index] = time.monotonic() - started
            found[job.completion.index] = execution
    assert max(times[index] for index in range(2, 40)) < times[0]
    assert all(found[index].status == Status.passed for index in range(2, 41))
    for index in (0, 1):
        assert found[index].status == Status.timeout
        assert (found[index].cpu_s or 0) > 0.9


@pytest.mark.slow
def test_a_slow_source_keeps_nothing_back(make_job: Any) -> None:
    """Each job is given only after the one before has come out, though one must wait aside and one run again alone."""
    programs = SQUARE, "while True: pass", "import time\ntime.sleep(60)", f"{SQUARE}# 3"
    came: dict[int, tuple[Status, float, float | None]] = {}
    asked = 0

    def source() -> Iterator[Job | None]:
        nonlocal asked
        for index, program in enumerate(programs):
            while len(came) < index:
                asked += 1
                yield None
            yield make_job(program, IS_NINE, index=index)

    with open_sandbox(workers=2, limits=Limits(cpu_s=1, wall_s=1.2)) as box:
        started = time.monotonic()
        for job, (execution,) in box.run(source()):
            came[job.completion.index] = execution.status, time.monotonic() - started, execution.wall_s
    assert [came[index][0] for index in range(4)] == [Status.passed, Status.timeout, Status.timeout, Status.passed]
    assert 0.9 < (came[1][2] or 0) < 2.5  # the loop's limit is its own, whatever the source does
    assert 0 < asked <= 200 * came[3][1]  # it is not asked without a pause


def test_problems_whose_right_programs_are_slow_are_given_time_at_once(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, given = worker.submit, []

    def submit_and_note(each: worker.Worker, job: Job, limits: Limits, **asked: bool) -> None:
        given.append((job.completion.index, limits.wall_s))
        submit(each, job, limits, **asked)

    monkeypatch.setattr(pool, "MAX_ASIDE", 1)
    first = make_job("import time\ntime.sleep(0.4)\n" + SQUARE, IS_NINE)
    second = Job(problem=first.problem, completion=make_job(f"{SQUARE}# other", IS_NINE, index=1).completion)
    with open_sandbox(workers=1, limits=Limits(wall_s=6)) as box:
        monkeypatch.setattr(worker, "submit", submit_and_note)
        assert [statuses(executions) for _, executions in box.run([first, second])] == [[Status.passed]] * 2
    assert given == [(0, pool.FIRST_TRY_S), (0, 6), (1, 6)]


@pytest.mark.parametrize("victim", ["judge", "zygote"])
def test_a_dead_worker_costs_no_verdict(make_job: Any, victim: str) -> None:
    slow = "import time\ntime.sleep(0.5)\n" + SQUARE

    def jobs() -> Iterator[Job]:
        yield make_job(slow, IS_NINE)
        time.sleep(0.2)
        os.kill(getattr(box._workers[0], victim).pid, signal.SIGKILL)
        yield make_job(SQUARE, IS_NINE, index=1)

    with open_sandbox(workers=2) as box:
        results = dict((job.completion.index, statuses(executions)) for job, executions in box.run(jobs()))
    assert results == {0: [Status.passed], 1: [Status.passed]}


@pytest.mark.slow
def test_answer_that_takes_the_judge_for_ever_is_a_timeout(box: Any, make_job: Any) -> None:
    collide = "def f(x): return [k * (2**61 - 1) for k in range(60000)]"
    hashing = Case(id="0", kind="script", input="assert len(set(candidate(1))) == 1")
    jobs = [make_job(collide, hashing), make_job("def f(x): return [1]", hashing, index=1)]
    found = {job.completion.index: execution for job, (execution,) in box.run(jobs)}
    assert [found[index].status for index in (0, 1)] == [Status.timeout, Status.passed]
    assert "judging" in found[0].detail


def test_judge_that_always_dies_is_our_failure(make_job: Any) -> None:
    with open_sandbox(workers=1) as box:
        broken = make_job(SQUARE, Case(id="0", kind="script", input="pass", setup="import os; os._exit(3)"))
        ((_, (execution,)),) = list(box.run([broken]))
        assert execution.status == Status.sandbox_error
        assert "the judge ended" in execution.detail
        assert [statuses(e) for _, e in box.run([make_job(SQUARE, IS_NINE)])] == [[Status.passed]]


def test_no_room_for_a_worker_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(SandboxUnavailable, match="use fewer workers"):
        open_sandbox(workers=1)


def test_a_fork_is_tried_again_while_threads_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    n_tries = 0

    def fork() -> int:
        nonlocal n_tries
        n_tries += 1
        if n_tries < 3:
            raise BlockingIOError
        return 7

    monkeypatch.setattr(os, "fork", fork)
    assert zygote.fork_patiently() == 7


def test_bad_use_is_refused(box: Any, make_job: Any) -> None:
    with pytest.raises(InputError, match="no tests"):
        list(box.run([make_job(SQUARE)]))
    for bad in (
        Case(id="0", kind="call", input=[1], expected=object()),
        Case(id="0", kind="call", input=1, expected=1),
        Case(id="0", kind="call", input=[1 << plain.MAX_INT_BITS], expected=1),
        Case(id="0", kind="stdio", input="", expected=["a"]),
    ):
        with pytest.raises(InputError, match="problem 'p' cannot be sent"):
            list(box.run([make_job(SQUARE, bad)]))
    with pytest.raises(UnknownName, match="landlock"):
        open_sandbox(tier="landlok")
    with pytest.raises(InputError, match="worker"):
        open_sandbox(workers=0)
    first = box.run([make_job(SQUARE, IS_NINE), make_job(SQUARE + "#", IS_NINE)])
    next(first)
    with pytest.raises(InputError, match="in use"):
        next(box.run([make_job(SQUARE, IS_NINE)]))
    first.close()
    assert [statuses(e) for _, e in box.run([make_job(SQUARE, IS_NINE)])] == [[Status.passed]]


def test_closed_sandbox_refuses() -> None:
    box = open_sandbox(workers=1)
    box.close()
    box.close()
    with pytest.raises(InputError, match="closed"):
        next(box.run([]))


def test_version_names_what_matters(box: Any, tier: str) -> None:
    assert box.version.startswith(f"{tier}, protocol ")
    assert box.version.endswith(", stdlib")


def test_broken_promise_is_noticed_when_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[worker.Worker] = []
    start = worker.start
    monkeypatch.setattr(worker, "start", lambda *args: started.append(start(*args)) or started[-1])
    monkeypatch.setattr(pool, "probe", lambda tier: f"print('no_lists_in_{tier}')")
    with pytest.raises(SandboxUnavailable, match="no_lists_in_landlock"):
        open_sandbox(workers=1)
    assert len(started) == len(NATIVE)  # "auto" tries one after the other
    for each in started:
        assert each.judge.poll() is not None
        assert each.zygote.poll() is not None
