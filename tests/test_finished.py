"""Finished runs graded again or converted: the folder is never worse off than before."""

import fcntl
import json
import sys

import pytest

import harness
from harness.errors import HarnessError, InputError, RunMismatch
from harness.finished import convert_run, rescore, results_of
from harness.store import read_results


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def make_run(folder, *, n=None, limit=None, name="run", problems=4):
    task = [
        {"id": f"p/{i}", "entry_point": "f", "prompt": "", "tests": [{"kind": "call", "input": [i], "expected": i}]}
        for i in range(problems)
    ]
    write(folder / "problems.jsonl", *task)
    texts = ["def f(x): return x\n", "def f(x): return -1\n", "def f(x): return x  # again\n"]
    completions = [{"problem_id": f"p/{i}", "text": text} for i in range(4) for text in texts]
    write(folder / "completions.jsonl", *completions)
    return harness.evaluate(
        "jsonl",
        "replay",
        model_args={"path": str(folder / "completions.jsonl")},
        task_args={"path": str(folder / "problems.jsonl")},
        budget=harness.Budget(n=n),
        limits=harness.Limits(cpu_s=7),
        limit=limit,
        k=[1, 2],
        workers=1,  # which opens sooner than one for each core
        output_path=folder / name,
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_scored_again_with_the_runs_own_limits_and_ks(tmp_path):
    make_run(tmp_path)
    before = contents(tmp_path / "run")
    results, changes = rescore(tmp_path / "run")
    after = contents(tmp_path / "run")
    assert changes == []
    assert set(results.estimates["jsonl"]) == {"pass@1", "pass@2"}
    assert after["results.json"] == before["results.json"]
    assert read_results(tmp_path / "run")[0].limits.cpu_s == 7
    assert after.pop("verdicts.previous.jsonl") == before["verdicts.jsonl"]
    assert [name for name in after if name not in before] == []
    make_run(tmp_path)  # the command that began the run still goes on with it


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    make_run(tmp_path)
    before = contents(tmp_path / "run")
    with (tmp_path / "run" / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunMismatch, match="written by another process"):
            rescore(tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_task_that_lost_a_problem_is_a_sentence_and_nothing_is_lost(tmp_path):
    make_run(tmp_path)
    before = contents(tmp_path / "run")
    problems = rows(tmp_path / "problems.jsonl")
    write(tmp_path / "problems.jsonl", *problems[:3])
    for attempt in (
        lambda: rescore(tmp_path / "run"),
        lambda: convert_run(tmp_path / "run", to="jsonl", output=tmp_path / "out.jsonl", model="m"),
    ):
        with pytest.raises(InputError, match="p/3, which its task"):
            attempt()
    assert contents(tmp_path / "run") == before


def test_an_unfinished_run_is_not_made_to_look_finished(tmp_path):
    make_run(tmp_path)
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(InputError, match="not finished"):
        rescore(tmp_path / "run")


def test_new_work_takes_away_results_that_are_no_longer_of_all(tmp_path, monkeypatch):
    make_run(tmp_path, n=2)
    # as if killed before the end; the module's name in the package is the function
    monkeypatch.setattr(sys.modules["harness.evaluate"], "finish", lambda *_, **__: None)
    make_run(tmp_path, n=3)
    assert not (tmp_path / "run" / "results.json").exists()


def test_results_and_conversions_are_of_the_completions_reported_on(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, n=2)
    _, results = results_of(tmp_path / "run")
    assert [len(row) for row in results.passed_PG] == [2] * 4
    (path,) = convert_run(tmp_path / "run", to="jsonl", output=tmp_path / "two.jsonl", model="m")
    assert len(rows(path)) == 8
    make_run(tmp_path, limit=1)
    (path,) = convert_run(tmp_path / "run", to="jsonl", output=tmp_path / "one.jsonl", model="m")
    assert len(rows(path)) == 3


@pytest.mark.parametrize("name", ["notes.txt", "completions.jsonl", "results.json"])
def test_a_folder_of_somebody_else_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(RunMismatch, match=f"holds {name} and is not a run folder"):
        make_run(tmp_path)
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_a_lost_completion_is_sampled_and_graded_once_more(tmp_path):
    expected = make_run(tmp_path).estimates
    path = tmp_path / "run" / "completions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5] + lines[6:]))
    assert make_run(tmp_path).estimates == expected
    for name in ("completions", "verdicts", "executions"):
        assert len(rows(tmp_path / "run" / f"{name}.jsonl")) == 12


SAMPLER = """
from harness.types import Completion
class Broken:
    identity = "x"
    def counts(self, problems, budget):
        return {p.id: 1 for p in problems}
    def sample(self, problems, budget, done=(), wanted=None):
        yield from (Completion(problem_id=name, index=0, text="1") for name in NAMES)
def broken():
    return Broken()
"""


@pytest.mark.parametrize(
    ("names", "says"), [(["p/0", "p/0"], "again"), (["q"], "not asked for"), (["p/0"], "promised 1 completions of p/1")]
)
def test_a_sampler_that_breaks_its_promise_is_stopped(tmp_path, names, says):
    (tmp_path / "broken.py").write_text(SAMPLER + f"NAMES = {names}\n")
    path = write(tmp_path / "p.jsonl", *({"id": f"p/{i}", "prompt": "?", "answer": "1"} for i in range(2)))
    with pytest.raises(HarnessError, match=says):
        harness.evaluate(
            "jsonl", f"{tmp_path}/broken.py:broken", task_args={"path": path}, output_path=tmp_path / "run"
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": harness.Budget(n=0)}, "at least 1"),
        ({"budget": harness.Budget(temperature=0.5)}, "sampled already: leave it out"),
        ({"limit": 0}, "neither a whole number"),
        ({"limit": float("nan")}, "neither a whole number"),
        ({"limit": 2.5}, "neither a whole number"),
        ({"limit": 1, "samples": ["p/0"]}, "give one of them"),
        ({"samples": ["p/1"]}, "no completions of problem p/1"),
        ({"k": 1.5}, "list of whole numbers"),
        ({"output_path": ""}, "empty"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, says):
    path = write(tmp_path / "p.jsonl", *({"id": f"p/{i}", "prompt": "?", "answer": "1"} for i in range(2)))
    good = write(tmp_path / "c.jsonl", {"problem_id": "p/0", "text": "1"})
    with pytest.raises(InputError, match=says):
        harness.evaluate("jsonl", "replay", model_args={"path": good}, task_args={"path": path}, **options)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def task(:\n", "cannot be imported .SyntaxError"),
        ("import nothing_of_this_name\n", "cannot be imported .ModuleNotFoundError"),
        ("task = 3\n", "no function in"),
        ("def task():\n    return []\n", "gave a list"),
        (
            "import harness\ndef task():\n"
            "    return harness.Task(name='a/b', problems=(1,), extract=1, grade=1, gold=1)",
            "has a /",
        ),
    ],
)
def test_task_files_that_are_wrong_are_a_sentence(tmp_path, source, says):
    (tmp_path / "tabulate.py").write_text(source)  # a name that a package of ours has too
    with pytest.raises(InputError, match=says):
        harness.evaluate(f"{tmp_path}/tabulate.py:task", "first_steps", output_path=tmp_path / "run")
