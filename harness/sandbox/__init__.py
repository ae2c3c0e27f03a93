"""Runs untrusted programs on tests, each isolated from the machine, from the judge and from one another.

Main function: `open_sandbox`. A worker is two processes: the judge, which alone holds expected values and test scripts,
and the zygote, which forks one confined process per program (per test for `stdio`). Only plain data passes between the
judge and a program, and a verdict is what the judge finds when it compares that data: never an exit status, never a
word of the program's. `tiers.PROMISES` lists what a program cannot do; opening a sandbox tries all of it.

Files: `pool` (streaming, repeats) > `worker` (two processes) > `judge` (with `scripts`, `compare`, `program`) and
`zygote` (with `candidate`). Both sides share `plain` (values) and `wire` (messages); `lockdown` confines, by means of
`landlock`, `seccomp` and `syscalls`; `tiers` says which ways of isolating there are.
Not handled: languages other than Python, files and packages for programs, several processes in a program.
"""

from __future__ import annotations

import os

from harness.errors import InputError
from harness.sandbox.pool import Pool
from harness.sandbox.tiers import choose
from harness.types import Limits

__all__ = ["open_sandbox"]


def open_sandbox(
    *, workers: int | None = None, limits: Limits | None = None, tier: str = "auto", all_tests: bool = False
) -> Pool:
    """A `types.Sandbox` of `workers` workers (as many as cores if None); close it, or use it in a `with`.

    A problem's tests are run in order up to the first that is not passed, or all of them if `all_tests`. Raises
    SandboxUnavailable where programs cannot be isolated as the tier promises.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    if workers < 1:
        raise InputError(f"a sandbox needs at least one worker, not {workers}.")
    return Pool(choose(tier), limits or Limits(), workers=workers, all_tests=all_tests)
