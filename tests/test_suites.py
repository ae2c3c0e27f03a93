"""Suites on real runs with the real sandbox: every program on every test, stored so that a kill loses nothing."""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.errors import HarnessError, InputError, RunMismatch
from harness.finished import results_of
from harness.sandbox.compare import value_text
from harness.sandbox.plain import Consumed, Opaque
from harness.suites import Suite, examples, outcomes, own_inputs, problems_of, read_suite, run_suite, suite_names
from harness.suites.store import executions_on
from harness.tasks.list_programs import list_programs
from harness.types import Execution, Job, Limits, Problem, Status
from harness.types import Test as Case

PROGRAMS = [
    "def f(x):\n    return x + 1\n",
    "def f(x):\n    return [x + 1][0]\n",  # equal outcomes, another program
    "def f(x):\n    return x + 1\n",  # equal to the first
    "def f(x):\n    return x - 1\n",
    "def f(x):\n    while x == 2:\n        pass\n    return x + 1\n",
    "import os\ndef f(x):\n    if x == 2:\n        os._exit(1)\n    return x + 1\n",
    "def f(x):\n    return {3, 1, 2} if x == 1 else object() if x == 2 else [float(x)] * 1000\n",
    "def f(x)\n",
    "while True: pass\n",
]
TESTS = tuple(
    Case(id=str(i), kind="call", input=[i], expected=value, source="generated:me")
    for i, value in enumerate([1, 2, 3, 5])  # the last is wrong
)


def write_run(folder, programs=PROGRAMS, *, problems=1, workers=1):
    """A run of the task `jsonl` whose completions are these programs."""
    rows = [
        {
            "id": f"p/{i}",
            "entry_point": "f",
            "prompt": "Add one.",
            "answer": "def f(x):\n    return x + 1\n",
            "tests": [{"kind": "call", "input": [5], "expected": 6}, {"kind": "call", "input": [2], "expected": 3}],
        }
        for i in range(problems)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.dumps({"problem_id": f"p/{i}", "text": text}) + "\n" for i in range(problems) for text in programs]
    (folder / "completions.jsonl").write_text("".join(lines))
    harness.evaluate(
        "jsonl",
        "replay",
        task_args={"path": str(folder / "problems.jsonl")},
        model_args={"path": str(folder / "completions.jsonl")},
        limits=Limits(gold_factor=0, cpu_s=0.3),
        workers=workers,
        output_path=folder / "run",
    )
    return folder / "run"


LIMITS = Limits(cpu_s=0.3, wall_s=5)


def suite_of(tests=TESTS, *, problems=1, name="generated"):
    return Suite(name=name, source="Mine.", tests={f"p/{i}": tests for i in range(problems)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = write_run(tmp_path_factory.mktemp("suites"), workers=2)
    run_suite(path, suite_of(), limits=LIMITS)
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A run of four programs that end, without a suite, to be copied."""
    return write_run(tmp_path_factory.mktemp("few"), PROGRAMS[:4])


def test_every_program_is_run_on_every_test(run):
    _, results = results_of(run)
    found = outcomes(run, "generated", results)
    (passed,), (output,), (values,), (cpu,) = found.passed_PGC, found.output_PGC, found.value_PGC, found.cpu_s_PG
    right = [True, True, True, False]
    assert passed.tolist() == [
        right,
        right,
        right,
        [False] * 4,
        [True, True, False, False],
        [True, True, False, False],
        [False, False, False, False],
        [False] * 4,
        [False] * 4,
    ]
    assert values[0] == values[1] == ("1", "2", "3", "4")
    assert values[4] == values[5] == ("1", "2", None, "4"), "what ends a program costs one test and no other"
    assert values[6][1] == "{1, 2, 3}"
    assert len(values[6][0]) == 200
    assert values[6][0].endswith("...")
    assert values[6][2] is None, "an object is equal to nothing"
    assert values[7] == values[8] == (None,) * 4
    assert output[0].tolist() == output[1].tolist() == output[2].tolist()
    assert output[4].tolist() == [output[0][0], output[0][1], -1, output[0][3]]
    assert (output[7:] == -1).all()
    assert output[3][2] == output[0][0], "1 is 1 wherever it comes from"
    assert len({*output[3].tolist()}) == 4
    assert 0 < cpu[0] < 0.3
    assert cpu[0] == cpu[2]
    assert 0.3 <= cpu[4] < 0.6
    assert math.isnan(cpu[5])
    assert cpu[8] == pytest.approx(1.2), "four processes, each with all of its time"
    assert found.tests_PC == (TESTS,)
    executions = executions_on(run, "generated", results)
    assert [one.status for one in executions["p/0", 4]] == ["passed", "passed", "timeout", "wrong"]
    assert [one.status for one in executions["p/0", 7]] == ["compile_error"] * 4
    assert [one.status for one in executions["p/0", 5]] == ["passed", "passed", "runtime_error", "wrong"]
    assert [(one.test_id, one.value) for one in executions["p/0", 4]] == [
        ("0", "1"),
        ("1", "2"),
        ("2", None),
        ("3", "4"),
    ]


def test_equal_values_have_one_number_and_each_its_own_text(tmp_path):
    """Whichever program happens to be run first."""
    texts = ["1", "True", "1.0", "[1]", "(1,)", "'1'", "float('nan')", "float('nan')", "iter([1])", "{2, 1}", "{1, 2}"]
    for name, order in (("one", texts), ("two", texts[::-1])):
        (tmp_path / name).mkdir()
        run = write_run(tmp_path / name, [f"def f(x):\n    return {text}\n" for text in order])
        run_suite(run, suite_of(TESTS[:1]), workers=1)
        _, results = results_of(run)
        found = results.suites["generated"]
        shown = [*texts[:6], "nan", "nan", "iter([1])", "{1, 2}", "{1, 2}"]
        assert [value for (value,) in found.value_PGC[0]] == (shown if name == "one" else shown[::-1])
        numbers = found.output_PGC[0][:, 0].tolist()
        expected = [0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 5] if name == "one" else [0, 0, 1, 2, 2, 3, 4, 4, 5, 5, 5]
        assert numbers == expected


def test_a_suite_is_read_as_it_was_made(run, tmp_path):
    assert suite_names(run) == ["generated"]
    odd = Case(id="odd", kind="call", input=[(1, {2: "ü"}), {1.5}, None], expected=(1, b"x", {(1, 2)}, 10**40, 2j))
    suite = Suite(name="odd", source="s", tests={"p/0": (odd,)}, counts={"p/0": (3,)}, notes={"syntax": 2})
    run_suite(run, suite, workers=1)
    assert read_suite(run, "odd") == suite
    assert suite_names(run) == ["generated", "odd"]


def test_results_have_the_suites(run):
    _, results = results_of(run)
    assert np.array_equal(results.suites["generated"].passed_PGC[0], outcomes(run, "generated", results).passed_PGC[0])


def test_a_suite_that_is_there_is_not_run_again_nor_another_in_its_place(run):
    before = (run / "suites/generated/outcomes.jsonl").read_bytes()
    run_suite(run, suite_of(), limits=LIMITS, workers=1)
    assert (run / "suites/generated/outcomes.jsonl").read_bytes() == before
    with pytest.raises(RunMismatch, match=r"other tests.*again=True"):
        run_suite(run, suite_of(TESTS[:1]), limits=LIMITS, workers=1)
    with pytest.raises(RunMismatch, match="other limits"):
        run_suite(run, suite_of(), limits=Limits(cpu_s=0.2), workers=1)
    assert (run / "suites/generated/outcomes.jsonl").read_bytes() == before


@pytest.mark.slow
def test_again_replaces_a_suite_and_outcomes_follow(few, tmp_path):
    run = shutil.copytree(few, tmp_path / "run")
    run_suite(run, suite_of(), workers=1)
    run_suite(run, suite_of(TESTS[3:]), workers=1, again=True)
    _, results = results_of(run)
    assert outcomes(run, "generated", results).passed_PGC[0].tolist() == [[False]] * 4
    assert suite_names(run) == ["generated"]


def test_problems_without_a_test_are_skipped(tmp_path):
    run = write_run(tmp_path, PROGRAMS[:2], problems=3)
    run_suite(run, Suite(name="one", source="s", tests={"p/1": TESTS[:2]}), workers=1)
    _, results = results_of(run)
    found = outcomes(run, "one", results)
    assert [each.shape for each in found.passed_PGC] == [(2, 0), (2, 2), (2, 0)]
    assert [each.shape for each in found.output_PGC] == [(2, 0), (2, 2), (2, 0)]
    assert found.value_PGC[0] == ((), ())
    assert np.isnan(found.cpu_s_PG[0]).all()
    assert found.tests_PC == ((), TESTS[:2], ())


@pytest.mark.slow
def test_one_test_that_comes_late_in_a_busy_process_gets_its_own_time(tmp_path):
    """0.2 s of 0.5 each: two fit in a process, and none is endless."""
    busy = "    until = time.process_time() + 0.2\n    while time.process_time() < until: pass\n"
    slow = f"import time\ndef f(x):\n{busy}    return x + 1\n"
    run = write_run(tmp_path, [slow])
    run_suite(run, suite_of(), limits=Limits(cpu_s=0.5, wall_s=5), workers=1)
    _, results = results_of(run)
    found = outcomes(run, "generated", results)
    assert found.passed_PGC[0].tolist() == [[True, True, True, False]]
    assert found.value_PGC[0][0] == ("1", "2", "3", "4")


def test_a_failure_of_the_sandbox_is_said_and_never_counts_as_a_failed_test(few, tmp_path, monkeypatch):
    """Only the sandbox's own failure has to be made up: it does not fail by itself."""
    from harness.sandbox.pool import Pool

    run = shutil.copytree(few, tmp_path / "run")
    real = Pool.run

    def failing(self, jobs):
        for job, executions in real(self, jobs):
            broken = Execution(
                problem_id=job.problem.id,
                index=job.completion.index,
                test_id="0",
                status=Status.sandbox_error,
                detail="x",
            )
            yield job, (broken,) if job.completion.index == 1 else executions

    with monkeypatch.context() as patch:
        patch.setattr(Pool, "run", failing)
        with pytest.raises(HarnessError, match=r"failed on 1 programs.*completion 1"):
            run_suite(run, suite_of(), workers=1)
    _, results = results_of(run)
    assert suite_names(run) == []
    with pytest.raises(InputError, match="not finished"):
        outcomes(run, "generated", results)
    run_suite(run, suite_of(), workers=1)
    assert outcomes(run, "generated", results).passed_PGC[0][1].tolist() == [True, True, True, False]
    assert len((run / "suites/generated/outcomes.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_completions_that_came_later_are_asked_for_and_added(few, tmp_path):
    run = write_run(tmp_path, PROGRAMS[:2])
    run_suite(run, suite_of(), workers=1)
    more = shutil.copytree(few, tmp_path / "more")
    (run / "suites").rename(more / "suites")
    with pytest.raises(InputError, match="run the suite again"):
        outcomes(more, "generated", results_of(more, with_suites=False)[1])
    run_suite(more, suite_of(), workers=1)
    assert outcomes(more, "generated", results_of(more, with_suites=False)[1]).passed_PGC[0].sum(axis=1).tolist() == [
        3,
        3,
        3,
        0,
    ]
    assert len((more / "suites/generated/outcomes.jsonl").read_text().splitlines()) == 4


def test_what_cannot_be_a_suite(run, tmp_path):
    with pytest.raises(InputError, match="no tests"):
        run_suite(run, Suite(name="none", source="s", tests={"p/0": ()}), workers=1)
    with pytest.raises(InputError, match="no task"):
        run_suite(run, Suite(name="other", source="s", tests={"q": TESTS}), workers=1)
    with pytest.raises(InputError, match="name of a suite"):
        run_suite(run, suite_of(name="../x"), workers=1)
    with pytest.raises(InputError, match="two tests '0'"):
        run_suite(run, suite_of((TESTS[0], TESTS[0]), name="twice"), workers=1)
    with pytest.raises(InputError, match="no call test"):
        run_suite(run, suite_of((Case(id="0", kind="script", input="pass"),), name="script"), workers=1)
    with pytest.raises(InputError, match=r"no suite 'nothing' \(there are generated"):
        outcomes(run, "nothing", results_of(run)[1])
    (tmp_path / "manifest.json").touch()
    with pytest.raises(InputError, match="not finished"):
        run_suite(tmp_path, suite_of(), workers=1)


def test_two_processes_do_not_write_one_suite(run):
    from harness.store import lock

    with lock(run / "suites/generated", proof="suite.json"), pytest.raises(RunMismatch, match="another process"):
        run_suite(run, suite_of(), limits=LIMITS, workers=1)


def test_own_inputs_and_examples(run):
    problems = problems_of(run)
    own = own_inputs(problems)
    assert own.name == "inputs"
    assert [test.input for test in own.tests["p/0"]] == [[5], [2]]
    assert own.tests["p/0"] == problems[0].tests
    shown = Problem(
        id="a", task="t", prompt='def g(x, y):\n    """\n    >>> g(1, y=2)\n    [3]\n    """\n', entry_point="g"
    )
    listed = Problem(id="b", task="t", prompt="", entry_point="f", meta={"examples": [[[[1, 2]], 3]]})
    none = Problem(id="c", task="t", prompt="def f(x):", entry_point="f")
    found = examples([shown, listed, none])
    assert {p: [(test.input, test.expected, test.source) for test in tests] for p, tests in found.tests.items()} == {
        "a": [([1, 2], [3], "public")],
        "b": [([[1, 2]], 3, "public")],
    }
    with pytest.raises(InputError, match="an example of d"):
        examples([Problem(id="d", task="t", prompt="", entry_point="f", meta={"examples": [3]})])


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_suites import suite_of
from harness.suites import run_suite
run_suite(Path(sys.argv[1]), suite_of(problems=12), workers=1)
"""


@pytest.mark.slow
def test_killed_again_and_again_a_suite_is_the_same(tmp_path):
    programs = [f"def f(x):\n    return x + {i % 3}  # {i}\n" for i in range(20)]
    run = write_run(tmp_path, programs, problems=12)
    root = str(Path(__file__).resolve().parents[1])
    rng = random.Random(0)
    hits = 0
    file = run / "suites/generated/outcomes.jsonl"
    for _ in range(3):
        command = [sys.executable, "-c", KILLED.format(root=root), str(run)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            before = file.stat().st_size if file.exists() else 0
            until = time.monotonic() + 30
            while time.monotonic() < until and process.poll() is None:
                if file.exists() and file.stat().st_size > before + rng.randrange(1000, 6000):
                    break
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
            hits += process.returncode == -signal.SIGKILL
            assert b"Traceback" not in errors, errors.decode()
        with file.open("ab") as torn:
            torn.write(b'{"problem_id": "p/1", "ind')
    assert hits >= 2
    assert suite_names(run) == []
    run_suite(run, suite_of(problems=12))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    keys = [(line["problem_id"], line["program"]) for line in lines]
    assert len(keys) == len(set(keys)) == 240
    _, results = results_of(run)
    found = outcomes(run, "generated", results)
    for passed, output in zip(found.passed_PGC, found.output_PGC, strict=True):
        for i in range(20):
            assert passed[i].tolist() == [[False] * 4, [True, True, True, False], [False, False, False, True]][i % 3]
            assert output[i].tolist() == output[i % 3].tolist()


def test_values_are_only_there_where_they_are_asked_for():
    from harness.sandbox import open_sandbox
    from harness.types import Completion

    problem = Problem(id="p", task="t", prompt="", entry_point="f", tests=TESTS[:1])
    job = Job(problem=problem, completion=Completion(problem_id="p", index=0, text="", program=PROGRAMS[0]))
    for values, expected in ((False, None), (True, "1")):
        with open_sandbox(workers=1, values=values) as box:
            ((_, (execution,)),) = list(box.run([job]))
            assert execution.value == expected
            assert execution.value_digest is not None


def test_values_as_text():
    """Short, on the safe side, and the same for equal sets in every process."""
    assert value_text({"b", "a", (1,)}) == "{'a', 'b', (1,)}"
    assert value_text([frozenset({2, 1}), frozenset(), set(), {"k": {2: ()}}]) == (
        "[frozenset({1, 2}), frozenset(), set(), {'k': {2: ()}}]"
    )
    once = Consumed([1, {"b", "a"}])
    assert value_text([once]) == value_text([once]) == "[iter([1, {'a', 'b'}])]"
    for value in (1.5, "it's", b"x", None, True, 10**30, (1, 2), [[]]):
        assert value_text(value) == repr(value)
    for large in ("x" * 10**6, [1] * 10**6, {i: i for i in range(10**5)}, [["abc"] * 1000] * 1000, 1 << 10**5):
        assert len(value_text(large)) <= 200
    nested = []
    for _ in range(10**5):
        nested = [nested]
    assert value_text(nested) == "<list>"


def test_an_object_has_no_text():
    assert value_text([Opaque("A")]) is None
    assert value_text({1: (Opaque("A"),)}) is None


def test_list_programs_has_its_examples_as_data():
    """What the prompt shows, and nothing that it keeps to itself."""
    problems = list_programs(split="train", problems=20).problems
    for problem in problems:
        lines = [line for line in problem.prompt.splitlines() if line.startswith("# f(")]
        assert lines == [f"# f({x!r})={v!r}".replace(", ", ",") for (x,), v in problem.meta["examples"]]
    assert [len(tests) for tests in examples(problems).tests.values()] == [2] * 20
