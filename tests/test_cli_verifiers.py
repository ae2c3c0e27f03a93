"""From completions to selectors by the command line: eval, suite, rate, select, compare; and bad input to each.

Quickly in this process, slowly with a process for each command as a user has it, which takes a second each.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.tasks.list_programs import list_programs
from tests.in_process import run

HARNESS = [sys.executable, "-m", "harness"]
PROBLEMS = 6


def run_apart(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*HARNESS, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two right programs of each problem, two wrong ones; tests that a model might have written; scores."""
    place = tmp_path_factory.mktemp("choice")
    completions, tests, scores = [], [], []
    for problem in list_programs("test", PROBLEMS).problems:
        good = problem.answer or ""
        texts = [good, f"{good} ", "\n    return 10**9\n", "\n    return -x\n"]
        completions += [{"task_id": problem.id, "completion": text} for text in texts]
        scores += [{"task_id": problem.id, "index": i, "score": 0.9 if i < 2 else 0.2} for i in range(4)]
        written = "".join(f"f({args[0]}) == {value}\nassert " for args, value in problem.meta["examples"])
        tests.append({"task_id": problem.id, "samples": [written, "f([1]) == len(open('x').read())"]})
    for name, rows in (("completions", completions), ("tests", tests), ("scores", scores)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        *("eval", "--tasks", "list_programs", "--task_args", f"split=test,problems={PROBLEMS}", "--k", "1,2,4"),
        *("--model", "replay", "--model_args", f"path={place / 'completions.jsonl'}", "--output_path", place / "run"),
    )
    return place


@pytest.mark.parametrize(
    "run", [pytest.param(run, id="here"), pytest.param(run_apart, marks=pytest.mark.slow, id="apart")]
)
def test_from_completions_to_selectors(folder, tmp_path, run):
    out = tmp_path / "run"
    shutil.copytree(folder / "run", out)
    assert "valid" in run("suite", out, "generated", "--path", folder / "tests.jsonl").stdout
    run("suite", out, "inputs")
    run("suite", out, "examples")
    run("rate", out, "precomputed", "--scorer_args", f"path={folder / 'scores.jsonl'}", "--name", "model")
    chosen = run("select", out, "--k", "1,2,4")
    assert "100.0" in chosen.stdout  # the scores know
    page = (out / "verifiers.md").read_text()
    assert "CodeT of k on generated tests" in page
    assert "model" in page
    if run is run_apart:  # the figures, drawn again, take a second
        again = run("select", out, "--k", "1,2,4", "--output", tmp_path / "again.md")
        assert again.stdout == chosen.stdout
    compared = run("compare", f"{out}:pass@1", f"{out}:maj@2[inputs]", f"{out}:best@2[model]").stdout
    # one of two drawn of two right and two wrong ones: the score finds a right one unless both are wrong
    assert "run:best@2[model]" in compared
    assert "50.00" in compared
    assert f"{100 * 5 / 6:.2f}" in compared


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("suite", "run", "generated"), "give --path or --model"),
        (("suite", "run", "inputs", "--path", "tests.jsonl"), "leave out --path"),
        (("suite", "absent", "inputs"), "is not a run folder"),
        (("rate", "run", "precomputd"), "precomputed"),
        (("rate", "run", "precomputed"), "path"),
        (("rate", "run", "precomputed", "--scorer_args", "path=absent.jsonl"), "absent.jsonl"),
        (("select", "absent"), "is not a run folder"),
        (("verifier", "run", "--base", "absent", "--output_path", "v"), "test"),
    ],
)
def test_bad_input_is_one_sentence(folder, arguments, words, monkeypatch):
    monkeypatch.chdir(folder)
    done = run(*arguments, status=2)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    assert lines[0].startswith("harness: ")
    assert words in lines[0]
