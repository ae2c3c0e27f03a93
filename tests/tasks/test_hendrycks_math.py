r"""MATH and MATH-500: rows, extraction, gold solutions, and 400 real solutions with their shipped verdicts."""

from __future__ import annotations

import gzip
import json
from math import comb
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError, UnknownName
from harness.grading.answers import equal
from harness.tasks import hendrycks_math as module
from harness.tasks.hendrycks_math import SUBJECTS, extract, hendrycks_math, math_500
from harness.types import Completion, Form, Problem

REAL = "math_qwen_rm_first50.jsonl.gz"
PROBLEM = Problem(id="m/0", task="hendrycks_math", prompt="?", answer="5")


def _answer(text: str, form: Form = "continuation") -> str | None:
    return extract(PROBLEM, Completion(problem_id="m/0", index=0, text=text, form=form)).answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{3}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"We pay $3 for $4$, so \fbox{7}", "7"),
        ("Final Answer: The final answer is $x^2$. I hope it is correct.", "x^2"),
        (r"The answer is \(\frac{9}{7}\).", r"\frac{9}{7}"),
        ("The answer is 3.5. Then more.", "3.5"),
        (r"The answer is \$5.", r"\$5."),
        (r"<think>Is it \boxed{3}?</think>It is $4$, so the answer is $4$.", "4"),
        ("it equals 420", None),
        (r"it is \boxed{4", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert _answer(text) == answer


def test_a_run_on_problem_is_not_answered() -> None:
    text = "So \\boxed{5}.\n\nProblem:\nNext\n\nSolution: \\boxed{6}"
    assert _answer(text) == "5"
    assert _answer(text, "message") == "6"


def _write(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_of_math(tmp_path: Path) -> None:
    row = {"problem": "1+1?", "level": "Level 5", "type": "Counting & Probability", "solution": r"It is \boxed{2}."}
    task = hendrycks_math(path=_write(tmp_path, row, row | {"type": "Algebra", "level": "Level ?"}))
    first = task.problems[0]
    assert (first.id, first.answer, first.level) == ("hendrycks_math/0", "2", "Level 5")
    assert first.meta["subject"] == "counting_and_probability"
    assert first.context + first.prompt == f"{module.INSTRUCTION}\n\nProblem:\n1+1?\n\nSolution:"
    assert task.problems[1].level == "Level ?"
    only = hendrycks_math(path=_write(tmp_path, row, row | {"type": "Algebra"}), subject="algebra")
    assert [problem.id for problem in only.problems] == ["hendrycks_math/1"], "ids don't depend on the subject"


def test_rows_of_math_500(tmp_path: Path) -> None:
    row = {"problem": "1+1?", "solution": r"\boxed{2}", "answer": "2", "subject": "Algebra", "level": 1}
    task = math_500(path=_write(tmp_path, row | {"unique_id": "test/algebra/1.json"}, row | {"level": 5}))
    assert [problem.id for problem in task.problems] == ["test/algebra/1.json", "math_500/1"]
    assert [problem.level for problem in task.problems] == ["Level 1", "Level 5"]
    assert task.problems[0].meta["subject"] == "algebra"


def test_without_a_solution_the_answer_is_the_gold(tmp_path: Path) -> None:
    task = math_500(path=_write(tmp_path, {"question": "1/2+0?", "answer": r"\frac{1}{2}"}))
    gold = task.gold(task.problems[0])
    assert gold is not None
    assert task.grade(task.problems[0], task.extract(task.problems[0], gold), ()).passed


def test_bad_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row hendrycks_math/0 has no answer"):
        hendrycks_math(path=_write(tmp_path, {"problem": "?", "solution": "no box"}))
    with pytest.raises(InputError, match="row math_500/0 has no field 'answer'"):
        math_500(path=_write(tmp_path, {"problem": "?", "solution": r"\boxed{1}"}))
    with pytest.raises(InputError, match="no field 'question'"):
        math_500(path=_write(tmp_path, {"answer": "1"}))
    with pytest.raises(UnknownName, match="did you mean 'geometry'"):
        hendrycks_math(subject="geometri")
    with pytest.raises(InputError, match="no row of the subject 'geometry'"):
        hendrycks_math(path=_write(tmp_path, {"problem": "?", "solution": r"\boxed{1}"}), subject="geometry")


def test_few_shot_examples_come_first_and_are_not_asked(tmp_path: Path) -> None:
    path = _write(tmp_path, *({"problem": f"{n}+1?", "solution": f"\\boxed{{{n + 1}}}"} for n in range(3)))
    task = hendrycks_math(path=path, num_fewshot=2, fewshot_path=path)
    assert [problem.id for problem in task.problems] == ["hendrycks_math/2"]
    assert (
        "Problem:\n0+1?\n\nSolution: \\boxed{1}\n\nProblem:\n1+1?\n\nSolution: \\boxed{2}\n\n"
        in task.problems[0].context
    )


def test_the_hub_has_one_config_per_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def rows(hub: str, revision: str, **options: Any) -> tuple[list[dict[str, Any]], str]:
        asked.append((hub, revision, options["config"], options["split"]))
        return [{"problem": options["config"], "solution": r"\boxed{1}", "type": "x"}] * 2, "r"

    monkeypatch.setattr(module, "load_rows", rows)
    ids = [problem.id for problem in hendrycks_math(split="train").problems]
    assert [config for _, _, config, _ in asked] == list(SUBJECTS)
    assert ids[:3] == [
        "hendrycks_math/algebra/0",
        "hendrycks_math/algebra/1",
        "hendrycks_math/counting_and_probability/0",
    ]
    assert len(ids) == 14
    assert hendrycks_math(subject="geometry").problems[0].id == "hendrycks_math/geometry/0"


def _real(shared_data: Path) -> list[dict[str, Any]]:
    with gzip.open(shared_data / REAL, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("function", [hendrycks_math, math_500])
def test_real_solutions(shared_data: Path, function: Any) -> None:
    """All but one problem as shipped: Qwen's extraction made 4:30 of `4:30 \\text{ p.m.}`, which is right."""
    task = function(path=str(shared_data / REAL))
    rows = _real(shared_data)
    differ = set()
    for problem, row in zip(task.problems, rows, strict=True):
        gold = task.gold(problem)
        assert task.grade(problem, task.extract(problem, gold), ()).passed
        for index, (text, score) in enumerate(zip(row["code"], row["score"], strict=True)):
            completion = Completion(problem_id=problem.id, index=index, text=text, form="message")
            verdict = task.grade(problem, task.extract(problem, completion), ())
            assert verdict.passed is not None
            if verdict.passed != score:
                differ.add((row["idx"], verdict.passed, verdict.answer, problem.answer))
    assert differ == {(3, True, "4:30pm", r"\text{4:30 p.m.}")}


def test_shipped_extractions_give_the_shipped_numbers(shared_data: Path) -> None:
    rows = _real(shared_data)
    correct = []
    for row in rows:
        passed = [equal(pred, row["answer"]) for pred in row["pred"]]
        assert passed == row["score"], row["idx"]
        correct.append(sum(map(bool, passed)))
    for k, value in ((1, 0.9375), (2, 0.957143), (4, 0.974), (8, 0.98)):
        mean = sum(1 - comb(8 - c, k) / comb(8, k) for c in correct) / len(correct)
        assert mean == pytest.approx(value, abs=5e-7)
