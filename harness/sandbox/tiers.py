"""The isolation tiers: what each promises, and how its two processes are started.

Main functions: `choose` a tier by name; `Tier.judge` and `Tier.zygote` name the modules that its processes run.
`PROMISES` is the one list of what a program cannot do; `PROBE`, run through every sandbox when it is opened, tries it
all. There is one tier today, "landlock"; another is another entry of `TIERS`.
Not handled: Docker, namespaces, other languages.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from harness.errors import SandboxUnavailable, UnknownName
from harness.sandbox import landlock, syscalls

PROTOCOL = 2
"""Changes whenever the same program could get another verdict from us."""

PROMISES: dict[str, str] = {
    "no network": "import socket; socket.socket()",
    "no other socket address": "import socket; a, b = socket.socketpair(); a.sendto(b'', 'x')",
    "no process of its own": "os.fork()",
    "no other program": "os.execv(sys.executable or '/bin/true', ['x'])",
    "no signal to others": "os.kill(os.getppid(), 0)",
    "no signal through a descriptor's owner": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "no look into other processes": "open(f'/proc/{os.getppid()}/maps')",
    "no files outside the standard library": "open('/etc/passwd')",
    "no list of folders": "os.listdir('/')",
    "no new files": "open('/tmp/.harness_probe', 'w')",
    "no file in the working folder": "open('.harness_probe', 'w')",
    "no change to the standard library": "open(os.__file__, 'r+')",
    "no change of modes": "os.chmod('/tmp', 0o1777)",
    "no change of owners": "os.chown('/tmp', 0, 0)",
    "no file in memory": "os.memfd_create('x')",
    "no higher limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
}
"""What a program cannot do, each with a statement that must raise OSError or ValueError."""

PROBE = f"""
import os, sys
for promise, attempt in {PROMISES!r}.items():
    try:
        exec(attempt)
    except (OSError, ValueError):
        continue
    print(promise.replace(" ", "_"))
"""
"""Prints every promise that does not hold."""


@dataclass(frozen=True)
class Tier:
    """A way of isolating programs."""

    name: str
    judge: str
    """Module whose `main` is the judge's process."""
    zygote: str
    """Module whose `main` is the process that starts programs."""


TIERS = {"landlock": Tier(name="landlock", judge="harness.sandbox.judge", zygote="harness.sandbox.zygote")}


def choose(name: str) -> Tier:
    """The tier of that name, or the best one that this machine allows for "auto"; SandboxUnavailable if it does not."""
    if name != "auto" and name not in TIERS:
        raise UnknownName("sandbox tier", name, ("auto", *TIERS))
    try:
        syscalls.machine()
        landlock.version()
    except OSError as error:
        raise SandboxUnavailable(
            f"programs cannot be isolated here ({error}): use 64-bit Linux 5.13 or later with Landlock enabled."
        ) from error
    return TIERS["landlock"]


def version(tier: Tier) -> str:
    """What may change a verdict: tier, our protocol, Python, machine and packages that programs see."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{tier.name}, protocol {PROTOCOL}, python {python} {syscalls.machine()}, stdlib"
