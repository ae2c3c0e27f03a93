"""GSM8K: extraction traps, gold solutions, and 2640 real solutions graded as OpenAI graded them."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.grading.answers import grade
from harness.tasks.gsm8k import extract, gsm8k
from harness.types import Completion, Form, Problem, Task

QUESTION = Problem(id="gsm8k/0", task="gsm8k", prompt="Question: ?\nAnswer:", answer="18")


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _answer(text: str, form: Form = "continuation") -> str | None:
    return extract(QUESTION, Completion(problem_id="gsm8k/0", index=0, text=text, form=form)).answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
        ("so\nA: 18", "18"),
        (" The answer is $18.00.", "18"),
        ("The answer is: **18**", "18"),
        ("**Answer:** 18 apples and 3 pears", "18"),
        ("### Final answer\n\n18", "18"),
        (r"Thus \(\boxed{18}\) dollars.", "18"),
        (r"The answer is \boxed{\$18}. That is for 7 days.", "18"),
        ("Altogether 16 - 3 + 5 = 18 eggs.", "18"),
        ("The answer is 16 + 2 = 18.", "18"),
        ("#### -5", "-5"),
        ("#### −5", "-5"),
        ("#### -$5", "-5"),
        ("#### 1,234,000", "1234000"),
        ("#### $1,234.50", "2469/2"),
        ("#### 25%", "25"),
        (r"#### \frac{1}{2}", "1/2"),
        ("The answer is 3 1/2 hours", "7/2"),
        ("#### 3\nWait, let me check. The answer is 18.", "18"),
        ("#### 1. Count the eggs\nThere are 16.\n#### 2. Sell them\nShe makes 18 dollars.", "18"),
        ("<think>#### 5\nQuestion: which? 6</think>She makes 18.", "18"),
        ("no number at all", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert _answer(text) == answer


def test_a_run_on_question_is_not_answered() -> None:
    text = " 9 * 2 = 18.\n\nQuestion: Tom has 5.\nAnswer: 5\n#### 5\n\nQ: and 6?\nA: 6"
    assert _answer(text) == "18"
    assert _answer(" She makes 18.\n\nQ: Tom has 5. How many?\nA: 5") == "18"
    assert _answer("Sure!\nQuestion: 5 eggs?\nAnswer: 18", "message") == "18", "a chat reply may repeat the question"


@pytest.mark.parametrize(
    "text", ["####" * 100_000, "answer is " * 50_000, "\\boxed{" * 50_000, "#### " + "1" * 100_000, "A:\n" * 100_000]
)
def test_hostile_text_is_read_quickly(text: str) -> None:
    start = time.process_time()
    extracted = extract(QUESTION, Completion(problem_id="gsm8k/0", index=0, text=text))
    assert grade(QUESTION, extracted, ()).passed is False
    assert time.process_time() - start < 3


def _task(tmp_path: Path, count: int = 3, **options: Any) -> Task:
    rows = [
        {"question": f"What is {n}+1?", "answer": f"{n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(count)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return gsm8k(path=str(path), **options)


def test_problems(tmp_path: Path) -> None:
    task = _task(tmp_path)
    problem = task.problems[1]
    assert (problem.id, problem.prompt, problem.answer) == ("gsm8k/1", "Question: What is 1+1?\nAnswer:", "2")
    assert problem.context == ""
    assert problem.meta["question"] == "What is 1+1?"
    assert task.revision.startswith("file sha256:")
    assert task.stop == ("Question:", "\n\nQuestion")


def test_few_shot_examples_come_first_and_are_not_asked(tmp_path: Path) -> None:
    _task(tmp_path)
    task = _task(tmp_path, num_fewshot=2, fewshot_path=str(tmp_path / "rows.jsonl"))
    assert [problem.id for problem in task.problems] == ["gsm8k/2"]
    shown = task.problems[0].context + task.problems[0].prompt
    assert shown.startswith(
        "Question: What is 0+1?\nAnswer: 0+1=<<0+1=1>>1\n#### 1\n\nQuestion: What is 1+1?\nAnswer: "
    )
    assert shown.endswith("#### 2\n\nQuestion: What is 2+1?\nAnswer:")
    with pytest.raises(InputError, match="3 examples and num_fewshot is 4"):
        _task(tmp_path, num_fewshot=4, fewshot_path=str(tmp_path / "rows.jsonl"))


def test_a_row_without_a_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "?", "answer": "#### many"}))
    with pytest.raises(InputError, match="gsm8k row 0 has no number"):
        gsm8k(path=str(path))


@pytest.mark.parametrize(("split", "count"), [("test", 1319), pytest.param("train", 7473, marks=pytest.mark.slow)])
def test_every_gold_solution_passes(shared_data: Path, split: str, count: int) -> None:
    task = gsm8k(path=str(shared_data / f"gsm8k_{split}.jsonl.gz"), split=split)
    assert len(task.problems) == count
    golds = [(problem, task.gold(problem)) for problem in task.problems]
    failed = [p.id for p, gold in golds if gold is None or not task.grade(p, task.extract(p, gold), ()).passed]
    assert failed == []


def test_real_solutions_are_graded_as_openai_graded_them(shared_data: Path) -> None:
    task = gsm8k(path=str(shared_data / "gsm8k_test.jsonl.gz"))
    rows = _rows(shared_data / "gsm8k_model_solutions_even.jsonl.gz")
    correct = {"6b_finetuning": 145, "6b_verification": 257, "175b_finetuning": 211, "175b_verification": 373}
    for system, count in correct.items():
        passed = []
        for row in rows:
            problem = task.problems[row["index"]]
            completion = Completion(problem_id=problem.id, index=0, text=row[system]["solution"])
            passed.append(task.grade(problem, task.extract(problem, completion), ()).passed)
        assert passed == [row[system]["is_correct"] for row in rows]
        assert (len(passed), sum(map(bool, passed))) == (660, count)
