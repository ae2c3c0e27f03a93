"""Whole programs on standard input and output: the odd but correct ones pass, and the statuses of the others."""

# ruff: noqa: E501 - one program to a line

from typing import Any

import pytest

from harness.selftest import collection, run_programs
from harness.types import Status
from harness.types import Test as Case

SUM = "3\n1 2 3\n"

ODD = {each.name: each for each in collection("odd") if each.problem.tests[0].kind == "stdio"}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_correct_programs_pass(box: Any, name: str) -> None:
    (found,) = list(run_programs([ODD[name]], [box]))
    assert not found[1], found[1]


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
