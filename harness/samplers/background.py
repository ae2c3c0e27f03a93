"""Asynchronous work behind a plain iterator: `stream` runs a worker on many jobs at once and yields what is finished.

An event loop in a thread of its own goes on while the caller does something else, and works where the caller has a loop
already (a notebook). It is the caller's pace that bounds memory: so many results may wait, then no new job is begun. An
iteration that is abandoned cancels all work; thread and connections are gone when the iterator is closed.

A worker that fails ends the iteration: no job is begun after that, those under way have `GRACE_S` to finish, all
that is finished is yielded, then the first error is raised. Not handled: the order of results.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

J = TypeVar("J")
R = TypeVar("R")
Worker: TypeAlias = Callable[[J], AsyncIterator[R]]

GRACE_S = 30.0
"""What is under way when another job fails was paid for: it is waited for, but not for long."""


@dataclass(frozen=True)
class _Result(Generic[R]):
    value: R


@dataclass(frozen=True)
class _JobTaken:
    """Stands behind the last result of a job: its place is free when the caller gets here."""


class _NoMore:
    """What stands for the end of the jobs: any value may be a job."""


_NO_MORE = _NoMore()


@dataclass(frozen=True)
class _End:
    error: Exception | None


def stream(
    jobs: Iterable[J],
    start: Callable[[], AbstractAsyncContextManager[Worker[J, R]]],
    *,
    concurrency: int,
    waiting: int = 256,
) -> Iterator[R]:
    """Every result of every job, as they come.

    Args:
        jobs: drawn one by one, in the thread, when there is room.
        start: opens what the worker needs (connections), in the thread, and gives the worker.
        concurrency: most jobs under way.
        waiting: most jobs that are finished and whose results the caller hasn't taken.
    """
    results: queue.SimpleQueue[_Result[R] | _JobTaken | _End] = queue.SimpleQueue()
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()
    slots = asyncio.Semaphore(concurrency + waiting)

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.set_result((asyncio.get_running_loop(), task))
        try:
            async with start() as worker:
                await _work(iter(jobs), worker, results, slots=slots, concurrency=concurrency)
        except Exception as error:  # raised again where the results are taken
            results.put(_End(error))
        else:
            results.put(_End(None))
        await asyncio.Event().wait()  # the caller may still call into the loop: it says when all is over

    def thread() -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(main())
        except OSError as error:  # too many open files for a loop
            if running.done():
                raise
            running.set_exception(error)

    # A daemon: a forgotten iterator must not keep the interpreter from ending.
    worker_thread = threading.Thread(target=thread, name="harness-stream", daemon=True)
    worker_thread.start()
    loop, task = running.result()
    try:
        while not isinstance(item := results.get(), _End):
            if isinstance(item, _JobTaken):
                loop.call_soon_threadsafe(slots.release)
            else:
                yield item.value
        if item.error is not None:
            raise item.error
    finally:
        loop.call_soon_threadsafe(task.cancel)
        worker_thread.join()


async def _work(
    jobs: Iterator[J],
    worker: Worker[J, R],
    results: queue.SimpleQueue[_Result[R] | _JobTaken | _End],
    *,
    slots: asyncio.Semaphore,
    concurrency: int,
) -> None:
    failures: list[Exception] = []

    async def line() -> None:
        """One of `concurrency` lines that take jobs from the same iterator."""
        try:
            while await slots.acquire() and not failures:
                job = next(jobs, _NO_MORE)
                if isinstance(job, _NoMore):
                    slots.release()  # another line may be waiting for room to find out the same
                    return
                async for value in worker(job):
                    results.put(_Result(value))
                results.put(_JobTaken())
        except Exception as error:
            failures.append(error)
            raise

    lines = [asyncio.create_task(line()) for _ in range(concurrency)]
    try:
        _, pending = await asyncio.wait(lines, return_when=asyncio.FIRST_EXCEPTION)
        if pending:
            await asyncio.wait(pending, timeout=GRACE_S)
    finally:
        for each in lines:
            each.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
    if failures:
        raise failures[0]
