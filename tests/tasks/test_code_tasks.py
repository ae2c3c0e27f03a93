"""HumanEval, MBPP and your own problems from local files with the Hub's fields: ids, prompts, tests, gold, traps."""

import json

import msgspec
import pytest

from harness.errors import InputError
from harness.sandbox import open_sandbox
from harness.selftest import run_gold
from harness.tasks.first_steps import first_steps
from harness.tasks.humaneval import humaneval
from harness.tasks.jsonl import jsonl
from harness.tasks.mbpp import mbpp, mbpp_sanitized
from harness.types import Completion, Job, Limits, Status

FULL = {
    "task_id": 11,
    "text": "Write a function to double a number.",
    "code": "import math\r\ndef double(x):\r\n  return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0\r\n", "assert double(-1) == -two"],
    "test_setup_code": "two = 2",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 12,
    "source_file": "x",
    "prompt": "Write a function to add all numbers.",
    "code": "def sum(x):\n  t = 0\n  for i in x: t += i\n  return t",
    "test_imports": ["import math"],
    "test_list": ["assert sum([1, 2]) == 3", "assert math.isclose(sum([0.1, 0.2]), 0.3)"],
}


def write(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def verdict_of(task, completion, place=0):
    problem = task.problems[place]
    filled = task.extract(problem, msgspec.structs.replace(completion, problem_id=problem.id))
    with open_sandbox(workers=1) as sandbox:
        ((job, executions),) = sandbox.run([Job(problem=problem, completion=filled)])
    return task.grade(problem, job.completion, executions)


def completion(text, form="continuation"):
    return Completion(problem_id="", index=0, text=text, form=form)


@pytest.mark.slow
def test_mbpp_full(tmp_path):
    task = mbpp(path=write(tmp_path, FULL))
    (problem,) = task.problems
    assert problem.id == "Mbpp/11"
    assert problem.entry_point == "double"
    assert "Write a function to double a number." in problem.prompt
    assert "assert double(-1) == -two\n[BEGIN]" in problem.prompt
    assert "\r" not in problem.prompt
    assert len(problem.tests) == 3
    assert task.stop == ("[DONE]",)
    assert verdict_of(task, task.gold(problem)).passed
    assert verdict_of(task, completion("def double(x): return x + x")).passed
    assert verdict_of(
        task, completion("Sure:\n```python\ndef double(x):\n    return x * 2\n```\nDone.", "message")
    ).passed
    assert verdict_of(task, completion("def double(x): return 4")).status == Status.wrong


def test_mbpp_sanitized(tmp_path):
    task = mbpp_sanitized(path=write(tmp_path, SANITIZED))
    (problem,) = task.problems
    assert problem.entry_point == "sum"
    assert verdict_of(task, task.gold(problem)).passed
    assert verdict_of(task, completion("def sum(x): return 3")).passed is False


def test_mbpp_shots_come_from_the_prompt_split(tmp_path):
    path = write(tmp_path, FULL, SANITIZED)
    (problem,) = mbpp(path=path, num_fewshot=1, fewshot_path=path).problems
    assert problem.id == "Mbpp/12"  # an example is no problem
    assert problem.context.count("[BEGIN]") == problem.context.count("[DONE]") == 1
    with pytest.raises(InputError, match="2 examples, not 3"):
        mbpp(path=path, num_fewshot=3, fewshot_path=path)


def test_a_missing_field_names_the_row(tmp_path):
    row = {key: value for key, value in FULL.items() if key != "test_list"}
    with pytest.raises(InputError, match="row 0 of mbpp has no 'test_list' of texts"):
        mbpp(path=write(tmp_path, row))
    with pytest.raises(InputError, match="row 0 of humaneval has no field 'prompt'"):
        humaneval(path=write(tmp_path, {"task_id": "x"}))


def test_humaneval_reads_each_form_as_what_it_is(shared_data):
    task = humaneval(path=str(shared_data / "HumanEval.jsonl.gz"))
    assert len(task.problems) == 164
    body = task.problems[0].answer
    whole = "def has_close_elements(numbers: List[float], threshold: float) -> bool:\n" + body
    assert verdict_of(task, completion(body)).passed
    assert verdict_of(task, completion(f"Here:\n```python\n{whole}```", "message")).passed  # the prompt has the import
    assert verdict_of(task, completion(f"<think>\n```\nno\n```\n</think>\n```\n{body}```", "message")).passed
    assert verdict_of(task, completion("from typing import List\n" + whole, "program")).passed
    assert verdict_of(task, completion(whole, "program")).passed is False  # a program is taken as it is


def test_helpers_of_the_prompt_are_the_judges(shared_data):
    task = humaneval(path=str(shared_data / "HumanEval.jsonl.gz"))
    place = next(i for i, problem in enumerate(task.problems) if problem.id == "HumanEval/38")
    cheat = "    return s\n\ndef encode_cyclic(s):\n    return s\n"  # its own encoder makes any decoder right
    assert verdict_of(task, completion(cheat), place).passed is False


def test_own_problems(tmp_path):
    call = {"prompt": "def f(x):\n", "entry_point": "f", "answer": "    return x + 1\n"}
    rows = [
        {"id": "a", **call, "tests": [{"kind": "call", "input": [1], "expected": 2}]},
        {"prompt": "Print 1.", "answer": "print(1)", "tests": [{"kind": "stdio", "input": "", "expected": "1\n"}]},
        {"prompt": "1 + 1?", "answer": "2", "level": "easy", "meta": {"topic": "sums"}},
    ]
    task = jsonl(path=write(tmp_path, *rows), name="mine")
    assert [problem.id for problem in task.problems] == ["a", "mine/1", "mine/2"]
    assert {problem.task for problem in task.problems} == {"mine"}
    assert task.problems[2].meta == {"topic": "sums"}
    assert verdict_of(task, completion("    return 1 + x\n"), 0).passed
    assert verdict_of(task, completion("```\nprint(1)\n```", "message"), 1).passed


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"answer": "1"}, "missing required field `prompt`"),
        ({"prompt": "?", "answer": "1", "colour": "red"}, "unknown field `colour`"),
        ({"prompt": "?"}, "neither tests nor an answer"),
        ({"prompt": "?", "tests": [{"kind": "call", "input": [1]}]}, "needs the problem's entry_point"),
        ({"prompt": "?", "entry_point": "f", "tests": [{"kind": "call", "input": 1}]}, "a list input"),
        ({"prompt": "?", "tests": [{"kind": "stdio", "input": 3}]}, "input of a stdio test is text"),
        ({"prompt": "?", "tests": [{"kind": "guess", "input": ""}]}, "kind"),
    ],
)
def test_problems_that_are_none(tmp_path, row, says):
    with pytest.raises(InputError, match=says) as error:
        jsonl(path=write(tmp_path, {"prompt": "?", "answer": "1"}, row))
    assert "row 2" in str(error.value)


def test_the_gold_solutions_that_ship_pass():
    ((task, verdicts),) = run_gold("first_steps", {}, Limits(), workers=2)
    assert len(verdicts) == len(first_steps().problems) == len(task.problems)
    assert [verdict.problem_id for verdict in verdicts if not verdict.passed] == []
