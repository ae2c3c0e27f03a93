"""The command line as a user meets it, with good input and with every kind of bad one.

How it starts, goes from completions to a leaderboard, refuses and is interrupted is seen in processes of their own
(`run_apart`); the rest is seen in this one (`run`).
"""

import gzip
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.in_process import run

HARNESS = [sys.executable, "-m", "harness"]


def run_apart(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    command = [*HARNESS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert status is None or done.returncode == status, done.stderr + done.stdout
    return done


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a user error: status 2, one line, nothing on standard output."""
    assert done.returncode == 2, done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("harness: ")
    assert lines[0].endswith((".", "?"))
    return lines[0]


def problems_file(folder: Path) -> Path:
    path = folder / "problems.jsonl"
    rows = [{"id": f"p/{i}", "prompt": "Question: 1 + 1?\nAnswer:", "answer": "2"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def completions_file(folder: Path, rows: list[dict]) -> Path:
    path = folder / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate_file(folder: Path, path: Path, *more: object, status: int | None = 0, by=run):
    problems = problems_file(folder)
    options = [
        "--tasks",
        "jsonl",
        "--task_args",
        f"path={problems}",
        "--model",
        "replay",
        "--model_args",
        f"path={path}",
    ]
    return by("eval", *options, "--output_path", folder / "run", *more, status=status)


GOOD = [{"problem_id": f"p/{i}", "text": f"The answer is {2 if i else 3}."} for i in range(3)]


def test_help_comes_at_once():
    """CPU time, which on an idle machine is the wall clock: a busy one says nothing about us."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "eval" in run_apart("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < 0.3 for _ in range(5))


@pytest.mark.parametrize("command", ["eval", "score", "report", "ls", "convert", "selftest"])
def test_every_command_has_help(command):
    assert run(command, "--help").stdout.strip()


def test_import_is_light():
    heavy = ("torch", "datasets", "transformers", "scipy", "numpy", "matplotlib", "rich")
    code = f"import harness, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_from_completions_to_leaderboard(tmp_path):
    done = evaluate_file(tmp_path, completions_file(tmp_path, GOOD), by=run_apart)
    assert "66.6667" in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["tasks"]["jsonl"]["pass@1"]["value"] == pytest.approx(2 / 3)
    board = run_apart("report", tmp_path / "run").stdout
    assert "| 1      | run" in board
    assert "66.67 [" in board
    assert json.loads(run("report", tmp_path / "run", "--format", "json").stdout)[0]["run"] == "run"
    assert run("report", tmp_path / "run", "--format", "csv").stdout.startswith("rank,run,task,metric,value")


def test_dashes_and_underscores_are_the_same(tmp_path):
    path, problems = completions_file(tmp_path, GOOD), problems_file(tmp_path)
    options = ["--task-args", f"path={problems}", "--model", "replay", "--model-args", f"path={path}"]
    run("eval", "--tasks", "jsonl", *options, "--output-path", tmp_path / "run")


def test_a_second_run_of_the_same_command_does_nothing_again(tmp_path):
    path = completions_file(tmp_path, GOOD)
    evaluate_file(tmp_path, path)
    before = (tmp_path / "run" / "verdicts.jsonl").read_bytes()
    evaluate_file(tmp_path, path)
    assert (tmp_path / "run" / "verdicts.jsonl").read_bytes() == before


def test_score_grades_again_and_says_what_changed(tmp_path):
    evaluate_file(tmp_path, completions_file(tmp_path, GOOD))
    results = (tmp_path / "run" / "results.json").read_bytes()
    verdicts = tmp_path / "run" / "verdicts.jsonl"
    verdicts.write_text(verdicts.read_text().replace('"passed":true', '"passed":false'))
    done = run("score", tmp_path / "run")
    assert "2 verdicts changed" in done.stdout
    assert (tmp_path / "run" / "results.json").read_bytes() == results


def test_limit_and_samples_make_a_partial_run(tmp_path):
    path = completions_file(tmp_path, GOOD)
    assert "2 of 3 problems (PARTIAL)" in evaluate_file(tmp_path, path, "--limit", 2).stdout
    assert "1 of 3 problems (PARTIAL)" in evaluate_file(tmp_path, path, "--samples", "p/1").stdout


def test_n_may_be_raised_and_lowered(tmp_path):
    path = completions_file(tmp_path, [row for row in GOOD for _ in range(4)])
    assert "x 2" in evaluate_file(tmp_path, path, "--n", 2).stdout
    assert "x 4" in evaluate_file(tmp_path, path, "--n", 4).stdout
    assert "x 2" in evaluate_file(tmp_path, path, "--n", 2).stdout
    assert len((tmp_path / "run" / "verdicts.jsonl").read_text().splitlines()) == 12


def test_ctrl_c_says_that_nothing_is_lost(tmp_path):
    rows = [{"problem_id": "p/0", "text": "def f(x):\n    while True: pass"}]
    problems = tmp_path / "problems.jsonl"
    test = {"kind": "call", "input": [1], "expected": 1}
    problems.write_text(json.dumps({"id": "p/0", "prompt": "", "entry_point": "f", "tests": [test]}) + "\n")
    path = completions_file(tmp_path, rows)
    options = [
        "--tasks",
        "jsonl",
        "--task_args",
        f"path={problems}",
        "--model",
        "replay",
        "--model_args",
        f"path={path}",
    ]
    command = [*HARNESS, "eval", *options, "--timeout", "60", "--output_path", str(tmp_path / "run")]

    def attend() -> None:  # a suite in the background ignores the signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=attend) as process:
        while not (tmp_path / "run" / "completions.jsonl").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "harness: interrupted; the same command goes on where this one stopped."


def test_version():
    assert run("--version").stdout.startswith("treatment-harness ")


# ---- bad input: one sentence, no traceback, no silent zero


def bad_file(folder: Path, name: str) -> Path:
    whole = "".join(json.dumps(row) + "\n" for row in GOOD).encode()
    content = {
        "truncated gzip": gzip.compress(whole * 100)[:-20],
        "not json": whole + b'{"problem_id": "p/0", "text":\n',
        "unknown id": whole + b'{"problem_id": "q/0", "text": "2"}\n',
        "clash": b'{"problem_id": "p/0", "index": 0, "text": "2"}\n{"problem_id": "p/0", "index": 0, "text": "3"}\n',
        "missing field": whole + b'{"problem_id": "p/0"}\n',
        "no format": b'{"something": "else"}\n',
        "empty": b"",
        "invalid utf-8": b'{"problem_id": "p/0", "text": "\xff\xfe"}\n',
        "not an object": b"[1, 2]\n",
        "text is a number": b'{"problem_id": "p/0", "text": 2}\n',
        "negative index": b'{"problem_id": "p/0", "index": -1, "text": "2"}\n',
    }[name]
    path = folder / "bad.jsonl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("truncated gzip", "not a whole gzip file"),
        ("not json", "line 4, is not JSON"),
        ("unknown id", "q/0"),
        ("clash", "p/0"),
        ("missing field", "line 4"),
        ("no format", "no format that can be recognised"),
        ("empty", "empty"),
        ("invalid utf-8", "line 1 is not UTF-8"),
        ("not an object", "bad.jsonl"),
        ("text is a number", "text"),
        ("negative index", "index"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, says):
    by = run_apart if name == "not json" else run
    assert says in sentence(evaluate_file(tmp_path, bad_file(tmp_path, name), status=None, by=by))


def test_other_bad_input_is_one_sentence(tmp_path):
    path = completions_file(tmp_path, GOOD)
    assert "lower --k" in sentence(evaluate_file(tmp_path, path, "--k", "1,4", status=None))
    assert not (tmp_path / "run").exists()
    assert "does not exist" in sentence(evaluate_file(tmp_path, tmp_path / "nowhere.jsonl", status=None))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in sentence(
        evaluate_file(tmp_path, path, "--output_path", tmp_path / "file" / "run", status=None)
    )
    assert "did you mean 'jsonl'" in sentence(run("eval", "--tasks", "json", status=None))
    assert "did you mean 'replay'" in sentence(run("eval", "--tasks", "first_steps", "--model", "reply", status=None))
    assert "needs path" in sentence(run("eval", "--tasks", "jsonl", status=None))
    assert "key=value" in sentence(run("eval", "--tasks", "first_steps", "--model_args", "oops", status=None))
    assert "no manifest.json" in sentence(run("report", tmp_path, status=None))
    assert "p/7" in sentence(evaluate_file(tmp_path, path, "--samples", "p/7", status=None))


def test_strange_texts_are_graded_like_any_other(tmp_path):
    rows = [
        {"problem_id": "p/0", "text": "x" * 10_000_000},
        {"problem_id": "p/1", "text": "\x00 the answer is 2"},
        {"problem_id": "p/2", "text": "\ud800 the answer is 2"},
    ]
    done = evaluate_file(tmp_path, completions_file(tmp_path, rows))
    assert "66.6667" in done.stdout
    assert "U+FFFD" in done.stderr


def test_whole_matrix_and_the_tier_asked_for(tmp_path):
    tests = [{"kind": "call", "input": [n], "expected": 2 * n} for n in range(5)]
    problem = {"id": "double/0", "prompt": "def double(x):\n", "entry_point": "double", "tests": tests}
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    path = completions_file(tmp_path, [{"problem_id": "double/0", "text": "    return x + 2 if x else 1\n"}])
    options = ["--tasks", "jsonl", "--task_args", f"path={tmp_path}/problems.jsonl", "--model", "replay"]
    options += ["--model_args", f"path={path}", "--sandbox", "landlock"]
    for more, statuses in ((), ["wrong"]), (("--all_tests",), ["wrong", "wrong", "passed", "wrong", "wrong"]):
        folder = tmp_path / f"run{len(more)}"
        run("eval", *options, *more, "--output_path", folder)
        found = [json.loads(line) for line in (folder / "executions.jsonl").read_text().splitlines()]
        assert [one["status"] for one in found] == statuses
        assert json.loads((folder / "manifest.json").read_text())["sandbox"].startswith("landlock, ")
    run("score", tmp_path / "run0", "--sandbox", "landlock")
    assert "did you mean 'landlock'" in sentence(run("eval", *options[:-1], "landlok", status=None))
