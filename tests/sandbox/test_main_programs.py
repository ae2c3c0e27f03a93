"""Whole programs on standard input and output: the odd but correct ones pass, and the statuses of the others."""

# ruff: noqa: E501 - one program to a line

from typing import Any

import pytest

from harness.types import Status
from harness.types import Test as Case

SUM = "3\n1 2 3\n"

CORRECT = {
    "input": "n = int(input())\nprint(sum(map(int, input().split())))",
    "iterate stdin": "import sys\nlines = [l for l in sys.stdin]\nprint(sum(map(int, lines[1].split())))",
    "readlines": "import sys\nprint(sum(map(int, sys.stdin.readlines()[1].split())))",
    "buffer readline twice": "import sys\nr = sys.stdin.buffer.readline\nr()\nprint(sum(map(int, r().split())))",
    "buffer read": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split()[1:])))",
    "open 0": "print(sum(map(int, open(0).read().split()[1:])))",
    "open dev stdin": "print(sum(map(int, open('/dev/stdin').read().split()[1:])))",
    "os.read": "import os\nprint(sum(map(int, os.read(0, 10000).split()[1:])))",
    "fileinput": "import fileinput\nprint(sum(map(int, list(fileinput.input())[1].split())))",
    "io open": "import io, os\ndata = io.BytesIO(os.read(0, os.fstat(0).st_size))\ndata.readline()\nprint(sum(map(int, data.readline().split())))",
    "os.write": "import os\nos.write(1, b'6\\n')",
    "stdout write": "import sys\nsys.stdout.write('6\\n')",
    "stdout buffer": "import sys\nsys.stdout.buffer.write(b'6')",
    "open dev stdout": "open('/dev/stdout', 'w').write('6\\n')",
    "replaced print": "import sys, io, os\nsys.stdout = io.StringIO()\nprint(6)\nos.write(1, sys.stdout.getvalue().encode())",
    "closes stdout": "import sys\nprint(6)\nsys.stdout.close()",
    "file left open": "out = open(1, 'w', closefd=False)\nout.write('6\\n')",
    "replaced with text pending": "import sys, io\nprint(6)\nsys.stdout = io.StringIO()",
    "text kept until the end": "import atexit, io, sys\nheld = io.StringIO()\nsys.stdout = held\n"
    "atexit.register(lambda: sys.__stdout__.write(held.getvalue()))\nprint(6)",
    "output object of its own": "import io, os, sys\nclass Out(io.IOBase):\n    held = b''\n    def write(self, text): self.held += text.encode()\n"
    "    def flush(self):\n        os.write(1, self.held)\n        self.held = b''\nsys.stdout = Out()\nprint(6)",
    "global": "total = 0\ndef add(x):\n    global total\n    total += x\ninput()\nfor x in input().split(): add(int(x))\nprint(total)",
    "main guard": "def main():\n    print(6)\nif __name__ == '__main__':\n    main()",
    "import main": "import __main__\nvalue = 6\nprint(__main__.value)",
    "exit": "print(6)\nexit()",
    "sys.exit": "import sys\nprint(6)\nsys.exit(0)",
    "quit in a function": "def main():\n    print(6)\n    quit()\nmain()",
    "os._exit": "import os\nprint(6, flush=True)\nos._exit(0)",
    "atexit": "import atexit\natexit.register(print, 6)",
    "thread left running": "import threading, time\ndef late():\n    time.sleep(0.05)\n    print(6)\nthreading.Thread(target=late).start()",
    "daemon thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nprint(6)",
    "thread with a big stack": "import threading, sys\nsys.setrecursionlimit(10**6)\nthreading.stack_size(256 << 20)\n"
    "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\ndef main(): print(depth(50000) - 49994)\n"
    "t = threading.Thread(target=main)\nt.start()\nt.join()",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef depth(n): return 0 if n == 0 else 1 + depth(n - 1)\nprint(depth(100000) - 99994)",
    "deep recursion in C": "import sys, functools\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\n"
    "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\nprint(depth(50000) - 49994)",
    "thread pool": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as p: print(sum(p.map(int, '123')))",
    "higher stack limit": "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\nprint(6)",
    "asyncio": "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print(6)\nasyncio.run(main())",
    "signal handler": "import signal\nsignal.signal(signal.SIGINT, lambda *a: None)\nprint(6)",
    "devnull": "import os\nprint('x', file=open(os.devnull, 'w'))\nprint(6)",
    "stderr": "import sys\nprint('debug' * 100000, file=sys.stderr)\nprint(6)",
    "dataclass": "from dataclasses import dataclass, field\n@dataclass\nclass A:\n    x: list[int] = field(default_factory=list)\nprint(6, *A().x)",
    "caught exception": "try:\n    open('/etc/passwd')\nexcept OSError:\n    print(6)",
    "imports": "import heapq, bisect, decimal, fractions, statistics, re, string, json, datetime, zlib, sqlite3, hashlib, ssl\nprint(6)",
    "zone": "import zoneinfo, datetime\nprint(6 if datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Paris')) else 0)",
}  # fmt: skip


@pytest.mark.parametrize("name", CORRECT)
def test_odd_but_correct_programs_pass(stdio: Any, name: str) -> None:
    execution = stdio(CORRECT[name], SUM, "6\n")
    assert execution.status == Status.passed, execution


@pytest.mark.parametrize("text", ["", "a\0b\n", "é\u2028x\n", "x" * 300_000])
def test_text_goes_through_unchanged(stdio: Any, text: str) -> None:
    execution = stdio(
        "import sys\nd = sys.stdin.read()\nprint(len(d), d == sys.stdin.read() + d)\nsys.stdout.write(d)",
        text,
        f"{len(text)} True {text}",
    )
    assert execution.status == Status.passed, execution


def test_floats_are_compared_with_a_tolerance(stdio: Any) -> None:
    assert stdio("print(1 / 3)", "", "0.333333333\n").status == Status.passed
    assert stdio("print(10 / 2)", "", "5\n").status == Status.wrong


@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        ("print(7)", Status.wrong, "token 1: expected '6', got '7'"),
        ("", Status.wrong, "got None"),
        ("print(6, 6)", Status.wrong, "token 2"),
        ("print(6)\n1 / 0", Status.runtime_error, "ZeroDivisionError"),
        ("print(6)\nexit(3)", Status.runtime_error, "status 3"),
        ("print(6)\nexit('message')", Status.runtime_error, "SystemExit: message"),
        ("import os\nprint(6, flush=True)\nos._exit(9)", Status.runtime_error, "status 9"),
        ("import os\nprint(6, flush=True)\nos.abort()", Status.runtime_error, "signal"),
        ("import ctypes\nprint(6, flush=True)\nctypes.string_at(0)", Status.runtime_error, "signal 11"),
        ("print(6", Status.compile_error, "SyntaxError"),
        ("x = [0] * 10**9", Status.memory, "MemoryError"),
        ("while True: print('x' * 1000)", Status.output_limit, "bytes of output"),
        ("import signal, os\nos.close(1)\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", Status.timeout, "CPU"),
        ("import os\nfor fd in (0, 1, 2, 3): os.close(fd)\nwhile True: pass", Status.runtime_error, ""),
        ("import os\nos.write(3, b'garbage' * 100)\nprint(7)", Status.wrong, "token 1"),
        ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')", Status.wrong, "token 1"),
    ],
)  # fmt: skip
def test_status_and_detail_of_programs(stdio: Any, program: str, status: Status, detail: str) -> None:
    execution = stdio(program, SUM, "6\n")
    assert execution.status == status, execution
    assert detail in execution.detail
    assert execution.stdout is None or execution.stdout.encode() is not None


def test_each_test_is_a_fresh_run(box: Any, make_job: Any) -> None:
    program = (
        "import os, sys\ntry:\n    sys.modules['os'].x += 1\nexcept AttributeError:\n    os.x = 1\nprint(os.x, input())"
    )
    tests = [Case(id=str(i), kind="stdio", input=f"{i}\n", expected=f"1 {i}") for i in range(3)]
    ((_, executions),) = list(box.run([make_job(program, *tests)]))
    assert [one.status for one in executions] == [Status.passed] * 3
    assert [one.stdout for one in executions] == ["1 0\n", "1 1\n", "1 2\n"]
