"""Sample files of maths benchmarks and general harnesses, and that no content of a field is ever a crash."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.dataset import write_parquet
from harness.errors import InputError, UnknownName
from harness.samplers.formats import FORMATS, detect
from harness.samplers.replay import replay
from harness.types import Budget, Completion, Problem

CODE = [Problem(id=f"HumanEval/{i}", task="humaneval", prompt=f"def f{i}():\n") for i in range(3)]
QUESTIONS = ["How many ducks?", "What is 2+2?", "Who  ate\nthe pie?"]
MATHS = [
    Problem(id=f"gsm8k/{i}", task="gsm8k", prompt=f"Question: {text}\nAnswer:", meta={"question": text})
    for i, text in enumerate(QUESTIONS)
]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, problems: list[Problem], **options: Any) -> list[Completion]:
    return list(replay(str(path), **options).sample(problems, Budget()))


def brief(completions: list[Completion]) -> list[tuple[str, int, str, str]]:
    return [(c.problem_id, c.index, c.text, c.form) for c in completions]


# ---------------------------------------------------------------------------------------------------------------------
# maths


def test_qwen_math(tmp_path: Path) -> None:
    row = {"idx": 1, "question": QUESTIONS[1], "gt": "4", "code": ["so 4", "so 5"], "pred": ["4", "5"],
           "score": [True, False], "pred_score": [[3.5], [-1.0]]}  # fmt: skip
    path = lines(tmp_path / "test_qwen.jsonl", row)
    assert detect(path) == "qwen_math"
    got = read(path, MATHS)
    assert brief(got) == [("gsm8k/1", 0, "so 4", "continuation"), ("gsm8k/1", 1, "so 5", "continuation")]
    assert [c.scores for c in got] == [
        {"source_passed": 1.0, "pred_score": 3.5},
        {"source_passed": 0.0, "pred_score": -1},
    ]


def test_a_file_in_another_order_is_matched_by_the_questions(tmp_path: Path) -> None:
    rows = [{"idx": i, "question": text, "code": [text]} for i, text in enumerate(reversed(QUESTIONS))]
    got = read(lines(tmp_path / "q.jsonl", *rows), MATHS)
    assert [(c.problem_id, c.text) for c in got] == [(f"gsm8k/{i}", QUESTIONS[i]) for i in (2, 1, 0)]


def test_a_file_of_another_split_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"idx": 1, "question": "A training question?", "code": ["x"]})
    with pytest.raises(InputError, match=r"line 1: problem 1 asks another question than gsm8k/1 does"):
        read(path, MATHS)


def test_a_question_may_be_known_from_the_prompt_alone(tmp_path: Path) -> None:
    problems = [Problem(id=p.id, task=p.task, prompt=p.prompt) for p in MATHS]  # no bare question
    rows = [{"idx": i, "question": QUESTIONS[i], "code": ["x"]} for i in (0, 2)]
    assert [c.problem_id for c in read(lines(tmp_path / "q.jsonl", *rows), problems)] == ["gsm8k/0", "gsm8k/2"]
    with pytest.raises(InputError, match="line 1: problem 1 asks another question than gsm8k/1 does"):
        read(lines(tmp_path / "q.jsonl", rows[0] | {"idx": 1}), problems)


SOLUTIONS = {"question": QUESTIONS[2], "ground_truth": "A: 3",
             "6b_finetuning": {"is_correct": False, "solution": "A: 2"},
             "6b_verification": {"is_correct": True, "solution": "A: 3"}}  # fmt: skip


@pytest.mark.parametrize("index", [{}, {"index": 2}])
def test_gsm8k_solutions_of_one_system(tmp_path: Path, index: dict[str, int]) -> None:
    path = lines(tmp_path / "m.jsonl", index | SOLUTIONS)
    assert detect(path) == "gsm8k_solutions"
    (got,) = read(path, MATHS, system="6b_verification")
    assert (got.problem_id, got.text, got.scores) == ("gsm8k/2", "A: 3", {"source_passed": 1.0})


def test_gsm8k_solutions_need_a_system(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", SOLUTIONS)
    with pytest.raises(InputError, match="system=NAME of 6b_finetuning, 6b_verification"):
        read(path, MATHS)
    with pytest.raises(UnknownName, match="did you mean '6b_finetuning'"):
        read(path, MATHS, system="6b_finetune")


# ---------------------------------------------------------------------------------------------------------------------
# general harnesses


def lm_eval_row(doc_id: int, doc: dict[str, Any], responses: list[str], filter: str, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id, "doc": doc, "target": "4",
        "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": []}}},
        "resps": [responses], "filtered_resps": ["[invalid]"], "filter": filter, "metrics": ["exact_match"],
        "doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "exact_match": 1.0,
    } | more  # fmt: skip


def test_lm_eval_counts_the_lines_of_several_filters_once(tmp_path: Path) -> None:
    rows = [lm_eval_row(i, {"question": QUESTIONS[i], "answer": "#### 4"}, [f"a{i}", f"b{i}"], name)
            for name in ("strict-match", "flexible-extract") for i in (0, 1)]  # fmt: skip
    path = lines(tmp_path / "samples_gsm8k_2026-01-01T00-00-00.jsonl", *rows)
    assert detect(path) == "lm_eval"
    sampler = replay(str(path))
    assert sampler.counts(MATHS, Budget()) == {"gsm8k/0": 2, "gsm8k/1": 2, "gsm8k/2": 0}
    assert [c[:3] for c in brief(list(sampler.sample(MATHS, Budget())))] == [
        ("gsm8k/0", 0, "a0"), ("gsm8k/0", 1, "b0"), ("gsm8k/1", 0, "a1"), ("gsm8k/1", 1, "b1"),
    ]  # fmt: skip
    assert sampler.notices == ["4 completions repeated word for word under the same index and counted once."]


def test_lm_eval_uses_the_documents_own_id_and_keeps_a_single_verdict(tmp_path: Path) -> None:
    row = lm_eval_row(0, {"task_id": "HumanEval/2", "prompt": "def f2():\n"}, ["    pass"], "create_test",
                      metrics=["pass@1"], **{"pass@1": 0.0})  # fmt: skip
    (got,) = read(lines(tmp_path / "samples.jsonl", row), CODE)
    assert (got.problem_id, got.form, got.scores) == ("HumanEval/2", "continuation", {"source_passed": 0.0})


@pytest.mark.parametrize(
    ("prompt", "form"),
    [
        ("def f2():\n", "continuation"),
        ("<|im_start|>user\nWrite f2<|im_end|>\n<|im_start|>assistant\n", "message"),
        ('[{"role": "user", "content": "Write f2"}]', "message"),
        ([{"role": "user", "content": "Write f2"}], "message"),
        ("<|im_start|>user\nWrite f2<|im_end|>\n<|im_start|>assistant\n```python\ndef f2():\n", "continuation"),
    ],
)
def test_lm_eval_tells_chats_from_continuations(tmp_path: Path, prompt: Any, form: str) -> None:
    row = lm_eval_row(2, {"task_id": "HumanEval/2", "prompt": "def f2():\n"}, ["x"], "none",
                      arguments={"gen_args_0": {"arg_0": prompt, "arg_1": {}}})  # fmt: skip
    (got,) = read(lines(tmp_path / "samples.jsonl", row), CODE)
    assert got.form == form


def test_lm_eval_multiple_choice_is_refused(tmp_path: Path) -> None:
    row = lm_eval_row(0, {}, [], "none", resps=[[["-1.0", "True"]], [["-2.0", "False"]]])
    with pytest.raises(InputError, match="line 1: resps is not one list of responses: multiple-choice"):
        read(lines(tmp_path / "samples.jsonl", row), MATHS)


def lighteval_row(doc_id: str, query: str, texts: list[str], **specific: str) -> dict[str, Any]:
    return {
        "doc": {"query": query, "choices": ["4"], "gold_index": [0], "instruction": None,
                "task_name": "lighteval|gsm8k|0", "id": doc_id, "specific": specific or None},
        "model_response": {"input": query, "text": texts, "output_tokens": [[1, 2, 3] for _ in texts], "logprobs": []},
        "metric": {"extractive_match": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
def test_lighteval_details_are_matched_by_the_documents_number(tmp_path: Path, as_text: bool) -> None:
    rows = [lighteval_row(str(i), f"Question: {QUESTIONS[i]}\nAnswer:", [f"t{i}"]) for i in (2, 0)]
    if as_text:  # what lighteval does when its rows don't fit one schema
        rows = [{name: str(part) for name, part in row.items()} for row in rows]
    path = tmp_path / "details_lighteval|gsm8k|0_2026.parquet"
    write_parquet(rows, path)
    assert detect(path) == "lighteval"
    got = read(path, MATHS)
    assert brief(got) == [("gsm8k/2", 0, "t2", "continuation"), ("gsm8k/0", 0, "t0", "continuation")]
    assert got[0].n_tokens == 3
    assert got[0].scores == ({} if as_text else {"source_passed": 1.0})


def test_lighteval_uses_ids_of_the_dataset(tmp_path: Path) -> None:
    write_parquet([lighteval_row("0", "q", ["a", "b"], task_id="HumanEval/1")], tmp_path / "d.parquet")
    got = read(tmp_path / "d.parquet", CODE)
    assert [(c.problem_id, c.index, c.scores) for c in got] == [("HumanEval/1", 0, {}), ("HumanEval/1", 1, {})]


def test_lighteval_rows_are_shuffled_so_their_order_says_nothing(tmp_path: Path) -> None:
    rows = [lighteval_row(str(i), f"Complete this.\n\n{CODE[i].prompt}", [f"t{i}"]) for i in (2, 0)]
    for row in rows:
        del row["doc"]["id"]
    write_parquet(rows, tmp_path / "d.parquet")
    assert [(c.problem_id, c.text) for c in read(tmp_path / "d.parquet", CODE)] == [("HumanEval/2", "t2"),
                                                                                    ("HumanEval/0", "t0")]  # fmt: skip
    write_parquet([lighteval_row("", "something else", ["t"])], tmp_path / "d.parquet")
    with pytest.raises(InputError, match="row 1: no problem of the task asks the question of this row"):
        read(tmp_path / "d.parquet", CODE)


@pytest.mark.parametrize("predictions", [["t"], "['t']"])
def test_lighteval_before_2025_is_matched_by_the_prompt(tmp_path: Path, predictions: Any) -> None:
    row = {"example": "", "full_prompt": f"Solve.\n\n{QUESTIONS[1]}\n", "predictions": predictions, "metrics": "{}"}
    write_parquet([row], tmp_path / "details.parquet")
    assert brief(read(tmp_path / "details.parquet", MATHS)) == [("gsm8k/1", 0, "t", "continuation")]


def test_verifiers_are_matched_by_the_prompt_since_ids_may_be_wrong(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[1]}]
    rows = [
        {"example_id": 0, "prompt": chat, "completion": [{"role": "assistant", "content": "4"}], "answer": "4",
         "reward": 0.5, "task": "default", "generation_ms": 12.0, "is_completed": True},
        {"prompt": MATHS[2].prompt, "completion": "nobody", "reward": 0},
        {"prompt": chat, "completion": [{"role": "assistant", "content": "hm"}, {"role": "user", "content": "go on"},
                                        {"role": "assistant", "content": "5"}], "reward": 0.0},
    ]  # fmt: skip
    path = lines(tmp_path / "results.jsonl", *rows)
    assert detect(path) == "verifiers"
    sampler = replay(str(path))
    got = list(sampler.sample(MATHS, Budget()))
    assert brief(got) == [("gsm8k/1", 0, "4", "message"), ("gsm8k/2", 0, "nobody", "continuation"),
                          ("gsm8k/1", 1, "5", "message")]  # fmt: skip
    assert got[0].scores == {"reward": 0.5, "generation_ms": 12.0}
    assert sampler.notices == ["1 completion of several turns of which the last was taken."]


# ---------------------------------------------------------------------------------------------------------------------
# no content of a field is a crash

ROWS: dict[str, dict[str, Any]] = {
    "plain": {"problem_id": "gsm8k/0", "text": "t", "index": 0, "form": "message", "scores": {"a": 1.0}, "n_tokens": 1,
              "logprob": -1.0, "stop_reason": "stop", "parent": 0, "cost": 1.0, "passed": True},
    "lm_eval": lm_eval_row(0, {"question": QUESTIONS[0], "task_id": "gsm8k/0", "prompt": "p"}, ["t"], "none"),
    "lighteval": lighteval_row("0", QUESTIONS[0], ["t"], task_id="gsm8k/0"),
    "livecodebench": {"question_id": "gsm8k/0", "code_list": ["t"], "graded_list": [True]},
    "evalplus": {"task_id": "gsm8k/0", "solution": "t"},
    "humaneval": {"task_id": "gsm8k/0", "completion": "t", "passed": True, "result": "passed"},
    "qwen_math": {"idx": 0, "question": QUESTIONS[0], "code": ["t"], "score": [True], "pred_score": [[1.0]]},
    "verifiers": {"prompt": [{"role": "user", "content": QUESTIONS[0]}], "example_id": 0, "reward": 1.0,
                  "completion": [{"role": "assistant", "content": "t"}]},
    "gsm8k_solutions": {"index": 2} | SOLUTIONS,
}  # fmt: skip
ODD = [None, True, 3, -1, 1.5, 10**400, "x", "\ud800", [], [[]], [None], [3], [{}], ["x", "y"], {}, {"text": []}]


def variants(row: Any) -> Any:
    """The row with each of its parts, at any depth, replaced by each odd value."""
    parts = row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list) else ()
    for key, part in parts:
        for other in [*ODD, *variants(part)]:
            copy = row.copy()
            copy[key] = other
            yield copy


def attempt(path: Path, name: str, options: dict[str, Any]) -> tuple[list[Completion], str | None]:
    try:
        return read(path, MATHS, format=name, **options), None
    except InputError as error:
        return [], str(error)


@pytest.mark.parametrize("name", FORMATS)
def test_odd_fields_are_read_or_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    options = {"system": "6b_finetuning"} if name == "gsm8k_solutions" else {}
    assert len(read(lines(tmp_path / "0.jsonl", ROWS[name]), MATHS, format=name, **options)) == 1
    refused = 0
    for row in variants(ROWS[name]):
        path = lines(tmp_path / "1.jsonl", row)
        got, complaint = attempt(path, name, options)
        if complaint is not None:
            assert "1.jsonl" in complaint or "system" in complaint, row
            assert "\n" not in complaint, row
            complaint.encode()
            refused += 1
        else:
            assert msgspec.json.decode(msgspec.json.encode(got), type=list[Completion]) == got
    assert refused > 0
