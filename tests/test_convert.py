"""What `convert` writes has the other tools' names in it, and `replay` reads the same texts back."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.convert import FORMATS, Graded, convert
from harness.dataset import read_parquet
from harness.errors import InputError, UnknownName
from harness.samplers.replay import replay
from harness.types import Budget, Completion, Form, Problem, Status, Verdict

PROBLEMS = [
    Problem(id=f"HumanEval/{i}", task="humaneval", prompt=f"def f{i}():\n", entry_point=f"f{i}", level="easy")
    for i in (0, 2)
]
TEXTS = ["    return 0", "a\0b\r\n", "", "\N{GRINNING FACE}\u2028"]
VERDICTS: list[tuple[bool | None, Status, str]] = [
    (True, Status.passed, ""),
    (False, Status.wrong, "assert 1 == 2"),
    (False, Status.timeout, ""),
    (None, Status.sandbox_error, "the judge died"),
]
RESULTS: dict[str, Any] = {
    "tasks": {
        "humaneval": {
            "pass@1": {"value": 0.25, "low": 0.1, "high": 0.5, "se": 0.125, "n_problems": 2, "n_samples": [4, 4],
                       "method": "clustered Wilson", "level": 0.95, "note": ""},
            "pass@2": {"value": None, "low": None, "high": None, "se": None, "n_problems": 2, "n_samples": [4, 4],
                       "method": "none"},
        }
    },
    "counts": {"humaneval": {"problems_expected": 164}},
}  # fmt: skip


def records(form: Form = "continuation") -> list[Graded]:
    """Two problems x four completions, out of order."""
    rows = []
    for problem in PROBLEMS:
        for i, text in enumerate(TEXTS):
            passed, status, detail = VERDICTS[i]
            completion = Completion(
                problem_id=problem.id, index=i, text=f"{text}{problem.id}", form=form, logprob=-0.5 * i,
                n_tokens=i, stop_reason="stop", scores={"reward": i / 4},
            )  # fmt: skip
            verdict = Verdict(problem_id=problem.id, index=i, passed=passed, status=status, answer="7", detail=detail)
            rows.append(Graded(problem, completion, verdict))
    return rows[::-1]


def write(to: str, output: Path, rows: list[Graded] | None = None) -> list[Path]:
    return convert(records() if rows is None else rows, RESULTS, to=to, output=output, model="org/model:1")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(path: Path, **options: Any) -> dict[tuple[str, int], Completion]:
    got = replay(str(path), **options).sample(PROBLEMS, Budget())
    return {(completion.problem_id, completion.index): completion for completion in got}


FILE_TO_READ = {"humaneval": 0, "evalplus": 0, "livecodebench": 0, "lm_eval": 1, "parquet": 0, "jsonl": 0}


@pytest.mark.parametrize("form", ["continuation", "program", "message"])
@pytest.mark.parametrize("to", FILE_TO_READ)
def test_replay_reads_the_same_texts_back(tmp_path: Path, to: str, form: Form) -> None:
    rows = records(form)
    refused = {
        "humaneval": ("program", "message"),
        "evalplus": ("message",),
        "livecodebench": ("continuation", "message"),
    }
    if form in refused.get(to, ()):
        with pytest.raises(InputError, match=r"HumanEval/. .*convert to .*jsonl"):
            write(to, tmp_path, rows)
        return
    path = write(to, tmp_path, rows)[FILE_TO_READ[to]]
    got = read_back(path)
    assert {key: (c.text, c.form) for key, c in got.items()} == {
        (r.problem.id, r.completion.index): (r.completion.text, form) for r in rows
    }


@pytest.mark.parametrize("to", ["parquet", "jsonl"])
def test_our_own_tables_lose_nothing(tmp_path: Path, to: str) -> None:
    got = read_back(write(to, tmp_path)[0])
    for record in records():
        verdict = {} if record.verdict.passed is None else {"source_passed": float(record.verdict.passed)}
        expected = record.completion.scores | verdict
        again = got[record.problem.id, record.completion.index]
        assert again.scores == expected
        for name in ("logprob", "n_tokens", "stop_reason", "form"):
            assert getattr(again, name) == getattr(record.completion, name)


def test_humaneval_files(tmp_path: Path) -> None:
    samples, graded = write("humaneval", tmp_path / "new" / "s.jsonl")
    assert [path.name for path in (samples, graded)] == ["s.jsonl", "s.jsonl_results.jsonl"]
    assert all(list(row) == ["task_id", "completion"] for row in lines(samples))
    rows = [row for row in lines(graded) if row["task_id"] == "HumanEval/0"]
    assert [(row["passed"], row["result"]) for row in rows] == [
        (True, "passed"), (False, "failed: assert 1 == 2"), (False, "timed out"), (None, "ungraded: the judge died"),
    ]  # fmt: skip
    verdicts = [completion.scores.get("source_passed") for completion in read_back(graded).values()]
    assert verdicts[:4] == [1.0, 0.0, 0.0, None]


def test_gzip_by_name(tmp_path: Path) -> None:
    (path,) = write("jsonl", tmp_path / "c.jsonl.gz")
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 8
    assert len(read_back(path)) == 8


def test_programs_that_were_extracted(tmp_path: Path) -> None:
    completion = Completion(problem_id="HumanEval/0", index=0, text="```python\nx\n```", form="message", program="x\n")
    rows = [
        Graded(PROBLEMS[0], completion, Verdict(problem_id="HumanEval/0", index=0, passed=True, status=Status.passed))
    ]
    assert lines(write("evalplus", tmp_path, rows)[0]) == [{"task_id": "HumanEval/0", "solution": "x\n"}]
    (entry,) = json.loads(write("livecodebench", tmp_path, rows)[0].read_text())
    assert (entry["question_id"], entry["code_list"], entry["output_list"]) == (
        "HumanEval/0",
        ["x\n"],
        [completion.text],
    )
    assert (entry["graded_list"], entry["pass@1"]) == ([True], 1.0)


def test_lm_eval_files_have_the_names_that_people_grep_for(tmp_path: Path) -> None:
    results_path, samples_path = write("lm_eval", tmp_path)
    date = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d+"
    assert results_path.parent == samples_path.parent == tmp_path / "org__model__1"
    assert re.fullmatch(rf"results_{date}\.json", results_path.name)
    assert re.fullmatch(rf"samples_humaneval_{date}\.jsonl", samples_path.name)
    results = json.loads(results_path.read_text())
    assert results["results"]["humaneval"] == {
        "alias": "humaneval", "sample_len": 2, "pass@1,none": 0.25, "pass@1_stderr,none": 0.125,
        "pass@2,none": None, "pass@2_stderr,none": None,
    }  # fmt: skip
    assert results["n-samples"] == {"humaneval": {"original": 164, "effective": 2}}
    assert {"configs", "versions", "n-shot", "config", "git_hash", "date", "task_hashes"} <= results.keys()
    samples = lines(samples_path)
    assert [sample["doc_id"] for sample in samples] == [0, 1]
    assert all(
        {"doc", "target", "arguments", "resps", "filtered_resps", "filter", "doc_hash"} <= s.keys() for s in samples
    )
    assert samples[0]["resps"] == [[f"{text}HumanEval/2" for text in TEXTS]]
    assert samples[0]["pass@1"] == pytest.approx(1 / 3)  # of the three that were graded


def test_model_index_is_a_model_card(tmp_path: Path) -> None:
    (path,) = write("model_index", tmp_path)
    front = path.read_text().split("---\n")[1]
    (entry,) = yaml.safe_load(front)["model-index"]
    assert entry["name"] == "org/model:1"
    (result,) = entry["results"]
    assert result["task"]["type"] == "text-generation"
    assert result["dataset"] == {"type": "humaneval", "name": "humaneval"}
    assert result["metrics"][0]["type"] == "pass@1"
    assert result["metrics"][0]["value"] == 0.25
    assert result["metrics"][0]["args"]["low"] == 0.1
    with pytest.raises(InputError, match="exists and would be lost"):
        write("model_index", tmp_path)


def test_parquet_has_a_row_for_each_completion_with_its_verdict(tmp_path: Path) -> None:
    (path,) = write("parquet", tmp_path / "table.parquet")
    rows = read_parquet(path)
    assert len(rows) == 8
    first = next(row for row in rows if row["problem_id"] == "HumanEval/0" and row["index"] == 1)
    wanted = {"task": "humaneval", "level": "easy", "passed": False, "status": "wrong", "answer": "7",
              "score.reward": 0.25, "logprob": -0.5, "n_tokens": 1}  # fmt: skip
    assert {name: first[name] for name in wanted} == wanted
    assert [row["passed"] for row in rows].count(None) == 2


def test_every_format_is_described_and_written(tmp_path: Path) -> None:
    for to, about in FORMATS.items():
        rows = records("program" if to == "livecodebench" else "continuation")
        assert about
        assert all(path.is_file() for path in write(to, tmp_path / to, rows))


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'parquet'"):
        write("parket", tmp_path)
    with pytest.raises(InputError, match="not one graded completion"):
        write("jsonl", tmp_path, [])
    with pytest.raises(InputError, match="no metrics of any task"):
        convert(records(), {}, to="model_index", output=tmp_path, model="m")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*choose another output"):
        write("jsonl", tmp_path / "file" / "c.jsonl")


def test_lm_eval_with_several_forms_of_one_problem(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of the forms continuation and program: convert to jsonl or parquet"):
        write("lm_eval", tmp_path, [*records("program")[:1], *records()[1:]])
