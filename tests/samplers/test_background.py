"""Asynchronous work behind an iterator: nothing lost, errors last, and it ends with whoever takes the results."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

import pytest

from harness.samplers import background
from harness.samplers.background import stream


@asynccontextmanager
async def squares():
    async def worker(job):
        await asyncio.sleep(0.001 * (job % 3))
        if job == 13:
            raise ValueError("thirteen")
        yield job * job
        yield -job

    yield worker


def test_every_result_comes_once():
    jobs = [job for job in range(100) if job != 13]
    found = list(stream(jobs, squares, concurrency=7, waiting=2))
    assert sorted(found) == sorted([*(job * job for job in jobs), *(-job for job in jobs)])


def test_an_error_comes_after_the_results():
    found = []
    with pytest.raises(ValueError, match="thirteen"):
        found.extend(stream(range(100), squares, concurrency=4, waiting=4))
    assert {job * job for job in range(12)} <= set(found)


def test_jobs_are_drawn_when_there_is_room():
    drawn = []

    def jobs():
        for job in range(14, 50):
            drawn.append(job)
            yield job

    results = stream(jobs(), squares, concurrency=2, waiting=3)
    next(results)
    time.sleep(0.1)
    assert len(drawn) == 5
    assert len([*results]) == 2 * 36 - 1


def test_an_error_of_the_opening_and_one_of_the_jobs_are_raised():
    @asynccontextmanager
    async def closed():
        raise OSError("shut")
        yield

    def jobs():
        yield 1
        raise OSError("no more jobs")

    with pytest.raises(OSError, match="shut"):
        list(stream([1], closed, concurrency=1))
    with pytest.raises(OSError, match="no more jobs"):
        list(stream(jobs(), squares, concurrency=1))


def test_it_works_where_a_loop_runs_already():
    async def notebook():
        return list(stream(range(5), squares, concurrency=2))

    assert len(asyncio.run(notebook())) == 10


def test_what_takes_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(background, "GRACE_S", 0.05)

    @asynccontextmanager
    async def mixed():
        async def worker(job):
            if job == 0:
                raise ValueError("zero")
            await asyncio.sleep(60)
            yield job

        yield worker

    begun = time.monotonic()
    with pytest.raises(ValueError, match="zero"):
        list(stream([1, 2, 0], mixed, concurrency=3))
    assert time.monotonic() - begun < 2
    assert "harness-stream" not in {thread.name for thread in threading.enumerate()}


def test_a_forgotten_iterator_does_not_keep_the_interpreter():
    code = """
import asyncio
from contextlib import asynccontextmanager
from harness.samplers.background import stream
@asynccontextmanager
async def start():
    async def worker(job):
        yield job
        if job:
            await asyncio.sleep(60)
    yield worker
results = stream(range(9), start, concurrency=2)
kept = [results]
print(next(results))
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=20, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("0\n", "")
