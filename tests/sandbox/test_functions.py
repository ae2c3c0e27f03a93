"""Script and call tests through a real sandbox: semantics of values, statuses, and the names that a script sees."""

# ruff: noqa: E501 - one program to a line

from typing import Any

import pytest

from harness.selftest import collection, run_programs
from harness.types import Execution, Status

SQUARE = "def f(x):\n    return x * x\n"


ODD = {each.name: each for each in collection("odd") if each.problem.tests[0].kind != "stdio"}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_correct_functions_pass(box: Any, name: str) -> None:
    (found,) = list(run_programs([ODD[name]], [box]))
    assert not found[1], found[1]


@pytest.mark.parametrize(
    ("program", "test", "status", "detail"),
    [
        ("def f(x): return 1", "assert candidate(3) == 9", Status.wrong, "line 1"),
        ("def f(x): return 1", "\nassert candidate(3) == 9, 'message'", Status.wrong, "line 2 of the test: message"),
        ("def f(x): return 1", "candidate(3).append(1)", Status.wrong, "AttributeError"),
        ("def f(x): return 1", "raise SystemExit(0)", Status.wrong, "SystemExit"),
        ("def f(x): return [object()]", "assert candidate(1) == candidate(1)", Status.wrong, ""),
        ("def f(x): return [object()]", "candidate(candidate(1))", Status.wrong, "not plain data"),
        ("def f(x): return 1 / x", "candidate(0)", Status.runtime_error, "ZeroDivisionError: division by zero"),
        ("def f(x): assert x", "candidate(0)", Status.runtime_error, "AssertionError"),
        ("def g(x): return x", "candidate(0)", Status.runtime_error, "NameError"),
        ("f = 1", "candidate(0)", Status.runtime_error, "TypeError"),
        ("1 / 0", "pass", Status.runtime_error, "ZeroDivisionError"),
        ("import numpy", "pass", Status.runtime_error, "ModuleNotFoundError"),
        ("def f(x): return input()", "candidate(0)", Status.runtime_error, "no standard input"),
        ("import sys\ndef f(x): return sys.stdin.read()", "candidate(0)", Status.runtime_error, "no standard input"),
        ("exit()", "pass", Status.runtime_error, "SystemExit"),
        ("import os\nos._exit(0)", "pass", Status.runtime_error, "exited with status 0"),
        ("import os\ndef f(x): os._exit(0)", "candidate(1)", Status.runtime_error, "exited with status 0"),
        ("import os\ndef f(x): os._exit(0)", "try:\n    candidate(1)\nexcept BaseException: pass", Status.runtime_error, "exited"),
        ("def f(x): return f(x + 1)", "candidate(1)", Status.runtime_error, "RecursionError"),
        ("def f(x", "pass", Status.compile_error, "SyntaxError"),
        ("def f(x): return '\0'", "pass", Status.compile_error, "null bytes"),
        ("def f(x): return '\ud800'", "pass", Status.compile_error, "surrogates"),
        ("(" * 3000 + ")" * 3000, "pass", Status.compile_error, ""),
        ("x = 1\n" * 1_700_000, "pass", Status.compile_error, "characters"),
        (None, "pass", Status.compile_error, "no program in the completion"),
        ("def f(x): return [0] * 10**9", "candidate(1)", Status.memory, "MemoryError"),
        ("def f(x): return 'a' * 5_000_000", "candidate(1)", Status.output_limit, "bytes"),
        ("def f(x):\n    while True: yield 1", "candidate(1)", Status.output_limit, "iterator"),
        ("def f(x):\n    while True: pass", "candidate(1)", Status.timeout, "CPU"),
        ("import os\ndef f(x): os.write(3, b'\\x05\\0\\0\\0hello')", "candidate(1)", Status.tampered, "protocol"),
        ("import os\ndef f(x): os.write(3, b'\\x02\\0\\0\\0{}')", "candidate(1)", Status.tampered, "protocol"),
        ("import os\ndef f(x): os.write(3, b'\\xff\\xff\\xff\\xff')", "candidate(1)", Status.output_limit, "answer of"),
        ("class E(Exception):\n    def __str__(self): raise self\ndef f(x): raise E", "candidate(1)", Status.runtime_error, "printed"),
        (SQUARE, "candidate(lambda: 1)", Status.sandbox_error, "function"),
        (SQUARE, "def (", Status.sandbox_error, "the test itself"),
    ],
)  # fmt: skip
def test_status_and_detail(script: Any, program: str, test: str, status: Status, detail: str) -> None:
    execution = script(program, test)
    assert execution.status == status, execution
    assert detail in execution.detail
    assert "\n" not in execution.detail


def test_setup_belongs_to_the_judge(script: Any) -> None:
    setup = "def helper(x): return x + 1\ndef f(x): raise AssertionError('the gold one')\nsum = None"
    program = "def helper(x): return 'forged'\ndef f(x): return x + 1\ndef sum(x): return 7"
    assert script(program, "assert f(1) == helper(1)", setup=setup).status == Status.passed
    assert script(program, "assert sum([1]) == 7", entry_point="sum").status == Status.passed  # a built-in's name


def test_script_sees_the_names_that_nobody_defines(script: Any) -> None:
    program = "def one(): return 1\ndef two(): return 2\n"
    test = "import math\ndef check():\n    total = one() + two()\n    return [total for _ in 'x'] == [3] and math.pi\nassert check()"
    assert script(program, test, entry_point=None).status == Status.passed
    assert script(program, "check = lambda: three()\nassert check()", entry_point=None).detail.startswith("NameError")


def test_a_module_that_a_script_forgot_to_import_is_the_judges(script: Any) -> None:
    program = "class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(): return 1.5\ndef math(): return 1\n"
    assert script(program, "assert math.isclose(f(), 1.5)", entry_point="f").status == Status.passed
    assert script(program, "assert math.isclose(f(), 2.5)", entry_point="f").status == Status.wrong
    assert script(program, "assert math() == 1", entry_point="math").status == Status.passed


def test_every_builtin_exception_arrives_as_itself(script: Any) -> None:
    test = """
import builtins
names = [n for n, v in vars(builtins).items() if isinstance(v, type) and issubclass(v, Exception) and "Group" not in n and n != "MemoryError" and "Stop" not in n]
assert len(names) > 40
for name in names:
    try:
        candidate(name)
    except getattr(builtins, name):
        continue
    raise AssertionError(name)
"""
    raiser = "import builtins\ndef f(name):\n    kind = getattr(builtins, name)\n    raise kind.__new__(kind)\n"
    assert script(raiser, test).status == Status.passed


def test_chance_is_the_same_in_every_run(script: Any) -> None:
    program = "import random\nX = random.random()\ndef f(): return X, [s for s in {'a', 'b', 'c', 'd', 'e'}]\n"
    test = "import random\nassert 0, repr(candidate()) + str(random.random())"
    assert "0." in script(program, test).detail
    assert script(program, test).detail == script(program, test).detail  # each run is a problem of its own
    assert (
        script(program, "assert 0, repr(candidate())").detail
        == script(program + "#", "assert 0, repr(candidate())").detail
    )


def test_a_program_cannot_foretell_the_tests_draws(script: Any) -> None:
    test = "import random\nwanted = random.random()\nassert candidate() == wanted"
    for seed in ("random.seed(0)", "random.seed('')", "pass"):
        assert script(f"import random\n{seed}\ndef f(): return random.random()", test).status == Status.wrong
    drawn = script("def f(): return 1", "import random\nassert 0, str(random.random())").detail
    assert drawn != script("def f(): return 2", "import random\nassert 0, str(random.random())").detail


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "Stop"])
@pytest.mark.parametrize(
    "test",
    [
        "assert all(map(lambda c: candidate(c) == c * 2, [1, 2]))",
        "for got, wanted in zip(map(candidate, [1, 2]), [2, 4]): assert got == wanted",
        "assert not list(filter(lambda c: candidate(c) != 2 * c, [1, 2]))",
        "for value in iter(lambda: candidate(3), None): assert value == 6",
        "assert all(candidate(c) == c * 2 for c in [1, 2])",
    ],
)
def test_a_program_cannot_end_the_tests_loops(script: Any, kind: str, test: str) -> None:
    execution = script(f"class Stop(StopIteration): pass\ndef f(*a): raise {kind}", test)
    assert execution.status == Status.runtime_error
    assert kind in execution.detail


def test_an_exception_of_the_programs_own_is_caught_as_its_base_with_its_message(script: Any) -> None:
    program = "class MyErr(ValueError): pass\ndef f(x): raise MyErr('bad')"
    caught = "try:\n    candidate(1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'bad', str(e)"
    assert script(program, caught).status == Status.passed
    assert script(program, "candidate(1)").detail == "MyErr: bad"
    forged = "class AssertionError(ArithmeticError): pass\ndef f(x): raise AssertionError"
    missed = "try:\n    candidate(1)\nexcept AssertionError:\n    pass"
    assert script(forged, missed).status == Status.runtime_error


def test_a_standard_helper_that_a_script_forgot_to_import_is_the_judges(script: Any) -> None:
    program = "def f(x): return 3\ndef isclose(*a): return True\ndef same(*a): return True"
    assert script(program, "assert isclose(candidate(1), 2)").status == Status.wrong
    assert script(program, "assert isclose(candidate(1), 3)").status == Status.passed
    assert script(program, "assert same(f(1), 2)").status == Status.passed  # nobody else has a `same`
    own = "def gcd(a, b): return 7"
    assert script(own, "assert gcd(2, 4) == 7", entry_point="gcd").status == Status.passed
    assert script(own, "assert gcd(2, 4) == 7", entry_point=None).status == Status.passed
    assert script(own, "assert gcd(2, 4) == 7", entry_point="other").status == Status.passed  # else nothing is tested


def test_the_order_of_an_ordered_dict_counts(script: Any) -> None:
    test = "from collections import OrderedDict\nassert candidate() == OrderedDict([(2, 1), (1, 2)])"
    program = "from collections import OrderedDict\ndef f(): return OrderedDict("
    assert script(program + "[(2, 1), (1, 2)])", test).status == Status.passed
    assert script(program + "[(1, 2), (2, 1)])", test).status == Status.wrong


def test_values_beyond_the_judges_memory_are_the_programs(script: Any, box: Any) -> None:
    judge = box._workers[0].judge.pid
    execution = script("def f(): return 3 * 10**8", "assert [0] * candidate() == 1")  # 2.4 GB
    assert execution.status == Status.memory, execution
    assert box._workers[0].judge.pid == judge


def test_arguments_arrive_as_copies(script: Any) -> None:
    assert script("def f(x): x.append(1)", "x = []\ncandidate(x)\nassert x == []").status == Status.passed


@pytest.mark.parametrize(
    ("program", "arguments", "expected", "status"),
    [
        (SQUARE, [3], 9, Status.passed),
        ("def f(a, b): return (a, b / 3)", [1, 1], [1, 0.3333333333], Status.passed),
        ("def f(): return float('nan')", [], float("nan"), Status.passed),
        ("def f(x): return x", [{"a": [1, None]}], {"a": [1, None]}, Status.passed),
        (SQUARE, [3], 10, Status.wrong),
        (SQUARE, ["a"], 10, Status.runtime_error),
        ("def f(): return object()", [], None, Status.wrong),
        ("import sys\ndef f(): sys.exit(0)", [], None, Status.runtime_error),
        ("def f(): return [1" , [], 1, Status.compile_error),
    ],
)  # fmt: skip
def test_calls(call: Any, program: str, arguments: list[Any], expected: Any, status: Status) -> None:
    execution: Execution = call(program, arguments, expected)
    assert execution.status == status, execution
    if status == Status.wrong:
        assert "expected" in execution.detail
        assert execution.value_digest
    assert execution.cpu_s is not None
    assert execution.wall_s is not None
    assert 5 << 20 < (execution.max_rss_bytes or 0) < 100 << 20
