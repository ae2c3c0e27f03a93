"""Whether two maths expressions are equal, asked of math-verify in a process of its own: `compare`.

Model text must not reach sympy in this process: it can run forever, eat all memory and, in some readers, run Python.
The worker is started when first needed, limited in memory and CPU time, replaced after a crash or a timeout, and ended
at exit; a lock lets threads share it, and a forked process starts its own. The limit is on CPU time, so that a verdict
doesn't depend on how busy the machine is; the wall clock is a backstop.

Not handled: Windows (no resource limits). Comparisons are one at a time: about 5 to 50 ms each.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from harness.errors import MissingDependency

START_WALL_S = 120.0
WALL_PER_CPU_S = 6.0
"""A comparison may take this many times its CPU limit before it is given up: only a stalled machine takes so long."""
_WORKER = Path(__file__).with_name("symbolic_worker.py")
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")


class UsedUp(Exception):
    """The comparison used up its CPU time, memory or stack: asked again, it would do so again."""


class _Ended(Exception):
    """The worker gave no reply; `.args[0]` says whether it is of any use to ask again."""


class _Worker:
    """One math-verify process and its pipes."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        # -P: the script's own folder has modules that would hide the standard library's.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"PYTHONHASHSEED": "0"},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        self.unread = b""
        self.asked = 0
        try:
            hello = self.read(START_WALL_S)
        except _Ended:
            self.end()
            raise
        if "missing" in hello:
            self.end()
            raise MissingDependency("math-verify", "math", "comparing maths answers that are not plain numbers")

    def ask(self, answer: str, reference: str, cpu_s: float) -> dict[str, Any]:
        """The reply to one request; raises `_Ended` if there is none."""
        self.asked += 1
        request = {"number": self.asked, "answer": answer, "reference": reference, "cpu_s": cpu_s}
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise _Ended(True) from None
        # Numbered, since Ctrl-C may leave the reply to an earlier request unread.
        while (reply := self.read(cpu_s * WALL_PER_CPU_S))["number"] != self.asked:
            pass
        return reply

    def read(self, wall_s: float) -> dict[str, Any]:
        """One line of the worker's, or `_Ended` when it died or the wall clock ran out."""
        assert self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        deadline = time.monotonic() + wall_s
        while b"\n" not in self.unread:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _Ended(True)
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                # A CPU limit would be hit again; whatever else killed it may not be.
                raise _Ended(self.process.wait() != -signal.SIGXCPU)
            self.unread += piece
        line, _, self.unread = self.unread.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


_lock = threading.Lock()
_worker: _Worker | None = None
_inherited: list[_Worker | None] = []
"""A forked process's references to its parent's worker, kept so that nothing closes them."""


def compare(answer: str, reference: str, *, timeout_s: float = 5.0) -> bool | None:
    """Whether math-verify finds the LaTeX texts equal; None if its process crashed or stalled twice.

    Values are compared exactly or in 300 digits. `timeout_s` is CPU time. Raises `UsedUp` if the limits are not enough.
    """
    with _lock:
        for _ in range(2):
            try:
                reply = _ready_worker().ask(answer, reference, timeout_s)
            except _Ended as ended:
                close()
                if not ended.args[0]:
                    raise UsedUp(f"comparing takes more than {timeout_s:g} s") from None
                continue
            if "equal" in reply:
                return bool(reply["equal"])
            close()  # it ran out of memory or stack: a new one is cleaner
            raise UsedUp("comparing takes too much memory")
    return None


def close() -> None:
    """Ends the worker; the next comparison starts another."""
    global _worker
    if _worker is not None:
        _worker.end()
        _worker = None


def _ready_worker() -> _Worker:
    global _worker
    if _worker is None:
        _worker = _Worker()
    return _worker


def _after_fork() -> None:
    global _lock, _worker
    _lock = threading.Lock()
    _inherited.append(_worker)
    _worker = None


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
