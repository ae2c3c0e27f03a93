"""Score columns of finished runs: every graded completion once, gone on with after any end, doubts said aloud."""

import fcntl
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import registry, suites
from harness.columns import read_provenance
from harness.errors import InputError, RunMismatch, UnknownName
from harness.finished import results_of
from harness.progress import Progress
from harness.scorers import Scorable, account, execution_lines
from harness.selectors import best_of, majority, oracle
from harness.store import read_manifest
from harness.verifiers import rate

PROGRAMS = ["return x", "return -1", "return 1 // 0", "return x + 0"]
"""Of completions 0, 2, 4 and 5; 1 is a chat's empty reply, 3 the first once more."""


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(tmp_path, graded):
    """A copy of the run to be scored, with its files beside it."""
    shutil.copytree(graded.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / graded.name


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Three problems with six programs each, in different words."""
    folder = tmp_path_factory.mktemp("graded")
    calls = [{"kind": "call", "input": [i], "expected": i} for i in (3, 4)]
    problems = [
        {"id": f"p/{i}", "entry_point": "f", "prompt": f"def f(x):  # {i}\n", "tests": calls, "level": str(i)}
        for i in range(3)
    ]
    write(folder / "problems.jsonl", problems)
    bodies = [PROGRAMS[0], "", PROGRAMS[1], PROGRAMS[0], PROGRAMS[2], PROGRAMS[3]]
    rows = [
        {"problem_id": f"p/{i}", "text": f"    {body}\n", "logprob": -1.0 * j - 1, "n_tokens": 2 + j % 2}
        for i in range(3)
        for j, body in enumerate(bodies)
    ]
    return evaluated(folder, rows, name="run")


def evaluated(folder: Path, rows, *, name: str, n: int | None = None) -> Path:
    harness.evaluate(
        "jsonl",
        "replay",
        model_args={"path": write(folder / f"{name}.completions.jsonl", rows)},
        task_args={"path": str(folder / "problems.jsonl")},
        budget=harness.Budget(n=n),
        k=[1, 2],
        output_path=folder / name,
    )
    return folder / name


def column(run: Path, name: str) -> dict[tuple[str, int], float | None]:
    rows = map(json.loads, (run / "scores" / f"{name}.jsonl").read_text().splitlines())
    return {(row["problem_id"], row["index"]): row["score"] for row in rows}


SCORER = """
import os, signal, sys, time
from pathlib import Path
SEEN = Path(__file__).with_name("seen.txt")
def length(batch, *, factor: float = 1.0):
    \"\"\"Longer is better.\"\"\"
    for one in batch:
        with SEEN.open("a") as file:
            file.write(f"{one.problem.id} {one.completion.index}\\n")
        yield factor * len(one.completion.text)
def slow(batch):
    \"\"\"Waits after each.\"\"\"
    for value in length(batch):
        yield value
        time.sleep(0.1)
def patchy(batch):
    \"\"\"Measures even ones.\"\"\"
    return [None if one.completion.index % 2 else 1.0 for one in batch]
def few(batch): return [1.0]
def many(batch): return [1.0] * (len(batch) + 1)
def infinite(batch): return [float("inf")] * len(batch)
def words(batch): return ["high"] * len(batch)
"""


@pytest.fixture
def scorer(tmp_path):
    """The file's name, for scorers of a user's own."""
    (tmp_path / "own.py").write_text(SCORER)
    return f"{tmp_path}/own.py"


def seen(scorer: str) -> list[str]:
    return Path(scorer).with_name("seen.txt").read_text().splitlines()


def test_every_graded_completion_is_scored_and_selectors_have_the_column(run, scorer):
    path = rate(run, f"{scorer}:length", args={"factor": "2"}, name="chars")
    assert path == run / "scores" / "chars.json"
    found = column(run, "chars")
    assert len(found) == 18
    assert found["p/1", 0] == 2 * len("    return x\n")
    _, results = results_of(run)
    assert set(results.scores) == {"logprob", "chars"}
    np.testing.assert_array_equal(results.scores["chars"][2], [found["p/2", i] for i in range(6)])
    assert (best_of(results, [3], score="chars") <= oracle(results, [3])).all()
    told = read_provenance(run, "chars")
    assert (told.scorer, told.args, told.probability, told.suite) == (f"{scorer}:length", {"factor": 2.0}, False, None)
    assert told.seconds > 0
    assert told.warnings == ()


def test_log_probabilities_as_columns_are_those_of_the_completions(run):
    rate(run, "mean_logprob", args={})
    rate(run, "sum_logprob", args={})
    _, results = results_of(run)
    for row, other in zip(results.scores["sum_logprob"], results.scores["logprob"], strict=True):
        np.testing.assert_array_equal(row, other)
    assert column(run, "mean_logprob")["p/0", 3] == pytest.approx(-4 / 3)


def test_what_is_not_measured_is_no_low_score(run, scorer):
    rate(run, f"{scorer}:patchy", args={})
    assert read_provenance(run, "patchy").unmeasured == 9
    assert "9 of 18 completions have no score" in read_provenance(run, "patchy").warnings[0]
    _, results = results_of(run)
    assert all(np.isnan(row[1]) for row in results.scores["patchy"])
    with pytest.raises(InputError, match="'patchy' is missing for 9 graded completions"):
        best_of(results, [1], score="patchy")


def test_what_is_not_graded_is_not_scored(run, scorer):
    path = run / "verdicts.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lost = json.loads(lines[0])
    path.write_text(json.dumps(lost | {"passed": None, "status": "sandbox_error"}) + "\n" + "".join(lines[1:]))
    rate(run, f"{scorer}:length", args={})
    found = column(run, "length")
    assert len(found) == 17
    assert (lost["problem_id"], lost["index"]) not in found
    _, results = results_of(run)
    assert best_of(results, [1], score="length").shape == (3, 1)


@pytest.mark.parametrize(
    ("name", "says"),
    [("few", "gave 1 scores for 18"), ("many", "more than 18"), ("infinite", "gave inf for"), ("words", "gave 'high'")],
)
def test_scorers_that_give_something_else(run, scorer, name, says):
    with pytest.raises(InputError, match=says):
        rate(run, f"{scorer}:{name}", args={})


def test_the_same_call_scores_what_is_new_alone(tmp_path, run, scorer):
    rows = [json.loads(line) for line in (tmp_path / "run.completions.jsonl").read_text().splitlines()]
    small = evaluated(tmp_path, rows, name="small", n=2)
    rate(small, f"{scorer}:length", args={})
    assert len(seen(scorer)) == 6
    evaluated(tmp_path, rows, name="small", n=3)
    (tmp_path / "small.completions.jsonl").unlink()
    _, results = results_of(small)
    assert np.isnan(results.scores["length"][0][2])
    told = small / "scores" / "length.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"seconds": 100.0}))
    rate(small, f"{scorer}:length", args={})
    assert sorted(seen(scorer)[6:]) == ["p/0 2", "p/1 2", "p/2 2"]
    assert 100 < read_provenance(small, "length").seconds < 160
    rate(small, f"{scorer}:length", args={})
    assert len(seen(scorer)) == 9


def test_a_group_scorer_sees_whole_problems_also_when_it_goes_on(run, tmp_path):
    (tmp_path / "group.py").write_text(
        "from harness.scorers import scores\n"
        "@scores(at_once='problem')\n"
        "def rank(batch):\n"
        "    '''Place by length among the problem's.'''\n"
        "    for one in batch:\n"
        "        group = [o for o in batch if o.problem.id == one.problem.id]\n"
        "        assert len(group) == 6\n"
        "        yield sum(len(o.completion.text) < len(one.completion.text) for o in group)\n"
    )
    rate(run, f"{tmp_path}/group.py:rank", args={})
    whole = column(run, "rank")
    path = run / "scores" / "rank.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))
    rate(run, f"{tmp_path}/group.py:rank", args={})
    assert column(run, "rank") == whole
    assert len(path.read_text().splitlines()) == 18


def test_killed_at_any_moment_it_goes_on_where_it_was(run, scorer):
    code = (
        f"from pathlib import Path; from harness.verifiers import rate; rate(Path({str(run)!r}), {scorer!r}, args={{}})"
    )
    process = subprocess.Popen([sys.executable, "-c", code.replace("own.py", "own.py:slow")])
    path = run / "scores" / "slow.jsonl"
    until = time.monotonic() + 60
    while (not path.is_file() or path.read_text().count("\n") < 3) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = path.read_bytes()
    assert 3 <= kept.count(b"\n") < 18
    with path.open("ab") as file:
        file.write(b'{"problem_id":"p/2","ind')
    before = len(seen(scorer))
    _, results = results_of(run)
    assert sum(int(np.isnan(row).sum()) for row in results.scores["slow"]) == 18 - kept.count(b"\n")
    rate(run, f"{scorer}:slow", args={})
    assert path.read_bytes().startswith(kept)
    assert len(column(run, "slow")) == 18
    assert len(path.read_text().splitlines()) == 18
    assert len(seen(scorer)) - before == 18 - kept.count(b"\n")


def test_a_run_that_is_being_written_is_left_alone(run, scorer):
    with (run / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunMismatch, match="written by another process"):
            rate(run, f"{scorer}:length", args={})
    assert not (run / "scores").exists()


def test_a_column_is_not_added_to_by_another_scorer(run, scorer):
    rate(run, f"{scorer}:length", args={}, name="x")
    before = (run / "scores" / "x.jsonl").read_bytes()
    with pytest.raises(RunMismatch, match=r"holds other scores \(args was .*choose another name"):
        rate(run, f"{scorer}:length", args={"factor": 3}, name="x")
    with pytest.raises(RunMismatch, match="scorer was"):
        rate(run, "mean_logprob", args={}, name="x")
    assert (run / "scores" / "x.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["a/b", "a b", "", "[x]", "logprob", "../x"])
def test_names_that_no_column_can_have(run, name):
    with pytest.raises(InputError, match="cannot name a column"):
        rate(run, "mean_logprob", args={}, name=name or ".")


def test_a_score_that_came_with_the_completions_is_not_overwritten(tmp_path, run):
    rows = [
        {"problem_id": f"p/{i}", "text": "    return x\n", "scores": {"reward": 0.5}}
        for i in range(3)
        for _ in range(2)
    ]
    other = evaluated(tmp_path, rows, name="rewarded")
    with pytest.raises(InputError, match="came with a score 'reward'"):
        rate(other, "mean_logprob", args={}, name="reward")
    rate(run, "mean_logprob", args={}, name="reward")
    (run / "scores").rename(other / "scores")
    with pytest.raises(InputError, match="has the name of a score that came with"):
        results_of(other)


# numbers from a file


def test_precomputed_scores_are_matched_by_completion(run, tmp_path):
    rows = [{"task_id": f"p/{i}", "index": j, "rm": i + j / 10} for i in range(3) for j in range(6)]
    rows[4]["rm"] = None
    path = write(tmp_path / "rm.jsonl", [*rows[::-1], {"task_id": "q", "index": 0, "rm": 1}])
    rate(run, "precomputed", args={"path": path, "column": "rm"}, name="rm")
    found = column(run, "rm")
    assert found["p/2", 3] == 2.3
    assert found["p/0", 4] is None
    moved = tmp_path / "moved.jsonl"
    Path(path).rename(moved)
    rate(run, "precomputed", args={"path": str(moved), "column": "rm"}, name="rm")
    write(moved, rows)
    with pytest.raises(RunMismatch, match="the verifier, the file or the judge has changed"):
        rate(run, "precomputed", args={"path": str(moved), "column": "rm"}, name="rm")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda rows: [*rows[:-2], {"problem_id": "q", "index": 0, "score": 1}],
            r"no row for 2 of 18 .*and 1 rows for",
        ),
        (lambda rows: [*rows, rows[0]], "line 19 is a second row for p/0, index 0"),
        (lambda rows: [{"problem_id": "p/0", "index": 0}, *rows], "line 1 is not .problem_id, index, score"),
        (lambda rows: [{**rows[0], "score": "high"}, *rows[1:]], "line 1 is not"),
        (lambda rows: [{**rows[0], "score": math.nan}, *rows[1:]], "line 1: score is nan"),
    ],
)
def test_files_that_do_not_fit(run, tmp_path, change, says):
    rows = [{"problem_id": f"p/{i}", "index": j, "score": 0.5} for i in range(3) for j in range(6)]
    path = write(tmp_path / "scores.jsonl", change(rows))
    with pytest.raises(InputError, match=says):
        rate(run, "precomputed", args={"path": path})


def test_a_file_that_is_not_there(run):
    with pytest.raises(InputError, match=r"no file nowhere.jsonl"):
        rate(run, "precomputed", args={"path": "nowhere.jsonl"})
    with pytest.raises(InputError, match="scorer precomputed needs path"):
        rate(run, "precomputed", args={})
    with pytest.raises(UnknownName, match="'precomputd': did you mean 'precomputed'"):
        rate(run, "precomputd", args={})


# verifiers: what they look at, where they should not be trusted

SPY = """
import json
from pathlib import Path
from harness.scorers import execution_lines
def spy(batch, *, path: str):
    \"\"\"Notes what it sees, and trusts values that are the argument.\"\"\"
    with Path(__file__).with_name("spied.jsonl").open("a") as file:
        for one in batch:
            file.write(json.dumps([one.problem.id, one.completion.index, execution_lines(one)]) + "\\n")
    return [0.5 for one in batch]
"""


def verifier_folder(folder: Path, generator, *, inputs=("prompt", "program"), suite=None, problems=("t/0",)) -> str:
    folder.mkdir()
    told = {
        "kind": "lever", "inputs": inputs, "suite": suite, "base_sha": "b", "sha": "v" * 64, "generator": generator,
        "problems": problems, "seed": 0, "history": [], "validation": {"loss": 0.5}, "seconds": 3.0,
    }  # fmt: skip
    (folder / "verifier.json").write_text(json.dumps(told))
    return str(folder)


def notes_of(call) -> list[str]:
    notes: list[str] = []
    call(Progress(note=notes.append))
    return notes


def test_a_verifier_is_doubted_where_it_judges_what_it_should_not(run, tmp_path):
    (tmp_path / "spy.py").write_text(SPY)
    own = read_manifest(run / "manifest.json").model_identity

    def doubts(name, **told) -> list[str]:
        path = verifier_folder(tmp_path / name, **told)
        notes = notes_of(
            lambda progress: rate(run, f"{tmp_path}/spy.py:spy", args={"path": path}, name=name, progress=progress)
        )
        provenance = read_provenance(run, name)
        assert (provenance.sha, provenance.probability) == ("v" * 64, True)
        assert provenance.warnings == tuple(notes)
        return notes

    assert doubts("same", generator=own) == []
    assert doubts("one_of_them", generator=["other", own]) == []
    (sentence,) = doubts("other", generator="abcdef")
    assert f"another model (abcdef) than this run's ({own[:12]})" in sentence
    (sentence,) = doubts("seen", generator=own, problems=["p/1", "p/2", "t/0"])
    assert "trained on 2 of these 3 problems (p/1 among them)" in sentence
    assert read_provenance(run, "seen").trained_on.problems == ("p/1", "p/2", "t/0")


def test_a_verifier_sees_what_the_programs_returned(run, tmp_path):
    (tmp_path / "spy.py").write_text(SPY)
    path = verifier_folder(tmp_path / "v", "g", inputs=["prompt", "program", "execution"], suite="inputs")
    with pytest.raises(InputError, match="has no suite 'inputs'"):
        rate(run, f"{tmp_path}/spy.py:spy", args={"path": path})
    suites.run_suite(run, suites.own_inputs(suites.problems_of(run)))
    rate(run, f"{tmp_path}/spy.py:spy", args={"path": path})
    spied = {tuple(row[:2]): row[2] for row in map(json.loads, (tmp_path / "spied.jsonl").read_text().splitlines())}
    assert spied["p/0", 0] == ["f(3) = 3", "f(4) = 4"]
    assert spied["p/1", 2] == ["f(3) = -1", "f(4) = -1"]
    assert spied["p/2", 4] == ["f(3) -> runtime_error", "f(4) -> runtime_error"]
    told = read_provenance(run, "spy")
    assert (told.suite, told.suite_sha) == ("inputs", suites.read_record(run, "inputs").tests_sha)
    _, results = results_of(run)
    assert list(results.suites) == ["inputs"]
    # completions 0, 3 and 5 return x: with three of the six they win wherever they are two, or one of three classes
    np.testing.assert_allclose(majority(results, [6], suite="inputs"), 1)
    _, without = results_of(run, with_suites=False)
    assert without.suites == {}


def test_folders_that_are_no_verifiers(tmp_path):
    with pytest.raises(InputError, match=r"is not a verifier: it has no verifier.json"):
        account(tmp_path)
    (tmp_path / "verifier.json").write_text("{}")
    with pytest.raises(InputError, match="no account of a verifier"):
        account(tmp_path)


def test_lines_of_executions_want_one_for_each_test():
    problem = harness.Problem(id="p", task="t", prompt="")
    completion = harness.Completion(problem_id="p", index=0, text="")
    assert execution_lines(Scorable(problem=problem, completion=completion)) == []


def test_scorers_are_listed_without_torch():
    code = "import sys\nfrom harness import registry\nprint(list(registry.names('scorer')), 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == f"{sorted(registry.BUILT_IN['scorer'])} False"
