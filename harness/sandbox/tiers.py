"""The isolation tiers: what each promises, and how its two processes are started.

Main functions: `choose` the tiers to try by name. `PROMISES` is the one table of what a program cannot do in each tier;
`probe`, run through every sandbox when it is opened, tries it all. "landlock" (Landlock, system-call filter, resource
limits) works in ordinary containers; "namespaces" is the same behind walls: namespaces of the worker's own and a small
read-only root with a private /tmp; "docker" is "landlock" in a container of ours for each worker, and is used only when
asked for, since it needs a daemon and an image, and is slow to start. Not handled here: other languages (`launcher`).
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

from harness.errors import SandboxUnavailable, UnknownName
from harness.sandbox import containers, landlock, lockdown, syscalls

PROTOCOL = 3
"""Changes whenever the same program could get another verdict from us."""

COMMON: dict[str, str] = {
    "no network": "import socket; socket.socket()",
    "no other socket address": "import socket; a, b = socket.socketpair(); a.sendto(b'', 'x')",
    "no process of its own": "os.fork()",
    "no other program": "os.execv(sys.executable or '/bin/true', ['x'])",
    "no signal to others": "os.kill(os.getppid(), 0)",
    "no signal through a descriptor's owner": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "no look into other processes": "open(f'/proc/{os.getppid()}/maps')",
    "no files outside the standard library": "open('/etc/passwd')",
    "no list of folders": "os.listdir('/')",
    "no change to the standard library": "open(os.__file__, 'r+')",
    "no change of modes": "os.chmod('/tmp', 0o1777)",
    "no change of owners": "os.chown('/tmp', 0, 0)",
    "no file in memory": "os.memfd_create('x')",
    "no higher limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
}
THREADS = f"""
import _thread, threading, time
threading.stack_size(1 << 16)
try:
    for _ in range({lockdown.MAX_THREADS}):
        _thread.start_new_thread(time.sleep, (60,))
except RuntimeError as error:
    raise OSError(str(error))
"""


def _unless(escaped: str) -> str:
    """A statement that raises if `escaped` is false."""
    return f"if not ({escaped}): raise OSError('as promised')"


PROMISES: dict[str, dict[str, str]] = {
    "namespaces": COMMON
    | {
        "no names or sizes of files outside": "os.stat('/etc/passwd')",
        "no sight of other processes": "os.stat('/proc/1')",
        "no new files but in a private /tmp": "open('/var/.harness_probe', 'w')",
        "no files of an earlier program": "os.stat('/tmp/large')",
        "no more than 16 MiB of files": "open('/tmp/large', 'wb').write(bytes(17 << 20))",
        "no more than 256 threads": THREADS,
    },
    "landlock": COMMON
    | {
        "no new files": "open('/tmp/.harness_probe', 'w')",
        "no file in the working folder": "open('.harness_probe', 'w')",
    },
    "docker": COMMON
    | {
        "no new files": "open('/tmp/.harness_probe', 'w')",
        "no file in the working folder": "open('.harness_probe', 'w')",
        "no shared memory": "open('/dev/shm/.harness_probe', 'w')",
        "no sight of processes outside": _unless(
            "any(os.path.exists(f'/proc/{n}') for n in range(2, 99) if n - os.getpid())"
        ),
        "no sight of the machine's files": "os.stat('/var/lib/docker')",
        "no way to the Docker daemon": "os.stat('/var/run/docker.sock')",
        "no network card": "os.stat('/sys/class/net/eth0')",
        "not as root": _unless("0 in (os.getuid(), os.geteuid(), os.getgid(), os.getegid())"),
        "no more than 256 threads": THREADS,
    },
}
"""What a program cannot do in each tier, best first, each with a statement that must raise OSError or ValueError."""


def probe(tier: str) -> str:
    """A program that prints every promise of the tier that does not hold; to be run twice, for it leaves files."""
    return f"""
import os, sys
for promise, attempt in {PROMISES[tier]!r}.items():
    try:
        exec(attempt)
    except (OSError, ValueError):
        continue
    print(promise.replace(" ", "_"))
"""


@dataclass(frozen=True)
class Tier:
    """A way of isolating programs."""

    name: str
    judge: str = "harness.sandbox.judge"
    """Module whose `main` is the judge's process."""
    zygote: str = "harness.sandbox.zygote"
    """Module whose `main` is the process that starts programs."""
    image: containers.Image | None = None
    """Where the zygote is in a container: what that is made of."""


TIERS = {name: Tier(name) for name in PROMISES}
NATIVE = ("namespaces", "landlock")


def choose(name: str) -> list[Tier]:
    """The tiers to try, best first: the one of that name, or for "auto" all that need nothing but the machine.

    "docker:IMAGE" is the tier "docker" with another image than ours. SandboxUnavailable if there are none.
    """
    name, _, image = name.partition(":")
    if name not in ("auto", *TIERS) or (image and name != "docker"):
        raise UnknownName("sandbox tier", f"{name}:{image}" if image else name, ("auto", *TIERS))
    try:
        syscalls.machine()
        landlock.version()
    except OSError as error:
        raise SandboxUnavailable(
            f"programs cannot be isolated here ({error}): use 64-bit Linux 5.13 or later with Landlock enabled."
        ) from error
    if name == "docker":
        return [dataclasses.replace(TIERS[name], image=containers.find_image(image or containers.IMAGE))]
    return [TIERS[each] for each in NATIVE] if name == "auto" else [TIERS[name]]


def python_here() -> str:
    """Version and machine of this Python, which programs see where they are in no container."""
    return f"{'.'.join(map(str, sys.version_info[:3]))} {syscalls.machine()}"


def version(tier: Tier, python: str) -> str:
    """What may change a verdict: tier, our protocol, the programs' `python`, image, and packages that they see."""
    image = f", image {tier.image.id.removeprefix('sha256:')[:12]}" if tier.image else ""
    return f"{tier.name}, protocol {PROTOCOL}, python {python}{image}, stdlib"
