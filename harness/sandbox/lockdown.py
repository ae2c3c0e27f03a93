"""What the judge, the zygote and every program's process give up, for good, in every tier.

Main functions: `prepare` once per process (`prepare_wide` in the launcher of programs in other languages), `confine`
where it must become harmless. In that order: no capabilities, no
new privileges, resource limits, no access to files but the standard library, no system calls but those of computing and
reading. Children inherit all of it. Not handled: hiding file names and sizes; outside of namespaces, how many threads
there are (only their memory is bounded).
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterable
from typing import NamedTuple

from harness.sandbox import landlock, seccomp, syscalls

MAX_OPEN_FILES = 64
MAX_THREADS = 256


class Confinement(NamedTuple):
    """What `confine` needs, built beforehand because that takes a few milliseconds."""

    rules: int
    """File descriptor of the Landlock rules."""
    calls: seccomp.Filter


def prepare(role: seccomp.Role, *, memory_bytes: int, writable: str | None = None) -> Confinement:
    """Gives up privileges and sets the limits that children inherit; OSError where the machine lacks something.

    With a `writable` folder, confined processes may keep files there.
    """
    syscalls.machine()
    old_landlock = landlock.version() < 3
    code = seccomp.build(role, files=writable is not None, refuse_truncation=old_landlock and writable is None)
    confinement = Confinement(rules=landlock.ruleset(writable), calls=seccomp.Filter(code))
    _give_up()
    lower_limit(resource.RLIMIT_AS, memory_bytes)
    lower_limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    return confinement


def prepare_wide(folders: Iterable[str], *, devices: Iterable[str], writable: str) -> Confinement:
    """As `prepare`, for processes that may start others: what is in `folders`. It sets no limit on memory."""
    syscalls.machine()
    rules = landlock.wide_ruleset(folders, devices=devices, writable=writable)
    confinement = Confinement(rules=rules, calls=seccomp.Filter(seccomp.build_wide()))
    _give_up(core_bytes=1)  # unlike 0 it also keeps the kernel from handing a dump to a program of the machine's
    return confinement


def _give_up(*, core_bytes: int = 0) -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.drop_capabilities()
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # no other process of this user may look into it
    lower_limit(resource.RLIMIT_CORE, core_bytes)
    for limit in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        lower_limit(limit, 0)


def lower_limit(limit: int, value: int) -> None:
    """Sets a resource limit, soft and hard, to `value` or to the hard limit that is there, if that is lower."""
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, value))


def grow_stack(size: int) -> None:
    """Lets the main thread's stack grow to `size`: programs recurse. Threads keep the size set at start."""
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def confine(confinement: Confinement) -> None:
    """After this the process can compute and talk over what it holds open, and little else."""
    syscalls.call("landlock_restrict_self", confinement.rules, 0)
    confinement.calls.install()


def die_with_parent() -> None:
    """The kernel kills this process when the one that forked it dies."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
