"""Programs that try to get a wrong answer passed, or to harm the machine: never passed, in time, nothing touched.

The collection of attack files is outside the repository; the shorter list here is our own.
"""

# ruff: noqa: E501 - one program to a line

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.grading.code import verdict
from harness.sandbox import judge, open_sandbox
from harness.sandbox.program import SandboxFailed
from harness.sandbox.tiers import PROMISES
from harness.types import Completion, Job, Limits, Problem, Status
from harness.types import Test as Case

CANARY = Path("/tmp/attack_canary")  # the attack files name it
PORT = 45999


def stdio_problems(shared_attacks: Path) -> dict[str, tuple[Problem, str]]:
    found = {}
    for name, row in json.loads((shared_attacks / "stdio_problems.json").read_text()).items():
        pairs = enumerate(zip(row["inputs"], row["outputs"], strict=True))
        tests = tuple(Case(id=str(i), kind="stdio", input=given, expected=wanted) for i, (given, wanted) in pairs)
        found[name] = (Problem(id=name, task="stdio", prompt="", tests=tests), row["gold"])
    return found


@pytest.fixture
def canaries(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What must stay untouched; yields a listening socket that nobody may reach."""
    for folder in ("home", "tmp/othersample", "dataset", "userlib", "marks"):
        (CANARY / folder).mkdir(parents=True, exist_ok=True)
    (CANARY / "marks").chmod(0o777)
    (CANARY / "home/keep.txt").write_text("KEEP")
    (CANARY / "home/secret.txt").write_text("SECRET-0451")
    (CANARY / "tmp/othersample/solution.py").write_text("pass")
    (CANARY / "tmp/othersample/expected_1.out").write_text("3\n")
    shutil.copy(shared_data / "HumanEval.jsonl.gz", CANARY / "dataset")
    monkeypatch.setenv("GRADER_API_KEY", "sk-canary-123")
    monkeypatch.setenv("HOME", str(CANARY / "home"))
    monkeypatch.setenv("TMPDIR", str(CANARY / "tmp"))
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PORT))
        listener.listen()
        listener.setblocking(False)
        yield listener
    shutil.rmtree(CANARY)


def harm_done(listener: socket.socket) -> list[str]:
    """What was touched, for the message of a failing test."""
    found = [f"mark {name}" for name in os.listdir(CANARY / "marks")]
    if (CANARY / "home/keep.txt").read_text() != "KEEP":
        found.append("keep.txt changed")
    if sorted(os.listdir(CANARY / "home")) != ["keep.txt", "secret.txt"] or os.listdir(CANARY / "userlib"):
        found.append("files added or removed")
    if oct((CANARY / "marks").stat().st_mode & 0o777) != "0o777":
        found.append("mode changed")
    with contextlib.suppress(BlockingIOError):
        listener.accept()
        found.append("connected")
    return found


@pytest.mark.slow
def test_attack_files(
    shared_attacks: Path, humaneval: dict[str, tuple[Problem, str]], canaries: socket.socket, tier: str
) -> None:
    stdio = stdio_problems(shared_attacks)
    jobs: list[tuple[str, Job]] = []
    for path in sorted(shared_attacks.glob("func/*.py")) + sorted(shared_attacks.glob("stdio/*.py")):
        source = path.read_text()
        target = re.search(r"# TASK: (?:stdio/)?(\S+)", source)
        assert target is not None
        problem, gold = {**humaneval, **stdio}[target[1]]
        program = problem.prompt + "    pass\n\n" + source if problem.task == "humaneval" else source
        for name, text in ((path.stem, program), ("", f"{gold}\n# after {path.stem}")):
            job = Job(problem=problem, completion=Completion(problem_id=problem.id, index=0, text="", program=text))
            jobs.append((name, job))
    assert len(jobs) > 100
    names = {id(job): name for name, job in jobs}
    failures: list[str] = []
    last = time.monotonic()
    with open_sandbox(workers=2, limits=Limits(cpu_s=1, wall_s=2, memory_bytes=150 << 20), tier=tier) as box:
        for job, executions in box.run(job for _, job in jobs):
            name, found = names[id(job)], verdict(job.problem, job.completion, executions)
            late, last = time.monotonic() - last > 6, time.monotonic()
            harm = harm_done(canaries)
            if found.passed is not (name == "") or late or harm:
                failures.append(f"{name or 'gold'}: {found.status} {found.detail} late={late} {harm}")
    assert not failures


WRONG = {
    "class that lies about itself": "class A:\n    __class__ = bool\n    def __eq__(s, o): return True\n    def __bool__(s): return True\ndef f(x): return A()",
    "tuple subclass": "class A(tuple):\n    def __eq__(s, o): return True\n    __hash__ = None\ndef f(x): return A()",
    "float subclass": "class A(float):\n    def __sub__(s, o): return 0.0\n    __rsub__ = __sub__\n    def __eq__(s, o): return True\ndef f(x): return A(7)",
    "patched codec": "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'encode') and hasattr(m, 'Opaque'):\n        m.encode = lambda v, **k: {'zz': 1}\ndef f(x): return 1",
    "patched json": "import json\njson.dumps = lambda *a, **k: '{\"kind\": \"passed\", \"value\": true, \"status\": \"passed\"}'\ndef f(x): return 1",
    "forged message": "import os, json, struct\ndef f(x):\n    b = json.dumps({'kind': 'done', 'status': 'passed', 'reports': []}).encode()\n    os.write(3, struct.pack('<I', len(b)) + b)",
    "garbage for a text": "import os, json, struct\ndef f(x):\n    b = json.dumps({'kind': 'raised', 'name': [1], 'text': {'a': 1}}).encode()\n    os.write(3, struct.pack('<I', len(b)) + b)",
    "nested text": "import os, struct\nb = b'{\"kind\":\"x\",\"text\":' + b'[' * 4000 + b']' * 4000 + b'}'\nos.write(3, struct.pack('<I', len(b)) + b)",
    "equal hashes in a set": "def f(x): return {k * (2**61 - 1) for k in range(3000)}",
    "opaque inside": "def f(x): return [object()]",
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef f(x): raise ValueError",
    "exit from a thread": "import threading, os\nthreading.Thread(target=lambda: os._exit(0)).start()\ndef f(x): return 1",
    "exit by alarm": "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ndef f(x):\n    while True: pass",
    "frames": "import sys, gc\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        if 'expected' in frame.f_locals: return frame.f_locals['expected']\n        frame = frame.f_back\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'expected' in o: return o['expected']",
    "own memory": "def f(x): return open('/proc/self/mem', 'rb').read(1)",
    "parent's memory": "import os\ndef f(x): return open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "parent's environment": "import os\ndef f(x): return open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "parent's descriptors": "import os\ndef f(x): return [open(f'/proc/{os.getppid()}/fd/{n}', 'rb').read(1) for n in range(3, 9)]",
    "program replaced": "import os, sys\ndef f(x): os.execv('/usr/bin/true', ['true'])",
    "ctypes fork": "import ctypes\ndef f(x): return ctypes.CDLL(None).fork() >= 0 or 1 / 0",
    "32-bit or odd call": "import ctypes\ndef f(x): return ctypes.CDLL(None).syscall(0x40000000 + 57) >= 0 or 1 / 0",
    "priority": "import os\ndef f(x): return os.nice(1) and os.sched_setaffinity(0, {0})",
    "huge pipe": "import fcntl, os\ndef f(x): return fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_own_attacks(box: Any, make_job: Any, name: str) -> None:
    test = Case(id="0", kind="script", input="assert candidate(1) == 'the expected value'")
    gold = make_job("def f(x): return 'the expected value'", test, index=1)
    zygote, judge = box._workers[0].zygote.pid, box._workers[0].judge.pid
    (_, (attack,)), (_, (after,)) = list(box.run([make_job(WRONG[name], test), gold]))
    assert attack.status not in (Status.passed, Status.sandbox_error), attack
    assert after.status == Status.passed
    assert (zygote, judge) == (box._workers[0].zygote.pid, box._workers[0].judge.pid)


RAW = "import os, struct\ndef raw(b):\n    b = struct.pack('<I', len(b)) + b\n    while b: b = b[os.write(3, b):]\n"
VALUE = RAW + """def f(x): raw(b'{"kind":"value","value":' + %s + b'}')"""

HOSTILE_VALUES = {
    "signalling nan": ("from decimal import Decimal\ndef f(x): return Decimal('sNaN')", 5, Status.wrong),
    "signalling nan inside": ("from decimal import Decimal\ndef f(x): return [Decimal('sNaN')]", [5], Status.wrong),
    "signalling nan for a float": ("from decimal import Decimal\ndef f(x): return Decimal('sNaN')", 5.0, Status.wrong),
    "unhashable in a view": (VALUE % """b'{"v":["items",[[1,[]]]]}'""", {1}, Status.wrong),
    "long iterator": (VALUE % """b'{"g":[' + b'0,' * 100000 + b'0]}'""", 5, Status.tampered),
    "deep scalar": (VALUE % """b'[' * 200 + b'{"D":"1"}' + b']' * 200""", 5, Status.tampered),
    "integer over the bound": (VALUE % """b'{"i":"0x' + b'f' * 1048577 + b'"}'""", 5, Status.tampered),
    "fraction of an exponent": (VALUE % """b'{"F":["1e9999999"]}'""", 5, Status.tampered),
    "odd name": (RAW + """def f(x): raw(b'{"kind":"raised","name":"\\\\ud800","text":"\\\\ud800"}')""", 5, Status.runtime_error),
    "huge range": ("def f(x): return range(10**15)", [1], Status.output_limit),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_VALUES)
def test_no_value_ends_the_judge(box: Any, call: Any, name: str) -> None:
    program, expected, status = HOSTILE_VALUES[name]
    before = box._workers[0].judge.pid
    execution = call(program, [1], expected)
    assert execution.status == status, execution
    assert box._workers[0].judge.pid == before


def test_what_breaks_the_judge_is_the_programs_if_it_had_spoken() -> None:
    program = SimpleNamespace(spoke=True)
    assert judge._stopped(cast(Any, program), KeyError()).status == "tampered"
    assert judge._stopped(cast(Any, program), MemoryError()).status == "memory"
    assert judge._stopped(cast(Any, program), SandboxFailed("x")).status == "sandbox_error"
    program.spoke = False
    assert judge._stopped(cast(Any, program), KeyError()).status == "sandbox_error"


@pytest.mark.slow
@pytest.mark.parametrize(
    "trick", ["signal.signal(signal.SIGXCPU, signal.SIG_IGN)", "resource.setrlimit(resource.RLIMIT_CPU, (2, 2))"]
)
def test_cpu_time_beyond_the_limit_is_a_timeout_whatever_became_of_the_signal(
    stdio: Any, script: Any, trick: str
) -> None:
    late = f"import signal, resource, time\n{trick}\nwhile time.process_time() < 1.3: pass\n"
    for execution in (stdio(late + "print(1)", "", "1"), script(late + "def f(): return 1", "assert candidate() == 1")):
        assert execution.status == Status.timeout, execution
        assert "CPU" in execution.detail


@pytest.mark.parametrize("promise", sorted({promise for promises in PROMISES.values() for promise in promises}))
def test_each_promise_is_an_operating_system_error(script: Any, tier: str, promise: str) -> None:
    if promise not in PROMISES[tier]:
        return
    execution = script(f"import os, sys\n{PROMISES[tier][promise]}\ndef f(): pass", "pass")
    assert execution.status == Status.runtime_error
    assert re.match(r"(PermissionError|OSError|ValueError|FileNotFoundError):", execution.detail), execution


def test_installed_packages_are_out_of_reach(stdio: Any) -> None:
    program = """
import os, sys
for folder in sys.path + ['/usr/lib/python3/dist-packages']:
    for name in ('site-packages', 'dist-packages', ''):
        path = os.path.join(folder, name) if name else folder
        if 'packages' in path and os.path.isdir(path):
            sys.path.append(path)
try:
    import pip
except (ImportError, OSError):
    print('unreachable')
"""
    assert stdio(program, "", "unreachable").status == Status.passed


def test_environment_is_empty(stdio: Any, tier: str) -> None:
    folder = {"landlock": "/", "namespaces": "/var/tmp", "docker": "/"}[tier]
    assert stdio("import os\nprint(len(os.environ), os.getcwd())", "", f"0 {folder}").status == Status.passed
