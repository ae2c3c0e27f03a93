"""No process stays behind: after closing, after Ctrl-C, after the death of the parent, after an attack."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.sandbox import open_sandbox
from harness.types import Status
from harness.types import Test as Case

PARENT = """
import sys
from harness.sandbox import open_sandbox
from harness.types import Completion, Job, Problem, Test as Case
test = Case(id="0", kind="stdio", input="", expected="")
jobs = [Job(problem=Problem(id="p", task="t", prompt="", tests=(test,)),
            completion=Completion(problem_id="p", index=i, text="", program=p))
        for i, p in enumerate(["while True: pass", "import time; time.sleep(60)"])]
with open_sandbox(workers=2, tier=sys.argv[1]) as box:
    print("open", flush=True)
    list(box.run(jobs))
"""


def descendants(ancestor: int) -> set[int]:
    """Every process below `ancestor`, zombies left out."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(status.parent.name)] = int(parent)
    found, level = set(), {ancestor}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level} - found
        found |= level
    return found


def alive(pids: set[int]) -> set[int]:
    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "gone"

    return {pid for pid in pids if state(pid) not in ("gone", "Z")}


def wait_until(condition: Any, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    "signal_number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGTERM))],
)
def test_nothing_outlives_the_parent(signal_number: int, tier: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tier],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"open\n"
        # 2 workers x (judge, zygote, program), and who waits for the zygote in its namespace; containers are not ours
        n_processes = {"landlock": 6, "namespaces": 8, "docker": 2}[tier]
        assert wait_until(lambda: len(descendants(parent.pid)) == n_processes, 10)
        below = descendants(parent.pid)
        parent.send_signal(signal_number)
        parent.wait(10)
        assert wait_until(lambda: not alive(below), 3), alive(below)
    finally:
        parent.kill()
        parent.communicate()


def test_nothing_is_left_after_closing(tier: str) -> None:
    before = descendants(os.getpid())
    box = open_sandbox(workers=2, tier=tier)
    ours = descendants(os.getpid()) - before
    assert len(ours) == {"landlock": 4, "namespaces": 6, "docker": 2}[tier]
    box.close()
    assert not alive(ours)


def test_no_program_outlives_its_verdict(box: Any, make_job: Any, tier: str) -> None:
    zygote = box._workers[0].zygote.pid
    stubborn = (
        "import signal, threading, time, atexit\n"
        "for n in range(1, 32):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "atexit.register(time.sleep, 60)\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "def f(x): return x\n"
    )
    test = Case(id="0", kind="script", input="assert candidate(1) == 1")
    ((_, (execution,)),) = list(box.run([make_job(stubborn, test)]))
    assert execution.status == Status.passed
    assert box._workers[0].zygote.pid == zygote
    assert len(descendants(zygote)) == (tier == "namespaces")  # the zygote proper, behind its walls


def test_programs_hold_nothing_of_the_sandboxs_own_whatever_its_number(tier: str, make_job: Any) -> None:
    program = "import os\nfor n in range(4, 3000):\n    try: os.fstat(n)\n    except OSError: continue\n    print(n)\n"
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(80)]
    try:
        with open_sandbox(workers=1, tier=tier) as box:
            ((_, (execution,)),) = list(box.run([make_job(program, Case(id="0", kind="stdio", input="", expected=""))]))
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert execution.status == "passed", execution
