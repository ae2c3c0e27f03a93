"""Runs untrusted programs on tests, each isolated from the machine, from the judge and from one another.

Main function: `open_sandbox`. A worker is two processes: the judge, which alone holds expected values and test scripts,
and the zygote, which forks one confined process per program (per test for `stdio`). Only plain data passes between the
judge and a program, and a verdict is what the judge finds when it compares that data: never an exit status, never a
word of the program's. `tiers.PROMISES` lists what a program cannot do; opening a sandbox tries all of it.

Files: `pool` (streaming, repeats) > `worker` (two processes) > `judge` (with `scripts`, `compare`, `program`) and
`zygote` (with `candidate`). Both sides share `plain` (values) and `wire` (messages); `lockdown` confines, by means of
`landlock`, `seccomp`, `namespaces` and `syscalls`; `containers` puts a zygote into Docker; `tiers` says which ways of
isolating there are. For languages other than Python (`language`, `languages/*.yaml`) a `launcher` (with `watch`) is in
the zygote's place: it compiles a program once, and starts it for each test.
Not handled: packages for programs, several processes in a Python program.
"""

from __future__ import annotations

import contextlib
import os

from harness.errors import InputError, SandboxUnavailable
from harness.sandbox.pool import Pool
from harness.sandbox.tiers import choose
from harness.types import Limits

__all__ = ["open_sandbox"]


def open_sandbox(
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    tier: str = "auto",
    all_tests: bool = False,
    lines: bool = False,
    values: bool = False,
) -> Pool:
    """A `types.Sandbox` of `workers` workers (as many as cores if None); close it, or use it in a `with`.

    A problem's tests are run in order up to the first that is not passed, or all of them if `all_tests`. With
    `lines`, executions say which lines of the program ran, and programs take several times longer. With `values`, those
    of call tests have the value that was returned, as text. The tier "auto" is the best that keeps its promises here
    and needs no Docker; "docker:IMAGE" is "docker" with another image than ours.
    Raises SandboxUnavailable where the tier asked for does not keep its promises.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    if workers < 1:
        raise InputError(f"a sandbox needs at least one worker, not {workers}.")
    candidates, limits = choose(tier), limits or Limits()
    for candidate in candidates[:-1]:
        with contextlib.suppress(SandboxUnavailable):
            return Pool(candidate, limits, workers=workers, all_tests=all_tests, lines=lines, values=values)
    return Pool(candidates[-1], limits, workers=workers, all_tests=all_tests, lines=lines, values=values)
