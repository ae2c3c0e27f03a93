"""Sample files of code benchmarks and our own: recognised by content, read to the right completions."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.dataset import write_parquet
from harness.errors import InputError, UnknownName
from harness.samplers.formats import FORMATS, NAMES, detect
from harness.samplers.replay import replay
from harness.types import Budget, Completion, Problem

CODE = [Problem(id=f"HumanEval/{i}", task="humaneval", prompt=f"def f{i}():\n") for i in range(3)]


def lines(path: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def value(path: Path, content: Any, indent: int | None = None) -> Path:
    path.write_text(json.dumps(content, indent=indent))
    return path


def read(path: Path, problems: list[Problem], **options: Any) -> list[Completion]:
    return list(replay(str(path), **options).sample(problems, Budget()))


def brief(completions: list[Completion]) -> list[tuple[str, int, str, str]]:
    return [(c.problem_id, c.index, c.text, c.form) for c in completions]


def test_every_format_has_a_reader_and_a_line_for_help() -> None:
    assert set(NAMES) == {*FORMATS, "bigcode"}
    assert all(NAMES.values())


# ---------------------------------------------------------------------------------------------------------------------
# code


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.jsonl.gz", "samples.txt", "samples.json"])
def test_humaneval_samples_in_any_file(tmp_path: Path, name: str) -> None:
    rows = [{"task_id": f"HumanEval/{i}", "completion": f"    return {j}"} for j, i in enumerate([0, 2, 0])]
    path = lines(tmp_path / name, *rows)
    assert detect(path) == "humaneval"
    assert brief(read(path, CODE)) == [
        ("HumanEval/0", 0, "    return 0", "continuation"),
        ("HumanEval/2", 0, "    return 1", "continuation"),
        ("HumanEval/0", 1, "    return 2", "continuation"),
    ]


def test_humaneval_results_keep_the_verdict_and_other_numbers(tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/0", "completion": " pass", "completion_id": 7, "result": "passed", "passed": True,
           "mean_logprob": -0.5, "logprob": -3.0, "n_tokens": 6, "finish_reason": "length"}  # fmt: skip
    failed = {"task_id": "HumanEval/0", "completion": "x", "result": "timed out", "passed": False}
    one, other = read(lines(tmp_path / "samples.jsonl_results.jsonl", row, failed), CODE)
    assert one.scores == {"source_passed": 1.0, "mean_logprob": -0.5}
    assert (one.logprob, one.n_tokens, one.stop_reason) == (-3.0, 6, "length")
    assert other.scores == {"source_passed": 0.0}


def test_evalplus_solutions_and_completions_may_be_mixed(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "s.jsonl",
        {"task_id": "HumanEval/0", "solution": "def f0(): ...", "_identifier": "HumanEval/0_0"},
        {"task_id": "HumanEval/1", "completion": "    ..."},
    )
    assert detect(path) == "evalplus"
    assert [(c.text, c.form) for c in read(path, CODE)] == [("def f0(): ...", "program"), ("    ...", "continuation")]


def test_evalplus_folder_in_order_of_numbers(tmp_path: Path) -> None:
    for name in [
        "HumanEval_2/10.py",
        "HumanEval_2/9.py",
        "HumanEval_0/0.py",
        "HumanEval_0/notes.txt",
        "eval_results.json",
    ]:
        file = tmp_path / "out" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"# {name}\r\n".encode())
    sampler = replay(str(tmp_path / "out"))
    assert brief(list(sampler.sample(CODE, Budget()))) == [
        ("HumanEval/0", 0, "# HumanEval_0/0.py\r\n", "program"),
        ("HumanEval/2", 0, "# HumanEval_2/9.py\r\n", "program"),
        ("HumanEval/2", 1, "# HumanEval_2/10.py\r\n", "program"),
    ]
    assert sampler.notices == ["2 files of the folder not read, as not PROBLEM/NUMBER.py."]


@pytest.mark.parametrize("indent", [None, 2])
def test_evalplus_results(tmp_path: Path, indent: int | None) -> None:
    entries = [
        {"task_id": "HumanEval/1", "solution": f"def f1(): return {status!r}", "base_status": status,
         "plus_status": "fail", "base_fail_tests": [], "plus_fail_tests": [[1]]}
        for status in ("pass", "fail", "timeout")
    ]  # fmt: skip
    content = {"date": "2026-01-01 10:00", "hash": "fe58", "eval": {"HumanEval/1": entries}, "pass_at_k": {}}
    path = value(tmp_path / "samples_eval_results.json", content, indent)
    assert detect(path) == "evalplus"
    got = read(path, CODE)
    assert [c.scores["source_passed"] for c in got] == [1.0, 0.0, 0.0]
    assert [c.scores["source_passed_plus"] for c in got] == [0.0, 0.0, 0.0]
    assert {(c.problem_id, c.form) for c in got} == {("HumanEval/1", "program")}


def test_evalplus_results_without_programs_are_refused(tmp_path: Path) -> None:
    old = {"eval": {"HumanEval/0": {"nfiles": 1, "base": [["success", []]], "plus": []}}}
    with pytest.raises(InputError, match="holds verdicts and no programs"):
        read(value(tmp_path / "eval_results.json", old), CODE)


@pytest.mark.parametrize("indent", [None, 1])
def test_bigcode_generations_in_dataset_order(tmp_path: Path, indent: int | None) -> None:
    path = value(tmp_path / "generations.json", [["a", "b"], ["c", "d"]], indent)
    assert detect(path) == "bigcode"
    mbpp = [Problem(id=f"Mbpp/{i}", task="mbpp", prompt="") for i in (2, 3, 0)]  # not the numbers in the ids
    assert brief(read(path, mbpp)) == [("Mbpp/2", 0, "a", "program"), ("Mbpp/2", 1, "b", "program"),
                                       ("Mbpp/3", 0, "c", "program"), ("Mbpp/3", 1, "d", "program")]  # fmt: skip


def test_bigcode_with_more_lists_than_problems(tmp_path: Path) -> None:
    path = value(tmp_path / "generations.json", [["a"]] * 4)
    with pytest.raises(InputError, match=r"entry 4: the file has more rows than the task has problems"):
        read(path, CODE)


def test_livecodebench_with_verdicts(tmp_path: Path) -> None:
    problems = [Problem(id=name, task="livecodebench", prompt="") for name in ("abc301_a", "1899_B", "empty")]
    rows = [
        {"question_title": "t", "question_id": "1899_B", "difficulty": "easy", "output_list": ["```p```", "q"],
         "code_list": ["p", ""], "graded_list": [True, False], "pass@1": 0.5, "metadata": ["{}", "{}"]},
        {"question_id": "abc301_a", "code_list": ["r"]},
        {"question_id": "empty", "code_list": []},
    ]  # fmt: skip
    path = value(tmp_path / "Scenario.codegeneration_2_0.2_eval_all.json", rows, 4)
    assert detect(path) == "livecodebench"
    sampler = replay(str(path))
    got = list(sampler.sample(problems, Budget()))
    assert brief(got) == [("1899_B", 0, "p", "program"), ("1899_B", 1, "", "program"), ("abc301_a", 0, "r", "program")]
    assert [c.scores for c in got] == [{"source_passed": 1.0}, {"source_passed": 0.0}, {}]
    assert sampler.notices == ["1 row without a single completion."]
    assert sampler.counts(problems, Budget())["empty"] == 0


def test_livecodebench_with_too_few_verdicts(tmp_path: Path) -> None:
    path = value(tmp_path / "e.json", [{"question_id": "HumanEval/0", "code_list": ["a", "b"], "graded_list": [True]}])
    with pytest.raises(InputError, match="entry 1: graded_list does not have the 2 entries"):
        read(path, CODE)


# ---------------------------------------------------------------------------------------------------------------------
# plain, and what is recognised


def test_plain_carries_everything_a_completion_has(tmp_path: Path) -> None:
    row = {"problem_id": "HumanEval/0", "index": 5, "text": "t", "form": "message", "logprob": -1.5, "n_tokens": 9,
           "stop_reason": "stop", "parent": 1, "cost": 0.25, "scores": {"reward": 2.0}, "passed": False}  # fmt: skip
    path = lines(tmp_path / "c.jsonl", row)
    assert detect(path) == "plain"
    assert read(path, CODE) == [
        Completion(problem_id="HumanEval/0", index=5, text="t", form="message", logprob=-1.5, n_tokens=9,
                   stop_reason="stop", parent=1, cost=0.25, scores={"reward": 2.0, "source_passed": 0.0})
    ]  # fmt: skip


def test_rows_in_one_json_list_or_parquet(tmp_path: Path) -> None:
    rows = [{"problem_id": "HumanEval/0", "text": "a"}, {"problem_id": "HumanEval/0", "text": "b"}]
    write_parquet(rows, tmp_path / "c.parquet")
    for path in (tmp_path / "c.parquet", value(tmp_path / "c.json", rows), value(tmp_path / "d.json", rows, 2)):
        assert [c.text for c in read(path, CODE)] == ["a", "b"], path


def test_a_run_folder_stands_for_its_completions(tmp_path: Path) -> None:
    lines(tmp_path / "completions.jsonl", {"problem_id": "HumanEval/0", "index": 0, "text": "a"})
    lines(tmp_path / "verdicts.jsonl", {"problem_id": "HumanEval/0", "index": 0, "passed": True})
    assert [c.text for c in read(tmp_path, CODE)] == ["a"]


@pytest.mark.parametrize("content", [{"a": 1, "b": 2}, [1, 2], "text", 3, {}])
def test_what_is_not_recognised_lists_the_formats(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"in no format that can be recognised .*give format= one of plain, .*bigcode"):
        detect(value(tmp_path / "x.json", content))


def test_a_folder_without_programs(tmp_path: Path) -> None:
    lines(tmp_path / "samples_a.jsonl", {})
    with pytest.raises(InputError, match=r"holds no PROBLEM/NUMBER.py .*\(it holds samples_a.jsonl\): name the file"):
        read(tmp_path, CODE)


def test_format_by_name(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl", {"task_id": "HumanEval/0", "completion": "c", "problem_id": "other", "text": "t"}
    )
    assert [c.text for c in read(path, CODE, format="humaneval")] == ["c"]
    with pytest.raises(UnknownName, match="did you mean 'humaneval'"):
        replay(str(path), format="human_eval")
